//! Charts as data: what the page, the pictures and the terminal draw.

use super::colour::Colour;
use super::decimate::{self, Line};
use super::number::{Unit, grouped};
use super::scale::{Scale, ends};
use anemone::Run;

/// Points that all curves of one kind have together; so a page of many runs stays small.
const N_BUCKETS: usize = 1200;

/// Beyond this ratio of the greatest to the least value a logarithmic scale shows more.
const WIDE: f64 = 30.0;

/// The chart of learning rates, whose schedules are known by their linear shapes.
const LR: &str = "learning-rate";

/// Curves over the steps.
pub(crate) struct Chart {
    /// A word for it, in file names and addresses.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What one should know to read it.
    pub(crate) note: String,
    pub(crate) unit: Unit,
    pub(crate) curves: Vec<Curve>,
    /// Steps at which something happened, and what.
    pub(crate) marks: Vec<(f64, String)>,
    /// The first step and the end of the last, which all charts have in common.
    pub(crate) steps: (f64, f64),
    /// Whether it is small beside others.
    pub(crate) small: bool,
}

/// A curve of a chart.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) colour: Colour,
    pub(crate) style: Style,
    pub(crate) line: Line,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Thin and pale: all steps, behind what is said of them.
    Faint,
    /// A line.
    Line,
    /// A thin line with a dot at each point.
    Dots,
}

impl Chart {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.curves.iter().flat_map(|c| c.line.points.iter().map(|p| p.1))
    }

    /// The scale of the steps.
    pub(crate) fn x(&self) -> Scale {
        Scale::linear([self.steps.0, self.steps.1].into_iter(), 0.0)
    }

    /// The linear scale of the values.
    pub(crate) fn linear(&self) -> Scale {
        Scale::linear(self.values(), 0.06)
    }

    /// The logarithmic one, where none of the values is negative.
    pub(crate) fn log(&self) -> Option<Scale> {
        let has_log = self.unit != Unit::Share && !self.values().any(|v| v < 0.0);
        if has_log { Scale::log(self.log_values()) } else { None }
    }

    /// The values that a logarithmic scale shows.
    fn log_values(&self) -> impl Iterator<Item = f64> {
        // Next to nothing of a step's time would take half of the scale.
        let pale = self.curves.iter().filter(|c| c.style == Style::Faint && self.unit == Unit::Micros);
        let least = ends(pale.flat_map(|c| c.line.points.iter().map(|p| p.1))).map_or(0.0, |(least, _)| least);
        self.values().filter(move |v| *v > 0.0 && *v >= least / 20.0)
    }

    /// Whether the logarithmic scale is the one to begin with.
    pub(crate) fn is_log_first(&self) -> bool {
        self.id != LR && self.log().is_some() && ends(self.log_values()).is_some_and(|(lo, hi)| hi / lo > WIDE)
    }
}

/// All charts of some runs that have something to show.
pub(crate) fn charts(runs: &[Run]) -> Vec<Chart> {
    let all = [loss(runs), accuracy(runs), step_time(runs), gradient_norm(runs), lr(runs), loss_scale(runs)];
    all.into_iter().filter(|chart| !chart.curves.is_empty()).collect()
}

impl Chart {
    /// The one value that all its curves have all the time, if that is how it is.
    pub(crate) fn constant(&self) -> Option<f64> {
        let (lo, hi) = ends(self.values())?;
        let whole = self.curves.iter().all(|c| c.line.missing.is_empty());
        (whole && lo == hi && [LR, "loss-scale"].contains(&self.id)).then_some(lo)
    }
}

/// What several runs are called, each by another name: that of its folder, or its path where that is not enough.
pub(crate) fn names(runs: &[Run]) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(Run::name).collect();
    let is_alone = |name: &String| names.iter().filter(|n| *n == name).count() == 1;
    let path = |run: &Run| run.path().display().to_string();
    names.iter().zip(runs).map(|(name, run)| if is_alone(name) { name.clone() } else { path(run) }).collect()
}

/// A column over the steps.
fn column(run: &Run, values: &[f64]) -> Vec<(f64, f64)> {
    run.steps().step.iter().map(|&s| s as f64).zip(values.iter().copied()).collect()
}

