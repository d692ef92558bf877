//! Products of matrices: blocks that fit the caches, laid out in the order in which they are read, and tiles of
//! results that stay in registers.

mod pack;
#[cfg(test)]
mod tests;
mod tile;

use super::floats::{MOST_SKIPPED, aligned};
use super::simd::dispatch;
use pulp::{Simd, WithSimd};
use std::ops::Range;
use tile::{Rows, Tile};

/// Rows of a panel of A: what one tile takes.
pub(super) const PANEL: usize = 8;
/// The most columns of a panel of B, which is as many as a tile of the widest vectors takes.
const MOST_COLUMNS: usize = 64;
/// Terms that are summed before the next block of A and B is laid out: a panel of B, 48 columns wide, is then 36 KiB
/// at most and stays in the first cache. In tests few, as of rows, so that small products take several turns.
const MOST_TERMS: usize = if cfg!(test) { 24 } else { 192 };
/// Rows of A that are laid out at a time: 192 KiB with the most terms, which the second cache holds together with
/// the rows of C.
const MOST_ROWS: usize = if cfg!(test) { 40 } else { 256 };

/// The shape of a matrix product `C[m, n] = A[m, k] B[k, n]`, all dense and row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// How A lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a> {
    /// As the shape says.
    Plain(&'a [f32]),
    /// As [`Gemm::pack`] has laid it out.
    Packed(&'a [f32]),
}

/// What the sums start from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    Zero,
    /// What C holds.
    Sums,
    /// A number for each of the rows of C that are asked for.
    Rows(&'a [f32]),
    /// A number for each column.
    Columns(&'a [f32]),
}

/// What is rounded to fp16.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rounding {
    /// B, before it is multiplied.
    pub(crate) b: bool,
    /// The sums, at last.
    pub(crate) c: bool,
}

impl Gemm {
    /// The floating-point operations it takes.
    pub(crate) fn n_flops(self) -> usize {
        2 * self.m * self.k * self.n
    }

    /// The elements of A when it is packed: whole panels, what no row fills being 0.
    pub(crate) fn n_packed(self) -> usize {
        self.m.next_multiple_of(PANEL) * self.k
    }

    /// The room that a sum of so many products needs to lay out its operands, whether A is packed already or not.
    pub(crate) fn n_scratch(self, n_parts: usize) -> usize {
        let k = (n_parts * self.k).min(MOST_TERMS);
        (self.m.min(MOST_ROWS).next_multiple_of(PANEL) + MOST_COLUMNS) * k + MOST_SKIPPED
    }

    /// Lays A out in panels of rows, the terms of each together, as products read it: as many panels from that
    /// number on as there is room for.
    pub(crate) fn pack(self, a: &[f32], first: usize, packed: &mut [f32]) {
        assert!(a.len() == self.m * self.k && first * PANEL * self.k + packed.len() <= self.n_packed());
        dispatch(Pack { gemm: self, a, first, packed });
    }

    /// The rows of the product from `first` on, as many as there are in `c`, rounded to fp16 where asked for. Each
    /// element's terms come in the order of `k`, each multiplied and added in one rounding, whatever the machine
    /// and the rows asked for.
    pub(crate) fn run(
        self,
        (a, b, start): (Left<'_>, &[f32], Start<'_>),
        first: usize,
        c: &mut [f32],
        rounding: Rounding,
        scratch: &mut [f32],
    ) {
        self.run_sum((a, b, start), &[(0, 0)], first, c, rounding, scratch);
    }

    /// As [`run`](Gemm::run), of the sum of products: for each, `parts` says where A and B begin. A packed A is
    /// that of a single product.
    pub(crate) fn run_sum(
        self,
        (a, b, start): (Left<'_>, &[f32], Start<'_>),
        parts: &[(usize, usize)],
        first: usize,
        c: &mut [f32],
        rounding: Rounding,
        scratch: &mut [f32],
    ) {
        let fits_a = |&(at, _): &(usize, usize)| match a {
            Left::Plain(a) => at + self.m * self.k <= a.len(),
            Left::Packed(a) => a.len() == self.n_packed() && parts.len() == 1,
        };
        let fits_b = |&(_, at): &(usize, usize)| at + self.k * self.n <= b.len();
        assert!(parts.iter().all(|p| fits_a(p) && fits_b(p)) && scratch.len() >= self.n_scratch(parts.len()));
        if self.n > 0 && !c.is_empty() {
            let rows = c.len() / self.n;
            assert!(first + rows <= self.m && c.len() == rows * self.n);
            match start {
                Start::Rows(x) => assert!(x.len() == rows),
                Start::Columns(x) => assert!(x.len() == self.n),
                Start::Zero | Start::Sums => {}
            }
            dispatch(Run { gemm: self, a, b, start, parts, first, rows, c, rounding, scratch });
        }
    }
}

struct Pack<'a> {
    gemm: Gemm,
    a: &'a [f32],
    first: usize,
    packed: &'a mut [f32],
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gemm { m, k, transposed, .. } = self.gemm;
        pack::left(simd, self.a, (m, k), transposed.0, self.first * PANEL..m, 0..k, self.packed, (0, k));
    }
}

