//! The figures of a run that a screen or a list shows, made of its metrics.

use anemone::run::{Happened, Run};
use std::time::Duration;

/// Steps lately are those of so many microseconds.
const LATELY_US: u64 = 5_000_000;

/// A run at a moment.
pub(crate) struct Figures {
    /// Steps done, and steps in all where that is known.
    pub(crate) done: u64,
    pub(crate) n_steps: Option<u64>,
    pub(crate) loss: Option<f64>,
    /// Steps a second, and what is trained on a second.
    pub(crate) steps_per_s: Option<f64>,
    pub(crate) examples_per_s: Option<(f64, String)>,
    pub(crate) left: Option<Duration>,
    /// Where a step's time went lately.
    pub(crate) split: Split,
    /// Compiles of this process, of the run, and what the process may make.
    pub(crate) compiles: Compiles,
    pub(crate) n_restarts: usize,
    pub(crate) n_resumed: usize,
    /// The device's products lately, in GFLOP/s.
    pub(crate) gflops: Option<f64>,
}

/// The mean of steps lately, in microseconds a step.
#[derive(Clone, Copy, Default)]
pub(crate) struct Split {
    /// From the end of one step to the end of the next.
    pub(crate) whole: f64,
    /// The device at work.
    pub(crate) device: f64,
    /// Copies to and from it.
    pub(crate) copies: f64,
    pub(crate) host: f64,
    /// Waiting for compiles.
    pub(crate) compiles: f64,
    /// The host looking at the validation data.
    pub(crate) validation: f64,
}

impl Split {
    fn sum(&self) -> f64 {
        self.device + self.copies + self.host + self.compiles + self.validation
    }

    /// What is none of the others: metrics, checkpoints.
    pub(crate) fn other(&self) -> f64 {
        (self.whole - self.sum()).max(0.0)
    }
}

/// Compiles.
#[derive(Clone, Copy, Default)]
pub(crate) struct Compiles {
    pub(crate) of_run: u64,
    pub(crate) of_process: u64,
    pub(crate) budget: Option<u64>,
    /// The last one's time in microseconds.
    pub(crate) last_us: Option<u64>,
}

impl Figures {
    pub(crate) fn of(run: &Run) -> Figures {
        let steps = run.steps();
        let process = run.process();
        let done = steps.step.last().map_or(0, |&step| step + 1);
        let n_steps = run.config().map(|c| c.train.steps).or(process.map(|p| p.n_steps));
        let steps_per_s = run.steps_per_second();
        let split = split(run);
        let left = match (n_steps, steps_per_s) {
            (Some(n), Some(rate)) if run.state().is_alive() && rate > 0.0 => {
                Duration::try_from_secs_f64(n.saturating_sub(done) as f64 / rate).ok()
            }
            _ => None,
        };
        let of_run = steps.compiles.last().copied().unwrap_or(0);
        Figures {
            done,
            n_steps,
            loss: steps.loss.last().copied(),
            steps_per_s,
            examples_per_s: process
                .zip(steps_per_s)
                .map(|(p, rate)| (p.examples as f64 * rate, p.examples_are.clone())),
            left,
            gflops: process
                .map(|p| p.device_flops_per_step as f64 / split.device / 1e3)
                .filter(|x| x.is_finite() && *x > 0.0),
            split,
            compiles: Compiles {
                of_run,
                of_process: of_run.saturating_sub(process.map_or(0, |p| p.compiles)),
                budget: process.and_then(|p| p.compile_budget),
                last_us: steps.compiled.last().map(|c| c.end_us.saturating_sub(c.begin_us)),
            },
            n_restarts: run.events().iter().filter(|e| matches!(e.event, Happened::Restart { .. })).count(),
            n_resumed: run
                .events()
                .iter()
                .filter(|e| matches!(&e.event, Happened::Started(p) if p.resumed && !p.restarted))
                .count(),
        }
    }
}

