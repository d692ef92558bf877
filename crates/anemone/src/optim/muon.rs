//! Muon: momentum, orthogonalised by Newton-Schulz steps.

use super::adamw::AdamW;
use super::{Optimizer, Update, is_matrix, sum_of_squares, zeros};
use crate::params::ParamSpec;
use crate::soft::gemm::{Gemm, Left, Rounding, Start};
use crate::soft::simd::dispatch;

/// The odd polynomial `a x + b x^3 + c x^5`, whose repetition takes singular values towards 1 fastest near 0; by
/// Keller Jordan, <https://kellerjordan.github.io/posts/muon/>.
const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;
const N_STEPS: usize = 5;

/// Keeps a gradient of 0 from being divided by 0.
const EPSILON: f64 = 1e-7;

/// The constants of AdamW where Muon leaves parameters to it, those of Keller Jordan's Muon.
const ADAMW: (f32, f32, f32) = (0.9, 0.95, 1e-10);

pub(super) struct Muon {
    momentum: f32,
    nesterov: bool,
    weight_decay: Vec<f32>,
    adamw_lr: f32,
    /// For parameters that are orthogonalised: rows and columns.
    sizes: Vec<Option<(usize, usize)>>,
    /// The running mean of their gradients.
    mean: Vec<Vec<f32>>,
    others: AdamW,
}

impl Muon {
    pub(super) fn new(
        momentum: f32,
        nesterov: bool,
        weight_decay: f32,
        adamw_lr: f32,
        adamw: &[String],
        specs: &[ParamSpec],
    ) -> Muon {
        let size = |spec: &ParamSpec| {
            let excluded = spec.name.split('.').any(|part| adamw.iter().any(|name| name == part));
            let rows = spec.shape.first().copied().unwrap_or(1);
            // What has more than two dimensions, as a convolution's weights, is a matrix of one row an output.
            (is_matrix(spec) && !excluded).then(|| (rows, spec.n_elements() / rows.max(1)))
        };
        let sizes: Vec<_> = specs.iter().map(size).collect();
        let (beta1, beta2, epsilon) = ADAMW;
        let decays = super::decays(weight_decay, specs);
        let others = AdamW::of_some(beta1, beta2, epsilon, decays.clone(), specs, |i| sizes[i].is_none());
        let mean = zeros(specs, |i| sizes[i].is_some());
        Muon { momentum, nesterov, weight_decay: decays, adamw_lr, sizes, mean, others }
    }
}

impl Optimizer for Muon {
    fn step(&mut self, params: &mut [&mut [f32]], gradients: &[&[f32]], update: Update) {
        let Update { scale, lr, .. } = update;
        let (momentum, nesterov) = (self.momentum, self.nesterov);
        for (i, (p, g)) in params.iter_mut().zip(gradients).enumerate() {
            let Some((rows, columns)) = self.sizes[i] else {
                self.others.step_one(i, p, g, Update { lr: lr * self.adamw_lr, ..update });
                continue;
            };
            let mean = &mut self.mean[i];
            let mut direction = vec![0.0; g.len()];
            dispatch(|| {
                for ((g, m), d) in g.iter().zip(mean.iter_mut()).zip(&mut direction) {
                    let g = scale * g;
                    *m = momentum * *m + (1.0 - momentum) * g;
                    *d = if nesterov { momentum * *m + (1.0 - momentum) * g } else { *m };
                }
            });
            let direction = orthogonalized(direction, rows, columns);
            // A tall matrix moves its outputs as much as a square one does.
            let lr = lr * (rows as f32 / columns as f32).max(1.0).sqrt();
            let kept = 1.0 - update.lr * self.weight_decay[i];
            dispatch(|| {
                for (p, d) in p.iter_mut().zip(&direction) {
                    *p = kept * *p - lr * d;
                }
            });
        }
    }

    fn state(&self) -> Vec<(&'static str, &[Vec<f32>])> {
        [("momentum", &self.mean[..])].into_iter().chain(self.others.state()).collect()
    }

    fn state_mut(&mut self) -> Vec<(&'static str, &mut [Vec<f32>])> {
        [("momentum", &mut self.mean[..])].into_iter().chain(self.others.state_mut()).collect()
    }
}

/// `x` `[rows, columns]` with its singular values taken near to 1: with `X = x / |x|`, five times
/// `X = a X + (b S + c S S) X` where `S = X X^T`; of a tall matrix with `S = X^T X` on the right.
fn orthogonalized(mut x: Vec<f32>, rows: usize, columns: usize) -> Vec<f32> {
    let scale = (1.0 / (sum_of_squares(&x).sqrt() + EPSILON)) as f32;
    x.iter_mut().for_each(|x| *x *= scale);
    let (n, m, is_tall) = (rows.min(columns), rows.max(columns), rows > columns);
    let gram = Gemm { m: n, k: m, n, transposed: (is_tall, !is_tall) };
    let square = Gemm { m: n, k: n, n, transposed: (false, false) };
    let apply = Gemm { m: rows, k: n, n: columns, transposed: (false, false) };
    let (mut s, mut polynomial, mut other) = (vec![0.0; n * n], vec![0.0; n * n], vec![0.0; n * m]);
    let room = [gram, square, apply].map(|product| product.n_scratch(1)).into_iter().max().unwrap_or(0);
    let mut scratch = vec![0.0; room];
    for _ in 0..N_STEPS {
        gram.run((Left::Plain(&x), &x, Start::Zero), 0, &mut s, Rounding::default(), &mut scratch);
        square.run((Left::Plain(&s), &s, Start::Zero), 0, &mut polynomial, Rounding::default(), &mut scratch);
        polynomial.iter_mut().zip(&s).for_each(|(p, s)| *p = B * s + C * *p);
        other.iter_mut().zip(&x).for_each(|(y, x)| *y = A * x);
        let (left, right) = if is_tall { (&x, &polynomial) } else { (&polynomial, &x) };
        apply.run((Left::Plain(left), right, Start::Sums), 0, &mut other, Rounding::default(), &mut scratch);
        std::mem::swap(&mut x, &mut other);
    }
    x
}
