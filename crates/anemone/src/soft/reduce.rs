//! Reductions, softmax and normalization. Sums run in one order on every machine: along an axis whose elements lie
//! together in [`LANES`] interleaved parts, else element after element.

use super::math;
use super::simd::vectorized;
use super::threads;

const LANES: usize = 16;
/// Columns that are worked on together where the axis is not the innermost.
const COLUMNS: usize = 256;
/// The most rows of a softmax that are worked on together, and the elements that they have at most: 16 KiB, which
/// stay in the first cache.
const ROWS: usize = 8;
const MOST_TOGETHER: usize = 4096;

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Combine {
    Sum,
    SumOfSquares,
    SumOfSizes,
    Max,
    Min,
}

/// What is made of the combined elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Finish {
    Nothing,
    /// Divided by their number.
    Mean,
    Root,
    Log,
}

/// A reduction over any axes.
#[derive(Debug)]
pub(super) struct Reduce {
    combine: Combine,
    finish: Finish,
    /// Sizes, outermost first, and the steps in the result: 0 along axes that are reduced. Neighbours differ in
    /// which of both they are.
    sizes: Vec<usize>,
    steps: Vec<usize>,
    /// Elements reduced to one.
    n: usize,
}

impl Reduce {
    pub(super) fn new(combine: Combine, finish: Finish, shape: &[usize], axes: &[usize]) -> Reduce {
        let (mut sizes, mut reduced): (Vec<usize>, Vec<bool>) = (vec![], vec![]);
        for (axis, &d) in shape.iter().enumerate() {
            let is_reduced = axes.contains(&axis);
            match (sizes.last_mut(), reduced.last()) {
                _ if d == 1 => {}
                (Some(size), Some(&last)) if last == is_reduced => *size *= d,
                _ => {
                    sizes.push(d);
                    reduced.push(is_reduced);
                }
            }
        }
        let mut steps = vec![0; sizes.len()];
        let mut step = 1;
        for i in (0..sizes.len()).rev().filter(|&i| !reduced[i]) {
            steps[i] = step;
            step *= sizes[i];
        }
        let n = axes.iter().map(|&a| shape[a]).product();
        Reduce { combine, finish, sizes, steps, n }
    }

    pub(super) fn run(&self, x: &[f32], out: &mut [f32]) {
        // Outputs of different places of a leading axis that stays are apart.
        let unit = match (&self.sizes[..], self.steps.first()) {
            ([_, _, ..], Some(&step)) if step > 0 => step,
            _ => out.len(),
        };
        let n_units = out.len() / unit.max(1);
        let per_unit = x.len() / n_units.max(1);
        threads::over_units(x.len(), out, unit, |first, out| {
            let n = out.len() / unit.max(1);
            let x = &x[first * per_unit..][..n * per_unit];
            vectorized!('a, |_| (r: &'a Reduce = self, x: &'a [f32] = x, out: &'a mut [f32] = out, n: usize = n) {
                r.all(x, out, n);
            });
        });
    }

    /// Reduces `n` places of the leading axis if that stays.
    #[inline(always)]
    fn all(&self, x: &[f32], out: &mut [f32], n: usize) {
        out.fill(match self.combine {
            Combine::Max => f32::NEG_INFINITY,
            Combine::Min => f32::INFINITY,
            _ => 0.0,
        });
        match self.combine {
            Combine::Sum => self.nest(x, out, n, |x| x, |a, b| a + b),
            Combine::SumOfSquares => self.nest(x, out, n, |x| x * x, |a, b| a + b),
            Combine::SumOfSizes => self.nest(x, out, n, f32::abs, |a, b| a + b),
            Combine::Max => self.nest(x, out, n, |x| x, larger),
            Combine::Min => self.nest(x, out, n, |x| x, smaller),
        }
        match self.finish {
            Finish::Nothing => {}
            Finish::Mean => {
                let n = self.n as f32;
                out.iter_mut().for_each(|y| *y /= n);
            }
            Finish::Root => out.iter_mut().for_each(|y| *y = y.sqrt()),
            Finish::Log => out.iter_mut().for_each(|y| *y = math::ln(*y)),
        }
    }

    #[inline(always)]
    fn nest(
        &self,
        x: &[f32],
        out: &mut [f32],
        n: usize,
        map: impl Fn(f32) -> f32 + Copy,
        combine: impl Fn(f32, f32) -> f32 + Copy,
    ) {
        if x.is_empty() {
            return;
        }
        let (mut sizes, steps) = ([1usize; 16], &self.steps[..]);
        let rank = self.sizes.len();
        sizes[..rank].copy_from_slice(&self.sizes);
        if steps.first().is_some_and(|&s| s > 0) && rank > 1 {
            sizes[0] = n;
        }
        // The last two axes are loops of their own, the others count up.
        let (outer, rows, columns) = match rank {
            0 => (0, 1, 1),
            1 => (0, 1, x.len()),
            _ => (rank - 2, sizes[rank - 2], sizes[rank - 1]),
        };
        let (row_step, columns_stay) = match rank {
            0 => (0, false),
            1 => (0, steps[0] > 0),
            _ => (steps[rank - 2], steps[rank - 1] > 0),
        };
        let mut at = [0usize; 16];
        for x in x.chunks_exact(rows * columns) {
            let to: usize = at[..outer].iter().zip(steps).map(|(a, s)| a * s).sum();
            if columns_stay {
                let out = &mut out[to..][..columns];
                for row in x.chunks_exact(columns) {
                    out.iter_mut().zip(row).for_each(|(out, &x)| *out = combine(*out, map(x)));
                }
            } else {
                for (r, row) in x.chunks_exact(columns).enumerate() {
                    let out = &mut out[to + r * row_step];
                    *out = combine(*out, along(row, map, combine));
                }
            }
            for axis in (0..outer).rev() {
                at[axis] += 1;
                if at[axis] < sizes[axis] {
                    break;
                }
                at[axis] = 0;
            }
        }
    }
}

