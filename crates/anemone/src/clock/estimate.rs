//! What a training run would take on a chip's engine.

use super::{Call, Clock, Figure, Quantity, seconds};
use crate::config::{Strategy, TrainConfig, WeightsConfig};
use crate::train::Description;
use serde::Serialize;
use std::fmt;
use std::ops::AddAssign;

/// What calls take, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepTime {
    /// Dispatches, however little they compute.
    pub dispatch_s: f64,
    /// Arithmetic.
    pub compute_s: f64,
    /// Reading weights and activations, as far as it takes longer than the arithmetic.
    pub memory_s: f64,
    /// The host's copies of inputs and outputs, weights left out.
    pub transfer_s: f64,
}

impl StepTime {
    /// All of it.
    pub fn total_s(&self) -> f64 {
        self.engine_s() + self.transfer_s
    }

    /// All but the host's copies.
    pub fn engine_s(&self) -> f64 {
        self.dispatch_s + self.compute_s + self.memory_s
    }
}

impl AddAssign for StepTime {
    fn add_assign(&mut self, other: StepTime) {
        self.dispatch_s += other.dispatch_s;
        self.compute_s += other.compute_s;
        self.memory_s += other.memory_s;
        self.transfer_s += other.transfer_s;
    }
}

/// What the kernels of all programs take, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct KernelTime {
    /// Compiling all programs.
    pub compile_s: f64,
    /// Loading them.
    pub load_s: f64,
    /// Passing the weights of all calls; 0 where they are compiled in.
    pub weights_s: f64,
    /// What new weights add to a run: all of the above with weights compiled in, less what training hides where
    /// compiles overlap it; the weights alone where they are passed.
    pub renewal_s: f64,
}

/// How often a run does what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Updates.
    pub updates: u64,
    /// Compiles of programs.
    pub compiles: u64,
    /// Processes that trained, one after the other.
    pub processes: u64,
    /// Times that a process was replaced by another because its compiles were spent.
    pub restarts: u64,
}

impl Counts {
    /// What a run does if nothing fails and nothing ends it early, with so many programs and a budget of so many
    /// compiles a process.
    ///
    /// This is the trainer's order of events: what is compiled in the background at the end of one batch is used
    /// from the end of the next, and a process is replaced where the budget would not suffice for what comes.
    pub fn planned(train: &TrainConfig, weights: &WeightsConfig, n_programs: u64, budget: u64) -> Counts {
        let is_baked = weights.strategy == Strategy::Baked;
        let overlaps = is_baked && weights.overlap;
        let updates = train.steps.div_ceil(train.accumulate.max(1));
        // Sets of kernels that a process compiles, and the updates that they are for, if it compiles all it can.
        let most_sets = budget / n_programs.max(1);
        let (sets, per_process) = match (is_baked, overlaps) {
            (false, _) => (1, u64::MAX),
            (true, false) => (most_sets.max(1), most_sets.max(1)),
            // One to begin with, and behind the first update and every second one after it another.
            (true, true) => (most_sets.max(2), (most_sets.max(2) - 1).saturating_mul(2)),
        };
        let processes = updates.div_ceil(per_process).max(1);
        let restarts = processes - 1;
        let last = updates - restarts * per_process;
        let last_sets = match (is_baked, overlaps) {
            (false, _) => last.min(1),
            (true, false) => last,
            // The last update begins none.
            (true, true) => last.min(1) + last / 2,
        };
        let compiles = (restarts * sets + last_sets).saturating_mul(n_programs);
        Counts { steps: train.steps, updates, compiles, processes, restarts }
    }
}

/// What a whole run takes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunTime {
    /// Steps, undisturbed.
    pub steps_s: f64,
    /// Compiles.
    pub compile_s: f64,
    /// Loads.
    pub load_s: f64,
    /// Passing weights.
    pub weights_s: f64,
    /// Restarts, their compiles left out.
    pub restart_s: f64,
    /// By how much compiles in the background slow steps down.
    pub slowed_s: f64,
    /// What of compiles and loads is done while steps go on.
    pub hidden_s: f64,
}

impl RunTime {
    /// From the beginning to the end.
    pub fn total_s(&self) -> f64 {
        self.steps_s + self.compile_s + self.load_s + self.weights_s + self.restart_s + self.slowed_s
            - self.hidden_s
    }
}

