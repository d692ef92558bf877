//! Data that needs no file.

use super::{Data, Part};
use crate::error::Result;
use anemone_mil::ir::{DType, TensorType};

/// One batch of a sine, whose target is itself: `sin(0.1 (t C + c))` at row `t` and channel `c`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sine {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the target.
    pub outputs: usize,
    /// Rows in a batch.
    pub rows: usize,
}

impl Data for Sine {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.inputs, 1, self.rows])
    }

    fn target(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.outputs, 1, self.rows])
    }

    fn batch(&mut self, _: Part, _: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        for (channels, values) in [(self.inputs, input), (self.outputs, target)] {
            for c in 0..channels {
                for t in 0..self.rows {
                    values[c * self.rows + t] = f64::from((t * channels + c) as f32 * 0.1).sin() as f32;
                }
            }
        }
        Ok(())
    }
}
