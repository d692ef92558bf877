//! What one sees of a run while it goes: a bar on a terminal, lines elsewhere, nothing if asked for quiet.
//!
//! All of it goes to standard error, so that standard output has the report alone.

use crate::watch::figures::rate;
use anemone::report::Validation;
use anemone::train::StepReport;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often the bar is drawn; drawing oftener would take longer than a step.
const REDRAW: Duration = Duration::from_millis(100);

/// Lines a run prints where there is no terminal.
const N_LINES: u64 = 20;

pub(crate) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    n_steps: u64,
    drawn: Instant,
    /// How many examples a step has, and what they are called.
    examples: (u64, &'static str),
    /// Steps since the last line or drawing, and the time they took in microseconds.
    since: (u64, f64),
    validation: Option<Validation>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress {
            quiet,
            bar: None,
            n_steps: 0,
            drawn: Instant::now(),
            examples: (0, ""),
            since: (0, 0.0),
            validation: None,
        }
    }

    /// Begins to count steps, from `step` to `n_steps`, of so many examples each.
    pub(crate) fn begin(&mut self, step: u64, n_steps: u64, examples: (u64, &'static str)) {
        self.n_steps = n_steps;
        self.examples = examples;
        if self.quiet || !stderr().is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  {eta} left");
        let bar = ProgressBar::new(n_steps);
        // The template is a constant.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(step);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    pub(crate) fn step(&mut self, step: &StepReport) {
        if self.quiet {
            return;
        }
        if let Some(validation) = &step.validation {
            self.validation = Some(validation.clone());
        }
        self.since.0 += 1;
        self.since.1 += step.device_us + step.host_us + step.compile_wait_us;
        let done = step.step + 1;
        if let Some(bar) = &self.bar {
            if self.drawn.elapsed() >= REDRAW || done == self.n_steps {
                bar.set_message(self.describe(step));
                bar.set_position(done);
                self.drawn = Instant::now();
                self.since = (0, 0.0);
            }
        } else if step.step.is_multiple_of((self.n_steps / N_LINES).max(1)) || done == self.n_steps {
            eprintln!("step {:<7} {}", step.step, self.describe(step));
            self.since = (0, 0.0);
        }
    }

    fn describe(&self, step: &StepReport) -> String {
        let (n_examples, what) = self.examples;
        let (n_steps, us) = self.since;
        let validation = match &self.validation {
            Some(Validation { loss, accuracy: Some(accuracy), .. }) => {
                format!("  validation {loss:.4}, {:.1} %", 100.0 * accuracy)
            }
            Some(v) => format!("  validation {:.6}", v.loss),
            None => String::new(),
        };
        // Four digits of it.
        let lr = format!("{:.3e}", step.lr).parse().unwrap_or(step.lr);
        format!(
            "loss {:<11.9}{validation}  lr {lr}  {} {what}/s  {} compiles",
            step.loss,
            rate((n_examples * n_steps) as f64 / us.max(1.0) * 1e6),
            step.compiles
        )
    }

    /// A line for whoever watches.
    pub(crate) fn say(&mut self, line: &str) {
        if !self.quiet {
            match &self.bar {
                Some(bar) => bar.println(line),
                None => eprintln!("{line}"),
            }
        }
    }

    /// A line that quiet does not suppress.
    pub(crate) fn warn(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("warning: {line}")),
            None => eprintln!("warning: {line}"),
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
