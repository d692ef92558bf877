//! Optimizers: from gradients to new parameters.

use crate::error::{Error, Result};
use crate::params::ParamSpec;
use crate::weights_file::NamedTensor;
use serde::{Deserialize, Serialize};

/// What turns gradients into new parameters.
pub trait Optimizer: Send {
    /// Moves every parameter, given the gradient of each and the learning rate.
    fn step(&mut self, params: &mut [Vec<f32>], gradients: &[Vec<f32>], lr: f32);

    /// What it remembers from step to step: lists by name, each with one entry a parameter; empty before the first
    /// step and for optimizers that remember nothing.
    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])>;

    /// Takes back what [`state`](Optimizer::state) gave after `n_updates` updates.
    fn restore(&mut self, n_updates: u64, state: Vec<(String, Vec<Vec<f32>>)>);
}

/// The optimizer and its own settings, as `config.toml` has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent: `v = momentum v + g`, `p -= lr v`, or with Nesterov's momentum
    /// `p -= lr (g + momentum v)`.
    Sgd {
        /// 0 for none.
        #[serde(default)]
        momentum: f32,
        /// Whether the gradient is looked at from one step ahead.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam with decoupled weight decay (Loshchilov, Hutter 2019): `m` and `v` are running means of the gradient
    /// and its square, both corrected for starting at 0; `p -= lr (m / (sqrt(v) + epsilon) + weight_decay p)`.
    AdamW {
        /// How much of `m` is kept at a step.
        #[serde(default = "beta1")]
        beta1: f32,
        /// How much of `v` is kept at a step.
        #[serde(default = "beta2")]
        beta2: f32,
        /// Keeps the quotient finite.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// The share of a parameter that is taken off it at a step, times the learning rate.
        #[serde(default)]
        weight_decay: f32,
    },
}

// The defaults of the paper.
fn beta1() -> f32 {
    0.9
}

fn beta2() -> f32 {
    0.999
}

fn epsilon() -> f32 {
    1e-8
}

impl Default for OptimizerConfig {
    fn default() -> OptimizerConfig {
        OptimizerConfig::Sgd { momentum: 0.0, nesterov: false }
    }
}

impl OptimizerConfig {
    /// The optimizer, before its first step.
    pub fn optimizer(&self) -> Box<dyn Optimizer> {
        match *self {
            OptimizerConfig::Sgd { momentum, nesterov } => {
                Box::new(Sgd { momentum, nesterov, velocity: Vec::new() })
            }
            OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay } => Box::new(AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
                n_steps: 0,
                mean: Vec::new(),
                square: Vec::new(),
            }),
        }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    ///
    /// If a value is out of its range; the message names the key.
    pub fn check(&self) -> Result<()> {
        let within = |key: &str, x: f32, ok: bool, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::config(format!("`optimizer.{key}` is {x}, expected {expected}"))),
        };
        let below_one = |key: &str, x: f32| within(key, x, (0.0..1.0).contains(&x), "0 or more and below 1");
        match *self {
            OptimizerConfig::Sgd { momentum, nesterov } => {
                below_one("momentum", momentum)?;
                within("momentum", momentum, !nesterov || momentum > 0.0, "above 0 with `nesterov`")
            }
            OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay } => {
                below_one("beta1", beta1)?;
                below_one("beta2", beta2)?;
                within("epsilon", epsilon, epsilon > 0.0 && epsilon.is_finite(), "a number above 0")?;
                within("weight_decay", weight_decay, weight_decay >= 0.0 && weight_decay.is_finite(), "0 or more")
            }
        }
    }
}

struct Sgd {
    momentum: f32,
    nesterov: bool,
    velocity: Vec<Vec<f32>>,
}

impl Optimizer for Sgd {
    fn step(&mut self, params: &mut [Vec<f32>], gradients: &[Vec<f32>], lr: f32) {
        if self.momentum == 0.0 {
            for (p, g) in params.iter_mut().flatten().zip(gradients.iter().flatten()) {
                *p -= lr * g;
            }
            return;
        }
        begin(&mut self.velocity, params);
        let velocity = self.velocity.iter_mut().flatten();
        for ((p, g), v) in params.iter_mut().flatten().zip(gradients.iter().flatten()).zip(velocity) {
            *v = self.momentum * *v + g;
            *p -= lr * if self.nesterov { g + self.momentum * *v } else { *v };
        }
    }

    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])> {
        if self.velocity.is_empty() { Vec::new() } else { vec![("velocity", &self.velocity)] }
    }

    fn restore(&mut self, _: u64, state: Vec<(String, Vec<Vec<f32>>)>) {
        for (name, values) in state {
            if name == "velocity" {
                self.velocity = values;
            }
        }
    }
}

struct AdamW {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    n_steps: u64,
    mean: Vec<Vec<f32>>,
    square: Vec<Vec<f32>>,
}

impl Optimizer for AdamW {
    fn step(&mut self, params: &mut [Vec<f32>], gradients: &[Vec<f32>], lr: f32) {
        begin(&mut self.mean, params);
        begin(&mut self.square, params);
        self.n_steps += 1;
        let n = self.n_steps.min(i32::MAX as u64) as i32;
        let (correction1, correction2) = (1.0 - self.beta1.powi(n), 1.0 - self.beta2.powi(n));
        let memory = self.mean.iter_mut().flatten().zip(self.square.iter_mut().flatten());
        for ((p, g), (m, v)) in params.iter_mut().flatten().zip(gradients.iter().flatten()).zip(memory) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            let direction = (*m / correction1) / ((*v / correction2).sqrt() + self.epsilon);
            *p -= lr * (direction + self.weight_decay * *p);
        }
    }

    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])> {
        match self.n_steps {
            0 => Vec::new(),
            _ => vec![("mean", &self.mean), ("square", &self.square)],
        }
    }

    fn restore(&mut self, n_updates: u64, state: Vec<(String, Vec<Vec<f32>>)>) {
        self.n_steps = if state.is_empty() { 0 } else { n_updates };
        for (name, values) in state {
            match name.as_str() {
                "mean" => self.mean = values,
                "square" => self.square = values,
                _ => {}
            }
        }
    }
}

