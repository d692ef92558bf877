//! Rounding to fp16.

use super::simd::dispatch;
use pulp::{Simd, WithSimd};

/// Rounds each number to the nearest fp16, ties to even; beyond 65504 to infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn round<S: Simd>(simd: S, x: &mut [f32]) {
    let (vectors, rest) = S::as_mut_simd_f32s(x);
    for x in vectors {
        *x = round_vector(simd, *x);
    }
    for x in rest {
        *x = to_fp16_grid(*x);
    }
}

/// As [`round`], with the vectors this machine has.
pub(crate) fn round_all(x: &mut [f32]) {
    struct Round<'a>(&'a mut [f32]);
    impl WithSimd for Round<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            round(simd, self.0);
        }
    }
    dispatch(Round(x));
}

/// As [`round`], of one vector.
#[inline(always)]
pub(crate) fn round_vector<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V4>() {
        // 0: to nearest, ties to even.
        let wide: std::arch::x86_64::__m512 = pulp::bytemuck::cast(x);
        let half = simd.avx512f._mm512_cvtps_ph::<0>(wide);
        return pulp::bytemuck::cast(simd.avx512f._mm512_cvtph_ps(half));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = simd;
    let mut x = x;
    for x in pulp::bytemuck::cast_slice_mut::<S::f32s, f32>(std::slice::from_mut(&mut x)) {
        *x = to_fp16_grid(*x);
    }
    x
}

/// The nearest fp16 number to `x`.
#[inline(always)]
pub(crate) fn to_fp16_grid(x: f32) -> f32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Normal fp16 numbers: the lower 13 bits of the mantissa go, half of their unit decides, ties go to even.
    let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)) & !0x1fff;
    // Below 2^-14 fp16 is a grid of 2^-24: so is f32 between 0.5 and 1, where adding 0.5 rounds to it.
    let small = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let rounded = if magnitude < 0x3880_0000 { small } else { normal };
    // 65504 is 0x477fe000; what rounds above it is infinite. NaN and infinity stay as they are.
    let rounded = if rounded > 0x477f_e000 { 0x7f80_0000 } else { rounded };
    let rounded = if magnitude >= 0x7f80_0000 { magnitude } else { rounded };
    f32::from_bits(rounded | (bits & 0x8000_0000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn rounding_is_that_of_ieee_for_every_neighbourhood_of_every_fp16() {
        for bits in 0..=u16::MAX {
            let at = f16::from_bits(bits).to_f32().to_bits();
            for near in [
                at.wrapping_sub(0x1001),
                at.wrapping_sub(0x1000),
                at.wrapping_sub(0xfff),
                at.wrapping_sub(1),
                at,
                at.wrapping_add(1),
                at.wrapping_add(0xfff),
                at.wrapping_add(0x1000),
                at.wrapping_add(0x1001),
            ] {
                let x = f32::from_bits(near);
                let (found, expected) = (to_fp16_grid(x), f16::from_f32(x).to_f32());
                assert!(
                    found.to_bits() == expected.to_bits() || (x.is_nan() && found.is_nan()),
                    "{x:e}: {found:e}, expected {expected:e}"
                );
            }
        }
        // Below the smallest normal number every f32 has neighbours of its own.
        for i in 0..2_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(1071) % 0x3890_0000);
            assert_eq!(to_fp16_grid(x), f16::from_f32(x).to_f32(), "{x:e}");
        }
    }
}
