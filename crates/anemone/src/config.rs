//! The configuration of a run: what `config.toml` says, with a default for everything.

use crate::data::{Data, Sine};
use crate::device::Select;
use crate::error::{Error, Result};
use crate::models::Mlp;
use crate::nn::Model;
use crate::optim::OptimizerConfig;
use crate::params::Init;
use anemone_mil::limits::Chip;
use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is trained.
    pub model: ModelConfig,
    /// On what.
    pub data: DataConfig,
    /// How.
    pub train: TrainConfig,
    /// What turns gradients into updates.
    pub optimizer: OptimizerConfig,
    /// How kernels get new weights.
    pub weights: WeightsConfig,
    /// Where.
    pub device: DeviceConfig,
    /// When progress is saved.
    pub checkpoint: CheckpointConfig,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelConfig {
    /// Linear layers with an activation between them.
    Mlp(Mlp),
}

impl Default for ModelConfig {
    fn default() -> ModelConfig {
        ModelConfig::Mlp(Mlp::default())
    }
}

impl ModelConfig {
    /// The model.
    pub fn model(&self) -> &dyn Model {
        match self {
            ModelConfig::Mlp(mlp) => mlp,
        }
    }
}

/// What it is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DataConfig {
    /// One batch of a sine, whose target is itself.
    Sine {
        /// Rows in a batch.
        rows: usize,
    },
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig::Sine { rows: 16 }
    }
}

/// How it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in all; a step is one forward and one backward pass over one batch.
    pub steps: u64,
    /// The learning rate.
    pub lr: f32,
    /// Steps whose gradients are averaged into one update.
    pub accumulate: u64,
    /// The run ends early once the loss is below this; 0 for never.
    pub stop_below: f32,
    /// What gradients are multiplied by before they enter fp16; divided out again before the update.
    pub loss_scale: f32,
    /// What happens when a loss or a gradient is not finite.
    pub non_finite: NonFinite,
    /// Whether the gradient of the input is computed too, which nobody uses.
    pub input_gradient: bool,
    /// The seed of all random numbers.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            steps: 1000,
            lr: 0.1,
            accumulate: 1,
            stop_below: 0.0,
            loss_scale: 1.0,
            non_finite: NonFinite::Fail,
            input_gradient: false,
            seed: 0,
        }
    }
}

/// What happens when a loss or a gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// The run fails.
    #[default]
    Fail,
    /// The step is left out of its update, counted and reported.
    Skip,
}

/// How kernels get new weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// Compiled in, or passed in.
    pub strategy: Strategy,
    /// With `baked`: compile the next kernels in the background while the present ones train on.
    pub overlap: bool,
    /// With `overlap`: what updates from kernels that are behind are multiplied by.
    pub stale_scale: f32,
    /// The element type of the programs' inputs and outputs. `fp32` falls back to `fp16` where it is refused.
    pub io: Io,
    /// The most compiles a process uses before it is replaced by a new one; 0 for what the device allows.
    pub compile_budget: usize,
}

impl Default for WeightsConfig {
    fn default() -> WeightsConfig {
        WeightsConfig {
            strategy: Strategy::Operand,
            overlap: true,
            stale_scale: 0.5,
            io: Io::Fp16,
            compile_budget: 0,
        }
    }
}

/// How a kernel gets new weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Weights are constants of the program, so that every update compiles again.
    Baked,
    /// Weights are inputs of the program, which is compiled once.
    #[default]
    Operand,
}

/// The element type of a program's inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// The host converts.
    #[default]
    Fp16,
    /// The program converts, by casts; not every chip takes that.
    Fp32,
}

/// Where it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceConfig {
    /// Which device.
    pub select: Select,
    /// The chip whose rules the software engine follows, `m1` to `m5`.
    pub chip: String,
    /// On the Neural Engine: whether programs that were compiled before get new weights by the donor patch, where that
    /// works; see [`apple::Options`](crate::device::apple::Options).
    pub donor_patch: bool,
    /// Faults on purpose, for tests; see [`Faults`](crate::device::Faults).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub inject: String,
}

impl Default for DeviceConfig {
    fn default() -> DeviceConfig {
        DeviceConfig { select: Select::Auto, chip: "m4".into(), donor_patch: false, inject: String::new() }
    }
}

impl DeviceConfig {
    /// As options for [`device::open`](crate::device::open).
    ///
    /// # Errors
    ///
    /// If the chip or a fault is unknown.
    pub fn options(&self) -> Result<crate::device::Options> {
        let chip = Chip::from_name(&self.chip).ok_or_else(|| {
            let names: Vec<&str> = Chip::ALL.iter().map(|c| c.as_str()).collect();
            Error::config(format!("chip `{}` is unknown, expected one of {}", self.chip, names.join(", ")))
        })?;
        Ok(crate::device::Options {
            select: self.select,
            chip,
            faults: self.inject.parse()?,
            apple: crate::device::apple::Options { chip, donor_patch: self.donor_patch, ..Default::default() },
        })
    }
}

/// When progress is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// A checkpoint is written at the first update after this many steps; 0 for only at restarts and at the end.
    pub every: u64,
}

