//! `anemone train`: trains a preset or a configuration in a run folder, and replaces its own process by a new one
//! when the device's budget of compiles is spent.

pub(crate) use crate::configuration::read_config;
use crate::configuration::{DEFAULT_PRESET, configuration};
use crate::engine::{self, Machine};
use crate::progress::Progress;
use crate::run_dir::{self, RunDir};
use crate::tensorboard::Board;
use crate::watch::{self, Live, terminal};
use crate::{Outcome, args};
use anemone::checkpoint::Checkpoint;
use anemone::clock::Comparison;
use anemone::config::{Config, TrainConfig};
use anemone::file::write_atomically;
use anemone::metrics::MetricsLog;
use anemone::report::Validation;
use anemone::run::{Happened, Journal, Process};
use anemone::train::{Description, Event};
use anemone::{Report, Trainer, device};
use anyhow::{Context, anyhow};
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
    let result = train(args, out);
    if let (Err(e), true, Some(folder)) = (&result, args.restarted, &args.run_dir) {
        note_failure(folder, e);
    }
    result
}

/// Where a process did not come to train, though the run's journal says that it would, puts the reason there.
fn note_failure(folder: &Path, error: &anyhow::Error) {
    let Ok(run) = anemone::Run::open(folder) else { return };
    let is_ours = |event: &Happened| match event {
        Happened::Restart { .. } | Happened::Warning { .. } => true,
        Happened::Started(process) => process.pid == std::process::id(),
        _ => false,
    };
    if let Some(last) = run.events().last().filter(|last| is_ours(&last.event))
        && let Ok(mut journal) = Journal::open(folder)
    {
        // The error itself is reported in any case.
        let _ = journal.record(last.step, Happened::Failed { error: format!("{error:#}") });
    }
}

/// What the first Ctrl-C asks for; the second ends the process.
fn interrupt() {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        terminal::restore();
        std::process::exit(130);
    }
}

