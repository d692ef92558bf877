//! Ops that change the shape and keep the elements: reshape, expand_dims, squeeze, transpose. Here too is what all
//! ops that move elements share: sizes with unknowns, steps through a tensor, the shape of an evaluation's output.

use super::elementwise::broadcast_dims;
use super::*;
use crate::ir::{Dim, TensorType};

const X: Param = Param::new("x", NUMBER_OR_BOOL);
const X_17: Param = Param::new("x", NUMBER_OR_BOOL_17);

const RESHAPE: OpDef = OpDef {
    name: "reshape",
    since: Opset::Ios13,
    params: &[X, Param::new("shape", INT32).group('U')],
    infer: |args| Ok(vec![reshape_type(args)?.into()]),
    eval: Eval::By(reshape_eval),
    vjp: Some(reshape_vjp),
};

const RESHAPE_LIKE: OpDef = OpDef {
    name: "reshape_like",
    since: Opset::Ios16,
    params: &[
        X,
        Param::new("ref_tensors", NUMBER_OR_BOOL).group(' ').variadic(),
        Param::constant("begins", INT32).variadic(),
        Param::constant("ends", INT32).variadic(),
        Param::constant("end_masks", BOOL).variadic(),
    ],
    infer: |args| Ok(vec![reshape_like_type(args)?.into()]),
    eval: Eval::By(reshape_eval),
    vjp: Some(reshape_vjp),
};

