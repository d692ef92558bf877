//! What layers say of inputs that do not fit, losses at the edge of what they are defined for, and which
//! parameters are trained.

use anemone::data::IGNORE;
use anemone::mil::builder::Value;
use anemone::mil::grad::{Seed, gradient};
use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Interpreter, Limits, Tensor, Weights, validate};
use anemone::models::{Gpt, Llama};
use anemone::nn::{self, Conv2d, Graph, Heads, Lora, Model, Outputs, Pass, Pool, PoolKind};
use anemone::params::{Init, ParamSpec};
use anemone::{Error, Result};

/// A model that is a function of its input and target.
struct Whole<F>(F);

impl<F: Fn(&mut Graph, Value, Value) -> Result<Outputs>> Model for Whole<F> {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        (self.0)(g, x, target)
    }
}

fn floats(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Fp32, shape)
}

fn ints(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Int32, shape)
}

const INIT: Init = Init::Uniform { bound: None };

/// The error of a layer on an input of that type.
fn error(x: TensorType, f: impl Fn(&mut Graph, Value) -> Result<Value>) -> Error {
    let model = Whole(|g: &mut Graph, x, target| {
        let prediction = f(g, x)?;
        Ok(Outputs { loss: nn::mse(g, prediction, target)?, prediction })
    });
    Graph::build(&model, x, floats(&[1])).unwrap_err()
}

#[test]
fn errors_name_the_layer_and_the_shapes() {
    let flat = || floats(&[2, 8]);
    let runs = || floats(&[2, 8, 1, 4]);
    let attends = |heads| {
        move |g: &mut Graph, x| {
            let mut pass = Pass::causal(g, 4);
            let k = g.slice(x, &[0; 4], &[2, 4, 1, 4])?;
            nn::attention(g, "h.0.attn", x, k, k, heads, &mut pass)
        }
    };
    let rope = |n_heads| {
        move |g: &mut Graph, x| {
            let mut pass = Pass::causal(g, 4);
            nn::rope(g, "h.0.rope", x, n_heads, 1e4, &mut pass)
        }
    };
    let conv = |conv: Conv2d| move |g: &mut Graph, x| nn::conv2d(g, "conv1", x, &conv);
    for (e, layer, shape) in [
        (error(flat(), |g, x| nn::linear(g, "fc1", x, 4, true, INIT)), "fc1", "[2, 8]"),
        (error(runs(), |g, x| nn::linear(g, "fc1", x, 0, true, INIT)), "fc1", "0 output channels"),
        (error(flat(), |g, x| nn::layer_norm(g, "ln_1", x, 1e-5, true)), "ln_1", "[2, 8]"),
        (error(flat(), |g, x| nn::rms_norm(g, "norm", x, 1e-5)), "norm", "[2, 8]"),
        (error(flat(), |g, x| nn::swiglu(g, "mlp", x, 4, INIT, INIT)), "mlp", "[2, 8]"),
        (error(flat(), conv(Conv2d::same(4, 3))), "conv1", "[2, 8]"),
        (error(runs(), conv(Conv2d { groups: 3, ..Conv2d::same(6, 3) })), "conv1", "[2, 8, 1, 4]"),
        (error(runs(), conv(Conv2d { padding: 0, ..Conv2d::same(6, 3) })), "conv1", "[2, 8, 1, 4]"),
        (error(flat(), |g, x| nn::pool(g, "pool1", x, &Pool::default())), "pool1", "[2, 8]"),
        (error(runs(), |g, x| nn::pool(g, "pool1", x, &Pool::default())), "pool1", "[2, 8, 1, 4]"),
        (error(runs(), |g, x| nn::pool(g, "pool1", x, &Pool { kernel: 0, ..Pool::default() })), "pool1", "0"),
        (error(flat(), |g, x| nn::global_pool(g, "pool", x, PoolKind::Max)), "pool", "[2, 8]"),
        (error(runs(), |g, x| Ok(nn::embedding(g, "wte", x, 5, 4, INIT)?.0)), "wte", "fp32 [2, 8, 1, 4]"),
        (error(ints(&[2, 8]), |g, x| Ok(nn::embedding(g, "wte", x, 0, 4, INIT)?.0)), "wte", "0 tokens"),
        (
            error(runs(), |g, _| {
                let pass = Pass::causal(g, 4);
                nn::positions(g, "wpe", &pass, 3, 4, INIT)
            }),
            "wpe",
            "3 positions, the input 4",
        ),
        (
            error(runs(), |g, x| {
                let table = g.param("wte.weight", &[5, 6], INIT)?;
                nn::tied_classifier(g, "lm_head", x, table)
            }),
            "lm_head",
            "[5, 6, 1, 1]",
        ),
        (error(runs(), attends(Heads { n_heads: 3, n_kv_heads: 3 })), "h.0.attn", "3 heads of 8 channels"),
        (error(runs(), attends(Heads { n_heads: 4, n_kv_heads: 4 })), "h.0.attn", "[2, 4, 1, 4]"),
        (error(runs(), rope(8)), "h.0.rope", "[2, 8, 1, 4]"),
        (error(flat(), rope(2)), "h.0.rope", "[2, 8]"),
    ] {
        let text = e.to_string();
        assert!(e.is_config() && text.contains(&format!("layer `{layer}`")) && text.contains(shape), "{text}");
    }
}

