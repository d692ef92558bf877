//! Activations: element by element or channel by channel, and softmax.

use super::elementwise::{
    Slope, X_FLOAT, bell, keep, map, maximum, minimum, one_minus, one_minus_square, one_plus, pointwise,
    reciprocal, same_type, show, sloped,
};
use super::normalization::{give_summed, spread};
use super::reduce::group_of;
use super::*;
use crate::builder;
use crate::ir::Dim;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

const ALPHA: Param = Param::constant("alpha", FLOAT).group('T');
const BETA: Param = Param::constant("beta", FLOAT).group('T');

/// From iOS 17 on, the arguments but `x` have an element type of their own.
const LOOSE_ALPHA: &[Param] = &[X_FLOAT, ALPHA.group('U')];
const LOOSE_ALPHA_BETA: &[Param] = &[X_FLOAT, ALPHA.group('U'), BETA.group('U')];

/// The table row of a function of floats: `(name, |x| value, |v, x, y| slope)`.
macro_rules! plain {
    ($name:literal, $f:expr, $slope:expr) => {
        pointwise!($name, &[X_FLOAT], |args| map(args.tensor("x")?, $f), |v| sloped(v, $slope))
    };
}

/// The same of a function with a scalar `alpha`: `(name, |x, alpha| value, |v, x, y| slope)`.
macro_rules! with_alpha {
    ($name:literal, $f:expr, $slope:expr) => {
        pointwise!(
            $name,
            &[X_FLOAT, ALPHA],
            |args| {
                let (alpha, f): (f64, fn(f64, f64) -> f64) = (args.float("alpha")?, $f);
                map(args.tensor("x")?, |x| f(x, alpha))
            },
            |v| sloped(v, $slope)
        )
    };
}

/// The same of a function with scalars `alpha` and `beta`: `(name, |x, alpha, beta| value, |v, x, y| slope)`.
macro_rules! with_alpha_beta {
    ($name:literal, $f:expr, $slope:expr) => {
        pointwise!(
            $name,
            &[X_FLOAT, ALPHA, BETA],
            |args| {
                let (alpha, beta) = (args.float("alpha")?, args.float("beta")?);
                let f: fn(f64, f64, f64) -> f64 = $f;
                map(args.tensor("x")?, |x| f(x, alpha, beta))
            },
            |v| sloped(v, $slope)
        )
    };
}

/// The rows from iOS 17 on.
const fn loose(old: OpDef, params: &'static [Param]) -> OpDef {
    OpDef { since: Opset::Ios17, params, ..old }
}

const CLAMPED_RELU: OpDef = with_alpha_beta!(
    "clamped_relu",
    |x, alpha, beta| minimum(if x < 0.0 { alpha * x } else { x }, beta),
    |v, x, y| {
        let (leaky, beta) = (leaky_slope(v, "greater_equal", x)?, v.arg_like("beta", x)?);
        keep(v, "less", y, beta, leaky)
    }
);
const ELU: OpDef = with_alpha!("elu", |x, alpha| if x < 0.0 { alpha * x.exp_m1() } else { x }, |v, x, y| {
    // Below 0, alpha e^x = y + alpha.
    let (alpha, zero, one) = (v.arg_like("alpha", x)?, v.number(x, 0.0)?, v.number(x, 1.0)?);
    let below = v.b.add(y, alpha)?;
    let positive = v.binary("greater", x, zero)?;
    v.select(positive, one, below)
});
const LEAKY_RELU: OpDef =
    with_alpha!("leaky_relu", |x, alpha| if x < 0.0 { alpha * x } else { x }, |v, x, _| leaky_slope(
        v,
        "greater_equal",
        x
    ));
const LINEAR_ACTIVATION: OpDef =
    with_alpha_beta!("linear_activation", |x, alpha, beta| alpha * x + beta, |v, x, _| v.arg_like("alpha", x));
const SCALED_TANH: OpDef =
    with_alpha_beta!("scaled_tanh", |x, alpha, beta| alpha * (beta * x).tanh(), |v, x, _| {
        let (alpha, beta) = (v.arg_like("alpha", x)?, v.arg_like("beta", x)?);
        let inner = v.b.mul(x, beta)?;
        let tanh = v.unary("tanh", inner)?;
        let slope = one_minus_square(v, tanh)?;
        let slope = v.b.mul(slope, alpha)?;
        Ok(v.b.mul(slope, beta)?)
    });
