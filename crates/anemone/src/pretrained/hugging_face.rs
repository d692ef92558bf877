//! Folders as Hugging Face's `transformers` keeps GPT-2 and Llama: `config.json` and `model.safetensors`.

mod config;

use super::{Pretrained, parameters};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::file::write_atomically;
use crate::params::ParamSpec;
use crate::weights_file::{NamedTensor, load_safetensors, save_safetensors};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path};

/// The model's configuration.
const CONFIG: &str = "config.json";
/// Its weights.
const WEIGHTS: &str = "model.safetensors";
/// Where the weights are in several files: which tensor is in which.
const INDEX: &str = "model.safetensors.index.json";
/// What reads text for it.
const TOKENIZER: &str = "tokenizer.json";
/// That of anemone, which `transformers` does not know.
const OWN_TOKENIZER: &str = "anemone-tokenizer.json";
/// Weights in the form of older versions, which is a program that makes them.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

impl Pretrained {
    /// Reads a folder of Hugging Face's with a `GPT2LMHeadModel` or a `LlamaForCausalLM`, its weights in one or
    /// several safetensors files of F32, F16 or BF16, and its `tokenizer.json` where there is one.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, the model is another or has something that is not implemented, a tensor is
    /// missing or not in its shape, or there is one that such a model does not have.
    pub fn from_hugging_face(folder: &Path) -> Result<Pretrained> {
        let doing = || format!("load a model of Hugging Face's from `{}`", folder.display());
        read(folder).map_err(|e| e.context(doing()))
    }

    /// Writes such a folder, adapters merged into the weights. Norms and linear layers without biases get biases
    /// of 0 where `transformers` has no model without.
    ///
    /// A tokenizer of the library `tokenizers` becomes `tokenizer.json`; one of anemone's own
    /// `anemone-tokenizer.json`, which [`Pretrained::from_hugging_face`] reads again.
    ///
    /// # Errors
    ///
    /// If the model is neither a `gpt` nor a `llama`, a parameter is not among the weights in its shape, or a file
    /// cannot be written.
    pub fn to_hugging_face(&self, folder: &Path) -> Result<()> {
        let doing = || format!("save a model as Hugging Face does in `{}`", folder.display());
        write(self, folder).map_err(|e| e.context(doing()))
    }
}

fn read(folder: &Path) -> Result<Pretrained> {
    let model = config::read(&folder.join(CONFIG))?;
    let mut tensors: HashMap<String, NamedTensor> = HashMap::new();
    for mut tensor in tensors_of(folder)? {
        // The base model, without its classifier, is kept under names without the first part.
        if matches!(model, ModelConfig::Gpt(_)) && is_of_base_gpt(&tensor.name) {
            tensor.name = format!("transformer.{}", tensor.name);
        }
        tensors.insert(tensor.name.clone(), tensor);
    }
    let mut pretrained = Pretrained { model, weights: Vec::new(), tokenizer: None };
    let is_gpt = matches!(pretrained.model, ModelConfig::Gpt(_));
    for spec in parameters(&*pretrained.decoder()?)? {
        let Some(tensor) = tensors.remove(&spec.name) else {
            return Err(Error::checkpoint(format!("there is no tensor `{}`, which the model needs", spec.name)));
        };
        let expected = shape_there(&spec, is_gpt);
        if tensor.shape != expected {
            return Err(Error::checkpoint(format!(
                "tensor `{}` has shape {:?}, expected {expected:?} by `{CONFIG}`",
                spec.name, tensor.shape
            )));
        }
        let data = if is_conv1d(&spec, is_gpt) { transposed(&tensor.data, spec.shape[0]) } else { tensor.data };
        pretrained.weights.push(NamedTensor { name: spec.name, shape: spec.shape, data });
    }
    let unknown: BTreeSet<&String> = tensors.keys().filter(|name| !is_no_parameter(name)).collect();
    if let Some(name) = unknown.first() {
        return Err(Error::checkpoint(format!(
            "there is a tensor `{name}`, which the model by `{CONFIG}` does not have; {} in all",
            unknown.len()
        )));
    }
    for name in [TOKENIZER, OWN_TOKENIZER] {
        let path = folder.join(name);
        if pretrained.tokenizer.is_none() && path.exists() {
            pretrained.tokenizer = Some(read_text(&path)?);
        }
    }
    Ok(pretrained)
}

