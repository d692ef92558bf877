//! When kernels are compiled or given new weights, and whether the budget of compiles allows it.

use super::Trainer;
use super::kernels::{Background, Compiler};
use super::plan::{Target, TrainPlan};
use crate::config::{Config, Io, Strategy};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::Built;
use crate::run::now_us;
use crate::soft::floats::Floats;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Kernels that were compiled, or could not be. Times are Unix time in microseconds, as those of steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// When it began.
    pub begin_us: u64,
    /// When it ended.
    pub end_us: u64,
    /// Whether it was done while training went on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Why it failed, if it did. In the background, it was then done again in the foreground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Kernels under way, and what else goes with them.
pub(super) struct Coming {
    background: Background,
    /// When they were begun.
    begin_us: u64,
    /// The update whose weights they get.
    update: u64,
    /// What the host's parts of a step read of the same weights.
    handed: Vec<Floats>,
}

impl Trainer {
    /// Sees to kernels for the next batch, unless training is over.
    pub(super) fn renew_kernels(&mut self, over: bool) -> Result<()> {
        let was_stale = std::mem::take(&mut self.batch.stale);
        if let Some(coming) = self.background.take() {
            self.swap(coming);
            return Ok(());
        }
        // If the update was left out, the kernels are of the weights that there are.
        let are_latest = self.kernels.is_some() && self.batch.kernel_update == self.state.update;
        if over || are_latest {
            return Ok(());
        }
        match self.config.weights.strategy {
            Strategy::Operand => self.pass_weights(),
            Strategy::Baked if self.overlaps() && !was_stale && self.kernels.is_some() => self.compile_behind(),
            Strategy::Baked => {
                self.kernels = None;
                Ok(())
            }
        }
    }

    /// Passes the latest weights to the kernels.
    fn pass_weights(&mut self) -> Result<()> {
        self.prepare()?;
        self.hand_prepared();
        if let Some(kernels) = &mut self.kernels {
            kernels.write_weights(&self.plan.weights(&self.environment, &self.params))?;
        }
        self.batch.kernel_update = self.state.update;
        Ok(())
    }

    /// Begins kernels of the latest weights, while those that there are train on.
    fn compile_behind(&mut self) -> Result<()> {
        self.prepare()?;
        let weights = self.plan.weights(&self.environment, &self.params);
        let begin_us = now_us();
        match self.compiler.compile_in_background(weights.into_iter().map(<[f32]>::to_vec).collect()) {
            Ok(background) => {
                let handed = self.plan.handed(&self.environment, &self.params);
                self.background = Some(Coming { background, begin_us, update: self.state.update, handed });
                self.batch.stale = true;
            }
            Err(e) => {
                let (end_us, error) = (now_us(), Some(e.to_string()));
                self.state.compiled.push(Compiled { begin_us, end_us, background: true, error });
                self.state.stats.n_background_failures += 1;
                self.kernels = None;
            }
        }
        Ok(())
    }

    /// Takes the kernels compiled meanwhile, which lack the update that was made meanwhile, if one was.
    pub(super) fn swap(&mut self, coming: Coming) {
        let Coming { background, begin_us, update, handed } = coming;
        let start = Instant::now();
        let result = background.finish();
        let waited_s = start.elapsed().as_secs_f64();
        self.state.stats.compile_wait_s += waited_s;
        let (result, stats) = result;
        let busy_s = stats.busy.as_secs_f64();
        self.state.stats.compile_busy_s += busy_s;
        self.state.stats.compile_hidden_s += (busy_s - waited_s).max(0.0);
        self.state.stats.n_retries += stats.n_retries;
        self.state.compiled.push(Compiled {
            begin_us,
            end_us: begin_us + stats.busy.as_micros() as u64,
            background: true,
            error: result.as_ref().err().map(Error::to_string),
        });
        match result {
            Ok(kernels) => self.kernels = Some(kernels),
            Err(_) => {
                // The next step compiles in the foreground, and says what is wrong if it still is.
                self.state.stats.n_background_failures += 1;
                self.kernels = None;
            }
        }
        self.batch.kernel_update = update;
        // Host and kernels go by the same weights.
        self.plan.hand(&mut self.environment, handed);
    }

    /// Computes what is made of parameters alone from the latest.
    fn prepare(&mut self) -> Result<()> {
        self.plan.prepare(&mut self.environment, &self.params)
    }

