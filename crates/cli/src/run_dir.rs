//! The folder of a run: which one it is, what lies where in it, and that only one process trains in it.

pub(crate) use anemone::run::{BEST, CHECKPOINT, CONFIG, TOKENIZER, WEIGHTS};
use anemone::run::{LOCK, METRICS, REPORT};
use anyhow::{Context, bail};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder in which runs get folders of their own.
pub(crate) const RUNS: &str = "runs";

/// How long to try for the lock. Who looks at a run holds it for a moment; who trains, for longer than this.
const N_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// A run's folder, locked as long as this lives.
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// The folder that a run goes on in: `path`, or for a run called `name` the last of `runs/NAME`,
    /// `runs/NAME-2`, ... that is there.
    pub(crate) fn to_resume(path: Option<&Path>, name: &str) -> PathBuf {
        path.map_or_else(|| numbered(name, last_number(name).max(1)), Path::to_path_buf)
    }

    /// The folder to go on in, which need not be there.
    pub(crate) fn resume(path: PathBuf) -> anyhow::Result<RunDir> {
        fs::create_dir_all(&path).with_context(|| creating(&path))?;
        RunDir::lock(path)
    }

    /// A new folder: `path`, or for a run called `name` the one after the last of `runs/NAME`, `runs/NAME-2`, ...
    pub(crate) fn create(path: Option<&Path>, name: &str) -> anyhow::Result<RunDir> {
        let Some(path) = path else {
            fs::create_dir_all(RUNS).with_context(|| creating(Path::new(RUNS)))?;
            for path in (last_number(name) + 1..).map(|n| numbered(name, n)) {
                match fs::create_dir(&path) {
                    // Taken, perhaps by a process that was a moment faster.
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                    created => {
                        created.with_context(|| creating(&path))?;
                        return RunDir::lock(path);
                    }
                }
            }
            bail!("all run folders of `{name}` are taken: name one with --run-dir");
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| creating(parent))?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => bail!(
                "the run folder `{0}` exists: resume it with `anemone train --resume --run-dir {0}`, or name another",
                path.display()
            ),
            created => created.with_context(|| creating(path))?,
        }
        RunDir::lock(path.to_path_buf())
    }

    fn lock(path: PathBuf) -> anyhow::Result<RunDir> {
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).with_context(|| format!("create `{}`", lock_path.display()))?;
        let mut n_left = N_TRIES;
        while let Err(TryLockError::WouldBlock) = lock.try_lock() {
            // Other errors: some file systems have no locks; the run is no worse off than without.
            n_left -= 1;
            if n_left == 0 {
                bail!(
                    "another process is training in `{}`: wait for it, or name another folder with --run-dir",
                    path.display()
                );
            }
            std::thread::sleep(PAUSE);
        }
        Ok(RunDir { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join(CHECKPOINT)
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    pub(crate) fn weights(&self) -> PathBuf {
        self.path.join(WEIGHTS)
    }

    /// The weights of the lowest validation loss.
    pub(crate) fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    pub(crate) fn tokenizer(&self) -> PathBuf {
        self.path.join(TOKENIZER)
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.path.join(REPORT)
    }
}

/// Checks that there is a run to go on with: one that has a checkpoint, or was killed before its first one, which
/// may have been before it made its folder. Only who says what to train can mean that.
pub(crate) fn check_resumable(folder: &Path, is_named: bool) -> anyhow::Result<()> {
    if !folder.exists() && !is_named {
        bail!(
            "there is no run folder `{}` to resume: name the preset or configuration that may begin there",
            folder.display()
        );
    }
    let is_there = |name: &&str| folder.join(name).exists();
    if let (false, Some(result)) = (is_there(&CHECKPOINT), [WEIGHTS, REPORT].iter().find(|name| is_there(name))) {
        bail!(
            "`{0}` has a {result} but no {CHECKPOINT} to resume, and beginning again would overwrite it: \
             leave out --resume and name another folder, where `train.init_weights = \"{0}/{WEIGHTS}\"` \
             begins with the weights",
            folder.display()
        );
    }
    Ok(())
}

/// The folder of the `n`-th run of a name, counted from 1.
fn numbered(name: &str, n: u64) -> PathBuf {
    Path::new(RUNS).join(if n == 1 { name.to_string() } else { format!("{name}-{n}") })
}

/// The highest number of a run of a name, 0 if there is none. Those of runs that were deleted may be missing.
fn last_number(name: &str) -> u64 {
    let number = |entry: fs::DirEntry| {
        let file_name = entry.file_name();
        let after = file_name.to_str()?.strip_prefix(name)?;
        let n = if after.is_empty() { 1 } else { after.strip_prefix('-')?.parse::<u32>().ok()?.into() };
        // `NAME-02` is none of them.
        (Some(file_name.as_os_str()) == numbered(name, n).file_name()).then_some(n)
    };
    fs::read_dir(RUNS).into_iter().flatten().flatten().filter_map(number).max().unwrap_or(0)
}

fn creating(path: &Path) -> String {
    format!("create the run folder `{}`", path.display())
}

impl fmt::Display for RunDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
