//! Ops that make tensors or look at them as a whole: fill, one_hot, range, sorting, running sums.

use super::elementwise::from_f64s;
use super::shape::{dim, out_shape, strides, unknown_sizes};
use super::window::positive;
use super::*;
use crate::ir::{Dim, TensorType};
use crate::tensor::Data;

const AXIS_LAST: Param = Param::constant("axis", INT32).or(Const::Int(-1));
const ASCENDING: Param = Param::constant("ascending", BOOL).or(Const::Bool(false));

const TOPK: OpDef = OpDef {
    name: "topk",
    since: Opset::Ios13,
    params: &[Param::new("x", NUMBER), Param::constant("k", INT32).or(Const::Int(1)), AXIS_LAST, ASCENDING],
    infer: topk_infer,
    eval: Eval::By(topk_eval),
    vjp: Some(topk_vjp),
};

const NMS: OpDef = OpDef {
    name: "non_maximum_suppression",
    since: Opset::Ios13,
    params: &[
        Param::new("boxes", FLOAT),
        Param::new("scores", FLOAT),
        Param::constant("iou_threshold", FLOAT).group('T'),
        Param::constant("score_threshold", FLOAT).group('T'),
        Param::constant("max_boxes", INT32),
        Param::constant("per_class_suppression", BOOL).or(Const::Bool(false)),
    ],
    infer: nms_infer,
    eval: Eval::No("its order of equal scores and its padding are nowhere specified"),
    vjp: None,
};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "fill",
        since: Opset::Ios13,
        params: &[
            Param::new("shape", INT32).group(' '),
            Param::constant("value", NUMBER_OR_BOOL).or(Const::Float(0.0)),
        ],
        infer: |args| {
            let shape = match args.optional("shape") {
                Some(_) => sizes(args)?,
                None => unknown_sizes(args, "shape")?,
            };
            Ok(vec![TensorType { dtype: fill_dtype(args)?, shape }.into()])
        },
        eval: Eval::By(fill_eval),
        vjp: None,
    },
    OpDef {
        name: "fill_like",
        since: Opset::Ios16,
        params: &[
            Param::new("ref_tensor", NUMBER_OR_BOOL),
            Param::constant("value", NUMBER_OR_BOOL).or(Const::Float(0.0)),
        ],
        infer: |args| Ok(vec![args.ty("ref_tensor")?.with_dtype(fill_dtype(args)?).into()]),
        eval: Eval::By(fill_eval),
        // Of the reference only the shape counts.
        vjp: Some(|_| Ok(())),
    },
    OpDef {
        name: "shape",
        since: Opset::Ios13,
        params: &[Param::new("x", NUMBER_OR_BOOL)],
        infer: |args| Ok(vec![TensorType::new(DType::Int32, &[args.shape("x")?.len()]).into()]),
        eval: Eval::By(|args| {
            let shape: Vec<i64> = args.tensor("x")?.shape().iter().map(|&d| d as i64).collect();
            Ok(vec![Tensor::int(DType::Int32, &[shape.len()], shape).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "one_hot",
        since: Opset::Ios13,
        params: &[
            Param::new("indices", INT32).group(' '),
            Param::new("one_hot_vector_size", INT32).group(' '),
            AXIS_LAST,
            Param::constant("on_value", NUMBER_OR_BOOL).group('T').or(Const::Int(1)),
            Param::constant("off_value", NUMBER_OR_BOOL).group('T').or(Const::Int(0)),
        ],
        infer: |args| {
            let mut shape = args.shape("indices")?.to_vec();
            let axis = args.axis("axis", shape.len() + 1)?;
            let size = match args.optional("one_hot_vector_size") {
                Some(_) => dim("one_hot_vector_size", args.int("one_hot_vector_size")?)?,
                None => Dim::Any,
            };
            shape.insert(axis, size);
            let dtype = |name| if args.has(name) { scalar(args, name) } else { Ok(DType::Int32) };
            let (on, off) = (dtype("on_value")?, dtype("off_value")?);
            if on != off {
                return Err(OpError::arg("off_value", format!("is {off}, expected {on} like `on_value`")));
            }
            Ok(vec![TensorType { dtype: on, shape }.into()])
        },
        eval: Eval::By(|args| {
            let (shape, indices) = (out_shape(args)?, args.tensor("indices")?);
            let (axis, indices) = (args.axis("axis", shape.len())?, indices.ints().unwrap_or_default());
            let value = |name, default| args.optional(name).cloned().unwrap_or(Tensor::i32(default));
            let (inner, n): (usize, usize) = (shape[axis + 1..].iter().product(), shape[axis]);
            let is_on = |i: usize| indices[i / inner / n * inner + i % inner] == (i / inner % n) as i64;
            let values = value("off_value", 0).joined(&[&value("on_value", 1)]);
            Ok(vec![values.picked(&shape, |i| is_on(i).into()).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "range_1d",
        since: Opset::Ios13,
        params: &[Param::new("end", NUMBER), Param::new("start", NUMBER), Param::new("step", NUMBER)],
        infer: range_infer,
        eval: Eval::By(|args| {
            let n = out_shape(args)?[0];
            let (start, step) = (args.float("start")?, args.float("step")?);
            let x = (0..n).map(|i| start + i as f64 * step).collect();
            Ok(vec![from_f64s(args.dtype("start")?, &[n], x).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "band_part",
        since: Opset::Ios13,
        params: &[
            Param::new("x", NUMBER_OR_BOOL),
            Param::constant("lower", INT32).or(Const::Int(-1)),
            Param::constant("upper", INT32).or(Const::Int(-1)),
        ],
        infer: |args| {
            let x = args.ty("x")?;
            match x.shape.len() {
                0 | 1 => Err(OpError::arg("x", format!("is {x}, expected matrices"))),
                _ => Ok(vec![x.clone().into()]),
            }
        },
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            let (lower, upper) = (args.int("lower")?, args.int("upper")?);
            let (width, height) = (x.shape()[x.rank() - 1], x.shape()[x.rank() - 2]);
            let zero = Tensor::zeros(x.dtype(), &[]);
            let stays = |i: usize| {
                let below = (i / width % height) as i64 - (i % width) as i64;
                (lower < 0 || below <= lower) && (upper < 0 || -below <= upper)
            };
            let out = x.joined(&[&zero]).picked(x.shape(), |i| if stays(i) { i } else { x.len() });
            Ok(vec![out.into()])
        }),
        vjp: Some(band_vjp),
    },
    OpDef {
        name: "cumsum",
        since: Opset::Ios13,
        params: &[
            Param::new("x", NUMBER),
            Param::constant("axis", INT32).or(Const::Int(0)),
            Param::constant("exclusive", BOOL).or(Const::Bool(false)),
            Param::constant("reverse", BOOL).or(Const::Bool(false)),
        ],
        infer: |args| {
            args.axis("axis", args.shape("x")?.len())?;
            Ok(vec![args.ty("x")?.clone().into()])
        },
        eval: Eval::By(cumsum_eval),
        vjp: Some(cumsum_vjp),
    },
    OpDef {
        name: "argsort",
        since: Opset::Ios13,
        params: &[Param::new("x", NUMBER), AXIS_LAST, ASCENDING],
        infer: |args| {
            args.axis("axis", args.shape("x")?.len())?;
            Ok(vec![args.ty("x")?.with_dtype(DType::Int32).into()])
        },
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            let axis = args.axis("axis", x.rank())?;
            Ok(vec![sorted(args, x, axis, x.shape()[axis])?.1.into()])
        }),
        vjp: None,
    },
    TOPK,
    OpDef {
        since: Opset::Ios16,
        params: &[
            Param::new("x", NUMBER),
            Param::constant("k", INT32).or(Const::Int(1)),
            AXIS_LAST,
            ASCENDING,
            Param::constant("sort", BOOL).or(Const::Bool(true)),
            Param::constant("return_indices", BOOL).or(Const::Bool(true)),
        ],
        ..TOPK
    },
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("x", NUMBER_17),
            Param::constant("k", SIZE_17).or(Const::Int(1)),
            AXIS_LAST,
            ASCENDING,
            Param::constant("sort", BOOL).or(Const::Bool(true)),
            Param::constant("return_indices", BOOL).or(Const::Bool(true)),
            // "int32" if left out, but it may be passed only where indices are returned.
            Param::constant("output_indices_dtype", STRING).optional(),
        ],
        ..TOPK
    },
    OpDef {
        name: "non_zero",
        since: Opset::Ios13,
        params: &[Param::new("x", NUMBER_OR_BOOL)],
        infer: |args| {
            let n = args.optional("x").map_or(Dim::Any, |x| Dim::Fixed(places_of_nonzero(x).len() as u64));
            let shape = vec![n, Dim::Fixed(args.shape("x")?.len() as u64)];
            Ok(vec![TensorType { dtype: DType::Int32, shape }.into()])
        },
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            let (places, steps) = (places_of_nonzero(x), strides(x.shape()));
            let coordinates =
                |&i: &usize| (0..x.rank()).map(|a| (i / steps[a] % x.shape()[a]) as i64).collect::<Vec<_>>();
            let out = places.iter().flat_map(coordinates).collect();
            Ok(vec![Tensor::int(DType::Int32, &[places.len(), x.rank()], out).into()])
        }),
        vjp: None,
    },
    NMS,
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("boxes", FLOAT),
            Param::new("scores", FLOAT),
            Param::constant("iou_threshold", FLOAT).group('T'),
            Param::constant("max_boxes", INT32),
            Param::constant("per_class_suppression", BOOL).or(Const::Bool(false)),
        ],
        ..NMS
    },
    OpDef {
        name: "classify",
        since: Opset::Ios13,
        params: &[Param::new("probabilities", &[DType::Fp32, DType::Fp64]), Param::constant("classes", ANY)],
        infer: classify_infer,
        eval: Eval::No("it names classes for an app and gives a dictionary, not a tensor"),
        vjp: None,
    },
];

fn sizes(args: &Args<'_>) -> OpResult<Vec<Dim>> {
    args.ints("shape")?.unwrap_or_default().into_iter().map(|d| dim("shape", d)).collect()
}

fn fill_dtype(args: &Args<'_>) -> OpResult<DType> {
    if args.has("value") { scalar(args, "value") } else { Ok(DType::Fp32) }
}

fn fill_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let value = args.optional("value").cloned().unwrap_or(Tensor::zeros(DType::Fp32, &[]));
    Ok(vec![value.picked(&out_shape(args)?, |_| 0).into()])
}

