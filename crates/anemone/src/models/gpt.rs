//! The transformer of GPT-2.

use super::train_decoder;
use crate::error::Result;
use crate::nn::{
    Activation, CacheShape, Decoder, Graph, Heads, Lora, Model, Outputs, Pass, attention, embedding, layer_norm,
    linear, positions, tied_classifier,
};
use crate::params::Init;
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// GPT-2 (Radford and others: Language models are unsupervised multitask learners, 2019): learned positions, layer
/// norms before attention and MLP, queries, keys and values from one linear layer.
///
/// Parameters have Hugging Face's names, such as `transformer.h.0.attn.c_attn.weight`; linear layers keep their
/// weights as `[outputs, inputs, 1, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gpt {
    /// Tokens there are; 0 for as many as the data has.
    pub vocabulary: usize,
    /// Positions there are; 0 for as many as a run of the data has tokens.
    pub context: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Channels between the blocks.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// What stands in the MLPs, which are four times as wide.
    pub activation: Activation,
    /// Whether linear layers and norms have a bias.
    pub bias: bool,
    /// Whether the classifier's weights are the embedding's.
    pub tied: bool,
    /// What norms add to the variance.
    pub epsilon: f32,
    /// Trains adapters of the linear layers alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

impl Default for Gpt {
    /// The smallest of the published models, for any vocabulary.
    fn default() -> Gpt {
        Gpt {
            vocabulary: 0,
            context: 0,
            n_layers: 12,
            n_heads: 12,
            width: 768,
            activation: Activation::GeluTanh,
            bias: true,
            tied: true,
            epsilon: 1e-5,
            lora: None,
        }
    }
}

/// The standard deviation of GPT-2's first weights.
const STD: f32 = 0.02;

impl Gpt {
    fn heads(&self) -> Heads {
        Heads { n_heads: self.n_heads, n_kv_heads: self.n_heads }
    }

    fn block(&self, g: &mut Graph, name: &str, x: Value, pass: &mut Pass) -> Result<Value> {
        let (width, init) = (self.width, Init::Normal { std: STD });
        // What adds to the residual stream begins the smaller the more of it there is.
        let residual = Init::Normal { std: STD / (2.0 * self.n_layers as f32).sqrt() };

        let h = layer_norm(g, &format!("{name}.ln_1"), x, self.epsilon, self.bias)?;
        let qkv = linear(g, &format!("{name}.attn.c_attn"), h, 3 * width, self.bias, init)?;
        let parts = g.call("split").arg("x", qkv).constant("num_splits", Tensor::i32(3));
        let parts = parts.constant("axis", Tensor::i32(1)).finish_many()?;
        let h = attention(g, &format!("{name}.attn"), parts[0], parts[1], parts[2], self.heads(), pass)?;
        let h = linear(g, &format!("{name}.attn.c_proj"), h, width, self.bias, residual)?;
        let x = g.add(x, h)?;

        let h = layer_norm(g, &format!("{name}.ln_2"), x, self.epsilon, self.bias)?;
        let h = linear(g, &format!("{name}.mlp.c_fc"), h, 4 * width, self.bias, init)?;
        let h = self.activation.apply(g, h)?;
        let h = linear(g, &format!("{name}.mlp.c_proj"), h, width, self.bias, residual)?;
        Ok(g.add(x, h)?)
    }
}

impl Model for Gpt {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        train_decoder(self, g, x, target)
    }
}

impl Decoder for Gpt {
    fn logits(&self, g: &mut Graph, tokens: Value, pass: &mut Pass) -> Result<Value> {
        self.heads().size(self.width).map_err(|e| e.context("`model`"))?;
        if let Some(lora) = &self.lora {
            g.adapt(lora);
        }
        let init = Init::Normal { std: STD };
        let (x, table) = embedding(g, "transformer.wte", tokens, self.vocabulary, self.width, init)?;
        let p = positions(g, "transformer.wpe", pass, self.context, self.width, init)?;
        let mut x = g.add(x, p)?;
        for i in 0..self.n_layers {
            x = self.block(g, &format!("transformer.h.{i}"), x, pass)?;
        }
        let x = layer_norm(g, "transformer.ln_f", x, self.epsilon, self.bias)?;
        match self.tied {
            true => tied_classifier(g, "lm_head", x, table),
            false => linear(g, "lm_head", x, self.vocabulary, false, init),
        }
    }

    fn cache(&self) -> Result<CacheShape> {
        self.heads().cache(self.n_layers, self.width)
    }
}
