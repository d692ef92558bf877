//! `anemone eval`: what a run's weights do on its validation data, on the host in f32.

use crate::run_dir;
use crate::{Outcome, args, train};
use anemone::checkpoint::Checkpoint;
use anemone::data::Part;
use anemone::train::Evaluator;
use anemone::weights_file::{NamedTensor, load_safetensors};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &args::Eval, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut config = train::read_config(&args.run.join(run_dir::CONFIG))
        .with_context(|| format!("`{}` is no folder of a run", args.run.display()))?;
    if let Some(n) = args.batches {
        config.eval.batches = n;
    }
    let path = match &args.weights {
        Some(path) => path.clone(),
        None => latest(&args.run)?,
    };
    let weights = load(&path)?;
    let mut evaluator = Evaluator::new(&config)?;
    let part = match evaluator.part() {
        Part::Validation => "validation",
        Part::Train => "training",
    };
    let found = evaluator.run(&weights).with_context(|| format!("evaluate `{}`", path.display()))?;
    if args.json {
        let report = serde_json::json!({
            "run": args.run,
            "weights": path,
            "part": part,
            "loss": found.loss,
            "accuracy": found.accuracy,
            "n_targets": found.n_targets,
            "n_batches": found.n_batches,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(Outcome::Clean);
    }
    writeln!(out, "Weights   {}", path.display())?;
    writeln!(out, "Data      {part} part, {} targets in {} batches", found.n_targets, found.n_batches)?;
    writeln!(out, "Loss      {:.9}", found.loss)?;
    if let Some(accuracy) = found.accuracy {
        writeln!(out, "Accuracy  {:.2} %", 100.0 * accuracy)?;
    }
    Ok(Outcome::Clean)
}

/// The final weights of a run, or those of its last checkpoint.
fn latest(run: &Path) -> anyhow::Result<PathBuf> {
    let found =
        [run_dir::WEIGHTS, run_dir::CHECKPOINT].map(|name| run.join(name)).into_iter().find(|p| p.exists());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "`{}` has neither {} nor {}: train for longer, or name a file with --weights",
            run.display(),
            run_dir::WEIGHTS,
            run_dir::CHECKPOINT
        ),
    }
}

fn load(path: &Path) -> anyhow::Result<Vec<NamedTensor>> {
    let is_checkpoint = path.extension().is_some_and(|e| Some(e) == Path::new(run_dir::CHECKPOINT).extension());
    Ok(if is_checkpoint { Checkpoint::load(path)?.tensors } else { load_safetensors(path)? })
}
