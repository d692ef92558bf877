//! Gradients of layers and whole models, by the reference interpreter and by a step on the device, against
//! `fixtures/gradients.safetensors`, which `fixtures/gradients.py` computed in f64 with JAX from models of its
//! own; `fixtures/gradients_transformers.py` compares those of transformers with what PyTorch computes.

mod support;

use anemone::config::{Config, Io, Place, PlanConfig, Strategy};
use anemone::data::{Data, IGNORE, Part};
use anemone::mil::builder::Value;
use anemone::mil::grad::{Seed, gradient};
use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Interpreter, Limits, Tensor, Weights, validate};
use anemone::models::{ConvBlock, Convnet, Gpt, Llama, Mlp, Reduction};
use anemone::nn::{self, Activation, Conv2d, Graph, Heads, Lora, Loss, Model, Outputs, Pass, Pool, PoolKind};
use anemone::params::{Init, ParamSpec};
use anemone::random::Random;
use anemone::{Result, Trainer, train::Event};
use std::collections::BTreeMap;

/// Loss and gradients of all cases by `CASE/NAME`.
fn fixture() -> BTreeMap<String, Vec<f64>> {
    let file = safetensors::SafeTensors::deserialize(include_bytes!("fixtures/gradients.safetensors")).unwrap();
    let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect();
    file.iter().map(|(name, view)| (name.to_string(), values(view.data()))).collect()
}

/// The numbers that go in: the sequence whose seed is the 64-bit FNV-1a hash of the name.
fn bits(name: &str, n: usize) -> impl Iterator<Item = u64> {
    let hash = |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut random = Random::new(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash));
    (0..n).map(move |_| random.bits())
}

/// Numbers in [-1, 1) that f32 holds exactly.
fn values(name: &str, n: usize) -> Vec<f32> {
    bits(name, n).map(|bits| ((bits >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32).collect()
}

struct Case {
    name: &'static str,
    model: Box<dyn Model>,
    x: TensorType,
    target: TensorType,
    /// The number of tokens and of classes, where there are any.
    n_tokens: usize,
    n_classes: usize,
}

impl Case {
    /// The first values of a parameter.
    fn param(&self, spec: &ParamSpec) -> Vec<f32> {
        let u = values(&format!("{}/{}", self.name, spec.name), spec.n_elements());
        let (offset, scale) = match spec.init {
            Init::Ones => (1.0, 0.25),
            Init::Zeros => (0.0, 0.25),
            _ => (0.0, 0.5),
        };
        u.into_iter().map(|u| offset + scale * u).collect()
    }

    fn batch(&self) -> [Vec<f32>; 2] {
        let n = |ty: &TensorType| ty.n_elements().unwrap();
        let [x, target] = ["x", "target"].map(|part| format!("{}/{part}", self.name));
        let class = |name: &str, n, n_classes: usize| -> Vec<f32> {
            bits(name, n).map(|b| (b % n_classes as u64) as f32).collect()
        };
        let x = match self.x.dtype {
            DType::Int32 => class(&x, n(&self.x), self.n_tokens),
            _ => values(&x, n(&self.x)),
        };
        let mut target = match self.target.dtype {
            DType::Int32 => class(&target, n(&self.target), self.n_classes),
            _ => return [x, values(&target, n(&self.target))],
        };
        target.iter_mut().step_by(3).for_each(|t| *t = IGNORE as f32);
        [x, target]
    }
}

/// A case's one batch.
struct Batch {
    types: [TensorType; 2],
    values: [Vec<f32>; 2],
}

impl Data for Batch {
    fn input(&self) -> TensorType {
        self.types[0].clone()
    }

    fn target(&self) -> TensorType {
        self.types[1].clone()
    }

    fn batch(&mut self, _: Part, _: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        input.copy_from_slice(&self.values[0]);
        target.copy_from_slice(&self.values[1]);
        Ok(())
    }
}

/// A layer on `x + h` with `h` a parameter, so that the gradient of its input shows.
struct On<F>(Loss, F);

impl<F: Fn(&mut Graph, Value) -> Result<Value>> Model for On<F> {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let shape = g.shape(x)?;
        let h = g.param("h", &shape, INIT)?;
        let h = g.add(x, h)?;
        let prediction = (self.1)(g, h)?;
        Ok(Outputs { loss: self.0.of(g, prediction, target)?, prediction })
    }
}

/// Anything.
struct Whole<F>(F);

impl<F: Fn(&mut Graph, Value, Value) -> Result<Outputs>> Model for Whole<F> {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        (self.0)(g, x, target)
    }
}

