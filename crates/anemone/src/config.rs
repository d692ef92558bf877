//! The configuration of a run: what `config.toml` says, with a default for everything.

mod comments;
mod data;
mod presets;
mod schema;
mod train;

use crate::data::{Data, Layout};
use crate::device::{Arithmetic, Select};
use crate::error::{Error, Result};
use crate::models::{Convnet, Gpt, Llama, Mlp, determine};
use crate::nn::{Decoder, Loss, Model};
use crate::optim::OptimizerConfig;
use anemone_mil::ir::TensorType;
use anemone_mil::limits::Chip;
pub use data::{DataConfig, DigitsConfig, ShakespeareConfig, TensorsConfig, TextConfig, TokensConfig};
pub use presets::PRESETS;
pub use schema::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use train::*;

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is trained.
    pub model: ModelConfig,
    /// What it is trained on.
    pub data: DataConfig,
    /// How it is trained.
    pub train: TrainConfig,
    /// How it is tried meanwhile.
    pub eval: EvalConfig,
    /// What turns gradients into updates.
    pub optimizer: OptimizerConfig,
    /// How kernels get new weights.
    pub weights: WeightsConfig,
    /// What runs where.
    pub plan: PlanConfig,
    /// Where it runs.
    pub device: DeviceConfig,
    /// When progress is saved.
    pub checkpoint: CheckpointConfig,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelConfig {
    /// Linear layers with an activation between them.
    Mlp(Mlp),
    /// Convolutions and a classifier.
    Convnet(Convnet),
    /// The transformer of GPT-2.
    Gpt(Gpt),
    /// The transformer of Llama.
    Llama(Llama),
}

impl Default for ModelConfig {
    /// One for any number of channels that the data does not determine.
    fn default() -> ModelConfig {
        ModelConfig::Mlp(Mlp { inputs: 64, outputs: 64, ..Mlp::default() })
    }
}

impl ModelConfig {
    /// The model for this data, whose sizes stand where the configuration leaves them out.
    ///
    /// # Errors
    ///
    /// If the configuration's sizes are too small for the data, or neither has them.
    pub fn model(&self, data: &dyn Data) -> Result<Box<dyn Model>> {
        Ok(match self.determined(data)? {
            ModelConfig::Mlp(mlp) => Box::new(mlp),
            ModelConfig::Convnet(convnet) => Box::new(convnet),
            ModelConfig::Gpt(gpt) => Box::new(gpt),
            ModelConfig::Llama(llama) => Box::new(llama),
        })
    }

    /// The configuration with the sizes of this data where it leaves them out.
    ///
    /// # Errors
    ///
    /// As [`ModelConfig::model`].
    pub fn determined(&self, data: &dyn Data) -> Result<ModelConfig> {
        let size = |ty: TensorType, axis: usize| ty.fixed_shape().and_then(|shape| shape.get(axis).copied());
        let n_classes = data.n_classes();
        let mut config = self.clone();
        match &mut config {
            ModelConfig::Mlp(mlp) => {
                determine(&mut mlp.inputs, "model.inputs", size(data.input(), 1))?;
                let n_outputs = match mlp.loss {
                    Loss::CrossEntropy => n_classes,
                    Loss::Mse => size(data.target(), 1),
                };
                determine(&mut mlp.outputs, "model.outputs", n_outputs)?;
            }
            ModelConfig::Convnet(convnet) => determine(&mut convnet.classes, "model.classes", n_classes)?,
            ModelConfig::Gpt(gpt) => {
                determine(&mut gpt.vocabulary, "model.vocabulary", n_classes)?;
                determine(&mut gpt.context, "model.context", size(data.input(), 1))?;
            }
            ModelConfig::Llama(llama) => {
                determine(&mut llama.vocabulary, "model.vocabulary", n_classes)?;
                determine(&mut llama.context, "model.context", size(data.input(), 1))?;
            }
        }
        Ok(config)
    }

    /// The model as one that goes token by token; `None` if it is none.
    pub fn decoder(&self) -> Option<Box<dyn Decoder>> {
        match self {
            ModelConfig::Mlp(_) | ModelConfig::Convnet(_) => None,
            ModelConfig::Gpt(gpt) => Some(Box::new(gpt.clone())),
            ModelConfig::Llama(llama) => Some(Box::new(llama.clone())),
        }
    }

