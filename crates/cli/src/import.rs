//! `anemone import` and `anemone export`: models from and for elsewhere.

use crate::run_dir::RunDir;
use crate::{Outcome, args, source};
use anemone::config::ModelConfig;
use anemone::file::write_atomically;
use anemone::pretrained::Pretrained;
use anemone::weights_file::save_safetensors;
use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// What `config.toml` says of a model that was trained elsewhere; the rest has its defaults.
#[derive(Serialize)]
struct Imported<'a> {
    train: Train,
    model: &'a ModelConfig,
}

#[derive(Serialize)]
struct Train {
    init_weights: PathBuf,
}

pub(crate) fn run(args: &args::Import, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let pretrained = Pretrained::open(&args.path)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?),
        None => pretrained.tokenizer.clone(),
    };
    // The folder's own name, whatever `.` and `..` the path has.
    let path = args.path.canonicalize().with_context(|| format!("open `{}`", args.path.display()))?;
    let name = path.file_stem().and_then(|s| s.to_str());
    let name = name.ok_or_else(|| anyhow!("`{}` has no name: give one with --run-dir", args.path.display()))?;
    let dir = RunDir::create(args.run_dir.as_deref(), name)?;
    let metadata = BTreeMap::from([("format".to_string(), "anemone".to_string())]);
    save_safetensors(&dir.weights(), &pretrained.weights, &metadata)?;
    if let Some(json) = &tokenizer {
        write_atomically(&dir.tokenizer(), json.as_bytes())?;
    }
    let imported = Imported { train: Train { init_weights: dir.weights() }, model: &pretrained.model };
    let mut text = format!("# Imported from {}.\n", args.path.display().to_string().escape_debug());
    text += "# To train it further, copy this file and say on what in the section `data`.\n\n";
    text += &toml::to_string(&imported)?;
    write_atomically(&dir.config(), text.as_bytes())?;
    let n_params: usize = pretrained.weights.iter().map(|t| t.data.len()).sum();
    let with = if tokenizer.is_some() { ", tokenizer.json" } else { "" };
    writeln!(out, "{n_params} parameters, written to {dir}: config.toml, weights.safetensors{with}")?;
    Ok(Outcome::Clean)
}

pub(crate) fn export(args: &args::Export, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let (pretrained, weights) = source::open(&args.path, args.weights.as_deref())?;
    let folder = &args.folder;
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("the folder `{}` is not empty: name another", folder.display());
    }
    pretrained.to_hugging_face(folder).with_context(|| format!("weights `{}`", weights.display()))?;
    writeln!(out, "Written to {}: config.json, model.safetensors", folder.display())?;
    Ok(Outcome::Clean)
}
