//! Elements picked by indices, and elements put where indices say.
//!
//! A gather and the scatter of the same kind agree on which element each index means; so one function answers that
//! for both, and each is the gradient of the other.

use super::elementwise::{maximum, minimum, show};
use super::shape::{out_shape, strides, walk};
use super::*;
use crate::builder::{self, Builder};
use crate::ir::{Dim, TensorType};
use crate::tensor::Data;

const INDEX_16: &[DType] = &[DType::Int16, DType::Int32, DType::UInt16];
const INDEX_17: &[DType] = &[DType::Int8, DType::Int16, DType::Int32, DType::UInt8, DType::UInt16];

const X: Param = Param::new("x", NUMBER);
const X_17: Param = Param::new("x", NUMBER_17);
const AXIS: Param = Param::constant("axis", INT32).or(Const::Int(0));
const BATCH_DIMS: Param = Param::constant("batch_dims", INT32).or(Const::Int(0));
const VALIDATE: Param = Param::constant("validate_indices", BOOL).or(Const::Bool(false));
const DATA: Param = Param::new("data", NUMBER);
const UPDATES: Param = Param::new("updates", NUMBER);
const MODE: Param = Param::constant("mode", STRING).or(Const::Str("add"));

const fn indices(types: &'static [DType]) -> Param {
    Param::new("indices", types).group('I')
}

/// The table row of a gather of a kind.
macro_rules! gather {
    ($name:literal, $kind:expr, $params:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: $params,
            infer: |args| {
                let shape = picked_shape(args, $kind, "x")?;
                Ok(vec![TensorType { dtype: args.dtype("x")?, shape }.into()])
            },
            eval: Eval::By(|args| {
                let (x, places) = (args.tensor("x")?, places(args, $kind, "x", &out_shape(args)?)?);
                Ok(vec![x.picked(&out_shape(args)?, |i| places[i]).into()])
            }),
            vjp: Some(|v| gather_vjp(v, $kind)),
        }
    };
}

/// The table row of a scatter of a kind.
macro_rules! scatter {
    ($name:literal, $kind:expr, $params:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: $params,
            infer: |args| scatter_infer(args, $kind),
            eval: Eval::By(|args| scatter_eval(args, $kind)),
            vjp: Some(|v| scatter_vjp(v, $kind)),
        }
    };
}

const GATHER: OpDef = gather!("gather", Kind::Slices, &[X, indices(INT32), AXIS]);
const GATHER_ALONG: OpDef = gather!("gather_along_axis", Kind::Along, &[X, indices(INT32), AXIS]);
const GATHER_ND: OpDef = gather!("gather_nd", Kind::Nd, &[X, indices(INT32)]);
const SCATTER: OpDef = scatter!("scatter", Kind::Slices, &[DATA, indices(INT32), UPDATES, AXIS, MODE]);
const SCATTER_ALONG: OpDef =
    scatter!("scatter_along_axis", Kind::Along, &[DATA, indices(INT32), UPDATES, AXIS, MODE]);
const SCATTER_ND: OpDef = scatter!("scatter_nd", Kind::Nd, &[DATA, indices(INT32), UPDATES, MODE]);

pub(super) const OPS: &[OpDef] = &[
    GATHER,
    OpDef { since: Opset::Ios16, params: &[X, indices(INDEX_16), AXIS, BATCH_DIMS], ..GATHER },
    OpDef { since: Opset::Ios17, params: &[X_17, indices(INDEX_17), AXIS, BATCH_DIMS, VALIDATE], ..GATHER },
    GATHER_ALONG,
    OpDef { since: Opset::Ios16, params: &[X, indices(INDEX_16), AXIS], ..GATHER_ALONG },
    OpDef { since: Opset::Ios17, params: &[X_17, indices(INDEX_17), AXIS, VALIDATE], ..GATHER_ALONG },
    GATHER_ND,
    OpDef { since: Opset::Ios16, params: &[X, indices(INDEX_16), BATCH_DIMS], ..GATHER_ND },
    OpDef { since: Opset::Ios17, params: &[X_17, indices(INDEX_17), BATCH_DIMS, VALIDATE], ..GATHER_ND },
    SCATTER,
    OpDef { since: Opset::Ios17, params: &[DATA, indices(INT32), UPDATES, AXIS, MODE, VALIDATE], ..SCATTER },
    SCATTER_ALONG,
    OpDef { since: Opset::Ios17, params: &[DATA, indices(INT32), UPDATES, AXIS, MODE, VALIDATE], ..SCATTER_ALONG },
    SCATTER_ND,
    OpDef { since: Opset::Ios17, params: &[DATA, indices(INT32), UPDATES, MODE, VALIDATE], ..SCATTER_ND },
];

