//! Convolutions by matrix products over windows laid out in columns, and pooling.

use super::gemm::{self, Gemm, Left, Rounding, Start};
use super::reduce::larger;
use super::simd::vectorized;
use super::threads;

/// Elements of the windows that are laid out at a time; in tests few, so that small images take several turns.
const MOST_LAID_OUT: usize = if cfg!(test) { 1 << 10 } else { 1 << 17 };

/// Which elements of an image of two axes each window looks at.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    pub(super) image: [usize; 2],
    pub(super) kernel: [usize; 2],
    /// The number of windows along each axis.
    pub(super) out: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    /// Elements of padding before and after each axis.
    pub(super) before: [usize; 2],
    pub(super) after: [usize; 2],
}

impl Windows {
    fn n_image(&self) -> usize {
        self.image[0] * self.image[1]
    }

    fn n_kernel(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn n_out(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// For a kernel position along an axis, the windows whose element there lies in the image, and where that of
    /// the first of them lies.
    fn inside(&self, axis: usize, k: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, at, before) = (self.strides[axis], k * self.dilations[axis], self.before[axis]);
        let first = before.saturating_sub(at).div_ceil(stride);
        let end = (self.image[axis] + before).saturating_sub(at).div_ceil(stride).min(self.out[axis]);
        (first..end.max(first), (first * stride + at).saturating_sub(before))
    }

    /// Calls `f(window, element, n, stride)` for each row of `n` windows that find their element under kernel
    /// position `(ky, kx)` in the image: the numbers of the first window and of its element.
    #[inline(always)]
    fn rows(&self, ky: usize, kx: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
        let ((ys, y0), (xs, x0)) = (self.inside(0, ky), self.inside(1, kx));
        if xs.is_empty() {
            return;
        }
        for (i, y) in ys.enumerate() {
            let element = (y0 + i * self.strides[0]) * self.image[1] + x0;
            f(y * self.out[1] + xs.start, element, xs.len(), self.strides[1]);
        }
    }

    /// How many positions of each window count: those in the image, or those not behind its padding.
    pub(super) fn counts(&self, in_image_only: bool) -> Vec<f32> {
        let along = |axis: usize| {
            let count = |p: usize| {
                let at = |k: usize| p * self.strides[axis] + k * self.dilations[axis];
                let end = self.before[axis] + self.image[axis] + if in_image_only { 0 } else { self.after[axis] };
                let begin = if in_image_only { self.before[axis] } else { 0 };
                (0..self.kernel[axis]).filter(|&k| (begin..end).contains(&at(k))).count()
            };
            (0..self.out[axis]).map(count).collect::<Vec<_>>()
        };
        let (rows, columns) = (along(0), along(1));
        rows.iter().flat_map(|r| columns.iter().map(move |c| (r * c).max(1) as f32)).collect()
    }
}

/// A convolution of `[N, groups I, ...]` by `[groups O, I, kernel]`, or its transpose, of `[N, groups I, ...]` by
/// `[groups I, O, kernel]`, whose windows lie on the result.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) windows: Windows,
    pub(super) transposed: bool,
    pub(super) groups: usize,
    /// Channels of a group.
    pub(super) n_in: usize,
    pub(super) n_out: usize,
}

impl Conv {
    fn n_terms(&self) -> usize {
        self.n_in * self.windows.n_kernel()
    }

    /// Columns that are laid out at a time.
    fn n_columns(&self) -> usize {
        (MOST_LAID_OUT / self.n_terms().max(1)).max(16)
    }

    pub(super) fn n_scratch(&self) -> usize {
        let laid_out = match self.transposed {
            false => self.n_columns() * (self.n_terms() + self.n_out),
            true => self.n_out * self.windows.n_kernel() * self.windows.n_out(),
        };
        laid_out + self.product(self.n_columns()).n_scratch(1)
    }

    /// The product of the weights with windows laid out, or with what windows are made of.
    fn product(&self, columns: usize) -> Gemm {
        match self.transposed {
            false => Gemm { m: self.n_out, k: self.n_terms(), n: columns, transposed: (false, false) },
            true => Gemm {
                m: self.n_out * self.windows.n_kernel(),
                k: self.n_in,
                n: self.windows.n_out(),
                transposed: (true, false),
            },
        }
    }