/// The element type of an argument of one element.
fn scalar(args: &Args<'_>, name: &'static str) -> OpResult<DType> {
    let ty = args.ty(name)?;
    match ty.n_elements() {
        None | Some(1) => Ok(ty.dtype),
        Some(_) => Err(OpError::arg(name, format!("has type {ty}, expected a scalar"))),
    }
}

/// From `start` in steps up to `end`, which is not reached.
fn range_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let known = ["start", "end", "step"].iter().all(|name| args.optional(name).is_some());
    let size = if known {
        let (start, end, step) = (args.float("start")?, args.float("end")?, args.float("step")?);
        let n = ((end - start) / step).ceil();
        if step == 0.0 || !n.is_finite() {
            return Err(OpError::arg("step", format!("is {step}, which does not lead from {start} to {end}")));
        }
        Dim::Fixed(n as u64)
    } else {
        Dim::Any
    };
    Ok(vec![TensorType { dtype: args.dtype("start")?, shape: vec![size] }.into()])
}

fn band_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let [lower, upper] = {
        let args = v.args();
        [args.int("lower")?, args.int("upper")?].map(|n| Tensor::int(DType::Int32, &[], vec![n]))
    };
    let dx = v.b.call("band_part").arg("x", dy).constant("lower", lower).constant("upper", upper).finish()?;
    v.give("x", dx)
}

