//! Compiles beside training: when which was done, on a clock that stands still while no process trains.

use super::colour::Colour;
use super::figures::resumptions;
use super::number::grouped;
use anemone::Run;
use anemone::run::Happened;
use std::collections::BTreeSet;

/// Pieces into which a whole run is cut.
const N_PIECES: usize = 240;

/// Compiles that are looked at closely.
const N_CLOSE: usize = 3;

/// Steps that are drawn one by one.
const N_STEPS: usize = 160;

/// From Unix time to the run's own, which only goes on while a process trains. Microseconds.
pub(crate) struct Clock {
    /// Times at which a process began, and what is to be taken away from then on.
    shifts: Vec<(u64, u64)>,
    end: u64,
}

impl Clock {
    /// `None` for a run whose metrics have no times.
    pub(crate) fn new(run: &Run) -> Option<Clock> {
        let s = run.steps();
        let own = super::chart::step_times(run);
        let (&first, &last) = (s.time_us.first()?, s.time_us.last()?);
        if first == 0 {
            return None;
        }
        let mut shift = first.saturating_sub(own[0].max(0.0) as u64);
        let mut shifts = vec![(0, shift)];
        // What was resumed at the same step more than once has gone on from there but once.
        let resumed: BTreeSet<u64> = resumptions(run).into_iter().map(|(step, _)| step).collect();
        for step in resumed {
            // The steps on both sides of the resumption.
            let i = s.step.partition_point(|&s| s < step);
            if i == 0 || i >= s.len() {
                continue;
            }
            let began = s.time_us[i].saturating_sub(own[i].max(0.0) as u64);
            let events = run.events().iter().filter(|e| matches!(e.event, Happened::Started(_)));
            let said = events.map(|e| e.time_us).filter(|t| (s.time_us[i - 1]..=began).contains(t)).max();
            shift += said.unwrap_or(began).saturating_sub(s.time_us[i - 1]);
            shifts.push((s.time_us[i - 1] + 1, shift));
        }
        let mut clock = Clock { shifts, end: 0 };
        clock.end = clock.at(last) as u64;
        Some(clock)
    }

    /// The run's own time at a Unix time.
    fn at(&self, time_us: u64) -> f64 {
        let i = self.shifts.partition_point(|s| s.0 <= time_us).max(1) - 1;
        let (from, shift) = self.shifts[i];
        // Between processes the clock stands still.
        let before = if i > 0 { from.saturating_sub(self.shifts[i - 1].1) } else { 0 };
        time_us.saturating_sub(shift).max(before) as f64
    }

    /// When the last step ended.
    pub(crate) fn end_us(&self) -> f64 {
        self.end as f64
    }
}

/// A stretch of time in one lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) begin: f64,
    pub(crate) end: f64,
    pub(crate) colour: Colour,
}

impl Span {
    fn overlap(&self, begin: f64, end: f64) -> f64 {
        (self.end.min(end) - self.begin.max(begin)).max(0.0)
    }
}

/// What share of a piece of time each colour has.
pub(crate) type Shares = Vec<(Colour, f64)>;

/// A run's time in two lanes.
pub(crate) struct Timeline {
    /// Steps, waiting, validation.
    pub(crate) training: Vec<Span>,
    /// Compiles: in the background, or waited for.
    pub(crate) compiles: Vec<Span>,
    /// The index of the step of each span of training.
    steps: Vec<u64>,
    pub(crate) end: f64,
}

/// Part of a timeline, drawn span by span.
pub(crate) struct Close {
    pub(crate) begin: f64,
    pub(crate) end: f64,
    pub(crate) training: Vec<Span>,
    pub(crate) compiles: Vec<Span>,
    pub(crate) steps: (u64, u64),
}

impl Close {
    /// Which steps it has.
    pub(crate) fn name(&self) -> String {
        let (first, last) = (grouped(self.steps.0 as f64), grouped(self.steps.1 as f64));
        if first == last { format!("step {first}") } else { format!("steps {first} to {last}") }
    }
}

