//! Ops that work element by element, and what they share: maps, broadcasting, slopes. Here choice and conversion.

use super::shape::broadcast_shapes;
use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType};
use crate::tensor::Data;

const X: Param = Param::new("x", NUMBER);
pub(super) const X_FLOAT: Param = Param::new("x", FLOAT);

/// The table row of an op that keeps the type of `x`: `(name, parameters, evaluation, gradient)`.
macro_rules! pointwise {
    ($name:literal, $params:expr, $eval:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: $params,
            infer: same_type,
            eval: Eval::By($eval),
            vjp: Some($vjp),
        }
    };
}
pub(super) use pointwise;

pub(super) mod binary;
pub(super) mod unary;

const CAST: OpDef = OpDef {
    name: "cast",
    since: Opset::Ios13,
    params: &[Param::new("x", NUMBER_OR_BOOL), Param::constant("dtype", STRING)],
    infer: cast_infer,
    eval: Eval::By(cast_eval),
    vjp: Some(cast_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "identity",
        since: Opset::Ios13,
        params: &[Param::new("x", ANY)],
        // Of lists too.
        infer: |args| Ok(vec![args.bound("x")?.ty.clone()]),
        eval: Eval::By(|args| {
            let x = args.bound("x")?;
            Ok(vec![x.value.cloned().ok_or_else(|| OpError::arg("x", "has no value"))?])
        }),
        vjp: Some(identity_vjp),
    },
    OpDef {
        name: "select",
        since: Opset::Ios13,
        params: &[
            Param::new("cond", BOOL).group(' '),
            Param::new("a", NUMBER_OR_BOOL),
            Param::new("b", NUMBER_OR_BOOL),
        ],
        infer: |args| {
            let ab = broadcast_dims(args.shape("a")?, args.shape("b")?)?;
            let shape = broadcast_dims(&ab, args.shape("cond")?)?;
            Ok(vec![TensorType { dtype: args.dtype("a")?, shape }.into()])
        },
        eval: Eval::By(|args| {
            let (c, a, b) = (args.tensor("cond")?, args.tensor("a")?, args.tensor("b")?);
            let shape = broadcast_shapes(&broadcast_shapes(a.shape(), b.shape())?, c.shape())?;
            let (c, a, b) = (stretched(c, &shape), stretched(a, &shape), stretched(b, &shape));
            let c = c.ints().unwrap_or_default();
            Ok(vec![match (a.data(), b.data()) {
                (Data::Float(a), Data::Float(b)) => {
                    let out = c.iter().enumerate().map(|(i, &c)| if c != 0 { a[i] } else { b[i] }).collect();
                    Tensor::float(args.dtype("a")?, &shape, out).into()
                }
                (Data::Int(a), Data::Int(b)) => {
                    let out = c.iter().enumerate().map(|(i, &c)| if c != 0 { a[i] } else { b[i] }).collect();
                    Tensor::int(args.dtype("a")?, &shape, out).into()
                }
                _ => return Err(OpError::arg("b", "has another kind of elements than `a`")),
            }])
        }),
        vjp: Some(select_vjp),
    },
    CAST,
    OpDef {
        since: Opset::Ios17,
        params: &[Param::new("x", NUMBER_OR_BOOL_17), Param::constant("dtype", STRING)],
        ..CAST
    },
];

/// The type of `x`.
pub(super) fn same_type(args: &Args<'_>) -> OpResult<Vec<Type>> {
    Ok(vec![args.ty("x")?.clone().into()])
}

/// `f` of each element of a tensor of numbers.
pub(super) fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> OpResult<Vec<Value>> {
    let out: Vec<f64> = x.to_f64s().into_iter().map(f).collect();
    Ok(vec![from_f64s(x.dtype(), x.shape(), out).into()])
}

/// `f` or `i` of each element of a tensor.
fn map_number(x: &Tensor, f: impl Fn(f64) -> f64, i: impl Fn(i64) -> i64) -> OpResult<Vec<Value>> {
    match x.ints() {
        Some(xs) => Ok(vec![Tensor::int(x.dtype(), x.shape(), xs.iter().map(|&x| i(x)).collect()).into()]),
        None => map(x, f),
    }
}

/// The larger one; NaN if either is.
pub(super) fn maximum(x: f64, y: f64) -> f64 {
    if x > y || x.is_nan() { x } else { y }
}

/// The smaller one; NaN if either is.
pub(super) fn minimum(x: f64, y: f64) -> f64 {
    if x < y || x.is_nan() { x } else { y }
}

/// Numbers as a tensor of `dtype`; to integers by truncation.
pub(super) fn from_f64s(dtype: DType, shape: &[usize], xs: Vec<f64>) -> Tensor {
    match dtype.is_float() {
        true => Tensor::float(dtype, shape, xs),
        false => Tensor::int(dtype, shape, xs.into_iter().map(|x| x as i64).collect()),
    }
}

/// `x` broadcast to `shape`, which it fits.
fn stretched(x: &Tensor, shape: &[usize]) -> Tensor {
    if x.shape() == shape {
        return x.clone();
    }
    let lead = shape.len() - x.rank();
    // For each axis of the result, how far one step moves in `x`: not at all where it is broadcast.
    let mut strides = vec![0usize; shape.len()];
    let mut stride = 1;
    for (i, &d) in x.shape().iter().enumerate().rev() {
        strides[lead + i] = if d == 1 { 0 } else { stride };
        stride *= d;
    }
    x.picked(shape, |mut i| {
        let mut at = 0;
        for (&d, &s) in shape.iter().zip(&strides).rev() {
            at += i % d * s;
            i /= d;
        }
        at
    })
}

