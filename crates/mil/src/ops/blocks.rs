//! Ops that move blocks of elements between axes: depth and space, batch and space, windows.
//!
//! Those on images `[N, C, H, W]` are each told by where an element of the output comes from.

use super::elementwise::show;
use super::image::cropped;
use super::shape::{add_dims, mul_dims, out_shape, strides, walk};
use super::window::positive;
use super::*;
use crate::builder::{self, Builder};
use crate::ir::{Dim, TensorType};

const X: Param = Param::new("x", FLOAT);

const SLIDING_WINDOWS: OpDef = OpDef {
    name: "sliding_windows",
    since: Opset::Ios13,
    params: &[
        Param::new("x", NUMBER),
        Param::constant("axis", INT32),
        Param::constant("size", INT32),
        Param::constant("stride", INT32).or(Const::Int(1)),
    ],
    infer: windows_infer,
    eval: Eval::By(windows_eval),
    vjp: Some(windows_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "depth_to_space",
        since: Opset::Ios13,
        params: &[X, Param::constant("block_size", INT32)],
        infer: |args| to_space_type(args, "block_size"),
        eval: Eval::By(|args| {
            let (b, n_channels) = (block(args, "block_size")?, out_shape(args)?[1]);
            moved(args, |[n, c, y, x]| Some([n, (y % b * b + x % b) * n_channels + c, y / b, x / b]))
        }),
        vjp: Some(|v| inverse_vjp(v, "space_to_depth", "block_size", DType::Int32)),
    },
    OpDef {
        name: "space_to_depth",
        since: Opset::Ios13,
        params: &[X, Param::constant("block_size", INT32)],
        infer: |args| to_depth_type(args, "block_size"),
        eval: Eval::By(|args| {
            let (b, n_channels) = (block(args, "block_size")?, args.tensor("x")?.shape()[1]);
            moved(args, |[n, k, y, x]| {
                let (place, c) = (k / n_channels, k % n_channels);
                Some([n, c, y * b + place / b, x * b + place % b])
            })
        }),
        vjp: Some(|v| inverse_vjp(v, "depth_to_space", "block_size", DType::Int32)),
    },
    OpDef {
        name: "pixel_shuffle",
        since: Opset::Ios13,
        params: &[X, Param::constant("upscale_factor", INT32)],
        infer: |args| to_space_type(args, "upscale_factor"),
        eval: Eval::By(|args| {
            let b = block(args, "upscale_factor")?;
            moved(args, |[n, c, y, x]| Some([n, (c * b + y % b) * b + x % b, y / b, x / b]))
        }),
        vjp: Some(|v| inverse_vjp(v, "pixel_unshuffle", "downscale_factor", DType::UInt32)),
    },
    OpDef {
        name: "pixel_unshuffle",
        since: Opset::Ios16,
        params: &[X, Param::constant("downscale_factor", &[DType::UInt32])],
        infer: |args| to_depth_type(args, "downscale_factor"),
        eval: Eval::By(|args| {
            let b = block(args, "downscale_factor")?;
            moved(args, |[n, k, y, x]| Some([n, k / b / b, y * b + k / b % b, x * b + k % b]))
        }),
        vjp: Some(|v| inverse_vjp(v, "pixel_shuffle", "upscale_factor", DType::Int32)),
    },
    OpDef {
        name: "space_to_batch",
        since: Opset::Ios13,
        params: &[X, Param::constant("block_shape", INT32), Param::constant("paddings", INT32)],
        infer: |args| {
            let ([n, c, h, w], [by, bx]) = (image(args)?, block_shape(args)?);
            let [[top, bottom], [left, right]] = margins(args, "paddings")?;
            let size = |d: Dim, margins: [usize; 2], b: usize| {
                divided(margins.into_iter().try_fold(d, |d, m| add_dims(d, fixed(m)))?, fixed(b))
            };
            let n = mul_dims(mul_dims(n, fixed(by))?, fixed(bx))?;
            typed(args, vec![n, c, size(h, [top, bottom], by)?, size(w, [left, right], bx)?])
        },
        eval: Eval::By(|args| {
            let ([by, bx], [[top, _], [left, _]]) = (block_shape(args)?, margins(args, "paddings")?);
            let n_batch = args.tensor("x")?.shape()[0];
            moved(args, |[m, c, y, x]| {
                let (place, n) = (m / n_batch, m % n_batch);
                let (y, x) = (y * by + place / bx, x * bx + place % bx);
                Some([n, c, y.checked_sub(top)?, x.checked_sub(left)?])
            })
        }),
        vjp: Some(|v| batch_vjp(v, "batch_to_space", "paddings", "crops")),
    },
    OpDef {
        name: "batch_to_space",
        since: Opset::Ios13,
        params: &[X, Param::constant("block_shape", INT32), Param::constant("crops", INT32)],
        infer: |args| {
            let ([n, c, h, w], [by, bx]) = (image(args)?, block_shape(args)?);
            let [[top, bottom], [left, right]] = margins(args, "crops")?;
            let size = |d: Dim, margins: [usize; 2], b: usize| match mul_dims(d, fixed(b))? {
                Dim::Any => Ok(Dim::Any),
                Dim::Fixed(d) => cropped("crops", d, margins),
            };
            let n = divided(n, mul_dims(fixed(by), fixed(bx))?)?;
            typed(args, vec![n, c, size(h, [top, bottom], by)?, size(w, [left, right], bx)?])
        },
        eval: Eval::By(|args| {
            let ([by, bx], [[top, _], [left, _]]) = (block_shape(args)?, margins(args, "crops")?);
            let n_batch = out_shape(args)?[0];
            moved(args, |[n, c, y, x]| {
                let (y, x) = (y + top, x + left);
                Some([(y % by * bx + x % bx) * n_batch + n, c, y / by, x / bx])
            })
        }),
        vjp: Some(|v| batch_vjp(v, "space_to_batch", "crops", "paddings")),
    },
    SLIDING_WINDOWS,
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("x", NUMBER_OR_BOOL_17),
            Param::constant("axis", INT32),
            Param::constant("size", INT32),
            Param::constant("stride", INT32).or(Const::Int(1)),
        ],
        ..SLIDING_WINDOWS
    },
];

