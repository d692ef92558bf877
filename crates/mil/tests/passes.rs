//! Passes change a program, not what it computes.

use anemone_mil::builder::Builder;
use anemone_mil::ir::{DType, Program, TensorType, Version};
use anemone_mil::pass::{split, unfold};
use anemone_mil::{Interpreter, Limits, Tensor, ValidProgram, Weights, validate};

/// A convolution with weights `[6, 4 / groups, kernel..]` passed in.
struct Case {
    image: &'static [usize],
    kernel: &'static [usize],
    strides: &'static [i32],
    dilations: &'static [i32],
    pad: Option<&'static [i32]>,
    groups: i32,
    bias: bool,
}

const CASE: Case = Case {
    image: &[5, 7],
    kernel: &[3, 3],
    strides: &[1, 1],
    dilations: &[1, 1],
    pad: None,
    groups: 1,
    bias: false,
};

fn program(case: &Case) -> ValidProgram {
    let mut b = Builder::new(Version::V1_3);
    let ty = |shape: &[usize]| TensorType::new(DType::Fp32, shape);
    let x = b.input("x", ty(&[&[2, 4], case.image].concat())).unwrap();
    let w = b.input("w", ty(&[&[6, 4 / case.groups as usize], case.kernel].concat())).unwrap();
    let bias = b.input("bias", ty(&[6])).unwrap();
    let pad = case.pad.map(<[i32]>::to_vec).unwrap_or_else(|| vec![0; 2 * case.kernel.len()]);
    let mut call = b
        .call("conv")
        .named("y")
        .arg("x", x)
        .arg("weight", w)
        .constant("strides", Tensor::i32s(case.strides))
        .constant("dilations", Tensor::i32s(case.dilations))
        .constant("pad_type", Tensor::string(if case.pad.is_some() { "custom" } else { "same" }))
        .constant("pad", Tensor::i32s(&pad))
        .constant("groups", Tensor::i32(case.groups));
    if case.bias {
        call = call.arg("bias", bias);
    }
    let y = call.finish().unwrap();
    validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap()
}

#[test]
fn an_unfolded_convolution_gives_the_same() {
    let cases = [
        CASE,
        Case { pad: Some(&[0, 0, 0, 0]), ..CASE },
        Case { pad: Some(&[2, 1, 0, 3]), ..CASE },
        Case { strides: &[2, 3], ..CASE },
        Case { strides: &[2, 2], pad: Some(&[0, 0, 1, 0]), bias: true, ..CASE },
        Case { kernel: &[1, 1], strides: &[2, 2], ..CASE },
        // As many windows as elements, and yet not one for each.
        Case { image: &[4, 4], kernel: &[1, 1], strides: &[2, 2], pad: Some(&[2, 2, 2, 2]), ..CASE },
        Case { kernel: &[2, 3], dilations: &[2, 1], groups: 2, bias: true, ..CASE },
        Case { image: &[9], kernel: &[4], strides: &[2], dilations: &[1], pad: Some(&[1, 1]), groups: 2, ..CASE },
    ];
    for (i, case) in cases.iter().enumerate() {
        let before = program(case);
        let after = validate(unfold(&before, |_, _| true).unwrap(), &Limits::none()).unwrap();
        let f = after.main();
        let conv = f.body.calls.iter().filter(|c| c.op.name == "conv").collect::<Vec<_>>();
        assert_eq!(conv.len(), 1);
        let weight = &conv[0].args[conv[0].op.param("weight").unwrap().0];
        let shape = f.value(weight.as_ref().unwrap().ids()[0]).ty.as_tensor().unwrap().fixed_shape().unwrap();
        assert!(shape[2..].iter().all(|&k| k == 1), "case {i}: {shape:?}");

        check_same(&before, &after, 0.0, &format!("case {i}"));
    }
}

/// Both programs give the same but for a relative error.
fn check_same(before: &ValidProgram, after: &ValidProgram, tolerance: f64, what: &str) {
    let inputs: Vec<Tensor> = before
        .main()
        .inputs
        .iter()
        .map(|&v| before.main().value(v))
        .map(|v| {
            let shape = v.ty.as_tensor().unwrap().fixed_shape().unwrap();
            let n = shape.iter().product::<usize>() as u32;
            Tensor::float(DType::Fp32, &shape, (0..n).map(|i| (f64::from(i) * 0.37).sin()).collect())
        })
        .collect();
    let run = |p: &ValidProgram| Interpreter::new(p, &Weights::new()).unwrap().run(&inputs).unwrap();
    let (expected, found) = (run(before), run(after));
    assert_eq!(expected[0].shape(), found[0].shape(), "{what}");
    for (e, f) in expected[0].floats().unwrap().iter().zip(found[0].floats().unwrap()) {
        assert!((e - f).abs() <= tolerance * e.abs().max(1.0), "{what}: {f}, expected {e}");
    }
}

#[test]
fn a_split_layer_gives_the_same() {
    let layer = program(&Case { kernel: &[1, 1], ..CASE });
    for (n_out, n_in) in [(1, 2), (2, 1), (4, 3), (100, 1)] {
        let after = validate(split(&layer, |_, _| Some((n_out, n_in))).unwrap(), &Limits::none()).unwrap();
        let calls = &after.main().body.calls;
        let n_convs = calls.iter().filter(|c| c.op.name == "conv").count();
        assert_eq!(n_convs, n_out.min(6) * n_in.min(4));
        // Sums in parts round in other places.
        check_same(&layer, &after, if n_in == 1 { 0.0 } else { 1e-6 }, &format!("{n_out} x {n_in}"));
    }
}

#[test]
fn only_what_is_asked_for_is_unfolded() {
    let ops = |p: &Program| -> Vec<String> {
        let calls = p.functions[0].body.calls.iter();
        calls.map(|c| c.op.clone()).filter(|op| op != "const").collect()
    };
    let window = program(&CASE);
    assert_eq!(ops(&unfold(&window, |_, _| false).unwrap()), ["conv"]);
    assert!(ops(&unfold(&window, |_, _| true).unwrap()).len() > 9);
    let strided = Case { image: &[4, 4], kernel: &[1, 1], strides: &[2, 2], pad: Some(&[2, 2, 2, 2]), ..CASE };
    assert_eq!(ops(&split(&program(&strided), |_, _| Some((2, 2))).unwrap()), ["conv"]);
    let pointwise = program(&Case { kernel: &[1, 1], ..CASE });
    assert_eq!(ops(&unfold(&pointwise, |_, _| true).unwrap()), ["conv"]);
}
