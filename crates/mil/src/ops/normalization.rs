//! Normalization: over given statistics, over axes, over neighbouring channels.

use super::activation::per_channel;
use super::elementwise::{X_FLOAT, same_type, show};
use super::reduce::group_of;
use super::*;
use crate::builder;
use crate::ir::Dim;

/// An argument but `x`, of the element type of the group.
const fn other(name: &'static str, group: char) -> Param {
    Param::constant(name, FLOAT).group(group)
}

/// A number that may be left out. coremltools then writes it as `fp32` whatever the others are, so it is in no
/// group.
const fn number(name: &'static str, default: f64) -> Param {
    Param::constant(name, FLOAT).or(Const::Float(default))
}

/// The parameters of `batch_norm`, those but `x` in a group of their own from iOS 17 on. So below.
const fn batch_norm(group: char) -> [Param; 6] {
    let [x, gamma, beta, epsilon] = instance_norm(group);
    [x, other("mean", group), other("variance", group), gamma, beta, epsilon]
}

const fn instance_norm(group: char) -> [Param; 4] {
    let (gamma, beta) = (other("gamma", group).optional(), other("beta", group).optional());
    [X_FLOAT, gamma, beta, number("epsilon", 1e-5)]
}

const fn layer_norm(group: char) -> [Param; 5] {
    let [x, gamma, beta, epsilon] = instance_norm(group);
    [x, Param::constant("axes", INT32).optional(), gamma, beta, epsilon]
}

const BATCH_NORM: OpDef = OpDef {
    name: "batch_norm",
    since: Opset::Ios13,
    params: &const { batch_norm('T') },
    infer: |args| {
        rank_between(args, 3, 5)?;
        for name in ["mean", "variance", "gamma", "beta"] {
            if args.has(name) {
                per_channel(args, name)?;
            }
        }
        same_type(args)
    },
    eval: Eval::By(|args| {
        let (x, epsilon) = (args.tensor("x")?, args.float("epsilon")?);
        let (mean, variance) = (args.tensor("mean")?.to_f64s(), args.tensor("variance")?.to_f64s());
        let channel = group_of(x.shape(), &others(x.rank(), &[1]));
        let out = x.to_f64s().into_iter().zip(&channel);
        scaled(args, &[1], out.map(|(x, &c)| (x - mean[c]) / (variance[c] + epsilon).sqrt()).collect())
    }),
    vjp: Some(batch_norm_vjp),
};

const INSTANCE_NORM: OpDef = OpDef {
    name: "instance_norm",
    since: Opset::Ios13,
    params: &const { instance_norm('T') },
    infer: |args| {
        rank_between(args, 3, 4)?;
        for name in ["gamma", "beta"] {
            if args.has(name) {
                per_channel(args, name)?;
            }
        }
        same_type(args)
    },
    eval: Eval::By(|args| {
        let x = args.tensor("x")?;
        let spatial: Vec<usize> = (2..x.rank()).collect();
        scaled(args, &[1], standardized(x, &spatial, args.float("epsilon")?))
    }),
    vjp: Some(|v| {
        let rank = v.b.shape(v.arg("x")?)?.len();
        standardized_vjp(v, &(2..rank).collect::<Vec<_>>(), &[1])
    }),
};

const LAYER_NORM: OpDef = OpDef {
    name: "layer_norm",
    since: Opset::Ios13,
    params: &const { layer_norm('T') },
    infer: |args| {
        let x = args.shape("x")?;
        let expected: Vec<Dim> = args.axes("axes", x.len())?.iter().map(|&a| x[a]).collect();
        for name in ["gamma", "beta"] {
            if args.has(name) {
                let found = args.shape(name)?;
                let fits = |(a, b): (&Dim, &Dim)| a == b || *a == Dim::Any || *b == Dim::Any;
                if found.len() != expected.len() || !found.iter().zip(&expected).all(fits) {
                    let message =
                        format!("has shape {}, expected the normalized axes' {}", show(found), show(&expected));
                    return Err(OpError::arg(name, message));
                }
            }
        }
        same_type(args)
    },
    eval: Eval::By(|args| {
        let x = args.tensor("x")?;
        let axes = args.axes("axes", x.rank())?;
        scaled(args, &axes, standardized(x, &axes, args.float("epsilon")?))
    }),
    vjp: Some(|v| {
        let rank = v.b.shape(v.arg("x")?)?.len();
        let axes = v.args().axes("axes", rank)?;
        standardized_vjp(v, &axes, &axes)
    }),
};

