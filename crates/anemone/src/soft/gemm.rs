//! Products of matrices: blocks that fit the caches, laid out in the order in which they are read, and tiles of
//! results that stay in registers.

#[cfg_attr(not(target_arch = "x86_64"), path = "gemm/no_amx.rs")]
mod amx;
mod pack;
mod split;
#[cfg(test)]
mod tests;
mod tile;
mod tiles;

use super::floats::{MOST_SKIPPED, aligned};
use super::simd::{self, dispatch};
pub(super) use amx::{is_here as has_amx, stay_awake};
use pack::{PackLeft, PackRight};
use pulp::{Simd, WithSimd};
use std::ops::Range;
use tile::{Rows, Tile};
use tiles::Tiles;

/// Rows of a panel of A: what one tile takes.
pub(super) const PANEL: usize = 8;
/// The most columns of a panel of B, which is as many as a tile of the widest vectors takes.
const MOST_COLUMNS: usize = 64;
/// Terms that are summed before the next block of A and B is laid out: a panel of B, 48 columns wide, is then 36
/// KiB at most and stays in the first cache. In tests few, as of rows, so that small products take several turns.
const MOST_TERMS: usize = if cfg!(test) { 24 } else { 192 };
/// Terms of a product that is slowed down by loading and storing its sums.
const FEW_TERMS: usize = 128;
/// Rows of A that are laid out at a time: 192 KiB with the most terms, which the second cache holds together with
/// the rows of C.
const MOST_ROWS: usize = if cfg!(test) { 40 } else { 256 };
/// The fewest rows of a product that is [tall](Gemm::is_tall): of fewer, too little is multiplied by what is laid
/// out.
const LEAST_TALL_ROWS: usize = if cfg!(test) { 40 } else { 64 };
/// In products that are tall, the terms that are laid out at a time: a panel of A, 24 KiB, then leaves room in the
/// first cache.
const TALL_TERMS: usize = if cfg!(test) { 40 } else { 768 };
/// As many of B are laid out at a time: 720 KiB, which the second cache holds.
const TALL_ELEMENTS: usize = if cfg!(test) { 64 * 40 } else { 240 * 768 };
/// Columns that whole tiles divide, whatever the vectors.
const TALL_COLUMNS: usize = 48;

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

    /// The elements of A when it is packed: whole groups, what no row fills being 0.
    pub(crate) fn n_packed(self) -> usize {
        self.m.div_ceil(2 * PANEL) * self.n_in_group()
    }

    /// The room that a sum of so many products needs to lay out its operands, whether A is packed already or not.
    pub(crate) fn n_scratch(self, n_parts: usize) -> usize {
        let n_terms = n_parts * self.k;
        let short = (self.m.min(MOST_ROWS).next_multiple_of(PANEL) + MOST_COLUMNS) * n_terms.min(MOST_TERMS);
        let tall = if self.is_tall(self.m, n_terms) {
            let (terms, columns) = self.tall_block(n_terms);
            terms * (columns + PANEL)
        } else {
            0
        };
        // Whether or not the unit is used, which may change meanwhile, and for narrower products too, which may
        // suit tiles where wider ones do not.
        let tiles = if amx::is_here() { self.n_scratch_of_tiles(n_parts) } else { 0 };
        short.max(tall).max(tiles) + MOST_SKIPPED
    }

    /// Whether so many rows and terms, of at least two panels of columns, are worth laying out much of B at once:
    /// it is read from the second cache then, but sums are loaded and stored less often, and A is read in order.
    fn is_tall(self, rows: usize, n_terms: usize) -> bool {
        rows >= LEAST_TALL_ROWS && n_terms > MOST_TERMS && self.n >= 96
    }

    /// Terms and columns of B that are laid out at a time in a tall product: as many in each block, for the last
    /// would cost as much as the others.
    fn tall_block(self, n_terms: usize) -> (usize, usize) {
        let evenly = |n: usize, most: usize| n.div_ceil(n.div_ceil(most));
        let terms = evenly(n_terms, TALL_TERMS);
        let most_columns = TALL_ELEMENTS / terms / TALL_COLUMNS * TALL_COLUMNS;
        (terms, evenly(self.n, most_columns).next_multiple_of(TALL_COLUMNS))
    }

    /// Lays A out in panels of rows, the terms of each together, as products read it: as many groups from that
    /// number on as there is room for.
    pub(crate) fn pack(self, a: &[f32], first: usize, packed: &mut [f32]) {
        assert!(a.len() == self.m * self.k && first * self.n_in_group() + packed.len() <= self.n_packed());
        let splits = unit_is_used() && self.splits();
        dispatch(Pack { gemm: self, a, first, packed, splits });
    }

    /// The rows of the product from `first` on, as many as there are in `c`, rounded to fp16 where asked for. Each
    /// element's terms come in the order of `k`, each multiplied and added in one rounding, on every machine
    /// without a matrix unit, and on one with it in the order of [`tiles::Unit`], whichever rows are asked for.
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
            let operands = Operands { gemm: self, a, b, parts, rounds_b: rounding.b };
            let run = Run { operands, start, first, rows, c, fp16: rounding.c, scratch };
            if unit_is_used() && self.may_suit_tiles() {
                let digits = operands.guess_digits();
                if self.suits_tiles(digits)
                    && let Some(unit) = amx::Amx::new()
                {
                    return amx::run(Tiles(run, unit, digits));
                }
            }
            match (run.is_tall(), run.is_in_place()) {
                (false, false) => dispatch(Blocks::<false, false>(run)),
                (false, true) => dispatch(Blocks::<false, true>(run)),
                (true, false) => dispatch(Blocks::<true, false>(run)),
                (true, true) => dispatch(Blocks::<true, true>(run)),
            }
        }
    }
}

