//! Runs for tests: from the first step to the last, with a new device wherever a real run gets a new process.
#![allow(dead_code)] // Each test file uses a part of it.

pub(crate) mod suite;

use anemone::checkpoint::Checkpoint;
use anemone::config::{Config, Io, ModelConfig, Strategy};
use anemone::device::{self, Device};
use anemone::mil::ir::TensorType;
use anemone::models::Mlp;
use anemone::train::{Event, StepReport};
use anemone::weights_file::NamedTensor;
use anemone::{Report, Result, Trainer};
use std::sync::Arc;

/// The number of elements of a type.
pub(crate) fn n_elements(ty: &TensorType) -> usize {
    ty.n_elements().unwrap()
}

/// A run that came to its end.
pub(crate) struct Run {
    pub(crate) steps: Vec<StepReport>,
    pub(crate) weights: Vec<NamedTensor>,
    pub(crate) report: Report,
}

impl Run {
    pub(crate) fn losses(&self) -> Vec<f32> {
        self.steps.iter().map(|s| s.loss).collect()
    }

    /// The bits of the losses, in which a NaN equals itself.
    pub(crate) fn loss_bits(&self) -> Vec<u32> {
        self.steps.iter().map(|s| s.loss.to_bits()).collect()
    }
}

/// The device of a new process.
pub(crate) fn open(config: &Config) -> Arc<dyn Device> {
    device::open(&config.device.options().unwrap()).unwrap()
}

/// The ways weights get into kernels: strategy, and whether compiles overlap training.
pub(crate) const STRATEGIES: [(Strategy, bool); 3] =
    [(Strategy::Operand, false), (Strategy::Baked, false), (Strategy::Baked, true)];

/// The preset `tiny`, shorter, with another strategy.
pub(crate) fn tiny(steps: u64, (strategy, overlap): (Strategy, bool)) -> Config {
    let mut config = Config::preset("tiny").unwrap();
    config.train.steps = steps;
    config.weights.strategy = strategy;
    config.weights.overlap = overlap;
    config
}

/// A network small enough that a run takes milliseconds.
pub(crate) fn small(steps: u64, (strategy, overlap): (Strategy, bool)) -> Config {
    let mut config = tiny(steps, (strategy, overlap));
    config.model = ModelConfig::Mlp(Mlp { inputs: 8, hidden: vec![12], outputs: 6, bias: true, ..Mlp::default() });
    config.train.accumulate = 3;
    config.train.lr = 0.5;
    config.train.input_gradient = false;
    config.weights.io = Io::Fp16;
    config.weights.compile_budget = 0;
    config
}

/// Trains to the end, in as many processes as it takes.
pub(crate) fn run(config: &Config) -> Run {
    try_run(config).unwrap()
}

/// As [`run`], where it may fail.
pub(crate) fn try_run(config: &Config) -> Result<Run> {
    run_from(config, None, |_| false)
}

/// Trains from a checkpoint to the end, in a new process wherever the trainer asks for one or `cut` says so of a
/// boundary.
pub(crate) fn run_from(
    config: &Config,
    from: Option<Checkpoint>,
    mut cut: impl FnMut(&Trainer) -> bool,
) -> Result<Run> {
    let mut steps: Vec<StepReport> = Vec::new();
    let mut checkpoint = from;
    // More processes than steps would mean that some make no progress.
    for _ in 0..=config.train.steps + 1 {
        let mut trainer = Trainer::new(config, open(config))?;
        if let Some(checkpoint) = &checkpoint {
            trainer.resume(checkpoint.clone())?;
        }
        loop {
            match trainer.step()? {
                Event::Step(step) => steps.push(step),
                Event::Restart(_) => break,
                Event::Finished => {
                    return Ok(Run { steps, weights: trainer.weights(), report: trainer.report()? });
                }
            }
            if trainer.at_boundary() && trainer.n_steps() < config.train.steps && cut(&trainer) {
                break;
            }
        }
        checkpoint = Some(trainer.checkpoint()?);
    }
    panic!("{} processes for {} steps: an endless restart", config.train.steps + 2, config.train.steps);
}
