//! Tensors put together and taken apart: concat, stack, split, tile.

use super::elementwise::show;
use super::shape::{add_dims, dim, mul_dims, out_shape, strides, walk};
use super::window::positive;
use super::*;
use crate::ir::{Dim, TensorType};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "concat",
        since: Opset::Ios13,
        params: &[
            Param::new("values", ANY).variadic(),
            Param::constant("axis", INT32),
            Param::constant("interleave", BOOL).or(Const::Bool(false)),
        ],
        infer: concat_infer,
        eval: Eval::By(concat_eval),
        vjp: Some(concat_vjp),
    },
    OpDef {
        name: "stack",
        since: Opset::Ios13,
        params: &[Param::new("values", ANY).variadic(), Param::constant("axis", INT32)],
        infer: stack_infer,
        eval: Eval::By(|args| {
            let (shape, parts) = (out_shape(args)?, parts(args));
            let axis = args.axis("axis", shape.len())?;
            let flat = parts[0].joined(&parts[1..]);
            // Element `i` of the output is in the part that its coordinate along the axis says.
            let inner: usize = shape[axis + 1..].iter().product();
            let n = parts.len();
            let index = |i: usize| i / inner % n * parts[0].len() + i / (inner * n) * inner + i % inner;
            Ok(vec![flat.picked(&shape, index).into()])
        }),
        vjp: Some(stack_vjp),
    },
    OpDef {
        name: "split",
        since: Opset::Ios13,
        params: &[
            Param::new("x", NUMBER_OR_BOOL),
            Param::constant("num_splits", INT32).optional(),
            Param::constant("split_sizes", INT32).optional(),
            Param::constant("axis", INT32),
        ],
        infer: split_infer,
        eval: Eval::By(split_eval),
        vjp: Some(split_vjp),
    },
    OpDef {
        name: "tile",
        since: Opset::Ios13,
        params: &[Param::new("x", NUMBER_OR_BOOL), Param::new("reps", INT32).group(' ')],
        infer: |args| {
            let x = args.ty("x")?;
            let shape = match reps(args)? {
                Some(reps) => x.shape.iter().zip(reps).map(|(&d, r)| mul_dims(d, r)).collect::<OpResult<_>>()?,
                None => vec![Dim::Any; x.shape.len()],
            };
            Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
        },
        eval: Eval::By(|args| {
            let (x, shape) = (args.tensor("x")?, out_shape(args)?);
            let steps = strides(x.shape());
            let out = x.picked(&shape, |i| walk(&shape, i, |axis, c| c % x.shape()[axis] * steps[axis]));
            Ok(vec![out.into()])
        }),
        vjp: Some(tile_vjp),
    },
];

/// The types of `values`, of which there is at least one.
fn value_types<'a>(args: &Args<'a>) -> OpResult<Vec<&'a TensorType>> {
    let tensor = |b: Bound<'a>| {
        b.ty.as_tensor().ok_or_else(|| OpError::arg("values", format!("holds {}, expected tensors", b.ty)))
    };
    let types = args.many("values").into_iter().map(tensor).collect::<OpResult<Vec<_>>>()?;
    if types.is_empty() { Err(OpError::arg("values", "is empty")) } else { Ok(types) }
}

fn parts<'a>(args: &Args<'a>) -> Vec<&'a Tensor> {
    args.many("values").iter().filter_map(|b| b.tensor()).collect()
}

/// The size of one axis where two tensors are said to have the same.
fn common(a: Dim, b: Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Any, d) | (d, Dim::Any) => Some(d),
        (a, b) => (a == b).then_some(a),
    }
}

fn misfit(a: &[Dim], b: &[Dim], but: &str) -> OpError {
    OpError::arg("values", format!("has shapes {} and {}, expected the same{but}", show(a), show(b)))
}

/// Scalars count as vectors of one element.
fn concat_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let types = value_types(args)?;
    let shapes: Vec<Vec<Dim>> =
        types.iter().map(|t| if t.shape.is_empty() { vec![Dim::Fixed(1)] } else { t.shape.clone() }).collect();
    let axis = concat_axis(args, types[0].shape.len())?;
    let mut shape = shapes[0].clone();
    // Scalars join to a vector, but no vector with scalars.
    let are_scalars = |ty: &TensorType| ty.shape.is_empty();
    for (other, other_type) in shapes.iter().zip(&types).skip(1) {
        let but = || misfit(&shapes[0], other, &format!(" but on axis {axis}"));
        if other.len() != shape.len() || are_scalars(other_type) != are_scalars(types[0]) {
            return Err(but());
        }
        for (i, d) in shape.iter_mut().enumerate() {
            *d = if i == axis { add_dims(*d, other[i])? } else { common(*d, other[i]).ok_or_else(but)? };
        }
    }
    if args.bool("interleave")? && shapes.iter().any(|s| common(s[axis], shapes[0][axis]).is_none()) {
        return Err(OpError::arg("interleave", "needs values of the same shape"));
    }
    Ok(vec![TensorType { dtype: types[0].dtype, shape }.into()])
}

