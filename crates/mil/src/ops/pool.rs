//! Pooling: the average, the largest or the root of the sum of squares of each window.

use super::conv::spread;
use super::elementwise::maximum;
use super::window::{Geometry, Windows, coordinates, sizes};
use super::*;
use crate::builder::{self, Builder};
use crate::ir::{Dim, TensorType};

/// The table row of a pooling op, which takes other parameters before the usual ones.
macro_rules! pool {
    ($name:literal, [$($first:expr)?], $eval:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[
                Param::new("x", FLOAT),
                Param::constant("kernel_sizes", INT32),
                Param::constant("strides", INT32).optional(),
                Param::constant("pad_type", STRING),
                Param::constant("pad", INT32).optional(),
                Param::constant("ceil_mode", BOOL).or(Const::Bool(false)),
                $($first)?
            ],
            infer: |args| Ok(vec![pool(args)?.0.into()]),
            eval: Eval::By($eval),
            vjp: Some($vjp),
        }
    };
}

pub(super) const OPS: &[OpDef] = &[
    pool!(
        "avg_pool",
        [Param::constant("exclude_padding_from_average", BOOL).or(Const::Bool(false))],
        |args| {
            let exclude = args.bool("exclude_padding_from_average")?;
            each_window(args, |x, n| {
                x.iter().sum::<f64>() / if exclude { x.len().max(1) } else { n.max(1) } as f64
            })
        },
        avg_vjp
    ),
    pool!("l2_pool", [], |args| each_window(args, |x, _| x.iter().map(|x| x * x).sum::<f64>().sqrt()), l2_vjp),
    pool!(
        "max_pool",
        [],
        |args| each_window(args, |x, _| x.iter().copied().fold(f64::NEG_INFINITY, maximum)),
        max_vjp
    ),
];

fn pool(args: &Args<'_>) -> OpResult<(TensorType, Windows)> {
    let x = args.ty("x")?;
    let most = if args.def.name == "l2_pool" { 4 } else { 5 };
    if !(3..=most).contains(&x.shape.len()) {
        return Err(OpError::arg("x", format!("has type {x}, expected rank 3 to {most}")));
    }
    let n = x.shape.len() - 2;
    let kernel: Vec<Dim> = sizes(args, "kernel_sizes", n)?.into_iter().map(|k| Dim::Fixed(k as u64)).collect();
    let ceil = args.bool("ceil_mode")?;
    if ceil {
        let pad = args.ints("pad")?.unwrap_or_default();
        if n > 2 || args.str("pad_type")?.starts_with("same") || pad.chunks(2).any(|p| p[0] != p[p.len() - 1]) {
            return Err(OpError::arg(
                "ceil_mode",
                "needs one or two spatial axes, pad_type valid or custom and as much padding after as before",
            ));
        }
    }
    let (windows, spatial) = Geometry::of(args, n)?.over(&x.shape[2..], &kernel, ceil)?;
    Ok((TensorType { dtype: x.dtype, shape: [&x.shape[..2], &spatial[..]].concat() }, windows))
}

/// `f(elements, n)` of each window: its elements in the image, and the number of its positions in image and
/// padding. A window that ends behind the padding, as `ceil_mode` has them, is cut there: PyTorch's rule.
fn each_window(args: &Args<'_>, f: impl Fn(&[f64], usize) -> f64) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let (ty, windows) = pool(args)?;
    let shape = ty.fixed_shape().unwrap_or_default();
    let xs = x.to_f64s();
    let size: usize = windows.image.iter().product();
    let mut y = Vec::with_capacity(shape.iter().product());
    for channel in 0..shape[0] * shape[1] {
        for p in coordinates(&windows.out) {
            let positions = || coordinates(&windows.kernel);
            let elements: Vec<f64> =
                positions().filter_map(|k| windows.at(&p, &k)).map(|at| xs[channel * size + at]).collect();
            y.push(f(&elements, positions().filter(|k| windows.in_padded(&p, k)).count()));
        }
    }
    Ok(vec![Tensor::float(x.dtype(), &shape, y).into()])
}

/// A kernel of ones for each of `channels`.
fn ones(b: &mut Builder, dtype: DType, channels: usize, windows: &Windows) -> builder::Value {
    let shape = [&[channels, 1], &windows.kernel[..]].concat();
    let n = shape.iter().product();
    b.constant(Tensor::float(dtype, &shape, vec![1.0; n]))
}

