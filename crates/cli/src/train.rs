//! `anemone train`: trains a preset or a configuration in a run folder, and replaces its own process by a new one
//! when the device's budget of compiles is spent.

pub(crate) use crate::configuration::read_config;
use crate::configuration::{DEFAULT_PRESET, configuration};
use crate::engine::{self, Machine};
use crate::progress::Progress;
use crate::run_dir::{self, RunDir};
use crate::{Outcome, args};
use anemone::checkpoint::Checkpoint;
use anemone::clock::Comparison;
use anemone::config::Config;
use anemone::file::write_atomically;
use anemone::metrics::MetricsLog;
use anemone::report::Validation;
use anemone::train::{Description, Event};
use anemone::weights_file::save_safetensors;
use anemone::{Report, Trainer, device};
use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first Ctrl-C; the second ends the process at once.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(args: &args::Train, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let name = run_name(args)?;
    let to_resume = args.resume.then(|| RunDir::to_resume(args.run_dir.as_deref(), &name));
    let config = configuration(args, to_resume.as_deref())?;
    if args.print_config {
        match args.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&config)?)?,
            false => out.write_all(config.to_commented_toml().as_bytes())?,
        }
        return Ok(Outcome::Clean);
    }
    // What cannot be trained leaves no folder behind.
    let mut device = config.device.clone();
    if let Some(faults) = &args.inject {
        // Not part of the configuration, which the run keeps.
        device.inject = faults.to_string();
    }
    let (options, why) = engine::options(&device)?;
    let mut first = config.clone();
    if to_resume.as_ref().is_some_and(|folder| folder.join(run_dir::CHECKPOINT).exists()) {
        // The checkpoint has all weights.
        first.train.init_weights = None;
    }
    let trainer = Trainer::new(&first, device::open(&options)?)?;
    if args.plan {
        if args.json {
            let plan = PlanAndEstimates { plan: trainer.plan(), estimates: trainer.estimates() };
            writeln!(out, "{}", serde_json::to_string_pretty(&plan)?)?;
        } else {
            write!(out, "{}\n{}", trainer.plan(), trainer.estimates())?;
        }
        return Ok(Outcome::Clean);
    }
    let dir = match to_resume {
        Some(path) => RunDir::resume(path)?,
        None => RunDir::create(args.run_dir.as_deref(), &name)?,
    };
    // Without a handler, Ctrl-C ends the process; the last checkpoint is there all the same.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    let mut progress = Progress::new(args.quiet);
    if let Some(why) = why {
        progress.say(&format!("device     {why}"));
    }
    let mut run = Run::start(config, trainer, dir, progress)?;
    let ended = run.train();
    run.progress.end();
    match ended? {
        Ended::Finished => run.finish(args.json, out),
        Ended::Restart => {
            // What a device has loaded and written would outlive this process's memory.
            drop(run.trainer);
            Err(replace_process(&run.dir))
        }
        Ended::Interrupted => {
            bail!(
                "interrupted at step {}; go on with `anemone train --resume --run-dir {}`",
                run.trainer.n_steps(),
                run.dir
            )
        }
    }
}

/// The name of the run: its preset, or its configuration file without the ending.
fn run_name(args: &args::Train) -> anyhow::Result<String> {
    let what = args.what.as_deref().unwrap_or(DEFAULT_PRESET);
    let stem = Path::new(what).file_stem().and_then(|s| s.to_str());
    Ok(stem
        .ok_or_else(|| {
            anyhow!("`{what}` is no name of a preset or file: name one as `anemone help train` lists them")
        })?
        .to_string())
}

/// What `--plan --json` prints.
#[derive(Serialize)]
struct PlanAndEstimates<'a> {
    #[serde(flatten)]
    plan: &'a Description,
    #[serde(flatten)]
    estimates: Comparison,
}

/// A run under way.
struct Run {
    dir: RunDir,
    config: Config,
    trainer: Trainer,
    metrics: MetricsLog,
    progress: Progress,
    saved_at: u64,
}

/// Why training stopped.
enum Ended {
    Finished,
    Restart,
    Interrupted,
}

impl Run {
    /// Resumes the run where there is something to resume.
    fn start(config: Config, mut trainer: Trainer, dir: RunDir, mut progress: Progress) -> anyhow::Result<Run> {
        progress.say(&format!("run folder {dir}"));
        progress.say(&format!("device     {}", trainer.device().name()));
        let checkpoint = dir.checkpoint();
        let metrics = if checkpoint.exists() {
            let loaded = Checkpoint::load(&checkpoint)?;
            trainer.resume(&loaded).with_context(|| format!("resume `{}`", checkpoint.display()))?;
            progress.say(&format!("resumed at step {}", trainer.n_steps()));
            let resumed = MetricsLog::resume(&dir.metrics(), trainer.n_steps())?;
            for gap in &resumed.missing {
                progress.warn(&format!(
                    "metrics.jsonl lacks steps {} to {}",
                    gap.start,
                    gap.end.saturating_sub(1)
                ));
            }
            resumed.log
        } else {
            if dir.is_resumed() {
                progress.say("nothing to resume: no checkpoint yet, starting at the beginning");
            }
            MetricsLog::create(&dir.metrics())?
        };
        write_atomically(&dir.config(), trainer.config().to_toml().as_bytes())?;
        if let Some(tokenizer) = trainer.tokenizer() {
            write_atomically(&dir.tokenizer(), tokenizer.to_json()?.as_bytes())?;
        }
        if trainer.io_fell_back() {
            progress.warn("the device refuses fp32 inputs and outputs; going on with fp16, converted on the host");
        }
        progress.begin(trainer.n_steps(), config.train.steps, trainer.examples());
        let saved_at = trainer.n_steps();
        Ok(Run { dir, config, trainer, metrics, progress, saved_at })
    }