    /// How it wants its batches.
    pub fn layout(&self) -> Layout {
        match self {
            ModelConfig::Mlp(_) => Layout::Columns,
            ModelConfig::Convnet(_) => Layout::Images,
            ModelConfig::Gpt(_) | ModelConfig::Llama(_) => Layout::Tokens,
        }
    }
}

/// How kernels get new weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// Compiled in, or passed in.
    pub strategy: Strategy,
    /// With `baked`: compile the next kernels in the background while the present ones train on.
    pub overlap: bool,
    /// With `overlap`: what the update is multiplied by whose gradients were computed while the next kernels were
    /// compiled, from weights that lack the update before it.
    #[schemars(range(min = 0))]
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

/// What runs where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlanConfig {
    /// Where the gradients of weights are computed: products of two activations, summed over the batch.
    pub weight_gradients: Place,
    /// Whether the backward pass computes activations again instead of keeping them: less memory, more work.
    pub recompute: bool,
}

/// Where something is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On the host, in f32, while the device computes what comes next.
    #[default]
    Host,
    /// On the device, in fp16.
    Device,
}

/// How a kernel gets new weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Weights are constants of the program, so that every update compiles again.
    Baked,
    /// Weights are inputs of the program, which is compiled once.
    #[default]
    Operand,
}

/// The element type of a program's inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// The host converts.
    #[default]
    Fp16,
    /// The program converts, by casts; not every chip takes that.
    Fp32,
}

/// Where it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceConfig {
    /// Which device.
    pub select: Select,
    /// The chip whose rules the software engine follows.
    #[schemars(extend("enum" = Chip::ALL.map(Chip::as_str)))]
    pub chip: String,
    /// How the software engine rounds.
    pub arithmetic: Arithmetic,
    /// On the Neural Engine: whether programs that were compiled before get new weights by the donor patch, where
    /// that works.
    ///
    /// See [`apple::Options`](crate::device::apple::Options).
    pub donor_patch: bool,
    /// Faults on purpose, for tests, as `anemone train --inject` takes them.
    ///
    /// See [`Faults`](crate::device::Faults).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub inject: String,
}

impl Default for DeviceConfig {
    fn default() -> DeviceConfig {
        DeviceConfig {
            select: Select::Auto,
            chip: "m4".into(),
            arithmetic: Arithmetic::Ieee,
            donor_patch: false,
            inject: String::new(),
        }
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
            arithmetic: self.arithmetic,
            faults: self.inject.parse()?,
            apple: crate::device::apple::Options { chip, donor_patch: self.donor_patch, ..Default::default() },
        })
    }
}

/// When progress is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

impl Config {
    /// Reads a configuration; what it does not say keeps its default.
    ///
    /// # Errors
    ///
    /// If it is no TOML, or has a key or value that is none; with the line, and the nearest key or value there is.
    pub fn from_toml(text: &str) -> Result<Config> {
        schema::check(text).map_err(|finding| Error::config(finding.with_line(text)))?;
        let config: Config = toml::from_str(text).map_err(|e| Error::config(e.to_string().trim().to_string()))?;
        config.check_together()?;
        Ok(config)
    }

    /// The configuration as TOML, complete; empty if [`Config::check`] says that it has no form in TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    ///
    /// If a value is out of its range; the message names the key.
    pub fn check(&self) -> Result<()> {
        // A path that is no Unicode has no form in TOML.
        let text = toml::to_string(self).map_err(|e| Error::config(format!("the configuration as TOML: {e}")))?;
        schema::check(&text).map_err(|finding| Error::config(finding.message))?;
        self.check_together()
    }

    /// Checks what one value alone cannot say.
    fn check_together(&self) -> Result<()> {
        self.train.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.device.options().map(|_| ())
    }