/// Whether tiles are multiplied by a unit of their own.
pub(super) fn unit_is_used() -> bool {
    simd::may_use_amx() && amx::is_here()
}

struct Pack<'a> {
    gemm: Gemm,
    a: &'a [f32],
    first: usize,
    packed: &'a mut [f32],
    splits: bool,
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.gemm.pack_groups(simd, self.a, self.first, self.packed, self.splits);
    }
}

/// What is multiplied: the sum of products, of which `parts` says where A and B begin.
#[derive(Clone, Copy)]
struct Operands<'a> {
    gemm: Gemm,
    a: Left<'a>,
    b: &'a [f32],
    parts: &'a [(usize, usize)],
    rounds_b: bool,
}

impl<'a> Operands<'a> {
    fn is_sum(self) -> bool {
        self.parts.len() > 1
    }

    /// Panels of these rows and terms of A, how far apart they begin, and the row that the first begins with. They
    /// are laid out in `room` if they have not been. In place the same of rows, not panels.
    #[inline(always)]
    fn left<'r, S: Simd, const IN_PLACE: bool>(
        self,
        simd: S,
        rows: Range<usize>,
        terms: &Range<usize>,
        room: &'r mut [f32],
    ) -> (&'r [f32], usize, usize)
    where
        'a: 'r,
    {
        let Gemm { m, k, transposed, .. } = self.gemm;
        match self.a {
            Left::Packed(a) => {
                let panel = rows.start / PANEL;
                let (n, n_in_group) = (self.gemm.n_terms_of_panel(), self.gemm.n_in_group());
                let groups = panel / 2..rows.end.div_ceil(2 * PANEL);
                if a.chunks_exact(n_in_group).take(groups.end).skip(groups.start).any(tiles::is_split) {
                    let room = &mut room[..(rows.end - panel * PANEL).next_multiple_of(PANEL) * terms.len()];
                    tiles::join(self.gemm, a, panel, terms, room);
                    (room, terms.len() * PANEL, panel * PANEL)
                } else {
                    (&a[(panel * n + terms.start) * PANEL..], n * PANEL, panel * PANEL)
                }
            }
            Left::Plain(a) if IN_PLACE => {
                let (part, term) = (terms.start / k.max(1), terms.start % k.max(1));
                (&a[self.parts[part].0 + term..], k, 0)
            }
            Left::Plain(a) => {
                let room = &mut room[..rows.len().next_multiple_of(PANEL) * terms.len()];
                let mut done = 0;
                for (part, of) in pieces(k, terms) {
                    let a = &a[self.parts[part].0..][..m * k];
                    let n = of.len();
                    let (transposed, at) = (transposed.0, (done, terms.len()));
                    let rows = rows.clone();
                    simd.vectorize(PackLeft {
                        a,
                        shape: (m, k),
                        transposed,
                        rows,
                        terms: of,
                        out: &mut *room,
                        at,
                    });
                    done += n;
                }
                (room, terms.len() * PANEL, rows.start)
            }
        }
    }

    /// Lays these terms and columns of B out, `width` columns wide.
    #[inline(always)]
    fn right<S: Simd>(
        self,
        simd: S,
        terms: &Range<usize>,
        columns: &Range<usize>,
        width: usize,
        mut room: &mut [f32],
    ) {
        let Gemm { k, n, transposed, .. } = self.gemm;
        for (part, of) in pieces(k, terms) {
            let b = &self.b[self.parts[part].1..][..k * n];
            let (here, rest) = room.split_at_mut(width * of.len());
            let (transposed, columns) = (transposed.1, columns.clone());
            let fp16 = self.rounds_b;
            simd.vectorize(PackRight { b, shape: (k, n), transposed, terms: of, columns, fp16, out: here });
            room = rest;
        }
    }

    /// The first row not to take together with `row`: panels of a packed A begin at multiples of their height.
    #[inline(always)]
    fn rows_to(self, row: usize, most: usize, end: usize) -> usize {
        match self.a {
            Left::Plain(_) => end.min(row + most),
            Left::Packed(_) => end.min((row + most) / PANEL * PANEL),
        }
    }
}

