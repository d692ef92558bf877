//! Functions of one number, element by element.

use super::*;
use std::f64::consts::{LN_2, PI};

/// The table row of a function of floats: `(name, |x| value, |v, x, y| slope)`.
macro_rules! float {
    ($name:literal, $f:expr, $slope:expr) => {
        pointwise!($name, &[X_FLOAT], |args| map(args.tensor("x")?, $f), |v| sloped(v, $slope))
    };
}

/// The table row of a function of floats that is flat wherever it has a slope.
macro_rules! steps {
    ($name:literal, $f:expr) => {
        pointwise!($name, &[X_FLOAT], |args| map(args.tensor("x")?, $f), |_| Ok(()))
    };
}

/// The table row of a function of `x + epsilon`: `(name, default epsilon, |sum| value, |v, sum, y| slope)`.
macro_rules! with_epsilon {
    ($name:literal, $default:literal, $f:expr, $slope:expr) => {
        pointwise!(
            $name,
            &[X_FLOAT, Param::constant("epsilon", FLOAT).group('T').or(Const::Float($default))],
            |args| {
                let (epsilon, f): (f64, fn(f64) -> f64) = (args.float("epsilon")?, $f);
                map(args.tensor("x")?, |x| f(x + epsilon))
            },
            |v| sloped(v, |v, x, y| {
                let epsilon = v.arg_like("epsilon", x)?;
                let sum = v.b.add(x, epsilon)?;
                let slope: Slope = $slope;
                slope(v, sum, y)
            })
        )
    };
}

/// The row from iOS 17 on, where `epsilon` has an element type of its own.
macro_rules! own_epsilon {
    ($default:literal, $old:expr) => {
        OpDef {
            since: Opset::Ios17,
            params: &[X_FLOAT, Param::constant("epsilon", FLOAT).group('U').or(Const::Float($default))],
            ..$old
        }
    };
}

const CLIP: OpDef = pointwise!(
    "clip",
    &[X_FLOAT, Param::constant("alpha", FLOAT).group('T'), Param::constant("beta", FLOAT).group('T')],
    |args| {
        let (low, high) = (args.float("alpha")?, args.float("beta")?);
        map(args.tensor("x")?, |x| minimum(maximum(x, low), high))
    },
    |v| {
        v.only(&["x"])?;
        let (x, dy) = (v.arg("x")?, v.dy()?);
        let (low, high) = (v.arg_like("alpha", x)?, v.arg_like("beta", x)?);
        let dx = keep(v, "greater_equal", x, low, dy)?;
        let dx = keep(v, "less_equal", x, high, dx)?;
        v.give("x", dx)
    }
);

const LOG: OpDef = with_epsilon!("log", 1e-45, f64::ln, |v, sum, _| reciprocal(v, sum));
const INVERSE: OpDef = with_epsilon!("inverse", 1e-4, f64::recip, |v, _, y| {
    let y2 = v.b.mul(y, y)?;
    Ok(v.b.scale(y2, -1.0)?)
});
const RSQRT: OpDef = with_epsilon!("rsqrt", 1e-12, |x| 1.0 / x.sqrt(), |v, sum, y| {
    let slope = v.binary("real_div", y, sum)?;
    Ok(v.b.scale(slope, -0.5)?)
});