    /// What must not change between a checkpoint and the run that resumes it, as TOML. How long to train, when to
    /// stop, when to save and where to run may change; in which arithmetic may not.
    pub fn identity(&self) -> String {
        let mut weights = WeightsConfig { compile_budget: 0, ..self.weights.clone() };
        if weights.strategy == Strategy::Operand {
            // Without compiles there is nothing to overlap.
            let WeightsConfig { overlap, stale_scale, .. } = WeightsConfig::default();
            (weights.overlap, weights.stale_scale) = (overlap, stale_scale);
        }
        let fixed = Config {
            train: self.train.identity(),
            eval: EvalConfig::default(),
            weights,
            device: DeviceConfig { arithmetic: self.device.arithmetic, ..DeviceConfig::default() },
            checkpoint: CheckpointConfig::default(),
            ..self.clone()
        };
        fixed.to_toml()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Part;
    use anemone_mil::ir::DType;

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_unicode_is_refused_instead_of_writing_an_empty_configuration() {
        use std::os::unix::ffi::OsStrExt;
        let mut config = Config::default();
        config.train.init_weights = Some(std::ffi::OsStr::from_bytes(b"w\xff.safetensors").into());
        assert!(config.check().unwrap_err().to_string().contains("invalid UTF-8"), "{:?}", config.check());
    }

    #[test]
    fn a_configuration_is_read_back_as_it_was_written() {
        let mut dynamic = Config::preset("tiny").unwrap();
        dynamic.train.loss_scale = LossScale::Dynamic(DynamicScale::default());
        for config in [Config::default(), Config::preset("tiny").unwrap(), dynamic] {
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
            ("[optimizer]\nkind = \"muon\"\nadamw_lr = 0", "optimizer.adamw_lr"),
            ("[train]\nclip = -1.0", "train.clip"),
            ("[train.schedule]\nfloor = 2.0", "train.schedule.floor"),
            ("[train.schedule]\nkind = \"step\"", "cosine"),
            ("[train.loss_scale]\nstart = 0.5", "train.loss_scale.start"),
            ("[train.loss_scale]\nmin = 0", "train.loss_scale.min"),
            ("[train.loss_scale]\nmax = 0.5", "train.loss_scale.max"),
            ("[train.loss_scale]\ndouble_after = 0", "train.loss_scale.double_after"),
            ("[eval]\nbatch = 1", "batch"),
        ] {
            let e = Config::from_toml(text).unwrap_err().to_string();
            assert!(e.contains(named), "{text}: {e}");
        }
    }

    #[test]
    fn every_model_is_read_back_as_it_was_written() {
        for kind in ["mlp", "convnet", "gpt", "llama"] {
            for more in ["", "lora = { rank = 4, targets = [\"q_proj\"] }"] {
                let text = format!("[model]\nkind = \"{kind}\"\n{more}");
                let config = Config::from_toml(&text).unwrap();
                assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config, "{text}");
                assert_eq!(config.to_toml().contains("rank = 4"), !more.is_empty(), "{text}");
            }
            let e = Config::from_toml(&format!("[model]\nkind = \"{kind}\"\nwiden = 1")).unwrap_err().to_string();
            assert!(e.contains("widen"), "{kind}: {e}");
        }
        let text = "[model]\nkind = \"convnet\"\nreduction = \"average\"\n\
            blocks = [{ channels = 8, activation = \"gelu_tanh\" }, { groups = 2, pool = { kind = \"average\" } }]";
        let config = Config::from_toml(text).unwrap();
        let ModelConfig::Convnet(convnet) = &config.model else { panic!("{:?}", config.model) };
        assert_eq!((convnet.blocks[0].channels, convnet.blocks[1].groups), (8, 2));
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }

    /// Tokens or images of so many classes.
    struct Classes(Vec<usize>, usize);

    impl Data for Classes {
        fn input(&self) -> TensorType {
            let dtype = if self.0.len() == 2 { DType::Int32 } else { DType::Fp32 };
            TensorType::new(dtype, &self.0)
        }

        fn target(&self) -> TensorType {
            // A class for each token, image or column.
            let shape = match self.0[..] {
                [n, s] => [n, s],
                [1, _, 1, n] => [1, n],
                _ => [self.0[0], 1],
            };
            TensorType::new(DType::Int32, &shape)
        }

