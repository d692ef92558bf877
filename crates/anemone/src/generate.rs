//! Text from a trained model, token by token, on the host in f32.
//!
//! ```
//! use anemone::data::Tokenizer;
//! use anemone::generate::{Generator, Sampler, Sampling, TextStream};
//! use anemone::models::Gpt;
//! use anemone::weights_file::NamedTensor;
//! use std::ops::ControlFlow;
//! # use anemone::nn::Graph;
//! # let model = Gpt { vocabulary: 256, context: 16, n_layers: 1, n_heads: 2, width: 8, ..Gpt::default() };
//! # let mut random = anemone::random::Random::new(1);
//! # let weights: Vec<NamedTensor> = Graph::build_decoder(&model, 1)?
//! #     .params
//! #     .iter()
//! #     .map(|(p, _)| NamedTensor { name: p.name.clone(), shape: p.shape.clone(), data: p.initial(&mut random) })
//! #     .collect();
//!
//! // `model` as it was trained, `weights` as `load_safetensors` gives them.
//! let mut generator = Generator::new(&model, &weights, 16)?;
//! let tokenizer = Tokenizer::bytes();
//! let mut sampler = Sampler::new(Sampling { temperature: 0.8, top_k: 40, ..Sampling::default() })?;
//! let prompt = tokenizer.encode("Once upon a time")?;
//! let mut text = TextStream::new(&tokenizer, &prompt);
//! let mut story = String::new();
//! generator.generate(&prompt, 20, &mut sampler, |token| {
//!     story += &text.push(token)?;
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! story += &text.finish()?;
//! assert!(!story.is_empty());
//! # Ok::<(), anemone::Error>(())
//! ```

mod sampler;
mod text;

pub use sampler::{Sampler, Sampling};
pub use text::TextStream;

use crate::error::{Error, Result};
use crate::nn::{CacheShape, Decoder, Graph};
use crate::params;
use crate::soft::memory::Memory;
use crate::soft::plan::Plan;
use crate::weights_file::NamedTensor;
use anemone_mil::{Limits, Weights, validate};
use std::ops::ControlFlow;

/// A model with its weights and with what it keeps of the tokens so far.
pub struct Generator {
    plan: Plan,
    memory: Memory,
    cache: CacheShape,
    n_positions: usize,
    /// Tokens there are logits for.
    n_tokens: usize,
    /// The tokens whose keys and values are kept, in their order.
    tokens: Vec<u32>,
    /// The token that was drawn last, if it has not been taken yet.
    drawn: Option<u32>,
    /// A column of keys or values on its way into its cache.
    column: Vec<f32>,
}

impl Generator {
    /// A model that sees at most `n_positions` tokens, at the first of them. Weights are found by their names;
    /// others than the model's may be among them.
    ///
    /// # Errors
    ///
    /// If there are no positions or more than the model has, or the model has a parameter that is not there in its
    /// shape.
    pub fn new(model: &dyn Decoder, weights: &[NamedTensor], n_positions: usize) -> Result<Generator> {
        if n_positions == 0 {
            return Err(Error::config("generate with 0 positions, expected 1 or more"));
        }
        let built = Graph::build_decoder(model, n_positions)?;
        let program = validate(built.program, &Limits::none())?;
        let plan = Plan::new(program.main(), &Weights::new())?;
        let mut memory = plan.memory();
        // Token, position, the caches, and then the parameters, which stay where they are.
        let first = 2 + 2 * built.cache.n_layers;
        for (i, (spec, _)) in built.params.iter().enumerate() {
            memory.write_input(&plan, first + i, params::find(spec, weights)?);
        }
        let n_tokens = memory.output(&plan, 0).len();
        let column = vec![0.0; built.cache.n_kv_heads * built.cache.head_size];
        Ok(Generator {
            plan,
            memory,
            cache: built.cache,
            n_positions,
            n_tokens,
            tokens: Vec::new(),
            drawn: None,
            column,
        })
    }

    /// The most tokens it sees.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// The tokens it sees now; what was drawn last is taken with the next.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.drawn = None;
    }

    /// Takes a token and gives the logits of what follows it, one for each token there is. What was drawn last
    /// comes before it.
    ///
    /// When all positions are taken, the later half of the tokens is kept and computed again from the first
    /// position on, so that on average a token costs at most two passes.
    ///
    /// # Errors
    ///
    /// If there is no such token.
    pub fn feed(&mut self, token: u32) -> Result<&[f32]> {
        if token as usize >= self.n_tokens {
            return Err(Error::config(format!("there is no token {token}, the model has {}", self.n_tokens)));
        }
        self.take_drawn()?;
        self.take(token)?;
        Ok(self.logits())
    }

    fn logits(&self) -> &[f32] {
        self.memory.output(&self.plan, 0)
    }

    fn take_drawn(&mut self) -> Result<()> {
        self.drawn.take().map_or(Ok(()), |token| self.take(token))
    }

    /// Takes a token that there is, and makes room for it where there is none.
    fn take(&mut self, token: u32) -> Result<()> {
        if self.tokens.len() == self.n_positions {
            let kept = self.tokens.split_off(self.n_positions - self.n_positions / 2);
            self.tokens.clear();
            kept.into_iter().try_for_each(|token| self.step(token))?;
        }
        self.step(token)
    }

    fn step(&mut self, token: u32) -> Result<()> {
        let position = self.tokens.len();
        for (input, x) in [token as f32, position as f32].into_iter().enumerate() {
            self.memory.write_input(&self.plan, input, &[x]);
        }
        self.plan.run(&mut self.memory)?;
        for i in 0..2 * self.cache.n_layers {
            self.column.copy_from_slice(self.memory.output(&self.plan, 1 + i));
            let cache = self.memory.input_mut(&self.plan, 2 + i);
            for (row, &x) in cache.chunks_exact_mut(self.n_positions).zip(&self.column) {
                row[position] = x;
            }
        }
        self.tokens.push(token);
        Ok(())
    }

    /// Takes the tokens of `prompt`, then draws up to `n_tokens` that follow and gives each to `each` as it comes,
    /// until that breaks off. Of a prompt with more tokens than there are positions, the last count. Called again,
    /// it goes on after the tokens so far, those drawn included.
    ///
    /// # Errors
    ///
    /// If the prompt is empty or has a token that there is not, a logit is no number, or `each` fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        n_tokens: usize,
        sampler: &mut Sampler,
        mut each: impl FnMut(u32) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let last = &prompt[prompt.len().saturating_sub(self.n_positions)..];
        if last.is_empty() {
            return Err(Error::config("the prompt is empty, expected one token or more"));
        }
        for &token in last {
            self.feed(token)?;
        }
        for _ in 0..n_tokens {
            self.take_drawn()?;
            let token = sampler.next(self.logits())?;
            self.drawn = Some(token);
            if each(token)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
