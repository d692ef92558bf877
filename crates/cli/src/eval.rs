//! `anemone eval`: what a run's weights do on its validation data, on the host in f32.

use crate::run_dir;
use crate::{Outcome, args, source, train};
use anemone::data::Part;
use anemone::pretrained::load_weights;
use anemone::train::Evaluator;
use anyhow::Context;
use std::io::Write;

pub(crate) fn run(args: &args::Eval, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut config = train::read_config(&args.run.join(run_dir::CONFIG))
        .with_context(|| format!("`{}` is no folder of a run", args.run.display()))?;
    if let Some(n) = args.batches {
        config.eval.batches = n;
    }
    let path = match &args.weights {
        Some(path) => path.clone(),
        None => source::find_weights(&args.run, source::LATEST)?,
    };
    let weights = load_weights(&path)?;
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