/// The sums of all elements up to each along the axis, without it if `exclusive`, from the end if `reverse`.
fn cumsum_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let axis = args.axis("axis", x.rank())?;
    let (exclusive, reverse) = (args.bool("exclusive")?, args.bool("reverse")?);
    let (n, inner) = (x.shape()[axis], strides(x.shape())[axis]);
    // The element before the `i`-th in the order of summation, if there is one.
    let previous = |i: usize| match reverse {
        false => (!(i / inner).is_multiple_of(n)).then(|| i - inner),
        true => (i / inner % n + 1 < n).then(|| i + inner),
    };
    let order: Vec<usize> = if reverse { (0..x.len()).rev().collect() } else { (0..x.len()).collect() };
    Ok(vec![match x.data() {
        Data::Float(xs) => {
            let mut sums = vec![0.0; xs.len()];
            order.iter().for_each(|&i| sums[i] = previous(i).map_or(0.0, |p| sums[p]) + xs[i]);
            if exclusive {
                sums = (0..xs.len()).map(|i| previous(i).map_or(0.0, |p| sums[p])).collect();
            }
            Tensor::float(x.dtype(), x.shape(), sums).into()
        }
        Data::Int(xs) => {
            let mut sums = vec![0i64; xs.len()];
            order.iter().for_each(|&i| sums[i] = previous(i).map_or(0, |p| sums[p]).wrapping_add(xs[i]));
            if exclusive {
                sums = (0..xs.len()).map(|i| previous(i).map_or(0, |p| sums[p])).collect();
            }
            Tensor::int(x.dtype(), x.shape(), sums).into()
        }
        Data::Str(_) => return Err(OpError::arg("x", "holds strings, expected numbers")),
    }])
}

