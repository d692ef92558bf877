//! What is said of a run in words and numbers: by the page, the terminal and the JSON alike.

use super::chart::{smoothing, step_times};
use super::colour::Colour;
use super::decimate::smoothed;
use super::number::{Unit, duration, grouped};
use anemone::Run;
use anemone::config::Strategy;
use anemone::report::Stats;
use anemone::run::{Happened, State};
use serde_json::Value;

/// A number of a run, comparable with that of another.
pub(crate) struct Figure {
    /// Its name in JSON.
    pub(crate) key: &'static str,
    /// Its name for people.
    pub(crate) label: &'static str,
    pub(crate) unit: Unit,
    /// `None` where the run has none. NaN is one that is not finite.
    pub(crate) value: Option<f64>,
    /// More to say of it.
    pub(crate) aside: String,
    /// Whether less or more of it is better, if either.
    pub(crate) better: Better,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    /// Less, of runs with the same number of steps: it grows with them.
    LessInAll,
    More,
    Neither,
}

impl Figure {
    /// The value for people.
    pub(crate) fn show(&self) -> String {
        self.value.map_or_else(|| "–".into(), |v| self.unit.show(v))
    }
}

/// A part of a run's time.
pub(crate) struct Part {
    pub(crate) label: &'static str,
    pub(crate) colour: Colour,
    pub(crate) us: f64,
}

/// The counters of the run: of its report, or where it has none of this time, what its metrics tell.
pub(crate) fn stats(run: &Run) -> Stats {
    let s = run.steps();
    let reported = run.report().filter(|r| r["steps"].as_u64() == Some(n_steps(run)));
    if let Some(stats) = reported.and_then(|r| serde_json::from_value(r["stats"].clone()).ok()) {
        return stats;
    }
    let seconds = |values: &[f64]| values.iter().filter(|v| v.is_finite()).sum::<f64>() / 1e6;
    let busy = |background: bool| -> f64 {
        let of = s.compiled.iter().filter(|c| c.background == background);
        // The sum of nothing is -0.
        of.map(|c| c.end_us.saturating_sub(c.begin_us) as f64 / 1e6).sum::<f64>() + 0.0
    };
    let compile_wait_s = seconds(&s.compile_wait_us);
    let resumed = resumptions(run);
    let eval_us: Vec<f64> = s.validations.iter().map(|v| v.eval_us).collect();
    let (device_s, host_s, eval_s) = (seconds(&s.device_us), seconds(&s.host_us), seconds(&eval_us));
    let clock = super::timeline::Clock::new(run).map(|clock| clock.end_us() / 1e6);
    Stats {
        wall_s: clock.unwrap_or(0.0).max(device_s + host_s + eval_s + compile_wait_s),
        device_s,
        copy_s: seconds(&s.copy_us),
        host_s,
        compile_busy_s: busy(true) + busy(false),
        compile_wait_s,
        compile_hidden_s: (busy(true) - (compile_wait_s - busy(false)).max(0.0)).max(0.0),
        eval_s,
        n_compiles: s.compiles.last().copied().unwrap_or(0),
        n_retries: s.retries.iter().map(|r| r.1).sum(),
        n_background_failures: s.compiled.iter().filter(|c| c.background && c.error.is_some()).count() as u64,
        n_skipped: (s.skipped.len() + s.updates_skipped.len()) as u64,
        restarted_at: resumed.iter().filter(|r| r.1).map(|r| r.0).collect(),
        resumed_at: resumed.iter().map(|r| r.0).collect(),
        ..Stats::default()
    }
}