impl Timeline {
    /// `None` for a run whose metrics have no times, or that has made no step.
    pub(crate) fn new(run: &Run) -> Option<Timeline> {
        let clock = Clock::new(run)?;
        let s = run.steps();
        let own = super::chart::step_times(run);
        let (mut training, mut steps) = (Vec::new(), Vec::new());
        let mut add = |step: u64, begin: f64, end: f64, colour: Colour| {
            if end > begin {
                training.push(Span { begin, end, colour });
                steps.push(step);
            }
        };
        let mut validations = s.validations.iter().peekable();
        let mut foreground = s.compiled.iter().filter(|c| !c.background).peekable();
        let mut last = 0.0f64;
        for (i, own) in own.into_iter().enumerate() {
            let mut end = clock.at(s.time_us[i]);
            let step = s.step[i];
            if let Some(v) = validations.next_if(|v| v.step <= step.saturating_add(1))
                && v.eval_us.is_finite()
            {
                add(step, (end - v.eval_us).max(last), end, Colour::Eval);
                end -= v.eval_us;
            }
            let begin = (end - own.max(0.0)).max(last);
            let wait = s.compile_wait_us[i].max(0.0).min(end - begin);
            // A compile that is not in the background comes before its step, the end of one that is after it.
            let mut first = false;
            while foreground.next_if(|c| c.end_us <= s.time_us[i]).is_some() {
                first = true;
            }
            match first {
                true => {
                    add(step, begin, begin + wait, Colour::Wait);
                    add(step, begin + wait, end, Colour::Device);
                }
                false => {
                    add(step, begin, end - wait, Colour::Device);
                    add(step, end - wait, end, Colour::Wait);
                }
            }
            last = clock.at(s.time_us[i]);
        }
        let compiles = s.compiled.iter().map(|c| {
            let colour = if c.error.is_some() {
                Colour::Bad
            } else if c.background {
                Colour::Compile
            } else {
                Colour::Wait
            };
            let begin = clock.at(c.begin_us);
            Span { begin, end: begin + c.end_us.saturating_sub(c.begin_us) as f64, colour }
        });
        let compiles: Vec<Span> = compiles.collect();
        Some(Timeline { training, compiles, steps, end: clock.end_us().max(last) })
    }

    /// The share of each piece of the run's time that has each colour, for both lanes.
    pub(crate) fn pieces(&self) -> (Vec<Shares>, Vec<Shares>) {
        (shares(&self.training, self.end), shares(&self.compiles, self.end))
    }

    /// A few compiles in the middle of the run, closely.
    pub(crate) fn close(&self) -> Option<Close> {
        let behind: Vec<&Span> = self.compiles.iter().filter(|c| c.colour == Colour::Compile).collect();
        let all_waited_for = behind.is_empty();
        let of: Vec<&Span> = if all_waited_for { self.compiles.iter().collect() } else { behind };
        let middle = of.len() / 2;
        let chosen = of.get(middle.saturating_sub(N_CLOSE / 2)..(middle + N_CLOSE.div_ceil(2)).min(of.len()))?;
        let (first, last) = (chosen.first()?, chosen.last()?);
        let longest = chosen.iter().map(|c| c.end - c.begin).fold(0.0, f64::max);
        let air = ((last.end - first.begin) * 0.12).max(longest * if all_waited_for { 1.0 } else { 0.25 });
        let (begin, mut end) = ((first.begin - air).max(0.0), (last.end + air).min(self.end));
        let from = self.training.partition_point(|s| s.end <= begin);
        // Not more than can be told apart.
        if let Some(late) = self.training.get(from + N_STEPS) {
            end = end.min(late.begin);
        }
        let to = self.training.partition_point(|s| s.begin < end);
        let within = |spans: &[Span]| -> Vec<Span> {
            let cut = |s: &Span| Span { begin: s.begin.max(begin), end: s.end.min(end), ..*s };
            spans.iter().filter(|s| s.overlap(begin, end) > 0.0).map(cut).collect()
        };
        let training = within(self.training.get(from..to)?);
        let steps = (*self.steps.get(from)?, *self.steps.get(to.checked_sub(1)?)?);
        Some(Close { begin, end, training, compiles: within(&self.compiles), steps })
    }
}

