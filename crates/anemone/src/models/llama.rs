//! The transformer of Llama.

use super::train_decoder;
use crate::error::Result;
use crate::nn::{
    CacheShape, Decoder, Graph, Heads, Lora, Model, Outputs, Pass, attention, embedding, linear, rms_norm, rope,
    swiglu, tied_classifier,
};
use crate::params::Init;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Llama (Touvron and others, 2023): RMS norms, rotary positions, heads of keys and values that queries share,
/// SwiGLU, no biases.
///
/// Parameters have Hugging Face's names, such as `model.layers.0.self_attn.q_proj.weight`; linear layers keep
/// their weights as `[outputs, inputs, 1, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Llama {
    /// Tokens there are; 0 for as many as the data has.
    pub vocabulary: usize,
    /// Positions it is trained for; 0 for as many as a run of the data has.
    pub context: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Heads of keys and values, which divide those of queries; 0 for as many as these.
    pub n_kv_heads: usize,
    /// Channels between the blocks.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Channels inside the MLPs; 0 for 8/3 of the width, rounded up to a multiple of 32.
    pub hidden: usize,
    /// The base of the angles of rotary positions.
    pub theta: f32,
    /// Whether the classifier's weights are the embedding's.
    pub tied: bool,
    /// What norms add to the mean square.
    pub epsilon: f32,
    /// Trains adapters of the linear layers alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

impl Default for Llama {
    /// The size of GPT-2's smallest.
    fn default() -> Llama {
        Llama {
            vocabulary: 0,
            context: 0,
            n_layers: 12,
            n_heads: 12,
            n_kv_heads: 0,
            width: 768,
            hidden: 0,
            theta: 10000.0,
            tied: false,
            epsilon: 1e-5,
            lora: None,
        }
    }
}

/// The standard deviation of the first weights.
const STD: f32 = 0.02;

impl Llama {
    fn heads(&self) -> Heads {
        let n_kv_heads = if self.n_kv_heads == 0 { self.n_heads } else { self.n_kv_heads };
        Heads { n_heads: self.n_heads, n_kv_heads }
    }

    /// The channels inside the MLPs.
    pub fn n_hidden(&self) -> usize {
        if self.hidden == 0 { (8 * self.width).div_ceil(3).next_multiple_of(32) } else { self.hidden }
    }

    fn block(&self, g: &mut Graph, name: &str, x: Value, pass: &mut Pass) -> Result<Value> {
        let (heads, width, init) = (self.heads(), self.width, Init::Normal { std: STD });
        // What adds to the residual stream begins the smaller the more of it there is.
        let residual = Init::Normal { std: STD / (2.0 * self.n_layers as f32).sqrt() };
        let kv_width = heads.size(width)? * heads.n_kv_heads;
        let attn = format!("{name}.self_attn");

        let h = rms_norm(g, &format!("{name}.input_layernorm"), x, self.epsilon)?;
        let q = linear(g, &format!("{attn}.q_proj"), h, width, false, init)?;
        let k = linear(g, &format!("{attn}.k_proj"), h, kv_width, false, init)?;
        let v = linear(g, &format!("{attn}.v_proj"), h, kv_width, false, init)?;
        let q = rope(g, &attn, q, heads.n_heads, self.theta, pass)?;
        let k = rope(g, &attn, k, heads.n_kv_heads, self.theta, pass)?;
        let h = attention(g, &attn, q, k, v, heads, pass)?;
        let h = linear(g, &format!("{attn}.o_proj"), h, width, false, residual)?;
        let x = g.add(x, h)?;

        let h = rms_norm(g, &format!("{name}.post_attention_layernorm"), x, self.epsilon)?;
        let h = swiglu(g, &format!("{name}.mlp"), h, self.n_hidden(), init, residual)?;
        Ok(g.add(x, h)?)
    }
}

impl Model for Llama {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        train_decoder(self, g, x, target)
    }
}

impl Decoder for Llama {
    fn logits(&self, g: &mut Graph, tokens: Value, pass: &mut Pass) -> Result<Value> {
        self.heads().size(self.width).map_err(|e| e.context("`model`"))?;
        if let Some(lora) = &self.lora {
            g.adapt(lora);
        }
        let init = Init::Normal { std: STD };
        let (mut x, table) = embedding(g, "model.embed_tokens", tokens, self.vocabulary, self.width, init)?;
        for i in 0..self.n_layers {
            x = self.block(g, &format!("model.layers.{i}"), x, pass)?;
        }
        let x = rms_norm(g, "model.norm", x, self.epsilon)?;
        match self.tied {
            true => tied_classifier(g, "lm_head", x, table),
            false => linear(g, "lm_head", x, self.vocabulary, false, init),
        }
    }

    fn cache(&self) -> Result<CacheShape> {
        self.heads().cache(self.n_layers, self.width)
    }
}
