//! Ops on small tensors, with what they give worked out by hand.

mod layers;
mod moving;

use super::*;
use crate::builder::{Builder, Value as Id};
use crate::ir::{Dim, TensorType, Version};
use crate::{Error, Interpreter, Limits, Weights, validate};
use std::f64::consts::FRAC_1_SQRT_2;

/// What one call gives for constants of these names.
fn run(op: &'static str, args: &[(&'static str, Tensor)]) -> Result<Tensor, Error> {
    let mut b = Builder::new(Version::V1_3);
    let mut call = b.call(op);
    for (name, t) in args {
        call = call.constant(name, t.clone());
    }
    let y = call.finish()?;
    let program = validate(b.finish(&[y])?, &Limits::none())?;
    Ok(Interpreter::new(&program, &Weights::new())?.run(&[])?.remove(0))
}

fn floats(shape: &[usize], xs: &[f64]) -> Tensor {
    Tensor::float(DType::Fp32, shape, xs.to_vec())
}

fn ints(shape: &[usize], xs: &[i64]) -> Tensor {
    Tensor::int(DType::Int32, shape, xs.to_vec())
}

fn bools(xs: &[i64]) -> Tensor {
    Tensor::int(DType::Bool, &[xs.len()], xs.to_vec())
}

fn assert_near(op: &str, found: &Tensor, expected: &[f64]) {
    let found = found.to_f64s();
    assert_eq!(found.len(), expected.len(), "{op}");
    for (a, b) in found.iter().zip(expected) {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * (1.0 + b.abs());
        assert!(same, "{op} gives {found:?}, expected {expected:?}");
    }
}

#[test]
fn functions_of_floats() {
    const INF: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;
    let xs = [-0.5, 0.25, 0.75];
    let cases: &[(&str, &[f64], &[f64])] = &[
        ("cos", &xs, &[0.877582562, 0.968912422, 0.731688869]),
        ("sin", &xs, &[-0.479425539, 0.247403959, 0.681638760]),
        ("tan", &xs, &[-0.546302490, 0.255341921, 0.931596460]),
        ("cosh", &xs, &[1.127625965, 1.031413100, 1.294683285]),
        ("sinh", &xs, &[-0.521095305, 0.252612317, 0.822316732]),
        ("tanh", &xs, &[-0.462117157, 0.244918662, 0.635148952]),
        ("atanh", &xs, &[-0.549306144, 0.255412812, 0.972955075]),
        ("exp", &xs, &[0.606530660, 1.284025417, 2.117000017]),
        ("exp2", &xs, &[FRAC_1_SQRT_2, 1.189207115, 1.681792831]),
        ("erf", &xs, &[-0.520499878, 0.276326390, 0.711155634]),
        ("round", &[0.5, 1.5, 2.5, -0.5, -1.2, 1.7], &[0.0, 2.0, 2.0, 0.0, -1.0, 2.0]),
        ("floor", &[-1.5, 1.5, INF], &[-2.0, 1.0, INF]),
        ("ceil", &[-1.5, 1.5, 2.0], &[-1.0, 2.0, 2.0]),
        ("sign", &[-3.0, 0.0, 5.0, NAN], &[-1.0, 0.0, 1.0, NAN]),
        ("rsqrt", &[4.0, 0.0], &[0.5, 1e6]),
        ("relu", &[-1.0, 2.0, NAN], &[0.0, 2.0, NAN]),
        ("softplus", &[1000.0, -1000.0], &[1000.0, 0.0]),
        ("sigmoid", &[1000.0, -1000.0], &[1.0, 0.0]),
        ("softmax", &[1000.0, 1001.0], &[0.268941421, 0.731058579]),
    ];
    for (op, xs, expected) in cases {
        assert_near(op, &run(op, &[("x", floats(&[xs.len()], xs))]).unwrap(), expected);
    }
}

#[test]
fn a_default_has_the_element_type_of_the_first_argument() {
    // 1e-45 is a subnormal fp32, and 0 as an fp16.
    for (dtype, expected) in [(DType::Fp32, (1.0e-45f32 as f64).ln()), (DType::Fp16, f64::NEG_INFINITY)] {
        let x = Tensor::float(dtype, &[1], vec![0.0]);
        assert_near("log", &run("log", &[("x", x)]).unwrap(), &[expected]);
    }
}