/// The shares of the colours in each piece.
fn shares(spans: &[Span], end: f64) -> Vec<Shares> {
    let size = (end / N_PIECES as f64).max(f64::MIN_POSITIVE);
    let mut pieces: Vec<Shares> = vec![Vec::new(); N_PIECES];
    for span in spans {
        let first = (span.begin / size) as usize;
        let last = ((span.end / size) as usize).min(N_PIECES - 1);
        for (i, piece) in pieces.iter_mut().enumerate().take(last + 1).skip(first) {
            let share = span.overlap(i as f64 * size, (i + 1) as f64 * size) / size;
            match piece.iter_mut().find(|(colour, _)| *colour == span.colour) {
                Some((_, sum)) => *sum += share,
                None => piece.push((span.colour, share)),
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    fn run(lines: &[Value], events: &[Value]) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let text = |lines: &[Value]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        fs::write(folder.path().join("metrics.jsonl"), text(lines)).unwrap();
        fs::write(folder.path().join("events.jsonl"), text(events)).unwrap();
        Run::open(folder.path()).unwrap()
    }

    fn step(step: u64, time_us: u64, wait_us: u64, compiled: Value) -> Value {
        json!({
            "step": step, "time_us": time_us, "device_us": 60, "host_us": 40, "compile_wait_us": wait_us,
            "compiled": compiled,
        })
    }

    fn span(begin: f64, end: f64, colour: Colour) -> Span {
        Span { begin, end, colour }
    }

    #[test]
    fn compiles_lie_beside_the_steps_that_hide_them() {
        const T: u64 = 1_000_000_000;
        let run = run(
            &[
                step(0, T + 400, 300, json!([{ "begin_us": T, "end_us": T + 300 }])),
                step(1, T + 500, 0, json!([])),
                // Begun when step 0 ended; training waits for what is left of it after step 2.
                step(2, T + 650, 50, json!([{ "begin_us": T + 400, "end_us": T + 650, "background": true }])),
                step(3, T + 750, 0, json!([])),
            ],
            &[],
        );
        let timeline = Timeline::new(&run).unwrap();
        assert_eq!(
            timeline.training,
            [
                span(0.0, 300.0, Colour::Wait),
                span(300.0, 400.0, Colour::Device),
                span(400.0, 500.0, Colour::Device),
                span(500.0, 600.0, Colour::Device),
                span(600.0, 650.0, Colour::Wait),
                span(650.0, 750.0, Colour::Device),
            ]
        );
        assert_eq!(timeline.compiles, [span(0.0, 300.0, Colour::Wait), span(400.0, 650.0, Colour::Compile)]);
        let sum = |pieces: &[Shares], colour: Colour| -> f64 {
            pieces.iter().flatten().filter(|(c, _)| *c == colour).map(|(_, share)| share).sum()
        };
        let (training, compiles) = timeline.pieces();
        let piece = 750.0 / N_PIECES as f64;
        assert!((sum(&training, Colour::Wait) * piece - 350.0).abs() < 1e-6);
        assert!((sum(&compiles, Colour::Compile) * piece - 250.0).abs() < 1e-6);
        let close = timeline.close().unwrap();
        assert_eq!((close.steps, close.compiles.len()), ((0, 3), 1));
        assert!(close.begin < 400.0 && close.end > 650.0);
    }

    #[test]
    fn the_clock_stands_still_while_no_process_trains() {
        const T: u64 = 1_000_000_000;
        const DAY: u64 = 86_400_000_000;
        let lines = [step(0, T + 100, 0, json!([])), step(1, T + DAY + 100, 0, json!([]))];
        let started = json!({ "event": "started", "time_us": T + DAY - 500, "step": 1, "resumed": true });
        let earlier = json!({ "event": "started", "time_us": T + DAY / 2, "step": 1, "resumed": true });
        assert_eq!(Clock::new(&run(&lines, &[earlier, started])).unwrap().end_us(), 700.0);
        assert_eq!(Clock::new(&run(&lines, &[])).unwrap().end_us(), (DAY + 100) as f64);
        let mut old = lines[0].clone();
        old.as_object_mut().unwrap().remove("time_us");
        assert!(Clock::new(&run(&[old], &[])).is_none());
        assert!(Clock::new(&run(&[], &[])).is_none());
    }
}
