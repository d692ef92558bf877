//! How a model is trained: steps, learning rate, numbers that are not finite, looks at the validation data.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::path::PathBuf;

/// How it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in all; a step is one forward and one backward pass over one batch.
    pub steps: u64,
    /// The learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lr: f32,
    /// Steps whose gradients are averaged into one update.
    #[schemars(range(min = 1))]
    pub accumulate: u64,
    /// The run ends early once the loss is below this; 0 for never.
    #[schemars(range(min = 0))]
    pub stop_below: f32,
    /// The largest norm of all gradients together; longer ones are shortened to it. 0 for any.
    #[schemars(range(min = 0))]
    pub clip: f32,
    /// What happens when a loss or a gradient is not finite.
    pub non_finite: NonFinite,
    /// The most updates in a row that may be left out before the run fails; 0 for any number.
    pub max_skips: u64,
    /// Whether the gradient of the input is computed too, which nobody uses.
    pub input_gradient: bool,
    /// The seed of all random numbers.
    pub seed: u64,
    /// A safetensors file or a checkpoint with weights to begin with; adapters that it does not have begin as
    /// always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<PathBuf>,
    /// What gradients are multiplied by before they enter fp16; divided out again before the update.
    pub loss_scale: LossScale,
    /// How the learning rate changes.
    pub schedule: ScheduleConfig,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            steps: 1000,
            lr: 0.1,
            accumulate: 1,
            stop_below: 0.0,
            clip: 0.0,
            non_finite: NonFinite::Auto,
            max_skips: 50,
            input_gradient: false,
            seed: 0,
            init_weights: None,
            loss_scale: LossScale::Fixed(1.0),
            schedule: ScheduleConfig::default(),
        }
    }
}

impl TrainConfig {
    /// The learning rate of the update that ends the batch of gradients which began at `step`.
    pub fn lr_at(&self, step: u64) -> f32 {
        // A schedule counts updates, the first being 0, so that accumulation changes nothing about it.
        let updates = |steps: u64| steps.div_ceil(self.accumulate) as f64;
        let s = &self.schedule;
        // A batch cut short by an earlier end of the run was an update too.
        let (index, warmup) = (updates(step), updates(s.warmup));
        if index < warmup {
            return (f64::from(self.lr) * (index + 1.0) / (warmup + 1.0)) as f32;
        }
        let length = updates(if s.steps == 0 { self.steps } else { s.steps }) - warmup;
        let done = if length > 0.0 { ((index - warmup) / length).min(1.0) } else { 1.0 };
        let left = match s.kind {
            ScheduleKind::Constant => return self.lr,
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        };
        let floor = f64::from(s.floor);
        (f64::from(self.lr) * (floor + (1.0 - floor) * left)) as f32
    }

    /// Whether steps and updates with numbers that are not finite are left out, instead of ending the run.
    pub fn skips_non_finite(&self) -> bool {
        match self.non_finite {
            NonFinite::Auto => matches!(self.loss_scale, LossScale::Dynamic(_)),
            NonFinite::Fail => false,
            NonFinite::Skip => true,
        }
    }

    /// What of it must not change between a checkpoint and the run that resumes it.
    pub(super) fn identity(&self) -> TrainConfig {
        let schedule = match self.schedule.kind {
            // Where the learning rate falls depends on when the run ends.
            ScheduleKind::Linear | ScheduleKind::Cosine if self.schedule.steps == 0 => {
                ScheduleConfig { steps: self.steps, ..self.schedule.clone() }
            }
            _ => self.schedule.clone(),
        };
        let non_finite = NonFinite::default();
        TrainConfig {
            steps: 0,
            stop_below: 0.0,
            non_finite,
            max_skips: 0,
            init_weights: None,
            schedule,
            ..self.clone()
        }
    }

    /// Checks what one value alone cannot say.
    pub(super) fn check(&self) -> Result<()> {
        let LossScale::Dynamic(DynamicScale { start, min, max, .. }) = self.loss_scale else { return Ok(()) };
        let (key, found, expected) = if max < min {
            ("max", max, format!("`loss_scale.min`, {min}, or more"))
        } else if !(min..=max).contains(&start) {
            ("start", start, format!("a number from {min} to {max}"))
        } else {
            return Ok(());
        };
        Err(Error::config(format!("`train.loss_scale.{key}` is {found}, expected {expected}")))
    }
}

/// What happens when a loss or a gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// `skip` with a dynamic loss scale, which goes too far now and then by design; `fail` with a fixed one.
    #[default]
    Auto,
    /// The run fails.
    Fail,
    /// The step is left out of its update, or the update left out, counted and reported.
    Skip,
}

/// What gradients are multiplied by before they enter fp16, where small ones would become 0: a number, or
/// `"dynamic"`, or a table of what differs from the default of [`DynamicScale`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, from = "WrittenScale")]
pub enum LossScale {
    /// Always the same.
    Fixed(f32),
    /// As large as goes.
    Dynamic(DynamicScale),
}

