//! What a run did: counters that survive restarts, and the report made of them.

use crate::clock::Estimate;
use crate::config::{Io, Strategy};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Counters of a run, over all its processes. Times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Wall time of training, from the trainer's making to now.
    pub wall_s: f64,
    /// Time in the device's kernels, copies to and from it included.
    pub device_s: f64,
    /// The part of it in copies to and from the device's buffers.
    pub copy_s: f64,
    /// Time in the host's part of steps.
    pub host_s: f64,
    /// Time of the host in work that nothing but gradients needs, most of it the products that give those of
    /// weights.
    pub gradients_s: f64,
    /// The part of it that was done while the device worked, and so is in `device_s`.
    pub gradients_hidden_s: f64,
    /// Time spent compiling, on whichever thread.
    pub compile_busy_s: f64,
    /// Time training stood still for a compile: what overlap did not hide.
    pub compile_wait_s: f64,
    /// Time the host took to try the model on the validation data.
    pub eval_s: f64,
    /// Time compiles took in the background while training went on.
    pub compile_hidden_s: f64,
    /// Compiles.
    pub n_compiles: u64,
    /// Device calls that failed and were repeated.
    pub n_retries: u64,
    /// Background compiles that failed and were made up for in the foreground.
    pub n_background_failures: u64,
    /// Changes from fp32 to fp16 inputs and outputs because the device refused fp32.
    pub n_io_fallbacks: u64,
    /// Steps and updates left out because numbers were not finite.
    pub n_skipped: u64,
    /// The steps at which the process was replaced by a new one.
    pub restarted_at: Vec<u64>,
    /// The steps at which a checkpoint was resumed, restarts included.
    pub resumed_at: Vec<u64>,
    /// The energy of the Neural Engine in joules, whoever else used it meanwhile included; `None` for what ran
    /// elsewhere and where the machine does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_energy_j: Option<f64>,
}

/// The final weights on the first batch that is trained on, computed on the host in f32.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The loss.
    pub loss: f32,
    /// For a target of classes: the share of those that count whose logit is the largest.
    pub accuracy: Option<f64>,
    /// For other targets: the first channels of the prediction's first row.
    pub prediction: Vec<f32>,
    /// The same of the target.
    pub target: Vec<f32>,
}

/// Weights on data they are not trained on, computed on the host in f32.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// The mean over the targets that count.
    pub loss: f64,
    /// For a target of classes: the share of those that count whose logit is the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Targets that count.
    pub n_targets: u64,
    /// Batches they were in.
    pub n_batches: u64,
    /// Whether no loss of this run was lower before.
    pub best: bool,
}

/// The lowest validation loss of a run so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done by then.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// The accuracy, where there is one.
    pub accuracy: Option<f64>,
}

/// What a run must keep, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The parameters.
    pub parameters: usize,
    /// What the optimizer remembers of them.
    pub optimizer: usize,
    /// The values of a step on the host, gradients included.
    pub step: usize,
}

impl Memory {
    /// All of it.
    pub fn total(self) -> usize {
        self.parameters + self.optimizer + self.step
    }
}

/// A run in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The chip and system of the machine, if whoever asked for the report has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The most memory this process has had at once, in bytes, if whoever asked for the report has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<usize>,
    /// What it must keep, as computed.
    pub memory: Memory,
    /// The device that ran it, and for the Neural Engine the form its programs had.
    pub device: String,
    /// How kernels got new weights.
    pub strategy: Strategy,
    /// Whether compiles overlapped training.
    pub overlap: bool,
    /// The element type of the programs' inputs and outputs.
    pub io: Io,
    /// The arithmetic of the device.
    pub arithmetic: String,
    /// Steps done.
    pub steps: u64,
    /// Updates done.
    pub updates: u64,
    /// Steps an update.
    pub accumulate: u64,
    /// Whether the loss fell below the threshold.
    pub converged: bool,
    /// The loss of the last step, before its update.
    pub last_loss: Option<f32>,
    /// The learning rate of the last step.
    pub lr: f32,
    /// What gradients were multiplied by at last before they entered fp16.
    pub loss_scale: f32,
    /// The counters.
    pub stats: Stats,
    /// Floating-point operations of a step in matrix products on the device.
    pub device_flops_per_step: u64,
    /// The same on the host.
    pub host_flops_per_step: u64,
    /// Elements of all parameters.
    pub n_params: usize,
    /// What the final weights do on what they were trained on.
    pub evaluation: Evaluation,
    /// What they do on the validation part, where there is one.
    pub validation: Option<Validation>,
    /// When the validation loss was lowest.
    pub best: Option<Best>,
    /// What the device's part would take on the engine of a chip, by published figures.
    pub estimate: Estimate,
}

impl Report {
    /// Wall time that was neither training, evaluation, nor waiting for a compile, in seconds.
    pub fn overhead_s(&self) -> f64 {
        let s = &self.stats;
        (s.wall_s - s.device_s - s.host_s - s.compile_wait_s - s.eval_s).max(0.0)
    }
}