/// The steps at which the run was resumed, and whether that was a restart.
pub(crate) fn resumptions(run: &Run) -> Vec<(u64, bool)> {
    let started = run.events().iter().filter_map(|e| match &e.event {
        Happened::Started(process) if process.resumed || process.restarted => Some((e.step, process.restarted)),
        _ => None,
    });
    let of_events: Vec<_> = started.collect();
    if !of_events.is_empty() {
        return of_events;
    }
    // A run of before events were kept.
    let at = |name: &str| -> Vec<u64> {
        let list = run.report().and_then(|r| r["stats"][name].as_array());
        list.into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let restarted = at("restarted_at");
    at("resumed_at").into_iter().map(|step| (step, restarted.contains(&step))).collect()
}

/// Steps done.
pub(crate) fn n_steps(run: &Run) -> u64 {
    run.steps().step.last().map_or(0, |s| s.saturating_add(1))
}

/// Steps to do.
pub(crate) fn n_steps_asked(run: &Run) -> Option<u64> {
    run.config().map(|c| c.train.steps)
}

/// The middle of the finite values.
fn median(values: &[f64]) -> Option<f64> {
    let mut finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    finite.get(finite.len() / 2).copied()
}

/// The numbers of a run, the most telling first.
pub(crate) fn figures(run: &Run) -> Vec<Figure> {
    let s = run.steps();
    let stats = stats(run);
    let report = run.report().filter(|r| r["steps"].as_u64() == Some(n_steps(run)));
    let number = |value: &Value| value.as_f64();
    let mut figures = Vec::new();
    let mut say = |key, label, unit, value: Option<f64>, better| {
        figures.push(Figure { key, label, unit, value, better, aside: String::new() });
    };
    let points: Vec<_> = s.step.iter().map(|&s| s as f64).zip(s.loss.iter().copied()).collect();
    // Where the last loss is not finite, neither is this.
    let last_smoothed = smoothed(&points, smoothing(run)).last().map(|p| p.1);
    say("last_loss", "Training loss, last step", Unit::Plain, s.loss.last().copied(), Better::Less);
    say("smoothed_loss", "Training loss, smoothed", Unit::Plain, last_smoothed, Better::Less);
    let validation = s.validations.last();
    say("validation_loss", "Validation loss", Unit::Plain, validation.map(|v| v.loss), Better::Less);
    let best = s.validations.iter().filter(|v| v.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss));
    say("best_validation_loss", "Validation loss, best", Unit::Plain, best.map(|v| v.loss), Better::Less);
    say("best_step", "Step of the best", Unit::Count, best.map(|v| v.step as f64), Better::Neither);
    let accuracy = validation.and_then(|v| v.accuracy);
    say("validation_accuracy", "Validation accuracy", Unit::Share, accuracy, Better::More);
    let of_weights = report.and_then(|r| number(&r["evaluation"]["loss"]));
    say("final_training_loss", "Final weights, first batch", Unit::Plain, of_weights, Better::Less);
    say("n_steps", "Steps", Unit::Count, Some(n_steps(run) as f64), Better::Neither);
    say("n_updates", "Updates", Unit::Count, s.update.last().map(|&n| n as f64), Better::Neither);
    let n = n_steps(run) as f64;
    let per_second = |n: f64| (stats.wall_s > 0.0 && n > 0.0).then(|| n / stats.wall_s);
    say("wall_us", "Time in all", Unit::Micros, Some(stats.wall_s * 1e6), Better::LessInAll);
    say("step_us", "A step, median", Unit::Micros, median(&step_times(run)), Better::Less);
    say("steps_per_second", "Steps a second", Unit::Plain, per_second(n), Better::More);
    if let Some(process) = run.process()
        && process.examples > 0
    {
        let label = if process.examples_are == "tokens" { "Tokens a second" } else { "Rows a second" };
        say("examples_per_second", label, Unit::Count, per_second(n * process.examples as f64), Better::More);
    }
    let rate = |flops: &str, seconds: f64| {
        let flops = number(&report?[flops])?;
        (seconds > 0.0 && flops > 0.0).then(|| flops * n / seconds / 1e9)
    };
    let device = rate("device_flops_per_step", stats.device_s);
    say("device_gflops", "Device, GFLOP a second", Unit::Plain, device, Better::More);
    let host = rate("host_flops_per_step", stats.host_s + stats.gradients_hidden_s);
    say("host_gflops", "Host, GFLOP a second", Unit::Plain, host, Better::More);
    say("n_compiles", "Compiles", Unit::Count, Some(stats.n_compiles as f64), Better::LessInAll);
    say("compile_us", "Time compiling", Unit::Micros, Some(stats.compile_busy_s * 1e6), Better::LessInAll);
    say(
        "compile_hidden_us",
        "  behind training",
        Unit::Micros,
        Some(stats.compile_hidden_s * 1e6),
        Better::Neither,
    );
    say("compile_wait_us", "  waited for", Unit::Micros, Some(stats.compile_wait_s * 1e6), Better::LessInAll);
    say("n_restarts", "Restarts", Unit::Count, Some(stats.restarted_at.len() as f64), Better::LessInAll);
    say("n_params", "Parameters", Unit::Count, n_params(run), Better::Neither);
    if let Some(joules) = stats.engine_energy_j {
        say("engine_energy_j", "Engine's energy, joules", Unit::Plain, Some(joules), Better::LessInAll);
    }
    figures.retain(|f| f.value.is_some());
    if let Some(figure) = figures.iter_mut().find(|f| f.key == "n_steps")
        && let Some(asked) = n_steps_asked(run).filter(|&asked| asked as f64 > n)
    {
        figure.aside = format!("of {}", grouped(asked as f64));
    }
    figures
}

