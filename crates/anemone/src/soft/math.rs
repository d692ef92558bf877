//! Functions of one f32, without branches so that loops over them become vector instructions, and without fused
//! operations so that results are the same on every machine.
//!
//! Accuracy, as tested against f64 over the whole range: `exp` 2 units in the last place, `ln` 2, `tanh` 3, `erf`
//! 3, `sigmoid` 3 (0 where the result would be subnormal), `softplus` 4, `exp_m1` 8. The polynomials interpolate
//! the functions at Chebyshev's points.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};

/// Adding it to a small number leaves the nearest whole number in the lowest bits: 1.5 * 2^23.
const MAGIC: f32 = 12_582_912.0;
/// ln 2 in two parts, the first so short that its product with a whole number below 2^8 is exact.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for &c in c[..N - 1].iter().rev() {
        sum = sum * x + c;
    }
    sum
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these it is infinite or 0 all the same; NaN stays. Where it is 0, as under a mask, nothing may
    // underflow on the way: CPUs take a hundred times as long for that.
    let is_zero = x < -104.0;
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if is_zero { 0.0 } else { x };
    let (y, n) = exp_in_parts(x);
    // 2^n in two factors, each of them a normal number.
    let half = n >> 1;
    let y = y * power_of_2(half) * power_of_2(n.wrapping_sub(half));
    if is_zero { 0.0 } else { y }
}

/// `y` and `n` such that `y 2^n` is `e^x`, with `y` near 1.
#[inline(always)]
fn exp_in_parts(x: f32) -> (f32, i32) {
    let shifted = x * LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let tail = polynomial(r, [0.5, 0.166_665_73, 0.041_666_55, 0.008_363_774, 0.001_392_692_7]);
    let y = 1.0 + (r + r * r * tail);
    (y, (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32))
}

#[inline(always)]
fn power_of_2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The natural logarithm; that of a negative number is NaN.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    // Subnormal numbers are scaled up.
    let is_small = x < f32::MIN_POSITIVE;
    let scaled = if is_small { x * 16_777_216.0 } else { x };
    // x = m 2^e with m between sqrt(1/2) and sqrt(2).
    let bits = scaled.to_bits().wrapping_sub(FRAC_1_SQRT_2.to_bits());
    let e = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(FRAC_1_SQRT_2.to_bits()));
    let e = e as f32 - if is_small { 24.0 } else { 0.0 };
    // ln m = 2 atanh(s) with s = f / (2 + f), m = 1 + f.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let tail = z * polynomial(z, [0.666_666_7, 0.4, 0.285_714_3, 0.222_222_22]);
    // f - s (f - tail) is 2 s + s tail, with f exact.
    let y = e * LN_2_HIGH + (f - (s * (f - tail) - e * LN_2_LOW));
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x == f32::INFINITY { x } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// `ln(1 + x)` for `x` of 0 to 1.
#[inline(always)]
fn ln_1p(x: f32) -> f32 {
    let sum = 1.0 + x;
    // What rounding took from the sum goes out again.
    let y = ln(sum) * (x / (sum - 1.0));
    if sum == 1.0 { x } else { y }
}

/// `e^x - 1`.
#[inline(always)]
pub(crate) fn exp_m1(x: f32) -> f32 {
    let y = exp(x);
    let near = (y - 1.0) * (x / ln(y));
    let is_near = x.abs() < 1.0;
    if y == 1.0 {
        x
    } else if is_near {
        near
    } else {
        y - 1.0
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    let y = positive + ln_1p(exp(-x.abs()));
    if x.is_nan() { x } else { y }
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let near = x + x
        * z
        * polynomial(
            z,
            [-0.333_333_34, 0.133_332_85, -0.053_954_985, 0.021_736_087, -0.008_242_363, 0.002_183_865_8],
        );
    // The result is 1 long before e^88, up to which 2^n is a normal number.
    let t = 2.0 * x.abs();
    let (y, n) = exp_in_parts(if t > 88.0 { 88.0 } else { t });
    let far = 1.0 - 2.0 / (y * power_of_2(n) + 1.0);
    // The sign of -0 too, which the sum for small numbers loses.
    (if x.abs() < 0.66 { near } else { far }).copysign(x)
}

/// The error function, `2 / sqrt(pi)` times the integral of `e^(-t^2)` from 0 to `x`.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let z = x * x;
    let near = x * polynomial(
        z,
        [
            FRAC_2_SQRT_PI,
            -0.376_126_38,
            0.112_837_82,
            -0.026_865_43,
            0.005_221_031_6,
            -0.000_848_408_03,
            0.000_112_659_59,
            -9.667_045e-6,
        ],
    );
    // Around 2.5, -ln(1 - erf) is nearly a polynomial; beyond 4 the result is 1.
    let t = x.abs();
    let t = (if t > 4.0 { 4.0 } else { t }) - 2.5;
    let exponent = polynomial(
        t,
        [
            7.806_815,
            5.352_680_7,
            0.943_893_7,
            0.010_858_607,
            -0.002_165_255_8,
            0.000_420_058_84,
            -7.734_133e-5,
            1.333_266_4e-5,
            -1.622_679_2e-6,
        ],
    );
    let far = (1.0 - exp(-exponent)).copysign(x);
    if x.abs() < 1.0 { near } else { far }
}