fn train(args: &args::Train, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    if args.tui {
        terminal::check(watch::TUI.0, watch::TUI.1)?;
    }
    let name = run_name(args)?;
    let to_resume = args.resume.then(|| RunDir::to_resume(args.run_dir.as_deref(), &name));
    if let Some(folder) = &to_resume {
        run_dir::check_resumable(folder, args.what.is_some())?;
    }
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
    // The lock first where there is a folder, so that whoever watches a restart sees it go on.
    let mut dir = None;
    if let Some(folder) = to_resume.as_ref().filter(|folder| folder.exists() && !args.plan) {
        dir = Some(RunDir::resume(folder.clone())?);
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
    let dir = match (dir, to_resume) {
        (Some(dir), _) => dir,
        (None, Some(path)) => RunDir::resume(path)?,
        (None, None) => RunDir::create(args.run_dir.as_deref(), &name)?,
    };
    // Without a handler, Ctrl-C ends the process; the last checkpoint is there all the same.
    let _ = ctrlc::set_handler(interrupt);
    let mut progress = Progress::new(args.quiet);
    if let Some(why) = why {
        progress.say(&format!("device     {why}"));
    }
    let folder = dir.path().to_path_buf();
    let mut run = Run::start(config, trainer, dir, progress, args).inspect_err(|e| note_failure(&folder, e))?;
    let ended = run.train();
    // Before anything is printed.
    let is_view_wanted = run.close_views();
    let mut report = String::new();
    let ended = ended.and_then(|ended| {
        if let Ended::Finished = ended {
            report = run.finish(args.json).map_err(|e| run.stopped(e))?;
        }
        Ok(ended)
    });
    let event = match &ended {
        Ok(Ended::Finished) => Happened::Finished { converged: run.converged },
        Ok(Ended::Restart(why)) => Happened::Restart { why: why.clone() },
        Ok(Ended::Interrupted) => Happened::Interrupted,
        Err(e) => Happened::Failed { error: format!("{e:#}") },
    };
    let noted = run.journal.record(run.trainer.n_steps(), event);
    match ended? {
        Ended::Finished => {}
        Ended::Restart(why) => {
            noted?;
            let n_steps = run.trainer.n_steps();
            run.progress.say(&format!("restart at step {n_steps}: {why}"));
            // What a device has loaded and written would outlive this process's memory.
            drop(run);
            return Err(replace_process(&folder, n_steps, is_view_wanted));
        }
        Ended::Interrupted => return Err(interrupted(&folder, run.trainer.n_steps())),
    }
    noted?;
    out.write_all(report.as_bytes())?;
    Ok(Outcome::Clean)
}

fn interrupted(folder: &Path, n_steps: u64) -> anyhow::Error {
    anyhow!("interrupted at step {n_steps}; go on with `anemone train --resume --run-dir {}`", folder.display())
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
    journal: Journal,
    live: Option<Live>,
    board: Option<Board>,
    saved_at: u64,
    converged: bool,
}

/// Why training stopped.
enum Ended {
    Finished,
    Restart(String),
    Interrupted,
}

impl Run {
    /// Resumes the run where there is something to resume.
    fn start(
        config: Config,
        mut trainer: Trainer,
        dir: RunDir,
        mut progress: Progress,
        args: &args::Train,
    ) -> anyhow::Result<Run> {
        progress.say(&format!("run folder {dir}"));
        progress.say(&format!("device     {}", trainer.device().name()));
        let checkpoint = dir.checkpoint();
        let is_resumed = checkpoint.exists();
        let mut warnings = Vec::new();
        let metrics = if is_resumed {
            let loaded = Checkpoint::load(&checkpoint)?;
            trainer.resume(loaded).with_context(|| format!("resume `{}`", checkpoint.display()))?;
            progress.say(&format!("resumed at step {}", trainer.n_steps()));
            let resumed = MetricsLog::resume(&dir.metrics(), trainer.n_steps())?;
            for gap in &resumed.missing {
                let last = gap.end.saturating_sub(1);
                warnings.push(format!("metrics.jsonl lacks steps {} to {last}", gap.start));
            }
            resumed.log
        } else {
            if args.resume {
                progress.say("nothing to resume: no checkpoint yet, starting at the beginning");
            }
            MetricsLog::create(&dir.metrics())?
        };
        // The trainer of a run that goes on has begun without them.
        let init_weights = config.train.init_weights.clone();
        let train = TrainConfig { init_weights, ..trainer.config().train.clone() };
        let whole = Config { train, ..trainer.config().clone() };
        write_atomically(&dir.config(), whole.to_toml().as_bytes())?;
        if let Some(tokenizer) = trainer.tokenizer() {
            write_atomically(&dir.tokenizer(), tokenizer.to_json()?.as_bytes())?;
        }
        if trainer.io_fell_back() {
            let what = "the device refuses fp32 inputs and outputs; going on with fp16, converted on the host";
            warnings.push(what.into());
        }
        let saved_at = trainer.n_steps();
        let mut journal = Journal::open(dir.path())?;
        journal.record(
            saved_at,
            Happened::Started(Box::new(Process {
                machine: Machine::this().to_string(),
                resumed: is_resumed,
                restarted: args.restarted,
                ..Process::this(&trainer)
            })),
        )?;
        for message in warnings {
            progress.warn(&message);
            journal.record(saved_at, Happened::Warning { message })?;
        }
        let board = match &args.tensorboard {
            Some(folder) => Some(Board::open(dir.path(), folder, saved_at)?),
            None => None,
        };
        let live = if args.tui { Some(Live::open(dir.path(), interrupt)?) } else { None };
        if live.is_none() {
            progress.begin(trainer.n_steps(), config.train.steps, trainer.examples());
        }
        let converged = false;
        Ok(Run { dir, config, trainer, metrics, progress, journal, live, board, saved_at, converged })
    }

    /// Shows progress again where the view was closed.
    fn leave_view(&mut self) {
        if let Some(trouble) = self.live.take().and_then(Live::close) {
            self.progress.warn(&trouble);
        }
        self.progress.begin(self.trainer.n_steps(), self.config.train.steps, self.trainer.examples());
    }

    /// Leaves the terminal as it was, and says whether there was a view until now.
    fn close_views(&mut self) -> bool {
        self.progress.end();
        let live = self.live.take();
        let is_view_wanted = live.as_ref().is_some_and(|live| !live.is_closed());
        for trouble in [live.and_then(Live::close), self.board.take().and_then(Board::close)].into_iter().flatten()
        {
            self.progress.warn(&trouble);
        }
        is_view_wanted
    }

    /// Trains to the end, or to where it is to stop; an error says what is saved.
    fn train(&mut self) -> anyhow::Result<Ended> {
        self.train_on().map_err(|e| self.stopped(e))
    }

    fn train_on(&mut self) -> anyhow::Result<Ended> {
        loop {
            match self.trainer.step()? {
                Event::Step(step) => {
                    self.metrics.append(&step)?;
                    if self.live.as_ref().is_some_and(Live::is_closed) {
                        self.leave_view();
                    }
                    if self.live.is_none() {
                        self.progress.step(&step);
                    }
                    if let Some(validation) = step.validation.filter(|v| v.best) {
                        self.save_best(&validation)?;
                    }
                    if self.trainer.at_boundary() {
                        if INTERRUPTED.load(Ordering::Relaxed) {
                            self.save()?;
                            return Ok(Ended::Interrupted);
                        }
                        let every = self.config.checkpoint.every;
                        // After the last step comes the end, which saves.
                        let goes_on = self.trainer.n_steps() < self.config.train.steps;
                        if goes_on && every > 0 && self.trainer.n_steps() - self.saved_at >= every {
                            self.save()?;
                        }
                    }
                }
                Event::Finished => {
                    self.save()?;
                    return Ok(Ended::Finished);
                }
                Event::Restart(why) => {
                    self.save()?;
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return Ok(Ended::Interrupted);
                    }
                    return Ok(Ended::Restart(why));
                }
            }
        }
    }

    /// What to say of an error that training stopped at, after an attempt to save what there is.
    fn stopped(&mut self, error: anyhow::Error) -> anyhow::Error {
        let n_steps = self.trainer.n_steps();
        let first = format!("{error:#}");
        // Weights that have just led to infinity must not take the place of better ones.
        let has_diverged = error.downcast_ref().is_some_and(anemone::Error::is_non_finite);
        let is_worth_it = n_steps > self.saved_at && !(has_diverged && self.saved_at > 0);
        let saved = if self.trainer.at_boundary() && is_worth_it {
            self.save()
        } else {
            self.metrics.flush().map_err(anyhow::Error::from)
        };
        let mut message = format!("training stopped at step {n_steps}: {first}");
        // What fails twice for one reason says it once.
        if let Some(second) = saved.err().map(|e| format!("{e:#}")).filter(|second| *second != first) {
            message += &format!("; what it had done could not be saved: {second}");
        }
        if self.saved_at > 0 {
            let Run { saved_at, dir, .. } = self;
            message += &format!(
                "; progress up to step {saved_at} is saved, go on with `anemone train --resume --run-dir {dir}`"
            );
        }
        anyhow!(message)
    }

    /// Writes a checkpoint, and before it the metrics that it covers.
    fn save(&mut self) -> anyhow::Result<()> {
        self.metrics.sync()?;
        self.trainer.save_checkpoint(&self.dir.checkpoint())?;
        self.saved_at = self.trainer.n_steps();
        Ok(())
    }

    /// Keeps the weights as the best so far. Should the process be killed before the next checkpoint, they will
    /// come again.
    fn save_best(&mut self, validation: &Validation) -> anyhow::Result<()> {
        let mut about = vec![
            ("format", "anemone".to_string()),
            ("step", self.trainer.n_steps().to_string()),
            ("validation_loss", validation.loss.to_string()),
        ];
        about.extend(validation.accuracy.map(|a| ("validation_accuracy", a.to_string())));
        let metadata = about.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        Ok(self.trainer.save_weights(&self.dir.best(), &metadata)?)
    }

    /// Leaves weights and report, and gives what to print of it.
    fn finish(&mut self, json: bool) -> anyhow::Result<String> {
        let machine = Some(Machine::this().to_string());
        let report = Report { machine, peak_bytes: engine::peak_bytes(), ..self.trainer.report()? };
        self.converged = report.converged;
        if let Some(validation) = report.validation.as_ref().filter(|v| v.best) {
            self.save_best(validation)?;
        }
        let metadata = BTreeMap::from([("format".to_string(), "anemone".to_string())]);
        self.trainer.save_weights(&self.dir.weights(), &metadata)?;
        let text = serde_json::to_string_pretty(&report)? + "\n";
        write_atomically(&self.dir.report(), text.as_bytes())?;
        if json {
            return Ok(text);
        }
        let best = if report.best.is_some() { ", best.safetensors" } else { "" };
        Ok(format!("{report}\n\nWritten to {}: weights.safetensors{best}, report.json, metrics.jsonl\n", self.dir))
    }
}

