//! Products of matrices, one or a batch.

use super::gemm::{self, Gemm, Left, Rounding};
use super::threads;

/// `out[batch] = A[batch] B[batch]`, or the sum over the batch.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) shape: Gemm,
    /// For each product of the batch, the offsets of its operands.
    pub(super) batch: Box<[(usize, usize)]>,
    pub(super) start: Start,
    /// Whether the products are added up.
    pub(super) is_summed: bool,
    /// Whether there is one A for the whole batch, which a step before has laid out.
    pub(super) is_packed: bool,
    /// Where A is packed only if its input has stayed the same: the step that packs it, and the input. A as it is
    /// comes last among what the product reads.
    pub(super) packed_by: Option<(usize, usize)>,
    /// Whether it may add to what its result holds already.
    pub(super) accumulates: bool,
    /// The input that B is, if it may have to be rounded first.
    pub(super) b_input: Option<usize>,
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

/// What a product works on.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    /// What the sums start from, if not from zero.
    pub(super) start: &'a [f32],
}

/// How a product runs.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// Whether A is packed.
    pub(super) packed: bool,
    /// Whether it adds to what is there.
    pub(super) adds: bool,
    /// Whether B is rounded to fp16 first.
    pub(super) rounds_b: bool,
    /// Whether the result is rounded to fp16.
    pub(super) fp16: bool,
}

impl Product {
    pub(super) fn new(shape: Gemm, batch: Box<[(usize, usize)]>, start: Start) -> Product {
        Product {
            shape,
            batch,
            start,
            is_summed: false,
            is_packed: false,
            packed_by: None,
            accumulates: false,
            b_input: None,
        }
    }

    /// The room that it needs.
    pub(super) fn n_scratch(&self) -> usize {
        self.shape.n_scratch(if self.is_summed { self.batch.len() } else { 1 })
    }

    /// Writes the products, or adds them to what is there.
    pub(super) fn run(&self, operands: Operands<'_>, out: &mut [f32], how: How) {
        let Gemm { m, k, n, .. } = self.shape;
        let Operands { a, b, start } = operands;
        let rounding = Rounding { b: how.rounds_b, c: how.fp16 };
        let work = self.shape.n_flops() / 16 * self.batch.len();
        let sides = |&(at_a, at_b): &(usize, usize)| {
            let a = if how.packed { Left::Packed(a) } else { Left::Plain(&a[at_a..][..m * k]) };
            (a, &b[at_b..][..k * n])
        };
        if self.is_summed {
            let start = if how.adds { gemm::Start::Sums } else { gemm::Start::Zero };
            threads::over_units_with(work, out, n, self.n_scratch(), |first, out, scratch| {
                self.shape.run_sum((Left::Plain(a), b, start), &self.batch, first, out, rounding, scratch);
            });
            return;
        }
        // Rows of all products in one, so that few large ones are shared as well as many small ones.
        threads::over_units_with(work, out, n, self.n_scratch(), |first, out, scratch| {
            let mut row = first;
            let mut rest = out;
            while !rest.is_empty() {
                let (item, at) = (row / m, row % m);
                let rows = (m - at).min(rest.len() / n);
                let (out, later) = std::mem::take(&mut rest).split_at_mut(rows * n);
                let start = match self.start {
                    _ if how.adds => gemm::Start::Sums,
                    Start::Zero => gemm::Start::Zero,
                    Start::Rows => gemm::Start::Rows(&start[at..][..rows]),
                    Start::Columns => gemm::Start::Columns(start),
                };
                let (a, b) = sides(&self.batch[item]);
                self.shape.run((a, b, start), at, out, rounding, scratch);
                (rest, row) = (later, row + rows);
            }
        });
    }
}
