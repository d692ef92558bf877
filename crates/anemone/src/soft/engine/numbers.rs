//! The engine's fp16: how its inputs are read and its results rounded.

/// The bits of an infinite f32.
const INFINITE: u32 = 0x7f80_0000;
/// Its sign bit.
const SIGN: u32 = 0x8000_0000;
/// Infinity, as the engine reads it.
const READ_INFINITE: f32 = 65536.0;
/// NaN, as the engine reads 0x7e00.
const READ_NAN: f32 = 1.5 * READ_INFINITE;
/// What lies beyond it becomes infinite: the greatest fp16 number.
const MOST: f64 = 65504.0;
/// The smallest normal fp16 number.
const LEAST_NORMAL: f64 = 1.0 / 16384.0;
/// Subnormal fp16 numbers in a unit.
const SUBNORMALS: f64 = 16_777_216.0;

/// An fp16 number as the engine reads it: infinity is a number, and so is NaN. Every NaN is 0x7e00, as its sign
/// and mantissa depend on the CPU that has made it.
#[inline(always)]
pub(super) fn decode(x: f32) -> f32 {
    let bits = x.to_bits();
    let infinite = READ_INFINITE.to_bits() | bits & SIGN;
    let large = if bits & !SIGN > INFINITE { READ_NAN.to_bits() } else { infinite };
    f32::from_bits(if bits & INFINITE == INFINITE { large } else { bits })
}

/// The exponent of a decoded number; subnormal ones and zero have that of the smallest normal one.
#[inline(always)]
pub(super) fn exponent(decoded: f32) -> f32 {
    let field = decoded.to_bits() >> 23 & 0xff;
    field.max(127 - 14) as f32 - 127.0
}

/// The nearest fp16 number, of two as near the one further from zero; beyond 65504 infinity. `x` is no NaN, and
/// below 2^-14 has no more than 28 bits.
#[inline(always)]
pub(super) fn round(x: f64) -> f32 {
    let magnitude = x.abs();
    // Of the 52 bits of the mantissa 10 stay; adding half of the last one rounds up from the middle on.
    let normal = f64::from_bits((magnitude.to_bits() + (1 << 41)) & !((1 << 42) - 1));
    let subnormal = (magnitude * SUBNORMALS + 0.5).floor() * (1.0 / SUBNORMALS);
    let rounded = if magnitude < LEAST_NORMAL { subnormal } else { normal };
    let rounded = if rounded > MOST { f64::INFINITY } else { rounded };
    rounded.copysign(x) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn infinity_and_nan_are_large_numbers() {
        let of = |bits| decode(f16::from_bits(bits).to_f32());
        assert_eq!(of(0x7c00), 65536.0);
        assert_eq!(of(0xfc00), -65536.0);
        assert_eq!(of(0x7e00), 1.5 * 65536.0);
        // Sign and mantissa of NaN are not the same on every CPU.
        for nan in [0x7f80_0001, 0xff80_0001, 0x7fc0_0000, 0xffc0_0000, 0x7fff_e000, 0x7fff_ffff] {
            assert_eq!(decode(f32::from_bits(nan)), 1.5 * 65536.0, "{nan:x}");
        }
        for bits in (0..0x7c00).chain(0x8000..0xfc00) {
            assert_eq!(of(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits());
        }
    }

    #[test]
    fn exponents_are_those_of_the_encoding() {
        for (x, e) in [(1.0, 0.0), (-1.99, 0.0), (0.0, -14.0), (6e-8, -14.0), (6.2e-5, -14.0), (131_008.0, 16.0)] {
            assert_eq!(exponent(x), e, "{x}");
        }
    }

    #[test]
    fn the_middle_between_two_numbers_is_rounded_away_from_zero() {
        // The study's examples.
        for (x, y) in
            [(2049.0, 2050.0), (-2049.0, -2050.0), (4098.0, 4100.0), (1.0 + 1.0 / 2048.0, 1.0 + 1.0 / 1024.0)]
        {
            assert_eq!(f64::from(round(x)), y);
        }
        let numbers: Vec<f64> = (0..0x7c00).map(|b| f16::from_bits(b).to_f64()).collect();
        for pair in numbers.windows(2) {
            let (low, high) = (pair[0], pair[1]);
            let middle = 0.5 * (low + high);
            for sign in [1.0, -1.0] {
                let of = |x: f64| sign * f64::from(round(sign * x));
                assert_eq!((of(low), of(middle), of(high)), (low, high, high));
                assert_eq!(of(middle - (high - low) * 1e-6), low);
            }
        }
        assert_eq!(round(65519.99), 65504.0);
        assert_eq!(round(65520.0), f32::INFINITY);
        assert_eq!(round(-1e9), f32::NEG_INFINITY);
    }
}
