//! Functions of two numbers, element by element and broadcast: arithmetic, comparison, logic.

use super::*;

const Y: Param = Param::new("y", NUMBER);

/// The table row of a function of two numbers: `(name, |x, y| float, |x, y| integer, gradient)`.
macro_rules! arithmetic {
    ($name:literal, $f:expr, $i:expr, $vjp:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[X, Y],
            infer: |args| Ok(vec![broadcast_type(args, args.dtype("x")?)?]),
            eval: Eval::By(|args| zip(args, $f, $i)),
            vjp: Some($vjp),
        }
    };
}

/// The table row of a comparison: `(name, |x, y| bool)`, with no gradient.
macro_rules! comparison {
    ($name:literal, $f:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[X, Y],
            infer: |args| Ok(vec![broadcast_type(args, DType::Bool)?]),
            eval: Eval::By(|args| {
                let (x, y) = (args.tensor("x")?, args.tensor("y")?);
                let shape = broadcast_shapes(x.shape(), y.shape())?;
                let (x, y) = (stretched(x, &shape), stretched(y, &shape));
                let f: fn(f64, f64) -> bool = $f;
                let out = x.to_f64s().into_iter().zip(y.to_f64s()).map(|(x, y)| f(x, y).into()).collect();
                Ok(vec![Tensor::int(DType::Bool, &shape, out).into()])
            }),
            vjp: None,
        }
    };
}

/// The table row of a function of two booleans, 0 or 1.
macro_rules! logic {
    ($name:literal, $i:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: &[Param::new("x", BOOL), Param::new("y", BOOL)],
            infer: |args| Ok(vec![broadcast_type(args, DType::Bool)?]),
            eval: Eval::By(|args| zip(args, |_, _| f64::NAN, $i)),
            vjp: None,
        }
    };
}

pub(crate) const OPS: &[OpDef] = &[
    arithmetic!("add", |x, y| x + y, i64::wrapping_add, add_vjp),
    comparison!("equal", |x, y| x == y),
    // Flat wherever it has a slope, so no gradient flows. Integers divided by 0 are 0, here and below.
    arithmetic!("floor_div", |x, y| (x / y).floor(), floor_div, |_| Ok(())),
    comparison!("greater", |x, y| x > y),
    comparison!("greater_equal", |x, y| x >= y),
    comparison!("less", |x, y| x < y),
    comparison!("less_equal", |x, y| x <= y),
    logic!("logical_and", |x, y| x & y),
    logic!("logical_or", |x, y| x | y),
    logic!("logical_xor", |x, y| x ^ y),
    arithmetic!("maximum", maximum, i64::max, |v| extreme_vjp(v, "greater")),
    arithmetic!("minimum", minimum, i64::min, |v| extreme_vjp(v, "less")),
    arithmetic!("mod", modulo, |x, y| x.wrapping_sub(floor_div(x, y).wrapping_mul(y)), mod_vjp),
    arithmetic!("mul", |x, y| x * y, i64::wrapping_mul, mul_vjp),
    comparison!("not_equal", |x, y| x != y),
    arithmetic!("pow", f64::powf, int_pow, pow_vjp),
    arithmetic!("real_div", |x, y| x / y, |x, y| x.checked_div(y).unwrap_or(0), div_vjp),
    arithmetic!("sub", |x, y| x - y, i64::wrapping_sub, sub_vjp),
];

/// `f` or `i` of each pair of elements of `x` and `y`, broadcast.
fn zip(args: &Args<'_>, f: fn(f64, f64) -> f64, i: fn(i64, i64) -> i64) -> OpResult<Vec<Value>> {
    let (x, y) = (args.tensor("x")?, args.tensor("y")?);
    let shape = broadcast_shapes(x.shape(), y.shape())?;
    let (x, y) = (stretched(x, &shape), stretched(y, &shape));
    Ok(vec![
        match (x.data(), y.data()) {
            (Data::Float(a), Data::Float(b)) => {
                Tensor::float(x.dtype(), &shape, a.iter().zip(b.iter()).map(|(&a, &b)| f(a, b)).collect())
            }
            (Data::Int(a), Data::Int(b)) => {
                Tensor::int(x.dtype(), &shape, a.iter().zip(b.iter()).map(|(&a, &b)| i(a, b)).collect())
            }
            _ => {
                return Err(OpError::arg(
                    "y",
                    format!("has type {}, expected {} elements like `x`", y.ty(), x.dtype()),
                ));
            }
        }
        .into(),
    ])
}