struct Run<'a> {
    operands: Operands<'a>,
    start: Start<'a>,
    first: usize,
    rows: usize,
    c: &'a mut [f32],
    /// Whether the sums are rounded to fp16 at last.
    fp16: bool,
    scratch: &'a mut [f32],
}

/// One order of work or the other, of A laid out or as it lies, as functions of their own: together they would get
/// in each other's way.
struct Blocks<'a, const IS_TALL: bool, const IN_PLACE: bool>(Run<'a>);

impl<const IS_TALL: bool, const IN_PLACE: bool> WithSimd for Blocks<'_, IS_TALL, IN_PLACE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Tiles are as large as the registers allow: 8x3 or 4x4 vectors of 32 registers, 4x2 of 16.
        match S::F32_LANES {
            16 => self.run::<S, 3>(simd),
            8 => self.run::<S, 2>(simd),
            4 => self.run::<S, 3>(simd),
            _ => self.run::<S, 2>(simd),
        }
    }
}

impl<const IS_TALL: bool, const IN_PLACE: bool> Blocks<'_, IS_TALL, IN_PLACE> {
    /// All rows asked for, `V` vectors of columns at a time.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        if IS_TALL { self.0.tall::<S, V, IN_PLACE>(simd) } else { self.0.short::<S, V, IN_PLACE>(simd) }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn n_terms(&self) -> usize {
        self.operands.gemm.k * self.operands.parts.len()
    }

    /// Whether tiles read A as it lies: what they take of a row lies together, and panels would cost more than
    /// they save. Sums of products are then loaded and stored for each of these, which must have terms enough.
    fn is_in_place(&self) -> bool {
        let Gemm { k, transposed, .. } = self.operands.gemm;
        let is_plain = matches!(self.operands.a, Left::Plain(_)) && !transposed.0;
        is_plain && (!self.operands.is_sum() || (MOST_TERMS / 3..=MOST_TERMS * 2 / 3).contains(&k))
    }

    fn is_tall(&self) -> bool {
        self.operands.gemm.is_tall(self.rows, self.n_terms()) && !(self.operands.is_sum() && self.is_in_place())
    }

    /// Many rows of A at a time, B panel by panel.
    #[inline(always)]
    fn short<S: Simd, const V: usize, const IN_PLACE: bool>(self, simd: S) {
        let n_terms = self.n_terms();
        let Run { operands, start, first, rows, c, fp16, scratch } = self;
        let n = operands.gemm.n;
        let mut sums = Sums { start, first, n, n_terms, c, fp16 };
        let lanes = S::F32_LANES;
        // Rows of four vectors are written whole: written in two parts to where the caches do not reach, a product
        // of few terms takes a tenth longer. Of few terms, longer rows are written four vectors at a time too.
        let length = n.div_ceil(lanes);
        let is_four = V == 3 && (length == 4 || (length % 4 == 0 && n_terms <= FEW_TERMS));
        let most_terms = if IN_PLACE && operands.is_sum() {
            operands.gemm.k
        } else if is_four {
            MOST_TERMS * 2 / 3
        } else {
            MOST_TERMS
        };
        let scratch = aligned(scratch);
        let (room_b, room_a) = scratch.split_at_mut(MOST_COLUMNS * n_terms.min(most_terms));
        let end = first + rows;
        let mut row = first;
        // A that is not laid out does not fill the caches, and sums that are done at once need not stay there.
        let most_rows = if IN_PLACE && n_terms <= most_terms { 4 * MOST_ROWS } else { MOST_ROWS };
        while row < end {
            let to = operands.rows_to(row, most_rows, end);
            let mut term = 0;
            loop {
                let terms = term..n_terms.min(term + most_terms);
                let a = operands.left::<S, IN_PLACE>(simd, row..to, &terms, room_a);
                let mut column = 0;
                while column < n {
                    let n_vectors = if is_four { 4 } else { n_vectors::<S, V>(n - column) };
                    let width = n_vectors * lanes;
                    let columns = column..n.min(column + width);
                    let lies_so = width == n && !operands.gemm.transposed.1 && !operands.rounds_b;
                    let b = if let (true, [(_, at)]) = (lies_so, operands.parts) {
                        &operands.b[at + terms.start * n..at + terms.end * n]
                    } else {
                        let room = &mut room_b[..width * terms.len()];
                        operands.right(simd, &terms, &columns, width, room);
                        room
                    };
                    sums.add::<S, IN_PLACE>(simd, row..to, a, b, &terms, columns);
                    column += width;
                }
                term = terms.end;
                if term >= n_terms {
                    break;
                }
            }
            row = to;
        }
    }

    /// Much of B at a time, A panel by panel.
    #[inline(always)]
    fn tall<S: Simd, const V: usize, const IN_PLACE: bool>(self, simd: S) {
        let n_terms = self.n_terms();
        let Run { operands, start, first, rows, c, fp16, scratch } = self;
        let n = operands.gemm.n;
        let mut sums = Sums { start, first, n, n_terms, c, fp16 };
        let lanes = S::F32_LANES;
        let scratch = aligned(scratch);
        let (most_terms, most_columns) = operands.gemm.tall_block(n_terms);
        let (room_a, room_b) = scratch.split_at_mut(PANEL * most_terms);
        let end = first + rows;
        for first_column in (0..n).step_by(most_columns) {
            let last_column = n.min(first_column + most_columns);
            for term in (0..n_terms).step_by(most_terms) {
                let terms = term..n_terms.min(term + most_terms);
                let mut column = first_column;
                let mut rest = &mut room_b[..];
                while column < last_column {
                    let width = n_vectors::<S, V>(last_column - column) * lanes;
                    let columns = column..last_column.min(column + width);
                    let (room, later) = rest.split_at_mut(width * terms.len());
                    operands.right(simd, &terms, &columns, width, room);
                    (column, rest) = (column + width, later);
                }
                let mut row = first;
                while row < end {
                    let to = operands.rows_to(row, PANEL, end);
                    let a = operands.left::<S, IN_PLACE>(simd, row..to, &terms, room_a);
                    let mut column = first_column;
                    let mut rest = &room_b[..];
                    while column < last_column {
                        let width = n_vectors::<S, V>(last_column - column) * lanes;
                        let columns = column..last_column.min(column + width);
                        let (b, later) = rest.split_at(width * terms.len());
                        sums.add::<S, IN_PLACE>(simd, row..to, a, b, &terms, columns);
                        (column, rest) = (column + width, later);
                    }
                    row = to;
                }
            }
        }
    }
}