/// What a run would take on a chip's engine, the host's own work left out. An estimate, by published figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The chip's name.
    pub chip: &'static str,
    /// How kernels get new weights.
    pub strategy: Strategy,
    /// Whether compiles overlap training.
    pub overlap: bool,
    /// Calls of the engine a step.
    pub dispatches: usize,
    /// A step's calls.
    pub step: StepTime,
    /// All of [`Estimate::step`], in seconds.
    pub step_s: f64,
    /// Kernels, once.
    pub kernels: KernelTime,
    /// What was counted.
    pub counts: Counts,
    /// The whole run.
    pub run: RunTime,
    /// All of [`Estimate::run`], in seconds.
    pub run_s: f64,
    /// What it goes by.
    pub figures: Vec<Figure>,
}

impl Estimate {
    /// The estimate for a plan and what a run of it does.
    pub fn new(clock: Clock, plan: &Description, overlap: bool, accumulate: u64, counts: Counts) -> Estimate {
        let strategy = plan.strategy;
        let overlap = overlap && strategy == Strategy::Baked;
        let mut step = StepTime::default();
        let mut kernels = KernelTime::default();
        for program in &plan.programs {
            let weight_bytes = program.weight_bytes as f64;
            let call = Call {
                convolves: strategy == Strategy::Baked,
                flops: program.flops as f64,
                weight_bytes,
                bytes: program.bytes as f64,
            };
            program.calls.iter().for_each(|_| step += clock.call(&call));
            match strategy {
                Strategy::Baked => kernels.compile_s += clock.compile_s(weight_bytes),
                Strategy::Operand => {
                    kernels.compile_s += clock.compile_s(0.0);
                    kernels.weights_s += program.calls.len() as f64 * clock.pass_s(weight_bytes);
                }
            }
            kernels.load_s += clock.load_s();
        }
        let set_s = kernels.compile_s + kernels.load_s;
        // Steps beside a compile are slower; the compile is waited for where it takes longer than they do.
        let slower = clock.value(Quantity::Overlap);
        let batch_s = accumulate as f64 * step.total_s();
        let hidden_s = set_s.min(slower * batch_s);
        let slowed_s = hidden_s * (1.0 - 1.0 / slower);
        kernels.renewal_s = match (strategy, overlap) {
            (Strategy::Operand, _) => kernels.weights_s,
            (Strategy::Baked, true) => set_s - hidden_s + slowed_s,
            (Strategy::Baked, false) => set_s,
        };
        let n_sets = counts.compiles as f64 / plan.programs.len().max(1) as f64;
        // Each process compiles its first kernels while nothing trains.
        let n_behind = if overlap { (n_sets - counts.processes as f64).max(0.0) } else { 0.0 };
        // All updates but the last need new kernels, and so does the beginning of each process.
        let n_passed = (counts.updates + counts.processes).saturating_sub(1) as f64;
        let run = RunTime {
            steps_s: counts.steps as f64 * step.total_s(),
            compile_s: n_sets * kernels.compile_s,
            load_s: n_sets * kernels.load_s,
            weights_s: n_passed * kernels.weights_s,
            restart_s: counts.restarts as f64 * clock.value(Quantity::Restart),
            slowed_s: n_behind * slowed_s,
            hidden_s: n_behind * hidden_s,
        };
        Estimate {
            chip: clock.chip().as_str(),
            strategy,
            overlap,
            dispatches: plan.dispatches,
            step,
            step_s: step.total_s(),
            kernels,
            counts,
            run,
            run_s: run.total_s(),
            figures: clock.figures(),
        }
    }

    /// The strategy in words.
    fn strategy(&self) -> &'static str {
        match (self.strategy, self.overlap) {
            (Strategy::Operand, _) => "operand",
            (Strategy::Baked, true) => "baked, overlap",
            (Strategy::Baked, false) => "baked",
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate { step, run, counts, figures, .. } = self;
        let chip = self.chip.to_uppercase();
        let n_assumed = figures.iter().filter(|figure| figure.assumed).count();
        writeln!(
            f,
            "Estimate, not measured: on an {chip} the device's part of a step would take about {}",
            seconds(self.step_s)
        )?;
        writeln!(
            f,
            "  a step: {} dispatches {}, arithmetic {}, memory {}, the host's copies {}",
            self.dispatches,
            seconds(step.dispatch_s),
            seconds(step.compute_s),
            seconds(step.memory_s),
            seconds(step.transfer_s)
        )?;
        write!(
            f,
            "  the {} steps, {} compiles and {} restarts {}: steps {}, compiles {}, loads {}, weights {}, restarts {}",
            counts.steps,
            counts.compiles,
            counts.restarts,
            seconds(self.run_s),
            seconds(run.steps_s + run.slowed_s),
            seconds(run.compile_s),
            seconds(run.load_s),
            seconds(run.weights_s),
            seconds(run.restart_s)
        )?;
        if run.hidden_s > 0.0 {
            write!(f, ", less {} behind training", seconds(run.hidden_s))?;
        }
        write!(
            f,
            "\n  by figures that others have published, {n_assumed} of {} of them of other chips than the {chip}; `--plan` names \
             the sources",
            figures.len()
        )
    }
}

