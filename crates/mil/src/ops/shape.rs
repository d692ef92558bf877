//! Ops that move elements and compute nothing: reshape, transpose, slice, concat.

use super::elementwise::{broadcast_dims, show};
use super::*;
use crate::ir::{Dim, TensorType};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "reshape",
        since: Opset::Ios13,
        params: &[Param::new("x", ANY), Param::new("shape", INT32).group(' ')],
        infer: |args| Ok(vec![reshape_type(args)?.into()]),
        eval: Eval::By(|args| {
            let (x, shape) = (args.tensor("x")?, reshape_type(args)?.fixed_shape().unwrap_or_default());
            let out = x.reshaped(&shape);
            let message =
                || OpError::arg("shape", format!("is {shape:?}, which does not hold {} elements", x.len()));
            Ok(vec![out.ok_or_else(message)?.into()])
        }),
        vjp: Some(reshape_vjp),
    },
    OpDef {
        name: "transpose",
        since: Opset::Ios13,
        params: &[Param::new("x", ANY), Param::constant("perm", INT32)],
        infer: |args| {
            let x = args.ty("x")?;
            let perm = permutation(args, x.shape.len())?;
            Ok(vec![TensorType { dtype: x.dtype, shape: perm.iter().map(|&p| x.shape[p]).collect() }.into()])
        },
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            let perm = permutation(args, x.rank())?;
            let steps = strides(x.shape());
            let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
            let out = x.picked(&shape, |i| walk(&shape, i, |axis, c| c * steps[perm[axis]]));
            Ok(vec![out.into()])
        }),
        vjp: Some(transpose_vjp),
    },
    OpDef {
        name: "slice_by_size",
        since: Opset::Ios13,
        params: &[
            Param::new("x", ANY),
            Param::new("begin", INT32).group(' '),
            Param::new("size", INT32).group(' '),
        ],
        infer: |args| Ok(vec![TensorType { dtype: args.dtype("x")?, shape: slice_dims(args)? }.into()]),
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            let shape: Vec<usize> = slice_dims(args)?.iter().filter_map(|d| d.fixed()).collect();
            let (begin, steps) = (begins(args, x.shape())?, strides(x.shape()));
            let out = x.picked(&shape, |i| walk(&shape, i, |axis, c| (c + begin[axis]) * steps[axis]));
            Ok(vec![out.into()])
        }),
        vjp: Some(slice_vjp),
    },
    OpDef {
        name: "concat",
        since: Opset::Ios13,
        params: &[
            Param::new("values", ANY).variadic(),
            Param::constant("axis", INT32),
            Param::constant("interleave", BOOL).or(Const::Bool(false)),
        ],
        infer: |args| Ok(vec![concat_type(args)?.into()]),
        eval: Eval::By(concat_eval),
        vjp: Some(concat_vjp),
    },
    OpDef {
        name: "fill",
        since: Opset::Ios13,
        params: &[Param::new("shape", INT32).group(' '), Param::new("value", NUMBER_OR_BOOL)],
        infer: |args| {
            let shape = match args.optional("shape").and_then(|t| t.ints()) {
                Some(s) => s.iter().map(|&d| dim("shape", d)).collect::<OpResult<_>>()?,
                None => match args.shape("shape")? {
                    [Dim::Fixed(rank @ 0..=16)] => vec![Dim::Any; *rank as usize],
                    _ => return Err(OpError::arg("shape", "must be a vector of known length")),
                },
            };
            Ok(vec![TensorType { dtype: args.dtype("value")?, shape }.into()])
        },
        eval: Eval::By(|args| {
            let sizes = args.ints("shape")?.unwrap_or_default();
            let shape = sizes
                .iter()
                .map(|&d| dim("shape", d).map(|d| d.fixed().unwrap_or(0)))
                .collect::<OpResult<Vec<_>>>()?;
            Ok(vec![args.tensor("value")?.picked(&shape, |_| 0).into()])
        }),
        vjp: None,
    },
];

/// A size that is not negative.
pub(super) fn dim(name: &'static str, d: i64) -> OpResult<Dim> {
    u64::try_from(d).map(Dim::Fixed).map_err(|_| OpError::arg(name, format!("has size {d}, expected 0 or more")))
}