#[test]
fn functions_of_integers() {
    let cases: &[(&str, &[i64], &[i64])] = &[
        ("abs", &[-3, 3], &[3, 3]),
        ("sign", &[-3, 0, 7], &[-1, 0, 1]),
        // Modulo 2^32.
        ("square", &[-3, 65536, 65537], &[9, 0, 131073]),
        ("exp2", &[3, -1], &[8, 0]),
    ];
    for (op, xs, expected) in cases {
        let y = run(op, &[("x", ints(&[xs.len()], xs))]).unwrap();
        assert_eq!(y, ints(&[xs.len()], expected), "{op}");
    }
}

#[test]
fn functions_of_two_numbers() {
    let (x, y) = ([7.0, -7.0, 7.0, -7.0], [2.0, 2.0, -2.0, -2.0]);
    let cases: &[(&str, &[f64])] = &[
        ("floor_div", &[3.0, -4.0, -4.0, 3.0]),
        ("mod", &[1.0, 1.0, -1.0, -1.0]),
        ("sub", &[5.0, -9.0, 9.0, -5.0]),
        ("maximum", &[7.0, 2.0, 7.0, -2.0]),
        ("minimum", &[2.0, -7.0, -2.0, -7.0]),
    ];
    for (op, expected) in cases {
        assert_near(op, &run(op, &[("x", floats(&[4], &x)), ("y", floats(&[4], &y))]).unwrap(), expected);
        let whole = |xs: &[f64]| ints(&[4], &xs.iter().map(|&x| x as i64).collect::<Vec<_>>());
        assert_eq!(run(op, &[("x", whole(&x)), ("y", whole(&y))]).unwrap(), whole(expected), "{op} of integers");
    }
    let nan = run("maximum", &[("x", floats(&[2], &[f64::NAN, 1.0])), ("y", floats(&[2], &[1.0, f64::NAN]))]);
    assert_near("maximum", &nan.unwrap(), &[f64::NAN, f64::NAN]);
    let powers = run("pow", &[("x", floats(&[3], &[2.0, 4.0, 0.0])), ("y", floats(&[3], &[-1.0, 0.5, 0.0]))]);
    assert_near("pow", &powers.unwrap(), &[0.5, 2.0, 1.0]);
    let powers = run("pow", &[("x", ints(&[3], &[-3, 2, 2])), ("y", ints(&[3], &[3, 32, -1]))]);
    assert_eq!(powers.unwrap(), ints(&[3], &[-27, 0, 0]));
    let by_zero = run("floor_div", &[("x", ints(&[2], &[5, i64::from(i32::MIN)])), ("y", ints(&[2], &[0, -1]))]);
    assert_eq!(by_zero.unwrap(), ints(&[2], &[0, i64::from(i32::MIN)]));
}

#[test]
fn logic() {
    let (x, y) = (bools(&[0, 0, 1, 1]), bools(&[0, 1, 0, 1]));
    for (op, expected) in
        [("logical_and", [0, 0, 0, 1]), ("logical_or", [0, 1, 1, 1]), ("logical_xor", [0, 1, 1, 0])]
    {
        assert_eq!(run(op, &[("x", x.clone()), ("y", y.clone())]).unwrap(), bools(&expected), "{op}");
    }
    assert_eq!(run("logical_not", &[("x", y)]).unwrap(), bools(&[1, 0, 1, 0]));
}

#[test]
fn bounds() {
    let x = || ("x", floats(&[3], &[-2.0, 0.5, 2.0]));
    let (low, high) = (("alpha", floats(&[], &[-1.0])), ("beta", floats(&[], &[1.0])));
    assert_near("clip", &run("clip", &[x(), low.clone(), high.clone()]).unwrap(), &[-1.0, 0.5, 1.0]);
    assert_near("threshold", &run("threshold", &[x(), low.clone()]).unwrap(), &[-1.0, 0.5, 2.0]);
    let e = run("clip", &[x(), ("alpha", high.1), ("beta", low.1)]).unwrap_err().to_string();
    assert!(e.contains("argument `alpha` is 1, expected less than `beta`, which is -1"), "{e}");
}

