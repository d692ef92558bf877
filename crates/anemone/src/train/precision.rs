//! The loss scale of a run, and what became of updates with numbers that are not finite.

use crate::config::{DynamicScale, LossScale, TrainConfig};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where loss scaling stands; part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Precision {
    /// What gradients are multiplied by.
    pub(super) scale: f32,
    /// Updates made since the scale changed.
    n_good: u64,
    /// Updates left out since the last one that was made.
    n_left_out: u64,
}

impl Precision {
    pub(super) fn new(scale: &LossScale) -> Precision {
        let scale = match scale {
            LossScale::Fixed(scale) => *scale,
            LossScale::Dynamic(dynamic) => dynamic.start,
        };
        Precision { scale, n_good: 0, n_left_out: 0 }
    }

    /// An update was made.
    pub(super) fn made(&mut self, scale: &LossScale) {
        self.n_left_out = 0;
        self.n_good += 1;
        if let LossScale::Dynamic(DynamicScale { max, double_after, .. }) = *scale
            && self.n_good >= double_after
        {
            self.scale = (2.0 * self.scale).min(max);
            self.n_good = 0;
        }
    }

    /// An update is left out.
    ///
    /// # Errors
    ///
    /// If it is one too many in a row; nothing has changed then.
    pub(super) fn left_out(&mut self, train: &TrainConfig) -> Result<()> {
        let n = self.n_left_out + 1;
        if train.max_skips > 0 && n > train.max_skips {
            return Err(Error::non_finite(format!(
                "numbers were not finite in {n} updates in a row, with a loss scale of {} at last: lower `train.lr`, \
                 set `train.clip`, or raise `train.max_skips`, {}",
                self.scale, train.max_skips
            )));
        }
        self.n_left_out = n;
        self.n_good = 0;
        if let LossScale::Dynamic(DynamicScale { min, .. }) = train.loss_scale {
            self.scale = (0.5 * self.scale).max(min);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_scale_is_halved_at_once_and_doubled_in_time_within_its_bounds() {
        let loss_scale = LossScale::Dynamic(DynamicScale { start: 8.0, min: 2.0, max: 16.0, double_after: 3 });
        let train = TrainConfig { loss_scale, max_skips: 4, ..TrainConfig::default() };
        let mut p = Precision::new(&train.loss_scale);
        let mut scales = |made: &[bool]| -> Vec<f32> {
            made.iter()
                .map(|&made| {
                    if made {
                        p.made(&train.loss_scale)
                    } else {
                        p.left_out(&train).unwrap()
                    }
                    p.scale
                })
                .collect()
        };
        assert_eq!(scales(&[true, true, false, true, true, true]), [8.0, 8.0, 4.0, 4.0, 4.0, 8.0]);
        assert_eq!(scales(&[true, true, true, true, true, true]), [8.0, 8.0, 16.0, 16.0, 16.0, 16.0]);
        assert_eq!(scales(&[false, false, false, false]), [8.0, 4.0, 2.0, 2.0]);
        let before = p.clone();
        let e = p.left_out(&train).unwrap_err();
        assert!(e.is_non_finite() && e.to_string().contains("5 updates in a row"), "{e}");
        assert_eq!(p, before);
    }

    #[test]
    fn a_fixed_scale_stays() {
        let train = TrainConfig { loss_scale: 8.0.into(), max_skips: 0, ..TrainConfig::default() };
        let mut p = Precision::new(&train.loss_scale);
        for _ in 0..5000 {
            p.made(&train.loss_scale);
            p.left_out(&train).unwrap();
        }
        assert_eq!(p.scale, 8.0);
    }
}