/// What the test replaces by the fixture's numbers.
const INIT: Init = Init::Uniform { bound: None };
const RUNS: [usize; 4] = [2, 8, 1, 8];
const IMAGES: [usize; 4] = [2, 4, 7, 6];

fn floats(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Fp32, shape)
}

fn ints(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Int32, shape)
}

fn case(name: &'static str, model: impl Model + 'static, x: TensorType, target: TensorType) -> Case {
    Case { name, model: Box::new(model), x, target, n_tokens: 11, n_classes: 11 }
}

/// A layer from an input of one shape to an output of another.
fn layer(
    name: &'static str,
    [x, y]: [&[usize]; 2],
    f: impl Fn(&mut Graph, Value) -> Result<Value> + 'static,
) -> Case {
    case(name, On(Loss::Mse, f), floats(x), floats(y))
}

fn convolution(name: &'static str, y: [usize; 4], conv: Conv2d) -> Case {
    layer(name, [&IMAGES, &y], move |g, x| nn::conv2d(g, "conv", x, &conv))
}

fn pooling(name: &'static str, kind: PoolKind) -> Case {
    let pool = Pool { kind, kernel: 3, stride: 2, padding: 1 };
    layer(name, [&IMAGES, &[2, 4, 4, 3]], move |g, x| nn::pool(g, "pool", x, &pool))
}

fn global(name: &'static str, kind: PoolKind) -> Case {
    layer(name, [&IMAGES, &[2, 4, 1, 1]], move |g, x| nn::global_pool(g, "pool", x, kind))
}

fn activation(name: &'static str, f: Activation) -> Case {
    layer(name, [&RUNS, &RUNS], move |g, x| f.apply(g, x))
}

/// Attention whose queries, keys and values are channels of its input.
fn attends(name: &'static str, heads: Heads, width: usize) -> Case {
    let kv_width = width / heads.n_heads * heads.n_kv_heads;
    let x = [2, width + 2 * kv_width, 1, 8];
    layer(name, [&x, &[2, width, 1, 8]], move |g, x| {
        let part = |g: &mut Graph, first: usize, n: usize| g.slice(x, &[0, first, 0, 0], &[2, n, 1, 8]);
        let (q, k) = (part(g, 0, width)?, part(g, width, kv_width)?);
        let v = part(g, width + kv_width, kv_width)?;
        let mut pass = Pass::causal(g, 8);
        nn::attention(g, "attention", q, k, v, heads, &mut pass)
    })
}