/// What an index means.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A slice at that place of `axis`.
    Slices,
    /// An element at that place of `axis`, the other coordinates being those of the index itself.
    Along,
    /// A vector of indices: a slice at these coordinates.
    Nd,
}

/// How many leading axes of data and indices run in step.
fn batch_dims(args: &Args<'_>, rank: usize) -> OpResult<usize> {
    if args.def.param("batch_dims").is_none() {
        return Ok(0);
    }
    let n = args.int("batch_dims")?;
    usize::try_from(n)
        .ok()
        .filter(|&n| n <= rank)
        .ok_or_else(|| OpError::arg("batch_dims", format!("is {n}, expected 0 to {rank}")))
}

/// How many coordinates the index vectors have.
fn n_coordinates(args: &Args<'_>) -> OpResult<usize> {
    match args.shape("indices")?.last() {
        Some(Dim::Fixed(n @ 0..=16)) => Ok(*n as usize),
        _ => Err(OpError::arg("indices", "must have a last axis of known size, one coordinate each")),
    }
}

/// The shape of what the indices pick from `data`: of a gather's output, or of a scatter's updates.
fn picked_shape(args: &Args<'_>, kind: Kind, data: &'static str) -> OpResult<Vec<Dim>> {
    let (x, indices) = (args.shape(data)?, args.shape("indices")?);
    let batch = if kind == Kind::Along { 0 } else { batch_dims(args, x.len().min(indices.len()))? };
    let same = |axis: usize| match (x[axis], indices[axis]) {
        (a, b) if a == b || a == Dim::Any || b == Dim::Any => Ok(()),
        _ => Err(OpError::arg(
            "indices",
            format!("has shape {}, expected the sizes of `{data}` {} on axis {axis}", show(indices), show(x)),
        )),
    };
    (0..batch).try_for_each(same)?;
    let outside = |message: String| Err(OpError::arg("indices", message));
    let shape = match kind {
        Kind::Slices => {
            let axis = args.axis("axis", x.len())?;
            if axis < batch {
                return Err(OpError::arg("axis", format!("is {axis}, expected {batch} or more, as `batch_dims`")));
            }
            [&x[..axis], &indices[batch..], &x[axis + 1..]].concat()
        }
        Kind::Along => {
            let axis = args.axis("axis", x.len())?;
            if indices.len() != x.len() {
                return outside(format!("has rank {}, expected {} like `{data}`", indices.len(), x.len()));
            }
            (0..x.len()).filter(|&i| i != axis).try_for_each(same)?;
            indices.to_vec()
        }
        Kind::Nd => {
            let n = n_coordinates(args)?;
            if batch >= indices.len() || batch + n > x.len() {
                return outside(format!(
                    "has shape {}, too many coordinates for `{data}` {}",
                    show(indices),
                    show(x)
                ));
            }
            [&indices[..indices.len() - 1], &x[batch + n..]].concat()
        }
    };
    if args.def.param("validate_indices").is_some()
        && args.bool("validate_indices")?
        && let Some(t) = args.optional("indices")
    {
        validate(args, kind, data, t)?;
    }
    Ok(shape)
}

/// Constant indices are validated with the types.
fn validate(args: &Args<'_>, kind: Kind, data: &'static str, indices: &Tensor) -> OpResult<()> {
    let x = args.shape(data)?;
    let n = if kind == Kind::Nd { n_coordinates(args)?.max(1) } else { 1 };
    let first = if kind == Kind::Nd { batch_dims(args, x.len())? } else { args.axis("axis", x.len())? };
    for (i, &at) in indices.ints().unwrap_or_default().iter().enumerate() {
        if let Some(Dim::Fixed(d)) = x.get(first + i % n)
            && !(0..*d as i64).contains(&at)
        {
            return Err(out_of_range(at, first + i % n, *d));
        }
    }
    Ok(())
}

fn out_of_range(at: i64, axis: usize, d: u64) -> OpError {
    OpError::arg("indices", format!("holds {at}, axis {axis} has {d} elements"))
}