fn fixed(n: usize) -> Dim {
    Dim::Fixed(n as u64)
}

fn typed(args: &Args<'_>, shape: Vec<Dim>) -> OpResult<Vec<Type>> {
    Ok(vec![TensorType { dtype: args.dtype("x")?, shape }.into()])
}

/// The sizes of `x`, which has four.
fn image(args: &Args<'_>) -> OpResult<[Dim; 4]> {
    let x = args.shape("x")?;
    x.try_into().map_err(|_| OpError::arg("x", format!("has shape {}, expected [N, C, H, W]", show(x))))
}

fn block(args: &Args<'_>, name: &'static str) -> OpResult<usize> {
    positive(name, args.int(name)?)
}

fn block_shape(args: &Args<'_>) -> OpResult<[usize; 2]> {
    match args.ints("block_shape")?.unwrap_or_default()[..] {
        [y, x] => Ok([positive("block_shape", y)?, positive("block_shape", x)?]),
        ref other => Err(OpError::arg("block_shape", format!("is {other:?}, expected two sizes"))),
    }
}

/// What is put to, or cut from, `[[top, bottom], [left, right]]`.
fn margins(args: &Args<'_>, name: &'static str) -> OpResult<[[usize; 2]; 2]> {
    match image_margins(args, name)?[..] {
        [top, bottom, left, right] => Ok([[top, bottom], [left, right]]),
        ref other => Err(OpError::arg(name, format!("is {other:?}, expected [2, 2] sizes"))),
    }
}

/// Sizes that are not negative, whatever their shape.
pub(super) fn image_margins(args: &Args<'_>, name: &'static str) -> OpResult<Vec<usize>> {
    let t = args.tensor(name)?;
    let sizes = t.ints().and_then(|t| t.iter().map(|&m| usize::try_from(m).ok()).collect());
    sizes.ok_or_else(|| OpError::arg(name, format!("has type {}, expected sizes of 0 or more", t.ty())))
}

fn divided(d: Dim, by: Dim) -> OpResult<Dim> {
    match (d, by) {
        (Dim::Fixed(d), Dim::Fixed(by)) if d % by != 0 => {
            Err(OpError::new(format!("a block of {by} does not divide {d} elements")))
        }
        (Dim::Fixed(d), Dim::Fixed(by)) => Ok(Dim::Fixed(d / by)),
        _ => Ok(Dim::Any),
    }
}

fn to_space_type(args: &Args<'_>, name: &'static str) -> OpResult<Vec<Type>> {
    let ([n, c, h, w], b) = (image(args)?, fixed(block(args, name)?));
    typed(args, vec![n, divided(c, mul_dims(b, b)?)?, mul_dims(h, b)?, mul_dims(w, b)?])
}

fn to_depth_type(args: &Args<'_>, name: &'static str) -> OpResult<Vec<Type>> {
    let ([n, c, h, w], b) = (image(args)?, fixed(block(args, name)?));
    typed(args, vec![n, mul_dims(c, mul_dims(b, b)?)?, divided(h, b)?, divided(w, b)?])
}

