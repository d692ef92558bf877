//! Products on a matrix unit: each number is split into digits of bf16 without a remainder, two if it is of fp16
//! and three if of f32, so that the products of digits are exact, and all of them are summed in f32. Digits,
//! products and sums below 2^-126 count as 0 there. What is too large is multiplied as if there were no unit.

#[cfg(test)]
mod tests;

use super::pack::PackLeft;
use super::split::{Matrix, Outcome, Side, joined};
use super::{Gemm, Left, MOST_COLUMNS, Operands, PANEL, Run, Start, Sums};
use crate::soft::floats::aligned;
use crate::soft::fp16;
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Rows and columns of a tile of sums.
pub(super) const TILE: usize = 16;
/// Terms that are multiplied at a time: pairs in each row of a tile.
pub(super) const BLOCK_TERMS: usize = 2 * TILE;
/// Digits of 16 lines, in pairs of bf16: of a term in the lower half, and of the 16th after it. As long as those
/// of A and B are the same, it does not matter which are pairs.
pub(super) type Tile = [[u32; TILE]; TILE];
/// Blocks of terms, and columns of B, that are laid out at a time: 1.5 MiB at most, which the second cache holds.
/// In tests few, as of rows elsewhere.
const MOST_BLOCKS: usize = if cfg!(test) { 2 } else { 16 };
/// As many of sums of products, which tend to be smaller themselves: the room would count there.
const MOST_BLOCKS_OF_SUMS: usize = if cfg!(test) { 2 } else { 4 };
const MOST_COLUMNS_OF_B: usize = if cfg!(test) { 80 } else { 512 };
/// Blocks of a tile's lines that are laid out before the unit has fallen asleep; after more, to keep it awake
/// would be to wake it each time.
const SHORT: usize = 4;
/// Tiles of rows that are multiplied at a time.
pub(super) const ROWS: usize = 4;
/// The most digits of a number, of 8 bits each.
pub(super) const MOST_DIGITS: usize = 3;

/// What multiplies and adds tiles. Sums begin from what `c` holds or, if they do not add, from zero. They get,
/// block by block, the products of all tiles of A with all of B: of the first with those of B in their order, of
/// the second in the reverse order, of the third as of the first. Of such a product of 32 terms, each half is
/// summed up by itself, then the two sums are added to each other and to the sum of all.
pub(super) trait Unit {
    /// Two tiles of rows by two of columns, of `n` blocks; the rows of `c` are `step` apart.
    fn square(&mut self, a: Panels<'_, 2>, b: Panels<'_, 2>, n: usize, c: (&mut [f32], usize, bool));

    /// Four tiles of rows by one of columns; `c` is dense.
    fn column(&mut self, a: Panels<'_, ROWS>, b: Panels<'_, 1>, n: usize, c: (&mut [f32], bool));

    /// Has the unit stay awake for some more time.
    fn keep_awake(&mut self) {}
}

/// Lines of a matrix, a tile's in each panel: of each block of terms so many tiles.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, const N: usize> {
    pub(super) tiles: [&'a [Tile]; N],
    pub(super) n_in_block: usize,
}

impl Gemm {
    /// Terms of a line when it is laid out, the last block filled up.
    fn n_whole_terms(self) -> usize {
        self.k.next_multiple_of(BLOCK_TERMS)
    }

    /// Whether a product of numbers of so many digits is sooner computed by tiles. Counted in cycles, as measured:
    /// a call takes 600, the product of two tiles 22, laying out 16 digits 5, and of multiplications by vectors 26
    /// take one. As sums of tiles are not those of vectors to the last bit, it must not depend on what has been
    /// laid out before: that may be A, which counts a quarter then, unless it has three digits: it never has then.
    pub(super) fn suits_tiles(self, digits: (usize, usize)) -> bool {
        let tiles = |n: usize| n.div_ceil(TILE);
        let in_block = digits.0 * Side::Right.n_tiles(digits.1, self.folds());
        let products = tiles(self.m) * tiles(self.n) * self.k.div_ceil(BLOCK_TERMS) * in_block;
        let of_a = tiles(self.m) * digits.0 * if digits.0 == 2 { 1 } else { 4 };
        let n_terms = if self.folds() { TILE } else { self.n_whole_terms() };
        let n_digits = (of_a + 4 * tiles(self.n) * digits.1) * n_terms / 4;
        600 + 22 * products + 5 * n_digits < self.m * self.n * self.k / 26
    }

