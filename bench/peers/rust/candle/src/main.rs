//! The job on candle, by its autograd or with the backward pass written by hand.

use candle_core::{Device, Tensor, Var};
use job::{ACCUMULATE, Batch, Job, Result};
use std::hint::black_box;

fn main() -> Result<()> {
    job::serve("0.11.1", start)
}

struct State {
    x: Var,
    target: Tensor,
    w1: Var,
    w2: Var,
    dy_over_difference: f64,
}

fn start(job: &Job, lr: f32) -> Result<Batch> {
    let cpu = &Device::Cpu;
    let step = match job.mode.as_str() {
        "autograd" => autograd,
        "by-hand" => by_hand,
        mode => return Err(format!("mode `{mode}`, expected `autograd` or `by-hand`").into()),
    };
    let state = State {
        x: Var::from_vec(job.x(), (job.s, job.d), cpu)?,
        target: Tensor::from_vec(job.x(), (job.s, job.d), cpu)?,
        w1: Var::from_vec(job.w1(), (job.h, job.d), cpu)?,
        w2: Var::from_vec(job.w2(), (job.d, job.h), cpu)?,
        dy_over_difference: job.dy_over_difference().into(),
    };
    let scale = f64::from(lr) / ACCUMULATE as f64;
    Ok(Box::new(move || {
        let (mut loss, mut dw1, mut dw2) = step(&state)?;
        for _ in 1..ACCUMULATE {
            let (l, d1, d2) = step(&state)?;
            (loss, dw1, dw2) = (l, (dw1 + d1)?, (dw2 + d2)?);
        }
        state.w1.set(&(state.w1.as_detached_tensor() - (dw1 * scale)?)?)?;
        state.w2.set(&(state.w2.as_detached_tensor() - (dw2 * scale)?)?)?;
        Ok(loss)
    }))
}

/// The loss and the gradients of both weights; that of the input is computed too.
type Step = candle_core::Result<(f32, Tensor, Tensor)>;

fn autograd(state: &State) -> Step {
    let y = state.x.matmul(&state.w1.t()?)?.relu()?.matmul(&state.w2.t()?)?;
    let loss = (y - &state.target)?.sqr()?.mean_all()?;
    let mut gradients = loss.backward()?;
    let mut take = |v: &Var| gradients.remove(v).ok_or_else(|| candle_core::Error::Msg("no gradient".into()));
    black_box(take(&state.x)?);
    Ok((loss.to_scalar()?, take(&state.w1)?, take(&state.w2)?))
}

fn by_hand(state: &State) -> Step {
    let (x, w1, w2) = (state.x.as_detached_tensor(), state.w1.as_detached_tensor(), state.w2.as_detached_tensor());
    let h = x.matmul(&w1.t()?)?.relu()?;
    let difference = (h.matmul(&w2.t()?)? - &state.target)?;
    let loss = difference.sqr()?.mean_all()?.to_scalar()?;
    let dy = (difference * state.dy_over_difference)?;
    let dh = (dy.matmul(&w2)? * h.gt(0.0)?.to_dtype(h.dtype())?)?;
    black_box(dh.matmul(&w1)?);
    Ok((loss, dh.t()?.matmul(&x)?, dy.t()?.matmul(&h)?))
}