/// Each element is in the sums after it: the sum of their gradients, summed the other way round.
fn cumsum_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    let (axis, exclusive, reverse) = {
        let args = v.args();
        (args.int("axis")?, args.bool("exclusive")?, args.bool("reverse")?)
    };
    let dx =
        v.b.call("cumsum")
            .arg("x", dy)
            .constant("axis", Tensor::i32(axis as i32))
            .constant("exclusive", Tensor::bool(exclusive))
            .constant("reverse", Tensor::bool(!reverse))
            .finish()?;
    v.give("x", dx)
}

/// The first `k` elements along `axis` in the order asked for, equal ones in their own, and where they were.
fn sorted(args: &Args<'_>, x: &Tensor, axis: usize, k: usize) -> OpResult<(Tensor, Tensor)> {
    let ascending = args.bool("ascending")?;
    let (inner, n, xs) = (strides(x.shape())[axis], x.shape()[axis], x.to_f64s());
    let compare = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    let len = shape.iter().product();
    let (mut places, mut indices) = (vec![0; len], vec![0; len]);
    for line in 0..x.len() / n.max(1) {
        let (outer, rest) = (line / inner, line % inner);
        let at = |c: usize| (outer * n + c) * inner + rest;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| {
            let order = compare(&xs[at(a)], &xs[at(b)]);
            if ascending { order } else { order.reverse() }
        });
        for (c, &from) in order[..k].iter().enumerate() {
            let to = (outer * k + c) * inner + rest;
            (places[to], indices[to]) = (at(from), from as i64);
        }
    }
    Ok((x.picked(&shape, |i| places[i]), Tensor::int(DType::Int32, &shape, indices)))
}

/// The axis, and the number of elements, all of the axis where that is -1.
fn topk(args: &Args<'_>) -> OpResult<(usize, Dim)> {
    let x = args.shape("x")?;
    let (axis, k) = (args.axis("axis", x.len())?, args.int("k")?);
    if k == -1 && args.def.since >= Opset::Ios17 {
        return Ok((axis, x[axis]));
    }
    let k = positive("k", k)? as u64;
    match x[axis] {
        Dim::Fixed(d) if k > d => Err(OpError::arg("k", format!("is {k}, axis {axis} of `x` has {d} elements"))),
        _ => Ok((axis, Dim::Fixed(k))),
    }
}

fn returns_indices(args: &Args<'_>) -> OpResult<bool> {
    if args.def.since >= Opset::Ios16 { args.bool("return_indices") } else { Ok(true) }
}

fn topk_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let (axis, k) = topk(args)?;
    let mut values = args.ty("x")?.clone();
    values.shape[axis] = k;
    let dtype_given = args.def.since >= Opset::Ios17 && args.has("output_indices_dtype");
    if !returns_indices(args)? {
        return match dtype_given {
            true => Err(OpError::arg("output_indices_dtype", "is given, but no indices are returned")),
            false => Ok(vec![values.into()]),
        };
    }
    let dtype = match if dtype_given { args.str("output_indices_dtype")? } else { "int32" } {
        "int32" => DType::Int32,
        "uint16" => DType::UInt16,
        other => {
            let message = format!("is `{other}`, expected int32 or uint16");
            return Err(OpError::arg("output_indices_dtype", message));
        }
    };
    let indices = values.with_dtype(dtype);
    Ok(vec![values.into(), indices.into()])
}