#[test]
fn reductions() {
    let x = floats(&[2, 3], &[1.0, 2.0, 3.0, -4.0, 0.0, 4.0]);
    let cases: &[(&str, &[f64])] = &[
        ("reduce_sum", &[6.0, 0.0]),
        ("reduce_sum_square", &[14.0, 32.0]),
        ("reduce_min", &[1.0, -4.0]),
        ("reduce_max", &[3.0, 4.0]),
        ("reduce_prod", &[6.0, 0.0]),
        ("reduce_l1_norm", &[6.0, 8.0]),
        ("reduce_log_sum", &[1.791759469, f64::NEG_INFINITY]),
    ];
    let along = ("axes", ints(&[1], &[-1]));
    for (op, expected) in cases {
        assert_near(op, &run(op, &[("x", x.clone()), along.clone()]).unwrap(), expected);
    }
    let large = floats(&[1, 2], &[1000.0, 1001.0]);
    let sum = run("reduce_log_sum_exp", &[("x", large), along.clone()]).unwrap();
    assert_near("reduce_log_sum_exp", &sum, &[1001.313261688]);
    // Whole numbers stay whole: means lose their fraction, products wrap.
    let x = ints(&[2, 2], &[-3, 0, 1 << 20, 1 << 12]);
    assert_eq!(run("reduce_mean", &[("x", x.clone()), along.clone()]).unwrap(), ints(&[2], &[-1, 526336]));
    assert_eq!(run("reduce_prod", &[("x", x), along]).unwrap(), ints(&[2], &[0, 0]));
}

#[test]
fn searches_find_the_first_of_equals_and_nan_before_all() {
    let x = floats(&[3, 3], &[1.0, 5.0, 5.0, 2.0, 0.0, 0.0, 9.0, f64::NAN, f64::NAN]);
    assert_eq!(run("reduce_argmax", &[("x", x.clone())]).unwrap(), ints(&[3], &[1, 0, 1]));
    let narrow = run(
        "reduce_argmin",
        &[("x", x), ("keep_dims", Tensor::bool(true)), ("output_dtype", Tensor::string("uint16"))],
    );
    assert_eq!(narrow.unwrap(), Tensor::int(DType::UInt16, &[3, 1], vec![0, 1, 1]));
}

#[test]
fn normalization() {
    let x = || ("x", floats(&[1, 2, 2], &[1.0, 3.0, -2.0, -2.0]));
    let y = run("instance_norm", &[x(), ("epsilon", floats(&[], &[0.0])), ("beta", floats(&[2], &[0.0, 7.0]))]);
    // The second channel has no deviation at all.
    assert_near("instance_norm", &y.unwrap(), &[-1.0, 1.0, f64::NAN, f64::NAN]);
    let y = run(
        "batch_norm",
        &[
            x(),
            ("mean", floats(&[2], &[1.0, -1.0])),
            ("variance", floats(&[2], &[4.0, 0.25])),
            ("gamma", floats(&[2], &[3.0, 1.0])),
            ("epsilon", floats(&[], &[0.0])),
        ],
    );
    assert_near("batch_norm", &y.unwrap(), &[0.0, 3.0, -2.0, -2.0]);
    // Axes 0 and 2, in whatever order they are named: gamma has their shape, [1, 2].
    let y = run(
        "layer_norm",
        &[
            x(),
            ("axes", ints(&[2], &[-1, 0])),
            ("gamma", floats(&[1, 2], &[2.0, 5.0])),
            ("epsilon", floats(&[], &[3.0])),
        ],
    );
    assert_near("layer_norm", &y.unwrap(), &[-1.0, 2.5, 0.0, 0.0]);
    let e = run("layer_norm", &[x(), ("gamma", floats(&[2], &[2.0, 5.0]))]).unwrap_err().to_string();
    assert!(e.contains("argument `gamma` has shape [2], expected the normalized axes' [1, 2, 2]"), "{e}");
    // Two channels in a window: the one before, and itself.
    let y = run(
        "local_response_norm",
        &[
            ("x", floats(&[3, 1, 1], &[1.0, 2.0, 3.0])),
            ("size", ints(&[], &[2])),
            ("alpha", floats(&[], &[2.0])),
            ("beta", floats(&[], &[1.0])),
            ("k", floats(&[], &[0.0])),
        ],
    );
    assert_near("local_response_norm", &y.unwrap(), &[1.0, 0.4, 3.0 / 13.0]);
}