/// The larger one; NaN if either is.
#[inline(always)]
pub(super) fn larger(x: f32, y: f32) -> f32 {
    if x > y || x.is_nan() { x } else { y }
}

/// The smaller one; NaN if either is.
#[inline(always)]
pub(super) fn smaller(x: f32, y: f32) -> f32 {
    if x < y || x.is_nan() { x } else { y }
}

/// All of a row, which is not empty, combined.
#[inline(always)]
fn along(row: &[f32], map: impl Fn(f32) -> f32 + Copy, combine: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut rest = rest.iter().map(|&x| map(x));
    let Some((first, chunks)) = chunks.split_first() else {
        let first = rest.next().unwrap_or(0.0);
        return rest.fold(first, combine);
    };
    let mut lanes = first.map(map);
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, map(x));
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    rest.fold(lanes[0], combine)
}

#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    if row.is_empty() { 0.0 } else { along(row, |x| x, |a, b| a + b) }
}

/// One axis of `[outer, n, inner]` along which something is done.
#[derive(Debug)]
pub(super) struct Along {
    pub(super) n: usize,
    pub(super) inner: usize,
}

impl Along {
    /// `e^x / sum(e^x)`.
    pub(super) fn softmax(&self, x: &[f32], out: &mut [f32]) {
        let unit = self.n * self.inner;
        threads::over_units(4 * x.len(), out, unit, |first, out| {
            let x = &x[first * unit..][..out.len()];
            vectorized!('a, |_| (along: &'a Along = self, x: &'a [f32] = x, out: &'a mut [f32] = out) {
                let unit = along.n * along.inner;
                if along.inner == 1 {
                    let some = (MOST_TOGETHER / unit).clamp(1, ROWS) * unit;
                    for (x, out) in x.chunks(some).zip(out.chunks_mut(some)) {
                        softmax_rows(unit, x, out);
                    }
                } else {
                    for (x, out) in x.chunks_exact(unit).zip(out.chunks_exact_mut(unit)) {
                        along.softmax_columns(x, out);
                    }
                }
            });
        });
    }

    #[inline(always)]
    fn softmax_columns(&self, x: &[f32], out: &mut [f32]) {
        let (mut largest, mut sums) = ([0.0; COLUMNS], [0.0; COLUMNS]);
        for from in (0..self.inner).step_by(COLUMNS) {
            let width = COLUMNS.min(self.inner - from);
            let (largest, sums) = (&mut largest[..width], &mut sums[..width]);
            self.largest(x, from, largest);
            sums.fill(0.0);
            for (x, out) in x.chunks_exact(self.inner).zip(out.chunks_exact_mut(self.inner)) {
                let (x, out) = (&x[from..][..width], &mut out[from..][..width]);
                for (((out, &x), &largest), sum) in out.iter_mut().zip(x).zip(&*largest).zip(&mut *sums) {
                    *out = math::exp(x - largest);
                    *sum += *out;
                }
            }
            sums.iter_mut().for_each(|s| *s = 1.0 / *s);
            for out in out.chunks_exact_mut(self.inner) {
                out[from..][..width].iter_mut().zip(&*sums).for_each(|(out, s)| *out *= s);
            }
        }
    }

    #[inline(always)]
    fn largest(&self, x: &[f32], from: usize, largest: &mut [f32]) {
        largest.fill(f32::NEG_INFINITY);
        for x in x.chunks_exact(self.inner) {
            largest.iter_mut().zip(&x[from..]).for_each(|(l, &x)| *l = larger(*l, x));
        }
    }

    /// `ln(sum(e^x))`.
    pub(super) fn log_sum_exp(&self, x: &[f32], out: &mut [f32]) {
        let unit = self.n * self.inner;
        threads::over_units(3 * x.len(), out, self.inner, |first, out| {
            let x = &x[first * unit..];
            vectorized!('a, |_| (along: &'a Along = self, x: &'a [f32] = x, out: &'a mut [f32] = out) {
                let x = x.chunks_exact(along.n * along.inner);
                for (x, out) in x.zip(out.chunks_exact_mut(along.inner)) {
                    along.log_sum_exp_columns(x, out);
                }
            });
        });
    }

    #[inline(always)]
    fn log_sum_exp_columns(&self, x: &[f32], out: &mut [f32]) {
        if self.inner == 1 {
            let largest = along(x, |x| x, larger);
            let sum = along(x, |x| math::exp(x - largest), |a, b| a + b);
            out[0] = if largest.is_finite() { largest + math::ln(sum) } else { largest };
            return;
        }
        let (mut largest, mut sums) = ([0.0; COLUMNS], [0.0; COLUMNS]);
        for from in (0..self.inner).step_by(COLUMNS) {
            let width = COLUMNS.min(self.inner - from);
            let (largest, sums) = (&mut largest[..width], &mut sums[..width]);
            self.largest(x, from, largest);
            sums.fill(0.0);
            for x in x.chunks_exact(self.inner) {
                for ((&x, &largest), sum) in x[from..][..width].iter().zip(&*largest).zip(&mut *sums) {
                    *sum += math::exp(x - largest);
                }
            }
            for ((out, &largest), &sum) in out[from..].iter_mut().zip(&*largest).zip(&*sums) {
                let y = largest + math::ln(sum);
                *out = if largest.is_finite() { y } else { largest };
            }
        }
    }

    /// `(x - mean) / sqrt(variance + epsilon) gamma + beta`, the statistics and the factors along the axis.
    pub(super) fn layer_norm(
        &self,
        x: &[f32],
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        epsilon: f32,
        out: &mut [f32],
    ) {
        let unit = self.n * self.inner;
        threads::over_units(3 * x.len(), out, unit, |first, out| {
            let x = &x[first * unit..][..out.len()];
            vectorized!(
            'a,
            |_| (along: &'a Along = self,
                             x: &'a [f32] = x,
                             factors: (Option<&'a [f32]>, Option<&'a [f32]>) = (gamma, beta),
                             epsilon: f32 = epsilon,
                             out: &'a mut [f32] = out) {
                                let unit = along.n * along.inner;
                                for (x, out) in x.chunks_exact(unit).zip(out.chunks_exact_mut(unit)) {
                                    if along.inner == 1 {
                                        layer_norm_row(x, factors.0, factors.1, epsilon, out);
                                    } else {
                                        along.layer_norm_columns(x, factors.0, factors.1, epsilon, out);
                                    }
                                }
                            }
                        );
        });
    }

    #[inline(always)]
    fn layer_norm_columns(
        &self,
        x: &[f32],
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        epsilon: f32,
        out: &mut [f32],
    ) {
        let (mut means, mut factors) = ([0.0; COLUMNS], [0.0; COLUMNS]);
        let n = self.n as f32;
        for from in (0..self.inner).step_by(COLUMNS) {
            let width = COLUMNS.min(self.inner - from);
            let (means, factors) = (&mut means[..width], &mut factors[..width]);
            let rows = || x.chunks_exact(self.inner).map(|x| &x[from..][..width]);
            means.fill(0.0);
            rows().for_each(|x| means.iter_mut().zip(x).for_each(|(m, x)| *m += x));
            means.iter_mut().for_each(|m| *m /= n);
            factors.fill(0.0);
            for x in rows() {
                for ((f, &x), &mean) in factors.iter_mut().zip(x).zip(&*means) {
                    *f += (x - mean) * (x - mean);
                }
            }
            factors.iter_mut().for_each(|f| *f = 1.0 / (*f / n + epsilon).sqrt());
            for (r, (x, out)) in rows().zip(out.chunks_exact_mut(self.inner)).enumerate() {
                let (g, b) = (gamma.map_or(1.0, |g| g[r]), beta.map_or(0.0, |b| b[r]));
                let out = &mut out[from..][..width];
                for (((out, &x), &mean), &f) in out.iter_mut().zip(x).zip(&*means).zip(&*factors) {
                    *out = (x - mean) * f * g + b;
                }
            }
        }
    }
}

/// Of rows of `n`, at most [`ROWS`], one pass after another: what one row waits for, the others do meanwhile.
#[inline(always)]
fn softmax_rows(n: usize, x: &[f32], out: &mut [f32]) {
    let mut of_row = [0.0; ROWS];
    for (largest, x) in of_row.iter_mut().zip(x.chunks_exact(n)) {
        *largest = along(x, |x| x, larger);
    }
    for ((out, x), &largest) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(&of_row) {
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = math::exp(x - largest));
    }
    for (factor, out) in of_row.iter_mut().zip(out.chunks_exact(n)) {
        *factor = 1.0 / sum(out);
    }
    for (out, factor) in out.chunks_exact_mut(n).zip(&of_row) {
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

#[inline(always)]
fn layer_norm_row(x: &[f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, epsilon: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let variance = along(x, |x| (x - mean) * (x - mean), |a, b| a + b) / n;
    let factor = 1.0 / (variance + epsilon).sqrt();
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = (x - mean) * factor);
    if let Some(gamma) = gamma {
        out.iter_mut().zip(gamma).for_each(|(out, g)| *out *= g);
    }
    if let Some(beta) = beta {
        out.iter_mut().zip(beta).for_each(|(out, b)| *out += b);
    }
}
