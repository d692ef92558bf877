//! Reductions over axes.

use super::elementwise::{maximum, minimum};
use super::shape::{strides, walk};
use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType};
use crate::tensor::Data;

const PARAMS: &[Param] = &[
    Param::new("x", NUMBER),
    Param::constant("axes", INT32).optional(),
    Param::constant("keep_dims", BOOL).or(Const::Bool(false)),
];

/// The table row of a reduction: `(name, |elements| float, |elements| integer, gradient)`.
macro_rules! reduction {
    ($name:literal, $f:expr, $i:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: PARAMS,
            infer: |args| {
                let axes = args.axes("axes", args.shape("x")?.len())?;
                Ok(vec![reduced_type(args, args.dtype("x")?, &axes)?.into()])
            },
            eval: Eval::By(|args| reduce(args, $f, $i)),
            vjp: Some($vjp),
        }
    };
}

/// The table row of a reduction that is a function of floats: `(name, |elements| value, gradient)`. Of integers it
/// gives the value without its fraction.
macro_rules! float_reduction {
    ($name:literal, $f:expr, $vjp:expr) => {
        reduction!(
            $name,
            $f,
            |x| {
                let f: fn(&[f64]) -> f64 = $f;
                f(&x.iter().map(|&x| x as f64).collect::<Vec<_>>()) as i64
            },
            $vjp
        )
    };
}

/// The table row of a search along one axis: `(name, |element, best so far| whether it is better)`. The first of
/// equal elements is found, and NaN before any number.
macro_rules! search {
    ($name:literal, $better:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[PARAMS[0], AXIS, PARAMS[2]],
            infer: |args| search_type(args, DType::Int32),
            eval: Eval::By(|args| search(args, $better)),
            vjp: None,
        }
    };
}

const AXIS: Param = Param::constant("axis", INT32).or(Const::Int(-1));
const ARGMAX: OpDef = search!("reduce_argmax", |x, best| x > best);
const ARGMIN: OpDef = search!("reduce_argmin", |x, best| x < best);

/// From iOS 17 on, the indices may be of another type.
const fn typed(old: OpDef) -> OpDef {
    OpDef {
        since: Opset::Ios17,
        params: &const { [PARAMS[0], AXIS, PARAMS[2], Param::constant("output_dtype", STRING).or(Const::Str("int32"))] },
        infer: |args| match args.str("output_dtype")? {
            "int32" => search_type(args, DType::Int32),
            "uint16" => search_type(args, DType::UInt16),
            other => Err(OpError::arg("output_dtype", format!("is `{other}`, expected `int32` or `uint16`"))),
        },
        ..old
    }
}

pub(super) const OPS: &[OpDef] = &[
    ARGMAX,
    typed(ARGMAX),
    ARGMIN,
    typed(ARGMIN),
    reduction!(
        "reduce_l1_norm",
        |x| x.iter().map(|x| x.abs()).sum(),
        |x| x.iter().fold(0, |a, x| a.wrapping_add(x.abs())),
        l1_norm_vjp
    ),
    float_reduction!("reduce_l2_norm", |x| x.iter().map(|x| x * x).sum::<f64>().sqrt(), l2_norm_vjp),
    float_reduction!("reduce_log_sum", |x| x.iter().sum::<f64>().ln(), log_sum_vjp),
    float_reduction!("reduce_log_sum_exp", log_sum_exp, log_sum_exp_vjp),
    reduction!(
        "reduce_max",
        |x| x.iter().fold(f64::NEG_INFINITY, |a, &b| maximum(a, b)),
        |x| x.iter().copied().max().unwrap_or(0),
        extreme_vjp
    ),
    float_reduction!("reduce_mean", |x| x.iter().sum::<f64>() / x.len() as f64, mean_vjp),
    reduction!(
        "reduce_min",
        |x| x.iter().fold(f64::INFINITY, |a, &b| minimum(a, b)),
        |x| x.iter().copied().min().unwrap_or(0),
        extreme_vjp
    ),
    reduction!("reduce_prod", |x| x.iter().product(), |x| x.iter().fold(1, |a, &b| a.wrapping_mul(b)), prod_vjp),
    reduction!("reduce_sum", |x| x.iter().sum(), |x| x.iter().fold(0, |a, &b| a.wrapping_add(b)), sum_vjp),
    reduction!(
        "reduce_sum_square",
        |x| x.iter().map(|x| x * x).sum(),
        |x| x.iter().fold(0, |a, &b| a.wrapping_add(b.wrapping_mul(b))),
        sum_square_vjp
    ),
];

