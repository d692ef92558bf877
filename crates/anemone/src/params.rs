//! The one list of parameters: what a model declares once, and everything else iterates over.

use crate::error::{Error, Result};
use crate::random::Random;
use crate::weights_file::NamedTensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A parameter as its model declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The name, such as `fc1.weight`.
    pub name: String,
    /// The sizes.
    pub shape: Vec<usize>,
    /// Its first value.
    pub init: Init,
    /// Whether training changes it; if not, it needs no gradient and no place in an optimizer.
    pub trainable: bool,
    /// Whether weight decay acts on it.
    pub decay: bool,
}

/// The first value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal, with mean 0.
    Normal {
        /// The standard deviation.
        std: f32,
    },
    /// Uniform in `[-bound, bound]`; without a bound `1 / sqrt(fan_in)`, PyTorch's default for linear layers.
    Uniform {
        /// The largest magnitude.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bound: Option<f32>,
    },
    /// `amplitude sin(frequency i + phase)` of the element's index `i`, in f32: repeatable without a generator.
    Sine {
        /// The largest magnitude.
        amplitude: f32,
        /// Radians an element.
        frequency: f32,
        /// Radians at element 0.
        phase: f32,
    },
    /// `amplitude cos(frequency i + phase)`.
    Cosine {
        /// The largest magnitude.
        amplitude: f32,
        /// Radians an element.
        frequency: f32,
        /// Radians at element 0.
        phase: f32,
    },
}

impl ParamSpec {
    /// A parameter that is trained and decays.
    pub fn new(name: &str, shape: &[usize], init: Init) -> ParamSpec {
        ParamSpec { name: name.into(), shape: shape.to_vec(), init, trainable: true, decay: true }
    }

    /// The number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The first value, drawing from `random` where the kind asks for it.
    pub fn initial(&self, random: &mut Random) -> Vec<f32> {
        // The product and the sum round to f32 one after the other; the function itself is rounded once.
        let wave = |f: fn(f64) -> f64, amplitude: f32, frequency: f32, phase: f32| {
            (0..self.n_elements()).map(|i| amplitude * f(f64::from(i as f32 * frequency + phase)) as f32).collect()
        };
        match self.init {
            Init::Zeros => vec![0.0; self.n_elements()],
            Init::Ones => vec![1.0; self.n_elements()],
            Init::Normal { std } => (0..self.n_elements()).map(|_| random.normal() as f32 * std).collect(),
            Init::Uniform { bound } => {
                let fan_in: usize = self.shape.iter().skip(1).product();
                let bound = bound.unwrap_or(1.0 / (fan_in.max(1) as f32).sqrt());
                (0..self.n_elements()).map(|_| (random.uniform() * 2.0 - 1.0) as f32 * bound).collect()
            }
            Init::Sine { amplitude, frequency, phase } => wave(f64::sin, amplitude, frequency, phase),
            Init::Cosine { amplitude, frequency, phase } => wave(f64::cos, amplitude, frequency, phase),
        }
    }
}

/// The elements of a parameter among weights.
///
/// # Errors
///
/// If it is not there in its shape.
pub(crate) fn find<'a>(spec: &ParamSpec, weights: &'a [NamedTensor]) -> Result<&'a [f32]> {
    match weights.iter().find(|t| t.name == spec.name) {
        Some(t) if t.shape == spec.shape && t.data.len() == spec.n_elements() => Ok(&t.data),
        Some(t) => Err(Error::checkpoint(format!(
            "`{}` has shape {:?} in the weights, expected {:?}: give weights of this model",
            spec.name, t.shape, spec.shape
        ))),
        None => Err(Error::checkpoint(format!("the weights have no `{}`: give weights of this model", spec.name))),
    }
}