/// The output whose element at `[n, c, y, x]` is that of `x` at `source([n, c, y, x])`, or 0 if that is nowhere.
fn moved(args: &Args<'_>, source: impl Fn([usize; 4]) -> Option<[usize; 4]>) -> OpResult<Vec<Value>> {
    let (x, shape) = (args.tensor("x")?, out_shape(args)?);
    let nowhere = x.len();
    let at = |i: usize| {
        let w = shape[3];
        let [h, c] = [shape[2], shape[1]];
        let from = source([i / w / h / c, i / w / h % c, i / w % h, i % w])?;
        let inside = from.iter().zip(x.shape()).all(|(at, d)| at < d);
        inside.then(|| from.iter().zip(x.shape()).fold(0, |at, (c, d)| at * d + c))
    };
    let zero = Tensor::float(x.dtype(), &[], vec![0.0]);
    Ok(vec![x.joined(&[&zero]).picked(&shape, |i| at(i).unwrap_or(nowhere)).into()])
}

/// The gradient of a rearrangement is the op that undoes it.
fn inverse_vjp(v: &mut Vjp<'_>, op: &'static str, param: &'static str, dtype: DType) -> OpResult<()> {
    let dy = v.dy()?;
    let block = v.ints(v.def.params[1].name)?;
    let dx = v.b.call(op).arg("x", dy).constant(param, Tensor::int(dtype, &[], block)).finish()?;
    v.give("x", dx)
}

fn batch_vjp(v: &mut Vjp<'_>, op: &'static str, margins: &'static str, param: &'static str) -> OpResult<()> {
    let (dy, block, margins) = (v.dy()?, v.arg("block_shape")?, v.arg(margins)?);
    let dx = v.b.call(op).arg("x", dy).arg("block_shape", block).arg(param, margins).finish()?;
    v.give("x", dx)
}

/// The axis, the size of a window and the step from one to the next.
fn windows(args: &Args<'_>) -> OpResult<(usize, usize, usize)> {
    let axis = args.axis("axis", args.shape("x")?.len())?;
    Ok((axis, block(args, "size")?, block(args, "stride")?))
}

fn windows_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let (axis, size, stride) = windows(args)?;
    let mut shape = args.shape("x")?.to_vec();
    shape[axis] = match shape[axis] {
        Dim::Any => Dim::Any,
        Dim::Fixed(d) if d < size as u64 => {
            return Err(OpError::arg("size", format!("is {size}, axis {axis} of `x` has {d} elements")));
        }
        Dim::Fixed(d) => Dim::Fixed((d - size as u64) / stride as u64 + 1),
    };
    shape.insert(axis + 1, fixed(size));
    typed(args, shape)
}

fn windows_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, shape, (axis, _, stride)) = (args.tensor("x")?, out_shape(args)?, windows(args)?);
    let steps = strides(x.shape());
    // Axis `axis` of the output counts windows, the next the elements of one; the others are those of `x`.
    let out = x.picked(&shape, |i| {
        walk(&shape, i, |a, c| match a {
            _ if a < axis => c * steps[a],
            _ if a == axis => c * stride * steps[a],
            _ => c * steps[a - 1],
        })
    });
    Ok(vec![out.into()])
}

/// Each element takes the sum over the windows it is in.
fn windows_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (shape, dy) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    let (axis, size, stride) = windows(&v.args())?;
    let n = v.b.shape(dy)?[axis];
    let source: Vec<i32> = (0..n).flat_map(|i| (0..size).map(move |j| (i * stride + j) as i32)).collect();
    let mut flat = shape.clone();
    flat[axis] = source.len();
    let updates = v.b.reshape(dy, &flat)?;
    let indices = v.b.constant(Tensor::i32s(&source));
    let dx = scattered(v.b, &shape, indices, updates, axis)?;
    v.give("x", dx)
}

/// `updates` added to a tensor of zeros at `indices` along `axis`.
pub(super) fn scattered(
    b: &mut Builder,
    shape: &[usize],
    indices: builder::Value,
    updates: builder::Value,
    axis: usize,
) -> OpResult<builder::Value> {
    let dtype = b.tensor_ty(updates)?.dtype;
    let zeros = b.filled(dtype, shape, 0.0)?;
    let call = b.call("scatter").arg("data", zeros).arg("indices", indices).arg("updates", updates);
    Ok(call.constant("axis", Tensor::i32(axis as i32)).constant("mode", Tensor::string("add")).finish()?)
}