    /// Whether products of numbers of fp16 suit tiles.
    pub(super) fn may_suit_tiles(self) -> bool {
        self.suits_tiles((2, 2))
    }

    /// Whether a packed A is better split.
    pub(crate) fn splits(self) -> bool {
        self.may_suit_tiles() && !self.folds()
    }

    /// Whether a block has room for two digits of each term: of A twice the same, of B two that follow each other.
    pub(super) fn folds(self) -> bool {
        self.k <= TILE
    }

    /// The room that tiles need.
    pub(super) fn n_scratch_of_tiles(self, n_parts: usize) -> usize {
        let n_blocks = most_blocks(n_parts).min(n_parts * self.n_whole_terms() / BLOCK_TERMS);
        let n_panels = self.n.min(MOST_COLUMNS_OF_B).div_ceil(TILE) + ROWS;
        // And sums on their way, and what is laid out for vectors.
        let n_of_vectors = (TILE + MOST_COLUMNS) * n_blocks * BLOCK_TERMS;
        (n_panels * n_blocks * MOST_DIGITS + ROWS) * TILE * TILE + n_of_vectors
    }
}

/// Blocks that are laid out at a time of a sum of so many products.
fn most_blocks(n_parts: usize) -> usize {
    if n_parts > 1 { MOST_BLOCKS_OF_SUMS } else { MOST_BLOCKS }
}

impl<'a> Operands<'a> {
    /// How many digits numbers of A and B seem to have.
    #[inline(always)]
    pub(super) fn guess_digits(self) -> (usize, usize) {
        let Gemm { m, k, n, .. } = self.gemm;
        let (at_a, at_b) = self.parts[0];
        let of_a = match self.a {
            Left::Plain(a) => guess_digits(&a[at_a..][..m * k]),
            Left::Packed(a) => a[self.gemm.n_in_group() - 2] as usize,
        };
        (of_a, if self.rounds_b { 2 } else { guess_digits(&self.b[at_b..][..k * n]) })
    }