/// The shape two tensors are broadcast to.
pub(super) fn broadcast_shapes(x: &[usize], y: &[usize]) -> OpResult<Vec<usize>> {
    let dims = |s: &[usize]| s.iter().map(|&d| Dim::Fixed(d as u64)).collect::<Vec<_>>();
    Ok(broadcast_dims(&dims(x), &dims(y))?.iter().filter_map(|d| d.fixed()).collect())
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

/// A 0 copies the input's size at that place, one -1 takes what is left.
fn reshape_type(args: &Args<'_>) -> OpResult<TensorType> {
    let x = args.ty("x")?;
    let Some(given) = args.optional("shape").and_then(|t| t.ints()) else {
        let [Dim::Fixed(rank @ 0..=16)] = *args.shape("shape")? else {
            return Err(OpError::arg("shape", "must be a vector of known length"));
        };
        return Ok(TensorType { dtype: x.dtype, shape: vec![Dim::Any; rank as usize] });
    };
    let mut shape = Vec::with_capacity(given.len());
    for (i, &d) in given.iter().enumerate() {
        shape.push(match d {
            -1 => Dim::Any,
            0 => *x
                .shape
                .get(i)
                .ok_or_else(|| OpError::arg("shape", format!("copies size {i} of `x` {x}, which has none")))?,
            _ => dim("shape", d)?,
        });
    }
    let misfit = || OpError::arg("shape", format!("is {given:?}, which does not hold the elements of `x` {x}"));
    let product = |s: &[Dim]| s.iter().try_fold(1usize, |n, d| n.checked_mul(d.fixed()?));
    if given.iter().filter(|&&d| d == -1).count() > 1 {
        return Err(OpError::arg("shape", format!("is {given:?}, expected at most one -1")));
    }
    if let Some(n) = x.n_elements() {
        match shape.iter().position(|d| *d == Dim::Any) {
            Some(open) => {
                let rest = product(&[&shape[..open], &shape[open + 1..]].concat())
                    .filter(|&r| r > 0)
                    .ok_or_else(misfit)?;
                if n % rest != 0 {
                    return Err(misfit());
                }
                shape[open] = Dim::Fixed((n / rest) as u64);
            }
            None if product(&shape) != Some(n) => return Err(misfit()),
            None => {}
        }
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

fn reshape_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let shape = v.b.shape(v.arg("x")?)?;
    let dx = v.b.reshape(dy, &shape)?;
    v.give("x", dx)
}

fn permutation(args: &Args<'_>, rank: usize) -> OpResult<Vec<usize>> {
    let given = args.ints("perm")?.unwrap_or_default();
    let perm: Vec<usize> =
        given.iter().filter_map(|&p| usize::try_from(if p < 0 { p + rank as i64 } else { p }).ok()).collect();
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    match sorted.iter().copied().eq(0..rank) {
        true => Ok(perm),
        false => Err(OpError::arg("perm", format!("is {given:?}, expected an order of {rank} axes"))),
    }
}

fn transpose_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let perm = v.ints("perm")?;
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[if p < 0 { p + perm.len() as i64 } else { p } as usize] = i as i32;
    }
    let dy = v.dy()?;
    let dx = v.b.transpose(dy, &inverse)?;
    v.give("x", dx)
}

/// A size of -1 reaches to the end.
fn slice_dims(args: &Args<'_>) -> OpResult<Vec<Dim>> {
    let x = args.shape("x")?;
    let Some(size) = args.optional("size").and_then(|t| t.ints()) else { return Ok(vec![Dim::Any; x.len()]) };
    let begin = args.optional("begin").and_then(|t| t.ints());
    if size.len() != x.len() || begin.is_some_and(|b| b.len() != x.len()) {
        return Err(OpError::arg(
            "size",
            format!("has {} sizes, expected {} and as many begins", size.len(), x.len()),
        ));
    }
    let one = |axis: usize| -> OpResult<Dim> {
        let (d, s) = (x[axis], size[axis]);
        let Some(begin) = begin else { return if s < 0 { Ok(Dim::Any) } else { dim("size", s) } };
        let Dim::Fixed(d) = d else { return if s < 0 { Ok(Dim::Any) } else { dim("size", s) } };
        let from = if begin[axis] < 0 { begin[axis].saturating_add(d as i64) } else { begin[axis] };
        let s = if s == -1 { d as i64 - from } else { s };
        if from < 0 || s < 0 || from.checked_add(s).is_none_or(|end| end > d as i64) {
            return Err(OpError::arg(
                "size",
                format!("takes {s} elements from {from} on axis {axis}, which has {d}"),
            ));
        }
        dim("size", s)
    };
    (0..x.len()).map(one).collect()
}

fn begins(args: &Args<'_>, shape: &[usize]) -> OpResult<Vec<usize>> {
    let begin = args.ints("begin")?.unwrap_or_default();
    Ok(begin.iter().zip(shape).map(|(&b, &d)| if b < 0 { (b + d as i64) as usize } else { b as usize }).collect())
}

/// `dx` is `dy` between zeros: put together by `concat` axis by axis, an op that devices have.
fn slice_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, begin) = (v.arg("x")?, v.ints("begin")?);
    let (shape, mut dx) = (v.b.shape(x)?, v.dy()?);
    let dtype = v.b.tensor_ty(dx)?.dtype;
    for axis in 0..shape.len() {
        let now = v.b.shape(dx)?;
        if now[axis] == shape[axis] {
            continue;
        }
        let from = if begin[axis] < 0 { begin[axis] + shape[axis] as i64 } else { begin[axis] } as usize;
        let mut parts = vec![dx];
        for (n, front) in [(from, true), (shape[axis] - from - now[axis], false)] {
            if n > 0 {
                let mut zeros = now.clone();
                zeros[axis] = n;
                let zeros: Vec<i32> = zeros.iter().map(|&d| d as i32).collect();
                let value = Tensor::float(dtype, &[], vec![0.0]);
                let z =
                    v.b.call("fill").constant("shape", Tensor::i32s(&zeros)).constant("value", value).finish()?;
                if front { parts.insert(0, z) } else { parts.push(z) }
            }
        }
        dx = v.b.call("concat").args("values", &parts).constant("axis", Tensor::i32(axis as i32)).finish()?;
    }
    v.give("x", dx)
}

