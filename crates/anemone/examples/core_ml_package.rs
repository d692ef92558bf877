//! A model as Core ML keeps it, run on the software engine: the `.mlpackage`, `.mlmodelc` or `.mil` named as
//! argument, or a small one that is written here.
#![allow(clippy::print_stdout)] // An example shows what it does.

use anemone::device::{self, Buffer, Options};
use anemone::mil::weights::WeightsWriter;
use anemone::mil::{Tensor, ir::DType, validate};
use anemone::model_file::ModelFile;
use std::{error::Error, path::Path};

/// Two channels to one on 32 columns, then a relu, no argument left out; `{offset}` is where the weights lie.
const MIL: &str = r#"program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 2, 1, 32]> x) {
        tensor<fp16, [1, 2, 1, 1]> w = const()[name = string("w"), val = tensor<fp16, [1, 2, 1, 1]>(
            BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64({offset})))];
        tensor<fp16, [1, 1, 1, 32]> h = conv(x = x, weight = w, strides = tensor<int32, [2]>([1, 1]), pad_type =
            string("valid"), pad = tensor<int32, [4]>([0, 0, 0, 0]), dilations = tensor<int32, [2]>([1, 1]), groups =
            int32(1))[name = string("h")];
        tensor<fp16, [1, 1, 1, 32]> y = relu(x = h)[name = string("y")];
    } -> (y);
}"#;

/// Writes the model as a folder, the way Apple's compiler leaves it.
fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut weights = WeightsWriter::new();
    let offset = weights.add(&Tensor::float(DType::Fp16, &[1, 2, 1, 1], vec![1.0, -0.5]))?;
    std::fs::create_dir_all(folder.join("weights"))?;
    std::fs::write(folder.join("weights/weight.bin"), weights.finish())?;
    Ok(std::fs::write(folder.join("model.mil"), MIL.replace("{offset}", &offset.to_string()))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    write(scratch.path())?;
    let model = ModelFile::open(std::env::args().nth(1).map_or(scratch.path().join("model.mil"), Into::into))?;
    let device = device::open(&Options::default())?;
    let program = validate(model.program, device.limits())?;
    let mut kernel = device.compile(&program, &model.weights)?;
    let signature = kernel.signature().clone();
    let mut inputs = Vec::new();
    for (i, (name, ty)) in signature.inputs.iter().enumerate() {
        let mut buffer = kernel.input_buffer(i)?;
        let n = ty.n_elements().ok_or("an input of unknown size")?;
        buffer.write(&(0..n).map(|k| (k as f32 * 0.1).sin()).collect::<Vec<_>>())?;
        println!("{name}: {ty}, a sine");
        inputs.push(buffer);
    }
    let n_outputs = signature.outputs.len();
    let mut outputs = (0..n_outputs).map(|i| kernel.output_buffer(i)).collect::<Result<Vec<_>, _>>()?;
    let given: Vec<&dyn Buffer> = inputs.iter().map(AsRef::as_ref).collect();
    kernel.run(&given, &mut outputs.iter_mut().map(AsMut::as_mut).collect::<Vec<_>>())?;
    for ((name, ty), buffer) in signature.outputs.iter().zip(&outputs) {
        let mut elements = vec![0.0; ty.n_elements().ok_or("an output of unknown size")?];
        buffer.read(&mut elements)?;
        println!("{name}: {ty}, begins with {:.4?}", &elements[..elements.len().min(8)]);
    }
    Ok(())
}