/// What the products are added up in.
struct Sums<'a> {
    start: Start<'a>,
    /// The row that C begins with.
    first: usize,
    n: usize,
    n_terms: usize,
    c: &'a mut [f32],
    fp16: bool,
}

impl Sums<'_> {
    /// Adds these terms of all to these rows and columns, which begin with the first terms and are rounded after
    /// the last.
    #[inline(always)]
    fn add<S: Simd, const IN_PLACE: bool>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        a: (&[f32], usize, usize),
        b: &[f32],
        terms: &Range<usize>,
        columns: Range<usize>,
    ) {
        let tile = Tile {
            simd,
            rows: Rows { from: rows.start, to: rows.end, first: self.first },
            a,
            b,
            n_terms: terms.len(),
            columns,
            n: self.n,
            start: if terms.start == 0 { self.start } else { Start::Sums },
            c: &mut *self.c,
            fp16: self.fp16 && terms.end == self.n_terms,
        };
        tile.all::<IN_PLACE>();
    }
}

/// Vectors of the next of so many columns, `V` at most. Of four, two and two: a tile one vector wide reads A as
/// often as it multiplies.
#[inline(always)]
fn n_vectors<S: Simd, const V: usize>(n_columns: usize) -> usize {
    match n_columns.div_ceil(S::F32_LANES) {
        4 => V.min(2),
        n => n.min(V),
    }
}

/// The products, of `k` terms each, that these terms of their sum belong to, and which of their own they are.
#[inline(always)]
fn pieces(k: usize, terms: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let terms = terms.clone();
    let parts = terms.start / k.max(1)..terms.end.div_ceil(k.max(1));
    parts.map(move |part| (part, terms.start.max(part * k) - part * k..terms.end.min((part + 1) * k) - part * k))
}
