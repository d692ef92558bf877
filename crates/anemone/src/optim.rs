//! Optimizers: from gradients to new parameters.

use serde::{Deserialize, Serialize};

/// What turns gradients into new parameters.
pub trait Optimizer: Send {
    /// Moves every parameter, given the gradient of each and the learning rate.
    fn step(&mut self, params: &mut [Vec<f32>], gradients: &[Vec<f32>], lr: f32);

    /// What it remembers from step to step, one list for each of its kinds of memory.
    fn state(&self) -> Vec<(String, Vec<Vec<f32>>)> {
        Vec::new()
    }
}

/// Stochastic gradient descent: `p -= lr g`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sgd;

impl Optimizer for Sgd {
    fn step(&mut self, params: &mut [Vec<f32>], gradients: &[Vec<f32>], lr: f32) {
        for (p, g) in params.iter_mut().zip(gradients) {
            for (p, g) in p.iter_mut().zip(g) {
                *p -= lr * g;
            }
        }
    }
}