const EXPAND_DIMS: OpDef = OpDef {
    name: "expand_dims",
    since: Opset::Ios13,
    params: &[X, Param::constant("axes", INT32)],
    infer: |args| {
        let x = args.ty("x")?;
        let n_new = args.ints("axes")?.map_or(0, |a| a.len());
        let mut shape = x.shape.clone();
        for axis in args.axes("axes", shape.len() + n_new)? {
            shape.insert(axis, Dim::Fixed(1));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    },
    eval: Eval::By(reshape_eval),
    vjp: Some(reshape_vjp),
};

const SQUEEZE: OpDef = OpDef {
    name: "squeeze",
    since: Opset::Ios13,
    params: &[X, Param::constant("axes", INT32).optional()],
    infer: |args| {
        let x = args.ty("x")?;
        let axes = args.axes("axes", x.shape.len())?;
        // An unknown size is seen to be 1 when the program runs. Unnamed, it counts as another.
        let goes = |i: usize, d: Dim| match args.has("axes") {
            true => axes.contains(&i),
            false => d == Dim::Fixed(1),
        };
        if let Some(i) = axes.iter().find(|&&i| args.has("axes") && !x.shape[i].agrees(Dim::Fixed(1))) {
            return Err(OpError::arg("axes", format!("names axis {i} of `x` {x}, expected one of size 1")));
        }
        let shape = x.shape.iter().enumerate().filter(|&(i, &d)| !goes(i, d)).map(|(_, &d)| d).collect();
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    },
    eval: Eval::By(reshape_eval),
    vjp: Some(reshape_vjp),
};

const TRANSPOSE: OpDef = OpDef {
    name: "transpose",
    since: Opset::Ios13,
    params: &[X, Param::constant("perm", INT32)],
    infer: |args| {
        let x = args.ty("x")?;
        let perm = permutation(args, x.shape.len())?;
        Ok(vec![TensorType { dtype: x.dtype, shape: perm.iter().map(|&p| x.shape[p]).collect() }.into()])
    },
    eval: Eval::By(|args| {
        let x = args.tensor("x")?;
        Ok(vec![transposed(x, &permutation(args, x.rank())?).into()])
    }),
    vjp: Some(transpose_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    RESHAPE,
    OpDef { since: Opset::Ios17, params: &[X_17, Param::new("shape", SIZE_17).group('U')], ..RESHAPE },
    RESHAPE_LIKE,
    OpDef {
        since: Opset::Ios17,
        params: &[
            X_17,
            Param::new("ref_tensors", NUMBER_OR_BOOL_17).group(' ').variadic(),
            Param::constant("begins", INT32).variadic(),
            Param::constant("ends", INT32).variadic(),
            Param::constant("end_masks", BOOL).variadic(),
        ],
        ..RESHAPE_LIKE
    },
    EXPAND_DIMS,
    OpDef { since: Opset::Ios17, params: &[X_17, Param::constant("axes", INT32)], ..EXPAND_DIMS },
    SQUEEZE,
    OpDef { since: Opset::Ios17, params: &[X_17, Param::constant("axes", INT32).optional()], ..SQUEEZE },
    OpDef {
        name: "flatten2d",
        since: Opset::Ios13,
        params: &[X, Param::constant("axis", INT32).or(Const::Int(1))],
        infer: |args| {
            let x = args.ty("x")?;
            // The end counts as an axis too: all sizes before it, none after.
            let (rank, axis) = (x.shape.len() as i64, args.int("axis")?);
            let at = if axis < 0 { axis.saturating_add(rank) } else { axis };
            if !(0..=rank).contains(&at) {
                return Err(OpError::arg("axis", format!("is {axis}, expected {} to {rank}", -rank)));
            }
            let (before, after) = x.shape.split_at(at as usize);
            Ok(vec![TensorType { dtype: x.dtype, shape: vec![product(before)?, product(after)?] }.into()])
        },
        eval: Eval::By(reshape_eval),
        vjp: Some(reshape_vjp),
    },
    TRANSPOSE,
    OpDef { since: Opset::Ios17, params: &[X_17, Param::constant("perm", INT32)], ..TRANSPOSE },
];

/// A size that is not negative.
pub(super) fn dim(name: &'static str, d: i64) -> OpResult<Dim> {
    u64::try_from(d).map(Dim::Fixed).map_err(|_| OpError::arg(name, format!("has size {d}, expected 0 or more")))
}

/// `a + b`, unknown if either is.
pub(super) fn add_dims(a: Dim, b: Dim) -> OpResult<Dim> {
    combined(a, b, u64::checked_add)
}

/// `a * b`, unknown if either is.
pub(super) fn mul_dims(a: Dim, b: Dim) -> OpResult<Dim> {
    combined(a, b, u64::checked_mul)
}

fn combined(a: Dim, b: Dim, f: fn(u64, u64) -> Option<u64>) -> OpResult<Dim> {
    let (Dim::Fixed(a), Dim::Fixed(b)) = (a, b) else { return Ok(Dim::Any) };
    f(a, b).map(Dim::Fixed).ok_or_else(|| OpError::new(format!("sizes {a} and {b} are too large together")))
}

/// The product of sizes, unknown if one of them is.
pub(super) fn product(shape: &[Dim]) -> OpResult<Dim> {
    shape.iter().try_fold(Dim::Fixed(1), |n, &d| mul_dims(n, d))
}

/// The shape two tensors are broadcast to.
pub(super) fn broadcast_shapes(x: &[usize], y: &[usize]) -> OpResult<Vec<usize>> {
    let dims = |s: &[usize]| s.iter().map(|&d| Dim::Fixed(d as u64)).collect::<Vec<_>>();
    Ok(broadcast_dims(&dims(x), &dims(y))?.iter().filter_map(|d| d.fixed()).collect())
}

/// The shape of a call's first output by its own type rule, for an evaluation, where sizes are known.
pub(super) fn out_shape(args: &Args<'_>) -> OpResult<Vec<usize>> {
    let types = infer(args)?;
    let Some(ty) = types.first().and_then(Type::as_tensor) else {
        return Err(OpError::new("has no tensor as its output"));
    };
    match (ty.fixed_shape(), ty.n_elements()) {
        (Some(shape), Some(_)) => Ok(shape),
        _ => Err(OpError::new(format!("gives {ty}, which is too large"))),
    }
}

/// How far apart neighbours along each axis lie.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// The sum over the axes of `shape` of `f(axis, coordinate)`, for its `i`-th element.
pub(super) fn walk(shape: &[usize], mut i: usize, f: impl Fn(usize, usize) -> usize) -> usize {
    let mut at = 0;
    for (axis, &d) in shape.iter().enumerate().rev() {
        at += f(axis, i % d);
        i /= d;
    }
    at
}

/// `x` with its axes in the order `perm`.
pub(super) fn transposed(x: &Tensor, perm: &[usize]) -> Tensor {
    let steps = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    x.picked(&shape, |i| walk(&shape, i, |axis, c| c * steps[perm[axis]]))
}

/// The output is the input in the shape that the op's own type rule says.
fn reshape_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, shape) = (args.tensor("x")?, out_shape(args)?);
    let misfit = || OpError::new(format!("shape {shape:?} does not hold the {} elements of `x`", x.len()));
    Ok(vec![x.reshaped(&shape).ok_or_else(misfit)?.into()])
}

/// `dx` is `dy` in the input's shape.
pub(super) fn reshape_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let shape = v.b.shape(v.arg("x")?)?;
    let dx = v.b.reshape(dy, &shape)?;
    v.give("x", dx)
}

/// The length of a vector.
pub(super) fn vector(args: &Args<'_>, name: &'static str) -> OpResult<Dim> {
    match args.shape(name)? {
        [n] => Ok(*n),
        _ => Err(OpError::arg(name, format!("has type {}, expected a vector", args.ty(name)?))),
    }
}

/// Sizes for a vector whose elements are known only when the program runs.
pub(super) fn unknown_sizes(args: &Args<'_>, name: &'static str) -> OpResult<Vec<Dim>> {
    match args.shape(name)? {
        [Dim::Fixed(rank @ 0..=16)] => Ok(vec![Dim::Any; *rank as usize]),
        _ => Err(OpError::arg(name, "must be a vector of known length")),
    }
}