fn concat_axis(args: &Args<'_>, rank: usize) -> OpResult<usize> {
    if rank == 0 { Ok(0) } else { args.axis("axis", rank) }
}

fn concat_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (shape, parts) = (out_shape(args)?, parts(args));
    let axis = concat_axis(args, parts[0].rank())?;
    let interleave = args.bool("interleave")?;
    let along = |p: usize| parts[p].shape().get(axis).copied().unwrap_or(1);
    // Which part the index along the axis falls in, and where in it.
    let locate = |mut c: usize| {
        if interleave {
            return (c % parts.len(), c / parts.len());
        }
        let mut p = 0;
        while c >= along(p) {
            c -= along(p);
            p += 1;
        }
        (p, c)
    };
    // All parts end to end, so that one index reaches any of them whatever the element type.
    let starts: Vec<usize> = parts.iter().scan(0, |at, t| Some(std::mem::replace(at, *at + t.len()))).collect();
    let inner: usize = shape[axis + 1..].iter().product();
    let index = |i: usize| {
        let (outer, c, rest) = (i / inner / shape[axis], i / inner % shape[axis], i % inner);
        let (p, c) = locate(c);
        starts[p] + (outer * along(p) + c) * inner + rest
    };
    Ok(vec![parts[0].joined(&parts[1..]).picked(&shape, index).into()])
}

/// Each value takes its slice of `dy`; of an interleaved `dy` every `n`-th element along the axis.
fn concat_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (values, dy) = (v.many("values"), v.dy()?);
    let total = v.b.shape(dy)?;
    let (axis, interleave) = {
        let args = v.args();
        (concat_axis(&args, value_types(&args)?[0].shape.len())?, args.bool("interleave")?)
    };
    let mut begin = vec![0; total.len()];
    for &value in &values {
        let shape = v.b.shape(value)?;
        let mut size = total.clone();
        size[axis] = shape.get(axis).copied().unwrap_or(1);
        if v.wants_value(value) {
            let d = if interleave {
                let i32s = |xs: &[usize]| Tensor::i32s(&xs.iter().map(|&x| x as i32).collect::<Vec<_>>());
                let mut stride = vec![1; total.len()];
                stride[axis] = values.len();
                v.b.call("slice_by_index")
                    .arg("x", dy)
                    .constant("begin", i32s(&begin))
                    .constant("end", i32s(&total))
                    .constant("stride", i32s(&stride))
                    .finish()?
            } else {
                v.b.slice(dy, &begin, &size)?
            };
            let d = if shape == size { d } else { v.b.reshape(d, &shape)? };
            v.give_value(value, d);
        }
        begin[axis] += if interleave { 1 } else { size[axis] };
    }
    Ok(())
}

fn stack_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let types = value_types(args)?;
    let axis = args.axis("axis", types[0].shape.len() + 1)?;
    let mut shape = types[0].shape.clone();
    for t in &types[1..] {
        if t.shape.len() != shape.len() {
            return Err(misfit(&types[0].shape, &t.shape, ""));
        }
        for (d, &other) in shape.iter_mut().zip(&t.shape) {
            *d = common(*d, other).ok_or_else(|| misfit(&types[0].shape, &t.shape, ""))?;
        }
    }
    shape.insert(axis, Dim::Fixed(types.len() as u64));
    Ok(vec![TensorType { dtype: types[0].dtype, shape }.into()])
}

fn stack_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (values, dy) = (v.many("values"), v.dy()?);
    let mut size = v.b.shape(dy)?;
    let axis = v.args().axis("axis", size.len())?;
    size[axis] = 1;
    let mut begin = vec![0; size.len()];
    for value in values {
        if v.wants_value(value) {
            let d = v.b.slice(dy, &begin, &size)?;
            let shape = v.b.shape(value)?;
            let d = v.b.reshape(d, &shape)?;
            v.give_value(value, d);
        }
        begin[axis] += 1;
    }
    Ok(())
}

