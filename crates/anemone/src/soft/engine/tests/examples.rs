//! An example of each rule, those of the study where it has some.

use crate::device::{ARITHMETIC_RULES, Arithmetic, Emulation};
use crate::soft::plan::Plan;
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{DType, TensorType, Version};
use anemone_mil::{Limits, Tensor, Weights, validate};
use half::f16;

/// Inputs on the fp16 grid; NaN in f32 is the engine's 0x7e00.
type Inputs<'a> = &'a [(&'a [usize], &'a [f32])];

/// What a program of fp16 inputs gives.
fn run(inputs: Inputs<'_>, build: impl FnOnce(&mut Builder, &[Value]) -> anemone_mil::Result<Value>) -> Vec<f32> {
    let mut b = Builder::new(Version::V1_3);
    let values: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, _))| b.input(&format!("x{i}"), TensorType::new(DType::Fp16, shape)).unwrap())
        .collect();
    let y = build(&mut b, &values).unwrap();
    // Booleans are no outputs.
    let y = if b.tensor_ty(y).unwrap().dtype == DType::Bool { b.cast(y, DType::Fp16).unwrap() } else { y };
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let plan = Plan::for_device(program.main(), &Weights::new(), Arithmetic::Engine).unwrap();
    let mut memory = plan.memory();
    for (i, (_, x)) in inputs.iter().enumerate() {
        memory.write_input(&plan, i, x);
    }
    plan.run(&mut memory).unwrap();
    memory.output(&plan, 0).to_vec()
}

/// `sum(x w) + bias` by `linear`.
fn sum(x: &[f32], w: &[f32], bias: f32) -> f32 {
    run(&[(&[1, x.len()], x)], |b, v| {
        let w = Tensor::exact(DType::Fp16, &[1, w.len()], w.iter().map(|&x| x.into()).collect());
        let bias = Tensor::exact(DType::Fp16, &[1], vec![bias.into()]);
        b.call("linear").arg("x", v[0]).constant("weight", w).constant("bias", bias).finish()
    })[0]
}

/// The sum of numbers, each by 1.
fn total(x: &[f32]) -> f32 {
    sum(x, &vec![1.0; x.len()], 0.0)
}

fn function(name: &'static str, x: f32) -> f32 {
    run(&[(&[1], &[x])], |b, v| b.call(name).arg("x", v[0]).finish())[0]
}

fn of_two(name: &'static str, x: f32, y: f32) -> f32 {
    run(&[(&[1], &[x]), (&[1], &[y])], |b, v| b.call(name).arg("x", v[0]).arg("y", v[1]).finish())[0]
}

/// 2 to the power of `e`.
fn two(e: i32) -> f32 {
    2f32.powi(e)
}