fn n_params(run: &Run) -> Option<f64> {
    let reported = run.report().and_then(|r| r["n_params"].as_f64());
    reported.or_else(|| run.process().map(|p| p.n_params as f64))
}

/// Where the run's time went; the parts make up all of it.
pub(crate) fn parts(run: &Run) -> Vec<Part> {
    let s = stats(run);
    // A report is a file that anybody may have changed.
    let gradients = (s.gradients_s - s.gradients_hidden_s).min(s.host_s).max(0.0);
    // What is left by rounding is nothing.
    let least_us = 1e-6 * s.wall_s;
    let other = s.wall_s - s.device_s - s.host_s - s.compile_wait_s - s.eval_s;
    [
        ("Device, computing", Colour::Device, s.device_s - s.copy_s),
        ("Device, copies to and from it", Colour::Copy, s.copy_s),
        ("Host, gradients", Colour::Gradients, gradients),
        ("Host, all else", Colour::Host, s.host_s - gradients),
        ("Waiting for compiles", Colour::Wait, s.compile_wait_s),
        ("Validation", Colour::Eval, s.eval_s),
        ("Between steps: starting, saving", Colour::Other, other),
    ]
    .into_iter()
    .map(|(label, colour, seconds)| Part { label, colour, us: seconds.max(0.0) * 1e6 })
    .filter(|part| part.us > least_us)
    .collect()
}

/// What compiling cost, in a sentence.
pub(crate) fn compile_words(run: &Run) -> String {
    let s = stats(run);
    let us = |seconds: f64| duration(seconds * 1e6);
    let compiles = match s.n_compiles {
        0 => return "Nothing was compiled.".into(),
        1 => "1 compile".to_string(),
        n => format!("{} compiles", grouped(n as f64)),
    };
    let share = if s.wall_s > 0.0 { s.compile_wait_s / s.wall_s } else { 0.0 };
    let waited = format!("Training stood still for {}, {:.1} % of its time.", us(s.compile_wait_s), 100.0 * share);
    if s.compile_busy_s <= 0.0 {
        return format!("{compiles}, whose times were not kept. {waited}");
    }
    format!(
        "{compiles} took {}, of which {} ({:.0} %) passed behind training. {waited}",
        us(s.compile_busy_s),
        us(s.compile_hidden_s),
        100.0 * s.compile_hidden_s / s.compile_busy_s
    )
}