    /// Lets the host's parts go by what was prepared last.
    fn hand_prepared(&mut self) {
        let handed = self.plan.handed(&self.environment, &self.params);
        self.plan.hand(&mut self.environment, handed);
    }

    pub(super) fn compile_now(&mut self) -> Result<()> {
        self.prepare()?;
        let begin_us = now_us();
        let start = Instant::now();
        let (result, stats) = self.compiler.compile(&self.plan.weights(&self.environment, &self.params));
        self.state.stats.compile_wait_s += start.elapsed().as_secs_f64();
        self.state.stats.compile_busy_s += stats.busy.as_secs_f64();
        self.state.stats.n_retries += stats.n_retries;
        let error = result.as_ref().err().map(Error::to_string);
        self.state.compiled.push(Compiled { begin_us, end_us: now_us(), background: false, error });
        self.kernels = Some(result?);
        self.hand_prepared();
        self.batch.kernel_update = self.state.update;
        Ok(())
    }

    /// The most compiles this process can make; `None` for any number.
    pub fn compile_budget(&self) -> Option<u64> {
        Some(self.budget()).filter(|&n| n < usize::MAX).map(|n| n as u64)
    }

    /// Compiles that new kernels take.
    pub fn n_programs(&self) -> u64 {
        self.compiler.n_programs() as u64
    }

    pub(super) fn budget(&self) -> usize {
        budget(&self.config, &*self.device)
    }

    /// Whether the kernels that will be needed next cannot be compiled any more.
    pub(super) fn out_of_compiles(&self) -> bool {
        let needed = match (&self.kernels, self.config.weights.strategy) {
            (None, _) => true,
            (Some(_), Strategy::Operand) => false,
            // The batch that begins now compiles at its end, unless it is the last.
            (Some(_), Strategy::Baked) => {
                self.overlaps() && self.state.step + self.config.train.accumulate < self.config.train.steps
            }
        };
        needed && self.device.usage().n_compiles + self.compiler.n_programs() > self.budget()
    }

    /// Every process must get somewhere: its compiles must suffice for at least one update.
    pub(super) fn check_budget(&self) -> Result<()> {
        self.check_budget_for(self.compiler.n_programs(), self.overlaps())
    }

    /// As [`Trainer::check_budget`], for so many programs.
    pub(super) fn check_budget_for(&self, n: usize, overlaps: bool) -> Result<()> {
        let needed = if overlaps { 2 * n } else { n };
        if self.budget() >= needed {
            return Ok(());
        }
        Err(Error::config(format!(
            "a budget of {} compiles a process is too small: one update takes {needed} ({n} programs{}); raise \
             `weights.compile_budget` or use the strategy `operand`",
            self.budget(),
            if overlaps { ", twice with overlap" } else { "" }
        )))
    }
}

/// The most compiles a process may make.
fn budget(config: &Config, device: &dyn Device) -> usize {
    let own = match config.weights.compile_budget {
        0 => usize::MAX,
        n => n,
    };
    own.min(device.limits().max_compiles().unwrap_or(usize::MAX))
}

/// The plan for the wished element type of inputs and outputs, or for fp16 where that is refused.
pub(super) struct Cut {
    pub(super) plan: TrainPlan,
    pub(super) compiler: Arc<Compiler>,
    pub(super) io: Io,
    pub(super) n_fallbacks: u64,
}

impl Cut {
    pub(super) fn new(config: &Config, built: &Built, device: &Arc<dyn Device>, io: Io) -> Result<Cut> {
        let strategy = config.weights.strategy;
        let with = |io| -> Result<(TrainPlan, Compiler)> {
            let target = Target {
                limits: device.limits(),
                strategy,
                overlap: strategy == Strategy::Baked && config.weights.overlap,
                io,
                config: &config.plan,
                input_gradient: config.train.input_gradient,
            };
            let plan = TrainPlan::new(built, target)?;
            let compiler = Compiler::new(device.clone(), &plan, strategy, io, budget(config, &**device))?;
            Ok((plan, compiler))
        };
        let (io, n_fallbacks, (plan, compiler)) = match with(io) {
            Err(e) if e.is_refused() && io == Io::Fp32 => (Io::Fp16, 1, with(Io::Fp16)?),
            result => (io, 0, result?),
        };
        Ok(Cut { plan, compiler: Arc::new(compiler), io, n_fallbacks })
    }
}