fn layers() -> Vec<Case> {
    let lora = |g: &mut Graph, x, target| {
        g.adapt(&Lora { rank: 2, alpha: 3.0, targets: vec!["fc".into()] });
        let prediction = nn::linear(g, "fc", x, 6, false, INIT)?;
        Ok(Outputs { loss: nn::mse(g, prediction, target)?, prediction })
    };
    let embedded = |g: &mut Graph, x, target| {
        let pass = Pass::causal(g, 8);
        let (h, _) = nn::embedding(g, "wte", x, 11, 8, INIT)?;
        let positions = nn::positions(g, "wpe", &pass, 9, 8, INIT)?;
        let prediction = g.add(h, positions)?;
        Ok(Outputs { loss: nn::mse(g, prediction, target)?, prediction })
    };
    let tied = |g: &mut Graph, x, target| {
        let (h, table) = nn::embedding(g, "wte", x, 11, 8, INIT)?;
        let h = Activation::Tanh.apply(g, h)?;
        let prediction = nn::tied_classifier(g, "head", h, table)?;
        Ok(Outputs { loss: nn::cross_entropy(g, prediction, target)?, prediction })
    };
    let conv = Conv2d { stride: 2, groups: 2, ..Conv2d::same(6, 3) };
    vec![
        layer("linear", [&RUNS, &[2, 6, 1, 8]], |g, x| nn::linear(g, "fc", x, 6, true, INIT)),
        case("lora", Whole(lora), floats(&RUNS), floats(&[2, 6, 1, 8])),
        convolution("conv", [2, 6, 7, 6], Conv2d::same(6, 3)),
        convolution("conv_grouped", [2, 6, 4, 3], conv),
        convolution("conv_patches", [2, 6, 3, 3], Conv2d { stride: 2, padding: 0, ..Conv2d::same(6, 2) }),
        convolution("conv_depthwise", [2, 4, 9, 8], Conv2d { padding: 2, groups: 4, ..Conv2d::same(4, 3) }),
        pooling("max_pool", PoolKind::Max),
        pooling("average_pool", PoolKind::Average),
        global("global_max", PoolKind::Max),
        global("global_average", PoolKind::Average),
        layer("layer_norm", [&RUNS, &RUNS], |g, x| nn::layer_norm(g, "norm", x, 1e-5, true)),
        layer("rms_norm", [&RUNS, &RUNS], |g, x| nn::rms_norm(g, "norm", x, 1e-5)),
        activation("relu", Activation::Relu),
        activation("sigmoid", Activation::Sigmoid),
        activation("tanh", Activation::Tanh),
        activation("gelu", Activation::Gelu),
        activation("gelu_tanh", Activation::GeluTanh),
        activation("silu", Activation::Silu),
        layer("swiglu", [&RUNS, &RUNS], |g, x| nn::swiglu(g, "mlp", x, 12, INIT, INIT)),
        layer("rope", [&RUNS, &RUNS], |g, x| {
            let mut pass = Pass::causal(g, 8);
            nn::rope(g, "rope", x, 2, 10.0, &mut pass)
        }),
        attends("attention", Heads { n_heads: 2, n_kv_heads: 2 }, 8),
        attends("attention_grouped", Heads { n_heads: 4, n_kv_heads: 2 }, 16),
        Case {
            n_classes: 7,
            ..case(
                "cross_entropy",
                On(Loss::CrossEntropy, |_: &mut _, h| Ok(h)),
                floats(&[2, 7, 1, 8]),
                ints(&[2, 8]),
            )
        },
        case("embedding", Whole(embedded), ints(&[2, 8]), floats(&RUNS)),
        case("tied", Whole(tied), ints(&[2, 8]), ints(&[2, 8])),
    ]
}

fn mlp() -> Case {
    let mlp = Mlp { hidden: vec![12, 10], activation: Activation::Tanh, outputs: 8, ..biased() };
    case("mlp", mlp, floats(&[1, 8, 1, 16]), floats(&[1, 8, 1, 16]))
}

fn biased() -> Mlp {
    Mlp { inputs: 8, bias: true, ..Mlp::default() }
}

fn models() -> Vec<Case> {
    let classes = Mlp { hidden: vec![12], outputs: 5, loss: Loss::CrossEntropy, ..biased() };
    let convnet = Convnet {
        blocks: vec![
            ConvBlock { channels: 4, pool: Some(Pool::default()), ..ConvBlock::default() },
            ConvBlock {
                channels: 8,
                stride: 2,
                groups: 2,
                activation: Activation::GeluTanh,
                pool: Some(Pool { kind: PoolKind::Average, kernel: 3, stride: 1, padding: 1 }),
                ..ConvBlock::default()
            },
        ],
        reduction: Reduction::Flatten,
        classes: 5,
        lora: None,
    };
    let gpt = Gpt { vocabulary: 23, context: 10, n_layers: 2, n_heads: 4, width: 16, ..Gpt::default() };
    let untied = Gpt { activation: Activation::Gelu, bias: false, tied: false, ..gpt.clone() };
    let llama = Llama {
        vocabulary: 23,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        width: 16,
        hidden: 24,
        theta: 100.0,
        ..Llama::default()
    };
    let tied = Llama { tied: true, ..llama.clone() };
    let of_tokens = |name, model: Box<dyn Model>| Case {
        name,
        model,
        x: ints(&[2, 8]),
        target: ints(&[2, 8]),
        n_tokens: 23,
        n_classes: 23,
    };
    vec![
        mlp(),
        Case { n_classes: 5, ..case("mlp_classes", classes, floats(&[1, 8, 1, 16]), ints(&[1, 16])) },
        Case { n_classes: 5, ..case("convnet", convnet, floats(&[4, 2, 8, 8]), ints(&[4, 1])) },
        of_tokens("gpt", Box::new(gpt)),
        of_tokens("gpt_untied", Box::new(untied)),
        of_tokens("llama", Box::new(llama)),
        of_tokens("llama_tied", Box::new(tied)),
    ]
}

