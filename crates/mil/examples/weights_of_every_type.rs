//! Writes a weights file with a record of every type it can hold, to be compared with what other tools read in it.
//!
//! `cargo run -p anemone-mil --example weights_of_every_type -- weight.bin`

use anemone_mil::ir::DType;
use anemone_mil::tensor::Tensor;
use anemone_mil::weights::{WeightsWriter, code_of};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of the file to write")?;
    let mut writer = WeightsWriter::new();
    for dtype in DType::ALL.into_iter().filter(|&dtype| code_of(dtype).is_some()) {
        // 1 to 67 elements: full and partial bytes, data that ends at a multiple of 64 and data that does not.
        for n_elements in [1, 3, 8, 32, 67] {
            let tensor = if dtype.is_float() {
                Tensor::float(dtype, &[n_elements], (0..n_elements).map(|i| i as f64 * 0.37 - 5.0).collect())
            } else {
                Tensor::int(dtype, &[n_elements], (0..n_elements as i64).map(|i| i * 2_654_435_761).collect())
            };
            writer.add(&tensor)?;
        }
    }
    std::fs::write(path, writer.finish())?;
    Ok(())
}