/// `part / whole`, or 0 where there is no whole.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.stats;
        let steps = self.steps as f64;
        let ms = |seconds: f64| seconds * 1e3;
        let time = |f: &mut fmt::Formatter<'_>, what: &str, seconds: f64| {
            writeln!(f, "  {what:<22}{:>10.1} ms  {:>5.1} %", ms(seconds), 100.0 * ratio(seconds, s.wall_s))
        };
        let rate = |flops: u64, seconds: f64| ratio(flops as f64 * steps, seconds) / 1e9;
        if let Some(machine) = &self.machine {
            writeln!(f, "Machine                 {machine}")?;
        }
        writeln!(f, "Device                  {}", self.device)?;
        let overlap = if self.overlap { ", compiles overlap training" } else { "" };
        writeln!(f, "Weights                 {:?}{overlap}", self.strategy)?;
        writeln!(f, "Program inputs, outputs {:?}", self.io)?;
        writeln!(f, "Arithmetic              {}", self.arithmetic)?;
        writeln!(f, "Parameters              {}", self.n_params)?;
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        if let Some(peak) = self.peak_bytes {
            writeln!(f, "Memory, at most         {:.1} MiB", mib(peak))?;
        }
        let Memory { parameters, optimizer, step } = self.memory;
        writeln!(
            f,
            "  of it needed          {:.1} MiB: parameters {:.1}, optimizer {:.1}, a step on the host {:.1}",
            mib(self.memory.total()),
            mib(parameters),
            mib(optimizer),
            mib(step)
        )?;
        writeln!(f)?;
        writeln!(f, "Steps                   {}", self.steps)?;
        writeln!(f, "Updates                 {} ({} steps each)", self.updates, self.accumulate)?;
        writeln!(f, "Compiles                {}", s.n_compiles)?;
        if !s.restarted_at.is_empty() {
            writeln!(f, "Restarts                {} (at steps {})", s.restarted_at.len(), join(&s.restarted_at))?;
        }
        for (n, what) in [
            (s.n_io_fallbacks, "fallback from fp32 to fp16 inputs and outputs"),
            (s.n_retries, "device calls repeated after a failure"),
            (s.n_background_failures, "background compiles made up for"),
            (s.n_skipped, "steps or updates left out: not finite"),
        ] {
            if n > 0 {
                writeln!(f, "Recovered               {n} {what}")?;
            }
        }
        writeln!(f)?;
        writeln!(f, "Wall time             {:>12.1} ms", ms(s.wall_s))?;
        time(f, "device", s.device_s)?;
        time(f, "  of it copies", s.copy_s)?;
        time(f, "host", s.host_s)?;
        time(f, "  of it for gradients", s.gradients_s - s.gradients_hidden_s)?;
        time(f, "waiting for compiles", s.compile_wait_s)?;
        if s.eval_s > 0.0 {
            time(f, "evaluation", s.eval_s)?;
        }
        time(f, "everything else", self.overhead_s())?;
        writeln!(
            f,
            "Compiling             {:>12.1} ms, of which {:.1} ms behind training",
            ms(s.compile_busy_s),
            ms(s.compile_hidden_s)
        )?;
        if let Some(joules) = s.engine_energy_j {
            writeln!(f, "Neural Engine's energy{joules:>12.3} J, of all that used it meanwhile")?;
        }
        writeln!(f, "A step                {:>12.1} us", ratio((s.device_s + s.host_s) * 1e6, steps))?;
        writeln!(
            f,
            "Device products       {:>12.2} GFLOP/s ({} FLOP a step)",
            rate(self.device_flops_per_step, s.device_s),
            self.device_flops_per_step
        )?;
        writeln!(
            f,
            "Host products         {:>12.2} GFLOP/s ({} FLOP a step)",
            rate(self.host_flops_per_step, s.host_s + s.gradients_hidden_s),
            self.host_flops_per_step
        )?;
        writeln!(f)?;
        match self.last_loss {
            Some(loss) => writeln!(f, "Loss of the last step   {loss:.9}")?,
            None => writeln!(f, "Loss of the last step   none")?,
        }
        writeln!(f, "Learning rate, at last  {}", self.lr)?;
        writeln!(f, "Loss scale, at last     {}", self.loss_scale)?;
        let accuracy = |a: Option<f64>| a.map_or(String::new(), |a| format!(", accuracy {:.2} %", 100.0 * a));
        let e = &self.evaluation;
        writeln!(f, "Final weights, computed on the host in f32:")?;
        write!(f, "  first training batch  loss {:.9}{}", e.loss, accuracy(e.accuracy))?;
        if e.accuracy.is_none() {
            write!(f, "\n    prediction {}", numbers(&e.prediction))?;
            write!(f, "\n    target     {}", numbers(&e.target))?;
        }
        if let Some(v) = &self.validation {
            write!(f, "\n  validation            loss {:.9}{}", v.loss, accuracy(v.accuracy))?;
            write!(f, " ({} targets)", v.n_targets)?;
        }
        if let Some(b) = &self.best {
            write!(
                f,
                "\nBest validation         loss {:.9}{}, after {} steps",
                b.loss,
                accuracy(b.accuracy),
                b.step
            )?;
        }
        write!(f, "\n\n{}", self.estimate)
    }
}

fn join(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn numbers(xs: &[f32]) -> String {
    xs.iter().map(|x| format!("{x:>8.4}")).collect()
}
