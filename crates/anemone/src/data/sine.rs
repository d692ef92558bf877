//! Data that needs no file.

use super::{Data, Part, check_size};
use crate::error::Result;
use anemone_mil::ir::{DType, TensorType};

/// One batch of a sine, whose target is itself: `sin(0.1 (t C + c))` at row `t` and channel `c`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sine {
    inputs: usize,
    outputs: usize,
    rows: usize,
    /// Input and target, once somebody has asked for them.
    values: Option<[Vec<f32>; 2]>,
}

impl Sine {
    /// A batch of `rows` rows with so many channels of the input and of the target.
    ///
    /// # Errors
    ///
    /// If there is nothing in it, or too much.
    pub fn new(inputs: usize, outputs: usize, rows: usize) -> Result<Sine> {
        [inputs, outputs].iter().try_for_each(|&channels| check_size(rows, channels))?;
        Ok(Sine { inputs, outputs, rows, values: None })
    }
}

impl Data for Sine {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.inputs, 1, self.rows])
    }

    fn target(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, self.outputs, 1, self.rows])
    }

    fn batch(&mut self, _: Part, _: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        let rows = self.rows;
        let values = self.values.get_or_insert_with(|| {
            [self.inputs, self.outputs].map(|channels| {
                let value = |i: usize| f64::from((i % rows * channels + i / rows) as f32 * 0.1).sin() as f32;
                (0..channels * rows).map(value).collect()
            })
        });
        input.copy_from_slice(&values[0]);
        target.copy_from_slice(&values[1]);
        Ok(())
    }
}
