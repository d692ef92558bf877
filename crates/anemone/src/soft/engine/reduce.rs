//! Reductions: sums are fp16 numbers, rounded after each element, in the order of the elements.

use super::numbers::{decode, round};
use super::tables::TABLES;
use crate::soft::reduce::{Combine, Finish};

/// A reduction over any axes.
#[derive(Debug)]
pub(in crate::soft) struct Reduce {
    combine: Combine,
    finish: Finish,
    /// Sizes, outermost first, and the steps in the result: 0 along axes that are reduced.
    shape: Vec<usize>,
    steps: Vec<usize>,
}

impl Reduce {
    pub(super) fn new(combine: Combine, finish: Finish, shape: &[usize], axes: &[usize]) -> Reduce {
        let mut steps = vec![0; shape.len()];
        let mut step = 1;
        for i in (0..shape.len()).rev().filter(|i| !axes.contains(i)) {
            steps[i] = step;
            step *= shape[i];
        }
        Reduce { combine, finish, shape: shape.to_vec(), steps }
    }

    pub(super) fn run(&self, x: &[f32], out: &mut [f32]) {
        let n = x.len() / out.len().max(1);
        out.fill(match self.combine {
            Combine::Max => f32::NEG_INFINITY,
            Combine::Min => f32::INFINITY,
            _ => 0.0,
        });
        for (i, &x) in x.iter().enumerate() {
            let (mut rest, mut to) = (i, 0);
            for (size, step) in self.shape.iter().zip(&self.steps).rev() {
                to += rest % size * step;
                rest /= size;
            }
            let x = f64::from(decode(x));
            let sum = f64::from(out[to]);
            out[to] = match self.combine {
                // An infinite sum stays what it is.
                _ if self.is_sum() && sum.is_infinite() => out[to],
                Combine::Sum => round(sum + x),
                Combine::SumOfSquares => round(sum + f64::from(round(x * x))),
                Combine::SumOfSizes => round(sum + x.abs()),
                Combine::Max => round(sum.max(x)),
                Combine::Min => round(sum.min(x)),
            };
        }
        for y in out {
            let sum = f64::from(*y);
            *y = match self.finish {
                _ if !y.is_finite() => *y,
                Finish::Nothing => *y,
                Finish::Mean => round(sum / n as f64),
                Finish::Root => round(TABLES.sqrt(sum)),
                Finish::Log => round(TABLES.log(sum)),
            };
        }
    }

    fn is_sum(&self) -> bool {
        !matches!(self.combine, Combine::Max | Combine::Min)
    }
}