#[test]
fn a_loss_names_the_types_that_do_not_fit() {
    for (logits, target) in [
        (floats(&[2, 5, 1, 4]), ints(&[2, 3])),
        (floats(&[2, 5, 1, 4]), floats(&[2, 4])),
        (floats(&[2, 5]), ints(&[2, 1])),
    ] {
        let model = Whole(|g: &mut Graph, x, t| Ok(Outputs { loss: nn::cross_entropy(g, x, t)?, prediction: x }));
        let e = Graph::build(&model, logits.clone(), target.clone()).unwrap_err().to_string();
        let shape = format!("{:?}", logits.fixed_shape().unwrap());
        assert!(e.contains("`cross_entropy`") && e.contains(&shape) && e.contains(&target.to_string()), "{e}");
    }
    let model = Whole(|g: &mut Graph, x, t| Ok(Outputs { loss: nn::mse(g, x, t)?, prediction: x }));
    let e = Graph::build(&model, floats(&[1, 5, 1, 4]), ints(&[1, 4])).unwrap_err().to_string();
    assert!(e.contains("`mse`") && e.contains("fp32 [1, 5, 1, 4]") && e.contains("int32 [1, 4]"), "{e}");
}

/// Cross-entropy of these logits `[1, classes, 1, targets]`, and its gradient.
fn cross_entropy(logits: Vec<f64>, targets: &[i32]) -> (f64, Vec<f64>) {
    let n = targets.len();
    let classes = logits.len() / n;
    let model = Whole(|g: &mut Graph, x, t| {
        let prediction = g.scale(x, 1.0)?;
        Ok(Outputs { loss: nn::cross_entropy(g, prediction, t)?, prediction })
    });
    let built = Graph::build(&model, floats(&[1, classes, 1, n]), ints(&[1, n])).unwrap();
    let forward = validate(built.program, &Limits::none()).unwrap();
    let joint = gradient(&forward, &built.loss, &[nn::INPUT], Seed::One).unwrap().program;
    let joint = validate(joint, &Limits::none()).unwrap();
    let inputs = [
        Tensor::float(DType::Fp32, &[1, classes, 1, n], logits),
        Tensor::int(DType::Int32, &[1, n], targets.iter().map(|&t| t.into()).collect()),
    ];
    let outputs = Interpreter::new(&joint, &Weights::new()).unwrap().run(&inputs).unwrap();
    (outputs[0].floats().unwrap()[0], outputs[2].floats().unwrap().to_vec())
}

#[test]
fn cross_entropy_is_the_mean_over_the_targets_that_count() {
    // Two classes at two positions: logits 0 and ln 3 are shares of 1/4 and 3/4.
    let ln3 = 3f64.ln();
    let close = |found: (f64, Vec<f64>), loss: f64, gradient: &[f64]| {
        assert!((found.0 - loss).abs() < 1e-6, "{} {loss}", found.0);
        assert!(found.1.iter().zip(gradient).all(|(f, e)| (f - e).abs() < 1e-6), "{:?} {gradient:?}", found.1);
    };
    let logits = || vec![0.0, 0.0, ln3, ln3];
    close(
        cross_entropy(logits(), &[0, 1]),
        (4f64.ln() + (4.0 / 3f64).ln()) / 2.0,
        &[-0.375, 0.125, 0.375, -0.125],
    );
    close(cross_entropy(logits(), &[0, IGNORE]), 4f64.ln(), &[-0.75, 0.0, 0.75, 0.0]);
    assert_eq!(cross_entropy(logits(), &[IGNORE, IGNORE]), (0.0, vec![0.0; 4]));
    // As large as f32 numbers are, only their difference counts.
    close(cross_entropy(vec![1e30, -1e30], &[0]), 0.0, &[0.0, 0.0]);
    close(cross_entropy(vec![1e30, -1e30], &[1]), f64::from(2e30f32), &[1.0, -1.0]);
}

fn specs(model: &dyn Model) -> Vec<ParamSpec> {
    let built = Graph::build(model, ints(&[1, 4]), ints(&[1, 4])).unwrap();
    built.params.into_iter().map(|(spec, _)| spec).collect()
}

#[test]
fn matrices_and_tables_decay_and_the_rest_does_not() {
    let gpt = Gpt { vocabulary: 7, context: 4, n_layers: 1, n_heads: 2, width: 8, ..Gpt::default() };
    let specs = specs(&gpt);
    assert!(specs.iter().all(|s| s.trainable));
    let (decaying, others): (Vec<&ParamSpec>, Vec<&ParamSpec>) = specs.iter().partition(|s| s.decay);
    let expected = [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.0.mlp.c_proj.weight",
    ];
    assert_eq!(decaying.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(others.len(), 3 * 2 + 4);
}

#[test]
fn adapters_are_trained_and_the_rest_is_frozen() {
    let llama = Llama { vocabulary: 7, n_layers: 2, n_heads: 2, width: 8, ..Llama::default() };
    let lora = Lora { targets: vec!["q_proj".into(), "v_proj".into()], ..Lora::default() };
    let adapted = specs(&Llama { lora: Some(lora), ..llama.clone() });
    let trained: Vec<&str> = adapted.iter().filter(|s| s.trainable).map(|s| s.name.as_str()).collect();
    let expected: Vec<String> = ["0", "1"]
        .iter()
        .flat_map(|i| ["q_proj", "v_proj"].map(|layer| format!("model.layers.{i}.self_attn.{layer}")))
        .flat_map(|layer| ["A", "B"].map(|part| format!("{layer}.lora_{part}.weight")))
        .collect();
    assert_eq!(trained, expected);
    let frozen = adapted.iter().filter(|s| !s.trainable).map(|s| &s.name);
    assert!(frozen.eq(specs(&llama).iter().map(|s| &s.name)));
    // Seven linear layers a block, and the classifier.
    let all = specs(&Llama { lora: Some(Lora::default()), ..llama });
    assert_eq!(all.iter().filter(|s| s.trainable).count(), 2 * (2 * 7 + 1));
}
