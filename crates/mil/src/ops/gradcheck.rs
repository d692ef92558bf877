//! Every op's gradient against finite differences in f64.
//!
//! One row of `CASES` is one call on fp64 tensors; its gradient, as MIL, is run by the reference interpreter and
//! compared with central differences of a weighted sum of the outputs. A differentiable op without a row fails.

mod moving;
mod pointwise;
mod products;

use super::*;
use crate::builder::{self, Builder};
use crate::grad::{Seed, gradient};
use crate::ir::{TensorType, Version};
use crate::{Interpreter, Limits, ValidProgram, Weights, validate};

/// Shapes of the inputs, and the call of them that is checked.
pub(super) type Case = (
    &'static str,
    &'static [&'static [usize]],
    fn(&mut Builder, &[builder::Value]) -> crate::Result<builder::Value>,
);

const CASES: &[Case] = &[
    ("add", &[&[2, 3], &[3]], |b, v| b.add(v[0], v[1])),
    ("sub", &[&[2, 1, 3], &[4, 1]], |b, v| b.sub(v[0], v[1])),
    ("mul", &[&[2, 3], &[2, 1]], |b, v| b.mul(v[0], v[1])),
    // The same value on both sides: two gradients of one value add up.
    ("mul", &[&[2, 3]], |b, v| b.mul(v[0], v[0])),
    ("real_div", &[&[2, 3], &[3]], |b, v| b.call("real_div").arg("x", v[0]).arg("y", v[1]).finish()),
    ("relu", &[&[2, 5]], |b, v| b.relu(v[0])),
    ("sigmoid", &[&[5]], |b, v| b.call("sigmoid").arg("x", v[0]).finish()),
    ("tanh", &[&[5]], |b, v| b.call("tanh").arg("x", v[0]).finish()),
    ("square", &[&[5]], |b, v| b.call("square").arg("x", v[0]).finish()),
    ("identity", &[&[5]], |b, v| b.call("identity").arg("x", v[0]).finish()),
    ("cast", &[&[5]], |b, v| b.cast(v[0], DType::Fp64)),
    ("select", &[&[2, 3], &[3]], |b, v| {
        let cond = b.constant(Tensor::int(DType::Bool, &[2, 1], vec![1, 0]));
        b.call("select").arg("cond", cond).arg("a", v[0]).arg("b", v[1]).finish()
    }),
    ("conv", &[&[2, 3, 1, 4], &[5, 3, 1, 1]], |b, v| b.pointwise(v[0], v[1])),
    ("conv", &[&[1, 3, 4], &[5, 3, 1], &[5]], |b, v| {
        b.call("conv").arg("x", v[0]).arg("weight", v[1]).arg("bias", v[2]).finish()
    }),
    ("matmul", &[&[2, 3], &[3, 4]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[2, 3, 2], &[3, 4]], |b, v| b.matmul(v[0], v[1], true, false)),
    ("matmul", &[&[2, 3], &[5, 1, 4, 3]], |b, v| b.matmul(v[0], v[1], false, true)),
    ("matmul", &[&[3, 2], &[4, 3]], |b, v| b.matmul(v[0], v[1], true, true)),
    ("reduce_sum", &[&[2, 3, 4]], |b, v| b.reduce_sum(v[0], &[0, -1], false)),
    ("reduce_mean", &[&[2, 3, 4]], |b, v| b.reduce_mean(v[0], &[1], true)),
    ("reduce_mean", &[&[2, 3]], |b, v| b.call("reduce_mean").arg("x", v[0]).finish()),
    ("reduce_max", &[&[2, 3]], |b, v| {
        b.call("reduce_max").arg("x", v[0]).constant("axes", Tensor::i32s(&[1])).finish()
    }),
    ("reduce_min", &[&[2, 3]], |b, v| {
        b.call("reduce_min").arg("x", v[0]).constant("axes", Tensor::i32s(&[0])).finish()
    }),
    ("reduce_sum_square", &[&[2, 3]], |b, v| b.call("reduce_sum_square").arg("x", v[0]).finish()),
    ("reshape", &[&[2, 6]], |b, v| b.reshape(v[0], &[3, 4])),
    ("transpose", &[&[2, 3, 4]], |b, v| b.transpose(v[0], &[2, 0, -2])),
    ("slice_by_size", &[&[4, 3]], |b, v| {
        let (begin, size) = (Tensor::i32s(&[1, -2]), Tensor::i32s(&[2, -1]));
        b.call("slice_by_size").arg("x", v[0]).constant("begin", begin).constant("size", size).finish()
    }),
    ("concat", &[&[2, 3], &[2, 1]], |b, v| {
        b.call("concat").args("values", v).constant("axis", Tensor::i32(-1)).finish()
    }),
];

