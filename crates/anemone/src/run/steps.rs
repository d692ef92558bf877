//! The metrics of a run's steps in columns, and curves made of them that are short enough to draw.

use crate::train::Compiled;
use serde::Deserialize;

/// The metrics of a run, one element a step in each column, in the order of steps.
///
/// What a line lacks, or what was not finite, is NaN.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// The indices of the steps, from 0.
    pub step: Vec<u64>,
    /// When they ended, as Unix time in microseconds; 0 where that was not kept.
    pub time_us: Vec<u64>,
    /// The losses before each step's update.
    pub loss: Vec<f64>,
    /// Learning rates.
    pub lr: Vec<f64>,
    /// Norms of the gradients before clipping, on steps that ended an update.
    pub gradient_norm: Vec<f64>,
    /// What gradients were multiplied by before they entered fp16.
    pub loss_scale: Vec<f64>,
    /// Time of the device, copies included, in microseconds.
    pub device_us: Vec<f64>,
    /// The part of it in copies to and from the device's buffers.
    pub copy_us: Vec<f64>,
    /// Time of the host in microseconds.
    pub host_us: Vec<f64>,
    /// Time that training stood still for compiles, in microseconds.
    pub compile_wait_us: Vec<f64>,
    /// Compiles of the whole run so far.
    pub compiles: Vec<u64>,
    /// Updates done after each step.
    pub update: Vec<u64>,
    /// By how many updates the kernels' weights were behind.
    pub staleness: Vec<u64>,
    /// Looks at the validation data.
    pub validations: Vec<Validated>,
    /// Compiles with their times, in the order in which training had them.
    pub compiled: Vec<Compiled>,
    /// The steps left out of their update because their loss was not finite.
    pub skipped: Vec<u64>,
    /// The steps whose update was left out because of numbers that were not finite.
    pub updates_skipped: Vec<u64>,
    /// Steps during which device calls failed and were repeated, and how many calls.
    pub retries: Vec<(u64, u64)>,
}

/// A look at the validation data.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Steps done by then.
    pub step: u64,
    /// The mean loss.
    pub loss: f64,
    /// For classes, the share of those predicted rightly.
    pub accuracy: Option<f64>,
    /// Whether no loss was lower before.
    pub best: bool,
    /// What it took, in microseconds; NaN where that was not kept.
    pub eval_us: f64,
}

/// Neighbouring steps of a curve taken together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The mean of the steps' indices.
    pub step: f64,
    /// The mean of the finite values.
    pub mean: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest of them.
    pub max: f64,
}

/// A line of the metrics, as far as it is looked at.
#[derive(Deserialize)]
struct Line {
    step: u64,
    #[serde(default)]
    time_us: u64,
    loss: Option<f64>,
    lr: Option<f64>,
    gradient_norm: Option<f64>,
    loss_scale: Option<f64>,
    device_us: Option<f64>,
    copy_us: Option<f64>,
    host_us: Option<f64>,
    compile_wait_us: Option<f64>,
    #[serde(default)]
    compiles: u64,
    #[serde(default)]
    update: u64,
    #[serde(default)]
    staleness: u64,
    #[serde(default)]
    skipped: bool,
    #[serde(default)]
    update_skipped: bool,
    #[serde(default)]
    retries: u64,
    #[serde(default)]
    compiled: Vec<Compiled>,
    eval_us: Option<f64>,
    validation: Option<Validation>,
}

#[derive(Deserialize)]
struct Validation {
    loss: Option<f64>,
    accuracy: Option<f64>,
    #[serde(default)]
    best: bool,
}

impl Line {
    /// Whether one can count with its numbers: those of which there are none below zero are not, and whole numbers
    /// are so low that sums of them have room and that they are the same as floating-point numbers.
    fn is_possible(&self) -> bool {
        const END: u64 = 1 << f64::MANTISSA_DIGITS;
        let times = [self.device_us, self.copy_us, self.host_us, self.compile_wait_us, self.eval_us];
        let counts = [self.step, self.time_us, self.compiles, self.update, self.staleness, self.retries];
        times.into_iter().flatten().all(|us| us >= 0.0) && counts.into_iter().all(|n| n < END)
    }
}

impl Steps {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.step.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.step.is_empty()
    }

    /// Adds a line of the metrics; one that is none, that is impossible, or of a step that is there, is left out.
    pub(super) fn push(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        if !line.is_possible() || self.step.last().is_some_and(|&last| line.step <= last) {
            return;
        }
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        self.step.push(line.step);
        self.time_us.push(line.time_us);
        self.loss.push(number(line.loss));
        self.lr.push(number(line.lr));
        self.gradient_norm.push(number(line.gradient_norm));
        self.loss_scale.push(number(line.loss_scale));
        self.device_us.push(number(line.device_us));
        self.copy_us.push(number(line.copy_us));
        self.host_us.push(number(line.host_us));
        self.compile_wait_us.push(number(line.compile_wait_us));
        self.compiles.push(line.compiles);
        self.update.push(line.update);
        self.staleness.push(line.staleness);
        self.compiled.extend(line.compiled);
        if line.skipped {
            self.skipped.push(line.step);
        }
        if line.update_skipped {
            self.updates_skipped.push(line.step);
        }
        if line.retries > 0 {
            self.retries.push((line.step, line.retries));
        }
        if let Some(v) = line.validation {
            self.validations.push(Validated {
                step: line.step + 1,
                loss: number(v.loss),
                accuracy: v.accuracy,
                best: v.best,
                eval_us: number(line.eval_us),
            });
        }
    }

    pub(super) fn last_time_us(&self) -> u64 {
        self.time_us.last().copied().unwrap_or(0)
    }

    /// Steps a second, waiting included, over the latest of those that ended after `since_us`: the last ten
    /// seconds, or two steps if they took longer.
    pub(super) fn rate(&self, since_us: u64) -> Option<f64> {
        const LATELY_US: u64 = 10_000_000;
        let (last, n) = (self.last_time_us(), self.len());
        let from = since_us.max(last.saturating_sub(LATELY_US)).max(1);
        let begin = self.time_us.partition_point(|&t| t < from).min(n.saturating_sub(2));
        let first = *self.time_us.get(begin)?;
        (first >= since_us.max(1) && last > first).then(|| (n - 1 - begin) as f64 / (last - first) as f64 * 1e6)
    }

    /// The curve of a column over the steps, of at most `n` points: equal numbers of neighbouring steps make one.
    /// Steps of which the column has no number are left out.
    pub fn curve(&self, column: &[f64], n: usize) -> Vec<Bucket> {
        let size = self.len().div_ceil(n.max(1)).max(1);
        let mut buckets = Vec::with_capacity(n.min(self.len()));
        for (steps, values) in self.step.chunks(size).zip(column.chunks(size)) {
            let (mut sum, mut count, mut steps_sum) = (0.0, 0.0, 0.0);
            let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
            for (&step, &value) in steps.iter().zip(values).filter(|(_, value)| value.is_finite()) {
                sum += value;
                count += 1.0;
                steps_sum += step as f64;
                min = min.min(value);
                max = max.max(value);
            }
            if count > 0.0 {
                buckets.push(Bucket { step: steps_sum / count, mean: sum / count, min, max });
            }
        }
        buckets
    }
}