fn reduced_type(args: &Args<'_>, dtype: DType, axes: &[usize]) -> OpResult<TensorType> {
    let keep = args.bool("keep_dims")?;
    let kept = |(i, &d): (usize, &Dim)| match axes.contains(&i) {
        false => Some(d),
        true => keep.then_some(Dim::Fixed(1)),
    };
    Ok(TensorType { dtype, shape: args.shape("x")?.iter().enumerate().filter_map(kept).collect() })
}

/// For each element of a tensor, which it is of what a reduction over `axes` leaves.
pub(super) fn group_of(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    if shape.contains(&0) {
        return Vec::new();
    }
    let kept: Vec<usize> = shape.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    let steps = strides(&kept);
    let step = |axis: usize, c: usize| if axes.contains(&axis) { 0 } else { c * steps[axis] };
    (0..shape.iter().product()).map(|i| walk(shape, i, step)).collect()
}

/// The elements of `xs` by group, in their order.
fn grouped<T: Copy>(xs: &[T], group: &[usize], n_groups: usize) -> Vec<Vec<T>> {
    let mut groups = vec![Vec::new(); n_groups];
    for (&x, &g) in xs.iter().zip(group) {
        groups[g].push(x);
    }
    groups
}

fn reduce(args: &Args<'_>, f: fn(&[f64]) -> f64, i: fn(&[i64]) -> i64) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let axes = args.axes("axes", x.rank())?;
    let shape = reduced_type(args, x.dtype(), &axes)?.fixed_shape().unwrap_or_default();
    let (group, n) = (group_of(x.shape(), &axes), shape.iter().product());
    let out = match x.data() {
        Data::Float(xs) => Tensor::float(x.dtype(), &shape, grouped(xs, &group, n).iter().map(|g| f(g)).collect()),
        Data::Int(xs) => Tensor::int(x.dtype(), &shape, grouped(xs, &group, n).iter().map(|g| i(g)).collect()),
        Data::Str(_) => return Err(OpError::arg("x", "has strings, expected numbers")),
    };
    Ok(vec![out.into()])
}

fn search_type(args: &Args<'_>, dtype: DType) -> OpResult<Vec<Type>> {
    let x = args.ty("x")?;
    let axis = args.axis("axis", x.shape.len())?;
    match x.shape[axis] {
        Dim::Fixed(0) => Err(OpError::arg("x", format!("has type {x}, with nothing to find on axis {axis}"))),
        _ => Ok(vec![reduced_type(args, dtype, &[axis])?.into()]),
    }
}

fn search(args: &Args<'_>, better: fn(f64, f64) -> bool) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let axis = args.axis("axis", x.rank())?;
    let types = (args.def.infer)(args)?;
    let Some(ty) = types[0].as_tensor() else { return Err(OpError::new("gives no tensor")) };
    let shape = ty.fixed_shape().unwrap_or_default();
    let groups = grouped(&x.to_f64s(), &group_of(x.shape(), &[axis]), shape.iter().product());
    let first =
        |g: &Vec<f64>| {
            (1..g.len()).fold(0, |best, i| {
                if !g[best].is_nan() && (better(g[i], g[best]) || g[i].is_nan()) { i } else { best }
            })
        };
    Ok(vec![Tensor::int(ty.dtype, &shape, groups.iter().map(|g| first(g) as i64).collect()).into()])
}

/// The largest element is taken out, so that nothing overflows.
fn log_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().fold(f64::NEG_INFINITY, |a, &b| maximum(a, b));
    match largest.is_finite() {
        true => largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln(),
        false => largest,
    }
}

/// `value` in the shape it has with `keep_dims`, so that it broadcasts against the input.
fn keep_dims(v: &mut Vjp<'_>, value: builder::Value) -> OpResult<builder::Value> {
    let x = v.b.shape(v.arg("x")?)?;
    let axes = v.args().axes("axes", x.len())?;
    let shape: Vec<usize> = x.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    Ok(if v.b.shape(value)? == shape { value } else { v.b.reshape(value, &shape)? })
}

