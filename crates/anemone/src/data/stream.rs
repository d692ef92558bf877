//! Streams of tokens: the target of each is the next.

use super::order::Order;
use super::{Data, IGNORE, Part, Tokenizer, Tokens, check_batch, check_size, n_held};
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType};
use std::ops::Range;

/// How a stream becomes batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamOptions {
    /// Windows in a batch.
    pub batch: usize,
    /// Tokens in a window.
    pub length: usize,
    /// The fraction of the tokens, rounded down, that is held back for validation, from the end; where there are
    /// other tokens for validation it is not looked at.
    pub validation: f64,
    /// The seed of the windows.
    pub seed: u64,
}

/// A stream of tokens, in batches of windows.
///
/// Windows of the training part begin anywhere, by chance (see [`order`](super::order)). Those of the validation
/// part stand one after the other, so that each token of it but the first is a target once; what is missing to the
/// last window and to the last batch has inputs of 0 and targets of [`IGNORE`].
pub struct Stream {
    /// The tokens, and where validation tokens are others, those.
    tokens: Vec<Tokens>,
    train: Range<usize>,
    /// In the last of `tokens`.
    validation: Range<usize>,
    batch: usize,
    length: usize,
    order: Order,
    tokenizer: Option<Tokenizer>,
    /// A window and the token after it.
    window: Vec<f32>,
}

impl Stream {
    /// The stream, with what made its tokens, if it was text.
    ///
    /// # Errors
    ///
    /// If there are no batches or windows, or a part is shorter than a window.
    pub fn new(
        tokens: Tokens,
        validation: Option<Tokens>,
        tokenizer: Option<Tokenizer>,
        options: &StreamOptions,
    ) -> Result<Stream> {
        let StreamOptions { batch, length, .. } = *options;
        check_size(batch, length)?;
        let n = tokens.n_tokens();
        let (train, held) = match &validation {
            Some(other) => (0..n, 0..other.n_tokens()),
            None => (0..n - n_held(n, options.validation), n - n_held(n, options.validation)..n),
        };
        if train.len() <= length {
            let what = format!("{} tokens to train on, expected more than a window of {length}", train.len());
            return Err(Error::config(format!("`{}`: {what}", tokens.name())));
        }
        if held.len() == 1 || validation.is_some() && held.is_empty() {
            let name = validation.as_ref().unwrap_or(&tokens).name();
            let what = format!("{} tokens for validation, expected 2 or more", held.len());
            return Err(Error::config(format!("`{name}`: {what}")));
        }
        Ok(Stream {
            tokens: [Some(tokens), validation].into_iter().flatten().collect(),
            train,
            validation: held,
            batch,
            length,
            order: Order::new(options.seed),
            tokenizer,
            window: vec![0.0; length + 1],
        })
    }

    /// The number of validation windows, the last one perhaps not full.
    fn n_windows(&self) -> usize {
        self.validation.len().saturating_sub(1).div_ceil(self.length)
    }

    /// The tokens of a window and the one after it: which run, and where in it. In the training part there are
    /// always as many as a window needs.
    fn window(&self, part: Part, row: u64) -> (&Tokens, Range<usize>) {
        match part {
            Part::Train => {
                let n_offsets = self.train.len() - self.length;
                let start = self.train.start + self.order.draw(row, n_offsets as u64) as usize;
                (&self.tokens[0], start..start + self.length + 1)
            }
            Part::Validation => {
                let row = usize::try_from(row).unwrap_or(usize::MAX).min(self.n_windows());
                let start = self.validation.start + (row * self.length).min(self.validation.len());
                let end = self.validation.end.min(start + self.length + 1);
                (&self.tokens[self.tokens.len() - 1], start..end)
            }
        }
    }
}

impl Data for Stream {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Int32, &[self.batch, self.length])
    }

    fn target(&self) -> TensorType {
        self.input()
    }

    fn n_classes(&self) -> Option<usize> {
        Some(self.tokens[0].vocabulary())
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        let size = self.batch * self.length;
        check_batch(self, part, index, [(input, size), (target, size)])?;
        let mut window = std::mem::take(&mut self.window);
        let first = index.wrapping_mul(self.batch as u64);
        let rows = input.chunks_exact_mut(self.length).zip(target.chunks_exact_mut(self.length));
        let result = (0..).zip(rows).try_for_each(|(r, (input, target))| {
            let (tokens, at) = self.window(part, first.wrapping_add(r));
            let n = at.len();
            tokens.read(at.start, &mut window[..n])?;
            // A window's last token is only a target.
            let n = n.saturating_sub(1);
            input[..n].copy_from_slice(&window[..n]);
            input[n..].fill(0.0);
            target[..n].copy_from_slice(&window[1..n + 1]);
            target[n..].fill(IGNORE as f32);
            Ok(())
        });
        self.window = window;
        result
    }

    fn checksum(&self) -> Result<Option<u32>> {
        let mut sum = crc32fast::Hasher::new();
        for tokens in &self.tokens {
            sum.update(&tokens.checksum()?.to_le_bytes());
        }
        if let Some(tokenizer) = &self.tokenizer {
            sum.update(tokenizer.to_json()?.as_bytes());
        }
        Ok(Some(sum.finalize()))
    }

    fn n_validation_batches(&self) -> u64 {
        self.n_windows().div_ceil(self.batch) as u64
    }
}

#[cfg(test)]
mod tests;