pub(crate) const OPS: &[OpDef] = &[
    pointwise!("abs", &[X], |args| map_number(args.tensor("x")?, f64::abs, i64::abs), |v| sloped(v, |v, x, _| v
        .unary("sign", x))),
    float!("acos", f64::acos, |v, x, _| {
        let root = one_minus_square(v, x)?;
        let root = v.unary("sqrt", root)?;
        let slope = reciprocal(v, root)?;
        Ok(v.b.scale(slope, -1.0)?)
    }),
    float!("asin", f64::asin, |v, x, _| {
        let root = one_minus_square(v, x)?;
        let root = v.unary("sqrt", root)?;
        reciprocal(v, root)
    }),
    float!("atan", f64::atan, |v, x, _| {
        let sum = one_plus_square(v, x)?;
        reciprocal(v, sum)
    }),
    float!("atanh", f64::atanh, |v, x, _| {
        let difference = one_minus_square(v, x)?;
        reciprocal(v, difference)
    }),
    steps!("ceil", f64::ceil),
    CLIP,
    OpDef {
        since: Opset::Ios17,
        infer: |args| {
            let known = args.optional("alpha").and(args.optional("beta")).is_some();
            if known && args.float("alpha")? >= args.float("beta")? {
                let (alpha, beta) = (args.float("alpha")?, args.float("beta")?);
                return Err(OpError::arg(
                    "alpha",
                    format!("is {alpha}, expected less than `beta`, which is {beta}"),
                ));
            }
            same_type(args)
        },
        ..CLIP
    },
    float!("cos", f64::cos, |v, x, _| {
        let sin = v.unary("sin", x)?;
        Ok(v.b.scale(sin, -1.0)?)
    }),
    float!("cosh", f64::cosh, |v, x, _| v.unary("sinh", x)),
    float!("erf", libm::erf, |v, x, _| {
        let bell = bell(v, x, 1.0)?;
        Ok(v.b.scale(bell, 2.0 / PI.sqrt())?)
    }),
    float!("exp", f64::exp, |_, _, y| Ok(y)),
    pointwise!("exp2", &[X], |args| map_number(args.tensor("x")?, f64::exp2, |x| (x as f64).exp2() as i64), |v| {
        sloped(v, |v, _, y| Ok(v.b.scale(y, LN_2)?))
    }),
    steps!("floor", f64::floor),
    INVERSE,
    own_epsilon!(1e-4, INVERSE),
    LOG,
    own_epsilon!(1e-45, LOG),
    OpDef {
        name: "logical_not",
        since: Opset::Ios13,
        params: &[Param::new("x", BOOL)],
        infer: same_type,
        eval: Eval::By(|args| map_number(args.tensor("x")?, |x| x, |x| 1 - x)),
        vjp: None,
    },
    // Ties go to the even neighbour.
    steps!("round", f64::round_ties_even),
    RSQRT,
    own_epsilon!(1e-12, RSQRT),
    pointwise!(
        "sign",
        &[X],
        // The sign of 0 is 0, that of NaN is NaN.
        |args| map_number(args.tensor("x")?, |x| if x == 0.0 || x.is_nan() { x } else { x.signum() }, i64::signum),
        |_| Ok(())
    ),
    float!("sin", f64::sin, |v, x, _| v.unary("cos", x)),
    float!("sinh", f64::sinh, |v, x, _| v.unary("cosh", x)),
    float!("sqrt", f64::sqrt, |v, _, y| {
        let half = v.number(y, 0.5)?;
        v.binary("real_div", half, y)
    }),
    pointwise!(
        "square",
        &[X],
        |args| map_number(args.tensor("x")?, |x| x * x, |x| x.wrapping_mul(x)),
        |v| sloped(v, |v, x, _| Ok(v.b.scale(x, 2.0)?))
    ),
    float!("tan", f64::tan, |v, _, y| one_plus_square(v, y)),
    float!("tanh", f64::tanh, |v, _, y| one_minus_square(v, y)),
    pointwise!(
        "threshold",
        &[X, Param::constant("alpha", NUMBER).group('T')],
        |args| {
            let alpha = args.float("alpha")?;
            map_number(args.tensor("x")?, |x| maximum(x, alpha), |x| x.max(alpha as i64))
        },
        |v| {
            v.only(&["x"])?;
            let (x, dy) = (v.arg("x")?, v.dy()?);
            let alpha = v.arg_like("alpha", x)?;
            let dx = keep(v, "greater_equal", x, alpha, dy)?;
            v.give("x", dx)
        }
    ),
];
