//! The folder of a run: which one it is, what lies where in it, and that only one process trains in it.

use anyhow::{Context, bail};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The folder in which runs get folders of their own.
const RUNS: &str = "runs";

/// A run's folder, locked as long as this lives.
pub(crate) struct RunDir {
    path: PathBuf,
    resumed: bool,
    _lock: File,
}

impl RunDir {
    /// The folder `path`, or for a run called `name` the next free one of `runs/NAME`, `runs/NAME-2`, ...; when
    /// resuming, the last of these that is there.
    pub(crate) fn open(path: Option<&Path>, name: &str, resume: bool) -> anyhow::Result<RunDir> {
        let path = match path {
            Some(path) => {
                if !resume && path.exists() {
                    bail!(
                        "the run folder `{0}` exists: resume it with `anemone train --resume --run-dir {0}`, or name another",
                        path.display()
                    );
                }
                path.to_path_buf()
            }
            None => {
                let folder =
                    |n: u64| Path::new(RUNS).join(if n == 1 { name.to_string() } else { format!("{name}-{n}") });
                let next = (1..).find(|&n| !folder(n).exists()).unwrap_or(1);
                folder(if resume { (next - 1).max(1) } else { next })
            }
        };
        fs::create_dir_all(&path).with_context(|| format!("create the run folder `{}`", path.display()))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("create `{}`", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another process is training in `{}`", path.display()),
            // Some file systems have no locks; the run is no worse off than without.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(RunDir { path, resumed: resume, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run was asked to go on.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.anemone")
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    pub(crate) fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.path.join("report.json")
    }
}

impl fmt::Display for RunDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