fn write(pretrained: &Pretrained, folder: &Path) -> Result<()> {
    let merged = pretrained.merged()?;
    let specs = parameters(&*merged.decoder()?)?;
    let Pretrained { model, weights, tokenizer } = merged;
    let (is_gpt, lacks_biases) = match &model {
        ModelConfig::Gpt(gpt) => (true, !gpt.bias),
        _ => (false, false),
    };
    let mut tensors = Vec::new();
    // The merged weights are exactly the model's parameters, in their order.
    for (spec, tensor) in specs.iter().zip(weights) {
        let data = match is_conv1d(spec, is_gpt) {
            true => transposed(&tensor.data, spec.shape[1]),
            false => tensor.data,
        };
        tensors.push(NamedTensor { name: tensor.name, shape: shape_there(spec, is_gpt), data });
        let in_block = ["transformer.h.", "transformer.ln_f."].iter().any(|part| spec.name.starts_with(part));
        if lacks_biases && in_block {
            let name = spec.name.replace(".weight", ".bias");
            let n = if spec.decay { spec.shape[0] } else { spec.shape[1] };
            tensors.push(NamedTensor { name, shape: vec![n], data: vec![0.0; n] });
        }
    }
    let json = config::to_json(&model)?;
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    // `transformers` asks for this key.
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    save_safetensors(&folder.join(WEIGHTS), &tensors, &metadata)?;
    if let Some(json) = tokenizer {
        let is_own = serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|v| v.get("model").is_none());
        write_atomically(&folder.join(if is_own { OWN_TOKENIZER } else { TOKENIZER }), json.as_bytes())?;
    }
    write_atomically(&folder.join(CONFIG), json.as_bytes())
}

/// Whether a linear layer's weights lie as inputs by outputs: GPT-2's do, but for the classifier's.
fn is_conv1d(spec: &ParamSpec, is_gpt: bool) -> bool {
    is_gpt && spec.decay && spec.name.starts_with("transformer.h.")
}

/// The shape of a parameter there: vectors `[C]` for `[1, C, 1, 1]`, matrices for `[O, I, 1, 1]`, tables as here.
fn shape_there(spec: &ParamSpec, is_gpt: bool) -> Vec<usize> {
    match spec.shape[..] {
        [_, n, ..] if !spec.decay => vec![n],
        [n_out, n_in, ..] if is_conv1d(spec, is_gpt) => vec![n_in, n_out],
        _ => spec.shape[..spec.shape.len().min(2)].to_vec(),
    }
}

/// A matrix with `n_columns` columns the other way round: gives `[n_columns, rows]`.
fn transposed(data: &[f32], n_columns: usize) -> Vec<f32> {
    (0..n_columns).flat_map(|i| data[i..].iter().step_by(n_columns).copied()).collect()
}

fn is_of_base_gpt(name: &str) -> bool {
    ["wte.", "wpe.", "h.", "ln_f."].iter().any(|part| name.starts_with(part))
}

/// What is kept beside the parameters: masks and angles, and the classifier's weights where they are the
/// embedding's.
fn is_no_parameter(name: &str) -> bool {
    let ends = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
    name == "lm_head.weight" || ends.iter().any(|end| name.ends_with(end))
}

/// All tensors, from one file or from those that the index names.
fn tensors_of(folder: &Path) -> Result<Vec<NamedTensor>> {
    let (one, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if one.exists() {
        return load_safetensors(&one);
    }
    if !index.exists() {
        let advice = match PICKLES.iter().find(|name| folder.join(name).exists()) {
            Some(name) => format!("; `{name}` is not read: load it with `transformers` and `save_pretrained` it"),
            None => String::new(),
        };
        return Err(Error::checkpoint(format!("there is neither `{WEIGHTS}` nor `{INDEX}`{advice}")));
    }
    let wrong = |why: String| Error::checkpoint(format!("`{INDEX}`: {why}"));
    let json: serde_json::Value =
        serde_json::from_str(&read_text(&index)?).map_err(|e| wrong(format!("no JSON: {e}")))?;
    let Some(map) = json.get("weight_map").and_then(|map| map.as_object()) else {
        return Err(wrong("has no `weight_map` of tensors and their files".into()));
    };
    let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        // A name alone, so that nothing outside the folder is read.
        let file = file.as_str().filter(|f| {
            let mut parts = Path::new(f).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        });
        let Some(file) = file else {
            return Err(wrong(format!("tensor `{tensor}` is in `{}`, expected the name of a file", map[tensor])));
        };
        files.entry(file).or_default().insert(tensor);
    }
    let mut tensors = Vec::new();
    for (file, mut names) in files {
        for tensor in load_safetensors(&folder.join(file))? {
            if names.remove(tensor.name.as_str()) {
                tensors.push(tensor);
            }
        }
        if let Some(name) = names.first() {
            return Err(wrong(format!("tensor `{name}` is not in `{file}`")));
        }
    }
    Ok(tensors)
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}