fn split_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let x = args.ty("x")?;
    let axis = args.axis("axis", x.shape.len())?;
    let of = |d: Dim| {
        let mut shape = x.shape.clone();
        shape[axis] = d;
        Type::from(TensorType { dtype: x.dtype, shape })
    };
    let n = args.ints("num_splits")?.and_then(|n| n.first().copied());
    let n = n.map(|n| positive("num_splits", n)).transpose()?;
    if let Some(n @ MOST_PARTS..) = n {
        return Err(OpError::arg("num_splits", format!("is {n}, expected less than {MOST_PARTS}")));
    }
    if let Some(sizes) = args.ints("split_sizes")? {
        if n.is_some_and(|n| n != sizes.len()) {
            let message = format!("is {sizes:?}, which are not as many as `num_splits` says");
            return Err(OpError::arg("split_sizes", message));
        }
        let dims = sizes.iter().map(|&s| dim("split_sizes", s)).collect::<OpResult<Vec<_>>>()?;
        let total = dims.iter().try_fold(Dim::Fixed(0), |n, &d| add_dims(n, d))?;
        if common(total, x.shape[axis]).is_none() {
            let message = format!("is {sizes:?}, expected {} in all", x.shape[axis]);
            return Err(OpError::arg("split_sizes", message));
        }
        return Ok(dims.into_iter().map(of).collect());
    }
    let n = n.ok_or_else(|| OpError::arg("num_splits", "is missing, and so is `split_sizes`"))?;
    let d = match x.shape[axis] {
        Dim::Fixed(d) if d % n as u64 != 0 => {
            return Err(OpError::arg(
                "num_splits",
                format!("is {n}, which does not divide axis {axis} of `x` {x}"),
            ));
        }
        Dim::Fixed(d) => Dim::Fixed(d / n as u64),
        Dim::Any => Dim::Any,
    };
    Ok(vec![of(d); n])
}

/// So many outputs no call has. The number stands in the text, the parts of a tensor of unknown size do not.
const MOST_PARTS: usize = 65536;

fn split_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let axis = args.axis("axis", x.rank())?;
    let (inner, along) = (strides(x.shape())[axis], x.shape()[axis]);
    let mut begin = 0;
    let mut out = Vec::new();
    for ty in infer(args)? {
        let shape = ty.as_tensor().and_then(TensorType::fixed_shape).unwrap_or_default();
        let n = shape[axis];
        let index = |i: usize| ((i / inner / n) * along + begin + i / inner % n) * inner + i % inner;
        out.push(x.picked(&shape, index).into());
        begin += n;
    }
    Ok(out)
}

/// `dx` is the gradients of the parts one after the other, zeros for those that the loss does not depend on.
fn split_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let x = v.arg("x")?;
    let axis = v.args().axis("axis", v.b.shape(x)?.len())?;
    let dtype = v.b.tensor_ty(x)?.dtype;
    let mut parts = Vec::new();
    for (i, dy) in v.dys().to_vec().into_iter().enumerate() {
        let shape = v.b.shape(v.outputs[i])?;
        if shape[axis] > 0 {
            parts.push(match dy {
                Some(dy) => dy,
                None => v.b.filled(dtype, &shape, 0.0)?,
            });
        }
    }
    let dx = v.b.concat(&parts, axis)?;
    v.give("x", dx)
}

/// How often each axis is repeated, if that is known already.
fn reps(args: &Args<'_>) -> OpResult<Option<Vec<Dim>>> {
    if args.optional("reps").is_none() {
        return Ok(None);
    }
    let (reps, rank) = (args.ints("reps")?.unwrap_or_default(), args.shape("x")?.len());
    if reps.len() != rank || reps.iter().any(|&r| r < 1) {
        return Err(OpError::arg("reps", format!("is {reps:?}, expected 1 or more for each of {rank} axes")));
    }
    Ok(Some(reps.iter().map(|&r| Dim::Fixed(r as u64)).collect()))
}

/// Axis by axis, from the last on, the sum over the repetitions.
fn tile_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (shape, mut dx) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    for axis in (0..shape.len()).rev() {
        let mut now = v.b.shape(dx)?;
        if now[axis] != shape[axis] {
            let (before, after): (usize, usize) = (now[..axis].iter().product(), shape[axis..].iter().product());
            let apart = v.b.reshape(dx, &[before, now[axis] / shape[axis], after])?;
            let summed = v.b.reduce_sum(apart, &[1], false)?;
            now[axis] = shape[axis];
            dx = v.b.reshape(summed, &now)?;
        }
    }
    v.give("x", dx)
}
