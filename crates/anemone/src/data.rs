//! Where batches come from.

mod sine;

use crate::error::Result;
use anemone_mil::ir::TensorType;
pub use sine::Sine;

/// A class that does not count: neither in a loss nor in an accuracy. What fills up the last batch of a validation
/// set has it for a target.
pub const IGNORE: i32 = -1;

/// A source of batches. The batch of an index is always the same, so a position is a number and resuming is exact.
pub trait Data: Send {
    /// The type of an input batch: fp32 numbers, or int32 tokens.
    fn input(&self) -> TensorType;

    /// The type of a target batch: fp32 numbers in the shape of the prediction, or int32 classes `[N, S]` for a
    /// prediction of logits `[N, classes, ..]` with `S` positions.
    fn target(&self) -> TensorType;

    /// The number of classes or tokens there are, where there are any.
    fn n_classes(&self) -> Option<usize> {
        None
    }

    /// Writes the batch of that index; whole numbers where the type is int32.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()>;

    /// How many batches go through the validation part once; 0 where there is none.
    fn n_validation_batches(&self) -> u64 {
        0
    }
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is trained on, shuffled; batches go on for ever, epoch after epoch.
    Train,
    /// What is only looked at, in order.
    Validation,
}

/// How a model wants its examples to lie in a batch of `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// An example is a column: inputs `[1, C, 1, N]`, targets `[1, C', 1, N]` or classes `[1, N]`.
    Columns,
    /// An example is an image: inputs `[N, C, H, W]`, classes `[N, 1]`.
    Images,
    /// An example is a run of tokens: inputs and targets `[N, S]`.
    Tokens,
}
