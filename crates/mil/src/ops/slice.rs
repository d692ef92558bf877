//! Slices of tensors: taking them out, putting them back, turning them round, padding.

use super::shape::{add_dims, dim, out_shape, strides, walk};
use super::*;
use crate::builder::{self, Builder};
use crate::ir::{Dim, TensorType};

const X: Param = Param::new("x", NUMBER_OR_BOOL);
const X_17: Param = Param::new("x", NUMBER_OR_BOOL_17);

const SLICE_BY_INDEX: OpDef = OpDef {
    name: "slice_by_index",
    since: Opset::Ios13,
    params: &[
        X,
        Param::new("begin", INT32).group('U'),
        Param::new("end", INT32).group('U'),
        Param::constant("stride", INT32).optional(),
        Param::constant("begin_mask", BOOL).optional(),
        Param::constant("end_mask", BOOL).optional(),
        Param::constant("squeeze_mask", BOOL).optional(),
    ],
    infer: |args| {
        let shape = Spans::of(args)?.shape();
        Ok(vec![TensorType { dtype: args.dtype("x")?, shape }.into()])
    },
    eval: Eval::By(|args| {
        let (x, shape, spans) = (args.tensor("x")?, out_shape(args)?, Spans::of(args)?);
        Ok(vec![x.picked(&shape, spans.index(x.shape())).into()])
    }),
    vjp: Some(slice_by_index_vjp),
};

const SLICE_BY_SIZE: OpDef = OpDef {
    name: "slice_by_size",
    since: Opset::Ios13,
    params: &[X, Param::new("begin", INT32).group('U'), Param::new("size", INT32).group('U')],
    infer: |args| Ok(vec![TensorType { dtype: args.dtype("x")?, shape: slice_dims(args)? }.into()]),
    eval: Eval::By(|args| {
        let (x, shape) = (args.tensor("x")?, out_shape(args)?);
        let (begin, steps) = (begins(args, x.shape())?, strides(x.shape()));
        let out = x.picked(&shape, |i| walk(&shape, i, |axis, c| (c + begin[axis]) * steps[axis]));
        Ok(vec![out.into()])
    }),
    vjp: Some(slice_by_size_vjp),
};

const REVERSE: OpDef = OpDef {
    name: "reverse",
    since: Opset::Ios13,
    params: &[X, Param::constant("axes", INT32).optional()],
    infer: |args| {
        args.axes("axes", args.shape("x")?.len())?;
        Ok(vec![args.ty("x")?.clone().into()])
    },
    eval: Eval::By(|args| {
        let x = args.tensor("x")?;
        let (axes, shape, steps) = (args.axes("axes", x.rank())?, x.shape(), strides(x.shape()));
        let turned = |axis: usize, c: usize| if axes.contains(&axis) { shape[axis] - 1 - c } else { c };
        Ok(vec![x.picked(shape, |i| walk(shape, i, |axis, c| turned(axis, c) * steps[axis])).into()])
    }),
    vjp: Some(again_vjp),
};