/// For each element of the picked shape, its place in `data`. An index counts from the end if negative.
fn places(args: &Args<'_>, kind: Kind, data: &'static str, shape: &[usize]) -> OpResult<Vec<usize>> {
    let (x, indices) = (args.tensor(data)?, args.tensor("indices")?);
    let (steps, index_steps) = (strides(x.shape()), strides(indices.shape()));
    let values = indices.ints().unwrap_or_default();
    let wrapped = |at: i64, axis: usize| {
        let d = x.shape()[axis];
        let from_start = if at < 0 { at + d as i64 } else { at };
        usize::try_from(from_start)
            .ok()
            .filter(|&at| at < d)
            .map(|at| at * steps[axis])
            .ok_or_else(|| out_of_range(at, axis, d as u64))
    };
    let n: usize = shape.iter().product();
    if kind == Kind::Nd {
        let (batch, n_coordinates) = (batch_dims(args, x.rank())?, n_coordinates(args)?);
        let lead = indices.rank() - 1;
        return (0..n)
            .map(|i| {
                let row = walk(shape, i, |a, c| if a < lead { c * index_steps[a] } else { 0 });
                let mut at = walk(shape, i, |a, c| match a {
                    _ if a < batch => c * steps[a],
                    _ if a >= lead => c * steps[a - lead + batch + n_coordinates],
                    _ => 0,
                });
                for j in 0..n_coordinates {
                    at += wrapped(values[row + j], batch + j)?;
                }
                Ok(at)
            })
            .collect();
    }
    let axis = args.axis("axis", x.rank())?;
    // The axes of the picked shape from `axis` on that are those of the indices, after their first `batch`.
    let batch = if kind == Kind::Along { axis } else { batch_dims(args, x.rank())? };
    let width = if kind == Kind::Along { 1 } else { indices.rank() - batch };
    (0..n)
        .map(|i| {
            let index = walk(shape, i, |a, c| match a {
                _ if kind == Kind::Along || a < batch => c * index_steps[a],
                _ if (axis..axis + width).contains(&a) => c * index_steps[a - axis + batch],
                _ => 0,
            });
            let others = walk(shape, i, |a, c| match a {
                _ if a < axis => c * steps[a],
                _ if a < axis + width => 0,
                _ => c * steps[a + 1 - width],
            });
            Ok(others + wrapped(values[index], axis)?)
        })
        .collect()
}

fn scatter_infer(args: &Args<'_>, kind: Kind) -> OpResult<Vec<Type>> {
    Mode::of(args.str("mode")?)?;
    let (expected, updates) = (picked_shape(args, kind, "data")?, args.shape("updates")?);
    let fits = |(a, b): (&Dim, &Dim)| a == b || *a == Dim::Any || *b == Dim::Any;
    if updates.len() != expected.len() || !updates.iter().zip(&expected).all(fits) {
        let message = format!("has shape {}, expected {}", show(updates), show(&expected));
        return Err(OpError::arg("updates", message));
    }
    Ok(vec![args.ty("data")?.clone().into()])
}

/// What an update does to the element it meets.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Update,
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

impl Mode {
    fn of(name: &str) -> OpResult<Mode> {
        Ok(match name {
            "update" => Mode::Update,
            "add" => Mode::Add,
            "sub" => Mode::Sub,
            "mul" => Mode::Mul,
            "div" => Mode::Div,
            "max" => Mode::Max,
            "min" => Mode::Min,
            other => {
                let message = format!("is `{other}`, expected update, add, sub, mul, div, max or min");
                return Err(OpError::arg("mode", message));
            }
        })
    }

    fn floats(self, x: f64, update: f64) -> f64 {
        match self {
            Mode::Update => update,
            Mode::Add => x + update,
            Mode::Sub => x - update,
            Mode::Mul => x * update,
            Mode::Div => x / update,
            Mode::Max => maximum(x, update),
            Mode::Min => minimum(x, update),
        }
    }

    fn ints(self, x: i64, update: i64) -> i64 {
        match self {
            Mode::Update => update,
            Mode::Add => x.wrapping_add(update),
            Mode::Sub => x.wrapping_sub(update),
            Mode::Mul => x.wrapping_mul(update),
            Mode::Div => x.checked_div(update).unwrap_or(0),
            Mode::Max => x.max(update),
            Mode::Min => x.min(update),
        }
    }
}