const L2_NORM: OpDef = OpDef {
    name: "l2_norm",
    since: Opset::Ios13,
    params: &[X_FLOAT, number("epsilon", 1e-6)],
    infer: |args| {
        rank_between(args, 3, usize::MAX)?;
        same_type(args)
    },
    eval: Eval::By(|args| {
        let (x, epsilon) = (args.tensor("x")?, args.float("epsilon")?);
        let (xs, group) = (x.to_f64s(), group_of(x.shape(), &last_three(x.rank())));
        let squares = sums(xs.iter().map(|x| x * x), &group);
        let out = xs.iter().zip(&group).map(|(x, &g)| x / (squares[g] + epsilon).sqrt()).collect();
        Ok(vec![Tensor::float(x.dtype(), x.shape(), out).into()])
    }),
    vjp: Some(l2_norm_vjp),
};

const LOCAL_RESPONSE_NORM: OpDef = OpDef {
    name: "local_response_norm",
    since: Opset::Ios13,
    params: &[
        X_FLOAT,
        Param::constant("size", INT32),
        number("alpha", 1e-4),
        number("beta", 0.75),
        number("k", 1.0),
    ],
    infer: |args| {
        rank_between(args, 3, usize::MAX)?;
        let size = args.int("size")?;
        if size < 1 {
            return Err(OpError::arg("size", format!("is {size}, expected 1 or more")));
        }
        same_type(args)
    },
    eval: Eval::By(local_response_norm_eval),
    vjp: Some(local_response_norm_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    BATCH_NORM,
    OpDef { since: Opset::Ios17, params: &const { batch_norm('U') }, ..BATCH_NORM },
    INSTANCE_NORM,
    OpDef { since: Opset::Ios17, params: &const { instance_norm('U') }, ..INSTANCE_NORM },
    L2_NORM,
    OpDef { since: Opset::Ios17, ..L2_NORM },
    LAYER_NORM,
    OpDef { since: Opset::Ios17, params: &const { layer_norm('U') }, ..LAYER_NORM },
    LOCAL_RESPONSE_NORM,
    OpDef { since: Opset::Ios17, ..LOCAL_RESPONSE_NORM },
];

fn rank_between(args: &Args<'_>, least: usize, most: usize) -> OpResult<()> {
    let x = args.ty("x")?;
    match x.shape.len() {
        rank if rank < least => Err(OpError::arg("x", format!("has type {x}, expected rank {least} or more"))),
        rank if rank > most => Err(OpError::arg("x", format!("has type {x}, expected rank {least} to {most}"))),
        _ => Ok(()),
    }
}

/// The axes that are not in `axes`.
fn others(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|a| !axes.contains(a)).collect()
}

fn last_three(rank: usize) -> Vec<usize> {
    (rank - 3..rank).collect()
}

/// The sum of each group's elements.
fn sums(xs: impl Iterator<Item = f64>, group: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; group.iter().max().map_or(0, |g| g + 1)];
    for (x, &g) in xs.zip(group) {
        sums[g] += x;
    }
    sums
}

/// `(x - mean) / sqrt(variance + epsilon)`, both taken over `axes`.
fn standardized(x: &Tensor, axes: &[usize], epsilon: f64) -> Vec<f64> {
    let (xs, group) = (x.to_f64s(), group_of(x.shape(), axes));
    let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
    let mean: Vec<f64> = sums(xs.iter().copied(), &group).iter().map(|s| s / n as f64).collect();
    let centred: Vec<f64> = xs.iter().zip(&group).map(|(x, &g)| x - mean[g]).collect();
    let squares = sums(centred.iter().map(|x| x * x), &group);
    centred.iter().zip(&group).map(|(x, &g)| x / (squares[g] / n as f64 + epsilon).sqrt()).collect()
}

/// `xs gamma + beta` in the type of `x`; `gamma` and `beta`, where passed, lie along `axes`.
fn scaled(args: &Args<'_>, axes: &[usize], xs: Vec<f64>) -> OpResult<Vec<Value>> {
    let x = args.tensor("x")?;
    let place = group_of(x.shape(), &others(x.rank(), axes));
    let gamma = args.optional("gamma").map(Tensor::to_f64s);
    let beta = args.optional("beta").map(Tensor::to_f64s);
    let at = |t: &Option<Vec<f64>>, i: usize, or: f64| t.as_ref().map_or(or, |t| t[place[i]]);
    let out = xs.iter().enumerate().map(|(i, x)| x * at(&gamma, i, 1.0) + at(&beta, i, 0.0)).collect();
    Ok(vec![Tensor::float(x.dtype(), x.shape(), out).into()])
}