const REVERSE_SEQUENCE: OpDef = OpDef {
    name: "reverse_sequence",
    since: Opset::Ios13,
    params: &[
        X,
        Param::new("lengths", INT32).group('U'),
        Param::constant("seq_axis", INT32).or(Const::Int(0)),
        Param::constant("batch_axis", INT32).or(Const::Int(0)),
    ],
    infer: |args| {
        let rank = args.shape("x")?.len();
        args.axis("seq_axis", rank)?;
        args.axis("batch_axis", rank)?;
        Ok(vec![args.ty("x")?.clone().into()])
    },
    eval: Eval::By(reverse_sequence_eval),
    vjp: Some(again_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    SLICE_BY_INDEX,
    OpDef {
        since: Opset::Ios17,
        params: &[
            X_17,
            Param::new("begin", SIZE_17).group('U'),
            Param::new("end", SIZE_17).group('U'),
            Param::constant("stride", SIZE_17).group('U').optional(),
            Param::constant("begin_mask", BOOL).optional(),
            Param::constant("end_mask", BOOL).optional(),
            Param::constant("squeeze_mask", BOOL).optional(),
        ],
        ..SLICE_BY_INDEX
    },
    SLICE_BY_SIZE,
    OpDef {
        since: Opset::Ios17,
        params: &[X_17, Param::new("begin", SIZE_17).group('U'), Param::new("size", SIZE_17).group('U')],
        ..SLICE_BY_SIZE
    },
    OpDef {
        name: "slice_update",
        since: Opset::Ios18,
        params: &[
            X_17,
            Param::new("update", NUMBER_OR_BOOL_17),
            Param::new("begin", SIZE_17).group('U'),
            Param::new("end", SIZE_17).group('U'),
            Param::constant("stride", SIZE_17).group('U').optional(),
            Param::constant("begin_mask", BOOL).optional(),
            Param::constant("end_mask", BOOL).optional(),
            Param::constant("squeeze_mask", BOOL).optional(),
        ],
        infer: |args| {
            let (update, slice) = (args.ty("update")?, Spans::of(args)?.shape());
            let fits = |(a, b): (&Dim, &Dim)| a == b || *a == Dim::Any || *b == Dim::Any;
            if update.shape.len() != slice.len() || !update.shape.iter().zip(&slice).all(fits) {
                let slice = TensorType { dtype: update.dtype, shape: slice };
                return Err(OpError::arg("update", format!("has type {update}, the slice is {slice}")));
            }
            Ok(vec![args.ty("x")?.clone().into()])
        },
        eval: Eval::By(|args| {
            let (x, update, spans) = (args.tensor("x")?, args.tensor("update")?, Spans::of(args)?);
            infer(args)?;
            let at = spans.index(x.shape());
            let mut source: Vec<usize> = (0..x.len()).collect();
            (0..update.len()).for_each(|i| source[at(i)] = x.len() + i);
            Ok(vec![x.joined(&[update]).picked(x.shape(), |i| source[i]).into()])
        }),
        vjp: Some(slice_update_vjp),
    },
    REVERSE,
    OpDef { since: Opset::Ios17, params: &[X_17, Param::constant("axes", INT32).optional()], ..REVERSE },
    REVERSE_SEQUENCE,
    OpDef {
        since: Opset::Ios17,
        params: &[
            X_17,
            Param::new("lengths", SIZE_17).group('U'),
            Param::constant("seq_axis", INT32).or(Const::Int(0)),
            Param::constant("batch_axis", INT32).or(Const::Int(0)),
        ],
        ..REVERSE_SEQUENCE
    },
    OpDef {
        name: "pad",
        since: Opset::Ios13,
        params: &[
            Param::new("x", FLOAT),
            Param::new("pad", INT32).group(' '),
            Param::constant("mode", STRING).or(Const::Str("constant")),
            Param::constant("constant_val", FLOAT).group('T').or(Const::Float(0.0)),
        ],
        infer: pad_infer,
        eval: Eval::By(pad_eval),
        vjp: Some(pad_vjp),
    },
];

/// What a slice takes along each axis, as numpy's `begin:end:stride`.
struct Spans(Vec<Span>);

struct Span {
    /// The first element taken; meaningless where `n` is unknown.
    from: usize,
    /// From one taken element to the next.
    step: i64,
    /// How many elements are taken.
    n: Dim,
    /// Whether the axis disappears.
    squeezed: bool,
}

impl Spans {
    fn of(args: &Args<'_>) -> OpResult<Spans> {
        let x = args.shape("x")?;
        let rank = x.len();
        let vector = |name: &'static str, v: Option<Vec<i64>>| match v {
            Some(v) if v.len() != rank => {
                Err(OpError::arg(name, format!("has {} elements, expected one for each of {rank} axes", v.len())))
            }
            v => Ok(v),
        };
        // Known only when the program runs, or a constant.
        let maybe = |name| match args.optional(name) {
            Some(_) => vector(name, args.ints(name)?),
            None => Ok(None),
        };
        let (begin, end) = (maybe("begin")?, maybe("end")?);
        let stride = vector("stride", args.ints("stride")?)?.unwrap_or_else(|| vec![1; rank]);
        let mask = |name| -> OpResult<_> { Ok(vector(name, args.ints(name)?)?.unwrap_or_else(|| vec![0; rank])) };
        let (begin_mask, end_mask, squeeze) = (mask("begin_mask")?, mask("end_mask")?, mask("squeeze_mask")?);
        let one = |i: usize| -> OpResult<Span> {
            let (step, squeezed) = (stride[i], squeeze[i] != 0);
            if step == 0 {
                return Err(OpError::arg("stride", format!("is 0 on axis {i}")));
            }
            let unknown = Span { from: 0, step, n: if squeezed { Dim::Fixed(1) } else { Dim::Any }, squeezed };
            let Dim::Fixed(d) = x[i] else { return Ok(unknown) };
            let d = d as i64;
            // The place `at` counts from the end if negative and stops short of the ends of the axis.
            let (low, high) = if step > 0 { (0, d) } else { (-1, d - 1) };
            let place = |at: i64| if at < 0 { at.saturating_add(d).max(low) } else { at.min(high) };
            let from = match &begin {
                Some(b) if squeezed && begin_mask[i] == 0 && !(-d..d).contains(&b[i]) => {
                    return Err(OpError::arg("begin", format!("is {} on axis {i}, which has {d} elements", b[i])));
                }
                _ if squeezed && d == 0 => {
                    return Err(OpError::arg(
                        "squeeze_mask",
                        format!("takes an element of axis {i}, which has none"),
                    ));
                }
                _ if begin_mask[i] != 0 => Some(if step > 0 || squeezed { 0 } else { d - 1 }),
                b => b.as_ref().map(|b| place(b[i])),
            };
            let to = match &end {
                _ if end_mask[i] != 0 => Some(if step > 0 { d } else { -1 }),
                e => e.as_ref().map(|e| place(e[i])),
            };
            let n = match (from, to) {
                _ if squeezed => 1,
                (Some(from), Some(to)) => {
                    let length = if step > 0 { to - from } else { from - to };
                    length.max(0).unsigned_abs().div_ceil(step.unsigned_abs())
                }
                _ => return Ok(unknown),
            };
            Ok(Span { from: from.unwrap_or(0).max(0) as usize, step, n: Dim::Fixed(n), squeezed })
        };
        Ok(Spans((0..rank).map(one).collect::<OpResult<_>>()?))
    }

    /// The shape of the slice.
    fn shape(&self) -> Vec<Dim> {
        self.0.iter().filter(|s| !s.squeezed).map(|s| s.n).collect()
    }

    /// How many elements are taken along each axis, of those that disappear too.
    fn sizes(&self) -> Vec<usize> {
        self.0.iter().map(|s| s.n.fixed().unwrap_or(0)).collect()
    }

    /// Where in a tensor of `shape` the `i`-th element of the slice is.
    fn index(&self, shape: &[usize]) -> impl Fn(usize) -> usize {
        let (sizes, steps) = (self.sizes(), strides(shape));
        let along: Vec<(usize, i64)> = self.0.iter().map(|s| (s.from, s.step)).collect();
        move |i| {
            walk(&sizes, i, |axis, c| {
                let (from, step) = along[axis];
                (from as i64 + c as i64 * step) as usize * steps[axis]
            })
        }
    }
}

