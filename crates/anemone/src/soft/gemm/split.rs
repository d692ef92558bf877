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

impl Matrix<'_> {
    /// As [`split`](Matrix::split), into so many digits.
    #[inline(always)]
    pub(super) fn split_into<S: Simd>(
        self,
        simd: S,
        lines: &Range<usize>,
        terms: Range<usize>,
        n_digits: usize,
        by_line: bool,
        out: &mut [Tile],
    ) -> Outcome {
        match n_digits {
            2 => self.split::<S, 2>(simd, lines, terms, by_line, out),
            _ => self.split::<S, MOST_DIGITS>(simd, lines, terms, by_line, out),
        }
    }

    /// Splits these lines, a tile's at most, and terms into blocks of `D` tiles, from the first digits to the
    /// last, filled up with 0. A row of a tile belongs to a line if `by_line`, or else to a pair of terms.
    #[inline(always)]
    fn split<S: Simd, const D: usize>(
        self,
        simd: S,
        lines: &Range<usize>,
        terms: Range<usize>,
        by_line: bool,
        out: &mut [Tile],
    ) -> Outcome {
        let mut seen = Seen::new(simd);
        for (i, out) in out.as_chunks_mut::<D>().0.iter_mut().enumerate() {
            let from = terms.start + i * BLOCK_TERMS;
            let here = from..terms.end.min(from + BLOCK_TERMS);
            let (from, n, width, whole) = if self.is_by_line {
                (lines.start * self.step + here.start, lines.len(), here.len(), BLOCK_TERMS)
            } else {
                (here.start * self.step + lines.start, here.len(), lines.len(), TILE)
            };
            let x = &self.x[from..];
            if lines.len() == TILE && here.len() == BLOCK_TERMS {
                self.split_block(x, self.step, &mut seen, out);
            } else {
                let mut edge = [0.0; TILE * BLOCK_TERMS];
                for (edge, x) in edge.chunks_exact_mut(whole).zip(x.chunks(self.step)).take(n) {
                    edge[..width].copy_from_slice(&x[..width]);
                }
                self.split_block(&edge, whole, &mut seen, out);
            }
            if self.is_by_line != by_line {
                for tile in out {
                    turn_tile(simd, tile);
                }
            }
        }
        seen.outcome()
    }

    /// Splits a block whose rows, lines or terms, are `step` apart.
    #[inline(always)]
    fn split_block<S: Simd, const D: usize>(
        self,
        x: &[f32],
        step: usize,
        seen: &mut Seen<S>,
        out: &mut [Tile; D],
    ) {
        let ahead = if self.is_by_line { BLOCK_TERMS } else { TILE };
        for r in 0..TILE {
            let at = if self.is_by_line { [r * step, r * step + TILE] } else { [r * step, (r + TILE) * step] };
            // What comes after is what is split next.
            for at in at {
                if let Some(next) = x.get(at + ahead..at + ahead + TILE) {
                    prefetch(next);
                }
            }
            let [Some(x), Some(y)] = at.map(|at| x[at..].first_chunk()) else { break };
            seen.split(x, y, self.rounds, out, r);
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
        out: &mut [Tile; D],
        r: usize,
    ) {
        let simd = self.simd;
        let [digit, half] = [0xffff_0000, 16].map(|x| simd.splat_u32s(x));
        for (i, (&x, &y)) in S::as_simd_f32s(x).0.iter().zip(S::as_simd_f32s(y).0).enumerate() {
            let mut pair = [x, y];
            for x in &mut pair {
                if rounds {
                    *x = fp16::round_vector(simd, *x);
                }
                self.look(*x);
            }
            for (d, out) in out.iter_mut().enumerate() {
                let bits = pair.map(|x| simd.transmute_u32s_f32s(x));
                if d + 1 == D {
                    self.rest = simd.or_u32s(self.rest, simd.or_u32s(bits[0], bits[1]));
                }
                let digits = bits.map(|x| simd.and_u32s(x, digit));
                let row = S::as_mut_simd_u32s(&mut out[r]).0;
                row[i] = simd.or_u32s(simd.wrapping_dyn_shr_u32s(digits[0], half), digits[1]);
                for (x, digit) in pair.iter_mut().zip(digits) {
                    // Without rounding, as no bit of the difference is new.
                    *x = simd.sub_f32s(*x, simd.transmute_f32s_u32s(digit));
                }
            }
        }
    }

    #[inline(always)]
    fn look(&mut self, x: S::f32s) {
        let simd = self.simd;
        let bits = simd.and_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(0x7fff_ffff));
        let sum = simd.add_u32s(bits, simd.splat_u32s((1 << 31) - TOO_LARGE));
        self.magnitude = simd.or_u32s(self.magnitude, sum);
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
