//! The folder of a run, read while the run goes on or after it: configuration, metrics, events, and the run's
//! state.
//!
//! Reading changes nothing in the folder and needs nothing of the process that trains, so any number of processes
//! can do it, over a network too. `docs/metrics.md` says what the files have.

mod journal;
mod steps;
mod tail;

use crate::{Config, Error, Result};
pub use journal::{Happened, Journal, Process, Record};
use serde::Serialize;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
pub use steps::{Bucket, Steps, Validated};
use tail::Tail;

/// The name of a run's configuration in its folder.
pub const CONFIG: &str = "config.toml";
/// That of its metrics, one line a step.
pub const METRICS: &str = "metrics.jsonl";
/// That of its events, one line each.
pub const EVENTS: &str = "events.jsonl";
/// That of its report, which a run writes when it has finished.
pub const REPORT: &str = "report.json";
/// That of its last checkpoint.
pub const CHECKPOINT: &str = "checkpoint.anemone";
/// That of its final weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// That of the weights of the lowest validation loss.
pub const BEST: &str = "best.safetensors";
/// That of what turns text into its tokens.
pub const TOKENIZER: &str = "tokenizer.json";
/// That of the file that the process which trains keeps locked.
pub const LOCK: &str = "lock";

/// How long a process that replaces itself may take until the new one holds the lock.
const RESTART: Duration = Duration::from_secs(10);
/// How long a process holds the lock after it has said how it ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a process may be silent on a file system without locks until it counts as gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A run, as its folder tells it.
///
/// ```
/// use anemone::run::{Run, State};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("config.toml"), "[train]\nsteps = 2\n").unwrap();
/// let lines = "{\"step\":0,\"loss\":0.5}\n{\"step\":1,\"loss\":0.25}\n{\"step\":2,\"lo";
/// std::fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
/// let run = Run::open(folder.path())?;
/// assert_eq!(run.steps().loss, [0.5, 0.25]);
/// assert_eq!(run.config().unwrap().train.steps, 2);
/// assert_eq!(run.state(), &State::Killed);
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    config: Option<Config>,
    config_toml: String,
    metrics: Tail,
    steps: Steps,
    journal: Tail,
    events: Vec<Record>,
    state: State,
    report: Option<serde_json::Value>,
    /// When the report was written that has been read.
    reported: Option<SystemTime>,
}

/// What a run is doing, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "lowercase")]
pub enum State {
    /// No process has trained in the folder: the model was imported, or the folder is just being made.
    Untrained,
    /// A process holds the run, but has made no step yet.
    Starting,
    /// A process trains.
    Running,
    /// The process replaces itself by a new one, for this reason.
    Restarting(String),
    /// Trained to the end.
    Finished,
    /// Stopped on request, after saving.
    Interrupted,
    /// Stopped by an error.
    Failed(String),
    /// The process is gone without having said why: killed, crashed, or the machine went down.
    Killed,
}

impl State {
    /// Whether there is a process, so that more is to come.
    pub fn is_alive(&self) -> bool {
        matches!(self, State::Starting | State::Running | State::Restarting(_))
    }

    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Untrained => "untrained",
            State::Starting => "starting",
            State::Running => "running",
            State::Restarting(_) => "restarting",
            State::Finished => "finished",
            State::Interrupted => "interrupted",
            State::Failed(_) => "failed",
            State::Killed => "killed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Restarting(why) | State::Failed(why) => write!(f, "{}: {why}", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

impl Run {
    /// Opens the folder at `path` and reads what is there.
    ///
    /// # Errors
    ///
    /// If there is no folder with a configuration or metrics in it, or a file cannot be read.
    pub fn open(path: &Path) -> Result<Run> {
        if ![CONFIG, METRICS, EVENTS, LOCK].iter().any(|name| path.join(name).exists()) {
            return Err(Error::config(format!(
                "`{}` is no folder of a run: expected one with {CONFIG} or {METRICS} in it, as `anemone train` makes them",
                path.display()
            )));
        }
        let mut run = Run {
            path: path.to_path_buf(),
            config: None,
            config_toml: String::new(),
            metrics: Tail::new(path.join(METRICS)),
            steps: Steps::default(),
            journal: Tail::new(path.join(EVENTS)),
            events: Vec::new(),
            state: State::Untrained,
            report: None,
            reported: None,
        };
        run.refresh()?;
        Ok(run)
    }

    /// Reads what has come since. Only new bytes are read, unless the run was resumed from an earlier step; a last
    /// line that is not whole waits for the next time.
    ///
    /// # Errors
    ///
    /// If a file cannot be read. Lines that are none of anemone's are left out.
    pub fn refresh(&mut self) -> Result<()> {
        let toml = read(&self.path.join(CONFIG))?;
        if toml != self.config_toml {
            self.config = Config::from_toml(&toml).ok();
            self.config_toml = toml;
        }
        // The lock first: what a process says at its end it says before it lets go of it.
        let looked_us = now_us();
        let lock = lock_of(&self.path.join(LOCK))?;
        let news = self.journal.read()?;
        if news.again {
            self.events.clear();
        }
        self.events.extend(news.lines().filter_map(Record::parse));
        let news = self.metrics.read()?;
        if news.again {
            self.steps = Steps::default();
        }
        news.lines().for_each(|line| self.steps.push(line));
        self.state = self.judge(lock, looked_us);
        self.read_report()
    }