const SIGMOID_HARD: OpDef =
    with_alpha_beta!("sigmoid_hard", |x, alpha, beta| minimum(maximum(alpha * x + beta, 0.0), 1.0), |v, x, y| {
        let (alpha, zero, one) = (v.arg_like("alpha", x)?, v.number(x, 0.0)?, v.number(x, 1.0)?);
        let slope = keep(v, "greater", y, zero, alpha)?;
        keep(v, "less", y, one, slope)
    });
const THRESHOLDED_RELU: OpDef =
    with_alpha!("thresholded_relu", |x, alpha| if x < alpha { 0.0 } else { x }, |v, x, _| {
        let (alpha, one) = (v.arg_like("alpha", x)?, v.number(x, 1.0)?);
        keep(v, "greater_equal", x, alpha, one)
    });

const PRELU: OpDef = OpDef {
    name: "prelu",
    since: Opset::Ios13,
    params: &[X_FLOAT, ALPHA],
    infer: |args| {
        let rank = args.shape("x")?.len();
        if !(3..=5).contains(&rank) {
            return Err(OpError::arg("x", format!("has type {}, expected rank 3 to 5", args.ty("x")?)));
        }
        per_channel(args, "alpha")?;
        if let Some(alpha) = args.optional("alpha").filter(|_| rank != 4).map(Tensor::to_f64s)
            && alpha.iter().any(|a| (a - alpha[0]).abs() > 1e-5)
        {
            let message = format!("is {alpha:?}, expected the same for all channels unless `x` has rank 4");
            return Err(OpError::arg("alpha", message));
        }
        same_type(args)
    },
    eval: Eval::By(|args| {
        let (x, alpha) = (args.tensor("x")?, args.tensor("alpha")?.to_f64s());
        map_channels(x, |c, x| if x < 0.0 { alpha[c] * x } else { x })
    }),
    vjp: Some(prelu_vjp),
};

const SOFTPLUS_PARAMETRIC: OpDef = OpDef {
    name: "softplus_parametric",
    since: Opset::Ios13,
    params: &[X_FLOAT, ALPHA, BETA],
    infer: |args| {
        if args.shape("x")?.len() < 3 {
            return Err(OpError::arg("x", format!("has type {}, expected rank 3 or more", args.ty("x")?)));
        }
        per_channel(args, "alpha")?;
        per_channel(args, "beta")?;
        same_type(args)
    },
    eval: Eval::By(|args| {
        let (alpha, beta) = (args.tensor("alpha")?.to_f64s(), args.tensor("beta")?.to_f64s());
        map_channels(args.tensor("x")?, |c, x| alpha[c] * softplus(beta[c] * x))
    }),
    vjp: Some(softplus_parametric_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    CLAMPED_RELU,
    loose(CLAMPED_RELU, LOOSE_ALPHA_BETA),
    ELU,
    loose(ELU, LOOSE_ALPHA),
    OpDef {
        name: "gelu",
        since: Opset::Ios13,
        params: &[X_FLOAT, Param::constant("mode", STRING).or(Const::Str("EXACT"))],
        infer: |args| {
            gelu_mode(args.str("mode")?)?;
            same_type(args)
        },
        eval: Eval::By(|args| map(args.tensor("x")?, gelu_mode(args.str("mode")?)?.0)),
        vjp: Some(|v| {
            let slope = gelu_mode(v.args().str("mode")?)?.1;
            sloped(v, slope)
        }),
    },
    LEAKY_RELU,
    loose(LEAKY_RELU, LOOSE_ALPHA),
    LINEAR_ACTIVATION,
    loose(LINEAR_ACTIVATION, LOOSE_ALPHA_BETA),
    PRELU,
    loose(PRELU, LOOSE_ALPHA),
    pointwise!("relu", &[X_FLOAT], |args| map(args.tensor("x")?, |x| maximum(x, 0.0)), |v| {
        let (x, dy) = (v.arg("x")?, v.dy()?);
        let zero = v.number(x, 0.0)?;
        let dx = keep(v, "greater", x, zero, dy)?;
        v.give("x", dx)
    }),
    pointwise!("relu6", &[X_FLOAT], |args| map(args.tensor("x")?, |x| minimum(maximum(x, 0.0), 6.0)), |v| {
        let (x, dy) = (v.arg("x")?, v.dy()?);
        let (zero, six) = (v.number(x, 0.0)?, v.number(x, 6.0)?);
        let dx = keep(v, "greater", x, zero, dy)?;
        let dx = keep(v, "less", x, six, dx)?;
        v.give("x", dx)
    }),
    SCALED_TANH,
    loose(SCALED_TANH, LOOSE_ALPHA_BETA),
    plain!("sigmoid", sigmoid, |v, _, y| {
        let complement = one_minus(v, y)?;
        Ok(v.b.mul(y, complement)?)
    }),
    SIGMOID_HARD,
    loose(SIGMOID_HARD, LOOSE_ALPHA_BETA),
    plain!("silu", |x| x * sigmoid(x), |v, x, y| swish_slope(v, x, y, 1.0)),
    OpDef {
        name: "softmax",
        since: Opset::Ios13,
        params: &[X_FLOAT, Param::constant("axis", INT32).or(Const::Int(-1))],
        infer: |args| {
            args.axis("axis", args.shape("x")?.len())?;
            same_type(args)
        },
        eval: Eval::By(|args| {
            let x = args.tensor("x")?;
            Ok(vec![Tensor::float(x.dtype(), x.shape(), softmax(x, args.axis("axis", x.rank())?)).into()])
        }),
        vjp: Some(softmax_vjp),
    },
    plain!("softplus", softplus, |v, x, _| v.unary("sigmoid", x)),
    SOFTPLUS_PARAMETRIC,
    loose(SOFTPLUS_PARAMETRIC, LOOSE_ALPHA_BETA),
    plain!("softsign", |x| x / (1.0 + x.abs()), |v, x, _| {
        let size = v.unary("abs", x)?;
        let sum = one_plus(v, size)?;
        let square = v.b.mul(sum, sum)?;
        reciprocal(v, square)
    }),
    THRESHOLDED_RELU,
    loose(THRESHOLDED_RELU, LOOSE_ALPHA),
];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: f64) -> f64 {
    maximum(x, 0.0) + (-x.abs()).exp().ln_1p()
}