/// `dx` is `dy` put back to the places it was taken from, zero elsewhere: axis by axis turned round if the slice
/// ran backwards, spread apart by its stride, and put between zeros.
fn slice_by_index_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (shape, dy) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    for name in ["begin", "end"] {
        v.constant(name)?;
    }
    let spans = Spans::of(&v.args())?;
    let mut dx = v.b.reshape(dy, &spans.sizes())?;
    for (axis, span) in spans.0.iter().enumerate() {
        let mut now = v.b.shape(dx)?;
        let n = now[axis];
        if n == 0 {
            now[axis] = shape[axis];
            let dtype = v.b.tensor_ty(dx)?.dtype;
            dx = v.b.filled(dtype, &now, 0.0)?;
            continue;
        }
        let stride = usize::try_from(span.step.unsigned_abs()).unwrap_or(usize::MAX).min(shape[axis].max(1));
        let mut from = span.from;
        if span.step < 0 && n > 1 {
            dx = v.b.call("reverse").arg("x", dx).constant("axes", Tensor::i32s(&[axis as i32])).finish()?;
            from -= (n - 1) * stride;
        }
        if stride > 1 && n > 1 {
            // Each element with zeros up to the next one, but for the last.
            let (before, after): (usize, usize) = (now[..axis].iter().product(), now[axis + 1..].iter().product());
            dx = v.b.reshape(dx, &[before, n, after])?;
            dx = between_zeros(v.b, dx, 2, 0, stride * after)?;
            now[axis] = n * stride;
            dx = v.b.reshape(dx, &now)?;
            now[axis] = (n - 1) * stride + 1;
            dx = v.b.slice(dx, &vec![0; now.len()], &now)?;
        }
        dx = between_zeros(v.b, dx, axis, from, shape[axis])?;
    }
    v.give("x", dx)
}

