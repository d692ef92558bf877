//! `config.json`: what a model of Hugging Face's is.

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::models::{Gpt, Llama};
use crate::nn::Activation;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Activations by their names there, first the one that is written.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("relu", Activation::Relu),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("linear", Activation::None),
];

/// Reads a configuration.
pub(super) fn read(path: &Path) -> Result<ModelConfig> {
    let json: Value = serde_json::from_str(&super::read_text(path)?)
        .map_err(|e| Error::config(format!("`{}` is no JSON: {e}", super::CONFIG)))?;
    let Value::Object(object) = json else {
        return Err(Error::config(format!("`{}` is no JSON object", super::CONFIG)));
    };
    let keys = Keys(&object);
    match keys.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => gpt(keys),
        Some("llama") => llama(keys),
        _ => Err(keys.wrong("model_type", "gpt2 or llama")),
    }
}

fn gpt(keys: Keys) -> Result<ModelConfig> {
    keys.architecture(&["GPT2LMHeadModel", "GPT2Model"])?;
    let width = keys.size("n_embd")?;
    keys.expect("n_inner", &[Value::Null, json!(4 * width)])?;
    keys.expect("scale_attn_weights", &[json!(true)])?;
    keys.expect("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    keys.expect("add_cross_attention", &[json!(false)])?;
    let name = keys.get("activation_function").and_then(Value::as_str).unwrap_or("gelu_new");
    let Some((_, activation)) = ACTIVATIONS.iter().find(|(n, _)| *n == name) else {
        let names: Vec<&str> = ACTIVATIONS.iter().map(|(n, _)| *n).collect();
        return Err(keys.wrong("activation_function", &format!("one of {}", names.join(", "))));
    };
    Ok(ModelConfig::Gpt(Gpt {
        vocabulary: keys.size("vocab_size")?,
        context: keys.size("n_positions")?,
        n_layers: keys.size("n_layer")?,
        n_heads: keys.size("n_head")?,
        width,
        activation: *activation,
        bias: true,
        tied: keys.flag("tie_word_embeddings", true)?,
        epsilon: keys.number("layer_norm_epsilon", 1e-5)?,
        lora: None,
    }))
}

fn llama(keys: Keys) -> Result<ModelConfig> {
    keys.architecture(&["LlamaForCausalLM"])?;
    let (width, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    keys.expect("head_dim", &[Value::Null, json!(width / n_heads)])?;
    keys.expect("hidden_act", &[json!("silu"), json!("swish")])?;
    keys.expect("attention_bias", &[json!(false)])?;
    keys.expect("mlp_bias", &[json!(false)])?;
    // Up to version 4 of `transformers` the base stands alone, and how angles are stretched in `rope_scaling`.
    let theta = match keys.get("rope_parameters").or(keys.get("rope_scaling")) {
        None | Some(Value::Null) => keys.number("rope_theta", 10000.0)?,
        Some(Value::Object(rope)) => {
            let rope = Keys(rope);
            rope.expect("rope_type", &[json!("default")])?;
            rope.expect("type", &[json!("default")])?;
            rope.expect("partial_rotary_factor", &[json!(1.0), json!(1)])?;
            rope.number("rope_theta", keys.number("rope_theta", 10000.0)?)?
        }
        Some(_) => return Err(keys.wrong("rope_parameters", "an object")),
    };
    Ok(ModelConfig::Llama(Llama {
        vocabulary: keys.size("vocab_size")?,
        context: keys.size("max_position_embeddings")?,
        n_layers: keys.size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: match keys.get("num_key_value_heads") {
            None | Some(Value::Null) => n_heads,
            Some(_) => keys.size("num_key_value_heads")?,
        },
        width,
        hidden: keys.size("intermediate_size")?,
        theta,
        tied: keys.flag("tie_word_embeddings", false)?,
        epsilon: keys.number("rms_norm_eps", 1e-6)?,
        lora: None,
    }))
}

/// The keys of a configuration. Those that are left out have the defaults of `transformers`, but for sizes.
#[derive(Clone, Copy)]
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key)
    }

    fn wrong(self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or("not there".to_string(), Value::to_string);
        Error::config(format!("`{}`: `{key}` is {found}, expected {expected}", super::CONFIG))
    }

    fn architecture(self, known: &[&str]) -> Result<()> {
        let found = match self.get("architectures") {
            None | Some(Value::Null) => return Ok(()),
            Some(found) => found.as_array().map(Vec::as_slice).unwrap_or_default(),
        };
        match found.iter().any(|name| name.as_str().is_some_and(|name| known.contains(&name))) {
            true => Ok(()),
            false => Err(self.wrong("architectures", &format!("one of {}", known.join(", ")))),
        }
    }

    fn size(self, key: &str) -> Result<usize> {
        // More than any model has, and small enough for products of two.
        let found = self.get(key).and_then(Value::as_u64).filter(|n| (1..=1 << 24).contains(n));
        found.map(|n| n as usize).ok_or_else(|| self.wrong(key, "a whole number from 1 to 16777216"))
    }

    fn number(self, key: &str, default: f32) -> Result<f32> {
        let Some(found) = self.get(key) else { return Ok(default) };
        let x = found.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        x.ok_or_else(|| self.wrong(key, "a number above 0"))
    }

    fn flag(self, key: &str, default: bool) -> Result<bool> {
        let Some(found) = self.get(key) else { return Ok(default) };
        found.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// Refuses what is there and is not implemented.
    fn expect(self, key: &str, allowed: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(found) if !allowed.contains(found) => {
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                Err(self.wrong(key, &format!("{}: nothing else is implemented", allowed.join(" or "))))
            }
            _ => Ok(()),
        }
    }
}

/// The configuration of a model without adapters.
pub(super) fn to_json(model: &ModelConfig) -> Result<String> {
    let value = match model {
        ModelConfig::Gpt(gpt) => json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": gpt.vocabulary,
            "n_positions": gpt.context,
            "n_layer": gpt.n_layers,
            "n_head": gpt.n_heads,
            "n_embd": gpt.width,
            "n_inner": null,
            "activation_function": name(gpt.activation),
            "layer_norm_epsilon": exact(gpt.epsilon),
            "tie_word_embeddings": gpt.tied,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "torch_dtype": "float32",
        }),
        ModelConfig::Llama(llama) => json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": llama.vocabulary,
            "max_position_embeddings": llama.context,
            "num_hidden_layers": llama.n_layers,
            "num_attention_heads": llama.n_heads,
            "num_key_value_heads": if llama.n_kv_heads == 0 { llama.n_heads } else { llama.n_kv_heads },
            "hidden_size": llama.width,
            "intermediate_size": llama.n_hidden(),
            "hidden_act": "silu",
            "rms_norm_eps": exact(llama.epsilon),
            "rope_theta": exact(llama.theta),
            "tie_word_embeddings": llama.tied,
            "bos_token_id": null,
            "eos_token_id": null,
            "torch_dtype": "float32",
        }),
        ModelConfig::Mlp(_) | ModelConfig::Convnet(_) => {
            return Err(Error::config("the model is neither a gpt nor a llama: only these have a form there"));
        }
    };
    // Keys and strings are always JSON.
    Ok(serde_json::to_string_pretty(&value).unwrap_or_default() + "\n")
}

fn name(activation: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, a)| *a == activation).map_or("linear", |(name, _)| name)
}

/// The shortest decimal that is this number: 1e-5 rather than what f32 makes of it in f64.
fn exact(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