    /// Lines of A, if there is one, or else of B, of one of the products.
    #[inline(always)]
    fn matrix(self, a: Option<&'a [f32]>, part: usize) -> Matrix<'a> {
        let Gemm { m, k, n, transposed } = self.gemm;
        let (at_a, at_b) = self.parts[part];
        if let Some(a) = a {
            let (is_by_line, step) = if transposed.0 { (false, m) } else { (true, k) };
            Matrix { x: &a[at_a..][..m * k], is_by_line, step, rounds: false }
        } else {
            let (is_by_line, step) = if transposed.1 { (true, k) } else { (false, n) };
            Matrix { x: &self.b[at_b..][..k * n], is_by_line, step, rounds: self.rounds_b }
        }
    }

    /// Splits these lines, of A if there is one, else of B, and blocks of terms.
    #[inline(always)]
    fn split<S: Simd>(
        self,
        simd: S,
        a: Option<&'a [f32]>,
        lines: &Range<usize>,
        blocks: &Range<usize>,
        n_digits: usize,
        mut out: &mut [Tile],
    ) -> Outcome {
        let k = self.gemm.k;
        let n_blocks = k.div_ceil(BLOCK_TERMS);
        let (side, folds) = (if a.is_some() { Side::Left } else { Side::Right }, self.gemm.folds());
        let mut outcome = Outcome::Exact;
        let mut block = blocks.start;
        while block < blocks.end {
            let (part, at) = (block / n_blocks, block % n_blocks);
            let n = (n_blocks - at).min(blocks.end - block);
            let (here, later) = out.split_at_mut(n * side.n_tiles(n_digits, folds));
            let terms = at * BLOCK_TERMS..k.min((at + n) * BLOCK_TERMS);
            let matrix = self.matrix(a, part);
            outcome = outcome.max(matrix.split_into(simd, lines, terms, (n_digits, folds), side, here));
            (out, block) = (later, block + n);
        }
        outcome
    }

    /// Lays these columns and blocks of B out, a tile's after the other, with a digit more if it must be; whether
    /// nothing is lost.
    #[inline(always)]
    fn split_columns<S: Simd>(
        self,
        simd: S,
        unit: &mut impl Unit,
        columns: &Range<usize>,
        blocks: &Range<usize>,
        n_digits: &mut usize,
        room: &mut [Tile],
    ) -> bool {
        loop {
            let mut outcome = Outcome::Exact;
            let rooms = room.chunks_exact_mut(blocks.len() * Side::Right.n_tiles(*n_digits, self.gemm.folds()));
            for (room, from) in rooms.zip(columns.clone().step_by(TILE)) {
                if blocks.len() <= SHORT {
                    unit.keep_awake();
                }
                let lines = from..columns.end.min(from + TILE);
                outcome = outcome.max(self.split(simd, None, &lines, blocks, *n_digits, room));
            }
            if outcome != Outcome::TooFine || *n_digits == MOST_DIGITS {
                return outcome == Outcome::Exact;
            }
            *n_digits = MOST_DIGITS;
        }
    }

    /// Tiles of these rows and blocks of A, in `room` if they have not been laid out before, and in which of them
    /// nothing is lost. In place of those that are not there comes the last.
    #[inline(always)]
    fn split_rows<'r, S: Simd>(
        self,
        simd: S,
        unit: &mut impl Unit,
        rows: &Range<usize>,
        blocks: &Range<usize>,
        n_digits: &mut usize,
        room: &'r mut [Tile],
    ) -> ([&'r [Tile]; ROWS], [bool; ROWS])
    where
        'a: 'r,
    {
        let mut is_exact = [false; ROWS];
        let mut tiles = [&[][..]; ROWS];
        let n_tiles = rows.len().div_ceil(TILE);
        if let Left::Packed(a) = self.a {
            let n = self.gemm.n_in_group();
            let mut groups = a[rows.start / TILE * n..].chunks_exact(n).take(n_tiles);
            if *n_digits == 2 && groups.clone().all(is_split) {
                for (tile, group) in tiles.iter_mut().zip(&mut groups) {
                    *tile = &self.gemm.tiles_of_group(group)[2 * blocks.start..2 * blocks.end];
                }
                is_exact[..n_tiles].fill(true);
            }
        }
        if !is_exact[0] {
            loop {
                let mut is_too_fine = false;
                for (i, room) in room.chunks_exact_mut(blocks.len() * *n_digits).enumerate().take(n_tiles) {
                    if blocks.len() <= SHORT {
                        unit.keep_awake();
                    }
                    let from = rows.start + i * TILE;
                    let lines = from..self.gemm.m.min(from + TILE);
                    let outcome = match self.a {
                        Left::Plain(a) => self.split(simd, Some(a), &lines, blocks, *n_digits, room),
                        Left::Packed(a) => self.gemm.split_group(simd, a, from / TILE, blocks, *n_digits, room),
                    };
                    is_exact[i] = outcome == Outcome::Exact;
                    is_too_fine |= outcome == Outcome::TooFine;
                }
                if !is_too_fine || *n_digits == MOST_DIGITS {
                    break;
                }
                *n_digits = MOST_DIGITS;
            }
            for (tile, room) in tiles.iter_mut().zip(room.chunks_exact(blocks.len() * *n_digits)).take(n_tiles) {
                *tile = room;
            }
        }
        for i in n_tiles..ROWS {
            tiles[i] = tiles[n_tiles - 1];
        }
        (tiles, is_exact)
    }

    /// The terms of all products in these blocks.
    #[inline(always)]
    fn terms(self, blocks: &Range<usize>) -> Range<usize> {
        let k = self.gemm.k;
        let n_blocks = k.div_ceil(BLOCK_TERMS);
        let term = |block: usize| block / n_blocks * k + (block % n_blocks * BLOCK_TERMS).min(k);
        term(blocks.start)..term(blocks.end)
    }
}

/// How many digits numbers seem to have, by a look here and there.
#[inline(always)]
fn guess_digits(x: &[f32]) -> usize {
    let bits = x.iter().step_by((x.len() / 16).max(1)).fold(0, |bits, x| bits | x.to_bits());
    if bits & 0xff == 0 { 2 } else { MOST_DIGITS }
}

/// A product on such a unit, of numbers that seem to have so many digits.
pub(super) struct Tiles<'a, U>(pub(super) Run<'a>, pub(super) U, pub(super) (usize, usize));

impl<U: Unit> WithSimd for Tiles<'_, U> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tiles(run, mut unit, mut digits) = self;
        let n_terms = run.n_terms();
        let Run { operands, start, first, rows, c, fp16, scratch } = run;
        let Gemm { k, n, .. } = operands.gemm;
        let end = first + rows;
        let mut sums = Sums { start, first, n, n_terms, c, fp16 };
        let n_blocks = operands.parts.len() * k.div_ceil(BLOCK_TERMS);
        let most_blocks = most_blocks(operands.parts.len()).min(n_blocks);
        let n_tiles = most_blocks * MOST_DIGITS;
        let (room_c, scratch) = aligned(scratch).split_at_mut(ROWS * TILE * TILE);
        let (room_a, scratch) = scratch.split_at_mut(ROWS * n_tiles * TILE * TILE);
        let (room_b, room) = scratch.split_at_mut(n.min(MOST_COLUMNS_OF_B).div_ceil(TILE) * n_tiles * TILE * TILE);
        let (room_a, room_b): (&mut [Tile], &mut [Tile]) = (cast_slice_mut(room_a), cast_slice_mut(room_b));
        for from in (0..n).step_by(MOST_COLUMNS_OF_B) {
            let columns = from..n.min(from + MOST_COLUMNS_OF_B);
            for block in (0..n_blocks).step_by(most_blocks) {
                let blocks = block..n_blocks.min(block + most_blocks);
                let terms = operands.terms(&blocks);
                let is_exact_b = operands.split_columns(simd, &mut unit, &columns, &blocks, &mut digits.1, room_b);
                // Tiles begin where they would in the whole product: it must not matter who computes which.
                for row in (first / TILE * TILE..end).step_by(ROWS * TILE) {
                    let rows = row..end.min(row + ROWS * TILE);
                    let (tiles, mut is_exact) =
                        operands.split_rows(simd, &mut unit, &rows, &blocks, &mut digits.0, room_a);
                    for (i, is_exact) in is_exact.iter_mut().enumerate().take(rows.len().div_ceil(TILE)) {
                        *is_exact &= is_exact_b;
                        if !*is_exact {
                            let rows = first.max(row + i * TILE)..end.min(row + (i + 1) * TILE);
                            sums.add_by_vectors(simd, operands, rows, &terms, &columns, room);
                        }
                    }
                    if is_exact != [false; ROWS] {
                        let rows = Rows { a: Panels { tiles, n_in_block: digits.0 }, is_exact, row };
                        let n_in_block = Side::Right.n_tiles(digits.1, operands.gemm.folds());
                        let b = Panels { tiles: [&*room_b], n_in_block };
                        sums.add_by_tiles(simd, &mut unit, rows, b, &terms, &columns, blocks.len(), room_c);
                    }
                }
            }
        }
    }
}

