//! What a run would take on the engine of the chip whose rules its device follows.

use super::Trainer;
use super::compiling::Cut;
use crate::clock::{Clock, Comparison, Counts, Estimate};
use crate::config::{Config, Strategy};
use crate::error::Result;
use anemone_mil::limits::Chip;

impl Trainer {
    /// The estimate for the run so far, by what it has done.
    pub fn estimate(&self) -> Estimate {
        let stats = &self.state.stats;
        let counts = Counts {
            steps: self.state.step,
            updates: self.state.update,
            compiles: self.n_compiles(),
            processes: 1 + stats.resumed_at.len() as u64,
            restarts: stats.restarted_at.len() as u64,
        };
        Estimate::new(self.chip(), self.plan(), self.overlaps(), self.config.train.accumulate, counts)
    }

    /// The estimates for the whole run under each strategy, with plans made for it.
    pub fn estimates(&self) -> Comparison {
        let mut comparison = Comparison { estimates: Vec::new(), impossible: Vec::new() };
        let strategies = [
            ("baked", Strategy::Baked, false),
            ("baked, overlap", Strategy::Baked, true),
            ("operand", Strategy::Operand, false),
        ];
        for (name, strategy, overlap) in strategies {
            let mut weights = self.config.weights.clone();
            (weights.strategy, weights.overlap) = (strategy, overlap);
            let config = Config { weights, ..self.config.clone() };
            let estimate = || -> Result<Estimate> {
                let cut = Cut::new(&config, &self.built, &self.device, config.weights.io)?;
                let n_programs = cut.compiler.n_programs();
                self.check_budget_for(n_programs, overlap)?;
                let counts =
                    Counts::planned(&config.train, &config.weights, n_programs as u64, self.budget() as u64);
                let (plan, accumulate) = (cut.plan.description(), config.train.accumulate);
                Ok(Estimate::new(self.chip(), plan, overlap, accumulate, counts))
            };
            match estimate() {
                Ok(estimate) => comparison.estimates.push(estimate),
                Err(e) => comparison.impossible.push((name.into(), e.to_string())),
            }
        }
        comparison
    }

    /// The clock of the device's chip.
    fn chip(&self) -> Clock {
        let of_device = Chip::from_name(self.device.limits().name());
        Clock::new(of_device.or(Chip::from_name(&self.config.device.chip)).unwrap_or(Chip::M4))
    }
}