/// `x` from `from` on along `axis`, which then has `size` elements, the others zero. By `concat`, an op that
/// devices have.
pub(super) fn between_zeros(
    b: &mut Builder,
    x: builder::Value,
    axis: usize,
    from: usize,
    size: usize,
) -> OpResult<builder::Value> {
    let (mut shape, dtype) = (b.shape(x)?, b.tensor_ty(x)?.dtype);
    let n = shape[axis];
    let mut zeros = |n: usize| -> OpResult<Option<builder::Value>> {
        shape[axis] = n;
        Ok(if n > 0 { Some(b.filled(dtype, &shape, 0.0)?) } else { None })
    };
    let (before, after) = (zeros(from)?, zeros(size.saturating_sub(from + n))?);
    let parts: Vec<builder::Value> = before.into_iter().chain([x]).chain(after).collect();
    Ok(if parts.len() > 1 { b.concat(&parts, axis)? } else { x })
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
        let s = if s == -1 { (d as i64).saturating_sub(from) } else { s };
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

/// `dx` is `dy` between zeros, axis by axis.
fn slice_by_size_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    v.constant("begin")?;
    let (shape, mut dx) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    let begin = begins(&v.args(), &shape)?;
    for axis in 0..shape.len() {
        dx = between_zeros(v.b, dx, axis, begin[axis], shape[axis])?;
    }
    v.give("x", dx)
}

/// The update takes the gradient of its slice, `x` that of what is around it.
fn slice_update_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    const SLICE: [&str; 6] = ["begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask"];
    let (update, dy) = (v.arg("update")?, v.dy()?);
    let slice: Vec<_> = SLICE.into_iter().filter_map(|name| Some((name, v.optional(name)?))).collect();
    if v.wants("update") {
        let call = v.b.call("slice_by_index").arg("x", dy);
        let d = slice.iter().fold(call, |call, &(name, value)| call.arg(name, value)).finish()?;
        v.give("update", d)?;
    }
    if v.wants("x") {
        let (dtype, shape) = (v.b.tensor_ty(dy)?.dtype, v.b.shape(update)?);
        let zeros = v.b.filled(dtype, &shape, 0.0)?;
        let call = v.b.call("slice_update").arg("x", dy).arg("update", zeros);
        let d = slice.iter().fold(call, |call, &(name, value)| call.arg(name, value)).finish()?;
        v.give("x", d)?;
    }
    Ok(())
}

/// The gradient of an op that undoes itself: the same call on `dy`.
fn again_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let others: Vec<_> = v.def.params.iter().skip(1).filter_map(|p| Some((p.name, v.optional(p.name)?))).collect();
    let call = v.b.call(v.def.name).arg("x", dy);
    let dx = others.iter().fold(call, |call, &(name, value)| call.arg(name, value)).finish()?;
    v.give("x", dx)
}

/// The first `lengths[b]` elements along `seq_axis` are turned round, for each `b` of `batch_axis`.
fn reverse_sequence_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let (shape, steps) = (x.shape(), strides(x.shape()));
    let (seq, batch) = (args.axis("seq_axis", x.rank())?, args.axis("batch_axis", x.rank())?);
    let lengths = args.ints("lengths")?.unwrap_or_default();
    if lengths.len() != shape[batch] || lengths.iter().any(|&n| !(0..=shape[seq] as i64).contains(&n)) {
        let message = format!("is {lengths:?}, expected {} numbers up to {}", shape[batch], shape[seq]);
        return Err(OpError::arg("lengths", message));
    }
    let out = x.picked(shape, |i| {
        let length = lengths[i / steps[batch] % shape[batch]] as usize;
        let turned = |axis: usize, c: usize| if axis == seq && c < length { length - 1 - c } else { c };
        walk(shape, i, |axis, c| turned(axis, c) * steps[axis])
    });
    Ok(vec![out.into()])
}