    pub(super) fn run(&self, (x, w, bias): (&[f32], &[f32], Option<&[f32]>), out: &mut [f32]) {
        let w_ = &self.windows;
        let (size_in, size_out) =
            if self.transposed { (w_.n_out(), w_.n_image()) } else { (w_.n_image(), w_.n_out()) };
        let (unit, per_image) = (self.groups * self.n_out * size_out, self.groups * self.n_in * size_in);
        let n_images = out.len() / unit.max(1);
        let work = n_images * self.groups * self.n_in * self.n_out * w_.n_kernel() * w_.n_out() / 8;
        threads::over_units_with(work, out, unit, self.n_scratch(), |first, out, scratch| {
            let x = &x[first * per_image..][..out.len() / unit * per_image];
            if self.transposed {
                for (i, out) in out.chunks_exact_mut(size_out.max(1)).enumerate() {
                    out.fill(bias.map_or(0.0, |b| b[i % (self.groups * self.n_out)]));
                }
            }
            for group in 0..self.groups {
                if self.transposed {
                    self.spread(x, w, group, out, scratch);
                } else {
                    let start = bias.map_or(Start::Zero, |b| Start::Rows(&b[group * self.n_out..][..self.n_out]));
                    self.collect((x, w, start), group, out, scratch);
                }
            }
        });
    }

    /// `y[n, o, p] = start[o] + weight[o, i, k] x[n, i, p stride + k dilation - before]`: the windows of all
    /// images side by side as columns.
    fn collect(
        &self,
        (x, w, start): (&[f32], &[f32], Start<'_>),
        group: usize,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (terms, n_out, size) = (self.n_terms(), self.n_out, self.windows.n_out());
        let n_images = out.len() / (self.groups * n_out * size).max(1);
        let (laid_out, scratch) = scratch.split_at_mut(self.n_columns() * terms);
        let (sums, room) = scratch.split_at_mut(self.n_columns() * n_out);
        let w = &w[group * n_out * terms..][..n_out * terms];
        // A matrix unit sums by what is laid out together, which must not depend on the thread: windows of an
        // image.
        let n_together = if gemm::unit_is_used() { size } else { n_images * size };
        let begins = (0..n_images * size).step_by(n_together.max(1));
        let slabs = begins.flat_map(|begin| {
            let end = begin + n_together;
            (begin..end).step_by(self.n_columns()).map(move |from| (from, end))
        });
        for (from, end) in slabs {
            let columns = self.n_columns().min(end - from);
            let laid_out = &mut laid_out[..columns * terms];
            self.lay_out(x, group, from, columns, laid_out);
            let sums = &mut sums[..columns * n_out];
            self.product(columns).run((Left::Plain(w), laid_out, start), 0, sums, Rounding::default(), room);
            for (done, image, at, length) in runs(from, columns, size) {
                for o in 0..n_out {
                    let at = ((image * self.groups + group) * n_out + o) * size + at;
                    out[at..][..length].copy_from_slice(&sums[o * columns + done..][..length]);
                }
            }
        }
    }

    /// Writes the windows from number `from` on, one a column.
    fn lay_out(&self, x: &[f32], group: usize, from: usize, columns: usize, out: &mut [f32]) {
        let (w, size) = (&self.windows, self.windows.n_out());
        out.fill(0.0);
        for i in 0..self.n_in {
            for ky in 0..w.kernel[0] {
                for kx in 0..w.kernel[1] {
                    let row = (i * w.kernel[0] + ky) * w.kernel[1] + kx;
                    let out = &mut out[row * columns..][..columns];
                    for image in from / size..(from + columns).div_ceil(size) {
                        let x = &x[((image * self.groups + group) * self.n_in + i) * w.n_image()..][..w.n_image()];
                        w.rows(ky, kx, |window, element, n, stride| {
                            // The part of the row that is among these columns.
                            let first = image * size + window;
                            let skip = from.saturating_sub(first).min(n);
                            let n = n.min((from + columns).saturating_sub(first));
                            if skip >= n {
                                return;
                            }
                            let out = &mut out[first + skip - from..][..n - skip];
                            let x = &x[element + skip * stride..];
                            if stride == 1 {
                                out.copy_from_slice(&x[..n - skip]);
                            } else {
                                out.iter_mut().zip(x.iter().step_by(stride)).for_each(|(out, x)| *out = *x);
                            }
                        });
                    }
                }
            }
        }
    }

    /// `y[n, o, p stride + k dilation - before] += weight[i, o, k] x[n, i, p]`.
    fn spread(&self, x: &[f32], w: &[f32], group: usize, out: &mut [f32], scratch: &mut [f32]) {
        let (windows, size_in, size_out) = (&self.windows, self.windows.n_out(), self.windows.n_image());
        let rows = self.n_out * windows.n_kernel();
        let w = &w[group * self.n_in * rows..][..self.n_in * rows];
        let (products, room) = scratch.split_at_mut(rows * size_in);
        let per_image = (self.groups * self.n_in * size_in, self.groups * self.n_out * size_out);
        let images = x.chunks_exact(per_image.0.max(1)).zip(out.chunks_exact_mut(per_image.1.max(1)));
        for (x, out) in images {
            let x = &x[group * self.n_in * size_in..][..self.n_in * size_in];
            self.product(size_in).run((Left::Plain(w), x, Start::Zero), 0, products, Rounding::default(), room);
            for o in 0..self.n_out {
                let out = &mut out[(group * self.n_out + o) * size_out..][..size_out];
                for ky in 0..windows.kernel[0] {
                    for kx in 0..windows.kernel[1] {
                        let row = (o * windows.kernel[0] + ky) * windows.kernel[1] + kx;
                        let products = &products[row * size_in..][..size_in];
                        windows.rows(ky, kx, |window, element, n, stride| {
                            let (out, products) = (&mut out[element..], &products[window..][..n]);
                            if stride == 1 {
                                out.iter_mut().zip(products).for_each(|(out, p)| *out += p);
                            } else {
                                out.iter_mut().step_by(stride).zip(products).for_each(|(out, p)| *out += p);
                            }
                        });
                    }
                }
            }
        }
    }
}

/// Columns from number `from` on, `size` of them an image, in runs of one image: the first column of the run,
/// counted from `from`, the image, the window in it, and the length.
fn runs(from: usize, columns: usize, size: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (image, at) = ((from + done) / size, (from + done) % size);
        let run = (done, image, at, (size - at).min(columns - done));
        done += run.3;
        (run.3 > 0).then_some(run)
    })
}

