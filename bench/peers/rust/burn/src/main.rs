//! The job on burn's CPU backend `flex`, by its autograd or with the backward pass written by hand.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use job::{ACCUMULATE, Batch, Job, Result};
use std::hint::black_box;

fn main() -> Result<()> {
    job::serve("0.22.1", start)
}

fn start(job: &Job, lr: f32) -> Result<Batch> {
    let (device, by_hand) = match job.mode.as_str() {
        "autograd" => (Device::flex().autodiff(), false),
        "by-hand" => (Device::flex(), true),
        mode => return Err(format!("mode `{mode}`, expected `autograd` or `by-hand`").into()),
    };
    let tensor = |values, shape| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
    let x = tensor(job.x(), [job.s, job.d]);
    let target = x.clone();
    let mut w1 = tensor(job.w1(), [job.h, job.d]);
    let mut w2 = tensor(job.w2(), [job.d, job.h]);
    let dy_over_difference = job.dy_over_difference();
    let scale = lr / ACCUMULATE as f32;
    Ok(Box::new(move || {
        let step = || match by_hand {
            true => step_by_hand(&x, &target, &w1, &w2, dy_over_difference),
            false => step_by_autograd(&x, &target, &w1, &w2),
        };
        let (mut loss, mut dw1, mut dw2) = step()?;
        for _ in 1..ACCUMULATE {
            let (l, d1, d2) = step()?;
            (loss, dw1, dw2) = (l, dw1 + d1, dw2 + d2);
        }
        match by_hand {
            true => {
                w1 = w1.clone() - dw1 * scale;
                w2 = w2.clone() - dw2 * scale;
            }
            false => {
                w1 = Tensor::from_inner(w1.clone().inner() - dw1 * scale);
                w2 = Tensor::from_inner(w2.clone().inner() - dw2 * scale);
            }
        }
        Ok(loss)
    }))
}

/// The loss and the gradients of both weights; that of the input is computed too.
type Step = Result<(f32, Tensor<2>, Tensor<2>)>;

fn step_by_autograd(x: &Tensor<2>, target: &Tensor<2>, w1: &Tensor<2>, w2: &Tensor<2>) -> Step {
    let leaf = |t: &Tensor<2>| t.clone().require_grad();
    let (x, w1, w2) = (leaf(x), leaf(w1), leaf(w2));
    let y = relu(x.clone().matmul(w1.clone().transpose())).matmul(w2.clone().transpose());
    let difference = y - target.clone();
    let loss = (difference.clone() * difference).mean();
    let gradients = loss.backward();
    let of = |t: &Tensor<2>| t.grad(&gradients).ok_or("no gradient");
    black_box(of(&x)?);
    Ok((loss.into_scalar(), of(&w1)?, of(&w2)?))
}

fn step_by_hand(x: &Tensor<2>, target: &Tensor<2>, w1: &Tensor<2>, w2: &Tensor<2>, factor: f32) -> Step {
    let before = x.clone().matmul(w1.clone().transpose());
    let is_off = before.clone().lower_equal_elem(0.0);
    let h = relu(before);
    let difference = h.clone().matmul(w2.clone().transpose()) - target.clone();
    let loss = (difference.clone() * difference.clone()).mean().into_scalar();
    let dy = difference * factor;
    let dh = dy.clone().matmul(w2.clone()).mask_fill(is_off, 0.0);
    black_box(dh.clone().matmul(w1.clone()));
    Ok((loss, dh.transpose().matmul(x.clone()), dy.transpose().matmul(h)))
}
