//! Updates of four million parameters: what an optimizer adds to a step.

use anemone::optim::{OptimizerConfig, Update};
use anemone::params::{Init, ParamSpec};
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// Four square matrices, as a small transformer has them.
const SIZE: usize = 1024;

fn update(bencher: Bencher<'_, '_>, config: OptimizerConfig, n: usize) {
    let spec = |i| ParamSpec::new(&format!("{i}"), &[SIZE, SIZE, 1, 1], Init::Zeros);
    let specs: Vec<ParamSpec> = (0..n).map(spec).collect();
    let mut optimizer = config.optimizer(&specs);
    let mut params = vec![vec![0.5; SIZE * SIZE]; n];
    let gradient: Vec<f32> = (0..SIZE * SIZE).map(|i| (i as f32 * 0.37).sin()).collect();
    let gradients = vec![&gradient[..]; n];
    let mut index = 0;
    bencher.counter(ItemsCount::new(n * SIZE * SIZE)).bench_local(|| {
        let mut params: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
        optimizer.step(&mut params, &gradients, Update { index, scale: 1.0, lr: 1e-4 });
        index += 1;
    });
}

#[divan::bench]
fn sgd(bencher: Bencher<'_, '_>) {
    update(bencher, OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }, 4);
}

#[divan::bench]
fn adamw(bencher: Bencher<'_, '_>) {
    let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
    update(bencher, config, 4);
}

/// One matrix: five steps of three products each.
#[divan::bench(sample_count = 5)]
fn muon_of_one_matrix(bencher: Bencher<'_, '_>) {
    let config = OptimizerConfig::Muon {
        momentum: 0.95,
        nesterov: true,
        weight_decay: 0.0,
        adamw_lr: 0.015,
        adamw: Vec::new(),
    };
    update(bencher, config, 1);
}
