//! Ops that work element by element: arithmetic, comparison, activation, conversion.

use super::shape::broadcast_shapes;
use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType};
use crate::tensor::Data;

const X: Param = Param::new("x", NUMBER);
const Y: Param = Param::new("y", NUMBER);

/// The table row of an op that keeps type and shape: `(name, element types, |x| value, gradient)`.
macro_rules! unary {
    ($name:literal, $types:expr, $f:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[Param::new("x", $types)],
            infer: |args| Ok(vec![args.ty("x")?.clone().into()]),
            eval: Eval::By(|args| map(args.tensor("x")?, $f)),
            vjp: $vjp,
        }
    };
}

/// The table row of a broadcast op of two numbers: `(name, |x, y| float, |x, y| integer, gradient)`.
macro_rules! binary {
    ($name:literal, $f:expr, $i:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[X, Y],
            infer: |args| Ok(vec![broadcast_type(args, args.dtype("x")?)?]),
            eval: Eval::By(|args| zip(args, $f, $i)),
            vjp: $vjp,
        }
    };
}

/// The table row of a comparison: `(name, |x, y| bool)`, with no gradient.
macro_rules! comparison {
    ($name:literal, $f:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[X, Y],
            infer: |args| Ok(vec![broadcast_type(args, DType::Bool)?]),
            eval: Eval::By(|args| {
                let (x, y) = (args.tensor("x")?, args.tensor("y")?);
                let shape = broadcast_shapes(x.shape(), y.shape())?;
                let (x, y) = (stretched(x, &shape), stretched(y, &shape));
                let f: fn(f64, f64) -> bool = $f;
                let out = x.to_f64s().into_iter().zip(y.to_f64s()).map(|(x, y)| f(x, y).into()).collect();
                Ok(vec![Tensor::int(DType::Bool, &shape, out).into()])
            }),
            vjp: None,
        }
    };
}

const CAST: OpDef = OpDef {
    name: "cast",
    since: Opset::Ios13,
    params: &[Param::new("x", NUMBER_OR_BOOL), Param::constant("dtype", STRING)],
    infer: cast_infer,
    eval: Eval::By(cast_eval),
    vjp: Some(cast_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    binary!("add", |x, y| x + y, i64::wrapping_add, Some(add_vjp)),
    binary!("sub", |x, y| x - y, i64::wrapping_sub, Some(sub_vjp)),
    binary!("mul", |x, y| x * y, i64::wrapping_mul, Some(mul_vjp)),
    binary!("real_div", |x, y| x / y, |x, y| x.checked_div(y).unwrap_or(0), Some(div_vjp)),
    comparison!("equal", |x, y| x == y),
    comparison!("greater", |x, y| x > y),
    comparison!("greater_equal", |x, y| x >= y),
    comparison!("less", |x, y| x < y),
    comparison!("less_equal", |x, y| x <= y),
    comparison!("not_equal", |x, y| x != y),
    OpDef {
        name: "identity",
        since: Opset::Ios13,
        params: &[Param::new("x", ANY)],
        infer: |args| Ok(vec![args.ty("x")?.clone().into()]),
        eval: Eval::By(|args| Ok(vec![args.tensor("x")?.clone().into()])),
        vjp: Some(identity_vjp),
    },
    unary!("relu", NUMBER, |x| if x < 0.0 { 0.0 } else { x }, Some(relu_vjp)),
    unary!("sigmoid", FLOAT, |x| 1.0 / (1.0 + (-x).exp()), Some(sigmoid_vjp)),
    unary!("tanh", FLOAT, f64::tanh, Some(tanh_vjp)),
    unary!("square", NUMBER, |x| x * x, Some(square_vjp)),
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

/// `f` of each element of a tensor of numbers.
pub(super) fn map(x: &Tensor, f: fn(f64) -> f64) -> OpResult<Vec<Value>> {
    let out: Vec<f64> = x.to_f64s().into_iter().map(f).collect();
    Ok(vec![from_f64s(x.dtype(), x.shape(), out).into()])
}

/// Numbers as a tensor of `dtype`; to integers by truncation.
pub(super) fn from_f64s(dtype: DType, shape: &[usize], xs: Vec<f64>) -> Tensor {
    match dtype.is_float() {
        true => Tensor::float(dtype, shape, xs),
        false => Tensor::int(dtype, shape, xs.into_iter().map(|x| x as i64).collect()),
    }
}

/// `f` or `i` of each pair of elements of `x` and `y`, broadcast.
fn zip(args: &Args<'_>, f: fn(f64, f64) -> f64, i: fn(i64, i64) -> i64) -> OpResult<Vec<Value>> {
    let (x, y) = (args.tensor("x")?, args.tensor("y")?);
    let shape = broadcast_shapes(x.shape(), y.shape())?;
    let (x, y) = (stretched(x, &shape), stretched(y, &shape));
    Ok(vec![
        match (x.data(), y.data()) {
            (Data::Float(a), Data::Float(b)) => {
                Tensor::float(x.dtype(), &shape, a.iter().zip(b.iter()).map(|(&a, &b)| f(a, b)).collect())
            }
            (Data::Int(a), Data::Int(b)) => {
                Tensor::int(x.dtype(), &shape, a.iter().zip(b.iter()).map(|(&a, &b)| i(a, b)).collect())
            }
            _ => {
                return Err(OpError::arg(
                    "y",
                    format!("has type {}, expected {} elements like `x`", y.ty(), x.dtype()),
                ));
            }
        }
        .into(),
    ])
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

fn broadcast_type(args: &Args<'_>, dtype: DType) -> OpResult<Type> {
    Ok(TensorType { dtype, shape: broadcast_dims(args.shape("x")?, args.shape("y")?)? }.into())
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

fn add_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    for name in ["x", "y"] {
        if v.wants(name) {
            v.give_reduced(name, dy)?;
        }
    }
    Ok(())
}

fn sub_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    if v.wants("x") {
        v.give_reduced("x", dy)?;
    }
    if v.wants("y") {
        let negative = v.b.scale(dy, -1.0)?;
        v.give_reduced("y", negative)?;
    }
    Ok(())
}

fn mul_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    for (name, other) in [("x", y), ("y", x)] {
        if v.wants(name) {
            let d = v.b.mul(dy, other)?;
            v.give_reduced(name, d)?;
        }
    }
    Ok(())
}

/// `dx = dy / y`, `dy' = -dy x / y^2 = -dx out`.
fn div_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (y, out, dy) = (v.arg("y")?, v.out(), v.dy()?);
    let dx = v.b.call("real_div").arg("x", dy).arg("y", y).finish()?;
    if v.wants("x") {
        v.give_reduced("x", dx)?;
    }
    if v.wants("y") {
        let d = v.b.mul(dx, out)?;
        let d = v.b.scale(d, -1.0)?;
        v.give_reduced("y", d)?;
    }
    Ok(())
}