/// Where the time of steps went lately, in the process that trains or was the last to.
fn split(run: &Run) -> Split {
    let steps = run.steps();
    let started = run.events().iter().rev().find(|e| matches!(e.event, Happened::Started(_)));
    let last = steps.time_us.last().copied().unwrap_or(0);
    let started_us = started.map_or(0, |e| e.time_us);
    let from = last.saturating_sub(LATELY_US).max(started_us);
    // The step before the first counted one is where its time begins.
    let begin = steps.time_us.partition_point(|&t| t < from).min(steps.len().saturating_sub(2));
    let n = (steps.len() - begin).saturating_sub(1) as f64;
    if n < 1.0 {
        return Split::default();
    }
    let mean =
        |column: &[f64]| column[begin + 1..].iter().filter(|x| x.is_finite()).fold(0.0, |sum, x| sum + x) / n;
    let validations = steps.validations.iter().rev().take_while(|v| v.step > steps.step[begin] + 1);
    let copies = mean(&steps.copy_us);
    let split = Split {
        whole: 0.0,
        device: (mean(&steps.device_us) - copies).max(0.0),
        copies,
        host: mean(&steps.host_us),
        compiles: mean(&steps.compile_wait_us),
        validation: validations.map(|v| v.eval_us).filter(|us| us.is_finite()).fold(0.0, |sum, us| sum + us) / n,
    };
    // There is no whole but the sum where no times were kept, and for a process's first step: from the end of the
    // one before it, nobody trained for a while.
    let whole_us = if steps.time_us[begin] < started_us { 0 } else { last.saturating_sub(steps.time_us[begin]) };
    Split { whole: (whole_us as f64 / n).max(split.sum()), ..split }
}

/// A number in few digits, or in words where it is none.
pub(crate) fn short(x: f64) -> String {
    match x.abs() {
        _ if !x.is_finite() => "not finite".into(),
        0.0 => "0".into(),
        a if !(1e-4..1e7).contains(&a) => format!("{x:.2e}"),
        a if a >= 1000.0 => format!("{x:.0}"),
        a => format!("{x:.*}", (3 - a.log10().floor() as i32).clamp(0, 7) as usize),
    }
}

/// A count with its thousands set apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| str::from_utf8(g).unwrap_or("")).collect();
    groups.join(",")
}

/// How many of something in a second, in whole numbers where they are many.
pub(crate) fn rate(n: f64) -> String {
    match n {
        n if n >= 10.0 || n <= 0.0 => count(n.round() as u64),
        n => format!("{n:.*}", (1 - n.log10().floor() as i32).clamp(1, 7) as usize),
    }
}

/// A time in microseconds, with its unit.
pub(crate) fn micros(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.*} ms", if us < 1e4 { 2 } else { 1 }, us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// A longer time, in its largest unit or two.
pub(crate) fn long(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anemone::run::{EVENTS, METRICS};
    use std::fs;

    #[test]
    fn a_step_takes_no_time_in_which_no_process_trained() {
        const PAUSE_US: u64 = 9 * 3_600_000_000;
        let folder = tempfile::tempdir().unwrap();
        let split = |n_resumed: u64| {
            let line = |step: u64| {
                let time = 1_000_000 + 1000 * step + if step < 10 { 0 } else { PAUSE_US };
                format!("{{\"step\":{step},\"time_us\":{time},\"device_us\":400.0,\"host_us\":500.0}}\n")
            };
            let started = |time: u64| format!("{{\"time_us\":{time},\"step\":0,\"event\":\"started\"}}\n");
            fs::write(folder.path().join(METRICS), (0..10 + n_resumed).map(line).collect::<String>()).unwrap();
            let events = started(1_000_000) + &started(1_009_500 + PAUSE_US);
            fs::write(folder.path().join(EVENTS), events).unwrap();
            split(&Run::open(folder.path()).unwrap())
        };
        // Between one step and the next there is more than the two parts that are known.
        for (n_resumed, whole) in [(1, 900.0), (2, 1000.0), (5, 1000.0)] {
            let split = split(n_resumed);
            assert_eq!((split.whole, split.device, split.host), (whole, 400.0, 500.0), "{n_resumed}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (x, expected) in [
            (0.0, "0"),
            (0.123456, "0.1235"),
            (0.0012345, "0.001234"),
            (2.5, "2.500"),
            (42.0, "42.00"),
            (65536.0, "65536"),
            (-1.5e9, "-1.50e9"),
            (3.2e-7, "3.20e-7"),
            (f64::NAN, "not finite"),
        ] {
            assert_eq!(short(x), expected);
        }
        assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.0123, 0.4, 9.96, 12.3, 1234.5].map(rate),
            ["0", "0.012", "0.40", "10.0", "12", "1,235"]
        );
        assert_eq!([micros(61.4), micros(1234.0), micros(2.5e6)], ["61 us", "1.23 ms", "2.5 s"]);
        let long = |s| long(Duration::from_secs(s));
        assert_eq!(
            [long(59), long(61), long(7260), long(90_000)],
            ["59 s", "1 min 01 s", "2 h 01 min", "1 d 1 h"]
        );
    }
}
