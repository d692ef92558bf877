//! Products of matrices as the engine sums them: in fixed point, 16 bits before and 16 behind the point.
//!
//! Each product of two fp16 numbers is rounded to a multiple of 2^-16, the middle away from zero, or dropped if
//! the two exponents sum to less than -16. A sum whose size reaches 32768, be it for a moment, is infinite from
//! then on. So terms are added in the order of the contracted axis.
//!
//! Where the sizes of the operands say that nothing can overflow and no product reaches 64, sums are kept as `i32`
//! and products rounded by adding a large f32 number, which is quick; elsewhere sums are kept in f64. Both are
//! exact, so it does not show which was taken.

use super::numbers::{decode, exponent, round};
use pulp::{Simd, WithSimd};

/// `C[m, n] = A[m, k] B[k, n]`, dense and row-major.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    /// Whether A lies as `[k, m]`, B as `[n, k]`.
    pub(super) transposed: (bool, bool),
}

/// What sums begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    Zero,
    /// A number for each row.
    Rows(&'a [f32]),
    /// A number for each column.
    Columns(&'a [f32]),
}

/// Multiples of 2^-16 in a unit.
const UNIT: f64 = 65536.0;
/// The size of a sum in multiples of 2^-16 that the register does not hold.
const OVERFLOW: f64 = 2_147_483_648.0;
/// The least sum of two exponents whose product is not dropped.
const LEAST_EXPONENT: f32 = -16.0;
/// Columns that are worked on together, at most.
const MOST_COLUMNS: usize = 32;
/// Lanes of a loop that is not written by registers; columns that are worked on together are a multiple of it.
const LANES: usize = 16;
/// Rows that are worked on together, at most.
const MOST_ROWS: usize = 8;
/// 1.5 2^23: its sum with a number of a size below 2^22 has no room for a fraction.
const MAGIC: f32 = 12_582_912.0;
/// The same for f64: 1.5 2^52.
const WIDE_MAGIC: f64 = 6_755_399_441_055_744.0;

impl Shape {
    /// Elementary operations of a product, a few for each of its terms.
    pub(super) fn work(self) -> usize {
        self.m * self.k * self.n / 2
    }

    /// Room for the operands as they are worked on, each number with its exponent.
    pub(super) fn n_scratch(self) -> usize {
        2 * self.k * (self.m + self.n.next_multiple_of(MOST_COLUMNS))
    }

    /// Writes the rows of the product from `first` on, as many as there are in `out`.
    pub(super) fn rows(
        self,
        (a, b, start): (&[f32], &[f32], Start<'_>),
        first: usize,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert!(a.len() == self.m * self.k && b.len() == self.k * self.n && scratch.len() >= self.n_scratch());
        if self.n > 0 && !out.is_empty() {
            let rows = out.len() / self.n;
            assert!(first + rows <= self.m && out.len() == rows * self.n);
            crate::soft::simd::dispatch(Rows { shape: self, a, b, start, first, rows, out, scratch });
        }
    }
}

pub(super) struct Rows<'a> {
    pub(super) shape: Shape,
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) start: Start<'a>,
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) out: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    // Sums are half of the registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 if self.shape.n > 16 => self.all::<S, 8, 2>(simd),
            16 => self.all::<S, 8, 1>(simd),
            8 => self.all::<S, 4, 2>(simd),
            4 => self.all::<S, 4, 4>(simd),
            _ => self.all::<S, 4, 16>(simd),
        }
    }
}

/// Rows of A with, for each number, the exponent that a number of B must have so that their product counts.
struct Left<'a> {
    x: &'a [f32],
    least: &'a [f32],
    k: usize,
}

/// Columns of B, as many in each row as registers hold, with the exponents of the numbers.
struct Right<'a> {
    x: &'a [f32],
    exponents: &'a [f32],
}

