//! Where batches come from.
//!
//! A data set is built once, with everything checked that can be, and then asked for batches by their index. Which
//! examples are in a batch follows from the seed and the index alone; [`order`] says how, exactly enough to be
//! written again in another language.

mod array;
mod built_in;
mod examples;
pub mod order;
mod sine;
mod stream;
mod tokenizer;
mod tokens;

use crate::error::{Error, Result};
use anemone_mil::ir::TensorType;
pub use array::Array;
pub use built_in::{digits, shakespeare};
pub use examples::{Examples, ExamplesOptions, Held, Pairs, Split};
pub use sine::Sine;
pub use stream::{Stream, StreamOptions};
pub use tokenizer::Tokenizer;
pub use tokens::{TokenFormat, Tokens};

/// A class that does not count: neither in a loss nor in an accuracy. What fills up the last batch of a validation
/// set has it for a target.
pub const IGNORE: i32 = -1;

/// The most classes or tokens there can be: all of them are numbers that f32 holds exactly.
pub const MAX_CLASSES: usize = 1 << 24;

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

    /// What turned text into the tokens, where it was text.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    /// Writes the batch of that index, all of it, whatever the slices hold before; whole numbers where the type is
    /// int32.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()>;

    /// A checksum of all the examples, and of what they were made by, or of enough of them to tell them from
    /// others: a run does not go on with other data than it was trained on. `None` where nobody needs to look.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn checksum(&self) -> Result<Option<u32>> {
        Ok(None)
    }

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

/// Checks what a batch is asked for: a batch that there is, in places of these sizes.
fn check_batch(data: &dyn Data, part: Part, index: u64, sizes: [(&[f32], usize); 2]) -> Result<()> {
    for (what, (place, expected)) in ["input", "target"].into_iter().zip(sizes) {
        if place.len() != expected {
            let found = place.len();
            return Err(Error::config(format!(
                "{what} of a batch: a place for {found} numbers, expected {expected}"
            )));
        }
    }
    let n = data.n_validation_batches();
    if part == Part::Validation && index >= n {
        return Err(Error::config(format!("validation batch {index}: there are {n}, counted from 0")));
    }
    Ok(())
}

/// Checks the size of a batch of `n` times `size` numbers, before anything is made for it.
fn check_size(n: usize, size: usize) -> Result<()> {
    const MAX: usize = 1 << 31;
    match n.checked_mul(size) {
        Some(product) if (1..=MAX).contains(&product) => Ok(()),
        _ => Err(Error::config(format!("a batch of {n} times {size} numbers, expected 1 to {MAX} in all"))),
    }
}

/// Adds numbers to a checksum.
fn update(sum: &mut crc32fast::Hasher, numbers: &[f32]) {
    let mut bytes = Vec::new();
    for piece in numbers.chunks(1 << 12) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
        sum.update(&bytes);
    }
}

/// How many of `n` the fraction holds back for validation, rounded down.
fn n_held(n: usize, fraction: f64) -> usize {
    ((n as f64 * fraction) as usize).min(n)
}