impl Default for CheckpointConfig {
    fn default() -> CheckpointConfig {
        CheckpointConfig { every: 200 }
    }
}

/// The names of the presets.
pub const PRESETS: &[&str] = &["tiny"];

impl Config {
    /// The preset of that name.
    pub fn preset(name: &str) -> Option<Config> {
        match name {
            "tiny" => Some(Config::tiny()),
            _ => None,
        }
    }

    /// The job of the field's first program to train on the engine: `y = W2 relu(W1 x)`, 64 to 128 to 64 channels,
    /// 16 rows of a sine, an update every 10 steps, weights compiled in, compiles in the background.
    fn tiny() -> Config {
        let wave = |amplitude, frequency, phase| (amplitude, frequency, phase);
        let (a1, f1, p1) = wave(0.01, 1.3, 0.7);
        let (a2, f2, p2) = wave(0.01, 0.9, 1.1);
        Config {
            model: ModelConfig::Mlp(Mlp {
                init: vec![
                    Init::Sine { amplitude: a1, frequency: f1, phase: p1 },
                    Init::Cosine { amplitude: a2, frequency: f2, phase: p2 },
                ],
                ..Mlp::default()
            }),
            train: TrainConfig {
                steps: 2000,
                lr: 1.0,
                accumulate: 10,
                stop_below: 1e-6,
                input_gradient: true,
                ..TrainConfig::default()
            },
            weights: WeightsConfig {
                strategy: Strategy::Baked,
                io: Io::Fp32,
                compile_budget: 100,
                ..WeightsConfig::default()
            },
            ..Config::default()
        }
    }

    /// Reads a configuration; what it does not say keeps its default.
    ///
    /// # Errors
    ///
    /// If it is no TOML, or has a key or value that is none; with line and column.
    pub fn from_toml(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|e| Error::config(e.to_string().trim().to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML, complete.
    pub fn to_toml(&self) -> String {
        // Every part of it has a form in TOML.
        toml::to_string(self).unwrap_or_default()
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    ///
    /// If a value is out of its range; the message names the key.
    pub fn check(&self) -> Result<()> {
        let t = &self.train;
        let positive = |ok: bool, key: &str, found: &dyn std::fmt::Display, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::config(format!("`{key}` is {found}, expected {expected}"))),
        };
        positive(t.lr.is_finite() && t.lr > 0.0, "train.lr", &t.lr, "a number above 0")?;
        positive(t.accumulate > 0, "train.accumulate", &t.accumulate, "1 or more")?;
        positive(
            t.loss_scale.is_finite() && t.loss_scale > 0.0,
            "train.loss_scale",
            &t.loss_scale,
            "a number above 0",
        )?;
        positive(t.stop_below >= 0.0, "train.stop_below", &t.stop_below, "0 or more")?;
        let scale = self.weights.stale_scale;
        positive(scale.is_finite() && scale >= 0.0, "weights.stale_scale", &scale, "0 or more")?;
        let DataConfig::Sine { rows } = self.data;
        positive(rows > 0, "data.rows", &rows, "1 or more")?;
        self.optimizer.check()?;
        self.device.options()?;
        Ok(())
    }

    /// The data.
    pub fn data(&self) -> Box<dyn Data> {
        let ModelConfig::Mlp(mlp) = &self.model;
        let DataConfig::Sine { rows } = self.data;
        Box::new(Sine { inputs: mlp.inputs, outputs: mlp.outputs, rows })
    }

    /// What must not change between a checkpoint and the run that resumes it, as TOML. How long to train, when to
    /// stop, when to save and where to run may change.
    pub fn identity(&self) -> String {
        let fixed = Config {
            train: TrainConfig { steps: 0, stop_below: 0.0, ..self.train.clone() },
            weights: WeightsConfig { compile_budget: 0, ..self.weights.clone() },
            device: DeviceConfig::default(),
            checkpoint: CheckpointConfig::default(),
            ..self.clone()
        };
        fixed.to_toml()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_back_as_it_was_written() {
        for config in [Config::default(), Config::tiny()] {
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[train]\nlr = -1.0", "train.lr"),
            ("[train]\nlearning_rate = 1.0", "learning_rate"),
            ("[train]\naccumulate = 0", "train.accumulate"),
            ("[device]\nchip = \"m9\"", "m9"),
            ("[model]\nkind = \"gru\"", "gru"),
            ("[data]\nkind = \"sine\"\nrows = 0", "data.rows"),
            ("[optimizer]\nkind = \"sgd\"\nmomentum = 1.5", "optimizer.momentum"),
            ("[optimizer]\nkind = \"adamw\"\nbeta = 0.5", "beta"),
        ] {
            let e = Config::from_toml(text).unwrap_err().to_string();
            assert!(e.contains(named), "{text}: {e}");
        }
    }

    #[test]
    fn length_and_device_are_no_part_of_the_identity() {
        let a = Config::tiny();
        let mut b = a.clone();
        b.train.steps = 5;
        b.device.chip = "m1".into();
        b.checkpoint.every = 1;
        assert_eq!(a.identity(), b.identity());
        b.train.lr = 0.5;
        assert_ne!(a.identity(), b.identity());
    }
}
