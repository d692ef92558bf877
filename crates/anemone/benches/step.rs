//! A step of the preset `tiny` through trainer, device and kernels, beside the same arithmetic in plain loops.
//!
//! `cargo bench --bench step` prints both; what the trainer adds is the difference of the two medians.

use anemone::config::{Io, Strategy};
use anemone::train::Event;
use anemone::{Config, Trainer, device};
use divan::{Bencher, black_box};
use half::f16;

fn main() {
    divan::main();
}

/// A trainer that never ends, past its first compiles.
fn trainer(change: impl Fn(&mut Config)) -> Trainer {
    let mut config = Config::preset("tiny").expect("the preset is there");
    config.train.steps = u64::MAX;
    config.train.stop_below = 0.0;
    // At the preset's rate of 1.0 a run of millions of steps may leave the stable range.
    config.train.lr = 0.1;
    config.weights.strategy = Strategy::Operand;
    change(&mut config);
    let device =
        device::open(&config.device.options().expect("valid options")).expect("the software engine is there");
    Trainer::new(&config, device).expect("a valid configuration")
}

/// Ten steps and their update.
fn batch(trainer: &mut Trainer) {
    for _ in 0..10 {
        match trainer.step() {
            Ok(Event::Step(step)) => drop(black_box(step)),
            other => panic!("expected a step, got {other:?}"),
        }
    }
}

#[divan::bench]
fn ten_steps_operand_fp32_io(bencher: Bencher<'_, '_>) {
    let mut trainer = trainer(|c| c.weights.io = Io::Fp32);
    bencher.bench_local(|| batch(&mut trainer));
}

#[divan::bench]
fn ten_steps_operand_fp16_io(bencher: Bencher<'_, '_>) {
    let mut trainer = trainer(|c| c.weights.io = Io::Fp16);
    bencher.bench_local(|| batch(&mut trainer));
}

#[divan::bench]
fn ten_steps_operand_without_input_gradient(bencher: Bencher<'_, '_>) {
    let mut trainer = trainer(|c| {
        c.weights.io = Io::Fp16;
        c.train.input_gradient = false;
    });
    bencher.bench_local(|| batch(&mut trainer));
}

#[divan::bench]
fn ten_steps_plain_loops(bencher: Bencher<'_, '_>) {
    let mut job = PlainLoops::new();
    bencher.bench_local(|| job.batch());
}

const D: usize = 64;
const H: usize = 128;
const S: usize = 16;

/// The preset's job as one would write it down: row-major activations, fp16 operands, f32 sums.
struct PlainLoops {
    x: Vec<f32>,
    w1: Vec<f32>,
    w2: Vec<f32>,
}

fn round(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
}

/// `y[s, o] = sum over i of w[o, i] x[s, i]`, in fp16 but for the sums.
fn linear(w: &[f32], x: &[f32], n_in: usize, n_out: usize) -> Vec<f32> {
    let x = round(x);
    let mut y = vec![0.0; S * n_out];
    for s in 0..S {
        for o in 0..n_out {
            let mut sum = 0.0;
            for i in 0..n_in {
                sum += w[o * n_in + i] * x[s * n_in + i];
            }
            y[s * n_out + o] = f16::from_f32(sum).to_f32();
        }
    }
    y
}

fn transposed(w: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| w[i % rows * columns + i / rows]).collect()
}

/// `dw[o, i] += dy[s, o] x[s, i]`.
fn accumulate(dw: &mut [f32], dy: &[f32], x: &[f32], n_in: usize, n_out: usize) {
    for s in 0..S {
        for o in 0..n_out {
            for i in 0..n_in {
                dw[o * n_in + i] += dy[s * n_out + o] * x[s * n_in + i];
            }
        }
    }
}

impl PlainLoops {
    fn new() -> PlainLoops {
        let wave = |n: usize, f: f32| (0..n).map(|i| 0.01 * (i as f32 * f).sin()).collect::<Vec<f32>>();
        PlainLoops {
            x: wave(S * D, 0.1).iter().map(|x| x * 100.0).collect(),
            w1: wave(H * D, 1.3),
            w2: wave(D * H, 0.9),
        }
    }

    fn batch(&mut self) {
        let (w1, w2) = (round(&self.w1), round(&self.w2));
        let (w1t, w2t) = (transposed(&w1, H, D), transposed(&w2, D, H));
        let (mut dw1, mut dw2) = (vec![0.0; H * D], vec![0.0; D * H]);
        for _ in 0..10 {
            let h = linear(&w1, black_box(&self.x), D, H);
            let r: Vec<f32> = h.iter().map(|&h| h.max(0.0)).collect();
            let y = linear(&w2, &r, H, D);
            let mut loss = 0.0;
            let mut dy = vec![0.0; S * D];
            for ((dy, y), x) in dy.iter_mut().zip(&y).zip(&self.x) {
                loss += (y - x) * (y - x);
                *dy = 2.0 * (y - x) / (S * D) as f32;
            }
            black_box(loss / (S * D) as f32);
            let dr = linear(&w2t, &dy, D, H);
            let dh: Vec<f32> = dr.iter().zip(&h).map(|(&d, &h)| if h > 0.0 { d } else { 0.0 }).collect();
            black_box(linear(&w1t, &dh, H, D));
            accumulate(&mut dw2, &dy, &r, H, D);
            accumulate(&mut dw1, &dh, &self.x, D, H);
        }
        for (w, d) in self.w1.iter_mut().zip(&dw1).chain(self.w2.iter_mut().zip(&dw2)) {
            *w -= 0.1 * d / 10.0;
        }
    }
}