/// How `gelu` is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gelu {
    Exact,
    Tanh,
    Sigmoid,
}

/// `x` times the normal distribution's integral, or what stands for it. The error is relative to `x`.
#[inline(always)]
pub(crate) fn gelu(mode: Gelu, x: f32) -> f32 {
    match mode {
        Gelu::Exact => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        // sqrt(2 / pi) and the cubic's factor, as in the op's definition.
        Gelu::Tanh => 0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x))),
        Gelu::Sigmoid => x * sigmoid(1.702 * x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance of two numbers in units of the last place of the expected one.
    fn ulps(found: f32, expected: f64) -> f64 {
        let rounded = expected as f32;
        if found == 0.0 && rounded == 0.0 && found.is_sign_negative() != rounded.is_sign_negative() {
            return f64::INFINITY;
        }
        if found == rounded || (found.is_nan() && rounded.is_nan()) {
            return 0.0;
        }
        if !found.is_finite() || !rounded.is_finite() {
            return f64::INFINITY;
        }
        let next = f32::from_bits(rounded.abs().to_bits() + 1);
        (f64::from(found) - expected).abs() / f64::from(next - rounded.abs())
    }

    /// Numbers of all sizes and both signs, and the edges.
    fn numbers() -> impl Iterator<Item = f32> {
        let all = (0..=u32::MAX).step_by(2503).map(f32::from_bits);
        let usual = (-400_000..400_000).map(|i| i as f32 * 3e-4);
        all.chain(usual).chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, f32::MIN_POSITIVE])
    }

    fn check(name: &str, most: f64, floor: f64, f: fn(f32) -> f32, exact: fn(f64) -> f64) {
        let mut worst = (0.0, 0.0);
        for x in numbers() {
            let expected = exact(x.into());
            let found = f(x);
            if expected.abs() < floor && found.abs() <= floor as f32 {
                continue;
            }
            let off = ulps(found, expected);
            if off > worst.0 {
                worst = (off, x);
            }
        }
        assert!(worst.0 <= most, "{name}: {} units off at {:e}", worst.0, worst.1);
    }

    #[test]
    fn functions_are_a_few_units_off_at_most_wherever_they_are_taken() {
        check("exp", 2.0, 0.0, exp, f64::exp);
        check("ln", 2.0, 0.0, ln, f64::ln);
        check("tanh", 3.0, 0.0, tanh, f64::tanh);
        check("erf", 3.0, 1e-38, erf, libm::erf);
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        check("sigmoid", 3.0, 1.2e-38, sigmoid, sigmoid64);
        check(
            "softplus",
            4.0,
            0.0,
            softplus,
            |x| if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() },
        );
        check("exp_m1", 8.0, 0.0, exp_m1, f64::exp_m1);
    }

    #[test]
    fn gelu_is_off_by_a_few_units_of_its_argument() {
        for x in numbers().filter(|x| x.abs() < 1e30) {
            let phi = |z: f64| 0.5 * (1.0 + libm::erf(z * std::f64::consts::FRAC_1_SQRT_2));
            let wide = f64::from(x);
            let cubic = 0.797_884_560_802_865_4 * (wide + 0.044_715 * wide.powi(3));
            for (mode, expected) in [
                (Gelu::Exact, wide * phi(wide)),
                (Gelu::Tanh, 0.5 * wide * (1.0 + cubic.tanh())),
                (Gelu::Sigmoid, wide / (1.0 + (-1.702 * wide).exp())),
            ] {
                let off = (f64::from(gelu(mode, x)) - expected).abs();
                assert!(
                    off <= 4.0 * f64::from(f32::EPSILON) * wide.abs() + 1e-38,
                    "{mode:?} of {x:e}: off by {off:e}"
                );
            }
        }
    }
}
