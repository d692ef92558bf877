//! Reductions over axes.

use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType};

const PARAMS: &[Param] = &[
    Param::new("x", NUMBER),
    Param::constant("axes", INT32).optional(),
    Param::constant("keep_dims", BOOL).or(Const::Bool(false)),
];

/// The table row of a reduction: `(name, |elements| value, gradient)`.
macro_rules! reduction {
    ($name:literal, $f:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: PARAMS,
            infer: |args| Ok(vec![reduced_type(args)?.into()]),
            eval: Eval::By(|args| reduce(args, $f)),
            vjp: $vjp,
        }
    };
}

pub(super) const OPS: &[OpDef] = &[
    reduction!("reduce_sum", |x| x.iter().sum(), Some(sum_vjp)),
    reduction!("reduce_mean", |x| x.iter().sum::<f64>() / x.len() as f64, Some(mean_vjp)),
    reduction!(
        "reduce_max",
        |x| x.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a }),
        Some(extreme_vjp)
    ),
    reduction!(
        "reduce_min",
        |x| x.iter().fold(f64::INFINITY, |a, &b| if b < a || b.is_nan() { b } else { a }),
        Some(extreme_vjp)
    ),
    reduction!("reduce_sum_square", |x| x.iter().map(|x| x * x).sum(), Some(sum_square_vjp)),
];

fn reduced_type(args: &Args<'_>) -> OpResult<TensorType> {
    let x = args.ty("x")?;
    let axes = args.axes("axes", x.shape.len())?;
    let keep = args.bool("keep_dims")?;
    let kept = |(i, &d): (usize, &Dim)| match axes.contains(&i) {
        false => Some(d),
        true => keep.then_some(Dim::Fixed(1)),
    };
    Ok(TensorType { dtype: x.dtype, shape: x.shape.iter().enumerate().filter_map(kept).collect() })
}

fn reduce(args: &Args<'_>, f: fn(&[f64]) -> f64) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let axes = args.axes("axes", x.rank())?;
    let shape = reduced_type(args)?.fixed_shape().unwrap_or_default();
    let n_out: usize = shape.iter().product();
    // The index of the output that each element belongs to: its coordinates along the kept axes.
    let mut groups: Vec<Vec<f64>> = vec![Vec::new(); n_out];
    for (i, value) in x.to_f64s().into_iter().enumerate() {
        let (mut rest, mut at, mut stride) = (i, 0, 1);
        for (axis, &d) in x.shape().iter().enumerate().rev() {
            if !axes.contains(&axis) {
                at += rest % d * stride;
                stride *= d;
            }
            rest /= d;
        }
        groups[at].push(value);
    }
    let out: Vec<f64> = groups.iter().map(|g| f(g)).collect();
    Ok(vec![
        match x.dtype().is_float() {
            true => Tensor::float(x.dtype(), &shape, out),
            false => Tensor::int(x.dtype(), &shape, out.into_iter().map(|x| x as i64).collect()),
        }
        .into(),
    ])
}

/// `value` in the shape it has with `keep_dims`, so that it broadcasts against the input.
fn keep_dims(v: &mut Vjp<'_>, value: builder::Value) -> OpResult<builder::Value> {
    let x = v.b.shape(v.arg("x")?)?;
    let axes = axes(v, x.len())?;
    let shape: Vec<usize> = x.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    Ok(if v.b.shape(value)? == shape { value } else { v.b.reshape(value, &shape)? })
}

fn axes(v: &Vjp<'_>, rank: usize) -> OpResult<Vec<usize>> {
    Ok(match v.optional("axes") {
        Some(_) => v.ints("axes")?.iter().map(|&a| if a < 0 { a + rank as i64 } else { a } as usize).collect(),
        None => (0..rank).collect(),
    })
}

/// `dx = dy`, stretched over the axes that were summed.
fn sum_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    scaled_vjp(v, 1.0)
}

/// `dx = dy / n`, stretched over the axes that were averaged.
fn mean_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y) = (v.b.shape(v.arg("x")?)?, v.b.shape(v.out())?);
    let n = x.iter().product::<usize>() as f64 / y.iter().product::<usize>().max(1) as f64;
    scaled_vjp(v, 1.0 / n)
}

fn scaled_vjp(v: &mut Vjp<'_>, factor: f64) -> OpResult<()> {
    let x = v.arg("x")?;
    let dtype = v.b.tensor_ty(x)?.dtype;
    let shape = v.b.shape(x)?;
    let dy = v.dy()?;
    let dy = keep_dims(v, dy)?;
    let factors = v.b.fill(dtype, &shape, factor)?;
    let dx = v.b.mul(dy, factors)?;
    v.give("x", dx)
}

/// `dx = 2 x dy`.
fn sum_square_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let dy = keep_dims(v, dy)?;
    let twice = v.b.scale(x, 2.0)?;
    let dx = v.b.mul(twice, dy)?;
    v.give("x", dx)
}

/// The gradient goes to the elements that equal the extreme, in equal shares where several do.
fn extreme_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let dtype = v.b.tensor_ty(x)?.dtype;
    let rank = v.b.shape(x)?.len();
    let axes: Vec<i32> = axes(v, rank)?.iter().map(|&a| a as i32).collect();
    let (y, dy) = (keep_dims(v, y)?, keep_dims(v, dy)?);
    let hit = v.b.call("equal").arg("x", x).arg("y", y).finish()?;
    let hit = v.b.cast(hit, dtype)?;
    let n_hits = v.b.reduce_sum(hit, &axes, true)?;
    let share = v.b.call("real_div").arg("x", hit).arg("y", n_hits).finish()?;
    let dx = v.b.mul(share, dy)?;
    v.give("x", dx)
}
