//! Parameters: kept in a weights file, and of nearly the same value.

use super::*;
use crate::device::Arithmetic;
use anemone_mil::ir::BlobRef;
use anemone_mil::weights::WeightsWriter;

/// What the one output is for one input, in this arithmetic, of a program built of it and of these numbers, which
/// a weights file holds; and whether all steps are the engine's.
fn with_blobs(
    x: &[f32],
    numbers: &[f32],
    arithmetic: Arithmetic,
    build: impl FnOnce(&mut Builder, Value, &[Value]) -> Result<Value>,
) -> (Vec<f32>, bool) {
    let mut writer = WeightsWriter::new();
    let add = |&x: &f32| writer.add_f32_as(DType::Fp16, &[x]).unwrap();
    let offsets: Vec<u64> = numbers.iter().map(add).collect();
    let mut weights = Weights::new();
    weights.insert("w.bin", writer.finish()).unwrap();
    let p = program(&[TensorType::new(DType::Fp16, &[x.len()])], |b, v| {
        let blob =
            |offset| b.blob("number", TensorType::new(DType::Fp16, &[]), BlobRef { path: "w.bin".into(), offset });
        let blobs: Vec<Value> = offsets.into_iter().map(blob).collect();
        Ok(vec![build(b, v[0], &blobs)?])
    });
    let plan = Plan::for_device(p.unwrap().main(), &weights, arithmetic).unwrap();
    let is_engines = plan.steps().iter().all(|s| matches!(s.work, Work::Engine(_)));
    let mut memory = plan.memory();
    memory.write_input(&plan, 0, x);
    plan.run(&mut memory).unwrap();
    (memory.output(&plan, 0).to_vec(), is_engines)
}

#[test]
fn a_fill_is_of_the_value_in_the_weights_file() {
    let (found, _) = with_blobs(&[1.0, 2.0], &[0.25], Arithmetic::Ieee, |b, x, v| {
        let shape = Tensor::i32s(&[2]);
        let filled = b.call("fill").constant("shape", shape).arg("value", v[0]).finish()?;
        b.add(x, filled)
    });
    assert_eq!(found, [1.25, 2.25]);
}

#[test]
fn parameters_in_a_weights_file_are_those_of_the_engines_functions() {
    let (found, is_engines) = with_blobs(&[-2.0, 2.0], &[0.25], Arithmetic::Engine, |b, x, v| {
        b.call("leaky_relu").arg("x", x).arg("alpha", v[0]).finish()
    });
    assert!(is_engines);
    assert_eq!(found, [-0.5, 2.0]);
    let (found, is_engines) = with_blobs(&[-2.0, 0.75, 2.0], &[0.5, 1.0], Arithmetic::Engine, |b, x, v| {
        b.call("clip").arg("x", x).arg("alpha", v[0]).arg("beta", v[1]).finish()
    });
    assert!(is_engines);
    assert_eq!(found, [0.5, 0.75, 1.0]);
}

#[test]
fn functions_that_differ_in_the_sign_of_a_zero_are_two() {
    let p = program(&[fp32(&[3])], |b, v| {
        let number = |b: &mut Builder, x: f64| b.constant(Tensor::float(DType::Fp32, &[], vec![x]));
        let (plus, minus) = (number(b, 0.0), number(b, -0.0));
        let mut divided = |y| b.call("real_div").arg("x", v[0]).arg("y", y).finish();
        let (up, down) = (divided(plus)?, divided(minus)?);
        let mut least = |x: f64| {
            let alpha = Tensor::float(DType::Fp32, &[], vec![x]);
            let least = b.call("threshold").arg("x", v[0]).constant("alpha", alpha).finish()?;
            b.call("inverse")
                .arg("x", least)
                .constant("epsilon", Tensor::float(DType::Fp32, &[], vec![-0.0]))
                .finish()
        };
        let (high, low) = (least(0.0)?, least(-0.0)?);
        Ok(vec![up, down, high, low])
    });
    let p = p.unwrap();
    let x = [Tensor::float(DType::Fp32, &[3], vec![1.0, -2.0, 4.0])];
    let found = engine(&planned(&p), &x).unwrap();
    let inf = f32::INFINITY;
    assert_eq!(found[..2], [[inf, -inf, inf], [-inf, inf, -inf]]);
    assert_eq!(found[2..], [[1.0, inf, 0.25], [1.0, -inf, 0.25]]);
}