/// The first step of all and the end of the last.
fn steps(runs: &[Run]) -> (f64, f64) {
    let first_and_last = runs.iter().flat_map(|run| [run.steps().step.first(), run.steps().step.last()]);
    // A step is a stretch, from where it begins to where the next one does.
    ends(first_and_last.flatten().map(|&s| s as f64)).map_or((0.0, 1.0), |(first, last)| (first, last + 1.0))
}

/// Groups of steps that a curve of one of the runs has.
fn n_buckets(runs: &[Run]) -> usize {
    (N_BUCKETS / runs.len().max(1)).clamp(150, 500)
}

/// Steps over which the loss is smoothed: where it is drawn and where it is told.
pub(crate) fn smoothing(run: &Run) -> f64 {
    let accumulate = run.config().map_or(1, |c| c.train.accumulate) as f64;
    width(run.steps().len()).max(accumulate)
}

/// Points over which a curve of so many is smoothed.
fn width(n_points: usize) -> f64 {
    (n_points as f64 / 100.0).round().max(1.0)
}

/// The colour of a kind of curve: among several runs, all of a run have the same.
fn colour(runs: &[Run], run: usize, kind: usize) -> Colour {
    Colour::Series(if runs.len() > 1 { run } else { kind })
}

/// A name for a curve: of the run, where there are several.
fn called(runs: &[Run], run: &str, what: &str) -> String {
    if runs.len() > 1 { format!("{run}, {what}") } else { what.to_string() }
}

/// Where runs were resumed or restarted; for one run alone, lest there be too many.
fn marks(runs: &[Run]) -> Vec<(f64, String)> {
    let [run] = runs else { return Vec::new() };
    super::figures::resumptions(run)
        .into_iter()
        .map(|(step, restarted)| {
            (step as f64, format!("{} at step {step}", if restarted { "restarted" } else { "resumed" }))
        })
        .collect()
}

/// What the pale curve of a chart is, if it stands for more than it has points.
fn note_of(curves: &[Curve]) -> String {
    let n = curves.iter().filter(|c| c.style == Style::Faint).map(|c| c.line.n_taken_together).max();
    match n {
        Some(n) if n > 1 => format!(
            "Pale curves, here and below, go through the lowest and the highest of every {} steps: no spike is hidden.",
            grouped(n as f64)
        ),
        _ => String::new(),
    }
}

/// A column as it is, pale, and smoothed over so many of its points, both of which `of` gives.
fn pale_and_smoothed(
    runs: &[Run],
    of: impl Fn(&Run) -> (Vec<(f64, f64)>, f64),
    what: &str,
    kind: usize,
) -> Vec<Curve> {
    let n = n_buckets(runs);
    let mut curves = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names(runs)).enumerate() {
        let (points, width) = of(run);
        if points.is_empty() {
            continue;
        }
        let colour = colour(runs, i, kind);
        let line = decimate::envelope(&points, n);
        let each = called(runs, &name, &format!("each step's {what}"));
        curves.push(Curve { name: each, colour, style: Style::Faint, line });
        let line = decimate::means(&decimate::smoothed(&points, width), n);
        let name = called(runs, &name, &format!("smoothed {what}"));
        curves.push(Curve { name, colour, style: Style::Line, line });
    }
    // All that is pale lies behind all that is not.
    curves.sort_by_key(|c| c.style != Style::Faint);
    curves
}

fn loss(runs: &[Run]) -> Chart {
    let mut curves =
        pale_and_smoothed(runs, |run| (column(run, &run.steps().loss), smoothing(run)), "training loss", 0);
    for (i, (run, name)) in runs.iter().zip(names(runs)).enumerate() {
        let points: Vec<_> = run.steps().validations.iter().map(|v| (v.step as f64, v.loss)).collect();
        if !points.is_empty() {
            let line = decimate::envelope(&points, n_buckets(runs));
            let name = called(runs, &name, "validation loss");
            curves.push(Curve { name, colour: colour(runs, i, 1), style: Style::Dots, line });
        }
    }
    let mut note = note_of(&curves);
    if let [run] = runs
        && !note.is_empty()
    {
        note += &format!(" Smoothed over some {} steps to each side.", grouped(smoothing(run)));
    }
    Chart {
        id: "loss",
        title: "Loss",
        note,
        unit: Unit::Plain,
        curves,
        marks: marks(runs),
        steps: steps(runs),
        small: false,
    }
}