/// `dx = dy` where `x > 0`, else 0: also where `dy` is not finite and `x` is not positive.
fn relu_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let dx = masked(v.b, x, dy)?;
    v.give("x", dx)
}

/// `dy` where `x > 0`, else 0.
pub(super) fn masked(b: &mut Builder, x: builder::Value, dy: builder::Value) -> OpResult<builder::Value> {
    let dtype = b.tensor_ty(x)?.dtype;
    let zero = Tensor::float(dtype, &[], vec![0.0]);
    let positive = b.call("greater").arg("x", x).constant("y", zero.clone()).finish()?;
    Ok(b.call("select").arg("cond", positive).arg("a", dy).constant("b", zero).finish()?)
}

/// `dx = dy y (1 - y) = dy (y - y^2)`.
fn sigmoid_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (y, dy) = (v.out(), v.dy()?);
    let y2 = v.b.mul(y, y)?;
    let slope = v.b.sub(y, y2)?;
    let dx = v.b.mul(dy, slope)?;
    v.give("x", dx)
}

/// `dx = dy (1 - y^2)`.
fn tanh_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (y, dy) = (v.out(), v.dy()?);
    let dtype = v.b.tensor_ty(y)?.dtype;
    let y2 = v.b.mul(y, y)?;
    let one = v.b.constant(Tensor::float(dtype, &[], vec![1.0]));
    let slope = v.b.sub(one, y2)?;
    let dx = v.b.mul(dy, slope)?;
    v.give("x", dx)
}

/// `dx = 2 x dy`.
fn square_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let twice = v.b.scale(x, 2.0)?;
    let dx = v.b.mul(twice, dy)?;
    v.give("x", dx)
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
            let d = v.b.call("select").arg("cond", cond).arg("a", a).arg("b", b).finish()?;
            v.give_reduced(name, d)?;
        }
    }
    Ok(())
}

fn identity_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    v.give("x", dy)
}