impl Rows<'_> {
    #[inline(always)]
    fn all<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Shape { m, k, n, transposed } = self.shape;
        let width = V * S::F32_LANES;
        let (a, rest) = self.scratch.split_at_mut(self.rows * k);
        let (least, rest) = rest.split_at_mut(self.rows * k);
        let (b, exponents) = rest.split_at_mut(rest.len() / 2);
        if !transposed.0 {
            a.copy_from_slice(&self.a[self.first * k..][..self.rows * k]);
        } else if k > 0 {
            turn(&self.a[self.first..], m, k, a);
        }
        for (x, least) in a.iter_mut().zip(&mut *least) {
            let decoded = decode(*x);
            *least = LEAST_EXPONENT - exponent(decoded);
            // Scaled, so that products are in multiples of 2^-16.
            *x = decoded * UNIT as f32;
        }
        let bounds = Bounds::new(a, k, self.start);
        for j in (0..n).step_by(width) {
            let columns = width.min(n - j);
            let (b, exponents) = (&mut b[..k * width], &mut exponents[..k * width]);
            if columns < width {
                b.fill(0.0);
            }
            if transposed.1 {
                turn_columns(&self.b[j * k..][..columns * k], k, width, b);
            } else {
                for (to, from) in b.chunks_exact_mut(width).zip(self.b.chunks_exact(n)) {
                    to[..columns].copy_from_slice(&from[j..][..columns]);
                }
            }
            for (x, e) in b.iter_mut().zip(&mut *exponents) {
                *x = decode(*x);
                *e = exponent(*x);
            }
            let is_narrow = bounds.are_narrow(largest(b));
            let right = Right { x: b, exponents };
            for i in (0..self.rows).step_by(R) {
                let rows = R.min(self.rows - i);
                let left = Left { x: &a[i * k..][..rows * k], least: &least[i * k..][..rows * k], k };
                let mut sums = [[0f64; MOST_COLUMNS]; MOST_ROWS];
                match self.start {
                    Start::Zero => {}
                    Start::Rows(x) => {
                        for (row, &x) in sums.iter_mut().zip(&x[self.first + i..][..rows]) {
                            row.fill(in_units(x));
                        }
                    }
                    Start::Columns(x) => {
                        for row in &mut sums[..rows] {
                            for (to, &x) in row.iter_mut().zip(&x[j..][..columns]) {
                                *to = in_units(x);
                            }
                        }
                    }
                }
                if is_narrow {
                    narrow::<S, R, V>(simd, &left, &right, &mut sums);
                } else {
                    wide(&left, &right, width, &mut sums);
                }
                for (r, row) in sums[..rows].iter().enumerate() {
                    for (to, &sum) in self.out[(i + r) * n + j..][..columns].iter_mut().zip(row) {
                        *to = result(sum);
                    }
                }
            }
        }
    }
}

/// How large sums can become.
struct Bounds {
    /// The largest number of A.
    largest: f64,
    /// The largest sum of the sizes of a row's numbers.
    sum: f64,
    /// The largest size that a sum starts from, and what rounding can add.
    start: f64,
}

impl Bounds {
    /// Of rows of `k` numbers that are scaled to multiples of 2^-16.
    #[inline(always)]
    fn new(a: &[f32], k: usize, start: Start<'_>) -> Bounds {
        let mut sum = 0f64;
        for row in a.chunks_exact(k.max(1)) {
            // Lanes, so that none waits for the one before.
            let mut sums = [0f32; LANES];
            let (chunks, rest) = row.as_chunks::<LANES>();
            for chunk in chunks {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum += x.abs();
                }
            }
            for (sum, x) in sums.iter_mut().zip(rest) {
                *sum += x.abs();
            }
            let mut total = 0f32;
            for x in sums {
                total += x;
            }
            sum = if f64::from(total) > sum { total.into() } else { sum };
        }
        let start = match start {
            Start::Zero => 0.0,
            Start::Rows(x) | Start::Columns(x) => {
                let mut most = 0f32;
                for &x in x {
                    let x = decode(x).abs();
                    most = if x > most { x } else { most };
                }
                f64::from(most) * UNIT
            }
        };
        Bounds { largest: largest(a), sum, start: start + k as f64 + 1.0 }
    }

    /// Whether with numbers of B up to this no product reaches 64 and no sum can overflow, on the way or at last.
    #[inline(always)]
    fn are_narrow(&self, most: f64) -> bool {
        // The f32 sum of the sizes may be off, by far less than this.
        self.largest * most < f64::from(1 << 22) && 1.01 * self.sum * most + self.start < OVERFLOW
    }
}

/// The largest size.
#[inline(always)]
fn largest(x: &[f32]) -> f64 {
    let mut tops = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = if x.abs() > *top { x.abs() } else { *top };
        }
    }
    let mut most = 0f32;
    for x in tops.iter().chain(rest) {
        most = if x.abs() > most { x.abs() } else { most };
    }
    most.into()
}

/// A number rounded to a multiple of 2^-16, in such multiples.
#[inline(always)]
fn in_units(x: f32) -> f64 {
    whole(f64::from(decode(x)) * UNIT)
}

/// The nearest whole number, the middle away from zero, of a number of at most 22 bits and below 2^50.
#[inline(always)]
fn whole(x: f64) -> f64 {
    // A number further from zero by the last of its 52 bits is on the same side of the middle, or beyond it.
    (f64::from_bits(x.to_bits() + 1) + WIDE_MAGIC) - WIDE_MAGIC
}

/// What becomes of a sum.
#[inline(always)]
fn result(sum: f64) -> f32 {
    let rounded = round(sum * (1.0 / UNIT));
    if sum.abs() < OVERFLOW { rounded } else { f32::INFINITY.copysign(sum as f32) }
}