fn concat_type(args: &Args<'_>) -> OpResult<TensorType> {
    let values = args.many("values");
    let mut types = Vec::new();
    for b in &values {
        types.push(
            b.ty.as_tensor().ok_or_else(|| OpError::arg("values", format!("holds {}, expected tensors", b.ty)))?,
        );
    }
    let Some((first, rest)) = types.split_first() else { return Err(OpError::arg("values", "is empty")) };
    let axis = args.axis("axis", first.shape.len())?;
    let mut shape = first.shape.clone();
    for t in rest {
        let fits = t.shape.len() == shape.len()
            && t.shape
                .iter()
                .zip(&shape)
                .enumerate()
                .all(|(i, (a, b))| i == axis || a == b || *a == Dim::Any || *b == Dim::Any);
        if !fits {
            return Err(OpError::arg(
                "values",
                format!(
                    "has shapes {} and {}, expected the same but on axis {axis}",
                    show(&first.shape),
                    show(&t.shape)
                ),
            ));
        }
        shape[axis] = match (shape[axis], t.shape[axis]) {
            (Dim::Fixed(a), Dim::Fixed(b)) => {
                Dim::Fixed(a.checked_add(b).ok_or_else(|| OpError::arg("values", "is too large together"))?)
            }
            _ => Dim::Any,
        };
    }
    if args.bool("interleave")? && rest.iter().any(|t| t.shape != first.shape) {
        return Err(OpError::arg("interleave", "needs values of the same shape"));
    }
    Ok(TensorType { dtype: first.dtype, shape })
}

fn concat_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let parts: Vec<&Tensor> = args.many("values").iter().filter_map(|b| b.tensor()).collect();
    let axis = args.axis("axis", parts[0].rank())?;
    let shape = concat_type(args)?.fixed_shape().unwrap_or_default();
    let interleave = args.bool("interleave")?;
    // Which part the index along the axis falls in, and where in it.
    let locate = |c: usize| {
        if interleave {
            return (c % parts.len(), c / parts.len());
        }
        let mut c = c;
        for (p, t) in parts.iter().enumerate() {
            let d = t.shape()[axis];
            if c < d {
                return (p, c);
            }
            c -= d;
        }
        (0, 0)
    };
    // All parts end to end, so that one index reaches any of them whatever the element type.
    let starts: Vec<usize> = parts.iter().scan(0, |at, t| Some(std::mem::replace(at, *at + t.len()))).collect();
    let steps: Vec<Vec<usize>> = parts.iter().map(|t| strides(t.shape())).collect();
    let inner: usize = shape[axis + 1..].iter().product();
    let index = |i: usize| {
        let (p, at_axis) = locate(i / inner.max(1) % shape[axis].max(1));
        starts[p] + walk(&shape, i, |a, c| if a == axis { at_axis } else { c } * steps[p][a])
    };
    Ok(vec![joined(&parts).picked(&shape, index).into()])
}

/// The elements of tensors of one type, end to end.
pub(super) fn joined(parts: &[&Tensor]) -> Tensor {
    let n = [parts.iter().map(|t| t.len()).sum()];
    let dtype = parts[0].dtype();
    if dtype.is_float() {
        Tensor::float(dtype, &n, parts.iter().flat_map(|t| t.floats().unwrap_or_default().to_vec()).collect())
    } else if dtype == DType::String {
        Tensor::strings(&n, parts.iter().flat_map(|t| t.strs().unwrap_or_default().to_vec()).collect())
    } else {
        Tensor::int(dtype, &n, parts.iter().flat_map(|t| t.ints().unwrap_or_default().to_vec()).collect())
    }
}

fn concat_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (values, dy) = (v.many("values"), v.dy()?);
    if v.ints("interleave")? == [1] {
        return Err(OpError::new("has no gradient when interleaved"));
    }
    let axis = v.ints("axis")?[0];
    let mut begin = 0;
    for value in values {
        let shape = v.b.shape(value)?;
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis } as usize;
        if v.wants_value(value) {
            let mut from = vec![0; shape.len()];
            from[axis] = begin;
            let size: Vec<i32> = shape.iter().map(|&d| d as i32).collect();
            let d =
                v.b.call("slice_by_size")
                    .arg("x", dy)
                    .constant("begin", Tensor::i32s(&from))
                    .constant("size", Tensor::i32s(&size))
                    .finish()?;
            v.give_value(value, d);
        }
        begin += shape[axis] as i32;
    }
    Ok(())
}
