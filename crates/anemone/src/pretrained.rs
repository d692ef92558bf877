//! Models with their weights as others keep them: Hugging Face's GPT-2 and Llama, and llama2.c's files.
//!
//! ```no_run
//! use anemone::generate::Generator;
//! use anemone::pretrained::Pretrained;
//! use std::path::Path;
//!
//! let gpt2 = Pretrained::open(Path::new("gpt2"))?; // config.json, model.safetensors
//! let mut generator = Generator::new(&*gpt2.decoder()?, &gpt2.weights, 64)?;
//! let logits = generator.feed(15496)?;
//! # Ok::<(), anemone::Error>(())
//! ```

mod hugging_face;
mod llama2c;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::nn::{Decoder, Graph, Lora};
use crate::params::{self, ParamSpec};
use crate::soft::floats::Floats;
use crate::weights_file::{NamedTensor, load_safetensors};
use std::path::Path;

/// How the names of checkpoints end.
const CHECKPOINT_EXTENSION: &str = "anemone";

/// A model, its weights, and what turns text into its tokens.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// A `gpt` or a `llama`, complete with its sizes.
    pub model: ModelConfig,
    /// The model's parameters by name, in its shapes; others may be among them.
    pub weights: Vec<NamedTensor>,
    /// The tokenizer as JSON, where there is one; see [`Tokenizer::from_json`].
    pub tokenizer: Option<String>,
}

impl Pretrained {
    /// Reads a folder as [`Pretrained::from_hugging_face`] does, or a file as [`Pretrained::from_llama2c`] does.
    ///
    /// # Errors
    ///
    /// As these.
    pub fn open(path: &Path) -> Result<Pretrained> {
        if path.is_dir() { Pretrained::from_hugging_face(path) } else { Pretrained::from_llama2c(path) }
    }

    /// The model as one that goes token by token.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn decoder(&self) -> Result<Box<dyn Decoder>> {
        let no_decoder =
            || Error::config("the model predicts no tokens, expected `model.kind` to be gpt or llama");
        self.model.decoder().ok_or_else(no_decoder)
    }

    /// The positions the model has or is trained for; 0 for any number.
    pub fn context(&self) -> usize {
        match &self.model {
            ModelConfig::Mlp(_) | ModelConfig::Convnet(_) => 0,
            ModelConfig::Gpt(gpt) => gpt.context,
            ModelConfig::Llama(llama) => llama.context,
        }
    }

    /// The tokenizer, where there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read; some need the feature `tokenizers`.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        self.tokenizer.as_deref().map(Tokenizer::from_json).transpose()
    }

    /// The model without adapters, their changes added to the weights.
    ///
    /// # Errors
    ///
    /// If a parameter is not among the weights in its shape.
    pub fn merged(&self) -> Result<Pretrained> {
        let mut model = self.model.clone();
        let lora = match &mut model {
            ModelConfig::Mlp(_) | ModelConfig::Convnet(_) => None,
            ModelConfig::Gpt(gpt) => gpt.lora.take(),
            ModelConfig::Llama(llama) => llama.lora.take(),
        };
        let adapted = parameters(&*self.decoder()?)?;
        let mut weights = Vec::new();
        for spec in adapted.iter().filter(|spec| !is_adapter(&spec.name)) {
            let mut data = params::find(spec, &self.weights)?.to_vec();
            let layer = spec.name.strip_suffix(".weight");
            let part = |part: &str| {
                let name = format!("{}.{part}.weight", layer?);
                adapted.iter().find(|spec| spec.name == name)
            };
            if let (Some(lora), Some(a), Some(b)) = (&lora, part("lora_A"), part("lora_B")) {
                let [a, b] = [params::find(a, &self.weights)?, params::find(b, &self.weights)?];
                add_change(&mut data, a, b, lora);
            }
            weights.push(NamedTensor { name: spec.name.clone(), shape: spec.shape.clone(), data });
        }
        Ok(Pretrained { model, weights, tokenizer: self.tokenizer.clone() })
    }
}

/// `W += (alpha / rank) B A`, for `A` `[rank, I]`, `B` `[O, rank]` and `W` `[O, I]`.
fn add_change(w: &mut [f32], a: &[f32], b: &[f32], lora: &Lora) {
    let n_in = a.len() / lora.rank;
    let scale = f64::from(lora.alpha) / lora.rank as f64;
    for (row, b) in w.chunks_exact_mut(n_in).zip(b.chunks_exact(lora.rank)) {
        for (i, w) in row.iter_mut().enumerate() {
            let product: f64 =
                b.iter().zip(a.chunks_exact(n_in)).map(|(b, a)| f64::from(*b) * f64::from(a[i])).sum();
            *w = (f64::from(*w) + scale * product) as f32;
        }
    }
}

/// Whether a parameter belongs to an adapter, which weights from elsewhere do not have.
fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

/// All parameters of a model.
fn parameters(model: &dyn Decoder) -> Result<Vec<ParamSpec>> {
    Ok(Graph::build_decoder(model, 1)?.params.into_iter().map(|(spec, _)| spec).collect())
}

/// The tensors of a safetensors file, or of a checkpoint (`*.anemone`), which has the optimizer's as well.
///
/// # Errors
///
/// If the file cannot be read or is damaged.
pub fn load_weights(path: &Path) -> Result<Vec<NamedTensor>> {
    match path.extension().is_some_and(|e| e == CHECKPOINT_EXTENSION) {
        true => Ok(Checkpoint::load(path)?.tensors),
        false => load_safetensors(path),
    }
}

/// Puts weights in the place of a model's first ones. Adapters that have none keep theirs.
///
/// # Errors
///
/// If another parameter is not there in its shape.
pub(crate) fn initialize(specs: &[ParamSpec], params: &mut [Floats], weights: &[NamedTensor]) -> Result<()> {
    for (spec, data) in specs.iter().zip(params) {
        if is_adapter(&spec.name) && weights.iter().all(|t| t.name != spec.name) {
            continue;
        }
        data.copy_from_slice(params::find(spec, weights)?);
    }
    Ok(())
}