/// `e^x / sum(e^x)` along an axis.
pub(super) fn softmax(x: &Tensor, axis: usize) -> Vec<f64> {
    let xs = x.to_f64s();
    let group = group_of(x.shape(), &[axis]);
    let n_groups = group.iter().max().map_or(0, |g| g + 1);
    let (mut largest, mut sums) = (vec![f64::NEG_INFINITY; n_groups], vec![0.0; n_groups]);
    for (&g, &x) in group.iter().zip(&xs) {
        largest[g] = maximum(largest[g], x);
    }
    let powers: Vec<f64> = group.iter().zip(&xs).map(|(&g, &x)| (x - largest[g]).exp()).collect();
    for (&g, &p) in group.iter().zip(&powers) {
        sums[g] += p;
    }
    group.iter().zip(&powers).map(|(&g, &p)| p / sums[g]).collect()
}

/// A function and its slope.
type Curve = (fn(f64) -> f64, Slope);

/// What a mode of `gelu` stands for.
fn gelu_mode(mode: &str) -> OpResult<Curve> {
    // sqrt(2 / pi), and the cubic's factor, of the approximation by tanh.
    const INNER: f64 = 0.797_884_560_802_865_4;
    const CUBIC: f64 = 0.044_715;
    Ok(match mode {
        "EXACT" => (
            |x| 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)),
            // The normal distribution's integral, plus x times its density.
            |v, x, _| {
                let scaled = v.b.scale(x, FRAC_1_SQRT_2)?;
                let erf = v.unary("erf", scaled)?;
                let sum = one_plus(v, erf)?;
                let integral = v.b.scale(sum, 0.5)?;
                let density = bell(v, x, 0.5)?;
                let rest = v.b.mul(x, density)?;
                let rest = v.b.scale(rest, (2.0 * PI).sqrt().recip())?;
                Ok(v.b.add(integral, rest)?)
            },
        ),
        "TANH_APPROXIMATION" => (
            |x| 0.5 * x * (1.0 + (INNER * (x + CUBIC * x * x * x)).tanh()),
            // t = tanh(u): (1 + t) / 2 + x (1 - t^2) u' / 2
            |v, x, _| {
                let x2 = v.b.mul(x, x)?;
                let cubic = v.b.scale(x2, CUBIC)?;
                let factor = one_plus(v, cubic)?;
                let u = v.b.mul(x, factor)?;
                let u = v.b.scale(u, INNER)?;
                let t = v.unary("tanh", u)?;
                let cubic = v.b.scale(x2, 3.0 * CUBIC)?;
                let du = one_plus(v, cubic)?;
                let du = v.b.scale(du, INNER)?;
                let dt = one_minus_square(v, t)?;
                let rest = v.b.mul(dt, du)?;
                let rest = v.b.mul(rest, x)?;
                let first = one_plus(v, t)?;
                let sum = v.b.add(first, rest)?;
                Ok(v.b.scale(sum, 0.5)?)
            },
        ),
        "SIGMOID_APPROXIMATION" => (|x| x * sigmoid(1.702 * x), |v, x, y| swish_slope(v, x, y, 1.702)),
        _ => {
            let modes = "`EXACT`, `TANH_APPROXIMATION` or `SIGMOID_APPROXIMATION`";
            return Err(OpError::arg("mode", format!("is `{mode}`, expected {modes}")));
        }
    })
}