/// Tiles of A: those of the rows from `row` on, and which of them are to be multiplied.
#[derive(Clone, Copy)]
struct Rows<'a> {
    a: Panels<'a, ROWS>,
    is_exact: [bool; ROWS],
    row: usize,
}

impl Sums<'_> {
    /// Adds these terms to these rows and columns as if there were no such unit.
    #[inline(always)]
    fn add_by_vectors<S: Simd>(
        &mut self,
        simd: S,
        operands: Operands<'_>,
        rows: Range<usize>,
        terms: &Range<usize>,
        columns: &Range<usize>,
        room: &mut [f32],
    ) {
        let (room_a, room_b) = room.split_at_mut(TILE * terms.len());
        let a = operands.left::<S, false>(simd, rows.clone(), terms, room_a);
        for from in columns.clone().step_by(2 * S::F32_LANES) {
            let columns = from..columns.end.min(from + 2 * S::F32_LANES);
            let room = &mut room_b[..columns.len().next_multiple_of(S::F32_LANES) * terms.len()];
            operands.right(simd, terms, &columns, columns.len().next_multiple_of(S::F32_LANES), room);
            self.add::<S, false>(simd, rows.clone(), a, room, terms, columns);
        }
    }

    /// Adds these terms, laid out in so many blocks, to these rows and columns.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // What is multiplied, where it goes, and room.
    fn add_by_tiles<S: Simd, U: Unit>(
        &mut self,
        simd: S,
        unit: &mut U,
        rows: Rows<'_>,
        b: Panels<'_, 1>,
        terms: &Range<usize>,
        columns: &Range<usize>,
        n_blocks: usize,
        room: &mut [f32],
    ) {
        let Rows { a, is_exact, row } = rows;
        let start = if terms.start == 0 { self.start } else { Start::Sums };
        let adds = !matches!(start, Start::Zero);
        let fp16 = self.fp16 && terms.end == self.n_terms;
        // Whether sums can be left where they are while they are added to.
        let is_left = matches!(start, Start::Zero | Start::Sums) && !fp16;
        let Panels { tiles: [b], n_in_block } = b;
        let mut panels = b.chunks_exact(n_blocks * n_in_block);
        let mut column = columns.start;
        while column < columns.end {
            let Some(b) = panels.next() else { return };
            let is_pair = columns.end - column > TILE;
            let here = column..columns.end.min(column + if is_pair { 2 * TILE } else { TILE });
            if let (true, Some(b2)) = (is_pair, panels.next()) {
                for i in [0, 2] {
                    if is_exact[i] || is_exact[i + 1] {
                        let part = Part { row: row + i * TILE, is_exact: &is_exact[i..i + 2], columns: &here };
                        let a = Panels { tiles: [a.tiles[i], a.tiles[i + 1]], n_in_block: a.n_in_block };
                        let b = Panels { tiles: [b, b2], n_in_block };
                        if let (Some(at), true) = (self.whole::<{ 2 * TILE }>(&part), is_left) {
                            unit.square(a, b, n_blocks, (&mut self.c[at..], self.n, adds));
                        } else {
                            self.fetch::<{ 2 * TILE }>(&part, start, room);
                            unit.square(a, b, n_blocks, (room, 2 * TILE, adds));
                            self.store::<S, { 2 * TILE }>(simd, &part, fp16, room);
                        }
                    }
                }
            } else {
                let part = Part { row, is_exact: &is_exact, columns: &here };
                let b = Panels { tiles: [b], n_in_block };
                if let (Some(at), true, TILE) = (self.whole::<TILE>(&part), is_left, self.n) {
                    unit.column(a, b, n_blocks, (&mut self.c[at..], adds));
                } else {
                    self.fetch::<TILE>(&part, start, room);
                    unit.column(a, b, n_blocks, (room, adds));
                    self.store::<S, TILE>(simd, &part, fp16, room);
                }
            }
            column = here.end;
        }
    }

    /// Where in C a part begins that is all there, `W` columns wide.
    #[inline(always)]
    fn whole<const W: usize>(&self, part: &Part<'_>) -> Option<usize> {
        let is_whole = part.row >= self.first
            && (part.row - self.first + part.is_exact.len() * TILE) * self.n <= self.c.len()
            && part.columns.len() == W
            && part.is_exact.iter().all(|is_exact| *is_exact);
        is_whole.then(|| (part.row - self.first) * self.n + part.columns.start)
    }

    /// Which row of C a row of a part is, if it is one of those to compute.
    #[inline(always)]
    fn row_of_c(&self, part: &Part<'_>, i: usize) -> Option<usize> {
        let row = (part.row + i).checked_sub(self.first)?;
        (part.is_exact[i / TILE] && (row + 1) * self.n <= self.c.len()).then_some(row)
    }

    /// What the sums of a part start from, in rows of `W`.
    #[inline(always)]
    fn fetch<const W: usize>(&self, part: &Part<'_>, start: Start<'_>, room: &mut [f32]) {
        if let Start::Zero = start {
            return;
        }
        for (i, room) in room.as_chunks_mut::<W>().0.iter_mut().enumerate().take(part.is_exact.len() * TILE) {
            let Some(row) = self.row_of_c(part, i) else { continue };
            match start {
                Start::Zero => {}
                Start::Rows(x) => *room = [x[row]; W],
                Start::Columns(x) => copy(&x[part.columns.clone()], room),
                Start::Sums => copy(&self.c[row * self.n..][part.columns.clone()], room),
            }
        }
    }

    /// Writes sums that lie in rows of `W`.
    #[inline(always)]
    fn store<S: Simd, const W: usize>(&mut self, simd: S, part: &Part<'_>, fp16: bool, room: &mut [f32]) {
        let rows = room.as_chunks_mut::<W>().0.iter_mut().take(part.is_exact.len() * TILE);
        if let Some(at) = self.whole::<W>(part) {
            for (room, c) in rows.zip(self.c[at..].chunks_mut(self.n)) {
                if fp16 {
                    fp16::round(simd, room);
                }
                if let Some(c) = c.first_chunk_mut() {
                    *c = *room;
                }
            }
        } else {
            for (i, room) in rows.enumerate() {
                if let Some(row) = self.row_of_c(part, i) {
                    if fp16 {
                        fp16::round(simd, room);
                    }
                    copy(room, &mut self.c[row * self.n..][part.columns.clone()]);
                }
            }
        }
    }
}

