//! `anemone run`: a model on inputs from files, its outputs into files.

use crate::args::RunOn;
use crate::{Outcome, args, npy};
use anemone::device::{self, Arithmetic, Options, Select};
use anemone::model_file::ModelFile;
use anemone_mil::ir::{DType, TensorType, Type};
use anemone_mil::valid::ValueInfo;
use anemone_mil::{Interpreter, Limits, Tensor, ValidProgram, validate};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

pub(crate) fn run(args: &args::Run, out: &mut dyn Write) -> Result<Outcome> {
    let model = ModelFile::open(&args.model)?;
    let software = args.device == RunOn::Soft;
    if !software && args.arithmetic != Arithmetic::Ieee {
        bail!("the reference interpreter has no arithmetic `{}`: add `--device soft`", args.arithmetic);
    }
    let options = Options { select: Select::Soft, arithmetic: args.arithmetic, ..Options::default() };
    let device = if software { Some(device::open(&options)?) } else { None };
    let none = Limits::none();
    let program = validate(model.program, device.as_ref().map_or(&none, |d| d.limits()))?;
    let inputs = inputs(&program, &args.inputs)?;
    std::fs::create_dir_all(&args.output).with_context(|| format!("create `{}`", args.output.display()))?;

    let begun = Instant::now();
    let outputs = match &device {
        None => Interpreter::new(&program, &model.weights)?.run(&inputs)?,
        Some(device) => on_device(device.as_ref(), &program, &model.weights, &inputs)?,
    };
    let ran_on = device.map_or("reference interpreter".to_string(), |d| d.name());
    writeln!(out, "{} on {ran_on} in {:.3} s", args.model.display(), begun.elapsed().as_secs_f64())?;

    let main = program.main();
    for (v, tensor) in main.outputs.iter().map(|&v| main.value(v)).zip(&outputs) {
        let path = args.output.join(format!("{}.npy", v.name));
        npy::write(&path, tensor)?;
        let range = range(tensor).map_or(String::new(), |(least, most)| format!("  {least} to {most}"));
        writeln!(out, "  {}  {}{range}  -> {}", v.name, tensor.ty(), path.display())?;
    }
    Ok(Outcome::Clean)
}

/// The least and the greatest number.
fn range(tensor: &Tensor) -> Option<(f64, f64)> {
    let numbers = tensor.to_f64s();
    numbers.iter().copied().zip(numbers.iter().copied()).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// The inputs in the order of the program.
fn inputs(program: &ValidProgram, given: &[(String, std::path::PathBuf)]) -> Result<Vec<Tensor>> {
    let main = program.main();
    // A state is no input: it begins as zeros.
    let declared: Vec<&ValueInfo> =
        main.inputs.iter().map(|&v| main.value(v)).filter(|v| !matches!(v.ty, Type::State(_))).collect();
    let known = || declared.iter().map(|v| format!("`{}` ({})", v.name, v.ty)).collect::<Vec<_>>().join(", ");
    if let Some((name, _)) = given.iter().find(|(name, _)| declared.iter().all(|v| v.name != *name)) {
        bail!("the model has no input `{name}`; its inputs are {}", known());
    }
    let mut tensors = Vec::new();
    for v in &declared {
        let of_it: Vec<&Path> = given.iter().filter(|(n, _)| *n == v.name).map(|(_, p)| p.as_path()).collect();
        let [path] = of_it[..] else {
            bail!("input `{}` is given {} times, expected once; the inputs are {}", v.name, of_it.len(), known());
        };
        let ty = v.ty.as_tensor().ok_or_else(|| anyhow!("input `{}` is {}, expected a tensor", v.name, v.ty))?;
        let tensor = converted(npy::read(path)?, ty.dtype);
        tensors.push(tensor.with_context(|| format!("`{}` for input `{}`", path.display(), v.name))?);
    }
    Ok(tensors)
}

/// The tensor with the element type that is wanted: floating-point numbers are rounded to it, whole numbers must
/// fit.
fn converted(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    let from = tensor.dtype();
    match (tensor.floats(), tensor.ints()) {
        _ if from == dtype => Ok(tensor),
        (Some(x), _) if dtype.is_float() => Ok(Tensor::float(dtype, tensor.shape(), x.to_vec())),
        (_, Some(x)) if let Some(range) = dtype.int_range() => {
            let outside = x.iter().find(|&&x| !(range.0..=range.1).contains(&x.into()));
            ensure!(outside.is_none(), "{} does not fit into {dtype}", outside.unwrap_or(&0));
            Ok(Tensor::int(dtype, tensor.shape(), x.to_vec()))
        }
        _ => bail!("elements of {from}, expected {dtype}: convert them, as by NumPy's `astype`"),
    }
}

fn on_device(
    device: &dyn device::Device,
    program: &ValidProgram,
    weights: &anemone_mil::Weights,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let mut kernel = device.compile(program, weights)?;
    let mut given = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        let mut buffer = kernel.input_buffer(i)?;
        let ty = buffer.ty().clone();
        ensure!(input.ty() == ty, "input {i} has type {}, expected {ty}", input.ty());
        buffer.write(&input.to_f64s().iter().map(|&x| x as f32).collect::<Vec<_>>())?;
        given.push(buffer);
    }
    let n_outputs = kernel.signature().outputs.len();
    let mut results = (0..n_outputs).map(|i| kernel.output_buffer(i)).collect::<anemone::Result<Vec<_>>>()?;
    let given: Vec<&dyn device::Buffer> = given.iter().map(AsRef::as_ref).collect();
    let mut places: Vec<&mut dyn device::Buffer> = results.iter_mut().map(AsMut::as_mut).collect();
    kernel.run(&given, &mut places)?;
    results.iter().map(|buffer| read(buffer.as_ref())).collect()
}