/// Replaces this process by a new one that resumes the run, which is saved at step `n_steps`. Comes back only with
/// an error, which the journal has too.
fn replace_process(folder: &Path, n_steps: u64, is_view_wanted: bool) -> anyhow::Error {
    let error = match next_process(folder, is_view_wanted) {
        // The new process would know nothing of it.
        Ok(_) if INTERRUPTED.load(Ordering::Relaxed) => {
            // As everywhere: the advice matters more than the journal.
            if let Ok(mut journal) = Journal::open(folder) {
                let _ = journal.record(n_steps, Happened::Interrupted);
            }
            return interrupted(folder, n_steps);
        }
        Ok(mut command) => {
            let error = exec(&mut command);
            anyhow!("restart as `{}`: {error}", command.get_program().display())
        }
        Err(e) => anyhow!("restart: this program's file cannot be found: {e}"),
    };
    let advice = format!("the run is saved, go on with `anemone train --resume --run-dir {}`", folder.display());
    let error = anyhow!("{error}; {advice}");
    note_failure(folder, &error);
    error
}

/// The process that goes on with the run: same program, same arguments.
fn next_process(folder: &Path, is_view_wanted: bool) -> std::io::Result<Command> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !is_view_wanted {
        // It was closed, which holds for the new process too.
        args.retain(|a| a != "--tui");
    }
    let has = |flag: &str, args: &[OsString]| {
        args.iter().any(|a| a == flag || a.to_str().is_some_and(|a| a.starts_with(&format!("{flag}="))))
    };
    // Behind the subcommand: at the end, a `--` might make them something other than flags.
    let at = args.iter().position(|a| a == "train").map_or(args.len(), |i| i + 1);
    if !has("--resume", &args) {
        args.insert(at, "--resume".into());
    }
    if !has("--restarted", &args) {
        args.insert(at, "--restarted".into());
    }
    if !has("--run-dir", &args) {
        args.splice(at..at, ["--run-dir".into(), folder.into()]);
    }
    let mut program = std::env::current_exe()?;
    if cfg!(target_os = "linux") && !program.exists() {
        // Its file was replaced, by a newer build perhaps, or deleted: what runs can be run again all the same.
        program = "/proc/self/exe".into();
    }
    let mut command = Command::new(program);
    command.args(&args);
    Ok(command)
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

#[cfg(test)]
mod tests;
