//! What runs where: programs are shared, split, refused and counted as the device's rules ask for, and the numbers
//! stay the same.

use anemone::config::{Config, NonFinite, Place, Strategy};
use anemone::data::{Data, Part};
use anemone::device::{Device, Faults, SoftDevice};
use anemone::mil::builder::Value;
use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Chip, Tensor};
use anemone::nn::{Activation, Graph, Loss, Model, Outputs, linear};
use anemone::params::Init;
use anemone::train::{Description, Event};
use anemone::{Result, Trainer};
use std::sync::Arc;

const INIT: Init = Init::Uniform { bound: None };

/// A stack of layers of these widths, from `x` on.
struct Stack(Vec<usize>);

impl Model for Stack {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let mut y = x;
        for (i, &n_out) in self.0.iter().enumerate() {
            y = linear(g, &format!("fc{i}"), y, n_out, true, INIT)?;
            y = Activation::Tanh.apply(g, y)?;
        }
        Ok(Outputs { loss: Loss::Mse.of(g, y, target)?, prediction: y })
    }
}

/// Two convolutions with windows, the second with strides and in groups.
struct Windows;

impl Model for Windows {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let conv = |g: &mut Graph, name: &str, x: Value, shape: &[usize], stride: i32, pad: i32, groups: i32| {
            let w = g.param(name, shape, INIT)?;
            let y = g
                .call("conv")
                .arg("x", x)
                .arg("weight", w)
                .constant("strides", Tensor::i32s(&[stride; 2]))
                .constant("pad_type", Tensor::string("custom"))
                .constant("pad", Tensor::i32s(&[pad; 4]))
                .constant("dilations", Tensor::i32s(&[1; 2]))
                .constant("groups", Tensor::i32(groups))
                .finish()?;
            Ok::<_, anemone::Error>(g.relu(y)?)
        };
        let h = conv(g, "first", x, &[8, 3, 3, 3], 1, 1, 1)?;
        let y = conv(g, "second", h, &[4, 4, 2, 2], 2, 0, 2)?;
        Ok(Outputs { loss: Loss::Mse.of(g, y, target)?, prediction: y })
    }
}

/// Another batch at every step.
struct Waves {
    x: Vec<usize>,
    target: Vec<usize>,
}

impl Data for Waves {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Fp32, &self.x)
    }

    fn target(&self) -> TensorType {
        TensorType::new(DType::Fp32, &self.target)
    }

    fn batch(&mut self, _: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        for (values, frequency) in [(input, 0.7), (target, 0.3)] {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = (frequency * i as f32 + index as f32).sin());
        }
        Ok(())
    }
}

fn config(change: impl Fn(&mut Config)) -> Config {
    let mut config = Config::default();
    config.train.steps = 6;
    config.train.lr = 0.5;
    config.train.non_finite = NonFinite::Fail;
    change(&mut config);
    config
}

/// The plan, the losses and the last weights.
fn train(chip: Chip, model: &dyn Model, data: Waves, config: &Config) -> (Description, Vec<f32>, Vec<f32>) {
    let device: Arc<dyn Device> = Arc::new(SoftDevice::new(chip, Faults::default()));
    let mut trainer = Trainer::with_model(config, model, Box::new(data), device).unwrap();
    let mut losses = Vec::new();
    while let Event::Step(step) = trainer.step().unwrap() {
        losses.push(step.loss);
    }
    let weights = trainer.weights().into_iter().flat_map(|t| t.data).collect();
    (trainer.plan().clone(), losses, weights)
}

fn columns(channels: usize, outputs: usize) -> Waves {
    Waves { x: vec![1, channels, 1, 16], target: vec![1, outputs, 1, 16] }
}

/// By how much two lists of numbers differ, relative to the second.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn layers_of_one_form_share_a_program_where_weights_are_passed_in() {
    let model = Stack(vec![64; 5]);
    let (plan, losses, _) = train(Chip::M4, &model, columns(64, 64), &config(|_| {}));
    // Forward W x five times, backward W^T x four times.
    assert_eq!((plan.dispatches, plan.compiles), (9, 2), "{plan}");
    let baked = config(|c| {
        c.weights.strategy = Strategy::Baked;
        c.weights.overlap = false;
    });
    let (plan, baked_losses, _) = train(Chip::M4, &model, columns(64, 64), &baked);
    assert_eq!((plan.dispatches, plan.compiles), (9, 9), "{plan}");
    assert_eq!(losses, baked_losses);
}