fn read(buffer: &dyn device::Buffer) -> Result<Tensor> {
    let ty: &TensorType = buffer.ty();
    let shape = ty.fixed_shape().ok_or_else(|| anyhow!("an output of type {ty}, expected a known size"))?;
    let mut elements = vec![0.0f32; shape.iter().product()];
    buffer.read(&mut elements)?;
    Ok(Tensor::float(ty.dtype, &shape, elements.into_iter().map(f64::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const MODEL: &str =
        "program(1.3) { func main<ios18>(tensor<fp16, [1, 2, 1, 2]> b, tensor<fp16, [1, 2, 1, 2]> a) {
        tensor<fp16, [1, 2, 1, 2]> y = sub(x = a, y = b)[name = string(\"y\")]; } -> (y); }";

    fn tensor(elements: [f64; 4]) -> Tensor {
        Tensor::float(DType::Fp32, &[1, 2, 1, 2], elements.to_vec())
    }

    #[test]
    fn outputs_are_written_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("m.mil"), MODEL).unwrap();
        npy::write(&path("a.npy"), &tensor([1.0, 2.0, 3.0, 4.0])).unwrap();
        npy::write(&path("b.npy"), &tensor([0.5, 0.5, 0.5, 8.0])).unwrap();
        let given = |names: &[&str]| -> Vec<(String, PathBuf)> {
            names.iter().map(|n| (n.to_string(), path(&format!("{n}.npy")))).collect()
        };
        let args = |inputs, device| {
            let arithmetic = Arithmetic::Ieee;
            args::Run { model: path("m.mil"), inputs, output: path("out"), device, arithmetic }
        };
        let mut said = Vec::new();
        run(&args(given(&["a", "b"]), RunOn::Reference), &mut said).unwrap();
        let y = npy::read(&path("out/y.npy")).unwrap();
        assert_eq!(y, Tensor::float(DType::Fp16, &[1, 2, 1, 2], vec![0.5, 1.5, 2.5, -4.0]));
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("  y  fp16 [1, 2, 1, 2]  -4 to 2.5  -> "), "{said}");

        std::fs::remove_file(path("out/y.npy")).unwrap();
        run(&args(given(&["a", "b"]), RunOn::Soft), &mut Vec::new()).unwrap();
        assert_eq!(npy::read(&path("out/y.npy")).unwrap(), y);

        let engine = |device| args::Run { arithmetic: Arithmetic::Engine, ..args(given(&["a", "b"]), device) };
        npy::write(&path("b.npy"), &tensor([-2048.0, 0.5, 0.5, 8.0])).unwrap();
        for (args, expected) in [(args(given(&["a", "b"]), RunOn::Soft), 2048.0), (engine(RunOn::Soft), 2050.0)] {
            run(&args, &mut Vec::new()).unwrap();
            assert_eq!(npy::read(&path("out/y.npy")).unwrap().to_f64s()[0], expected);
        }
        let e = run(&engine(RunOn::Reference), &mut Vec::new()).unwrap_err().to_string();
        assert!(e.contains("arithmetic `engine`") && e.contains("--device soft"), "{e}");
        npy::write(&path("b.npy"), &tensor([0.5, 0.5, 0.5, 8.0])).unwrap();

        for (names, what) in [
            (&["a"][..], "input `b` is given 0 times, expected once"),
            (&["a", "b", "c"], "the model has no input `c`; its inputs are `b` (fp16 [1, 2, 1, 2]), `a`"),
            (&["a", "b", "a"], "input `a` is given 2 times"),
        ] {
            let e = format!("{:#}", run(&args(given(names), RunOn::Reference), &mut Vec::new()).unwrap_err());
            assert!(e.contains(what), "{e}");
        }
    }

    #[test]
    fn whole_numbers_are_converted_where_they_fit() {
        let int = |x| Tensor::int(DType::Int64, &[1], vec![x]);
        assert_eq!(converted(int(-7), DType::Int32).unwrap(), Tensor::int(DType::Int32, &[1], vec![-7]));
        assert_eq!(
            converted(int(1 << 40), DType::Int32).unwrap_err().to_string(),
            "1099511627776 does not fit into int32"
        );
        let e = converted(int(1), DType::Fp16).unwrap_err().to_string();
        assert!(e.starts_with("elements of int64, expected fp16: "), "{e}");
    }
}