    /// What the state is, by who held the lock and by what was said last.
    fn judge(&self, lock: Lock, looked_us: u64) -> State {
        let ago = |time_us: u64| Duration::from_micros(looked_us.saturating_sub(time_us));
        let last = self.events.iter().rev().find(|e| e.event.is_of_process());
        let Some(Record { time_us, event, .. }) = last else {
            return match lock {
                Lock::Held => State::Starting,
                // From before events were kept.
                _ if self.path.join(REPORT).exists() => State::Finished,
                _ if !self.steps.is_empty() => State::Killed,
                _ => State::Untrained,
            };
        };
        let held = lock == Lock::Held;
        match event {
            Happened::Started(_) => {
                let is_alive = match lock {
                    Lock::Held => true,
                    // It may have begun after the look at the lock.
                    Lock::Free => (looked_us..=now_us()).contains(time_us),
                    // Where a file system has no locks, who writes is alive.
                    Lock::Unknown => ago(self.steps.last_time_us().max(*time_us)) < SILENCE,
                };
                match is_alive {
                    true if self.steps.last_time_us() >= *time_us => State::Running,
                    true => State::Starting,
                    false => State::Killed,
                }
            }
            Happened::Restart { why } if held || ago(*time_us) < RESTART => State::Restarting(why.clone()),
            // Somebody goes on with it. A process that ends holds the lock for a moment after its last words.
            _ if held && ago(*time_us) > LAST_WORDS => State::Starting,
            Happened::Finished { .. } => State::Finished,
            Happened::Interrupted => State::Interrupted,
            Happened::Failed { error } => State::Failed(error.clone()),
            Happened::Restart { .. } | Happened::Warning { .. } | Happened::Other => State::Killed,
        }
    }

    fn read_report(&mut self) -> Result<()> {
        let path = self.path.join(REPORT);
        let written = fs::metadata(&path).and_then(|m| m.modified()).ok();
        if written != self.reported {
            self.report = serde_json::from_str(&read(&path)?).ok();
            self.reported = written;
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The configuration; `None` if it is not there yet, or none that this version reads.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The text of the configuration, empty if it is not there yet.
    pub fn config_toml(&self) -> &str {
        &self.config_toml
    }

    /// What the run was doing when it was read last.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The metrics of the steps, in their order.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// What happened, in its order. What a resumed run did again is there twice.
    pub fn events(&self) -> &[Record] {
        &self.events
    }

    /// What the last process that trained said of itself.
    pub fn process(&self) -> Option<&Process> {
        self.events.iter().rev().find_map(|e| match &e.event {
            Happened::Started(process) => Some(&**process),
            _ => None,
        })
    }

    /// The final report, once there is one; after a resumption that of the time before.
    pub fn report(&self) -> Option<&serde_json::Value> {
        self.report.as_ref()
    }

    /// When something was last heard of the run, as Unix time in microseconds; for a run of before times were
    /// kept, when its metrics or configuration were written.
    pub fn heard_us(&self) -> Option<u64> {
        let said = self.events.last().map_or(0, |e| e.time_us).max(self.steps.last_time_us());
        let written = || {
            [METRICS, CONFIG].iter().find_map(|name| {
                let time = fs::metadata(self.path.join(name)).ok()?.modified().ok()?;
                Some(time.duration_since(UNIX_EPOCH).ok()?.as_micros() as u64)
            })
        };
        if said > 0 { Some(said) } else { written() }
    }

    /// Steps a second lately, waiting and validation included; `None` before there are two steps of one process.
    pub fn steps_per_second(&self) -> Option<f64> {
        let since_us = self.events.iter().rev().find_map(|e| match e.event {
            Happened::Started(_) => Some(e.time_us),
            _ => None,
        });
        self.steps.rate(since_us.unwrap_or(0))
    }
}

/// The time as metrics and events have it: Unix time in microseconds.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64)
}

/// Whether a process holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Held,
    Free,
    /// The file system has no locks.
    Unknown,
}

/// A look at the lock. It is held for a moment, which is why who takes it for good must try more than once.
fn lock_of(path: &Path) -> Result<Lock> {
    match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Lock::Free),
        Err(e) => Err(Error::io("open", path, e)),
        Ok(file) => Ok(match file.try_lock_shared() {
            Ok(()) => Lock::Free,
            Err(TryLockError::WouldBlock) => Lock::Held,
            Err(TryLockError::Error(_)) => Lock::Unknown,
        }),
    }
}

/// The text of a file, empty if there is none.
fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|e| Error::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests;
