//! The presets as they are, but for the number of steps: strategies against each other, resumed runs against
//! undisturbed ones.

mod support;

use anemone::config::{Config, PRESETS, Strategy};
use anemone::train::StepReport;
use support::{Run, run, run_from};

/// A preset, of a few updates.
fn preset(name: &str, strategy: Strategy) -> Config {
    let mut config = Config::preset(name).unwrap();
    config.train.steps = match name {
        "tiny" => 40,
        "shakespeare" => 3,
        // A second epoch begins in the 26th step.
        _ => 30,
    };
    // Updates as large as they get.
    config.train.schedule.warmup = 0;
    config.eval.every = 1 + config.train.steps / 2;
    config.eval.batches = 2;
    config.weights.strategy = strategy;
    config.weights.overlap = false;
    config
}

/// All that two runs have to share: losses, norms of gradients, loss scales, learning rates, validations, weights.
fn assert_same(a: &Run, b: &Run, what: &str) {
    assert_eq!(a.steps.len(), b.steps.len(), "{what}");
    for (a, b) in a.steps.iter().zip(&b.steps) {
        let numbers = |s: &StepReport| (s.update, s.lr, s.loss_scale, s.gradient_norm, s.skipped);
        assert_eq!((a.loss.to_bits(), numbers(a)), (b.loss.to_bits(), numbers(b)), "{what}, step {}", a.step);
        assert_eq!(a.validation, b.validation, "{what}, step {}", a.step);
    }
    assert!(a.weights == b.weights, "{what}: weights");
    assert_eq!(a.report.best, b.report.best, "{what}");
}

/// The largest relative difference of the losses.
fn deviation(a: &Run, b: &Run) -> f32 {
    assert_eq!(a.steps.len(), b.steps.len());
    a.losses().iter().zip(b.losses()).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max)
}

#[test]
fn operand_and_baked_weights_agree_on_every_preset() {
    for &name in PRESETS {
        let (operand, baked) = (run(&preset(name, Strategy::Operand)), run(&preset(name, Strategy::Baked)));
        if name == "digits-convnet" {
            // Passed kernels are 1x1 ones, so that the gradient of an image is summed from nine parts, each
            // rounded to fp16; the engine's convolution rounds their sum. No loss is further off than by one
            // rounding.
            let found = deviation(&operand, &baked);
            assert!(found < 2f32.powi(-11), "{name}: {found}");
        } else {
            // Both round the same weights to fp16, and sum the same products in the same order.
            assert_same(&operand, &baked, name);
        }
        // Kernels whose weights are an update behind would show.
        let mut overlap = preset(name, Strategy::Baked);
        overlap.weights.overlap = true;
        let found = deviation(&run(&overlap), &operand);
        assert!(found > 2f32.powi(-10), "{name}: {found}");
    }
}

#[test]
fn a_run_resumed_after_every_update_is_the_undisturbed_one_on_every_preset() {
    for &name in PRESETS {
        for strategy in [Strategy::Operand, Strategy::Baked] {
            let config = preset(name, strategy);
            let undisturbed = run(&config);
            let resumed = run_from(&config, None, |_| true).unwrap();
            assert_same(&resumed, &undisturbed, &format!("{name}, {strategy:?}"));
            let n_updates = config.train.steps / config.train.accumulate;
            assert_eq!(resumed.report.stats.resumed_at.len() as u64, n_updates - 1, "{name}, {strategy:?}");
        }
    }
}

/// The convnet's 800 steps would take long here; it needs fewer.
#[test]
fn digits_are_learnt() {
    for (name, steps, expected) in [("digits", 1000, 0.97), ("digits-convnet", 250, 0.98)] {
        let mut config = Config::preset(name).unwrap();
        config.train.steps = steps;
        let found = run(&config).report.validation.unwrap().accuracy.unwrap();
        assert!(found >= expected, "{name}: {found}");
    }
}
