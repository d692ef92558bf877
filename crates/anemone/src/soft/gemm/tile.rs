//! Tiles of results in registers.

use super::{MOST_COLUMNS, PANEL, Start};
use crate::soft::fp16;
use crate::soft::prefetch::{prefetch, prefetch_after};
use pulp::Simd;
use std::ops::Range;

/// Rows of A and C.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Those to compute.
    pub(super) from: usize,
    pub(super) to: usize,
    /// The row that C begins with.
    pub(super) first: usize,
}

/// A block of rows by a panel of columns.
pub(super) struct Tile<'a, S> {
    pub(super) simd: S,
    pub(super) rows: Rows,
    /// Panels of rows, or rows where they lie, how far apart they begin, and the row that the first begins with.
    pub(super) a: (&'a [f32], usize, usize),
    /// `[terms][width]`.
    pub(super) b: &'a [f32],
    pub(super) n_terms: usize,
    pub(super) columns: Range<usize>,
    /// Columns of C.
    pub(super) n: usize,
    pub(super) start: Start<'a>,
    pub(super) c: &'a mut [f32],
    pub(super) fp16: bool,
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

/// `a b + c` in one rounding, where the machine has no instruction for it: the product is exact in f64, and the
/// sum is rounded to odd, so that rounding it to f32 gives what rounding the exact sum would.
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

// Sums must stay in registers: in memory, where they lie across lines of the cache, they cost an eighth of the
// time. The compiler keeps them there if loops over them count to a constant; closures would not be inlined.
#[allow(clippy::needless_range_loop)]
impl<S: Simd> Tile<'_, S> {
    /// All rows and columns, of panels or of rows in place.
    #[inline(always)]
    pub(super) fn all<const IN_PLACE: bool>(mut self) {
        match self.columns.len().div_ceil(S::F32_LANES) {
            1 => self.vectors::<1, IN_PLACE>(),
            2 => self.vectors::<2, IN_PLACE>(),
            3 => self.vectors::<3, IN_PLACE>(),
            _ => self.vectors::<4, IN_PLACE>(),
        }
    }

    #[inline(always)]
    fn vectors<const V: usize, const IN_PLACE: bool>(&mut self) {
        if !IN_PLACE {
            self.panels::<V>();
        } else if S::REGISTER_COUNT >= 32 && V < 4 {
            self.rows::<PANEL, V>();
        } else {
            self.rows::<{ PANEL / 2 }, V>();
        }
    }

    /// All rows, of A as it lies, `R` of them and `V` vectors of columns at a time.
    #[inline(always)]
    fn rows<const R: usize, const V: usize>(&mut self) {
        let (a, step, first) = self.a;
        let n = self.n_terms;
        let mut row = self.rows.from;
        while row < self.rows.to {
            if let Start::Sums = self.start {
                self.prefetch::<R, V>(row + R);
            }
            let mut rows = [&a[..0]; R];
            for r in 0..R {
                // In place of rows that are not there the last is taken.
                rows[r] = &a[((row + r).min(self.rows.to - 1) - first) * step..][..n];
            }
            let mut sums = self.begin::<R, V>(row);
            let b = &S::as_simd_f32s(self.b).0.as_chunks::<V>().0[..n];
            let next = (row - first + R) * step;
            for t in 0..n {
                // The next rows, of each line of the caches some term.
                prefetch_after(a, next + t % R * step + t);
                for r in 0..R {
                    let x = self.simd.splat_f32s(rows[r][t]);
                    for v in 0..V {
                        sums[r][v] = mul_add(self.simd, x, b[t][v], sums[r][v]);
                    }
                }
            }
            self.finish::<R, V>(sums, row);
            row += R;
        }
    }

    /// All rows, `V` vectors of columns each.
    #[inline(always)]
    fn panels<const V: usize>(&mut self) {
        let (a, step, first) = self.a;
        let size = self.n_terms * PANEL;
        let panel = |i: usize| a[i * step..][..size].as_chunks::<PANEL>().0;
        let n_panels = (self.rows.to - first).div_ceil(PANEL);
        let mut i = 0;
        // One column of vectors leaves registers for two panels, and their sums depend on fewer others.
        while V == 1 && S::REGISTER_COUNT >= 32 && i + 2 <= n_panels {
            let row = first + i * PANEL;
            let [sums, sums2] = self.two_panels::<V>(panel(i), panel(i + 1), row);
            self.finish::<PANEL, V>(sums, row);
            self.finish::<PANEL, V>(sums2, row + PANEL);
            i += 2;
        }
        while i < n_panels {
            let row = first + i * PANEL;
            if let Start::Sums = self.start {
                self.prefetch::<PANEL, V>(row + PANEL);
            }
            if S::REGISTER_COUNT >= 32 && V < 4 {
                let sums = self.one_panel::<PANEL, V, 0>(panel(i), row);
                self.finish::<PANEL, V>(sums, row);
            } else {
                let sums = self.one_panel::<{ PANEL / 2 }, V, 0>(panel(i), row);
                self.finish::<{ PANEL / 2 }, V>(sums, row);
                let sums = self.one_panel::<{ PANEL / 2 }, V, { PANEL / 2 }>(panel(i), row + PANEL / 2);
                self.finish::<{ PANEL / 2 }, V>(sums, row + PANEL / 2);
            }
            i += 1;
        }
    }

    /// Has the sums fetched that `R` rows from `row` on will start from.
    #[inline(always)]
    fn prefetch<const R: usize, const V: usize>(&self, row: usize) {
        for r in 0..R {
            let at = (row + r - self.rows.first) * self.n + self.columns.start;
            if let Some(c) = self.c.get(at..at + V * S::F32_LANES) {
                prefetch(c);
            }
        }
    }

    /// The sums of `R` rows of a panel from number `FIRST` on.
    #[inline(always)]
    fn one_panel<const R: usize, const V: usize, const FIRST: usize>(
        &self,
        a: &[[f32; PANEL]],
        row: usize,
    ) -> [[S::f32s; V]; R] {
        let mut sums = self.begin::<R, V>(row);
        let b = S::as_simd_f32s(self.b).0.as_chunks::<V>().0;
        let (_, step, _) = self.a;
        for (a, b) in a.iter().zip(b) {
            // The next panel: it may lie where only memory reaches.
            prefetch_after(a, step);
            for r in 0..R {
                let x = self.simd.splat_f32s(a[FIRST + r]);
                for v in 0..V {
                    sums[r][v] = mul_add(self.simd, x, b[v], sums[r][v]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn two_panels<const V: usize>(
        &self,
        a: &[[f32; PANEL]],
        a2: &[[f32; PANEL]],
        row: usize,
    ) -> [[[S::f32s; V]; PANEL]; 2] {
        let mut sums = [self.begin::<PANEL, V>(row), self.begin::<PANEL, V>(row + PANEL)];
        let b = S::as_simd_f32s(self.b).0.as_chunks::<V>().0;
        for ((a, a2), b) in a.iter().zip(a2).zip(b) {
            for (sums, a) in sums.iter_mut().zip([a, a2]) {
                for r in 0..PANEL {
                    let x = self.simd.splat_f32s(a[r]);
                    for v in 0..V {
                        sums[r][v] = mul_add(self.simd, x, b[v], sums[r][v]);
                    }
                }
            }
        }
        sums
    }

    /// Whether rows and columns of a tile are all there.
    #[inline(always)]
    fn is_whole<const R: usize, const V: usize>(&self, row: usize) -> bool {
        self.columns.len() == V * S::F32_LANES && row >= self.rows.from && row + R <= self.rows.to
    }

    /// What the sums of the rows from `row` on start from.
    #[inline(always)]
    fn begin<const R: usize, const V: usize>(&self, row: usize) -> [[S::f32s; V]; R] {
        let mut sums = [[self.simd.splat_f32s(0.0); V]; R];
        match self.start {
            Start::Zero => {}
            start if self.is_whole::<R, V>(row) => {
                let row = row - self.rows.first;
                match start {
                    Start::Rows(x) => {
                        for r in 0..R {
                            sums[r] = [self.simd.splat_f32s(x[row + r]); V];
                        }
                    }
                    Start::Columns(x) => {
                        if let Some(x) = S::as_simd_f32s(&x[self.columns.clone()]).0.first_chunk() {
                            sums = [*x; R];
                        }
                    }
                    _ => {
                        for r in 0..R {
                            let c = &self.c[(row + r) * self.n + self.columns.start..][..V * S::F32_LANES];
                            if let Some(c) = S::as_simd_f32s(c).0.first_chunk() {
                                sums[r] = *c;
                            }
                        }
                    }
                }
            }
            start => {
                let mut edge = Edge([[0.0; MOST_COLUMNS]; PANEL]);
                for (r, edge) in edge.0[..R].iter_mut().enumerate() {
                    let Some(row) = self.row_of_c(row + r) else { continue };
                    let edge = &mut edge[..self.columns.len()];
                    match start {
                        Start::Zero => {}
                        Start::Rows(x) => edge.fill(x[row]),
                        Start::Columns(x) => edge.copy_from_slice(&x[self.columns.clone()]),
                        Start::Sums => edge.copy_from_slice(&self.c[row * self.n..][self.columns.clone()]),
                    }
                }
                for r in 0..R {
                    if let Some(edge) = S::as_simd_f32s(&edge.0[r]).0.first_chunk() {
                        sums[r] = *edge;
                    }
                }
            }
        }
        sums
    }

    /// Writes the sums of the rows from `row` on.
    #[inline(always)]
    fn finish<const R: usize, const V: usize>(&mut self, mut sums: [[S::f32s; V]; R], row: usize) {
        if self.fp16 {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = fp16::round_vector(self.simd, sums[r][v]);
                }
            }
        }
        if self.is_whole::<R, V>(row) {
            let row = row - self.rows.first;
            for r in 0..R {
                let c = &mut self.c[(row + r) * self.n + self.columns.start..][..V * S::F32_LANES];
                if let Some(c) = S::as_mut_simd_f32s(c).0.first_chunk_mut() {
                    *c = sums[r];
                }
            }
            return;
        }
        let mut edge = Edge([[0.0; MOST_COLUMNS]; PANEL]);
        for r in 0..R {
            if let Some(edge) = S::as_mut_simd_f32s(&mut edge.0[r]).0.first_chunk_mut() {
                *edge = sums[r];
            }
        }
        for (r, edge) in edge.0[..R].iter().enumerate() {
            if let Some(row) = self.row_of_c(row + r) {
                self.c[row * self.n..][self.columns.clone()].copy_from_slice(&edge[..self.columns.len()]);
            }
        }
    }

    /// The row of C that a row is, if it is one of those to compute.
    #[inline(always)]
    fn row_of_c(&self, row: usize) -> Option<usize> {
        if row >= self.rows.from && row < self.rows.to { Some(row - self.rows.first) } else { None }
    }
}

/// A tile of which not all rows or columns are there.
#[repr(align(64))]
struct Edge([[f32; MOST_COLUMNS]; PANEL]);

#[cfg(test)]
mod tests {
    use super::*;

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
}