/// Each element of a window has the same share of its `dy`.
fn avg_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (_, windows) = pool(&v.args())?;
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let exclude = v.ints("exclude_padding_from_average")? == [1];
    let share = |p: Vec<usize>| {
        let counts = |k: &Vec<usize>| if exclude { windows.at(&p, k).is_some() } else { windows.in_padded(&p, k) };
        1.0 / coordinates(&windows.kernel).filter(counts).count().max(1) as f64
    };
    let shares: Vec<f64> = coordinates(&windows.out).map(share).collect();
    let (dtype, channels) = (v.b.tensor_ty(x)?.dtype, v.b.shape(x)?[1]);
    let shares = v.b.constant(Tensor::float(dtype, &[&[1, 1], &windows.out[..]].concat(), shares));
    let shared = v.b.mul(dy, shares)?;
    let w = ones(v.b, dtype, channels, &windows);
    let dx = spread(v.b, shared, w, &windows, channels)?;
    v.give("x", dx)
}

/// `dx = x dy / y`, summed over the windows; 0 where `y` is.
fn l2_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (_, windows) = pool(&v.args())?;
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let (dtype, channels) = (v.b.tensor_ty(x)?.dtype, v.b.shape(x)?[1]);
    let zero = v.number(y, 0.0)?;
    let positive = v.binary("greater", y, zero)?;
    let ratio = v.binary("real_div", dy, y)?;
    let ratio = v.select(positive, ratio, zero)?;
    let w = ones(v.b, dtype, channels, &windows);
    let sums = spread(v.b, ratio, w, &windows, channels)?;
    let dx = v.b.mul(x, sums)?;
    v.give("x", dx)
}

/// `dy` goes to the largest element of each window, in equal shares where there are several: the windows laid out
/// one position a row, the shares of each row, and those put back where they came from.
fn max_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (_, windows) = pool(&v.args())?;
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let (dtype, ys) = (v.b.tensor_ty(x)?.dtype, v.b.shape(y)?);
    let (batch, channels, n_out) = (ys[0], ys[1], windows.out.iter().product::<usize>());
    let rows = laid_out(v.b, x, &windows)?;
    let y = v.b.reshape(y, &[batch, channels, 1, n_out])?;
    let dy = v.b.reshape(dy, &[batch, channels, 1, n_out])?;
    let hit = v.binary("equal", rows, y)?;
    let hit = v.b.cast(hit, dtype)?;
    let n_hits = v.b.reduce_sum(hit, &[2], true)?;
    let share = v.binary("real_div", dy, n_hits)?;
    let shares = v.b.mul(hit, share)?;
    let n: usize = windows.kernel.iter().product();
    let shares = v.b.reshape(shares, &[&[batch, channels * n], &windows.out[..]].concat())?;
    // One kernel for each channel and position, which is 1 there.
    let one_hot = (0..channels * n * n).map(|i| f64::from(i / n % n == i % n)).collect();
    let w = v.b.constant(Tensor::float(dtype, &[&[channels * n, 1], &windows.kernel[..]].concat(), one_hot));
    let dx = spread(v.b, shares, w, &windows, channels)?;
    v.give("x", dx)
}

/// `[N, C, kernel positions, windows]`: the elements under each position, lower than any number in the padding.
fn laid_out(b: &mut Builder, x: builder::Value, windows: &Windows) -> OpResult<builder::Value> {
    let dtype = b.tensor_ty(x)?.dtype;
    let mut padded = x;
    for (axis, pads) in windows.pads().chunks(2).enumerate() {
        let mut parts = vec![padded];
        for (n, front) in [(pads[0], true), (pads[1], false)] {
            if n > 0 {
                let mut shape = b.shape(padded)?;
                shape[axis + 2] = n as usize;
                let low = b.filled(dtype, &shape, f64::NEG_INFINITY)?;
                parts.insert(if front { 0 } else { parts.len() }, low);
            }
        }
        if parts.len() > 1 {
            padded = b.concat(&parts, axis + 2)?;
        }
    }
    let lead = b.shape(x)?[..2].to_vec();
    let n_out: usize = windows.out.iter().product();
    let ints = |first: [usize; 2], rest: Vec<usize>| {
        Tensor::i32s(&first.into_iter().chain(rest).map(|d| d as i32).collect::<Vec<_>>())
    };
    let axes = 0..windows.out.len();
    let mut rows = Vec::new();
    for k in coordinates(&windows.kernel) {
        let begin: Vec<usize> = axes.clone().map(|i| k[i] * windows.dilations[i]).collect();
        let end = axes.clone().map(|i| begin[i] + (windows.out[i] - 1) * windows.strides[i] + 1).collect();
        let row = b
            .call("slice_by_index")
            .arg("x", padded)
            .constant("begin", ints([0, 0], begin))
            .constant("end", ints([lead[0], lead[1]], end))
            .constant("stride", ints([1, 1], windows.strides.clone()))
            .finish()?;
        rows.push(b.reshape(row, &[lead[0], lead[1], 1, n_out])?);
    }
    match rows[..] {
        [row] => Ok(row),
        _ => Ok(b.concat(&rows, 2)?),
    }
}