/// Numbers around zero that are not close to it, where some ops have no derivative, nor to each other.
fn sample(n: usize, salt: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 37 + salt * 11) as f64 * 0.7).sin() * 1.5).map(|x| x + 0.2 * x.signum()).collect()
}

/// The gradients of all inputs; of those from the `n_inputs`-th on as constants of the program.
fn check(case: &Case, n_inputs: usize) -> Result<(), String> {
    let (op, shapes, _) = case;
    let xs: Vec<Vec<f64>> = shapes.iter().enumerate().map(|(i, s)| sample(s.iter().product(), i)).collect();
    let (program, loss) = weighted(case, n_inputs, &xs)?;
    let wrt: Vec<String> = (0..shapes.len()).map(|i| format!("in{i}")).collect();
    let names: Vec<&str> = wrt.iter().map(String::as_str).collect();
    let g = gradient(&program, &loss, &names, Seed::One).map_err(|e| format!("{op}: {e}"))?;
    let with_gradients = validate(g.program, &Limits::none()).map_err(|e| format!("{op}: {e}"))?;

    let run = |program: &ValidProgram, xs: &[Vec<f64>]| {
        let inputs: Vec<Tensor> =
            xs.iter().zip(*shapes).take(n_inputs).map(|(x, s)| Tensor::float(DType::Fp64, s, x.clone())).collect();
        Interpreter::new(program, &Weights::new()).unwrap().run(&inputs).unwrap()
    };
    let gradients = &run(&with_gradients, &xs)[1..];
    let h = 1e-5;
    for (i, x) in xs.iter().enumerate() {
        for j in 0..x.len() {
            let at = |d: f64| {
                let mut xs = xs.clone();
                xs[i][j] += d;
                let (program, _) = weighted(case, n_inputs, &xs)?;
                Ok::<f64, String>(run(&program, &xs)[0].floats().unwrap()[0])
            };
            let expected = (at(h)? - at(-h)?) / (2.0 * h);
            let found = gradients[i].floats().unwrap()[j];
            let near = (found - expected).abs() <= 1e-7 * (1.0 + expected.abs());
            if !near {
                return Err(format!(
                    "{op}: gradient of input {i} element {j} is {found}, differences say {expected}"
                ));
            }
        }
    }
    Ok(())
}

/// The call and, as the loss, a weighted sum of what it gives, so that every output element has a gradient of its
/// own.
fn weighted(case: &Case, n_inputs: usize, xs: &[Vec<f64>]) -> Result<(ValidProgram, String), String> {
    let (op, shapes, build) = case;
    let mut b = Builder::new(Version::V1_3);
    let inputs: Vec<builder::Value> = shapes
        .iter()
        .zip(xs)
        .enumerate()
        .map(|(i, (s, x))| match i < n_inputs {
            true => b.input(&format!("in{i}"), TensorType::new(DType::Fp64, s)).unwrap(),
            false => b.named_constant(&format!("in{i}"), Tensor::float(DType::Fp64, s, x.clone())),
        })
        .collect();
    let out = build(&mut b, &inputs).map_err(|e| format!("{op}: {e}"))?;
    let shape = b.shape(out).unwrap();
    let weights = b.constant(Tensor::float(DType::Fp64, &shape, sample(shape.iter().product(), 7)));
    let weighted = b.mul(out, weights).unwrap();
    let axes: Vec<i32> = (0..shape.len() as i32).collect();
    let loss = b.reduce_sum(weighted, &axes, false).unwrap();
    let name = b.name(loss).to_string();
    let program = validate(b.finish(&[loss]).unwrap(), &Limits::none()).map_err(|e| format!("{op}: {e}"))?;
    Ok((program, name))
}

/// The families' own cases.
const FAMILIES: &[&[Case]] = &[CASES, moving::CASES, pointwise::CASES, products::CASES];
/// Cases whose inputs but the first are constants, as the op wants them.
const CONSTANT_FAMILIES: &[&[Case]] = &[pointwise::CONSTANT_CASES, products::CONSTANT_CASES];

#[test]
fn gradients_agree_with_finite_differences() {
    let of_inputs = FAMILIES.iter().copied().flatten().filter_map(|c| check(c, c.1.len()).err());
    let of_constants = CONSTANT_FAMILIES.iter().copied().flatten().filter_map(|c| check(c, 1).err());
    let failures: Vec<String> = of_inputs.chain(of_constants).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_differentiable_op_has_a_case() {
    let cases = FAMILIES.iter().chain(CONSTANT_FAMILIES).copied().flatten();
    let missing: Vec<&str> =
        all().filter(|d| d.vjp.is_some() && !cases.clone().any(|c| c.0 == d.name)).map(|d| d.name).collect();
    assert!(missing.is_empty(), "no gradient check for {missing:?}");
}