/// Copies as many numbers as both have; a call would take longer than to copy so few.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    let n = from.len().min(to.len());
    let (tiles, rest) = to[..n].as_chunks_mut::<TILE>();
    for (to, from) in tiles.iter_mut().zip(from.as_chunks().0) {
        *to = *from;
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&from[tiles.len() * TILE..n]);
    }
}

/// Sums that are computed at a time: whole tiles of rows from `row` on, those that are to be.
struct Part<'a> {
    row: usize,
    is_exact: &'a [bool],
    columns: &'a Range<usize>,
}

/// A packed A is laid out in groups of two panels of rows, each a term longer than whole blocks have. If nothing
/// is lost, a group consists of split tiles instead, and its last number says so. The last but one of the first
/// group is the number of digits that those of A seem to have.
impl Gemm {
    /// The terms that a panel of a packed A has room for.
    pub(super) fn n_terms_of_panel(self) -> usize {
        self.n_whole_terms() + 1
    }

    /// The elements of a packed A that are laid out together.
    pub(crate) fn n_in_group(self) -> usize {
        TILE * self.n_terms_of_panel()
    }

    /// The tiles of a group that is split.
    fn tiles_of_group(self, group: &[f32]) -> &[Tile] {
        cast_slice(&group[..TILE * self.n_whole_terms()])
    }

