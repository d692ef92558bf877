//! Numbers as sums of two or three of bf16, their digits, in the tiles that a matrix unit reads.

use super::pack::turn_tile;
use super::tiles::{BLOCK_TERMS, MOST_DIGITS, TILE, Tile};
use crate::soft::fp16;
use crate::soft::prefetch::prefetch;
use pulp::Simd;
use pulp::bytemuck::cast_slice;
use std::ops::Range;

/// The bits of 2^48, from which on numbers are too large: of smaller ones no sum of products is infinite.
const TOO_LARGE: u32 = (127 + 48) << 23;

/// A matrix, of whose lines (rows of A, columns of B) some are split.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) x: &'a [f32],
    /// Whether the terms of a line lie together, rather than the lines of a term.
    pub(super) is_by_line: bool,
    /// Elements from one line, or one term, to the next.
    pub(super) step: usize,
    /// Whether the numbers are rounded to fp16 first.
    pub(super) rounds: bool,
}

/// What becomes of numbers that are split, in the order in which one overrules the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The sums of their digits are what they are.
    Exact,
    /// They need a digit more.
    TooFine,
    /// Their products may be infinite, or they are no numbers.
    TooLarge,
}

/// Which operand a matrix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A row of a tile belongs to a line.
    Left,
    /// A row of a tile belongs to a pair of terms, a column to a line.
    Right,
}

impl Side {
    /// The tiles of a block of numbers of so many digits: one for each; of [folded](Gemm::folds) lines of B one
    /// for two.
    pub(super) fn n_tiles(self, n_digits: usize, folds: bool) -> usize {
        if folds && self == Side::Right { n_digits.div_ceil(2) } else { n_digits }
    }
}

impl Matrix<'_> {
    /// As [`split`](Matrix::split), into so many digits.
    #[inline(always)]
    pub(super) fn split_into<S: Simd>(
        self,
        simd: S,
        lines: &Range<usize>,
        terms: Range<usize>,
        (n_digits, folds): (usize, bool),
        side: Side,
        out: &mut [Tile],
    ) -> Outcome {
        match (n_digits, folds) {
            (2, false) => self.split::<S, 2, false>(simd, lines, terms, side, out),
            (_, false) => self.split::<S, MOST_DIGITS, false>(simd, lines, terms, side, out),
            (2, true) => self.split::<S, 2, true>(simd, lines, terms, side, out),
            (_, true) => self.split::<S, MOST_DIGITS, true>(simd, lines, terms, side, out),
        }
    }

    /// Splits these lines, a tile's at most, and terms into blocks of tiles of `D` digits, from the first to the
    /// last, filled up with 0.
    #[inline(always)]
    fn split<S: Simd, const D: usize, const FOLDS: bool>(
        self,
        simd: S,
        lines: &Range<usize>,
        terms: Range<usize>,
        side: Side,
        out: &mut [Tile],
    ) -> Outcome {
        let mut seen = Seen::new(simd);
        let n_terms = if FOLDS { TILE } else { BLOCK_TERMS };
        for (i, out) in out.chunks_exact_mut(side.n_tiles(D, FOLDS)).enumerate() {
            let from = terms.start + i * n_terms;
            let here = from..terms.end.min(from + n_terms);
            let (from, n, width, whole) = if self.is_by_line {
                (lines.start * self.step + here.start, lines.len(), here.len(), n_terms)
            } else {
                (here.start * self.step + lines.start, here.len(), lines.len(), TILE)
            };
            let x = &self.x[from..];
            if lines.len() == TILE && here.len() == n_terms {
                self.split_block::<S, D, FOLDS>(x, self.step, side, &mut seen, out);
            } else {
                let mut edge = [0.0; TILE * BLOCK_TERMS];
                for (edge, x) in edge.chunks_exact_mut(whole).zip(x.chunks(self.step)).take(n) {
                    edge[..width].copy_from_slice(&x[..width]);
                }
                self.split_block::<S, D, FOLDS>(&edge, whole, side, &mut seen, out);
            }
            if self.is_by_line != (side == Side::Left) {
                for tile in out {
                    turn_tile(simd, tile);
                }
            }
        }
        seen.outcome()
    }

    /// Splits a block whose rows, lines or terms, are `step` apart.
    #[inline(always)]
    fn split_block<S: Simd, const D: usize, const FOLDS: bool>(
        self,
        x: &[f32],
        step: usize,
        side: Side,
        seen: &mut Seen<S>,
        out: &mut [Tile],
    ) {
        if FOLDS {
            for (r, x) in x.chunks(step).take(TILE).enumerate() {
                if let Some(x) = x.first_chunk() {
                    seen.fold::<D>(x, self.rounds, side, out, r);
                }
            }
            return;
        }
        let ahead = if self.is_by_line { BLOCK_TERMS } else { TILE };
        // Lines of the caches that follow each other come unasked for.
        let is_far = step > TILE;
        for r in 0..TILE {
            let at = if self.is_by_line { [r * step, r * step + TILE] } else { [r * step, (r + TILE) * step] };
            // What comes after is what is split next.
            for at in at.into_iter().filter(|_| is_far) {
                if let Some(next) = x.get(at + ahead..at + ahead + TILE) {
                    prefetch(next);
                }
            }
            let [Some(x), Some(y)] = at.map(|at| x[at..].first_chunk()) else { break };
            seen.split::<D>(x, y, self.rounds, out, r);
        }
    }
}