/// How far a gradient is from the one expected: 1 - cosine, and the distance relative to the length.
fn deviation(found: &[f64], expected: &[f64]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |a: &[f64]| dot(a, a).sqrt();
    let difference: Vec<f64> = found.iter().zip(expected).map(|(f, e)| f - e).collect();
    (1.0 - dot(found, expected) / (norm(found) * norm(expected)), norm(&difference) / norm(expected))
}

/// The gradients of a case, and that the fixture knows no others.
fn names(case: &Case, specs: &[ParamSpec], fixture: &BTreeMap<String, Vec<f64>>) -> Vec<String> {
    let of_case = format!("{}/", case.name);
    let mut names: Vec<String> =
        specs.iter().filter(|s| s.trainable).map(|s| format!("{of_case}{}", s.name)).collect();
    let mut expected: Vec<&String> = fixture.keys().filter(|k| k.starts_with(&of_case)).collect();
    expected.retain(|k| !k.ends_with("/loss"));
    let given = names.clone();
    names.sort();
    assert_eq!(names.iter().collect::<Vec<_>>(), expected, "the parameters of `{}`", case.name);
    given
}

fn is_the_references(case: &Case, fixture: &BTreeMap<String, Vec<f64>>) {
    let built = Graph::build(&*case.model, case.x.clone(), case.target.clone()).unwrap();
    let forward = validate(built.program, &Limits::none()).unwrap();
    let trained = built.params.iter().filter(|(spec, _)| spec.trainable);
    let wrt: Vec<&str> = trained.map(|(_, name)| name.as_str()).collect();
    let joint = gradient(&forward, &built.loss, &wrt, Seed::One).unwrap();
    let joint = validate(joint.program, &Limits::none()).unwrap();
    let tensor = |ty: &TensorType, values: Vec<f32>| match ty.dtype {
        DType::Int32 => {
            Tensor::int(DType::Int32, &ty.fixed_shape().unwrap(), values.iter().map(|&x| x as i64).collect())
        }
        _ => Tensor::float(DType::Fp32, &ty.fixed_shape().unwrap(), values.into_iter().map(f64::from).collect()),
    };
    let [x, target] = case.batch();
    let mut inputs = vec![tensor(&case.x, x), tensor(&case.target, target)];
    inputs.extend(built.params.iter().map(|(spec, _)| tensor(&floats(&spec.shape), case.param(spec))));
    let outputs = Interpreter::new(&joint, &Weights::new()).unwrap().run(&inputs).unwrap();

    // Loss, prediction, gradients.
    let (found, expected) = (outputs[0].floats().unwrap()[0], fixture[&format!("{}/loss", case.name)][0]);
    assert!((found / expected - 1.0).abs() < 1e-6, "{}: loss {found}, expected {expected}", case.name);
    let specs: Vec<ParamSpec> = built.params.into_iter().map(|(spec, _)| spec).collect();
    let names = names(case, &specs, fixture);
    assert_eq!(outputs.len(), 2 + names.len());
    for (output, name) in outputs[2..].iter().zip(&names) {
        let (_, distance) = deviation(output.floats().unwrap(), &fixture[name]);
        assert!(distance < 1e-5, "{name}: distance {distance}");
    }
}

#[test]
fn layers_have_the_gradients_that_jax_computes() {
    let fixture = fixture();
    layers().iter().for_each(|case| is_the_references(case, &fixture));
}

#[test]
fn models_have_the_gradients_that_jax_computes() {
    let fixture = fixture();
    models().iter().for_each(|case| is_the_references(case, &fixture));
}

