//! Optimizers: from gradients to new parameters.

mod adamw;
mod muon;
mod sgd;

use crate::error::{Error, Result};
use crate::params::ParamSpec;
use crate::soft::{simd, threads};
use crate::weights_file::{NamedTensor, TensorView};
use adamw::AdamW;
use muon::Muon;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sgd::Sgd;

/// What turns gradients into new parameters.
pub trait Optimizer: Send {
    /// Moves every parameter, given the gradient of each.
    fn step(&mut self, params: &mut [&mut [f32]], gradients: &[&[f32]], update: Update);

    /// What it remembers from update to update: lists by name, each with one entry a parameter, as long as the
    /// parameter, or empty where nothing is remembered of it.
    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])>;

    /// The same, to be overwritten by what was saved.
    fn state_mut(&mut self) -> Vec<(&'static str, &mut [Vec<f32>])>;
}

/// What an optimizer must know of an update beside the gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Updates made before this one.
    pub index: u64,
    /// What gradients are to be multiplied by first: the loss scale is in them, and how many were added up.
    pub scale: f32,
    /// The learning rate.
    pub lr: f32,
}

/// The optimizer and its own settings, as `config.toml` has them. Weight decay acts on the
/// parameters that their model says decay: matrices, kernels and tables, but not biases and scales.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent.
    ///
    /// `v = momentum v + g`, `p -= lr v`, or with Nesterov's momentum `p -= lr (g + momentum v)`.
    Sgd {
        /// How much of the last update's direction is kept; 0 for none.
        #[serde(default)]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        momentum: f32,
        /// Whether the gradient is looked at from one step ahead.
        #[serde(default)]
        nesterov: bool,
        /// How much of a matrix is added to its gradient.
        #[serde(default)]
        #[schemars(range(min = 0))]
        weight_decay: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov, Hutter 2019).
    ///
    /// `m` and `v` are running means of the gradient and its square, both corrected for starting at 0;
    /// `p -= lr (m / (sqrt(v) + epsilon) + weight_decay p)`.
    AdamW {
        /// How much of the running mean of the gradient is kept at a step.
        #[serde(default = "beta1")]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        beta1: f32,
        /// How much of the running mean of its square is kept at a step.
        #[serde(default = "beta2")]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        beta2: f32,
        /// What is added to the root of the mean square, which keeps the quotient finite.
        #[serde(default = "epsilon")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        epsilon: f32,
        /// The share of a matrix that is taken off it at a step, times the learning rate.
        #[serde(default)]
        #[schemars(range(min = 0))]
        weight_decay: f32,
    },
    /// Muon (Keller Jordan 2024) for hidden matrices, AdamW for everything else.
    ///
    /// The running mean of the gradient is made orthogonal by five Newton-Schulz steps. Everything else, and the
    /// parameters named in `adamw`, is left to AdamW with betas of 0.9 and 0.95.
    Muon {
        /// How much of the running mean is kept at a step.
        #[serde(default = "muon_momentum")]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        momentum: f32,
        /// Whether the gradient is looked at from one step ahead.
        #[serde(default = "yes")]
        nesterov: bool,
        /// The share of a matrix that is taken off it at a step, times its learning rate.
        #[serde(default)]
        #[schemars(range(min = 0))]
        weight_decay: f32,
        /// The learning rate of AdamW as a share of that of Muon.
        #[serde(default = "adamw_lr")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        adamw_lr: f32,
        /// Matrices that AdamW moves: embeddings and classifiers, by a part of their dotted name.
        #[serde(default = "adamw_names")]
        adamw: Vec<String>,
    },
}

// The defaults of the papers, and of <https://github.com/KellerJordan/Muon>.
fn beta1() -> f32 {
    0.9
}

fn beta2() -> f32 {
    0.999
}

fn epsilon() -> f32 {
    1e-8
}

fn muon_momentum() -> f32 {
    0.95
}

fn yes() -> bool {
    true
}

fn adamw_lr() -> f32 {
    0.015
}

fn adamw_names() -> Vec<String> {
    ["wte", "wpe", "embed_tokens", "lm_head", "classifier"].map(String::from).into()
}