/// The shape two operands are broadcast to, numpy's rule.
pub(super) fn broadcast_dims(x: &[Dim], y: &[Dim]) -> OpResult<Vec<Dim>> {
    let rank = x.len().max(y.len());
    let dim = |s: &[Dim], i: usize| if i + s.len() < rank { Dim::Fixed(1) } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (dim(x, i), dim(y, i)) {
            (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => Ok(d),
            (Dim::Any, d) | (d, Dim::Any) => Ok(d),
            (a, b) if a == b => Ok(a),
            (a, b) => Err(OpError::new(format!(
                "shapes {} and {} do not broadcast: axis {i} has sizes {a} and {b}",
                show(x),
                show(y)
            ))),
        })
        .collect()
}

/// `[1, 64, 1, ?]`.
pub(super) fn show(shape: &[Dim]) -> String {
    let mut s = String::new();
    // Writing into a String cannot fail.
    let _ = crate::ir::fmt_shape(&mut s, shape);
    s
}

fn cast_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let name = args.str("dtype")?;
    let takes = args.def.params[0].types;
    match DType::from_name(name).filter(|d| takes.contains(d)) {
        Some(dtype) => Ok(vec![args.ty("x")?.with_dtype(dtype).into()]),
        None => {
            let takes: Vec<&str> = takes.iter().map(|d| d.as_str()).collect();
            Err(OpError::arg("dtype", format!("is `{name}`, expected one of {}", takes.join(", "))))
        }
    }
}

fn cast_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let dtype = DType::from_name(args.str("dtype")?).unwrap_or(x.dtype());
    Ok(vec![
        match x.data() {
            Data::Int(i) if !dtype.is_float() => Tensor::int(dtype, x.shape(), i.to_vec()),
            // To bool, whatever is not 0 counts as true, fractions too.
            Data::Float(f) if dtype == DType::Bool => {
                Tensor::int(dtype, x.shape(), f.iter().map(|&x| (x != 0.0).into()).collect())
            }
            _ => from_f64s(dtype, x.shape(), x.to_f64s()),
        }
        .into(),
    ])
}

fn cast_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let from = v.b.tensor_ty(v.arg("x")?)?.dtype;
    if !from.is_float() || !v.b.tensor_ty(v.out())?.dtype.is_float() {
        return Ok(());
    }
    let dy = v.dy()?;
    let dx = v.b.cast(dy, from)?;
    v.give("x", dx)
}

/// Emits the slope of an op at `x`, where it gave `y`.
pub(super) type Slope = fn(&mut Vjp<'_>, builder::Value, builder::Value) -> OpResult<builder::Value>;

/// `dx = dy` times the slope, no other argument having a gradient.
pub(super) fn sloped(v: &mut Vjp<'_>, slope: Slope) -> OpResult<()> {
    v.only(&["x"])?;
    let (x, y) = (v.arg("x")?, v.out());
    let slope = slope(v, x, y)?;
    v.give_slope(slope)
}

/// Emits `dy` where `compare(x, y)` holds, else 0: also where `dy` is not finite there.
pub(super) fn keep(
    v: &mut Vjp<'_>,
    compare: &'static str,
    x: builder::Value,
    y: builder::Value,
    dy: builder::Value,
) -> OpResult<builder::Value> {
    let (cond, zero) = (v.binary(compare, x, y)?, v.number(dy, 0.0)?);
    v.select(cond, dy, zero)
}

/// Emits `1 / x`.
pub(super) fn reciprocal(v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
    let one = v.number(x, 1.0)?;
    v.binary("real_div", one, x)
}

/// Emits `1 - x`.
pub(super) fn one_minus(v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
    let one = v.number(x, 1.0)?;
    Ok(v.b.sub(one, x)?)
}

/// Emits `1 + x`.
pub(super) fn one_plus(v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
    let one = v.number(x, 1.0)?;
    Ok(v.b.add(x, one)?)
}

/// Emits `1 - x^2`.
pub(super) fn one_minus_square(v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
    let x2 = v.b.mul(x, x)?;
    one_minus(v, x2)
}

/// Emits `1 + x^2`.
pub(super) fn one_plus_square(v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
    let x2 = v.b.mul(x, x)?;
    one_plus(v, x2)
}

/// Emits `exp(-a x^2)`.
pub(super) fn bell(v: &mut Vjp<'_>, x: builder::Value, a: f64) -> OpResult<builder::Value> {
    let x2 = v.b.mul(x, x)?;
    let exponent = v.b.scale(x2, -a)?;
    v.unary("exp", exponent)
}

fn select_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (cond, dy) = (v.arg("cond")?, v.dy()?);
    let dtype = v.b.tensor_ty(dy)?.dtype;
    if !dtype.is_float() {
        return Ok(());
    }
    let zero = v.b.constant(Tensor::float(dtype, &[], vec![0.0]));
    for (name, a, b) in [("a", dy, zero), ("b", zero, dy)] {
        if v.wants(name) {
            let d = v.select(cond, a, b)?;
            v.give_reduced(name, d)?;
        }
    }
    Ok(())
}

fn identity_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    v.give("x", dy)
}