/// Update after update in their order.
fn scatter_eval(args: &Args<'_>, kind: Kind) -> OpResult<Vec<Value>> {
    infer(args)?;
    let (data, updates, mode) = (args.tensor("data")?, args.tensor("updates")?, Mode::of(args.str("mode")?)?);
    let places = places(args, kind, "data", updates.shape())?;
    Ok(vec![match (data.data(), updates.data()) {
        (Data::Float(x), Data::Float(u)) => {
            let mut out = x.to_vec();
            places.iter().zip(u.iter()).for_each(|(&at, &u)| out[at] = mode.floats(out[at], u));
            Tensor::float(data.dtype(), data.shape(), out).into()
        }
        (Data::Int(x), Data::Int(u)) => {
            let mut out = x.to_vec();
            places.iter().zip(u.iter()).for_each(|(&at, &u)| out[at] = mode.ints(out[at], u));
            Tensor::int(data.dtype(), data.shape(), out).into()
        }
        _ => return Err(OpError::arg("updates", format!("has type {}, expected numbers", updates.ty()))),
    }])
}

/// Emits gathers and scatters at the places that one call names.
struct Places {
    kind: Kind,
    indices: builder::Value,
    axis: Tensor,
}

impl Places {
    /// Those of the call that `v` is about, as indices of `int32`.
    fn of(v: &mut Vjp<'_>, kind: Kind, data: &'static str) -> OpResult<Places> {
        let rank = v.b.shape(v.arg(data)?)?.len();
        let axis = if kind == Kind::Nd { 0 } else { v.args().axis("axis", rank)? };
        let mut indices = v.arg("indices")?;
        if v.b.tensor_ty(indices)?.dtype != DType::Int32 {
            indices = v.b.cast(indices, DType::Int32)?;
        }
        Ok(Places { kind, indices, axis: Tensor::i32(axis as i32) })
    }

    /// The elements of `x` there.
    fn gather(&self, b: &mut Builder, x: builder::Value) -> OpResult<builder::Value> {
        let op = match self.kind {
            Kind::Slices => "gather",
            Kind::Along => "gather_along_axis",
            Kind::Nd => "gather_nd",
        };
        let call = b.call(op).arg("x", x).arg("indices", self.indices);
        let call = if self.kind == Kind::Nd { call } else { call.constant("axis", self.axis.clone()) };
        Ok(call.finish()?)
    }

    /// `data` with `updates` put there.
    fn scatter(
        &self,
        b: &mut Builder,
        data: builder::Value,
        updates: builder::Value,
        mode: &str,
    ) -> OpResult<builder::Value> {
        let op = match self.kind {
            Kind::Slices => "scatter",
            Kind::Along => "scatter_along_axis",
            Kind::Nd => "scatter_nd",
        };
        let call = b.call(op).arg("data", data).arg("indices", self.indices).arg("updates", updates);
        let call = if self.kind == Kind::Nd { call } else { call.constant("axis", self.axis.clone()) };
        Ok(call.constant("mode", Tensor::string(mode)).finish()?)
    }
}

/// `dx` is `dy` added up at the places it was taken from.
fn gather_vjp(v: &mut Vjp<'_>, kind: Kind) -> OpResult<()> {
    if !v.wants("x") {
        return Ok(());
    }
    let (x, mut updates) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    let dtype = v.b.tensor_ty(updates)?.dtype;
    let batch = if kind == Kind::Along { 0 } else { batch_dims(&v.args(), x.len())? };
    let mut places = Places::of(v, kind, "x")?;
    let indices = v.b.shape(places.indices)?;
    match kind {
        Kind::Along => {}
        Kind::Nd if batch == 0 => {}
        Kind::Nd => {
            // The coordinates along the batch axes, spelled out before the others.
            let n: usize = indices[..indices.len() - 1].iter().product();
            let inner = n / indices[..batch].iter().product::<usize>().max(1);
            let steps = strides(&indices[..batch]);
            let rows = (0..n).flat_map(|i| (0..batch).map(move |a| (a, i / inner)));
            let lead = rows.map(|(a, i)| (i / steps[a] % indices[a]) as i64).collect();
            let shape = [&indices[..indices.len() - 1], &[batch]].concat();
            let lead = v.b.constant(Tensor::int(DType::Int32, &shape, lead));
            places.indices = v.b.concat(&[lead, places.indices], indices.len() - 1)?;
        }
        Kind::Slices => {
            // A scatter takes one axis of indices and none of batches. With these, each index is spelled out for
            // every element of its slice.
            let axis = v.args().axis("axis", x.len())?;
            let n: usize = indices[batch..].iter().product();
            let flat = [&x[..axis], &[n], &x[axis + 1..]].concat();
            updates = v.b.reshape(updates, &flat)?;
            if batch == 0 {
                places.indices = v.b.reshape(places.indices, &[n])?;
            } else {
                let mut shape = vec![1; flat.len()];
                shape[..batch].copy_from_slice(&flat[..batch]);
                shape[axis] = n;
                let reps: Vec<i32> = flat.iter().zip(&shape).map(|(&d, &s)| (d / s.max(1)) as i32).collect();
                let aligned = v.b.reshape(places.indices, &shape)?;
                places.indices =
                    v.b.call("tile").arg("x", aligned).constant("reps", Tensor::i32s(&reps)).finish()?;
                places.kind = Kind::Along;
            }
        }
    }
    let zeros = v.b.filled(dtype, &x, 0.0)?;
    let dx = places.scatter(v.b, zeros, updates, "add")?;
    v.give("x", dx)
}