fn pad_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let x = args.ty("x")?;
    let mode = args.str("mode")?;
    if !["constant", "reflect", "replicate"].contains(&mode) {
        let message = format!("is `{mode}`, expected constant, reflect or replicate");
        return Err(OpError::arg("mode", message));
    }
    let rank = x.shape.len();
    let mut shape = x.shape.clone();
    if args.optional("pad").is_none() {
        match args.shape("pad")? {
            [Dim::Any] => shape.fill(Dim::Any),
            [Dim::Fixed(n)] if n % 2 == 0 && *n / 2 <= rank as u64 => {
                shape[rank - *n as usize / 2..].fill(Dim::Any);
            }
            _ => return Err(OpError::arg("pad", format!("must be a vector of 2 sizes an axis of `x` {x}"))),
        }
        return Ok(vec![TensorType { dtype: x.dtype, shape }.into()]);
    }
    for (axis, (before, after)) in pads(args, rank)?.into_iter().enumerate() {
        let most = match (shape[axis], mode) {
            (Dim::Fixed(d), "reflect") => d.saturating_sub(1),
            (Dim::Fixed(0), "replicate") => 0,
            _ => u64::MAX,
        };
        if before.max(after) > most {
            let message =
                format!("puts {} elements on axis {axis}, of which mode `{mode}` has {most}", before.max(after));
            return Err(OpError::arg("pad", message));
        }
        shape[axis] = add_dims(add_dims(shape[axis], Dim::Fixed(before))?, Dim::Fixed(after))?;
    }
    Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
}

/// How many elements are put before and after each axis: `pad` is about the last axes.
fn pads(args: &Args<'_>, rank: usize) -> OpResult<Vec<(u64, u64)>> {
    let pad = args.ints("pad")?.unwrap_or_default();
    let sizes: Option<Vec<u64>> = pad.iter().map(|&p| u64::try_from(p).ok()).collect();
    match sizes {
        Some(sizes) if sizes.len() % 2 == 0 && sizes.len() <= 2 * rank => {
            let mut out = vec![(0, 0); rank - sizes.len() / 2];
            out.extend(sizes.as_chunks().0.iter().map(|&[before, after]| (before, after)));
            Ok(out)
        }
        _ => Err(OpError::arg("pad", format!("is {pad:?}, expected 2 sizes for each of at most {rank} axes"))),
    }
}

fn pad_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, shape, mode) = (args.tensor("x")?, out_shape(args)?, args.str("mode")?);
    let (pads, steps) = (pads(args, x.rank())?, strides(x.shape()));
    // The constant stands behind the elements of `x`; any sum that reaches so far means it.
    let outside = x.len();
    let source = |axis: usize, c: usize| {
        let (d, c) = (x.shape()[axis] as i64, c as i64 - pads[axis].0 as i64);
        match mode {
            _ if (0..d).contains(&c) => c as usize * steps[axis],
            "reflect" => (if c < 0 { -c } else { 2 * (d - 1) - c }) as usize * steps[axis],
            "replicate" => c.clamp(0, d - 1) as usize * steps[axis],
            _ => outside,
        }
    };
    let constant = Tensor::float(x.dtype(), &[], vec![args.float("constant_val")?]);
    let out = x.joined(&[&constant]).picked(&shape, |i| walk(&shape, i, source).min(outside));
    Ok(vec![out.into()])
}

/// Axis by axis: what was copied from the inside brings its gradient back there.
fn pad_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    v.constant("pad")?;
    let shape = v.b.shape(v.arg("x")?)?;
    let (pads, mode) = {
        let args = v.args();
        (pads(&args, shape.len())?, args.str("mode")?.to_string())
    };
    let mut dx = v.dy()?;
    for axis in 0..shape.len() {
        let (before, after) = (pads[axis].0 as usize, pads[axis].1 as usize);
        let d = shape[axis];
        if before + after == 0 {
            continue;
        }
        let now = v.b.shape(dx)?;
        let cut = |b: &mut Builder, from: usize, n: usize| {
            let (mut begin, mut size) = (vec![0; now.len()], now.clone());
            (begin[axis], size[axis]) = (from, n);
            b.slice(dx, &begin, &size)
        };
        let mut sum = cut(v.b, before, d)?;
        for (n, from, front) in [(before, 0, true), (after, before + d, false)] {
            if n == 0 || mode == "constant" {
                continue;
            }
            let part = cut(v.b, from, n)?;
            let part = if mode == "reflect" {
                let axes = Tensor::i32s(&[axis as i32]);
                let turned = v.b.call("reverse").arg("x", part).constant("axes", axes).finish()?;
                between_zeros(v.b, turned, axis, if front { 1 } else { d - 1 - n }, d)?
            } else {
                let edge = v.b.reduce_sum(part, &[axis as i32], true)?;
                between_zeros(v.b, edge, axis, if front { 0 } else { d - 1 }, d)?
            };
            sum = v.b.add(sum, part)?;
        }
        dx = sum;
    }
    v.give("x", dx)
}
