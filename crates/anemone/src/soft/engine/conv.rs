//! Convolutions as products over windows laid out in columns. The transposed one gathers too, instead of spreading
//! products, as all terms of a result go into one sum.

use super::accumulate::{Shape, Start};
use crate::soft::threads;
use crate::soft::window::Windows;

/// Where a window reaches beyond the image.
const OUTSIDE: u32 = u32::MAX;

/// A convolution of `[N, groups I, size_in]` by `[groups O, I, kernel]`, or its transpose by
/// `[groups I, O, kernel]`.
#[derive(Debug)]
pub(in crate::soft) struct Conv {
    /// For each kernel position and each element of a result's channel, the element of the input's it is
    /// multiplied by.
    sources: Vec<u32>,
    transposed: bool,
    groups: usize,
    /// Channels of a group.
    n_in: usize,
    n_out: usize,
    n_kernel: usize,
    size_in: usize,
    size_out: usize,
}

impl Conv {
    /// Of these windows, which lie on the input, or on the result if it is a transposed one.
    pub(super) fn new(windows: &Windows, transposed: bool, groups: usize, n_in: usize, n_out: usize) -> Conv {
        let w = windows;
        let [n_image, n_kernel, n_windows] = [w.image, w.kernel, w.out].map(|s| s[0] * s[1]);
        let (size_in, size_out) = if transposed { (n_windows, n_image) } else { (n_image, n_windows) };
        let mut sources = vec![OUTSIDE; n_kernel * size_out];
        let at = |axis: usize, window: usize, k: usize| {
            let at = (window * w.strides[axis] + k * w.dilations[axis]).checked_sub(w.before[axis])?;
            (at < w.image[axis]).then_some(at)
        };
        for window in 0..n_windows {
            for k in 0..n_kernel {
                let y = at(0, window / w.out[1], k / w.kernel[1]);
                let (Some(y), Some(x)) = (y, at(1, window % w.out[1], k % w.kernel[1])) else { continue };
                let element = y * w.image[1] + x;
                let (from, to) = if transposed { (window, element) } else { (element, window) };
                sources[k * size_out + to] = from as u32;
            }
        }
        Conv { sources, transposed, groups, n_in, n_out, n_kernel, size_in, size_out }
    }

    fn shape(&self) -> Shape {
        Shape { m: self.n_out, k: self.n_in * self.n_kernel, n: self.size_out, transposed: (false, false) }
    }

    /// Room for the windows, for weights that are transposed, and for the product.
    pub(super) fn n_scratch(&self) -> usize {
        let Shape { m, k, n, .. } = self.shape();
        k * n + if self.transposed { m * k } else { 0 } + self.shape().n_scratch()
    }

    pub(super) fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let shape = self.shape();
        let Shape { m, k, n, .. } = shape;
        let unit = self.groups * m * n;
        let work = shape.work() * self.groups * (out.len() / unit.max(1));
        threads::over_units_with(work, out, unit, self.n_scratch(), |first, out, scratch| {
            let (windows, rest) = scratch.split_at_mut(k * n);
            let (room, rest) = rest.split_at_mut(if self.transposed { m * k } else { 0 });
            for (i, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
                let (image, group) = (first + i / self.groups, i % self.groups);
                let x = &x[(image * self.groups + group) * self.n_in * self.size_in..][..self.n_in * self.size_in];
                self.lay_out(x, windows);
                let mut weights = &weight[group * m * k..][..m * k];
                if self.transposed {
                    self.turn(weights, room);
                    weights = room;
                }
                let start = bias.map_or(Start::Zero, |b| Start::Rows(&b[group * m..][..m]));
                shape.rows((weights, windows, start), 0, out, rest);
            }
        });
    }

    /// Writes the windows of a group's channels as columns.
    fn lay_out(&self, x: &[f32], out: &mut [f32]) {
        let rows = out.chunks_exact_mut(self.size_out.max(1)).enumerate();
        for (row, out) in rows {
            let x = &x[row / self.n_kernel * self.size_in..][..self.size_in];
            let sources = &self.sources[row % self.n_kernel * self.size_out..];
            for (to, &from) in out.iter_mut().zip(sources) {
                *to = if from == OUTSIDE { 0.0 } else { x[from as usize] };
            }
        }
    }

    /// Writes a group's weights, of `[I, O, kernel]`, as `[O, I, kernel]`.
    fn turn(&self, weight: &[f32], out: &mut [f32]) {
        let kernels = out.chunks_exact_mut(self.n_kernel.max(1)).enumerate();
        for (at, to) in kernels {
            let (o, i) = (at / self.n_in, at % self.n_in);
            to.copy_from_slice(&weight[(i * self.n_out + o) * self.n_kernel..][..self.n_kernel]);
        }
    }
}
