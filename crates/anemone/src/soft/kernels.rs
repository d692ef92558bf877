//! The loops: matrix product, rounding to fp16, transposition. SIMD through `pulp`, chosen when the program runs.

use pulp::{Arch, Simd, WithSimd};

/// The shape of a matrix product `C[m, n] = A[m, k] B[k, n]`, all dense and row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gemm {
    /// Rows of A and C.
    pub(crate) m: usize,
    /// Columns of A, rows of B.
    pub(crate) k: usize,
    /// Columns of B and C.
    pub(crate) n: usize,
    /// Whether products of the operands are exact in f32, as those of fp16 numbers are. Fusing multiplication and
    /// addition then changes nothing and is used where the CPU has it; otherwise it is not used, so that results
    /// are the same on every machine.
    pub(crate) exact: bool,
}

impl Gemm {
    /// Adds the product to `c`, each element's terms in the order of `k`.
    pub(crate) fn accumulate(self, a: &[f32], b: &[f32], c: &mut [f32]) {
        assert!(a.len() == self.m * self.k && b.len() == self.k * self.n && c.len() == self.m * self.n);
        if self.k > 0 && self.n > 0 {
            Arch::new().dispatch(Accumulate { gemm: self, a, b, c });
        }
    }
}

struct Accumulate<'a> {
    gemm: Gemm,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    // Tiles are as large as the registers allow: 24 of 32 with 512 bits, 12 of 16 with 256, 16 of 32 with 128. A
    // row of 16 columns is common (positions), hence the tall tile of one column of registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let exact = self.gemm.exact;
        match (S::F32_LANES, exact) {
            (16, true) if self.gemm.n > 16 => self.panels::<S, 12, 2, true>(simd),
            (16, false) if self.gemm.n > 16 => self.panels::<S, 12, 2, false>(simd),
            (16, true) => self.panels::<S, 16, 1, true>(simd),
            (16, false) => self.panels::<S, 16, 1, false>(simd),
            (8, true) => self.panels::<S, 6, 2, true>(simd),
            (8, false) => self.panels::<S, 6, 2, false>(simd),
            // Without vectors there is no fused instruction to count on.
            (4, true) => self.panels::<S, 4, 4, true>(simd),
            (4, false) => self.panels::<S, 4, 4, false>(simd),
            _ => self.panels::<S, 2, 8, false>(simd),
        }
    }
}

impl Accumulate<'_> {
    /// All of C, in columns of `V` registers.
    #[inline(always)]
    fn panels<S: Simd, const R: usize, const V: usize, const FUSED: bool>(mut self, simd: S) {
        let mut j = 0;
        while j + V * S::F32_LANES <= self.gemm.n {
            self.panel::<S, R, V, FUSED>(simd, j, S::F32_LANES);
            j += V * S::F32_LANES;
        }
        while j < self.gemm.n {
            let lanes = S::F32_LANES.min(self.gemm.n - j);
            self.panel::<S, R, 1, FUSED>(simd, j, lanes);
            j += lanes;
        }
    }

    /// The columns of C from `j` on, `V` registers of `lanes` each, in tiles of `R` rows.
    #[inline(always)]
    fn panel<S: Simd, const R: usize, const V: usize, const FUSED: bool>(
        &mut self,
        simd: S,
        j: usize,
        lanes: usize,
    ) {
        let mut i = 0;
        while i + R <= self.gemm.m {
            self.tile::<S, R, V, FUSED>(simd, i, j, lanes);
            i += R;
        }
        while i + 4 <= self.gemm.m {
            self.tile::<S, 4, V, FUSED>(simd, i, j, lanes);
            i += 4;
        }
        while i < self.gemm.m {
            self.tile::<S, 1, V, FUSED>(simd, i, j, lanes);
            i += 1;
        }
    }

    /// `R` rows of C from `i` on, and of its columns `V` registers of `lanes` each from `j` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize, const FUSED: bool>(
        &mut self,
        simd: S,
        i: usize,
        j: usize,
        lanes: usize,
    ) {
        let Gemm { k, n, .. } = self.gemm;
        let at = |r: usize, v: usize| (i + r) * n + j + v * lanes;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = simd.partial_load_f32s(&self.c[at(r, v)..][..lanes]);
            }
        }
        let rows: [&[f32]; R] = std::array::from_fn(|r| &self.a[(i + r) * k..][..k]);
        for (l, b) in self.b.chunks_exact(n).enumerate() {
            let b: [S::f32s; V] = std::array::from_fn(|v| simd.partial_load_f32s(&b[j + v * lanes..][..lanes]));
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = simd.splat_f32s(row[l]);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = if FUSED {
                        simd.mul_add_f32s(x, b, *sum)
                    } else {
                        simd.add_f32s(*sum, simd.mul_f32s(x, b))
                    };
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                simd.partial_store_f32s(&mut self.c[at(r, v)..][..lanes], *sum);
            }
        }
    }
}

/// Rounds each number to the nearest fp16, ties to even; beyond 65504 to infinity, NaN stays NaN.
pub(crate) fn round_to_fp16(x: &mut [f32]) {
    for x in x {
        *x = to_fp16_grid(*x);
    }
}

/// The nearest fp16 number to `x`.
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

/// Writes the transpose of `x` `[rows, columns]` to `out` `[columns, rows]`.
pub(crate) fn transpose(x: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    debug_assert!(x.len() == rows * columns && out.len() == x.len());
    for (c, out) in out.chunks_exact_mut(rows.max(1)).enumerate().take(columns) {
        for (r, out) in out.iter_mut().enumerate() {
            *out = x[r * columns + c];
        }
    }
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

    /// Numbers on the fp16 grid, some of them subnormal, so that products need all the bits an exact one has.
    fn operand(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| to_fp16_grid((i as f32 * f).sin() * if i % 7 == 0 { 3e-6 } else { 1.0 })).collect()
    }

    fn check<S: Simd>(simd: S) {
        let shapes = [
            (1, 1, 1),
            (4, 3, 16),
            (5, 7, 17),
            (8, 64, 32),
            (3, 2, 40),
            (33, 5, 70),
            (25, 9, 33),
            (0, 4, 4),
            (4, 0, 4),
        ];
        for (m, k, n) in shapes {
            let (a, b) = (operand(m * k, 0.37), operand(k * n, 0.73));
            let start: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
            for exact in [true, false] {
                let mut c = start.clone();
                let gemm = Gemm { m, k, n, exact };
                if k > 0 {
                    simd.vectorize(Accumulate { gemm, a: &a, b: &b, c: &mut c });
                }
                for i in 0..m {
                    for j in 0..n {
                        let expected = (0..k).fold(start[i * n + j], |s, l| s + a[i * k + l] * b[l * n + j]);
                        assert_eq!(c[i * n + j].to_bits(), expected.to_bits(), "{gemm:?} at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_are_summed_in_order_by_every_instruction_set_of_this_machine() {
        check(pulp::Scalar::new());
        #[cfg(target_arch = "x86_64")]
        {
            pulp::x86::V3::try_new().into_iter().for_each(check);
            pulp::x86::V4::try_new().into_iter().for_each(check);
        }
        #[cfg(target_arch = "aarch64")]
        pulp::aarch64::Neon::try_new().into_iter().for_each(check);
        let mut c = [1.0; 4];
        Gemm { m: 2, k: 0, n: 2, exact: true }.accumulate(&[], &[], &mut c);
        assert_eq!(c, [1.0; 4]);
    }

    #[test]
    fn a_transpose_swaps_rows_and_columns() {
        let mut out = [0.0; 6];
        transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, &mut out);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
