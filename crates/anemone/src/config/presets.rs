//! Whole configurations by name.

use super::{Config, Io, ModelConfig, Strategy, TrainConfig, WeightsConfig};
use crate::models::Mlp;
use crate::params::Init;

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
    pub(super) fn tiny() -> Config {
        let wave = |amplitude, frequency, phase| (amplitude, frequency, phase);
        let (a1, f1, p1) = wave(0.01, 1.3, 0.7);
        let (a2, f2, p2) = wave(0.01, 0.9, 1.1);
        Config {
            model: ModelConfig::Mlp(Mlp {
                inputs: 64,
                outputs: 64,
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
}
