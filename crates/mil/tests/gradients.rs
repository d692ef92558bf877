//! A program with its gradients, whole, in halves and with values computed again: the numbers are the same.

use anemone_mil::builder::Builder;
use anemone_mil::grad::{Gradient, Seed, gradient};
use anemone_mil::ir::{DType, Program, TensorType, Version};
use anemone_mil::ops::OpDef;
use anemone_mil::text::{parse, print};
use anemone_mil::{Interpreter, Limits, Tensor, ValidProgram, Weights, validate};
use std::collections::HashMap;

/// `loss = mean((W2 silu(a) + b)^2)` where `a, b = split(softmax(W1 x) x)`: branches, an op with two outputs, and
/// a value that the forward part returns.
fn model() -> ValidProgram {
    let mut b = Builder::new(Version::V1_3);
    let ty = |shape: &[usize]| TensorType::new(DType::Fp32, shape);
    let x = b.input("x", ty(&[1, 4, 1, 3])).unwrap();
    let w1 = b.input("w1", ty(&[4, 4, 1, 1])).unwrap();
    let w2 = b.input("w2", ty(&[2, 2, 1, 1])).unwrap();
    let h = b.pointwise(x, w1).unwrap();
    let p = b.call("softmax").named("p").arg("x", h).constant("axis", Tensor::i32(1)).finish().unwrap();
    let px = b.mul(p, x).unwrap();
    let halves = b
        .call("split")
        .named_each(["a", "b"])
        .arg("x", px)
        .constant("num_splits", Tensor::i32(2))
        .constant("axis", Tensor::i32(1))
        .finish_many()
        .unwrap();
    let s = b.call("silu").named("s").arg("x", halves[0]).finish().unwrap();
    let y = b.pointwise(s, w2).unwrap();
    let y = b.add(y, halves[1]).unwrap();
    let squares = b.call("square").arg("x", y).finish().unwrap();
    let loss = b.reduce_mean(squares, &[0, 1, 2, 3], false).unwrap();
    let program = b.finish(&[loss, p]).unwrap();
    validate(program, &Limits::none()).unwrap()
}

fn with_gradient() -> Gradient {
    let program = model();
    let loss = program.program().functions[0].body.outputs[0].name.clone();
    gradient(&program, &loss, &["w1", "w2", "x"], Seed::Input("seed")).unwrap()
}

/// Runs a program on values by name, and gives its outputs by name; it must print, parse and validate.
fn run(program: &Program, values: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let text = print(program);
    let program = validate(parse(&text).unwrap(), &Limits::none()).unwrap();
    let f = program.main();
    let inputs: Vec<Tensor> = f.inputs.iter().map(|&v| values[&f.value(v).name].clone()).collect();
    let outputs = Interpreter::new(&program, &Weights::new()).unwrap().run(&inputs).unwrap();
    f.outputs.iter().map(|&v| f.value(v).name.clone()).zip(outputs).collect()
}

fn values() -> HashMap<String, Tensor> {
    let wave = |shape: &[usize], step: f64| {
        let n = shape.iter().product::<usize>();
        Tensor::float(DType::Fp32, shape, (0..n).map(|i| (i as f64 * step).sin()).collect())
    };
    [("x", wave(&[1, 4, 1, 3], 0.7)), ("w1", wave(&[4, 4, 1, 1], 1.3)), ("w2", wave(&[2, 2, 1, 1], 2.1))]
        .map(|(name, t)| (name.to_string(), t))
        .into_iter()
        .chain([("seed".to_string(), Tensor::float(DType::Fp32, &[], vec![8.0]))])
        .collect()
}

const NOTHING: fn(&OpDef) -> bool = |_| false;
const ALL: fn(&OpDef) -> bool = |_| true;
const CHEAP: fn(&OpDef) -> bool = |op| !matches!(op.name, "conv" | "matmul");

#[test]
fn halves_compute_what_the_whole_does() {
    let whole = with_gradient();
    let expected = run(&whole.program, &values());
    for recompute in [NOTHING, CHEAP, ALL] {
        let halves = whole.halves(recompute).unwrap();
        let mut known = values();
        let forward = run(&halves.forward, &known);
        assert!(forward.iter().all(|(name, t)| expected.get(name).is_none_or(|e| e == t)));
        known.extend(forward);
        // What the backward program reads is what it says it does.
        known.retain(|name, _| name == "seed" || halves.taps.contains(name));
        let backward = run(&halves.backward, &known);
        let outputs = validate(halves.backward, &Limits::none()).unwrap();
        let outputs = outputs.main().outputs.iter().map(|&v| outputs.main().value(v).name.clone());
        for (found, name) in outputs.zip(&whole.gradients) {
            assert_eq!(backward[&found], expected[name], "{name}");
        }
    }
}

#[test]
fn what_is_computed_again_is_not_handed_over() {
    let whole = with_gradient();
    let taps = |recompute| whole.halves(recompute).unwrap().taps;
    assert_eq!(taps(ALL), ["x", "w1", "w2"]);
    let (kept, cheap) = (taps(NOTHING), taps(CHEAP));
    assert!(kept.iter().any(|t| t == "p") && kept.iter().any(|t| t == "s"), "{kept:?}");
    assert!(!cheap.iter().any(|t| t == "p" || t == "s" || t == "a"), "{cheap:?}");
    // The results of products are.
    assert!(cheap.len() > 3, "{cheap:?}");
}

#[test]
fn values_computed_again_change_no_number() {
    let whole = with_gradient();
    let n_calls = |g: &Gradient| g.program.functions[0].body.calls.iter().filter(|c| c.op != "const").count();
    let expected = run(&whole.program, &values());
    for (recompute, anything) in [(NOTHING, false), (CHEAP, true), (ALL, true)] {
        let again = with_gradient().recomputed(recompute).unwrap();
        let found = run(&again.program, &values());
        for (a, b) in again.gradients.iter().zip(&whole.gradients) {
            assert_eq!(found[a], expected[b], "{b}");
        }
        assert_eq!(n_calls(&again) > n_calls(&whole), anything);
    }
}