    fn train(&mut self) -> anyhow::Result<Ended> {
        loop {
            match self.trainer.step() {
                Ok(Event::Step(step)) => {
                    self.metrics.append(&step)?;
                    self.progress.step(&step);
                    if let Some(validation) = step.validation.filter(|v| v.best) {
                        self.save_best(&validation)?;
                    }
                    if self.trainer.at_boundary() {
                        if INTERRUPTED.load(Ordering::Relaxed) {
                            self.save()?;
                            return Ok(Ended::Interrupted);
                        }
                        let every = self.config.checkpoint.every;
                        if every > 0 && self.trainer.n_steps() - self.saved_at >= every {
                            self.save()?;
                        }
                    }
                }
                Ok(Event::Finished) => {
                    self.save()?;
                    return Ok(Ended::Finished);
                }
                Ok(Event::Restart(why)) => {
                    self.save()?;
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return Ok(Ended::Interrupted);
                    }
                    self.progress.say(&format!("restart at step {}: {why}", self.trainer.n_steps()));
                    return Ok(Ended::Restart);
                }
                Err(e) => {
                    let saved = if self.trainer.at_boundary() && self.trainer.n_steps() > self.saved_at {
                        self.save()
                    } else {
                        Ok(self.metrics.flush()?)
                    };
                    let e = anyhow!(e).context(format!("training stopped at step {}", self.trainer.n_steps()));
                    return Err(match saved {
                        Ok(()) if self.saved_at > 0 => e.context(format!(
                            "progress up to step {} is saved, go on with `anemone train --resume --run-dir {}`",
                            self.saved_at, self.dir
                        )),
                        Ok(()) => e,
                        Err(s) => e.context(format!("and the checkpoint could not be written: {s:#}")),
                    });
                }
            }
        }
    }

    /// Writes a checkpoint, and before it the metrics that it covers.
    fn save(&mut self) -> anyhow::Result<()> {
        self.metrics.sync()?;
        self.trainer.checkpoint()?.save(&self.dir.checkpoint())?;
        self.saved_at = self.trainer.n_steps();
        Ok(())
    }

    /// Keeps the weights as the best so far. Should the process be killed before the next checkpoint, they will come
    /// again.
    fn save_best(&mut self, validation: &Validation) -> anyhow::Result<()> {
        let mut about = vec![
            ("format", "anemone".to_string()),
            ("step", self.trainer.n_steps().to_string()),
            ("validation_loss", validation.loss.to_string()),
        ];
        about.extend(validation.accuracy.map(|a| ("validation_accuracy", a.to_string())));
        let metadata = about.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        Ok(save_safetensors(&self.dir.best(), &self.trainer.weights(), &metadata)?)
    }

    /// Leaves weights and report, and prints it.
    fn finish(&mut self, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let report = Report { machine: Some(Machine::this().to_string()), ..self.trainer.report()? };
        if let Some(validation) = report.validation.as_ref().filter(|v| v.best) {
            self.save_best(validation)?;
        }
        let metadata = BTreeMap::from([("format".to_string(), "anemone".to_string())]);
        save_safetensors(&self.dir.weights(), &self.trainer.weights(), &metadata)?;
        let text = serde_json::to_string_pretty(&report)? + "\n";
        write_atomically(&self.dir.report(), text.as_bytes())?;
        if json {
            out.write_all(text.as_bytes())?;
        } else {
            writeln!(out, "{report}")?;
            let best = if report.best.is_some() { ", best.safetensors" } else { "" };
            writeln!(out, "\nWritten to {}: weights.safetensors{best}, report.json, metrics.jsonl", self.dir)?;
        }
        Ok(Outcome::Clean)
    }
}

/// Replaces this process by a new one that resumes the run: same program, same arguments. Comes back only with an
/// error.
fn replace_process(dir: &RunDir) -> anyhow::Error {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |flag: &str, args: &[OsString]| {
        args.iter().any(|a| a == flag || a.to_str().is_some_and(|a| a.starts_with(&format!("{flag}="))))
    };
    // Behind the subcommand: at the end, a `--` might make them something other than flags.
    if !has("--resume", &args) {
        args.insert(1, "--resume".into());
    }
    if !has("--restarted", &args) {
        args.insert(1, "--restarted".into());
    }
    if !has("--run-dir", &args) {
        args.splice(1..1, ["--run-dir".into(), dir.path().into()]);
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => {
            return anyhow!(
                "restart: this program's file cannot be found: {e}; the run is saved, go on with \
                 `anemone train --resume --run-dir {dir}`"
            );
        }
    };
    let error = exec(Command::new(&program).args(&args));
    anyhow!(
        "restart as `{}`: {error}; the run is saved, go on with `anemone train --resume --run-dir {dir}`",
        program.display()
    )
}

#[cfg(unix)]
fn exec(command: &mut Command) -> std::io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

/// Where a process cannot be replaced, a new one runs in its stead and this one waits for it.
#[cfg(not(unix))]
fn exec(command: &mut Command) -> std::io::Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(e) => e,
    }
}
