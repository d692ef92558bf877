//! The second arithmetic of the software engine: what the Neural Engine is reported to compute.
//!
//! It holds for the fp16 ops of programs that a device compiles; [`RULES`](rules::RULES) says what it consists of,
//! who measured it, and what of it is not known. Programs for the host are always in IEEE's arithmetic.

mod accumulate;
mod conv;
mod lower;
mod numbers;
mod pointwise;
mod reduce;
pub(crate) mod rules;
mod tables;

#[cfg(test)]
mod tests;

use super::threads;
use accumulate::{Shape, Start};
use anemone_mil::Chip;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a software engine rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// As IEEE 754 has it: fp16 is what is stored, sums are in f32, and results are rounded to nearest, ties to
    /// even.
    #[default]
    Ieee,
    /// As the Neural Engine is reported to: sums in fixed point, ties away from zero, functions by tables; see
    /// [`ARITHMETIC_RULES`](crate::device::ARITHMETIC_RULES).
    Engine,
}

impl Arithmetic {
    /// Both, the default first.
    pub const ALL: [Arithmetic; 2] = [Arithmetic::Ieee, Arithmetic::Engine];

    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        ["ieee", "engine"][self as usize]
    }

    /// The arithmetic of that name.
    pub fn from_name(name: &str) -> Option<Arithmetic> {
        Arithmetic::ALL.into_iter().find(|a| a.as_str() == name)
    }

    /// What reports call it on a device that follows the rules of `chip`.
    pub fn of_chip(self, chip: Chip) -> &'static str {
        match (self, chip) {
            (Arithmetic::Ieee, _) => "fp16 with f32 accumulation, nearest even",
            (Arithmetic::Engine, Chip::M4) => "the engine's: fixed-point sums, ties away from zero, tables",
            (Arithmetic::Engine, Chip::M5) => {
                "the engine's as measured on M4 and M6: fixed-point sums, ties away from zero, tables"
            }
            (Arithmetic::Engine, _) => {
                "the engine's as measured on M4, not that of this chip, of which too little is known: fixed-point \
                 sums, ties away from zero, tables"
            }
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a step in this arithmetic does with what it reads, which is written as one fp16 tensor or as booleans.
#[derive(Debug)]
pub(super) enum Work {
    /// Of A, B and, where sums start from one, a vector.
    Product(Product),
    /// Of `x`, weights and, where it has one, a bias.
    Conv(conv::Conv),
    /// Of one to three operands, each of one element or as many as the result.
    Pointwise(pointwise::Function),
    Reduce(reduce::Reduce),
    /// Of fp32.
    ToFp16,
}

/// `out[batch] = A[batch] B[batch]`.
#[derive(Debug)]
pub(super) struct Product {
    shape: Shape,
    /// For each product of the batch, the offsets of its operands.
    batch: Box<[(usize, usize)]>,
    /// Whether sums start from a number for each row, or else for each column, if there is a third operand.
    by_rows: bool,
}

impl Work {
    /// Runs it over threads if that is worth it.
    pub(super) fn run(&self, reads: [Option<&[f32]>; 3], out: &mut [f32]) {
        let x = reads[0].unwrap_or_default();
        match self {
            Work::Product(p) => p.run(x, reads[1].unwrap_or_default(), reads[2], out),
            Work::Conv(c) => c.run(x, reads[1].unwrap_or_default(), reads[2], out),
            Work::Pointwise(f) => pointwise::run(*f, reads, out),
            Work::Reduce(r) => r.run(x, out),
            Work::ToFp16 => pointwise::to_fp16(x, out),
        }
    }
}

impl Product {
    fn run(&self, a: &[f32], b: &[f32], start: Option<&[f32]>, out: &mut [f32]) {
        let Shape { m, k, n, .. } = self.shape;
        let start = match start {
            None => Start::Zero,
            Some(x) if self.by_rows => Start::Rows(x),
            Some(x) => Start::Columns(x),
        };
        // Rows of all products in one, so that few large ones are shared as well as many small ones.
        let (work, n_scratch) = (self.shape.work() * self.batch.len(), self.shape.n_scratch());
        threads::over_units_with(work, out, n, n_scratch, |first, out, scratch| {
            let mut row = first;
            let mut rest = out;
            while !rest.is_empty() {
                let (item, at) = (row / m, row % m);
                let rows = (m - at).min(rest.len() / n);
                let (out, later) = std::mem::take(&mut rest).split_at_mut(rows * n);
                let (at_a, at_b) = self.batch[item];
                self.shape.rows((&a[at_a..][..m * k], &b[at_b..][..k * n], start), at, out, scratch);
                (rest, row) = (later, row + rows);
            }
        });
    }
}