    /// Splits blocks of a group that may not be split.
    #[inline(always)]
    fn split_group<S: Simd>(
        self,
        simd: S,
        packed: &[f32],
        group: usize,
        blocks: &Range<usize>,
        n_digits: usize,
        out: &mut [Tile],
    ) -> Outcome {
        let mut outcome = Outcome::Exact;
        for (block, out) in blocks.clone().zip(out.chunks_exact_mut(n_digits)) {
            let terms = block * BLOCK_TERMS..self.k.min((block + 1) * BLOCK_TERMS);
            let mut panels = [0.0; 2 * PANEL * BLOCK_TERMS];
            join(self, packed, 2 * group, &terms, &mut panels[..2 * PANEL * terms.len()]);
            let mut x = [0.0; TILE * BLOCK_TERMS];
            for (i, panel) in panels.chunks_exact(PANEL * terms.len()).take(2).enumerate() {
                for (x, panel) in x.chunks_exact_mut(TILE).zip(panel.as_chunks::<PANEL>().0) {
                    x[i * PANEL..][..PANEL].copy_from_slice(panel);
                }
            }
            let matrix = Matrix { x: &x, is_by_line: false, step: TILE, rounds: false };
            let (terms, digits) = (0..if self.folds() { TILE } else { BLOCK_TERMS }, (n_digits, self.folds()));
            outcome = outcome.max(matrix.split_into(simd, &(0..TILE), terms, digits, Side::Left, out));
        }
        outcome
    }

