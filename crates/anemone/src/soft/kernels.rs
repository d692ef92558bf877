//! The loops: matrix product, rounding to fp16, reductions.

/// The shape of a matrix product `C[m, n] = A[m, k] B[k, n]`, all dense and row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gemm {
    /// Rows of A and C.
    pub(crate) m: usize,
    /// Columns of A, rows of B.
    pub(crate) k: usize,
    /// Columns of B and C.
    pub(crate) n: usize,
}

/// Rows and columns of C that are summed in registers at a time: 4 rows of 16 fit the 16 vector registers of
/// x86-64's baseline, and half of those of aarch64.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

impl Gemm {
    /// Adds the product to `c`, each element's terms in the order of `k`, without fused multiply-add: with fp16
    /// operands the products are exact, so that fusing would change nothing, and with f32 operands not fusing
    /// keeps the result independent of the machine.
    pub(crate) fn accumulate(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        let Gemm { m, k, n } = *self;
        debug_assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
        let mut i = 0;
        while i < m {
            let rows = ROWS.min(m - i);
            let mut j = 0;
            while j < n {
                let columns = COLUMNS.min(n - j);
                if rows == ROWS && columns == COLUMNS {
                    self.tile(&a[i * k..(i + ROWS) * k], b, c, i, j);
                } else {
                    for r in i..i + rows {
                        let c = &mut c[r * n + j..r * n + j + columns];
                        for (&x, b) in a[r * k..(r + 1) * k].iter().zip(b.chunks_exact(n)) {
                            for (c, &b) in c.iter_mut().zip(&b[j..j + columns]) {
                                *c += x * b;
                            }
                        }
                    }
                }
                j += columns;
            }
            i += rows;
        }
    }

    /// The tile of C at row `i`, column `j`; `a` holds its rows of A.
    fn tile(&self, a: &[f32], b: &[f32], c: &mut [f32], i: usize, j: usize) {
        let Gemm { k, n, .. } = *self;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&c[(i + r) * n + j..][..COLUMNS]);
        }
        let (a0, rest) = a.split_at(k);
        let (a1, rest) = rest.split_at(k);
        let (a2, a3) = rest.split_at(k);
        for (l, b) in b.chunks_exact(n).enumerate() {
            let b: &[f32; COLUMNS] = b[j..].first_chunk().expect("a whole tile");
            let x = [a0[l], a1[l], a2[l], a3[l]];
            for (sums, x) in sums.iter_mut().zip(x) {
                for (s, &b) in sums.iter_mut().zip(b) {
                    *s += x * b;
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            c[(i + r) * n + j..][..COLUMNS].copy_from_slice(sums);
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

    #[test]
    fn products_are_summed_in_order_for_every_shape() {
        for (m, k, n) in [(1, 1, 1), (4, 3, 16), (5, 7, 17), (8, 64, 32), (3, 2, 40), (0, 4, 4), (4, 0, 4)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let start: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
            let mut c = start.clone();
            Gemm { m, k, n }.accumulate(&a, &b, &mut c);
            for i in 0..m {
                for j in 0..n {
                    let expected = (0..k).fold(start[i * n + j], |s, l| s + a[i * k + l] * b[l * n + j]);
                    assert_eq!(c[i * n + j].to_bits(), expected.to_bits(), "{m} {k} {n} at {i} {j}");
                }
            }
        }
    }

    #[test]
    fn a_transpose_swaps_rows_and_columns() {
        let mut out = [0.0; 6];
        transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, &mut out);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
