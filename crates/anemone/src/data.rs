//! Where batches come from.

use serde::{Deserialize, Serialize};

/// A source of batches. The batch of an index is always the same, so a position is a number and resuming is exact.
pub trait Data: Send {
    /// The shape of an input batch, `[1, C, 1, S]`.
    fn input_shape(&self) -> Vec<usize>;

    /// The shape of a target batch.
    fn target_shape(&self) -> Vec<usize>;

    /// Writes the batch of that index.
    fn batch(&self, index: u64, input: &mut [f32], target: &mut [f32]);
}

/// One batch of a sine, whose target is itself: `sin(0.1 (t C + c))` at row `t` and channel `c`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sine {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the target.
    pub outputs: usize,
    /// Rows in a batch.
    pub rows: usize,
}

impl Data for Sine {
    fn input_shape(&self) -> Vec<usize> {
        vec![1, self.inputs, 1, self.rows]
    }

    fn target_shape(&self) -> Vec<usize> {
        vec![1, self.outputs, 1, self.rows]
    }

    fn batch(&self, _: u64, input: &mut [f32], target: &mut [f32]) {
        for (channels, values) in [(self.inputs, input), (self.outputs, target)] {
            for c in 0..channels {
                for t in 0..self.rows {
                    values[c * self.rows + t] = f64::from((t * channels + c) as f32 * 0.1).sin() as f32;
                }
            }
        }
    }
}
