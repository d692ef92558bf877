//! Where a model comes from that is to be used: a run's folder, a folder of Hugging Face's, a file of llama2.c.

use crate::{run_dir, train};
use anemone::pretrained::{Pretrained, load_weights};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// A run's weights by what they are best for: to use, or to go on from.
pub(crate) const BEST_FIRST: &[&str] = &[run_dir::BEST, run_dir::WEIGHTS, run_dir::CHECKPOINT];
/// The final weights of a run, or those of its last checkpoint.
pub(crate) const LATEST: &[&str] = &[run_dir::WEIGHTS, run_dir::CHECKPOINT];

/// A model that predicts tokens, and the path of its weights.
pub(crate) fn open(path: &Path, weights: Option<&Path>) -> anyhow::Result<(Pretrained, PathBuf)> {
    if path.is_dir() && path.join(run_dir::CONFIG).exists() {
        return open_run(path, weights);
    }
    if let Some(weights) = weights {
        bail!(
            "`--weights {}` is for a run's folder, which `{}` is not: leave it out",
            weights.display(),
            path.display()
        );
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "safetensors" || e == "anemone") {
        let run = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return open_run(run, Some(path));
    }
    Ok((Pretrained::open(path)?, path.to_path_buf()))
}

fn open_run(run: &Path, weights: Option<&Path>) -> anyhow::Result<(Pretrained, PathBuf)> {
    let config = train::read_config(&run.join(run_dir::CONFIG))
        .with_context(|| format!("`{}` is no folder of a run", run.display()))?;
    let path = match weights {
        Some(path) => path.to_path_buf(),
        None => find_weights(run, BEST_FIRST)?,
    };
    let tokenizer = run.join(run_dir::TOKENIZER);
    let tokenizer = match tokenizer.exists() {
        true => {
            Some(std::fs::read_to_string(&tokenizer).with_context(|| format!("read `{}`", tokenizer.display()))?)
        }
        false => None,
    };
    Ok((Pretrained { model: config.model, weights: load_weights(&path)?, tokenizer }, path))
}

/// The first of these files that is in the folder of a run.
pub(crate) fn find_weights(run: &Path, names: &[&str]) -> anyhow::Result<PathBuf> {
    match names.iter().map(|name| run.join(name)).find(|p| p.exists()) {
        Some(path) => Ok(path),
        None => bail!(
            "`{}` has neither {}: train for longer, or name a file with --weights",
            run.display(),
            names.join(" nor ")
        ),
    }
}
