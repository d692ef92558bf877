//! Stochastic gradient descent with momentum.

use super::{Optimizer, Update, decays, zeros};
use crate::params::ParamSpec;
use crate::soft::simd::dispatch;

pub(super) struct Sgd {
    momentum: f32,
    nesterov: bool,
    weight_decay: Vec<f32>,
    velocity: Vec<Vec<f32>>,
}

impl Sgd {
    pub(super) fn new(momentum: f32, nesterov: bool, weight_decay: f32, specs: &[ParamSpec]) -> Sgd {
        let velocity = zeros(specs, |_| momentum != 0.0);
        Sgd { momentum, nesterov, weight_decay: decays(weight_decay, specs), velocity }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, params: &mut [&mut [f32]], gradients: &[&[f32]], update: Update) {
        let Update { scale, lr, .. } = update;
        let (momentum, nesterov) = (self.momentum, self.nesterov);
        let memory = self.velocity.iter_mut().zip(&self.weight_decay);
        for ((p, g), (velocity, &decay)) in params.iter_mut().zip(gradients).zip(memory) {
            dispatch(|| {
                if momentum == 0.0 {
                    for (p, g) in p.iter_mut().zip(*g) {
                        *p -= lr * (scale * g + decay * *p);
                    }
                    return;
                }
                for ((p, g), v) in p.iter_mut().zip(*g).zip(velocity) {
                    let g = scale * g + decay * *p;
                    *v = momentum * *v + g;
                    *p -= lr * if nesterov { g + momentum * *v } else { *v };
                }
            });
        }
    }

    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])> {
        vec![("velocity", &self.velocity)]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, &mut [Vec<f32>])> {
        vec![("velocity", &mut self.velocity)]
    }
}