fn broadcast_type(args: &Args<'_>, dtype: DType) -> OpResult<Type> {
    Ok(TensorType { dtype, shape: broadcast_dims(args.shape("x")?, args.shape("y")?)? }.into())
}

/// Rounded towards negative infinity.
fn floor_div(x: i64, y: i64) -> i64 {
    let quotient = x.checked_div(y).unwrap_or(0);
    if y != 0 && x % y != 0 && (x < 0) != (y < 0) { quotient - 1 } else { quotient }
}

/// What is left of `x` after whole multiples of `y`, with the sign of `y`.
fn modulo(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
}

/// Negative exponents give the truncated fraction.
fn int_pow(x: i64, y: i64) -> i64 {
    match u32::try_from(y) {
        Ok(y) => x.wrapping_pow(y),
        Err(_) => (x as f64).powf(y as f64) as i64,
    }
}

fn add_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    for name in ["x", "y"] {
        if v.wants(name) {
            v.give_reduced(name, dy)?;
        }
    }
    Ok(())
}

fn sub_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let dy = v.dy()?;
    if v.wants("x") {
        v.give_reduced("x", dy)?;
    }
    if v.wants("y") {
        let negative = v.b.scale(dy, -1.0)?;
        v.give_reduced("y", negative)?;
    }
    Ok(())
}

fn mul_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    for (name, other) in [("x", y), ("y", x)] {
        if v.wants(name) {
            let d = v.b.mul(dy, other)?;
            v.give_reduced(name, d)?;
        }
    }
    Ok(())
}

/// `dx = dy / y`, `dy' = -dy x / y^2 = -dx out`.
fn div_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (y, out, dy) = (v.arg("y")?, v.out(), v.dy()?);
    let dx = v.binary("real_div", dy, y)?;
    if v.wants("x") {
        v.give_reduced("x", dx)?;
    }
    if v.wants("y") {
        let d = v.b.mul(dx, out)?;
        let d = v.b.scale(d, -1.0)?;
        v.give_reduced("y", d)?;
    }
    Ok(())
}

/// `out = x - floor(x / y) y`: `dx = dy`, `dy' = -dy floor(x / y)`.
fn mod_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    if v.wants("x") {
        v.give_reduced("x", dy)?;
    }
    if v.wants("y") {
        let quotient = v.binary("floor_div", x, y)?;
        let d = v.b.mul(dy, quotient)?;
        let d = v.b.scale(d, -1.0)?;
        v.give_reduced("y", d)?;
    }
    Ok(())
}

/// `dx = dy y x^(y - 1)`, `dy' = dy out ln(x)`, either 0 where its first factor after `dy` is.
fn pow_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, out, dy) = (v.arg("x")?, v.arg("y")?, v.out(), v.dy()?);
    let zero = v.number(x, 0.0)?;
    if v.wants("x") {
        // A constant exponent, the usual case, is reckoned with here.
        let known = v.b.value_of(y).cloned();
        let less = match &known {
            Some(t) => {
                let less = t.to_f64s().into_iter().map(|y| y - 1.0).collect();
                v.b.constant(Tensor::float(t.dtype(), t.shape(), less))
            }
            None => {
                let one = v.number(y, 1.0)?;
                v.b.sub(y, one)?
            }
        };
        let power = v.binary("pow", x, less)?;
        let mut slope = v.b.mul(power, y)?;
        if known.is_none_or(|t| t.to_f64s().contains(&0.0)) {
            let flat = v.binary("equal", y, zero)?;
            slope = v.select(flat, zero, slope)?;
        }
        let d = v.b.mul(dy, slope)?;
        v.give_reduced("x", d)?;
    }
    if v.wants("y") {
        let log = v.b.call("log").arg("x", x).finish()?;
        let slope = v.b.mul(out, log)?;
        let flat = v.binary("equal", out, zero)?;
        let slope = v.select(flat, zero, slope)?;
        let d = v.b.mul(dy, slope)?;
        v.give_reduced("y", d)?;
    }
    Ok(())
}

/// The gradient goes to the side that wins by `compare`, in halves to both where they are equal.
fn extreme_vjp(v: &mut Vjp<'_>, compare: &'static str) -> OpResult<()> {
    let (x, y, dy) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    let zero = v.number(dy, 0.0)?;
    let half = v.b.scale(dy, 0.5)?;
    let tie = v.binary("equal", x, y)?;
    for (name, a, b) in [("x", x, y), ("y", y, x)] {
        if v.wants(name) {
            let wins = v.binary(compare, a, b)?;
            let d = v.select(tie, half, zero)?;
            let d = v.select(wins, dy, d)?;
            v.give_reduced(name, d)?;
        }
    }
    Ok(())
}