#[test]
fn every_case_of_the_fixture_is_compared() {
    let fixture = fixture();
    let mut compared: Vec<&str> = layers().iter().chain(&models()).map(|case| case.name).collect();
    let mut expected: Vec<&str> = fixture.keys().filter_map(|k| k.strip_suffix("/loss")).collect();
    compared.sort_unstable();
    expected.sort_unstable();
    assert_eq!(compared, expected);
}

/// Gradients as one step of plain descent shows them; linear layers run on the device in fp16.
fn goes_along_on_the_device(case: &Case, config: &Config, fixture: &BTreeMap<String, Vec<f64>>) {
    let built = Graph::build(&*case.model, case.x.clone(), case.target.clone()).unwrap();
    let specs: Vec<ParamSpec> = built.params.into_iter().map(|(spec, _)| spec).collect();
    let data = Box::new(Batch { types: [case.x.clone(), case.target.clone()], values: case.batch() });
    let mut trainer = Trainer::with_model(config, &*case.model, data, support::open(config)).unwrap();
    let mut checkpoint = trainer.checkpoint().unwrap();
    for (tensor, spec) in checkpoint.tensors.iter_mut().zip(&specs) {
        assert_eq!(tensor.name, spec.name);
        tensor.data = case.param(spec);
    }
    trainer.resume(checkpoint.clone()).unwrap();
    let Event::Step(step) = trainer.step().unwrap() else { panic!("expected a step") };
    // Every model has linear layers, which are the device's.
    let is_model = models().iter().any(|model| model.name == case.name);
    assert!(step.compiles > 0 || !is_model, "{}: nothing ran on the device", case.name);
    let (found, expected) = (f64::from(step.loss), fixture[&format!("{}/loss", case.name)][0]);
    assert!((found / expected - 1.0).abs() < 2e-3, "{}: loss {found}, expected {expected}", case.name);
    let mut names = names(case, &specs, fixture).into_iter();
    for ((before, after), spec) in checkpoint.tensors.iter().zip(trainer.weights()).zip(&specs) {
        if !spec.trainable {
            assert_eq!(before.data, after.data, "{}/{} is frozen", case.name, spec.name);
            continue;
        }
        let name = names.next().unwrap();
        let found: Vec<f64> = before.data.iter().zip(&after.data).map(|(b, a)| f64::from(b - a)).collect();
        let (angle, distance) = deviation(&found, &fixture[&name]);
        assert!(angle < 1e-3 && distance < 0.05, "{name}: 1 - cosine {angle}, distance {distance}");
    }
}

fn one_step(strategy: Strategy, io: Io, loss_scale: f32) -> Config {
    let mut config = Config::default();
    config.train.lr = 1.0;
    config.train.steps = 1;
    config.train.loss_scale = loss_scale.into();
    config.weights.strategy = strategy;
    config.weights.io = io;
    config
}

#[test]
fn a_step_on_the_device_goes_along_the_gradients_that_jax_computes() {
    let fixture = fixture();
    for config in [
        one_step(Strategy::Operand, Io::Fp16, 1.0),
        one_step(Strategy::Operand, Io::Fp32, 256.0),
        one_step(Strategy::Baked, Io::Fp32, 1.0),
    ] {
        goes_along_on_the_device(&mlp(), &config, &fixture);
    }
    for case in layers().iter().chain(&models()) {
        for strategy in [Strategy::Baked, Strategy::Operand] {
            goes_along_on_the_device(case, &one_step(strategy, Io::Fp16, 1024.0), &fixture);
        }
    }
}

#[test]
fn so_it_does_with_gradients_of_weights_on_the_device_and_activations_computed_again() {
    let fixture = fixture();
    let config = one_step(Strategy::Operand, Io::Fp16, 1024.0);
    for case in &models() {
        let plan = PlanConfig { weight_gradients: Place::Device, recompute: false };
        goes_along_on_the_device(case, &Config { plan, ..config.clone() }, &fixture);
        let plan = PlanConfig { weight_gradients: Place::Host, recompute: true };
        goes_along_on_the_device(case, &Config { plan, ..config.clone() }, &fixture);
    }
}