/// Adds the products, none of which reaches 64, to sums that do not overflow.
#[inline(always)]
fn narrow<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: &Left<'_>,
    right: &Right<'_>,
    sums: &mut [[f64; MOST_COLUMNS]; MOST_ROWS],
) {
    let Left { k, .. } = *left;
    let lanes = S::F32_LANES;
    let last = left.x.len() / k.max(1);
    // Rows that are not there are computed as the last one again, for nobody.
    let row = |x| -> [&[f32]; R] { std::array::from_fn(|r| rows_of(x, k, r.min(last.saturating_sub(1)))) };
    let (a, least) = (row(left.x), row(left.least));
    let (magic, one) = (simd.splat_f32s(MAGIC), simd.splat_u32s(1));
    let none = simd.transmute_u32s_f32s(magic);
    // Each term brings the bits of the large number along.
    let first = 0u32.wrapping_sub(MAGIC.to_bits().wrapping_mul(k as u32));
    let mut total = [[simd.splat_u32s(first); V]; R];
    for l in 0..k {
        let at = |x| -> [S::f32s; V] { std::array::from_fn(|v| S::as_simd_f32s(columns_of::<S, V>(x, l)).0[v]) };
        let (b, exponents) = (at(right.x), at(right.exponents));
        for r in 0..R {
            let (x, least) = (simd.splat_f32s(a[r][l]), simd.splat_f32s(least[r][l]));
            for v in 0..V {
                let product = simd.mul_f32s(x, b[v]);
                // Exact products leave the last two bits free: one more there moves the middle, and nothing else.
                let bits = simd.add_u32s(simd.transmute_u32s_f32s(product), one);
                let rounded = simd.add_f32s(simd.transmute_f32s_u32s(bits), magic);
                let counts = simd.greater_than_or_equal_f32s(exponents[v], least);
                let term = simd.select_u32s(counts, simd.transmute_u32s_f32s(rounded), none);
                total[r][v] = simd.add_u32s(total[r][v], term);
            }
        }
    }
    let mut values = [0u32; MOST_COLUMNS];
    for (sums, total) in sums.iter_mut().zip(&total) {
        for (to, total) in values.chunks_exact_mut(lanes).zip(total) {
            simd.partial_store_u32s(to, *total);
        }
        for (sum, &value) in sums[..V * lanes].iter_mut().zip(&values) {
            *sum += f64::from(value as i32);
        }
    }
}

#[inline(always)]
fn columns_of<S: Simd, const V: usize>(x: &[f32], l: usize) -> &[f32] {
    &x[l * V * S::F32_LANES..][..V * S::F32_LANES]
}

#[inline(always)]
fn rows_of(x: &[f32], k: usize, row: usize) -> &[f32] {
    &x[row * k..][..k]
}

/// Adds any products; sums that overflow stay as they are then.
#[inline(always)]
fn wide(left: &Left<'_>, right: &Right<'_>, width: usize, sums: &mut [[f64; MOST_COLUMNS]; MOST_ROWS]) {
    let k = left.k.max(1);
    let rows = left.x.chunks_exact(k).zip(left.least.chunks_exact(k));
    for ((a, least), sums) in rows.zip(sums) {
        for (c, to) in sums[..width].as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut sums = *to;
            for (l, (&a, &least)) in a.iter().zip(least).enumerate() {
                let at = l * width + c * LANES;
                let b = right.x[at..][..LANES].iter().zip(&right.exponents[at..][..LANES]);
                for (sum, (&b, &e)) in sums.iter_mut().zip(b) {
                    let product = whole(f64::from(a) * f64::from(b));
                    let product = if e >= least { product } else { 0.0 };
                    *sum = if sum.abs() < OVERFLOW { *sum + product } else { *sum };
                }
            }
            *to = sums;
        }
    }
}

/// Writes columns of `x` `[k, m]` as rows of `out`, a few at a time so that they stay near.
#[inline(always)]
fn turn(x: &[f32], m: usize, k: usize, out: &mut [f32]) {
    const NEAR: usize = 16;
    for from in (0..k).step_by(NEAR) {
        for (r, out) in out.chunks_exact_mut(k).enumerate() {
            for (l, to) in out.iter_mut().enumerate().skip(from).take(NEAR) {
                *to = x[l * m + r];
            }
        }
    }
}

/// Writes rows of `k` numbers as columns of rows of `width` numbers.
#[inline(always)]
fn turn_columns(x: &[f32], k: usize, width: usize, out: &mut [f32]) {
    const NEAR: usize = 16;
    for (block, out) in out.chunks_mut(NEAR * width).enumerate() {
        for (c, row) in x.chunks_exact(k.max(1)).enumerate() {
            for (out, &x) in out.chunks_exact_mut(width).zip(&row[block * NEAR..]) {
                out[c] = x;
            }
        }
    }
}