/// By mode, with `g` for what the indices pick from the gradient:
/// `add`, `sub`: `g` and `-g` for the updates; `dy` for the data.
/// `update`: `g` for the update that came last at its place; `dy` elsewhere for the data.
/// `mul`, `div`: the data's gradient is scaled like the data, an update's is `g out / u` and `-g out / u`.
/// `max`, `min`: those that equal the result share its gradient.
fn scatter_vjp(v: &mut Vjp<'_>, kind: Kind) -> OpResult<()> {
    let (data, updates, out, dy) = (v.arg("data")?, v.arg("updates")?, v.out(), v.dy()?);
    let name = v.args().str("mode")?.to_string();
    let (mode, places) = (Mode::of(&name)?, Places::of(v, kind, "data")?);
    let (dtype, shape) = (v.b.tensor_ty(dy)?.dtype, v.b.shape(updates)?);
    if let Mode::Max | Mode::Min = mode {
        let chosen = places.gather(v.b, out)?;
        let (in_data, in_updates) = (v.binary("equal", data, out)?, v.binary("equal", updates, chosen)?);
        let (in_data, in_updates) = (v.b.cast(in_data, dtype)?, v.b.cast(in_updates, dtype)?);
        let n_hits = places.scatter(v.b, in_data, in_updates, "add")?;
        let share = v.binary("real_div", dy, n_hits)?;
        let g = places.gather(v.b, share)?;
        let (d_data, d_updates) = (v.b.mul(in_data, share)?, v.b.mul(in_updates, g)?);
        v.give("data", d_data)?;
        return v.give("updates", d_updates);
    }
    if v.wants("data") {
        let d = match mode {
            Mode::Update => {
                let zeros = v.b.filled(dtype, &shape, 0.0)?;
                places.scatter(v.b, dy, zeros, "update")?
            }
            Mode::Mul | Mode::Div => places.scatter(v.b, dy, updates, &name)?,
            _ => dy,
        };
        v.give("data", d)?;
    }
    if v.wants("updates") {
        let gradient = if let Mode::Mul | Mode::Div = mode { v.b.mul(dy, out)? } else { dy };
        let g = places.gather(v.b, gradient)?;
        let d = match mode {
            Mode::Update => {
                // Number the updates, see whose number stays.
                let (n, none) = (shape.iter().product::<usize>() as i64, v.b.shape(data)?);
                let numbers = v.b.constant(Tensor::int(DType::Int32, &shape, (0..n).collect()));
                let none = v.b.constant(Tensor::zeros(DType::Int32, &none));
                let last = places.scatter(v.b, none, numbers, "update")?;
                let last = places.gather(v.b, last)?;
                let (stays, zero) = (v.binary("equal", last, numbers)?, v.number(dy, 0.0)?);
                v.select(stays, g, zero)?
            }
            Mode::Mul => v.binary("real_div", g, updates)?,
            Mode::Div => {
                let quotient = v.binary("real_div", g, updates)?;
                v.b.scale(quotient, -1.0)?
            }
            Mode::Sub => v.b.scale(g, -1.0)?,
            _ => g,
        };
        v.give("updates", d)?;
    }
    Ok(())
}