/// The largest distance of a function from the exact one, and the argument it has it at, over all fp16 numbers of
/// a range; in units of the last place if `ulps`.
fn largest_error(name: &'static str, range: (f64, f64), ulps: bool, exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let all = (0..=u16::MAX).map(f16::from_bits).filter(|x| (range.0..=range.1).contains(&x.to_f64()));
    let x: Vec<f32> = all.map(f16::to_f32).collect();
    let y = run(&[(&[x.len()], &x)], |b, v| b.call(name).arg("x", v[0]).finish());
    let error = |(&x, &y): (&f32, &f32)| {
        let exact = exact(x.into());
        // The distance of the fp16 numbers around the exact one.
        let unit = 2f64.powi((exact.abs().log2().floor() as i32).max(-14) - 10);
        ((f64::from(y) - exact).abs() / if ulps { unit } else { 1.0 }, x)
    };
    x.iter().zip(&y).map(error).fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A largest error that is the study's to the digits it gives.
fn assert_error(found: (f64, f32), expected: f64, digits: f64) {
    assert!((found.0 - expected).abs() <= digits, "{found:?}, expected {expected}");
}

const EXAMPLES: &[(&str, fn())] = &[
    ("fixed-point", || {
        // No sum in fp16 or f32 would hold these.
        assert_eq!(total(&[16384.0, two(-16), -16384.0]), two(-16));
        assert_eq!(total(&[2048.0, 1.0, -2048.0]), 1.0);
        assert_eq!(total(&[16384.0, two(-18), -16384.0]), 0.0);
        let conv = run(&[(&[1, 3, 1, 1], &[16384.0, two(-16), -16384.0])], |b, v| {
            let w = b.constant(Tensor::float(DType::Fp16, &[1, 3, 1, 1], vec![1.0; 3]));
            b.pointwise(v[0], w)
        });
        assert_eq!(conv, [two(-16)]);
    }),
    ("products", || {
        assert_eq!(sum(&[1.5 * two(-13)], &[0.125], 0.0), 2.0 * two(-16));
        assert_eq!(sum(&[-1.5 * two(-13)], &[0.125], 0.0), -2.0 * two(-16));
        // 2.499 and 3.498 of the last place.
        assert_eq!(sum(&[two(-14)], &[f16::from_f64(2.499 / 4.0).to_f32()], 0.0), 2.0 * two(-16));
        assert_eq!(sum(&[two(-14)], &[f16::from_f64(3.498 / 4.0).to_f32()], 0.0), 3.0 * two(-16));
    }),
    ("dropping", || {
        let near = |x: f64| f16::from_f64(x).to_f32();
        for (w, x, expected) in [
            (1.875 / 8.0, 1.875 / 16384.0, 0.0),
            (1.99 / 8.0, 1.99 / 16384.0, 0.0),
            (1.5 / 16.0, 1.9 / 8192.0, 0.0),
            (1.9375 / 32.0, 1.9375 / 4096.0, 0.0),
            (0.2, 0.99 / 16384.0, 0.0),
            (0.125, 1.5 / 8192.0, 2.0),
            (0.25, 0.5 / 16384.0, 1.0),
        ] {
            assert_eq!(sum(&[near(x)], &[near(w)], 0.0), expected * two(-16), "{x} by {w}");
        }
        assert_eq!(total(&[two(-17)]), two(-16), "a subnormal number by 1");
        assert_eq!(total(&[two(-18)]), 0.0);
    }),
    ("overflow", || {
        assert_eq!(total(&[32752.0]), 32752.0);
        assert_eq!(total(&[32768.0]), f32::INFINITY);
        assert_eq!(total(&[16384.0, 16376.0]), 32768.0, "32760 is not too large");
        assert_eq!(total(&[16384.0, 16384.0]), f32::INFINITY);
        assert_eq!(total(&[16384.0, 16384.0, -16384.0, -16384.0, 1.0]), f32::INFINITY);
        assert_eq!(total(&[-16384.0, -16384.0, 16384.0]), f32::NEG_INFINITY);
        assert_eq!(sum(&[65504.0], &[1.0 / 16.0], 0.0), 4094.0, "inputs may be larger");
    }),
    ("order", || {
        assert_eq!(total(&[30000.0, -30000.0, 30000.0]), 30000.0);
        assert_eq!(total(&[30000.0, 30000.0, -30000.0]), f32::INFINITY);
    }),
    ("bias", || {
        assert_eq!(sum(&[16384.0, 16384.0], &[1.0; 2], -16384.0), 16384.0);
        assert_eq!(sum(&[16384.0; 3], &[1.0; 3], -16384.0), f32::INFINITY);
        assert_eq!(sum(&[32752.0], &[1.0], 32.0), f32::INFINITY);
        assert_eq!(sum(&[32736.0], &[1.0], 32.0), f32::INFINITY);
        assert_eq!(sum(&[0.0], &[1.0], two(-20)), 0.0);
        assert_eq!(sum(&[0.0], &[1.0], two(-17)), two(-16));
        assert_eq!(sum(&[two(-17)], &[1.0], two(-17)), two(-15));
        assert_eq!(sum(&[0.25], &[1.0], 1000.5), 1001.0);
    }),
    ("results", || {
        assert_eq!(total(&[2048.0, 1.0]), 2050.0);
        assert_eq!(total(&[-4096.0, -2.0]), -4100.0);
        assert_eq!(total(&[4096.0, 2.0]), 4100.0);
        assert_eq!(total(&[1.0, two(-11)]), 1.0 + two(-10));
    }),
    ("negative-zero", || {
        assert_eq!(total(&[-0.0]).to_bits(), 0);
        assert_eq!(total(&[-two(-20)]).to_bits(), 0);
    }),
    ("large-inputs", || {
        assert_eq!(total(&[f32::NAN]), f32::INFINITY);
        assert_eq!(sum(&[f32::NAN], &[1.0 / 16.0], 0.0), 6144.0);
        assert_eq!(sum(&[f32::INFINITY], &[1.0 / 16.0], 0.0), 4096.0);
        assert_eq!(sum(&[f32::NEG_INFINITY], &[0.0], 0.0), 0.0);
        assert_eq!(of_two("add", f32::NAN, 1.0), f32::INFINITY);
        // What an epsilon makes infinite is read as 65536 again.
        let shifted = |name, x: f32| {
            let epsilon = Tensor::float(DType::Fp16, &[], vec![16.0]);
            run(&[(&[1], &[x])], |b, v| b.call(name).arg("x", v[0]).constant("epsilon", epsilon.clone()).finish())
                [0]
        };
        assert_eq!(["inverse", "rsqrt"].map(|name| shifted(name, 65504.0)), [1.0 / 65536.0, 1.0 / 256.0]);
        assert_eq!(shifted("inverse", f32::NEG_INFINITY), -1.0 / 65536.0);
        assert!((shifted("log", 65504.0) - 11.09).abs() < 0.01);
    }),
    ("elementwise", || {
        assert_eq!(of_two("add", 2048.0, 1.0), 2050.0);
        assert_eq!(of_two("add", 65504.0, 0.0), 65504.0);
        assert_eq!(of_two("add", 40000.0, 1.0), 40000.0);
        assert_eq!(of_two("add", 16384.0, 16384.0), 32768.0);
        assert_eq!(of_two("add", two(-24), 0.0), two(-24));
        assert_eq!(of_two("mul", two(-12), two(-12)), two(-24));
        assert_eq!(of_two("mul", 256.0, 256.0), f32::INFINITY);
        // A tenth binary digit less than the middle.
        assert_eq!(of_two("sub", 2050.0, 1.0 + two(-10)), 2048.0);
        assert_eq!(of_two("greater", f32::NAN, 65504.0), 1.0);
    }),
    ("other-elementwise", || {
        assert_eq!(of_two("real_div", 2049.0 * 2.0, 2.0), 2050.0);
        let alpha = Tensor::float(DType::Fp16, &[], vec![0.5]);
        let leaky = run(&[(&[2], &[-1025.0, 3.0])], |b, v| {
            b.call("leaky_relu").arg("x", v[0]).constant("alpha", alpha).finish()
        });
        assert_eq!(leaky, [-512.5, 3.0]);
    }),
    ("sigmoid", || {
        assert_error(largest_error("sigmoid", (-10.0, 10.0), false, sigmoid), 3.355e-3, 1e-6);
        assert_eq!((function("sigmoid", -9.938), function("sigmoid", 9.0)), (0.0, 1.0));
    }),
    ("tanh", || {
        assert_error(largest_error("tanh", (-10.0, 10.0), false, f64::tanh), 1.613e-3, 3e-5);
        assert_eq!(function("tanh", 5.0), 1.0);
        let near = function("tanh", f16::from_f64(-0.000_240_3).to_f32());
        assert!((f64::from(near) + 0.000_239).abs() < 5e-7, "{near}");
    }),
    ("erf", || {
        assert_error(largest_error("erf", (-2.0, 2.0), false, libm::erf), 8.6e-4, 4e-4);
        assert_eq!(function("erf", -3.0), -1.0);
    }),
    ("exp", || {
        let (error, at) = largest_error("exp", (-9.7, 10.0), true, f64::exp);
        assert_error((error, at), 9.1, 0.05);
        assert_eq!(at, f16::from_f64(9.703).to_f32());
        assert_error(largest_error("exp", (-10.0, 10.0), false, f64::exp), 100.8, 0.05);
        assert_eq!(
            (function("exp", 12.0), function("exp", -20.0), function("exp", 0.0)),
            (f32::INFINITY, 0.0, 1.0)
        );
    }),
    ("log", || {
        let (error, at) = largest_error("log", (1e-3, 1e3), true, f64::ln);
        assert_error((error, at), 91.0, 0.05);
        assert_eq!(at, f16::from_f64(1.004).to_f32());
        assert_error(largest_error("log", (1e-3, 1e3), false, f64::ln), 6.638e-3, 1e-6);
        assert_eq!(function("log", 0.0), f32::NEG_INFINITY);
    }),
    ("roots", || {
        let (error, at) = largest_error("sqrt", (1e-3, 6e4), true, f64::sqrt);
        assert!(error < 1.3, "{error} at {at}");
        let (error, at) = largest_error("rsqrt", (1.0 / 64.0, 6e4), true, |x| 1.0 / x.sqrt());
        assert!(error < 2.2, "{error} at {at}");
        assert_eq!((function("sqrt", 4.0), function("rsqrt", 16.0), function("sqrt", 0.0)), (2.0, 0.25, 0.0));
    }),
    ("inverse", || {
        let (error, at) = largest_error("inverse", (1.0 / 64.0, 6e4), true, |x| 1.0 / x);
        assert_error((error, at), 13.5, 0.05);
        assert_eq!(at, f16::from_f64(0.01587).to_f32());
    }),
    ("gelu", || {
        let gelu = |x: f64| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
        assert_error(largest_error("gelu", (-10.0, 10.0), false, gelu), 6.2e-3, 1e-4);
        // The study's table has 0.1436 there.
        assert!((function("gelu", 0.25) - 0.1436).abs() < 5e-4);
        assert_eq!((function("gelu", 6.0), function("gelu", -6.0)), (6.0, 0.0));
    }),
    ("silu", || {
        assert_error(largest_error("silu", (-10.0, 10.0), false, |x| x * sigmoid(x)), 1.5e-2, 1e-3);
        // The study's table has 0.296 there.
        assert!((function("silu", 0.5) - 0.296).abs() < 2e-3);
        assert_eq!((function("silu", 9.0), function("silu", -9.0)), (9.0, 0.0));
    }),
    ("reductions", || {
        let sum = |n: usize| run(&[(&[n], &vec![1.0; n])], |b, v| b.reduce_sum(v[0], &[0], false))[0];
        assert_eq!((sum(2047), sum(2048), sum(2049)), (2047.0, 2048.0, 2050.0));
        let columns =
            run(&[(&[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0])], |b, v| b.reduce_sum(v[0], &[0], false));
        assert_eq!(columns, [11.0, 22.0, 33.0]);
        let mean = run(&[(&[2, 2], &[1.0, 2.0, -7.0, 4.0])], |b, v| b.reduce_mean(v[0], &[1], false));
        assert_eq!(mean, [1.5, -1.5]);
        assert_eq!(
            run(&[(&[3], &[-1.0, f32::NAN, 2.0])], |b, v| {
                b.call("reduce_max").arg("x", v[0]).constant("axes", Tensor::i32s(&[0])).finish()
            }),
            [f32::INFINITY]
        );
    }),
];

#[test]
fn every_rule_that_is_emulated_has_an_example_that_holds() {
    let names: Vec<&str> = EXAMPLES.iter().map(|e| e.0).collect();
    let rules: Vec<&str> =
        ARITHMETIC_RULES.iter().filter(|r| r.emulation != Emulation::None).map(|r| r.name).collect();
    assert_eq!(names, rules);
    assert!(
        ARITHMETIC_RULES.iter().all(|r| [r.what, r.source].iter().all(|s| !s.is_empty()) && !r.chips.is_empty())
    );
    for (_, example) in EXAMPLES {
        example();
    }
}