impl From<f32> for LossScale {
    fn from(scale: f32) -> LossScale {
        LossScale::Fixed(scale)
    }
}

/// A loss scale that is halved when gradients are not finite and doubled when they have been for long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicScale {
    /// The scale at the start.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub start: f32,
    /// The least scale.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub min: f32,
    /// The largest scale.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max: f32,
    /// It is doubled after so many updates without a number that is not finite.
    #[schemars(range(min = 1))]
    pub double_after: u64,
}

impl Default for DynamicScale {
    /// Start and pace of PyTorch's `GradScaler`.
    fn default() -> DynamicScale {
        DynamicScale { start: 65536.0, min: 1.0, max: 16_777_216.0, double_after: 2000 }
    }
}

/// A loss scale as one may write it.
#[derive(Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number above 0, \"dynamic\", or a table with `start`, `min`, `max`, \
                               `double_after`"
)]
enum WrittenScale {
    Number(#[schemars(extend("exclusiveMinimum" = 0))] f32),
    Word(Dynamic),
    Table(DynamicScale),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Dynamic {
    Dynamic,
}

impl From<WrittenScale> for LossScale {
    fn from(written: WrittenScale) -> LossScale {
        match written {
            WrittenScale::Number(scale) => LossScale::Fixed(scale),
            WrittenScale::Word(Dynamic::Dynamic) => LossScale::Dynamic(DynamicScale::default()),
            WrittenScale::Table(dynamic) => LossScale::Dynamic(dynamic),
        }
    }
}

/// How the learning rate changes from update to update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How it falls after the warm-up.
    pub kind: ScheduleKind,
    /// Steps in which it rises to `train.lr`, linearly, from a first value above 0.
    pub warmup: u64,
    /// Where it ends, as a share of `train.lr`.
    #[schemars(range(min = 0, max = 1))]
    pub floor: f32,
    /// The step, warm-up included, at which it has fallen to the floor; 0 for the end of the run.
    pub steps: u64,
}

/// How a learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Not at all.
    #[default]
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a period of a cosine.
    Cosine,
}

/// When the model is tried on the validation part of the data, where there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// At the first update after every so many steps, and at the end; 0 for only at the end.
    pub every: u64,
    /// On at most so many batches, spread over the part; 0 for all.
    pub batches: u64,
}

impl Default for EvalConfig {
    fn default() -> EvalConfig {
        EvalConfig { every: 200, batches: 50 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_scale_is_a_number_a_word_or_a_table() {
        let read = |text: &str| toml::from_str::<TrainConfig>(text).map(|t| t.loss_scale);
        let dynamic = DynamicScale::default();
        assert_eq!(read("loss_scale = 8").unwrap(), LossScale::Fixed(8.0));
        assert_eq!(read("loss_scale = \"dynamic\"").unwrap(), LossScale::Dynamic(dynamic.clone()));
        let table = LossScale::Dynamic(DynamicScale { start: 4.0, ..dynamic });
        assert_eq!(read("loss_scale = { start = 4.0 }").unwrap(), table);
        assert_eq!(toml::from_str::<TrainConfig>("[loss_scale]\nstart = 4.0").unwrap().loss_scale, table);
        for wrong in ["\"static\"", "{ begin = 4.0 }", "true"] {
            let e = read(&format!("loss_scale = {wrong}")).unwrap_err().to_string();
            assert!(e.contains("\"dynamic\"") && e.contains("double_after"), "{e}");
        }
    }

    #[test]
    fn a_schedule_counts_updates_whatever_their_steps() {
        let schedule = ScheduleConfig { kind: ScheduleKind::Cosine, warmup: 6, floor: 0.25, steps: 0 };
        let plain = TrainConfig { steps: 20, schedule: schedule.clone(), ..TrainConfig::default() };
        let schedule = ScheduleConfig { warmup: 18, ..schedule };
        let tripled = TrainConfig { steps: 60, accumulate: 3, schedule, ..TrainConfig::default() };
        for step in 0..20 {
            assert_eq!(tripled.lr_at(3 * step), plain.lr_at(step));
        }
        // A run that ended at step 7 had three updates, and goes on with the fourth.
        assert_eq!([7, 10].map(|step| tripled.lr_at(step)), [3, 4].map(|step| plain.lr_at(step)));
        assert_eq!((plain.lr_at(6), plain.lr_at(1000)), (0.1, 0.025));
        assert!((0..6).all(|step| plain.lr_at(step) < plain.lr_at(step + 1)));
        // A warm-up as long as the run, and longer, is no division by 0.
        let all_warmup = ScheduleConfig { warmup: 20, ..plain.schedule.clone() };
        let all_warmup = TrainConfig { schedule: all_warmup, ..plain };
        assert!((0..40).all(|step| all_warmup.lr_at(step).is_finite()));
    }
}
