//! The same arithmetic in whole numbers, from the bits of fp16, written without a look at the quick one. Zeros of
//! single elements have no sign here.

use half::f16;

/// An fp16 number as `mantissa 2^(exponent - 10)`.
#[derive(Clone, Copy)]
struct Parts {
    mantissa: i128,
    exponent: i32,
}

fn parts(x: f32) -> Parts {
    let bits = if x.is_nan() {
        0x7e00
    } else {
        let half = f16::from_f32(x);
        assert_eq!(half.to_f32().to_bits(), x.to_bits(), "{x:e} is no fp16 number");
        half.to_bits()
    };
    let field = i32::from(bits >> 10 & 0x1f);
    let fraction = i128::from(bits & 0x3ff);
    let (size, exponent) = if field == 0 { (fraction, -14) } else { (fraction + 1024, field - 15) };
    Parts { mantissa: if bits & 0x8000 == 0 { size } else { -size }, exponent }
}

/// `numerator / denominator`, the middle between two whole numbers away from zero.
fn divided(numerator: i128, denominator: i128) -> i128 {
    let quotient = (2 * numerator.abs() + denominator) / (2 * denominator);
    if numerator < 0 { -quotient } else { quotient }
}

/// `mantissa 2^exponent`, rounded to a multiple of `2^to`, in such multiples.
fn in_multiples(mantissa: i128, exponent: i32, to: i32) -> i128 {
    let shift = exponent - to;
    if shift >= 0 { mantissa << shift } else { divided(mantissa, 1 << -shift) }
}

/// `mantissa 2^exponent` as fp16, the middle away from zero, too large ones infinite.
fn fp16(mantissa: i128, exponent: i32) -> f32 {
    let top = 127 - mantissa.abs().leading_zeros() as i32 + exponent;
    let unit = top.max(-14) - 10;
    let rounded = in_multiples(mantissa, exponent, unit);
    let value = rounded as f64 * 2f64.powi(unit);
    let half = f16::from_f64(value);
    assert!(value.abs() > 65504.0 || half.to_f64() == value);
    if value.abs() > 65504.0 { f32::INFINITY.copysign(value as f32) } else { half.to_f32() }
}

/// The sum of products, as a convolution or a matrix product has it.
pub(super) fn sum(start: f32, terms: impl IntoIterator<Item = (f32, f32)>) -> f32 {
    const LIMIT: i128 = 1 << 31;
    let infinite = |sum: i128| if sum < 0 { f32::NEG_INFINITY } else { f32::INFINITY };
    let start = parts(start);
    let mut sum = in_multiples(start.mantissa, start.exponent - 10, -16);
    for (x, y) in terms {
        if sum.abs() >= LIMIT {
            return infinite(sum);
        }
        let (x, y) = (parts(x), parts(y));
        let exponent = x.exponent + y.exponent;
        if exponent > -17 {
            sum += in_multiples(x.mantissa * y.mantissa, exponent - 20, -16);
        }
    }
    if sum.abs() >= LIMIT { infinite(sum) } else { fp16(sum, -16) }
}

/// The sum of two numbers.
pub(super) fn add(x: f32, y: f32) -> f32 {
    let [x, y] = [x, y].map(|x| in_multiples(parts(x).mantissa, parts(x).exponent - 10, -24));
    fp16(x + y, -24)
}

/// The product of two numbers.
pub(super) fn mul(x: f32, y: f32) -> f32 {
    let (x, y) = (parts(x), parts(y));
    fp16(x.mantissa * y.mantissa, x.exponent + y.exponent - 20)
}

/// The larger of two numbers.
pub(super) fn max(x: f32, y: f32) -> f32 {
    let of = |x| in_multiples(parts(x).mantissa, parts(x).exponent - 10, -24);
    fp16(of(x).max(of(y)), -24)
}