struct Run<'a> {
    gemm: Gemm,
    a: Left<'a>,
    b: &'a [f32],
    start: Start<'a>,
    parts: &'a [(usize, usize)],
    first: usize,
    rows: usize,
    c: &'a mut [f32],
    rounding: Rounding,
    scratch: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Tiles are as large as the registers allow: 8x3 or 4x4 vectors of 32 registers, 4x2 of 16.
        match S::F32_LANES {
            16 => self.blocks::<S, 3>(simd),
            8 => self.blocks::<S, 2>(simd),
            4 => self.blocks::<S, 3>(simd),
            _ => self.blocks::<S, 2>(simd),
        }
    }
}

impl Run<'_> {
    /// All rows asked for, `V` vectors of columns at a time.
    #[inline(always)]
    fn blocks<S: Simd, const V: usize>(mut self, simd: S) {
        let Gemm { m, k, n, transposed } = self.gemm;
        let n_terms = k * self.parts.len();
        let lanes = S::F32_LANES;
        // Rows of four vectors are written whole: written in two parts to where the caches do not reach, they take a
        // product of few terms a tenth longer.
        let is_four = V == 3 && n.div_ceil(lanes) == 4;
        let most_terms = if is_four { MOST_TERMS * 2 / 3 } else { MOST_TERMS };
        let scratch = aligned(std::mem::take(&mut self.scratch));
        let (room_b, room_a) = scratch.split_at_mut(MOST_COLUMNS * n_terms.min(most_terms));
        let end = self.first + self.rows;
        let mut row = self.first;
        while row < end {
            // Panels of a packed A begin at multiples of their height.
            let to = match self.a {
                Left::Plain(_) => end.min(row + MOST_ROWS),
                Left::Packed(_) => end.min((row + MOST_ROWS) / PANEL * PANEL),
            };
            let mut term = 0;
            loop {
                let terms = term..n_terms.min(term + most_terms);
                let (a, a_step, a_first) = match self.a {
                    Left::Packed(a) => {
                        let panel = row / PANEL;
                        (&a[(panel * k + terms.start) * PANEL..], k * PANEL, panel * PANEL)
                    }
                    Left::Plain(a) => {
                        let room = &mut room_a[..(to - row).next_multiple_of(PANEL) * terms.len()];
                        let mut at = 0;
                        for (part, of) in pieces(k, &terms) {
                            let a = &a[self.parts[part].0..][..m * k];
                            let n = of.len();
                            pack::left(simd, a, (m, k), transposed.0, row..to, of, room, (at, terms.len()));
                            at += n;
                        }
                        (&*room, terms.len() * PANEL, row)
                    }
                };
                let is_first = term == 0;
                let is_last = terms.end == n_terms;
                let mut column = 0;
                while column < n {
                    // Two and two of four: a tile one vector wide reads A as often as it multiplies.
                    let n_vectors = match (n - column).div_ceil(lanes) {
                        4 if is_four => 4,
                        4 => V.min(2),
                        n => n.min(V),
                    };
                    let columns = column..n.min(column + n_vectors * lanes);
                    let width = n_vectors * lanes;
                    let b = if width == n && !transposed.1 && !self.rounding.b && self.parts.len() == 1 {
                        &self.b[self.parts[0].1..][terms.start * n..terms.end * n]
                    } else {
                        let mut rest = &mut room_b[..width * terms.len()];
                        for (part, of) in pieces(k, &terms) {
                            let b = &self.b[self.parts[part].1..][..k * n];
                            let (room, later) = rest.split_at_mut(width * of.len());
                            pack::right(simd, b, (k, n), transposed.1, &of, &columns, self.rounding.b, room);
                            rest = later;
                        }
                        &room_b[..width * terms.len()]
                    };
                    let mut tile = Tile {
                        simd,
                        rows: Rows { from: row, to, first: self.first },
                        a: (a, a_step, a_first),
                        b,
                        n_terms: terms.len(),
                        columns: columns.clone(),
                        n,
                        start: if is_first { self.start } else { Start::Sums },
                        c: &mut *self.c,
                        fp16: self.rounding.c && is_last,
                    };
                    match n_vectors {
                        1 => tile.panels::<1>(),
                        2 => tile.panels::<2>(),
                        3 => tile.panels::<3>(),
                        _ => tile.panels::<4>(),
                    }
                    column = columns.end;
                }
                term = terms.end;
                if term >= n_terms {
                    break;
                }
            }
            row = to;
        }
    }
}

/// The products, of `k` terms each, that these terms of their sum belong to, and which of their own they are.
#[inline(always)]
fn pieces(k: usize, terms: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let terms = terms.clone();
    let parts = terms.start / k.max(1)..terms.end.div_ceil(k.max(1));
    parts.map(move |part| (part, terms.start.max(part * k) - part * k..terms.end.min((part + 1) * k) - part * k))
}
