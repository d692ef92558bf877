//! Products of matrices, one or a batch.

use super::kernels::Gemm;
use super::threads;

/// `out[batch] = A[batch] B[batch]`, or the sum over the batch.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) shape: Gemm,
    /// For each product of the batch, the offsets of its operands.
    pub(super) batch: Box<[(usize, usize)]>,
    pub(super) start: Start,
    /// What becomes of the batch.
    pub(super) sum: Sum,
}

/// What the sums start from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    Zero,
    /// A number for each row.
    Rows,
    /// A number for each column.
    Columns,
}

/// What becomes of the products of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sum {
    /// Each is a result.
    No,
    /// They are added up.
    Yes,
    /// They are added up transposed, which takes less turning round of operands, and the sum is turned round at last.
    Turned,
}

impl Product {
    /// Room for the transposed sum.
    pub(super) fn n_wide(&self) -> usize {
        if self.sum == Sum::Turned { self.shape.m * self.shape.n } else { 0 }
    }

    pub(super) fn run(
        &self,
        (a, b, start): (&[f32], &[f32], &[f32]),
        out: &mut [f32],
        wide: &mut [f32],
        scratch: &mut [Vec<f32>],
    ) {
        let Gemm { m, k, n, .. } = self.shape;
        let work = self.shape.n_flops() / 16 * self.batch.len();
        let operands = |&(at_a, at_b): &(usize, usize)| (&a[at_a..][..m * k], &b[at_b..][..k * n]);
        if self.sum != Sum::No {
            let target = if self.sum == Sum::Turned { &mut wide[..m * n] } else { &mut *out };
            threads::over_units(work, target, n, scratch, |first, out, scratch| {
                out.fill(0.0);
                for (a, b) in self.batch.iter().map(operands) {
                    self.shape.accumulate(a, b, first, out, scratch);
                }
            });
            if self.sum == Sum::Turned {
                let turned = super::copy::Copy::new(0, &[n, m], (0, &[1, n as isize]), (0, &[m, 1]));
                turned.run(wide, out);
            }
            return;
        }
        // Rows of all products in one, so that few large ones are shared as well as many small ones.
        threads::over_units(work, out, n, scratch, |first, out, scratch| {
            let mut row = first;
            let mut rest = out;
            while !rest.is_empty() {
                let (item, at) = (row / m, row % m);
                let rows = (m - at).min(rest.len() / n);
                let (out, later) = std::mem::take(&mut rest).split_at_mut(rows * n);
                match self.start {
                    Start::Zero => out.fill(0.0),
                    Start::Rows => out.chunks_exact_mut(n).zip(&start[at..]).for_each(|(row, &b)| row.fill(b)),
                    Start::Columns => out.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(start)),
                }
                let (a, b) = operands(&self.batch[item]);
                self.shape.accumulate(a, b, at, out, scratch);
                (rest, row) = (later, row + rows);
            }
        });
    }
}
