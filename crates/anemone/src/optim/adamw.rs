//! Adam with decoupled weight decay.

use super::{Optimizer, PIECE, Update, decays, zeros};
use crate::params::ParamSpec;
use crate::soft::simd::dispatch;
use crate::soft::threads;

pub(super) struct AdamW {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: Vec<f32>,
    mean: Vec<Vec<f32>>,
    square: Vec<Vec<f32>>,
}

impl AdamW {
    pub(super) fn new(beta1: f32, beta2: f32, epsilon: f32, weight_decay: f32, specs: &[ParamSpec]) -> AdamW {
        AdamW::of_some(beta1, beta2, epsilon, decays(weight_decay, specs), specs, |_| true)
    }

    /// One that remembers nothing of the parameters that another optimizer moves.
    pub(super) fn of_some(
        beta1: f32,
        beta2: f32,
        epsilon: f32,
        weight_decay: Vec<f32>,
        specs: &[ParamSpec],
        moves: impl Fn(usize) -> bool,
    ) -> AdamW {
        let (mean, square) = (zeros(specs, &moves), zeros(specs, &moves));
        AdamW { beta1, beta2, epsilon, weight_decay, mean, square }
    }

    /// Moves the parameter of that index.
    pub(super) fn step_one(&mut self, index: usize, p: &mut [f32], g: &[f32], update: Update) {
        let AdamW { beta1, beta2, epsilon, .. } = *self;
        let Update { scale, lr, .. } = update;
        let decay = self.weight_decay[index];
        // In f64, where 1 - beta^n is not all cancellation for a beta near 1.
        let n = i32::try_from(update.index + 1).unwrap_or(i32::MAX);
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(n))) as f32;
        let (correction1, correction2) = (correction(beta1), correction(beta2));
        let (mean, square) = (&mut self.mean[index], &mut self.square[index]);
        let work = p.len();
        let memory = mean.chunks_mut(PIECE).zip(square.chunks_mut(PIECE));
        let pieces = p.chunks_mut(PIECE).zip(g.chunks(PIECE)).zip(memory).collect();
        threads::each(work, pieces, |((p, g), (mean, square))| {
            dispatch(|| {
                for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(mean.iter_mut().zip(square)) {
                    let g = scale * g;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let direction = (*m * correction1) / ((*v * correction2).sqrt() + epsilon);
                    *p -= lr * (direction + decay * *p);
                }
            });
        });
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, params: &mut [&mut [f32]], gradients: &[&[f32]], update: Update) {
        for (i, (p, g)) in params.iter_mut().zip(gradients).enumerate() {
            self.step_one(i, p, g, update);
        }
    }

    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])> {
        vec![("mean", &self.mean), ("square", &self.square)]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, &mut [Vec<f32>])> {
        vec![("mean", &mut self.mean), ("square", &mut self.square)]
    }
}