    /// Lays groups of a packed A out, from a number on; as split tiles where that is asked for and can be.
    #[inline(always)]
    pub(super) fn pack_groups<S: Simd>(self, simd: S, a: &[f32], first: usize, packed: &mut [f32], splits: bool) {
        let Gemm { m, k, transposed, .. } = self;
        let operands = Operands { gemm: self, a: Left::Plain(a), b: &[], parts: &[(0, 0)], rounds_b: false };
        let (n, n_terms) = (self.n_in_group(), self.n_terms_of_panel());
        for (i, group) in packed.chunks_exact_mut(n).enumerate() {
            let rows = (first + i) * TILE..m.min((first + i + 1) * TILE);
            let tiles = cast_slice_mut(&mut group[..TILE * self.n_whole_terms()]);
            let blocks = 0..k.div_ceil(BLOCK_TERMS);
            let is_split = splits && operands.split(simd, Some(a), &rows, &blocks, 2, tiles) == Outcome::Exact;
            if !is_split {
                let (out, at) = (&mut *group, (0, n_terms));
                let left = PackLeft { a, shape: (m, k), transposed: transposed.0, rows, terms: 0..k, out, at };
                left.with_simd(simd);
            }
            group[n - 1] = if is_split { IS_SPLIT } else { 0.0 };
            if first + i == 0 {
                group[n - 2] = guess_digits(a) as f32;
            }
        }
    }
}

const IS_SPLIT: f32 = 1.0;

pub(super) fn is_split(group: &[f32]) -> bool {
    group.last() == Some(&IS_SPLIT)
}

/// A number of a packed A.
#[inline(always)]
fn number(gemm: Gemm, packed: &[f32], row: usize, term: usize) -> f32 {
    let n = gemm.n_in_group();
    let group = &packed[row / TILE * n..][..n];
    if is_split(group) {
        let tiles = &gemm.tiles_of_group(group)[term / BLOCK_TERMS * 2..][..2];
        let pair = |tile: &Tile| tile[row % TILE][term % TILE];
        joined([pair(&tiles[0]), pair(&tiles[1])], term % BLOCK_TERMS >= TILE)
    } else {
        group[row % TILE / PANEL * n / 2 + term * PANEL + row % PANEL]
    }
}

/// Copies terms of panels of a packed A, from a number on, as they would lie if no group were split.
#[inline(always)]
pub(super) fn join(gemm: Gemm, packed: &[f32], first: usize, terms: &Range<usize>, room: &mut [f32]) {
    for (i, room) in room.chunks_exact_mut(PANEL * terms.len()).enumerate() {
        let (panel, n) = (first + i, gemm.n_in_group());
        let group = &packed[panel / 2 * n..][..n];
        if is_split(group) {
            for (term, room) in terms.clone().zip(room.as_chunks_mut::<PANEL>().0) {
                for (r, x) in room.iter_mut().enumerate() {
                    *x = number(gemm, packed, panel * PANEL + r, term);
                }
            }
        } else {
            room.copy_from_slice(&group[panel % 2 * n / 2 + terms.start * PANEL..][..room.len()]);
        }
    }
}