/// The axes of the reduction, as arguments of another.
fn axes(v: &mut Vjp<'_>) -> OpResult<Vec<i32>> {
    let rank = v.b.shape(v.arg("x")?)?.len();
    Ok(v.args().axes("axes", rank)?.into_iter().map(|a| a as i32).collect())
}

/// `dx = dy`, stretched over the axes that were summed.
fn sum_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    stretched_vjp(v, dy, 1.0)
}

/// `dx = dy / n`, stretched over the axes that were averaged.
fn mean_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y) = (v.b.shape(v.arg("x")?)?, v.b.shape(v.out())?);
    let n = x.iter().product::<usize>() as f64 / y.iter().product::<usize>().max(1) as f64;
    let dy = v.dy()?;
    stretched_vjp(v, dy, 1.0 / n)
}

/// `dx = dy factor`, stretched over the axes of the reduction.
fn stretched_vjp(v: &mut Vjp<'_>, dy: builder::Value, factor: f64) -> OpResult<()> {
    let x = v.arg("x")?;
    let dtype = v.b.tensor_ty(x)?.dtype;
    let shape = v.b.shape(x)?;
    let dy = keep_dims(v, dy)?;
    let factors = v.b.filled(dtype, &shape, factor)?;
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
    let axes = axes(v)?;
    let (y, dy) = (keep_dims(v, y)?, keep_dims(v, dy)?);
    let hit = v.binary("equal", x, y)?;
    let hit = v.b.cast(hit, dtype)?;
    let n_hits = v.b.reduce_sum(hit, &axes, true)?;
    let share = v.binary("real_div", hit, n_hits)?;
    let dx = v.b.mul(share, dy)?;
    v.give("x", dx)
}

/// `dx = dy sign(x)`.
fn l1_norm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let (dy, sign) = (keep_dims(v, dy)?, v.unary("sign", x)?);
    let dx = v.b.mul(sign, dy)?;
    v.give("x", dx)
}

/// `dx = dy x / y`, and 0 where all of `x` is.
fn l2_norm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let (y, dy) = (keep_dims(v, y)?, keep_dims(v, dy)?);
    let (zero, one) = (v.number(y, 0.0)?, v.number(y, 1.0)?);
    let none = v.binary("equal", y, zero)?;
    let y = v.select(none, one, y)?;
    let unit = v.binary("real_div", x, y)?;
    let dx = v.b.mul(unit, dy)?;
    v.give("x", dx)
}

/// `dx = dy / sum(x)`, stretched over the axes that were summed.
fn log_sum_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let axes = axes(v)?;
    let (dy, sum) = (keep_dims(v, dy)?, v.b.reduce_sum(x, &axes, true)?);
    let share = v.binary("real_div", dy, sum)?;
    stretched_vjp(v, share, 1.0)
}

/// `dx = dy exp(x - y)`.
fn log_sum_exp_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let (y, dy) = (keep_dims(v, y)?, keep_dims(v, dy)?);
    let difference = v.b.sub(x, y)?;
    let share = v.unary("exp", difference)?;
    let dx = v.b.mul(share, dy)?;
    v.give("x", dx)
}

/// `dx` is `dy` times the product of the other elements: `p / x` without a 0 among them; with one, `p` at its
/// place and 0 elsewhere, where `p` is the product of those that are not 0; with more, 0.
fn prod_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let dtype = v.b.tensor_ty(x)?.dtype;
    let axes = axes(v)?;
    let dy = keep_dims(v, dy)?;
    let (zero, one) = (v.number(x, 0.0)?, v.number(x, 1.0)?);
    let is_zero = v.binary("equal", x, zero)?;
    let safe = v.select(is_zero, one, x)?;
    let p = v.b.reduce("reduce_prod", safe, &axes, true)?;
    let count = v.b.cast(is_zero, dtype)?;
    let n_zeros = v.b.reduce_sum(count, &axes, true)?;
    let (none, single) = (v.binary("equal", n_zeros, zero)?, v.binary("equal", n_zeros, one)?);
    let (at_others, at_zero) = (v.select(none, p, zero)?, v.select(single, p, zero)?);
    let at_others = v.binary("real_div", at_others, safe)?;
    let slope = v.select(is_zero, at_zero, at_others)?;
    let dx = v.b.mul(slope, dy)?;
    v.give("x", dx)
}