fn accuracy(runs: &[Run]) -> Chart {
    let mut curves = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names(runs)).enumerate() {
        let points: Vec<_> =
            run.steps().validations.iter().filter_map(|v| Some((v.step as f64, v.accuracy?))).collect();
        if !points.is_empty() {
            let line = decimate::envelope(&points, n_buckets(runs));
            let name = called(runs, &name, "validation accuracy");
            curves.push(Curve { name, colour: colour(runs, i, 1), style: Style::Dots, line });
        }
    }
    let note = String::new();
    Chart {
        id: "accuracy",
        title: "Accuracy",
        note,
        unit: Unit::Share,
        curves,
        marks: marks(runs),
        steps: steps(runs),
        small: true,
    }
}

/// What a step took, waiting included: a column.
pub(crate) fn step_times(run: &Run) -> Vec<f64> {
    let s = run.steps();
    let times = s.device_us.iter().zip(&s.host_us).zip(&s.compile_wait_us);
    times.map(|((device, host), wait)| device + host + wait).collect()
}

fn step_time(runs: &[Run]) -> Chart {
    let n = n_buckets(runs);
    let mut curves = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names(runs)).enumerate() {
        let total = column(run, &step_times(run));
        if total.iter().all(|p| !p.1.is_finite()) {
            continue;
        }
        let all = colour(runs, i, 6);
        let line = decimate::envelope(&total, n);
        curves.push(Curve { name: called(runs, &name, "each step"), colour: all, style: Style::Faint, line });
        if runs.len() > 1 {
            let line = decimate::means(&total, n / 10);
            curves.push(Curve { name: called(runs, &name, "mean"), colour: all, style: Style::Line, line });
            continue;
        }
        let s = run.steps();
        for (what, colour, values) in [
            ("mean device", Colour::Device, &s.device_us),
            ("mean host", Colour::Host, &s.host_us),
            ("mean wait for compiles", Colour::Wait, &s.compile_wait_us),
        ] {
            if values.iter().any(|&v| v > 0.0) {
                let line = decimate::means(&column(run, values), n / 10);
                curves.push(Curve { name: what.into(), colour, style: Style::Line, line });
            }
        }
    }
    curves.sort_by_key(|c| c.style != Style::Faint);
    Chart {
        id: "step-time",
        title: "Time of a step",
        note: String::new(),
        unit: Unit::Micros,
        curves,
        marks: marks(runs),
        steps: steps(runs),
        small: true,
    }
}

fn gradient_norm(runs: &[Run]) -> Chart {
    // Steps inside an update have none; one that was not finite is known by the update that was left out.
    let of = |run: &Run| {
        let s = run.steps();
        let has = |p: &(f64, f64)| p.1.is_finite() || s.updates_skipped.binary_search(&(p.0 as u64)).is_ok();
        let points: Vec<_> = column(run, &s.gradient_norm).into_iter().filter(has).collect();
        let width = width(points.len());
        (points, width)
    };
    let curves = pale_and_smoothed(runs, of, "norm", 2);
    small(runs, "gradient-norm", "Gradient norm", curves)
}

/// One of the charts that stand beside each other.
fn small(runs: &[Run], id: &'static str, title: &'static str, curves: Vec<Curve>) -> Chart {
    Chart {
        id,
        title,
        note: String::new(),
        unit: Unit::Plain,
        curves,
        marks: marks(runs),
        steps: steps(runs),
        small: true,
    }
}

/// A column that has no noise.
fn plain(runs: &[Run], id: &'static str, title: &'static str, kind: usize, of: impl Fn(&Run) -> &[f64]) -> Chart {
    let mut curves = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names(runs)).enumerate() {
        if of(run).iter().any(|v| v.is_finite()) {
            let line = decimate::envelope(&column(run, of(run)), n_buckets(runs) / 2);
            let name = called(runs, &name, &title.to_lowercase());
            curves.push(Curve { name, colour: colour(runs, i, kind), style: Style::Line, line });
        }
    }
    small(runs, id, title, curves)
}

fn lr(runs: &[Run]) -> Chart {
    plain(runs, LR, "Learning rate", 3, |run| &run.steps().lr)
}

fn loss_scale(runs: &[Run]) -> Chart {
    plain(runs, "loss-scale", "Loss scale", 5, |run| &run.steps().loss_scale)
}