#[test]
fn a_layer_too_large_for_the_device_is_split_and_gives_the_same() {
    // M1 and M2 sum over 16384 channels at most.
    let wide = Stack(vec![4, 20000, 4]);
    let (plan, losses, _) = train(Chip::M2, &wide, columns(32, 4), &config(|c| c.train.steps = 3));
    assert!(plan.refused.is_empty(), "{plan}");
    let calls: Vec<&String> = plan.programs.iter().flat_map(|p| &p.calls).collect();
    let parts = |label: &str| calls.iter().filter(|c| c.starts_with(label)).count();
    // The layers into and out of 20000 channels, in two parts each, forward and backward.
    assert_eq!((parts("fc0"), parts("fc1_"), parts("fc2_")), (1, 4, 4), "{plan}");
    let (whole, expected, _) = train(Chip::M4, &wide, columns(32, 4), &config(|c| c.train.steps = 3));
    assert!(whole.dispatches < plan.dispatches);
    assert!(difference(&losses, &expected) < 1e-3, "{losses:?} {expected:?}");
}

#[test]
fn what_a_chip_computes_wrong_stays_on_the_host_and_is_named() {
    // M1 gives zeros for sums whose length is no multiple of 32.
    let model = Stack(vec![64, 30]);
    let (plan, losses, _) = train(Chip::M1, &model, columns(32, 30), &config(|_| {}));
    assert!(plan.refused.iter().any(|(_, why)| why.contains("matmul-multiple")), "{plan}");
    assert_eq!(plan.dispatches, 2, "{plan}");
    let (elsewhere, expected, _) = train(Chip::M4, &model, columns(32, 30), &config(|_| {}));
    assert_eq!(elsewhere.dispatches, 3, "{elsewhere}");
    assert!(difference(&losses, &expected) < 1e-3);
}

#[test]
fn no_more_programs_are_loaded_than_the_device_keeps() {
    // 60 layers, forward and backward, each another program; new kernels are made while old ones are loaded.
    let model = Stack((0..60).map(|i| 33 + i).collect());
    let baked = config(|c| {
        c.weights.strategy = Strategy::Baked;
        c.train.steps = 1;
    });
    let (plan, _, _) = train(Chip::M4, &model, columns(32, 92), &baked);
    let device = SoftDevice::new(Chip::M4, Faults::default());
    let max = device.limits().max_live_programs().unwrap().min(device.limits().max_compiles().unwrap());
    assert_eq!(plan.dispatches, max / 2, "{plan}");
    assert_eq!(plan.dispatches + plan.refused.len(), 119);
    // Those with the least work stay.
    assert!(plan.refused.iter().any(|(label, _)| label == "fc0"), "{plan}");
}

#[test]
fn convolutions_with_windows_become_linear_layers_where_weights_are_passed_in() {
    let data = || Waves { x: vec![2, 3, 6, 6], target: vec![2, 4, 3, 3] };
    let (plan, losses, weights) = train(Chip::M4, &Windows, data(), &config(|_| {}));
    assert_eq!(plan.dispatches, 3, "{plan}");
    assert!(plan.refused.is_empty() && plan.programs.iter().all(|p| p.what.starts_with('W')), "{plan}");
    let baked = config(|c| {
        c.weights.strategy = Strategy::Baked;
        c.weights.overlap = false;
    });
    let (plan, expected, expected_weights) = train(Chip::M4, &Windows, data(), &baked);
    assert!(plan.programs.iter().any(|p| p.what == "conv_transpose"), "{plan}");
    // The same sums in fp16, in another order.
    assert!(difference(&losses, &expected) < 1e-3, "{losses:?} {expected:?}");
    assert!(difference(&weights, &expected_weights) < 1e-3);
}