/// The channels whose squares `local_response_norm` adds up for channel `c`: `size` of them around it, one more
/// before it than after it where `size` is even.
fn neighbours(c: usize, size: usize, channels: usize) -> std::ops::Range<usize> {
    c.saturating_sub(size / 2)..c.saturating_add((size - 1) / 2 + 1).min(channels)
}

/// `x / (k + alpha / size sum(x^2))^beta`, the sum over neighbouring channels. The channels are the third axis
/// from the end whatever the rank, as the layer of Core ML's older format of this name has it.
fn local_response_norm_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, size) = (args.tensor("x")?, args.int("size")? as usize);
    let (alpha, beta, k) = (args.float("alpha")?, args.float("beta")?, args.float("k")?);
    let (xs, [.., channels, height, width]) = (x.to_f64s(), x.shape()) else {
        return Err(OpError::arg("x", format!("has type {}, expected rank 3 or more", x.ty())));
    };
    let (channels, inner) = (*channels, height * width);
    let at = |i: usize| {
        let c = i / inner % channels;
        let squares: f64 = neighbours(c, size, channels).map(|n| xs[i - c * inner + n * inner].powi(2)).sum();
        xs[i] / (k + alpha / size as f64 * squares).powf(beta)
    };
    Ok(vec![Tensor::float(x.dtype(), x.shape(), (0..xs.len()).map(at).collect()).into()])
}

/// Emits what was passed for `name` in the element type of `x`, shaped so that it lies along `axes` of `x`.
pub(super) fn spread(
    v: &mut Vjp<'_>,
    name: &'static str,
    x: builder::Value,
    axes: &[usize],
) -> OpResult<builder::Value> {
    let value = v.arg_like(name, x)?;
    let shape: Vec<usize> =
        v.b.shape(x)?.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { d } else { 1 }).collect();
    Ok(if v.b.shape(value)? == shape { value } else { v.b.reshape(value, &shape)? })
}

/// Gives `d`, of the shape of `x`, summed over all axes but `axes`, as the gradient of `name`.
pub(super) fn give_summed(v: &mut Vjp<'_>, name: &'static str, d: builder::Value, axes: &[usize]) -> OpResult<()> {
    let rank = v.b.shape(d)?.len();
    let others: Vec<i32> = others(rank, axes).iter().map(|&a| a as i32).collect();
    let d = if others.is_empty() { d } else { v.b.reduce_sum(d, &others, false)? };
    v.give(name, d)
}

/// `dy gamma`, or `dy` without a `gamma`; gives the gradients of `gamma` and `beta`, `normal` being what they are
/// applied to.
fn scaled_vjp(v: &mut Vjp<'_>, normal: builder::Value, axes: &[usize]) -> OpResult<builder::Value> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    if v.wants("gamma") {
        let d = v.b.mul(dy, normal)?;
        give_summed(v, "gamma", d, axes)?;
    }
    if v.wants("beta") {
        give_summed(v, "beta", dy, axes)?;
    }
    match v.optional("gamma") {
        Some(_) => {
            let gamma = spread(v, "gamma", x, axes)?;
            Ok(v.b.mul(dy, gamma)?)
        }
        None => Ok(dy),
    }
}

/// Emits `1 / sqrt(variance + epsilon)` with the call's epsilon.
fn inverse_deviation(v: &mut Vjp<'_>, variance: builder::Value) -> OpResult<builder::Value> {
    let epsilon = v.arg_like("epsilon", variance)?;
    Ok(v.b.call("rsqrt").arg("x", variance).arg("epsilon", epsilon).finish()?)
}

/// With `n = (x - mean) r`, `r = 1 / sqrt(variance + epsilon)` and `g = dy gamma`: `dx = g r`, and for the
/// statistics, if they are wanted, `dmean = -sum(g r)` and `dvariance = -sum(g n r^2) / 2`.
fn batch_norm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let x = v.arg("x")?;
    let (mean, variance) = (spread(v, "mean", x, &[1])?, spread(v, "variance", x, &[1])?);
    let r = inverse_deviation(v, variance)?;
    let centred = v.b.sub(x, mean)?;
    let n = v.b.mul(centred, r)?;
    let g = scaled_vjp(v, n, &[1])?;
    let dx = v.b.mul(g, r)?;
    if v.wants("mean") {
        let d = v.b.scale(dx, -1.0)?;
        give_summed(v, "mean", d, &[1])?;
    }
    if v.wants("variance") {
        let d = v.b.mul(dx, n)?;
        let d = v.b.mul(d, r)?;
        let d = v.b.scale(d, -0.5)?;
        give_summed(v, "variance", d, &[1])?;
    }
    v.give("x", dx)
}

