//! The loops of matrix products and of rounding to fp16. SIMD through `pulp`, chosen when the program runs.

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
    /// Whether A lies as `[k, m]`, B as `[n, k]`.
    pub(crate) transposed: (bool, bool),
}

/// The most columns of a transposed B that are turned round at a time.
const MOST_COLUMNS: usize = 32;

impl Gemm {
    /// The floating-point operations it takes.
    pub(crate) fn n_flops(self) -> usize {
        2 * self.m * self.k * self.n
    }

    /// The room it needs to turn round the columns of B.
    pub(crate) fn n_scratch(self) -> usize {
        if self.transposed.1 { MOST_COLUMNS * self.k } else { 0 }
    }

    /// Adds the rows of the product from `first` on, as many as there are in `c`. Each element's terms come in the
    /// order of `k`, each multiplied and added in one rounding, whatever the machine and the rows asked for.
    pub(crate) fn accumulate(self, a: &[f32], b: &[f32], first: usize, c: &mut [f32], scratch: &mut [f32]) {
        assert!(a.len() == self.m * self.k && b.len() == self.k * self.n && scratch.len() >= self.n_scratch());
        if self.k > 0 && self.n > 0 && !c.is_empty() {
            let rows = c.len() / self.n;
            assert!(first + rows <= self.m && c.len() == rows * self.n);
            Arch::new().dispatch(Accumulate { gemm: self, a, b, first, rows, c, scratch });
        }
    }
}

struct Accumulate<'a> {
    gemm: Gemm,
    a: &'a [f32],
    b: &'a [f32],
    first: usize,
    rows: usize,
    c: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    // Tiles are as large as the registers allow: 24 of 32 with 512 bits, 12 of 16 with 256, 16 of 32 with 128. A
    // row of 16 columns is common (positions), hence the tall tile of one column of registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::F32_LANES, self.gemm.transposed.0) {
            (16, false) if self.gemm.n > 16 => self.panels::<S, 12, 2, false>(simd),
            (16, true) if self.gemm.n > 16 => self.panels::<S, 12, 2, true>(simd),
            (16, false) => self.panels::<S, 16, 1, false>(simd),
            (16, true) => self.panels::<S, 16, 1, true>(simd),
            (8, false) => self.panels::<S, 6, 2, false>(simd),
            (8, true) => self.panels::<S, 6, 2, true>(simd),
            (4, false) => self.panels::<S, 4, 4, false>(simd),
            (4, true) => self.panels::<S, 4, 4, true>(simd),
            (_, false) => self.panels::<S, 2, 8, false>(simd),
            (_, true) => self.panels::<S, 2, 8, true>(simd),
        }
    }
}

/// `a b + c` in one rounding.
#[inline(always)]
fn mul_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if S::F32_LANES > 1 {
        return simd.mul_add_f32s(a, b, c);
    }
    // Without vectors there is no such instruction to count on.
    // Of one lane, the sum is the number itself.
    let one = |x: S::f32s| simd.reduce_sum_f32s(x);
    simd.splat_f32s(mul_add_by_f64(one(a), one(b), one(c)))
}

/// `a b + c` in one rounding, where the machine has no instruction for it: the product is exact in f64, and the sum is
/// rounded to odd, so that rounding it to f32 gives what rounding the exact sum would.
#[inline(always)]
fn mul_add_by_f64(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    // What the sum lacks.
    let part = sum - p;
    let lack = (p - (sum - part)) + (c - part);
    let bits = sum.to_bits();
    let is_even = bits & 1 == 0;
    // An even sum moves to the odd neighbour that lies towards the exact one.
    let away = (lack > 0.0) == (sum > 0.0);
    let odd = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = lack != 0.0 && lack.is_finite() && sum.is_finite();
    (if inexact && is_even { f64::from_bits(odd) } else { sum }) as f32
}

