//! When kernels are compiled or given new weights, and whether the budget of compiles allows it.

use super::Trainer;
use super::kernels::{Background, Compiler, LayerWeights};
use super::plan::TrainPlan;
use crate::config::{Config, Io, Strategy};
use crate::device::Device;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

impl Trainer {
    /// Sees to kernels for the next batch, unless training is over.
    pub(super) fn renew_kernels(&mut self, over: bool) -> Result<()> {
        let was_stale = std::mem::take(&mut self.batch.stale);
        if let Some((background, update)) = self.background.take() {
            self.swap(background);
            self.batch.kernel_update = update;
        } else if !over && self.config.weights.strategy == Strategy::Operand {
            self.prepare()?;
            let weights = self.layer_weights();
            if let Some(kernels) = &mut self.kernels {
                kernels.write_weights(&weights)?;
            }
            self.batch.kernel_update = self.state.update;
        } else if !over && self.overlaps() && !was_stale && self.kernels.is_some() {
            self.prepare()?;
            match self.compiler.compile_in_background(self.layer_weights()) {
                Ok(background) => {
                    self.background = Some((background, self.state.update));
                    self.batch.stale = true;
                }
                Err(_) => {
                    self.state.stats.n_background_failures += 1;
                    self.kernels = None;
                }
            }
        } else if !over {
            self.kernels = None;
        }
        Ok(())
    }

    /// Takes the kernels compiled meanwhile, which lack the update that was made meanwhile.
    fn swap(&mut self, background: Background) {
        let start = Instant::now();
        let result = background.finish();
        let waited_s = start.elapsed().as_secs_f64();
        self.state.stats.compile_wait_s += waited_s;
        let (result, stats) = result;
        let busy_s = stats.busy.as_secs_f64();
        self.state.stats.compile_busy_s += busy_s;
        self.state.stats.compile_hidden_s += (busy_s - waited_s).max(0.0);
        self.state.stats.n_retries += stats.n_retries;
        match result {
            Ok(kernels) => self.kernels = Some(kernels),
            Err(_) => {
                // The next step compiles in the foreground, and says what is wrong if it still is.
                self.state.stats.n_background_failures += 1;
                self.kernels = None;
            }
        }
    }

    /// Computes what the device's weights are made of from the parameters.
    fn prepare(&mut self) -> Result<()> {
        for (&id, p) in self.plan.params.iter().zip(&self.params) {
            self.environment.get_mut(id).copy_from_slice(p);
        }
        self.plan.preparation.run(&mut self.environment)
    }

    fn layer_weights(&self) -> LayerWeights {
        self.plan.layers().map(|l| self.environment.get(l.weight).to_vec()).collect()
    }

    pub(super) fn compile_now(&mut self) -> Result<()> {
        self.prepare()?;
        let start = Instant::now();
        let (result, stats) = self.compiler.compile(&self.layer_weights());
        self.state.stats.compile_wait_s += start.elapsed().as_secs_f64();
        self.state.stats.compile_busy_s += stats.busy.as_secs_f64();
        self.state.stats.n_retries += stats.n_retries;
        self.kernels = Some(result?);
        self.batch.kernel_update = self.state.update;
        Ok(())
    }

    /// The most compiles this process uses.
    fn budget(&self) -> usize {
        let own = match self.config.weights.compile_budget {
            0 => usize::MAX,
            n => n,
        };
        own.min(self.device.limits().max_compiles().unwrap_or(usize::MAX))
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
        let n = self.compiler.n_programs();
        let needed = if self.overlaps() { 2 * n } else { n };
        if self.budget() >= needed {
            return Ok(());
        }
        Err(Error::config(format!(
            "a budget of {} compiles a process is too small: one update takes {needed} ({n} programs{}); raise \
             `weights.compile_budget` or use the strategy `operand`",
            self.budget(),
            if self.overlaps() { ", twice with overlap" } else { "" }
        )))
    }
}

/// The compiler for the wished element type of inputs and outputs, or for fp16 where that is refused.
pub(super) fn compiler(
    config: &Config,
    device: &Arc<dyn Device>,
    plan: &TrainPlan,
    io: Io,
) -> Result<(Arc<Compiler>, Io, u64)> {
    let strategy = config.weights.strategy;
    match Compiler::new(device.clone(), plan, strategy, io) {
        Err(e) if e.is_refused() && io == Io::Fp32 => {
            Ok((Arc::new(Compiler::new(device.clone(), plan, strategy, Io::Fp16)?), Io::Fp16, 1))
        }
        result => Ok((Arc::new(result?), io, 0)),
    }
}