fn topk_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let types = infer(args)?;
    let (x, shape) = (args.tensor("x")?, out_shape(args)?);
    let axis = topk(args)?.0;
    let (values, indices) = sorted(args, x, axis, shape[axis])?;
    let mut out = vec![values.into()];
    if let Some(Type::Tensor(ty)) = types.get(1) {
        let indices = indices.ints().unwrap_or_default().to_vec();
        out.push(Tensor::int(ty.dtype, &shape, indices).into());
    }
    Ok(out)
}

/// The gradients go back to where the elements were.
fn topk_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, Some(dy)) = (v.arg("x")?, v.dys()[0]) else { return Ok(()) };
    let (axis, ascending) = {
        let args = v.args();
        (topk(&args)?.0, args.bool("ascending")?)
    };
    let shape = v.b.shape(x)?;
    let (k, dtype) = (v.b.shape(dy)?[axis], v.b.tensor_ty(dy)?.dtype);
    let axis = Tensor::i32(axis as i32);
    let indices = match v.outputs.get(1) {
        Some(&indices) if v.b.tensor_ty(indices)?.dtype == DType::Int32 => indices,
        _ => {
            let call = v.b.call("topk").arg("x", x).constant("k", Tensor::i32(k as i32));
            call.constant("axis", axis.clone()).constant("ascending", Tensor::bool(ascending)).finish_many()?[1]
        }
    };
    let zeros = v.b.filled(dtype, &shape, 0.0)?;
    let call = v.b.call("scatter_along_axis").arg("data", zeros).arg("indices", indices).arg("updates", dy);
    let dx = call.constant("axis", axis).constant("mode", Tensor::string("add")).finish()?;
    v.give("x", dx)
}

fn places_of_nonzero(x: &Tensor) -> Vec<usize> {
    x.to_f64s().iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(i, _)| i).collect()
}

/// Until iOS 17 boxes lie along axis 1 and their number is an output, then along the last axis.
fn nms_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let (boxes, scores) = (args.ty("boxes")?, args.ty("scores")?);
    let (&[n, a, b], &[_, c, d]) = (&boxes.shape[..], &scores.shape[..]) else {
        return Err(OpError::arg("boxes", format!("is {boxes}, `scores` {scores}: expected both of rank 3")));
    };
    let max = dim("max_boxes", args.int("max_boxes")?)?;
    let (dtype, four) = (boxes.dtype, Dim::Fixed(4));
    let of = |dtype, shape: &[Dim]| Type::from(TensorType { dtype, shape: shape.to_vec() });
    let new = args.def.since >= Opset::Ios17;
    let (coordinates, n_classes) = if new { (a, c) } else { (b, d) };
    if coordinates != four && coordinates != Dim::Any {
        return Err(OpError::arg("boxes", format!("is {boxes}, expected 4 coordinates a box")));
    }
    let indices = of(DType::Int32, &[n, max]);
    Ok(match new {
        true => vec![of(dtype, &[n, four, max]), of(dtype, &[n, n_classes, max]), indices],
        false => {
            vec![of(dtype, &[n, max, four]), of(dtype, &[n, max, n_classes]), indices, of(DType::Int32, &[n])]
        }
    })
}

/// The most probable class, and the probability of each.
fn classify_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let (classes, probabilities) = (args.bound("classes")?, args.ty("probabilities")?);
    let Type::List(class, n) = classes.ty else {
        return Err(OpError::arg("classes", format!("has type {}, expected a list", classes.ty)));
    };
    if let (Some(n), Some(m)) = (*n, probabilities.n_elements())
        && n != m as u64
    {
        return Err(OpError::arg("classes", format!("names {n} classes, `probabilities` has {m} elements")));
    }
    let probability = Type::Tensor(TensorType::scalar(DType::Fp64));
    Ok(vec![(**class).clone(), Type::Dict(class.clone(), Box::new(probability))])
}