#[test]
fn gradients_of_weights_on_the_device_are_those_of_the_host() {
    for (model, data) in [
        (&Stack(vec![48, 32]) as &dyn Model, columns(32, 32)),
        (&Windows, Waves { x: vec![2, 3, 6, 6], target: vec![2, 4, 3, 3] }),
    ] {
        let data = || Waves { x: data.x.clone(), target: data.target.clone() };
        let (host_plan, _, expected) = train(Chip::M4, model, data(), &config(|_| {}));
        let on_device = config(|c| c.plan.weight_gradients = Place::Device);
        let (plan, _, weights) = train(Chip::M4, model, data(), &on_device);
        assert!(plan.dispatches > host_plan.dispatches && plan.host_flops < host_plan.host_flops, "{plan}");
        let moved = difference(&weights, &expected);
        // They differ by the rounding of gradients to fp16, and so they should.
        assert!(moved > 0.0 && moved < 1e-3, "{moved}");
    }
}

#[test]
fn activations_computed_again_change_no_number() {
    for strategy in [Strategy::Operand, Strategy::Baked] {
        let [kept, again] = [false, true].map(|recompute| {
            let config = config(|c| {
                c.plan.recompute = recompute;
                c.weights.strategy = strategy;
                c.weights.overlap = false;
            });
            train(Chip::M4, &Stack(vec![64, 48, 32]), columns(32, 32), &config)
        });
        assert_eq!((&kept.1, &kept.2), (&again.1, &again.2));
        let calls = |p: &Description| p.host.iter().map(|op| op.calls).sum::<usize>();
        assert!(calls(&again.0) > calls(&kept.0), "{}", again.0);
    }
}

#[test]
fn work_on_the_host_beside_the_device_changes_no_number() {
    // Large enough that the gradients of the weights are computed while the device works.
    let model = Stack(vec![512, 512, 512]);
    let data = || Waves { x: vec![1, 512, 1, 64], target: vec![1, 512, 1, 64] };
    let run = || train(Chip::M4, &model, data(), &config(|c| c.train.steps = 3));
    let (plan, losses, weights) = run();
    assert!(plan.host_flops / 3 > 4_000_000, "{plan}");
    let (_, again, weights_again) = run();
    assert_eq!((losses, weights), (again, weights_again));
}

#[test]
fn while_kernels_are_compiled_the_host_goes_by_the_weights_of_those_that_train() {
    // Biases are added on the host, weights are in the kernels.
    let model = Stack(vec![24, 16]);
    let losses = |lr: f32| {
        let config = config(|c| {
            c.weights.strategy = Strategy::Baked;
            c.weights.overlap = true;
            c.train.lr = lr;
        });
        train(Chip::M4, &model, columns(32, 16), &config).1
    };
    let (moving, standing) = (losses(0.5), losses(1e-30));
    // The second batch still trains with the first weights, all of them; the third does not.
    assert_eq!(moving[..2], standing[..2]);
    assert_ne!(moving[2], standing[2]);
}

/// A matrix product whose sum over another axis than the batch's is no gradient of a weight.
struct Scores;

impl Model for Scores {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let y = linear(g, "fc", x, 8, false, INIT)?;
        let rows = g.reshape(y, &[4, 8, 4])?;
        let scores = g.matmul(rows, rows, false, true)?;
        let sums = g.reduce_sum(scores, &[1], false)?;
        let prediction = g.reshape(sums, &[1, 32, 1, 1])?;
        Ok(Outputs { loss: Loss::Mse.of(g, prediction, target)?, prediction })
    }
}

#[test]
fn only_sums_over_the_batch_go_with_a_gradient_to_the_device() {
    let data = || Waves { x: vec![4, 8, 1, 4], target: vec![1, 32, 1, 1] };
    let (_, expected, _) = train(Chip::M4, &Scores, data(), &config(|c| c.train.lr = 1e-3));
    let on_device = config(|c| {
        c.train.lr = 1e-3;
        c.plan.weight_gradients = Place::Device;
    });
    let (plan, losses, _) = train(Chip::M4, &Scores, data(), &on_device);
    assert!(plan.programs.iter().any(|p| p.what == "dy x^T"), "{plan}");
    assert!(difference(&losses, &expected) < 1e-3, "{losses:?} {expected:?}");
}