impl Accumulate<'_> {
    /// All of C, in columns of `V` registers.
    #[inline(always)]
    fn panels<S: Simd, const R: usize, const V: usize, const TURNED: bool>(mut self, simd: S) {
        let mut j = 0;
        while j + V * S::F32_LANES <= self.gemm.n {
            self.panel::<S, R, V, TURNED>(simd, j, S::F32_LANES);
            j += V * S::F32_LANES;
        }
        while j < self.gemm.n {
            let lanes = S::F32_LANES.min(self.gemm.n - j);
            self.panel::<S, R, 1, TURNED>(simd, j, lanes);
            j += lanes;
        }
    }

    /// The columns of C from `j` on, `V` registers of `lanes` each, in tiles of `R` rows.
    #[inline(always)]
    fn panel<S: Simd, const R: usize, const V: usize, const TURNED: bool>(
        &mut self,
        simd: S,
        j: usize,
        lanes: usize,
    ) {
        let Gemm { k, n, .. } = self.gemm;
        // The rows of B, how far apart they lie, and where in them the columns begin.
        let b = if self.gemm.transposed.1 {
            let width = V * lanes;
            turn(&self.b[j * k..][..width * k], k, width, &mut self.scratch[..width * k]);
            (width, 0)
        } else {
            (n, j)
        };
        let mut i = 0;
        while i + R <= self.rows {
            self.tile::<S, R, V, TURNED>(simd, i, j, lanes, b);
            i += R;
        }
        while i + 4 <= self.rows {
            self.tile::<S, 4, V, TURNED>(simd, i, j, lanes, b);
            i += 4;
        }
        while i < self.rows {
            self.tile::<S, 1, V, TURNED>(simd, i, j, lanes, b);
            i += 1;
        }
    }

    /// `R` rows of C from `i` on, and of its columns `V` registers of `lanes` each from `j` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize, const TURNED: bool>(
        &mut self,
        simd: S,
        i: usize,
        j: usize,
        lanes: usize,
        (b_step, b_from): (usize, usize),
    ) {
        let Gemm { m, k, n, .. } = self.gemm;
        let at = |r: usize, v: usize| (i + r) * n + j + v * lanes;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = simd.partial_load_f32s(&self.c[at(r, v)..][..lanes]);
            }
        }
        let b_rows = if self.gemm.transposed.1 { &*self.scratch } else { self.b }.chunks_exact(b_step);
        let load = |b: &[f32]| -> [S::f32s; V] {
            std::array::from_fn(|v| simd.partial_load_f32s(&b[b_from + v * lanes..][..lanes]))
        };
        let i = self.first + i;
        if TURNED {
            for (a, b) in self.a.chunks_exact(m).zip(b_rows) {
                let (a, b) = (&a[i..i + R], load(b));
                for (sums, &x) in sums.iter_mut().zip(a) {
                    let x = simd.splat_f32s(x);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = mul_add(simd, x, b, *sum);
                    }
                }
            }
        } else {
            let rows: [&[f32]; R] = std::array::from_fn(|r| &self.a[(i + r) * k..][..k]);
            for (l, b) in b_rows.take(k).enumerate() {
                let b = load(b);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let x = simd.splat_f32s(row[l]);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = mul_add(simd, x, b, *sum);
                    }
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

/// Writes the transpose of `x` `[width, k]` to `out` `[k, width]`, a few columns at a time so that they stay near.
#[inline(always)]
fn turn(x: &[f32], k: usize, width: usize, out: &mut [f32]) {
    const COLUMNS: usize = 16;
    for (block, out) in out.chunks_mut(COLUMNS * width).enumerate() {
        for (c, row) in x.chunks_exact(k).enumerate() {
            let row = &row[block * COLUMNS..];
            for (out, &x) in out.chunks_exact_mut(width).zip(row) {
                out[c] = x;
            }
        }
    }
}

/// Rounds each number to the nearest fp16, ties to even; beyond 65504 to infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn round_to_fp16(x: &mut [f32]) {
    for x in x {
        *x = to_fp16_grid(*x);
    }
}

/// As [`round_to_fp16`], with the vectors this machine has.
pub(crate) fn round_all_to_fp16(x: &mut [f32]) {
    Arch::new().dispatch(|| round_to_fp16(x));
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

    /// Numbers on the fp16 grid, some of them subnormal, so that products need all the bits an exact one has.
    fn operand(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| to_fp16_grid((i as f32 * f).sin() * if i % 7 == 0 { 3e-6 } else { 1.0 })).collect()
    }

    /// As `operand`, but with all bits of f32.
    fn wide(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
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
            for make in [operand, wide] {
                let (a, b) = (make(m * k, 0.37), make(k * n, 0.73));
                let start: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
                for turned in [(false, false), (true, false), (false, true), (true, true)] {
                    let gemm = Gemm { m, k, n, transposed: turned };
                    let (first, mut c) = (m / 3, start.clone());
                    let a2 = if turned.0 { transposed(&a, m, k) } else { a.clone() };
                    let b2 = if turned.1 { transposed(&b, k, n) } else { b.clone() };
                    let mut scratch = vec![0.0; gemm.n_scratch()];
                    if k > 0 {
                        let (rows, c, scratch) = (m - first, &mut c[first * n..], &mut scratch[..]);
                        simd.vectorize(Accumulate { gemm, a: &a2, b: &b2, first, rows, c, scratch });
                    }
                    for i in 0..m {
                        for j in 0..n {
                            let from = start[i * n + j];
                            let terms = (0..if i < first { 0 } else { k }).map(|l| (a[i * k + l], b[l * n + j]));
                            let expected = terms.fold(from, |s, (a, b)| a.mul_add(b, s));
                            assert_eq!(c[i * n + j].to_bits(), expected.to_bits(), "{gemm:?} at {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_rounding_is_one_rounding_without_the_instruction() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f32::from_bits((state >> 32) as u32)
        };
        let special = [0.0, -0.0, 1.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, 1e-45];
        let any = (0..3_000_000).map(|_| (next(), next(), next())).collect::<Vec<_>>();
        // Addends near the product, where most bits cancel, and near half a unit of it.
        let near = any.iter().map(|&(a, b, c)| (a, b, -(a * b) * (1.0 + (c.to_bits() % 5) as f32 * f32::EPSILON)));
        let tiny = any.iter().map(|&(a, b, c)| {
            let scale = [1e-7, 6e-8, 5.96e-8, 3e-8, 1e-16][c.to_bits() as usize % 5];
            (a, b, a * b * scale)
        });
        let edges = special.iter().flat_map(|&a| special.iter().flat_map(move |&b| special.map(|c| (a, b, c))));
        for (a, b, c) in any.iter().copied().chain(near).chain(tiny).chain(edges) {
            let (found, expected) = (mul_add_by_f64(a, b, c), a.mul_add(b, c));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{a:e} {b:e} {c:e}: {found:e}, expected {expected:e}"
            );
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
        Gemm { m: 2, k: 0, n: 2, transposed: (false, false) }.accumulate(&[], &[], 0, &mut c, &mut []);
        assert_eq!(c, [1.0; 4]);
    }
}