impl Default for OptimizerConfig {
    fn default() -> OptimizerConfig {
        OptimizerConfig::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl OptimizerConfig {
    /// The optimizer of these parameters, before its first update.
    pub fn optimizer(&self, specs: &[ParamSpec]) -> Box<dyn Optimizer> {
        match *self {
            OptimizerConfig::Sgd { momentum, nesterov, weight_decay } => {
                Box::new(Sgd::new(momentum, nesterov, weight_decay, specs))
            }
            OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay } => {
                Box::new(AdamW::new(beta1, beta2, epsilon, weight_decay, specs))
            }
            OptimizerConfig::Muon { momentum, nesterov, weight_decay, adamw_lr, ref adamw } => {
                Box::new(Muon::new(momentum, nesterov, weight_decay, adamw_lr, adamw, specs))
            }
        }
    }

    /// Checks what one value alone cannot say.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            OptimizerConfig::Sgd { momentum: 0.0, nesterov: true, .. } => {
                Err(Error::config("`optimizer.momentum` is 0, expected above 0 with `nesterov`"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a parameter is more than a vector. Shapes carry dimensions of 1, as in `[out, in, 1, 1]`.
fn is_matrix(spec: &ParamSpec) -> bool {
    spec.shape.iter().filter(|&&size| size > 1).count() >= 2
}

/// The weight decay of each parameter.
fn decays(weight_decay: f32, specs: &[ParamSpec]) -> Vec<f32> {
    specs.iter().map(|spec| if spec.decay { weight_decay } else { 0.0 }).collect()
}

/// Zeros for each parameter of which something is remembered.
fn zeros(specs: &[ParamSpec], remembers: impl Fn(usize) -> bool) -> Vec<Vec<f32>> {
    let zeros = |(i, spec): (usize, &ParamSpec)| vec![0.0; if remembers(i) { spec.n_elements() } else { 0 }];
    specs.iter().enumerate().map(zeros).collect()
}

/// The sum of the squares, which for f32 numbers no f64 overflows at: it is finite if and only if they all are.
/// The same with any number of threads.
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    let n_pieces = x.len().div_ceil(PIECE);
    if n_pieces < 2 {
        return sum_of_piece(x);
    }
    let mut sums = vec![0.0; n_pieces];
    threads::each(x.len(), sums.iter_mut().zip(x.chunks(PIECE)).collect(), |(sum, x)| *sum = sum_of_piece(x));
    sums.iter().sum()
}

fn sum_of_piece(x: &[f32]) -> f64 {
    let square = |x: &f32| f64::from(*x) * f64::from(*x);
    simd::dispatch(|| {
        let (chunks, rest) = x.as_chunks::<16>();
        let mut sums = [0.0f64; 16];
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += square(x);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(square).sum::<f64>()
    })
}

/// Elements that a thread works on at a time.
const PIECE: usize = 1 << 16;

/// The names of a checkpoint's tensors of optimizer state begin so.
const PREFIX: &str = "optimizer.";

/// The optimizer's state as tensors `optimizer.LIST.PARAMETER`.
pub(crate) fn to_tensors<'a>(optimizer: &'a dyn Optimizer, specs: &'a [ParamSpec]) -> Vec<TensorView<'a>> {
    let mut tensors = Vec::new();
    for (list, values) in optimizer.state() {
        for (spec, data) in specs.iter().zip(values).filter(|(_, data)| !data.is_empty()) {
            let name = format!("{PREFIX}{list}.{}", spec.name);
            tensors.push(TensorView { name, shape: &spec.shape, data });
        }
    }
    tensors
}

/// Gives a new optimizer the state that [`to_tensors`] made; takes the elements out of the tensors.
///
/// # Errors
///
/// If the tensors lack something the optimizer remembers, or have it in another shape.
pub(crate) fn restore(
    optimizer: &mut dyn Optimizer,
    tensors: &mut [NamedTensor],
    specs: &[ParamSpec],
) -> Result<()> {
    for (list, values) in optimizer.state_mut() {
        for (spec, value) in specs.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            let name = format!("{PREFIX}{list}.{}", spec.name);
            let is_it =
                |t: &&mut NamedTensor| t.name == name && t.shape == spec.shape && t.data.len() == value.len();
            let found = tensors.iter_mut().find(is_it);
            let missing =
                || Error::checkpoint(format!("the checkpoint has no `{name}` of shape {:?}", spec.shape));
            *value = std::mem::take(&mut found.ok_or_else(missing)?.data);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