/// With `n = (x - mean) r`, `r = 1 / sqrt(variance + epsilon)` and `g = dy gamma`, the means over `axes`:
/// `dx = r (g - mean(g) - n mean(g n))`. `gamma` and `beta` lie along `along`.
fn standardized_vjp(v: &mut Vjp<'_>, axes: &[usize], along: &[usize]) -> OpResult<()> {
    let x = v.arg("x")?;
    let axes: Vec<i32> = axes.iter().map(|&a| a as i32).collect();
    let mean = v.b.reduce_mean(x, &axes, true)?;
    let centred = v.b.sub(x, mean)?;
    let squares = v.b.mul(centred, centred)?;
    let variance = v.b.reduce_mean(squares, &axes, true)?;
    let r = inverse_deviation(v, variance)?;
    let n = v.b.mul(centred, r)?;
    let g = scaled_vjp(v, n, along)?;
    if v.wants("x") {
        let mean = v.b.reduce_mean(g, &axes, true)?;
        let gn = v.b.mul(g, n)?;
        let gn = v.b.reduce_mean(gn, &axes, true)?;
        let gn = v.b.mul(n, gn)?;
        let dx = v.b.sub(g, mean)?;
        let dx = v.b.sub(dx, gn)?;
        let dx = v.b.mul(dx, r)?;
        v.give("x", dx)?;
    }
    Ok(())
}

/// `dx = r (dy - y sum(dy y))` with `r = 1 / sqrt(sum(x^2) + epsilon)`.
fn l2_norm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    v.only(&["x"])?;
    let (x, y, dy) = (v.arg("x")?, v.out(), v.dy()?);
    let axes: Vec<i32> = last_three(v.b.shape(x)?.len()).iter().map(|&a| a as i32).collect();
    let squares = v.b.reduce("reduce_sum_square", x, &axes, true)?;
    let r = inverse_deviation(v, squares)?;
    let along = v.b.mul(dy, y)?;
    let along = v.b.reduce_sum(along, &axes, true)?;
    let along = v.b.mul(y, along)?;
    let dx = v.b.sub(dy, along)?;
    let dx = v.b.mul(dx, r)?;
    v.give("x", dx)
}

/// With `d = k + alpha / size B x^2`, where `B` (channels by channels) adds up neighbours:
/// `dx = dy d^-beta - 2 alpha beta / size x B' (dy x d^(-beta - 1))`.
fn local_response_norm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    v.only(&["x"])?;
    let (x, dy, size) = (v.arg("x")?, v.dy()?, v.args().int("size")? as usize);
    let (alpha, beta, k) = (v.arg_like("alpha", x)?, v.arg_like("beta", x)?, v.arg_like("k", x)?);
    let (dtype, shape) = (v.b.tensor_ty(x)?.dtype, v.b.shape(x)?);
    let axis = shape.len() - 3;
    let channels = shape[axis];
    // A matrix product sums over channels: of a matrix for each batch, channels by places.
    let flat = [shape[..axis].iter().product(), channels, shape[axis + 1..].iter().product()];
    let (x3, dy) = (v.b.reshape(x, &flat)?, v.b.reshape(dy, &flat)?);
    let mut band = vec![0.0; channels * channels];
    for c in 0..channels {
        neighbours(c, size, channels).for_each(|n| band[c * channels + n] = 1.0);
    }
    let band = v.b.constant(Tensor::float(dtype, &[channels, channels], band));
    let rate = v.b.scale(alpha, 1.0 / size as f64)?;
    let squares = v.b.mul(x3, x3)?;
    let sum = v.b.matmul(band, squares, false, false)?;
    let sum = v.b.mul(sum, rate)?;
    let d = v.b.add(sum, k)?;
    let exponent = v.b.scale(beta, -1.0)?;
    let power = v.binary("pow", d, exponent)?;
    let direct = v.b.mul(dy, power)?;
    let through = v.b.mul(direct, x3)?;
    let through = v.binary("real_div", through, d)?;
    let through = v.b.matmul(band, through, true, false)?;
    let through = v.b.mul(through, x3)?;
    let factor = v.b.mul(rate, beta)?;
    let factor = v.b.scale(factor, 2.0)?;
    let through = v.b.mul(through, factor)?;
    let dx = v.b.sub(direct, through)?;
    let dx = v.b.reshape(dx, &shape)?;
    v.give("x", dx)
}