/// Bits of all numbers that have been split.
struct Seen<S: Simd> {
    simd: S,
    /// What the last digits leave.
    rest: S::u32s,
    /// The highest bit says whether one was too large.
    magnitude: S::u32s,
}

impl<S: Simd> Seen<S> {
    #[inline(always)]
    fn new(simd: S) -> Seen<S> {
        Seen { simd, rest: simd.splat_u32s(0), magnitude: simd.splat_u32s(0) }
    }

    /// Writes row `r` of a tile for each digit of the numbers: pairs of one of `x` and one of `y`.
    #[inline(always)]
    fn split<const D: usize>(
        &mut self,
        x: &[f32; TILE],
        y: &[f32; TILE],
        rounds: bool,
        out: &mut [Tile],
        r: usize,
    ) {
        for (i, (&x, &y)) in S::as_simd_f32s(x).0.iter().zip(S::as_simd_f32s(y).0).enumerate() {
            let (x, y) = (self.digits::<D>(x, rounds), self.digits::<D>(y, rounds));
            for (d, out) in out[..D].iter_mut().enumerate() {
                S::as_mut_simd_u32s(&mut out[r]).0[i] = self.pair(x[d], y[d]);
            }
        }
    }

    /// Writes row `r` of the tiles of a folded block: pairs of a digit with itself, or of two digits of a number.
    #[inline(always)]
    fn fold<const D: usize>(&mut self, x: &[f32; TILE], rounds: bool, side: Side, out: &mut [Tile], r: usize) {
        for (i, &x) in S::as_simd_f32s(x).0.iter().enumerate() {
            let digits = self.digits::<D>(x, rounds);
            for (d, out) in out[..side.n_tiles(D, true)].iter_mut().enumerate() {
                let pair = match side {
                    Side::Left => self.pair(digits[d], digits[d]),
                    Side::Right if 2 * d + 1 < D => self.pair(digits[2 * d], digits[2 * d + 1]),
                    Side::Right => self.pair(digits[2 * d], self.simd.splat_u32s(0)),
                };
                S::as_mut_simd_u32s(&mut out[r]).0[i] = pair;
            }
        }
    }

    /// The digits of numbers, each in the upper half.
    #[inline(always)]
    fn digits<const D: usize>(&mut self, mut x: S::f32s, rounds: bool) -> [S::u32s; D] {
        let simd = self.simd;
        if rounds {
            x = fp16::round_vector(simd, x);
        }
        self.look(x);
        let mut digits = [simd.splat_u32s(0); D];
        for (d, digit) in digits.iter_mut().enumerate() {
            let bits = simd.transmute_u32s_f32s(x);
            if d + 1 == D {
                self.rest = simd.or_u32s(self.rest, bits);
            }
            *digit = simd.and_u32s(bits, simd.splat_u32s(0xffff_0000));
            // Without rounding, as no bit of the difference is new.
            x = simd.sub_f32s(x, simd.transmute_f32s_u32s(*digit));
        }
        digits
    }

    #[inline(always)]
    fn pair(&self, first: S::u32s, second: S::u32s) -> S::u32s {
        let simd = self.simd;
        simd.or_u32s(simd.wrapping_dyn_shr_u32s(first, simd.splat_u32s(16)), second)
    }

    #[inline(always)]
    fn look(&mut self, x: S::f32s) {
        let simd = self.simd;
        let bits = simd.transmute_u32s_f32s(x);
        // Changes the sign of what is too large.
        let sum = simd.add_u32s(bits, simd.splat_u32s((1 << 31) - TOO_LARGE));
        self.magnitude = simd.or_u32s(self.magnitude, simd.xor_u32s(sum, bits));
    }

    #[inline(always)]
    fn outcome(&self) -> Outcome {
        let all = |x: S::u32s| {
            let x: &[u32] = cast_slice(std::slice::from_ref(&x));
            x.iter().fold(0, |all, x| all | x)
        };
        if all(self.magnitude) >> 31 == 1 {
            Outcome::TooLarge
        } else if all(self.rest) & 0xffff != 0 {
            Outcome::TooFine
        } else {
            Outcome::Exact
        }
    }
}

/// The number whose two digits are those of these pairs.
#[inline(always)]
pub(super) fn joined(pairs: [u32; 2], is_second: bool) -> f32 {
    let [first, last] = pairs.map(|pair| f32::from_bits(if is_second { pair & 0xffff_0000 } else { pair << 16 }));
    first + last
}