/// A run under each of the strategies.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The estimates.
    pub estimates: Vec<Estimate>,
    /// Strategies that are not possible, and why.
    pub impossible: Vec<(String, String)>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.estimates.first() else { return Ok(()) };
        let chip = first.chip.to_uppercase();
        writeln!(
            f,
            "Estimate of the device's part on an {chip}, by published figures; nothing of it was measured here:"
        )?;
        let header = [
            "dispatch",
            "compute",
            "memory",
            "copies",
            "a step",
            "new weights",
            "compiles",
            "restarts",
            "the run",
        ];
        let line = |f: &mut fmt::Formatter<'_>, name: &str, cells: [String; 9]| {
            write!(f, "  {name:<15}")?;
            cells.iter().zip(header).try_for_each(|(cell, head)| write!(f, " {cell:>0$}", head.len().max(8)))?;
            writeln!(f)
        };
        line(f, "", header.map(str::to_string))?;
        for e in &self.estimates {
            let cells = [
                seconds(e.step.dispatch_s),
                seconds(e.step.compute_s),
                seconds(e.step.memory_s),
                seconds(e.step.transfer_s),
                seconds(e.step_s),
                seconds(e.kernels.renewal_s),
                e.counts.compiles.to_string(),
                e.counts.restarts.to_string(),
                seconds(e.run_s),
            ];
            line(f, e.strategy(), cells)?;
        }
        for (name, why) in &self.impossible {
            writeln!(f, "  {name}: not possible: {why}")?;
        }
        writeln!(f, "The host's own work comes on top. The figures, and whose they are:")?;
        first.figures.iter().try_for_each(|figure| wrapped(f, &format!("  {figure}")))
    }
}

/// Words in lines of at most 120 columns, all but the first under the column where sources begin.
fn wrapped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    const INDENT: usize = 34;
    let (begin, rest) = text.split_at(INDENT.min(text.len()));
    write!(f, "{begin}")?;
    let mut column = INDENT;
    for word in rest.split_whitespace() {
        if column > INDENT && column + 1 + word.len() > 120 {
            write!(f, "\n{:INDENT$}", "")?;
            column = INDENT;
        }
        let space = if column > INDENT { " " } else { "" };
        write!(f, "{space}{word}")?;
        column += space.len() + word.len();
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(steps: u64, strategy: Strategy, overlap: bool, budget: u64) -> [u64; 2] {
        let train = TrainConfig { steps, accumulate: 10, ..TrainConfig::default() };
        let weights = WeightsConfig { strategy, overlap, ..WeightsConfig::default() };
        let counts = Counts::planned(&train, &weights, 4, budget);
        assert_eq!((counts.updates, counts.processes), (steps.div_ceil(10), counts.restarts + 1));
        [counts.compiles, counts.restarts]
    }

    #[test]
    fn compiles_and_restarts_are_those_of_the_trainers_order_of_events() {
        // 25 sets of kernels a process, one for each update.
        assert_eq!(planned(2000, Strategy::Baked, false, 100), [800, 7]);
        // One set for two updates, and one more for each process.
        assert_eq!(planned(2000, Strategy::Baked, true, 100), [420, 4]);
        assert_eq!(planned(2000, Strategy::Operand, false, 100), [4, 0]);
        assert_eq!(planned(15, Strategy::Baked, true, 8), [8, 0]);
        assert_eq!(planned(0, Strategy::Baked, true, 8), [0, 0]);
        // Sets begin behind updates 1, 3 and 5 of 7, of which the last is another's.
        assert_eq!(planned(70, Strategy::Baked, true, 100), [16, 0]);
        assert_eq!(planned(u64::MAX, Strategy::Operand, false, u64::MAX), [4, 0]);
        assert_eq!(planned(1 << 60, Strategy::Baked, false, 4)[1], (1u64 << 60).div_ceil(10) - 1);
    }
}