/// Zeros for each parameter, the first time.
fn begin(memory: &mut Vec<Vec<f32>>, params: &[Vec<f32>]) {
    if memory.is_empty() {
        *memory = params.iter().map(|p| vec![0.0; p.len()]).collect();
    }
}

/// The names of a checkpoint's tensors of optimizer state begin so.
const PREFIX: &str = "optimizer.";

/// The optimizer's state as tensors `optimizer.LIST.PARAMETER`.
pub(crate) fn to_tensors(optimizer: &dyn Optimizer, specs: &[ParamSpec]) -> Vec<NamedTensor> {
    let mut tensors = Vec::new();
    for (list, values) in optimizer.state() {
        for (spec, data) in specs.iter().zip(values) {
            let name = format!("{PREFIX}{list}.{}", spec.name);
            tensors.push(NamedTensor { name, shape: spec.shape.clone(), data: data.clone() });
        }
    }
    tensors
}

/// The state that [`to_tensors`] made.
///
/// # Errors
///
/// If a list lacks a parameter or has it in another shape.
pub(crate) fn from_tensors(tensors: &[NamedTensor], specs: &[ParamSpec]) -> Result<Vec<(String, Vec<Vec<f32>>)>> {
    let first = &specs[0].name;
    let lists = tensors.iter().filter_map(|t| {
        let list = t.name.strip_prefix(PREFIX)?.strip_suffix(first.as_str())?.strip_suffix('.')?;
        (!list.contains('.')).then(|| list.to_string())
    });
    lists
        .map(|list| {
            let value = |spec: &ParamSpec| {
                let name = format!("{PREFIX}{list}.{}", spec.name);
                let found = tensors.iter().find(|t| t.name == name && t.shape == spec.shape);
                let missing =
                    || Error::checkpoint(format!("the checkpoint has no `{name}` of shape {:?}", spec.shape));
                found.map(|t| t.data.clone()).ok_or_else(missing)
            };
            Ok((list.clone(), specs.iter().map(value).collect::<Result<_>>()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADIENTS: [f32; 5] = [0.5, -1.0, 0.25, 2.0, -0.125];

    /// Where a parameter of 1 goes under the gradients, each taken at the learning rate 0.1.
    fn path(config: &OptimizerConfig) -> Vec<f32> {
        let mut optimizer = config.optimizer();
        let mut params = vec![vec![1.0]];
        GRADIENTS
            .iter()
            .map(|&g| {
                optimizer.step(&mut params, &[vec![g]], 0.1);
                params[0][0]
            })
            .collect()
    }

    fn agree(found: &[f32], expected: &[f64]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f64::from(*f) - e).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn momentum_is_the_sum_of_all_gradients_so_far_each_faded() {
        for nesterov in [false, true] {
            let found = path(&OptimizerConfig::Sgd { momentum: 0.9, nesterov });
            let mut p = 1.0f64;
            let expected: Vec<f64> = (0..GRADIENTS.len())
                .map(|t| {
                    let v: f64 = (0..=t).map(|i| 0.9f64.powi((t - i) as i32) * f64::from(GRADIENTS[i])).sum();
                    p -= 0.1 * if nesterov { f64::from(GRADIENTS[t]) + 0.9 * v } else { v };
                    p
                })
                .collect();
            agree(&found, &expected);
        }
    }

    #[test]
    fn adamw_divides_the_mean_by_the_root_of_the_mean_square() {
        let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut p = 1.0f64;
        let expected: Vec<f64> = (0..GRADIENTS.len())
            .map(|t| {
                // The means written out: weights that fade, divided by their sum.
                let mean = |beta: f64, f: fn(f64) -> f64| {
                    let weight = |i: usize| beta.powi((t - i) as i32);
                    let sum: f64 = (0..=t).map(|i| weight(i) * f(f64::from(GRADIENTS[i]))).sum();
                    sum / (0..=t).map(weight).sum::<f64>()
                };
                p -= 0.1 * (mean(0.9, |g| g) / (mean(0.99, |g| g * g).sqrt() + 1e-8) + 0.1 * p);
                p
            })
            .collect();
        agree(&path(&config), &expected);
    }

    #[test]
    fn state_goes_through_tensors_and_back() {
        let specs: Vec<ParamSpec> =
            ["fc1.weight", "fc1.bias"].map(|name| ParamSpec::new(name, &[2], crate::params::Init::Zeros)).to_vec();
        let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
        let gradients = [vec![1.0, 2.0], vec![3.0, -4.0]];
        let (mut a, mut b) = (config.optimizer(), config.optimizer());
        let mut params = vec![vec![0.0; 2]; 2];
        a.step(&mut params, &gradients, 0.1);
        let tensors = to_tensors(&*a, &specs);
        assert_eq!(tensors.len(), 4);
        b.restore(1, from_tensors(&tensors, &specs).unwrap());
        let mut other = params.clone();
        a.step(&mut params, &gradients, 0.1);
        b.step(&mut other, &gradients, 0.1);
        assert_eq!(params, other);
        let e = from_tensors(&tensors[..3], &specs).unwrap_err();
        assert!(e.is_checkpoint() && e.to_string().contains("optimizer.square.fc1.bias"), "{e}");
    }
}