/// What ran: machine, device, chip, strategy, arithmetic.
pub(crate) fn setup(run: &Run) -> Vec<(&'static str, String)> {
    let report = run.report();
    let process = run.process();
    let text = |key: &str, of_process: Option<String>| {
        let reported = report.and_then(|r| r[key].as_str()).map(str::to_string);
        of_process.filter(|t| !t.is_empty()).or(reported)
    };
    let strategy = run.config().map(|c| match c.weights.strategy {
        Strategy::Baked if c.weights.overlap => "baked in, compiles overlap training".to_string(),
        Strategy::Baked => "baked in, every compile is waited for".to_string(),
        Strategy::Operand => "operand: passed in, compiled once".to_string(),
    });
    let chip = run.config().map(|c| c.device.chip.clone()).filter(|c| !c.is_empty());
    let version = process.map(|p| p.anemone.clone()).filter(|v| !v.is_empty());
    [
        ("Machine", text("machine", process.map(|p| p.machine.clone()))),
        ("Device", text("device", process.map(|p| p.device.clone()))),
        ("Rules of chip", chip),
        ("Weights", strategy),
        ("Program inputs, outputs", text("io", process.map(|p| format!("{:?}", p.io).to_lowercase()))),
        ("Arithmetic", text("arithmetic", process.map(|p| p.arithmetic.clone()))),
        ("anemone", version),
    ]
    .into_iter()
    .filter_map(|(label, value)| Some((label, value?)))
    .collect()
}

/// What was checked or mended while the run went, and whether that is as it should be.
pub(crate) fn checks(run: &Run) -> Vec<(bool, String)> {
    let s = run.steps();
    let stats = stats(run);
    let mut checks = Vec::new();
    let state_is_good = !matches!(run.state(), State::Failed(_) | State::Killed);
    checks.push((state_is_good, format!("State: {}.", run.state())));
    let n_missing = s.loss.iter().filter(|l| !l.is_finite()).count();
    checks.push(match n_missing {
        0 => (true, "Every step's loss was finite.".into()),
        n => (false, format!("The loss of {} was not finite.", counted(n as u64, "step"))),
    });
    match s.updates_skipped.len() {
        0 => checks.push((true, "Every update was made: all gradients were finite.".into())),
        n => checks.push((false, format!("Left out as not finite: {}.", counted(n as u64, "update")))),
    }
    let n_lacking = n_steps(run).saturating_sub(s.len() as u64);
    if n_lacking > 0 {
        checks.push((false, format!("The metrics lack {}.", counted(n_lacking, "step"))));
    }
    let why = s.compiled.iter().rev().filter(|c| c.background).find_map(|c| c.error.as_deref());
    let why = why.map(|why| format!("; the last one: {why}")).unwrap_or_default();
    for (n, what, then) in [
        (stats.n_retries, "device call", "failed and came right when repeated".to_string()),
        (stats.n_background_failures, "background compile", format!("failed, which was made up for{why}")),
    ] {
        checks.push(match n {
            0 => (true, format!("No {what} failed.")),
            n => (false, format!("{} {then}.", counted(n, what))),
        });
    }
    if stats.n_io_fallbacks > 0 {
        checks.push((false, "The device refused fp32 inputs and outputs; they were fp16.".into()));
    }
    let resumed = resumptions(run);
    for (restarted, what) in [(true, "Restarted for more compiles"), (false, "Resumed")] {
        let at: Vec<String> = resumed.iter().filter(|r| r.1 == restarted).map(|r| grouped(r.0 as f64)).collect();
        if !at.is_empty() {
            let shown = at.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let more = if at.len() > 8 { ", …" } else { "" };
            let times = counted(at.len() as u64, "time");
            checks.push((true, format!("{what} {times}, after so many steps: {shown}{more}.")));
        }
    }
    for e in run.events() {
        if let Happened::Warning { message } = &e.event {
            checks.push((false, format!("Warning at step {}: {message}.", grouped(e.step as f64))));
        }
    }
    checks
}

/// `1 step`, `2 steps`.
fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n as f64), if n == 1 { "" } else { "s" })
}

/// The configuration, a key a line, in its order.
pub(crate) fn configuration(run: &Run) -> Vec<(String, String)> {
    fn walk(at: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    walk(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, out);
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (i, value) in items.iter().enumerate() {
                    walk(&format!("{at}.{i}"), value, out);
                }
            }
            toml::Value::String(text) => out.push((at.to_string(), text.clone())),
            other => out.push((at.to_string(), other.to_string())),
        }
    }
    let mut out = Vec::new();
    if let Ok(table) = toml::from_str::<toml::Value>(run.config_toml()) {
        walk("", &table, &mut out);
    }
    out
}
