//! `anemone runs`: the runs of a folder in a table.

use crate::watch::figures::{Figures, count, long, rate, short};
use crate::{Outcome, args};
use anemone::Run;
use anemone::config::ModelConfig;
use anemone::run::{State, now_us};
use anyhow::Context;
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A run in a row.
#[derive(Serialize)]
struct Row {
    name: String,
    path: PathBuf,
    #[serde(flatten)]
    state: State,
    /// The kind of model.
    model: Option<String>,
    n_params: Option<u64>,
    device: Option<String>,
    /// Steps done, and steps in all.
    steps: u64,
    n_steps: Option<u64>,
    /// The loss of the last step.
    loss: Option<f64>,
    /// Of the last look at the validation data.
    validation: Option<Validation>,
    /// The lowest loss at such a look.
    best_validation_loss: Option<f64>,
    steps_per_second: Option<f64>,
    /// A second; what they are is in `examples_are`.
    examples_per_second: Option<f64>,
    examples_are: Option<String>,
    compiles: u64,
    restarts: usize,
    /// When something was heard of it last, as Unix time in seconds.
    heard: Option<f64>,
}

#[derive(Serialize)]
struct Validation {
    step: u64,
    loss: f64,
    accuracy: Option<f64>,
}

pub(crate) fn run(args: &args::Runs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut rows = Vec::new();
    let mut unreadable = Vec::new();
    for path in folders(&args.folder)? {
        match Run::open(&path) {
            Ok(run) => rows.push(Row::of(&run)),
            Err(e) if e.is_config() => {}
            Err(e) => unreadable.push(e),
        }
    }
    // The one that is heard of last comes last, beside the prompt.
    rows.sort_by(|a, b| a.heard.unwrap_or(0.0).total_cmp(&b.heard.unwrap_or(0.0)));
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else if rows.is_empty() {
        writeln!(out, "There is no run in {}; `anemone train` makes one", args.folder.display())?;
    } else {
        table(&rows, out)?;
    }
    for e in unreadable {
        anstream::eprintln!("warning: {e}");
    }
    Ok(Outcome::Clean)
}

/// The folder if it is a run's, and those in it.
fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("read the folder `{}`: name the one that has the runs", folder.display());
    let mut folders = vec![folder.to_path_buf()];
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

impl Row {
    fn of(run: &Run) -> Row {
        let figures = Figures::of(run);
        let steps = run.steps();
        let process = run.process();
        let best = steps.validations.iter().map(|v| v.loss).filter(|x| x.is_finite()).reduce(f64::min);
        Row {
            name: run.name(),
            path: run.path().to_path_buf(),
            state: run.state().clone(),
            model: run.config().map(|c| kind(&c.model).to_string()),
            n_params: process.map(|p| p.n_params as u64),
            device: process.map(|p| p.device.clone()),
            steps: figures.done,
            n_steps: figures.n_steps,
            loss: figures.loss,
            validation: steps.validations.last().map(|v| Validation {
                step: v.step,
                loss: v.loss,
                accuracy: v.accuracy,
            }),
            best_validation_loss: best,
            steps_per_second: figures.steps_per_s,
            examples_per_second: figures.examples_per_s.as_ref().map(|(n, _)| *n),
            examples_are: figures.examples_per_s.map(|(_, what)| what),
            compiles: figures.compiles.of_run,
            restarts: figures.n_restarts,
            heard: run.heard_us().map(|us| us as f64 / 1e6),
        }
    }
}

fn kind(model: &ModelConfig) -> &'static str {
    match model {
        ModelConfig::Mlp(_) => "mlp",
        ModelConfig::Convnet(_) => "convnet",
        ModelConfig::Gpt(_) => "gpt",
        ModelConfig::Llama(_) => "llama",
    }
}

fn table(rows: &[Row], out: &mut dyn Write) -> anyhow::Result<()> {
    const HEAD: [&str; 8] = ["NAME", "STATE", "MODEL", "STEPS", "LOSS", "VALIDATION", "SPEED", "LAST HEARD"];
    let dash = || "-".to_string();
    let now = now_us() as f64 / 1e6;
    let cells = |row: &Row| -> [String; 8] {
        let size = row.n_params.map_or(String::new(), |n| format!(" {}", size(n)));
        let steps = match row.n_steps.filter(|_| row.state != State::Untrained) {
            Some(n) if n != row.steps => format!("{} of {}", count(row.steps), count(n)),
            _ => count(row.steps),
        };
        let validation = row.validation.as_ref().map(|v| {
            let accuracy = v.accuracy.map_or(String::new(), |a| format!(", {:.1} %", 100.0 * a));
            short(v.loss) + &accuracy
        });
        let speed = match (row.examples_per_second, &row.examples_are) {
            (Some(n), Some(what)) => format!("{} {what}/s", rate(n)),
            _ => row.steps_per_second.map_or_else(dash, |n| format!("{} steps/s", short(n))),
        };
        let heard = row.heard.map(|at| format!("{} ago", long(Duration::from_secs_f64((now - at).max(0.0)))));
        [
            row.name.clone(),
            row.state.name().to_string(),
            row.model.as_ref().map_or_else(dash, |model| format!("{model}{size}")),
            steps,
            row.loss.map_or_else(dash, short),
            validation.unwrap_or_else(dash),
            speed,
            heard.unwrap_or_else(dash),
        ]
    };
    let lines: Vec<[String; 8]> =
        std::iter::once(HEAD.map(str::to_string)).chain(rows.iter().map(cells)).collect();
    let widths: Vec<usize> =
        (0..HEAD.len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A number of parameters in few characters.
fn size(n: u64) -> String {
    // From where the unit below would be shown as 1000.0.
    match n as f64 {
        x if x >= 999.95e6 => format!("{:.1}B", x / 1e9),
        x if x >= 999.95e3 => format!("{:.1}M", x / 1e6),
        x if x >= 1e3 => format!("{:.1}k", x / 1e3),
        _ => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_gives_few_digits() {
        let sizes = [999, 1000, 999_949, 999_999, 1_500_000, 999_999_999, 7_000_000_000].map(size);
        assert_eq!(sizes, ["999", "1.0k", "999.9k", "1.0M", "1.5M", "1.0B", "7.0B"]);
    }
}
