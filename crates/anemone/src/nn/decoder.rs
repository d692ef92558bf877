//! Token by token: the graph of one token after others, whose keys and values its caller keeps.

use super::{Graph, Model, Pass};
use crate::error::{Error, Result};
use crate::params::ParamSpec;
use anemone_mil::builder::Value;
use anemone_mil::ir::{DType, Program, TensorType};

/// The name of the input that holds the token.
pub const TOKEN: &str = "token";
/// The name of the input that holds its position.
pub const POSITION: &str = "position";

/// A model that predicts the next token from those before.
pub trait Decoder: Model {
    /// The logits `[N, vocabulary, 1, S]` of what follows each of the `tokens` int32 `[N, S]`.
    ///
    /// # Errors
    ///
    /// If shapes do not fit; the message names the layer.
    fn logits(&self, g: &mut Graph, tokens: Value, pass: &mut Pass) -> Result<Value>;

    /// What it keeps of the tokens before.
    ///
    /// # Errors
    ///
    /// If its sizes do not fit each other.
    fn cache(&self) -> Result<CacheShape>;
}

/// What attention keeps of the tokens before: of each layer keys and values
/// `[1, n_kv_heads, head_size, n_positions]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Attention layers.
    pub n_layers: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_size: usize,
}

/// A finished graph for one token.
#[derive(Clone, Debug)]
pub struct BuiltDecoder {
    /// From [`TOKEN`] and [`POSITION`], int32 `[1, 1]` both, the caches `key_0`, `value_0`, `key_1`, ... and the
    /// parameters, to the logits `[1, vocabulary, 1, 1]` and the token's columns `[1, n_kv_heads, head_size, 1]`
    /// in the order of the caches. Whoever runs it writes each column into its cache, at the token's position,
    /// before the next token. The first `position` columns count; the others may hold anything of the size of keys
    /// and values.
    pub program: Program,
    /// The parameters with the names of their inputs.
    pub params: Vec<(ParamSpec, String)>,
    /// What is kept.
    pub cache: CacheShape,
    /// Columns of a cache.
    pub n_positions: usize,
}

impl Graph {
    /// The graph of one token after at most `n_positions` others.
    ///
    /// # Errors
    ///
    /// If the model has fewer positions, or its sizes do not fit each other.
    pub fn build_decoder(model: &dyn Decoder, n_positions: usize) -> Result<BuiltDecoder> {
        let mut g = Graph::new();
        let cache = model.cache()?;
        let whole_number = || TensorType::new(DType::Int32, &[1, 1]);
        let token = g.input(TOKEN, whole_number())?;
        let position = g.input(POSITION, whole_number())?;
        let ty = TensorType::new(DType::Fp32, &[1, cache.n_kv_heads, cache.head_size, n_positions]);
        let caches = (0..cache.n_layers)
            .map(|i| Ok((g.input(&format!("key_{i}"), ty.clone())?, g.input(&format!("value_{i}"), ty.clone())?)))
            .collect::<Result<_>>()?;
        let mut pass = Pass::step(&mut g, position, n_positions, caches)?;
        let logits = model.logits(&mut g, token, &mut pass)?;
        let columns = pass.into_columns();
        if columns.len() != cache.n_layers {
            return Err(Error::config(format!(
                "the model has {} attention layers, expected the {} it keeps caches for",
                columns.len(),
                cache.n_layers
            )));
        }
        let outputs: Vec<Value> =
            [logits].into_iter().chain(columns.into_iter().flat_map(|(k, v)| [k, v])).collect();
        let params = g.named_params();
        Ok(BuiltDecoder { program: g.builder.finish(&outputs)?, params, cache, n_positions })
    }
}
