//! Gradients of a whole network: the training graph on the reference interpreter, and what a step on the device does
//! to the weights, against `fixtures/mlp_gradients.json`, which `fixtures/mlp_gradients.py` calculated with formulas
//! of its own.

mod support;

use anemone::config::{Config, Io, Strategy};
use anemone::data::{Data, Part};
use anemone::mil::grad::{Seed, gradient};
use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Interpreter, Limits, Tensor, Weights, validate};
use anemone::models::Mlp;
use anemone::nn::{Activation, Graph};
use anemone::weights_file::NamedTensor;
use anemone::{Result, Trainer, train::Event};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Fixture {
    sizes: Sizes,
    x: Vec<f64>,
    target: Vec<f64>,
    params: BTreeMap<String, Vec<f64>>,
    loss: f64,
    gradients: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Sizes {
    inputs: usize,
    hidden: usize,
    outputs: usize,
    rows: usize,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/mlp_gradients.json")).unwrap()
}

impl Fixture {
    fn model(&self) -> Mlp {
        Mlp {
            inputs: self.sizes.inputs,
            hidden: vec![self.sizes.hidden],
            outputs: self.sizes.outputs,
            activation: Activation::Tanh,
            bias: true,
            ..Mlp::default()
        }
    }
}

/// The fixture's one batch.
struct Batch(Fixture);

impl Data for Batch {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.0.sizes.inputs, 1, self.0.sizes.rows])
    }

    fn target(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.0.sizes.outputs, 1, self.0.sizes.rows])
    }

    fn batch(&mut self, _: Part, _: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        for (to, from) in [(input, &self.0.x), (target, &self.0.target)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
        }
        Ok(())
    }
}

#[test]
fn the_training_graph_has_the_gradients_calculated_independently() {
    let fixture = fixture();
    let batch = Batch(self::fixture());
    let built = Graph::build(&fixture.model(), batch.input(), batch.target()).unwrap();
    let forward = validate(built.program, &Limits::none()).unwrap();
    let wrt: Vec<&str> = built.params.iter().map(|(_, name)| name.as_str()).collect();
    let joint =
        validate(gradient(&forward, &built.loss, &wrt, Seed::One).unwrap().program, &Limits::none()).unwrap();
    let mut inputs = vec![
        Tensor::float(DType::Fp32, &batch.input().fixed_shape().unwrap(), fixture.x.clone()),
        Tensor::float(DType::Fp32, &batch.target().fixed_shape().unwrap(), fixture.target.clone()),
    ];
    for (spec, _) in &built.params {
        inputs.push(Tensor::float(DType::Fp32, &spec.shape, fixture.params[&spec.name].clone()));
    }
    let outputs = Interpreter::new(&joint, &Weights::new()).unwrap().run(&inputs).unwrap();
    // Loss, prediction, gradients.
    let found = outputs[0].floats().unwrap()[0];
    assert!((found - fixture.loss).abs() < 1e-6, "loss {found}, expected {}", fixture.loss);
    assert_eq!(outputs.len(), 2 + fixture.gradients.len());
    for (output, (spec, _)) in outputs[2..].iter().zip(&built.params) {
        let expected = &fixture.gradients[&spec.name];
        assert_eq!(output.shape(), spec.shape);
        for (i, (found, expected)) in output.floats().unwrap().iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-6, "{} {i}: {found}, expected {expected}", spec.name);
        }
    }
}

/// Gradients as one step of plain descent shows them; the device computes in fp16.
#[test]
fn a_step_on_the_device_goes_along_the_gradients_calculated_independently() {
    for (strategy, io, loss_scale) in [
        (Strategy::Operand, Io::Fp16, 1.0),
        (Strategy::Operand, Io::Fp32, 256.0),
        (Strategy::Baked, Io::Fp16, 1024.0),
        (Strategy::Baked, Io::Fp32, 1.0),
    ] {
        let fixture = fixture();
        let mut config = Config::default();
        config.train.lr = 1.0;
        config.train.steps = 1;
        config.train.loss_scale = f32::into(loss_scale);
        config.weights.strategy = strategy;
        config.weights.io = io;
        let data = Box::new(Batch(self::fixture()));
        let mut trainer = Trainer::with_model(&config, &fixture.model(), data, support::open(&config)).unwrap();
        let mut checkpoint = trainer.checkpoint().unwrap();
        for tensor in &mut checkpoint.tensors {
            tensor.data = fixture.params[&tensor.name].iter().map(|&x| x as f32).collect();
        }
        trainer.resume(&checkpoint).unwrap();
        let Event::Step(step) = trainer.step().unwrap() else { panic!("expected a step") };
        assert!(
            (f64::from(step.loss) / fixture.loss - 1.0).abs() < 2e-3,
            "{}, expected {}",
            step.loss,
            fixture.loss
        );
        for (before, after) in checkpoint.tensors.iter().zip(&trainer.weights()) {
            compare(before, after, &fixture.gradients[&before.name]);
        }
    }
}

fn compare(before: &NamedTensor, after: &NamedTensor, expected: &[f64]) {
    let found: Vec<f64> = before.data.iter().zip(&after.data).map(|(b, a)| f64::from(b - a)).collect();
    assert_eq!(found.len(), expected.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |a: &[f64]| dot(a, a).sqrt();
    let difference: Vec<f64> = found.iter().zip(expected).map(|(f, e)| f - e).collect();
    let cosine = dot(&found, expected) / (norm(&found) * norm(expected));
    let relative = norm(&difference) / norm(expected);
    assert!(cosine > 0.999 && relative < 0.01, "{}: cosine {cosine}, distance {relative}", before.name);
}
