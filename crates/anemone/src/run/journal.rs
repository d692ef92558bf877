//! What happens to a run beside its steps: one JSON object a line, which nothing takes away again.

use crate::config::{Io, Strategy};
use crate::run::{EVENTS, now_us};
use crate::{Error, Result, Trainer};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An event, as `events.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Unix time in microseconds.
    pub time_us: u64,
    /// Steps done by then.
    pub step: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Happened,
}

/// What happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happened {
    /// A process has begun to train.
    Started(Box<Process>),
    /// Something that training went on in spite of.
    Warning {
        /// In words.
        message: String,
    },
    /// The run was saved, and the process replaces itself by a new one.
    Restart {
        /// The reason.
        why: String,
    },
    /// Training is over.
    Finished {
        /// Whether the loss fell below the threshold.
        converged: bool,
    },
    /// The run was saved, and the process ended as it was asked to.
    Interrupted,
    /// The process ended with an error.
    Failed {
        /// What it said.
        error: String,
    },
    /// What a later version may tell.
    #[serde(other)]
    Other,
}

impl Happened {
    /// Whether it says where the process stands.
    pub(super) fn is_of_process(&self) -> bool {
        !matches!(self, Happened::Warning { .. } | Happened::Other)
    }
}

/// What a process says of itself and of what it trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The version of anemone.
    pub anemone: String,
    /// Chip and system of the machine, as far as known.
    pub machine: String,
    /// Whether it went on from a checkpoint.
    pub resumed: bool,
    /// Whether it took the place of a process whose compiles were spent.
    pub restarted: bool,
    /// Steps in all.
    pub n_steps: u64,
    /// Steps an update.
    pub accumulate: u64,
    /// The device that runs it.
    pub device: String,
    /// The device's arithmetic.
    pub arithmetic: String,
    /// How kernels get new weights.
    pub strategy: Strategy,
    /// Whether compiles overlap training.
    pub overlap: bool,
    /// The element type of the programs' inputs and outputs.
    pub io: Io,
    /// Elements of all parameters.
    pub n_params: usize,
    /// Targets a step.
    pub examples: u64,
    /// What these are: `rows` or `tokens`.
    pub examples_are: String,
    /// Floating-point operations of a step in matrix products on the device.
    pub device_flops_per_step: u64,
    /// The same on the host.
    pub host_flops_per_step: u64,
    /// Compiles of the run before this process.
    pub compiles: u64,
    /// The most compiles this process can make; `None` for any number.
    pub compile_budget: Option<u64>,
    /// Compiles that an update with new kernels takes.
    pub n_programs: u64,
}

impl Process {
    /// This process, about to train with `trainer`.
    pub fn this(trainer: &Trainer) -> Process {
        let (examples, examples_are) = trainer.examples();
        let description = trainer.plan();
        let config = trainer.config();
        Process {
            pid: std::process::id(),
            anemone: env!("CARGO_PKG_VERSION").into(),
            n_steps: config.train.steps,
            accumulate: config.train.accumulate,
            device: trainer.device().name(),
            arithmetic: trainer.device().arithmetic().into(),
            strategy: config.weights.strategy,
            overlap: config.weights.strategy == Strategy::Baked && config.weights.overlap,
            io: trainer.io(),
            n_params: trainer.n_params(),
            examples,
            examples_are: examples_are.into(),
            device_flops_per_step: description.device_flops,
            host_flops_per_step: description.host_flops,
            compiles: trainer.stats().n_compiles,
            compile_budget: trainer.compile_budget(),
            n_programs: trainer.n_programs(),
            ..Process::default()
        }
    }
}

impl Record {
    /// A line of the journal, if it is one.
    pub(super) fn parse(line: &[u8]) -> Option<Record> {
        serde_json::from_slice(line).ok()
    }
}

/// The journal of a run, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of the run in `folder`, or makes one.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(folder: &Path) -> Result<Journal> {
        let path = folder.join(EVENTS);
        let mut file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .map_err(|e| Error::io("open the journal", &path, e))?;
        // A process that was killed may have left part of a line, which must not spoil the next.
        let torn = ends_torn(&mut file).map_err(|e| Error::io("read the journal", &path, e))?;
        if torn {
            file.write_all(b"\n").map_err(|e| Error::io("write the journal", &path, e))?;
        }
        Ok(Journal { path, file })
    }

    /// Adds an event that happens now, after `step` steps. Other processes see it at once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn record(&mut self, step: u64, event: Happened) -> Result<()> {
        let failed = |e| Error::io("write the journal", &self.path, e);
        let mut line = serde_json::to_vec(&Record { time_us: now_us(), step, event })
            .map_err(|e| failed(std::io::Error::other(e)))?;
        line.push(b'\n');
        let n_before = self.file.metadata().map_err(failed)?.len();
        self.file.write_all(&line).map_err(|e| {
            // Part of the line may be there, to which the next one would be glued. Should it not go away either,
            // the first error is the one to report.
            let _ = self.file.set_len(n_before);
            failed(e)
        })
    }
}

/// Whether the last line of a file has no end.
fn ends_torn(file: &mut File) -> std::io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