/// What a window is made to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pooling {
    Average,
    /// The root of the sum of squares.
    Root,
    Max,
}

/// A pooling of each channel.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) pooling: Pooling,
    pub(super) windows: Windows,
    /// The positions of each window that count in an average.
    pub(super) counts: Vec<f32>,
}

impl Pool {
    pub(super) fn run(&self, x: &[f32], out: &mut [f32]) {
        let (size_in, size_out) = (self.windows.n_image(), self.windows.n_out());
        let work = out.len() * self.windows.n_kernel();
        threads::over_units(work, out, size_out, |first, out| {
            let x = &x[first * size_in..];
            vectorized!('a, |_| (pool: &'a Pool = self, x: &'a [f32] = x, out: &'a mut [f32] = out) {
                let x = x.chunks_exact(pool.windows.n_image());
                for (x, out) in x.zip(out.chunks_exact_mut(pool.windows.n_out())) {
                    pool.channel(x, out);
                }
            });
        });
    }

    #[inline(always)]
    fn channel(&self, x: &[f32], out: &mut [f32]) {
        match self.pooling {
            Pooling::Average => {
                self.combine(x, out, 0.0, |a, b| a + b);
                out.iter_mut().zip(&self.counts).for_each(|(out, n)| *out /= n);
            }
            Pooling::Root => {
                self.combine(x, out, 0.0, |a, b| a + b * b);
                out.iter_mut().for_each(|out| *out = out.sqrt());
            }
            Pooling::Max => self.combine(x, out, f32::NEG_INFINITY, larger),
        }
    }

    #[inline(always)]
    fn combine(&self, x: &[f32], out: &mut [f32], start: f32, f: impl Fn(f32, f32) -> f32 + Copy) {
        out.fill(start);
        for ky in 0..self.windows.kernel[0] {
            for kx in 0..self.windows.kernel[1] {
                self.windows.rows(ky, kx, |window, element, n, stride| {
                    let (out, x) = (&mut out[window..][..n], &x[element..]);
                    if stride == 1 {
                        out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(*out, x));
                    } else {
                        out.iter_mut().zip(x.iter().step_by(stride)).for_each(|(out, &x)| *out = f(*out, x));
                    }
                });
            }
        }
    }
}