/// The slope of `y = x s` with `s = sigmoid(a x)`: `s + a y (1 - s)`.
fn swish_slope(v: &mut Vjp<'_>, x: builder::Value, y: builder::Value, a: f64) -> OpResult<builder::Value> {
    let inner = if a == 1.0 { x } else { v.b.scale(x, a)? };
    let s = v.unary("sigmoid", inner)?;
    let complement = one_minus(v, s)?;
    let rest = v.b.mul(y, complement)?;
    let rest = if a == 1.0 { rest } else { v.b.scale(rest, a)? };
    Ok(v.b.add(s, rest)?)
}

/// 1 where `compare(x, 0)` holds, else `alpha`.
fn leaky_slope(v: &mut Vjp<'_>, compare: &'static str, x: builder::Value) -> OpResult<builder::Value> {
    let (alpha, zero, one) = (v.arg_like("alpha", x)?, v.number(x, 0.0)?, v.number(x, 1.0)?);
    let positive = v.binary(compare, x, zero)?;
    v.select(positive, one, alpha)
}

/// Checks that `name` is a vector of a number for each channel of `x`, axis 1.
pub(super) fn per_channel(args: &Args<'_>, name: &'static str) -> OpResult<()> {
    let (x, t) = (args.ty("x")?, args.ty(name)?);
    let channels = x.shape.get(1).copied().unwrap_or(Dim::Any);
    let fits = |d: Dim| d == channels || d == Dim::Any || channels == Dim::Any;
    match t.shape[..] {
        [d] if fits(d) => Ok(()),
        _ => Err(OpError::arg(
            name,
            format!("has shape {}, expected [{channels}] for the channels of `x` {x}", show(&t.shape)),
        )),
    }
}

/// `f(channel, element)` of each element, channels being axis 1.
fn map_channels(x: &Tensor, f: impl Fn(usize, f64) -> f64) -> OpResult<Vec<Value>> {
    let others: Vec<usize> = (0..x.rank()).filter(|&a| a != 1).collect();
    let channel = group_of(x.shape(), &others);
    let out = x.to_f64s().into_iter().zip(channel).map(|(x, c)| f(c, x)).collect();
    Ok(vec![Tensor::float(x.dtype(), x.shape(), out).into()])
}

/// `dx = dy` times 1 or `alpha`; `dalpha` sums `dy x` where `x` is negative.
fn prelu_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let (zero, one) = (v.number(x, 0.0)?, v.number(x, 1.0)?);
    let negative = v.binary("less", x, zero)?;
    if v.wants("x") {
        let alpha = spread(v, "alpha", x, &[1])?;
        let slope = v.select(negative, alpha, one)?;
        v.give_slope(slope)?;
    }
    if v.wants("alpha") {
        let d = v.b.mul(dy, x)?;
        let d = v.select(negative, d, zero)?;
        give_summed(v, "alpha", d, &[1])?;
    }
    Ok(())
}

/// `y = alpha p` with `p = softplus(beta x)`: `dx = dy alpha beta s` with `s = sigmoid(beta x)`.
fn softplus_parametric_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let (alpha, beta) = (spread(v, "alpha", x, &[1])?, spread(v, "beta", x, &[1])?);
    let inner = v.b.mul(x, beta)?;
    if v.wants("alpha") {
        let p = v.unary("softplus", inner)?;
        let d = v.b.mul(dy, p)?;
        give_summed(v, "alpha", d, &[1])?;
    }
    let s = v.unary("sigmoid", inner)?;
    let slope = v.b.mul(s, alpha)?;
    if v.wants("beta") {
        let d = v.b.mul(dy, slope)?;
        let d = v.b.mul(d, x)?;
        give_summed(v, "beta", d, &[1])?;
    }
    let slope = v.b.mul(slope, beta)?;
    v.give_slope(slope)
}

/// `dx = y (dy - sum(dy y))` along the axis.
fn softmax_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (y, dy, axis) = (v.out(), v.dy()?, v.args().int("axis")? as i32);
    let weighted = v.b.mul(dy, y)?;
    let sum = v.b.reduce_sum(weighted, &[axis], true)?;
    let difference = v.b.sub(dy, sum)?;
    let dx = v.b.mul(y, difference)?;
    v.give("x", dx)
}