        fn n_classes(&self) -> Option<usize> {
            Some(self.1)
        }

        fn batch(&mut self, _: Part, _: u64, _: &mut [f32], _: &mut [f32]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_model_leaves_out_the_data_determines() {
        for (kind, shape, more) in [
            ("mlp", vec![1, 64, 1, 5], "loss = \"cross_entropy\""),
            ("convnet", vec![5, 1, 8, 8], ""),
            ("gpt", vec![5, 16], "n_layers = 1"),
            ("llama", vec![5, 16], "n_layers = 1"),
        ] {
            let config =
                |more: &str| Config::from_toml(&format!("[model]\nkind = \"{kind}\"\n{more}")).unwrap().model;
            let data = Classes(shape, 10);
            let model = config(more).model(&data).unwrap();
            let built = crate::nn::Graph::build(&*model, data.input(), data.target()).unwrap();
            let (last, _) = built.params.iter().rfind(|(spec, _)| spec.decay).unwrap();
            let n_classes = match kind {
                "gpt" => built.params[0].0.shape[0],
                _ => last.shape[0],
            };
            assert_eq!(n_classes, 10, "{kind}");
            let key = match kind {
                "mlp" => "outputs",
                "convnet" => "classes",
                _ => "vocabulary",
            };
            let small = config(&format!("{more}\n{key} = 9"));
            let Err(e) = small.model(&data) else { panic!("{kind} takes 9 classes for 10") };
            assert!(e.is_config() && e.to_string().contains(&format!("model.{key}")), "{e}");
            assert!(config(&format!("{more}\n{key} = 11")).model(&data).is_ok());
            assert_eq!(config(more).decoder().is_some(), ["gpt", "llama"].contains(&kind));
        }
        let long = Config::from_toml("[model]\nkind = \"gpt\"\ncontext = 8").unwrap().model;
        assert!(long.model(&Classes(vec![5, 16], 10)).is_err_and(|e| e.to_string().contains("model.context")));
    }

    #[test]
    fn length_and_device_are_no_part_of_the_identity() {
        let a = Config::preset("tiny").unwrap();
        let mut b = a.clone();
        b.train.steps = 5;
        b.device.chip = "m1".into();
        b.checkpoint.every = 1;
        assert_eq!(a.identity(), b.identity());
        b.eval.every = 7;
        b.train.max_skips = 1;
        assert_eq!(a.identity(), b.identity());
        b.device.arithmetic = Arithmetic::Engine;
        assert_ne!(a.identity(), b.identity());
        b.device.arithmetic = Arithmetic::Ieee;
        b.train.lr = 0.5;
        assert_ne!(a.identity(), b.identity());
    }

    #[test]
    fn overlap_is_part_of_the_identity_only_where_something_overlaps() {
        let identity = |strategy, overlap, stale_scale| {
            let weights = WeightsConfig { strategy, overlap, stale_scale, ..WeightsConfig::default() };
            Config { weights, ..Config::preset("tiny").unwrap() }.identity()
        };
        let (operand, baked) = (Strategy::Operand, Strategy::Baked);
        assert_eq!(identity(operand, true, 0.5), identity(operand, false, 1.0));
        assert_ne!(identity(baked, true, 0.5), identity(baked, false, 0.5));
        assert_ne!(identity(baked, true, 0.5), identity(baked, true, 1.0));
    }

    #[test]
    fn length_is_part_of_the_identity_where_the_learning_rate_depends_on_it() {
        let identity = |kind, steps, schedule_steps| {
            let mut config = Config::preset("tiny").unwrap();
            config.train.steps = steps;
            config.train.schedule.kind = kind;
            config.train.schedule.steps = schedule_steps;
            config.identity()
        };
        assert_eq!(identity(ScheduleKind::Constant, 10, 0), identity(ScheduleKind::Constant, 20, 0));
        assert_ne!(identity(ScheduleKind::Cosine, 10, 0), identity(ScheduleKind::Cosine, 20, 0));
        assert_eq!(identity(ScheduleKind::Cosine, 10, 20), identity(ScheduleKind::Cosine, 20, 0));
    }
}