/// A 0 copies the input's size at that place, counted from the right since iOS 17 (and is 1 where there is none);
/// one -1 takes what is left.
fn reshape_type(args: &Args<'_>) -> OpResult<TensorType> {
    let x = args.ty("x")?;
    let Some(given) = args.optional("shape").and_then(|t| t.ints()) else {
        return Ok(TensorType { dtype: x.dtype, shape: unknown_sizes(args, "shape")? });
    };
    let copied = |i: usize| match args.def.since >= Opset::Ios17 {
        true => Ok((x.shape.len() + i).checked_sub(given.len()).map_or(Dim::Fixed(1), |at| x.shape[at])),
        false => {
            let message = || format!("copies size {i} of `x` {x}, which has none");
            x.shape.get(i).copied().ok_or_else(|| OpError::arg("shape", message()))
        }
    };
    let mut shape = Vec::with_capacity(given.len());
    for (i, &d) in given.iter().enumerate() {
        shape.push(match d {
            -1 => Dim::Any,
            0 => copied(i)?,
            _ => dim("shape", d)?,
        });
    }
    let misfit = || OpError::arg("shape", format!("is {given:?}, which does not hold the elements of `x` {x}"));
    if given.iter().filter(|&&d| d == -1).count() > 1 {
        return Err(OpError::arg("shape", format!("is {given:?}, expected at most one -1")));
    }
    if let Some(n) = x.n_elements().map(|n| n as u64) {
        match shape.iter().position(|d| *d == Dim::Any) {
            Some(open) => {
                let rest = product(&[&shape[..open], &shape[open + 1..]].concat())?;
                let Dim::Fixed(rest @ 1..) = rest else { return Err(misfit()) };
                if n % rest != 0 {
                    return Err(misfit());
                }
                shape[open] = Dim::Fixed(n / rest);
            }
            None if product(&shape)? != Dim::Fixed(n) => return Err(misfit()),
            None => {}
        }
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

/// The sizes `begins[i]` to `ends[i]` (to the last where `end_masks[i]`) of each reference, one after the other.
fn reshape_like_type(args: &Args<'_>) -> OpResult<TensorType> {
    let x = args.ty("x")?;
    let numbers = |name: &'static str| -> OpResult<Vec<i64>> {
        let one = |b: Bound<'_>| b.tensor()?.ints().filter(|i| i.len() == 1).map(|i| i[0]);
        let all = args.many(name).into_iter().map(one).collect::<Option<_>>();
        all.ok_or_else(|| OpError::arg(name, "must hold scalar constants"))
    };
    let (refs, begins) = (args.many("ref_tensors"), numbers("begins")?);
    let (ends, masks) = (numbers("ends")?, numbers("end_masks")?);
    if [begins.len(), ends.len(), masks.len()] != [refs.len(); 3] {
        let message = format!("has {} tensors, expected as many begins, ends and end_masks, one each", refs.len());
        return Err(OpError::arg("ref_tensors", message));
    }
    let mut shape = Vec::new();
    for (i, reference) in refs.iter().enumerate() {
        let Some(ty) = reference.ty.as_tensor() else {
            return Err(OpError::arg("ref_tensors", format!("holds {}, expected tensors", reference.ty)));
        };
        let rank = ty.shape.len() as i64;
        let place = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
        let end = if masks[i] != 0 { rank as usize } else { place(ends[i]) };
        shape.extend(ty.shape.get(place(begins[i])..end).unwrap_or_default());
    }
    if let (Dim::Fixed(n), Dim::Fixed(m)) = (product(&x.shape)?, product(&shape)?)
        && n != m
    {
        let message = format!("say {m} elements in all, `x` {x} has {n}");
        return Err(OpError::arg("ref_tensors", message));
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

fn permutation(args: &Args<'_>, rank: usize) -> OpResult<Vec<usize>> {
    let given = args.ints("perm")?.unwrap_or_default();
    let axis = |&p: &i64| usize::try_from(if p < 0 { p + rank as i64 } else { p }).ok();
    let perm: Option<Vec<usize>> = given.iter().map(axis).collect();
    let is_order = |perm: &Vec<usize>| {
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..rank)
    };
    match perm.filter(is_order) {
        Some(perm) => Ok(perm),
        None => Err(OpError::arg("perm", format!("is {given:?}, expected an order of {rank} axes"))),
    }
}

/// `dx` is `dy` with its axes back in their places.
fn transpose_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let perm = permutation(&v.args(), v.b.shape(dy)?.len())?;
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p] = i as i32;
    }
    let dx = v.b.transpose(dy, &inverse)?;
    v.give("x", dx)
}