#[test]
fn random_numbers_are_those_of_the_published_generator() {
    // The first numbers of SplitMix64 from 1234567, as its authors' program gives them: 6457827717110365317,
    // 3203168211198807973, 9817491932198370423; their upper 53 bits over 2^53.
    let n = ("shape", ints(&[1], &[3]));
    let seed = ("seed", ints(&[], &[1234567]));
    let u = run("random_uniform", &[n, seed.clone()]).unwrap();
    let expected = [6457827717110365317u64, 3203168211198807973, 9817491932198370423]
        .map(|x| (x >> 11) as f64 / (1u64 << 53) as f64);
    assert_near("random_uniform", &u, &expected);

    let many = ("shape", ints(&[2], &[100, 100]));
    let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
    let z = run("random_normal", &[many.clone(), ("mean", floats(&[], &[2.0])), ("stddev", floats(&[], &[3.0]))]);
    let z = z.unwrap().to_f64s();
    let variance = mean(&z.iter().map(|z| (z - 2.0) * (z - 2.0)).collect::<Vec<_>>());
    assert!((mean(&z) - 2.0).abs() < 0.1 && (variance - 9.0).abs() < 0.4, "{} {variance}", mean(&z));
    let coins = run("random_bernoulli", &[many, ("prob", floats(&[], &[0.3])), seed.clone()]).unwrap();
    assert!((mean(&coins.to_f64s()) - 0.3).abs() < 0.02);

    // Row 1 has probability on its last element alone.
    let x = floats(&[2, 3], &[0.25, 0.0, 0.75, 0.0, 0.0, 2.0]);
    let mode = ("mode", Tensor::string("probs"));
    let drawn = run("random_categorical", &[("x", x), mode, ("size", ints(&[], &[1000])), seed]).unwrap();
    assert_eq!(drawn.shape(), [2, 1000]);
    let (first, second) = (&drawn.to_f64s()[..1000], &drawn.to_f64s()[1000..]);
    let share = first.iter().filter(|&&i| i == 2.0).count() as f64 / 1000.0;
    assert!((share - 0.75).abs() < 0.05 && !first.contains(&1.0), "{share}");
    assert!(second.iter().all(|&i| i == 2.0));
}

/// The output of `emit` for an input declared with a size left open.
fn run_open(x: Tensor, emit: fn(&mut Builder, Id) -> crate::Result<Id>) -> Tensor {
    let mut b = Builder::new(Version::V1_3);
    let mut shape: Vec<Dim> = x.shape().iter().map(|&d| Dim::Fixed(d as u64)).collect();
    shape[0] = Dim::Any;
    let input = b.input("x", TensorType { dtype: x.dtype(), shape }).unwrap();
    let y = emit(&mut b, input).unwrap();
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    Interpreter::new(&program, &Weights::new()).unwrap().run(&[x]).unwrap().remove(0)
}

#[test]
fn sizes_left_open_are_known_when_the_program_runs() {
    let x = floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(run_open(x.clone(), |b, x| b.reduce_sum(x, &[1], false)), floats(&[2], &[3.0, 7.0]));
    assert_eq!(run_open(x.clone(), |b, x| b.call("reduce_argmax").arg("x", x).finish()), ints(&[2], &[1, 1]));
    assert_eq!(run_open(x, |b, x| b.add(x, x)), floats(&[2, 2], &[2.0, 4.0, 6.0, 8.0]));
}

#[test]
fn results_too_large_for_any_memory_are_refused() {
    let mut b = Builder::new(Version::V1_3);
    let column = b.input("column", TensorType::new(DType::Fp16, &[1 << 40, 1])).unwrap();
    let row = b.input("row", TensorType::new(DType::Fp16, &[1, 1 << 40])).unwrap();
    let e = b.add(column, row).unwrap_err().to_string();
    assert!(e.contains("too large"), "{e}");
    let e = run("random_uniform", &[("shape", ints(&[3], &[1 << 30, 1 << 30, 1 << 30]))]).unwrap_err().to_string();
    assert!(e.contains("too large"), "{e}");
}
