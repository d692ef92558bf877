//! Products of matrices as the engine sums them: in fixed point, 16 bits before and 16 behind the point.
//!
//! Each product of two fp16 numbers is rounded to a multiple of 2^-16, the middle away from zero, or dropped if the two
//! exponents sum to less than -16. A sum whose size reaches 32768, be it for a moment, is infinite from then on. So
//! terms are added in the order of the contracted axis.
//!
//! Where the sizes of the operands say that nothing can overflow and no product reaches 64, sums are kept as `i32` and
//! products rounded by adding a large f32 number, which is quick; elsewhere sums are kept in f64. Both are exact, so it
//! does not show which was taken.

use super::numbers::{decode, exponent, round};
use pulp::{Arch, Simd, WithSimd};

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
            Arch::new().dispatch(Rows { shape: self, a, b, start, first, rows, out, scratch });
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
            _ => self.all::<S, 4, 4>(simd),
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
        // Numbers of A are scaled so that products are in multiples of 2^-16.
        if transposed.0 {
            turn(&self.a[self.first..], m, k, self.rows, a);
            a.iter_mut().for_each(|x| *x = decode(*x));
        } else {
            a.iter_mut().zip(&self.a[self.first * k..]).for_each(|(to, &x)| *to = decode(x));
        }
        for (x, least) in a.iter_mut().zip(&mut *least) {
            *least = LEAST_EXPONENT - exponent(*x);
            *x *= UNIT as f32;
        }
        for j in (0..n).step_by(width) {
            let columns = width.min(n - j);
            let (b, exponents) = (&mut b[..k * width], &mut exponents[..k * width]);
            if columns < width {
                b.fill(0.0);
            }
            if transposed.1 {
                for (c, column) in self.b[j * k..][..columns * k].chunks_exact(k.max(1)).enumerate() {
                    b[c..].iter_mut().step_by(width).zip(column).for_each(|(to, &x)| *to = x);
                }
            } else {
                for (to, from) in b.chunks_exact_mut(width).zip(self.b.chunks_exact(n)) {
                    to[..columns].copy_from_slice(&from[j..][..columns]);
                }
            }
            let mut most = 0f32;
            for (x, e) in b.iter_mut().zip(&mut *exponents) {
                *x = decode(*x);
                *e = exponent(*x);
                most = if x.abs() > most { x.abs() } else { most };
            }
            let right = Right { x: b, exponents };
            for i in (0..self.rows).step_by(R) {
                let rows = R.min(self.rows - i);
                let left = Left { x: &a[i * k..][..rows * k], least: &least[i * k..][..rows * k], k };
                let mut starts = [[0f64; MOST_COLUMNS]; MOST_ROWS];
                for (r, row) in starts[..rows].iter_mut().enumerate() {
                    match self.start {
                        Start::Zero => {}
                        Start::Rows(x) => row.fill(in_units(x[self.first + i + r])),
                        Start::Columns(x) => {
                            row.iter_mut().zip(&x[j..][..columns]).for_each(|(to, &x)| *to = in_units(x));
                        }
                    }
                }
                if is_narrow(&left, f64::from(most), &starts) {
                    narrow::<S, R, V>(simd, &left, &right, &mut starts);
                } else {
                    wide(&left, &right, width, &mut starts);
                }
                for (r, row) in starts[..rows].iter().enumerate() {
                    let to = &mut self.out[(i + r) * n + j..][..columns];
                    to.iter_mut().zip(row).for_each(|(to, &sum)| *to = result(sum));
                }
            }
        }
    }
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
    let rounded = round(sum / UNIT);
    if sum.abs() < OVERFLOW { rounded } else { f32::INFINITY.copysign(sum as f32) }
}

/// Whether no product reaches 64 and no sum can overflow, on the way or at last.
#[inline(always)]
fn is_narrow(left: &Left<'_>, most: f64, starts: &[[f64; MOST_COLUMNS]; MOST_ROWS]) -> bool {
    let (mut largest, mut sum) = (0f32, 0f64);
    for row in left.x.chunks_exact(left.k.max(1)) {
        // Lanes, so that neither waits for the one before.
        let (mut sums, mut tops) = ([0f32; 16], [0f32; 16]);
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for ((sum, top), x) in sums.iter_mut().zip(&mut tops).zip(chunk) {
                *sum += x.abs();
                *top = if x.abs() > *top { x.abs() } else { *top };
            }
        }
        for x in rest {
            sums[0] += x.abs();
            tops[0] = if x.abs() > tops[0] { x.abs() } else { tops[0] };
        }
        sum = sum.max(sums.iter().map(|&x| f64::from(x)).sum());
        largest = tops.iter().fold(largest, |a, &b| a.max(b));
    }
    let start = starts.iter().flatten().fold(0f64, |a, x| a.max(x.abs()));
    // The sum of f32 numbers may be off, by far less than this.
    let bound = 1.01 * sum * most + left.k as f64 + start;
    f64::from(largest) * most < f64::from(1 << 22) && bound < OVERFLOW
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
    let b = right.x.chunks_exact(V * lanes).zip(right.exponents.chunks_exact(V * lanes));
    for (l, (b, exponents)) in b.take(k).enumerate() {
        let (b, exponents) = (S::as_simd_f32s(b).0, S::as_simd_f32s(exponents).0);
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
fn rows_of(x: &[f32], k: usize, row: usize) -> &[f32] {
    &x[row * k..][..k]
}

/// Adds any products; sums that overflow stay as they are then.
#[inline(always)]
fn wide(left: &Left<'_>, right: &Right<'_>, width: usize, sums: &mut [[f64; MOST_COLUMNS]; MOST_ROWS]) {
    let k = left.k.max(1);
    let rows = left.x.chunks_exact(k).zip(left.least.chunks_exact(k));
    for ((a, least), sums) in rows.zip(sums) {
        let b = right.x.chunks_exact(width).zip(right.exponents.chunks_exact(width));
        for ((&a, &least), (b, exponents)) in a.iter().zip(least).zip(b) {
            for ((sum, &b), &e) in sums[..width].iter_mut().zip(b).zip(exponents) {
                let product = whole(f64::from(a) * f64::from(b));
                let product = if e >= least { product } else { 0.0 };
                *sum = if sum.abs() < OVERFLOW { *sum + product } else { *sum };
            }
        }
    }
}

/// Writes `rows` columns of `x` `[k, m]` as rows of `out`, a few at a time so that they stay near.
#[inline(always)]
fn turn(x: &[f32], m: usize, k: usize, rows: usize, out: &mut [f32]) {
    const NEAR: usize = 16;
    for from in (0..k).step_by(NEAR) {
        for (r, out) in out.chunks_exact_mut(k).take(rows).enumerate() {
            for (l, to) in out.iter_mut().enumerate().skip(from).take(NEAR) {
                *to = x[l * m + r];
            }
        }
    }
}
