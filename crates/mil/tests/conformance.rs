//! The interpreter against the op tests of coremltools, whose expected values come from numpy and PyTorch.
//!
//! The cases are not part of the project. `ANEMONE_SHARED` names the folder that has them; without it this test says
//! so and checks nothing.
#![allow(clippy::print_stderr)]

use anemone_mil::ir::{DType, Program, TensorType, Type};
use anemone_mil::{Interpreter, Limits, Tensor, Weights, text, validate};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::Path;

/// Cases whose expected values are no rule of the op, by the op and a part of the id, with the reason.
const NOT_COMPARED: &[(&str, &str, &str)] = &[
    (
        "crop_resize",
        "precision='fp32', opset_version=<AvailableTarget.iOS16: 7>)-pad_value",
        "7.9 is expected as 7.899, within the tolerance of fp16 but not of fp32",
    ),
    (
        "crop_resize",
        "precision='fp32', opset_version=<AvailableTarget.iOS17: 8>)-N=3",
        "7.9 is expected as 7.899, within the tolerance of fp16 but not of fp32",
    ),
];

/// Programs that are wrong and must be refused, in the same form.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "batch_norm",
        "precision='fp32', opset_version=<AvailableTarget.iOS15: 6>)-x_param_dtype=(<class 'numpy.float16'>",
        "the input was made fp32 after the fact, mean and output are still fp16",
    ),
    (
        "fill",
        "TestFill::test_builder_to_backend_symbolic",
        "not even the rank of the output is known, which was declared as a vector for want of a word for it",
    ),
];

/// Programs that are right and must fail when they are run, in the same form.
const FAILING: &[(&str, &str, &str)] = &[
    ("scatter", "validate_indices=True-dynamic=True", "indices are to be validated and are out of range"),
    ("scatter_along_axis", "invalid_indices", "indices are to be validated and are out of range"),
    ("scatter_nd", "invalid_indices", "indices are to be validated and are out of range"),
];

#[test]
fn op_tests_give_what_they_expect() {
    let Some(root) = std::env::var_os("ANEMONE_SHARED") else {
        eprintln!("skipped: ANEMONE_SHARED does not name a folder with `conformance`");
        return;
    };
    let path = Path::new(&root).join("conformance/op_tests.jsonl");
    let cases = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut n_passed, mut failures) = (0, Vec::new());
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (id, source) = (case["id"].as_str().unwrap(), case["mil"].as_str().unwrap());
        let program = text::parse(source).unwrap_or_else(|e| panic!("{id}: {e}"));
        match check(&case, program) {
            Ok(()) => n_passed += 1,
            Err(e) => failures.push(format!("{id}\n    {e}")),
        }
    }
    assert!(failures.is_empty(), "{n_passed} passed, {} failed\n{}", failures.len(), failures.join("\n"));
    assert!(n_passed >= 1248, "{n_passed} cases");
}

fn check(case: &Value, program: Program) -> Result<(), String> {
    let (id, source) = (case["id"].as_str().unwrap(), case["mil"].as_str().unwrap());
    let listed = |list: &[(&str, &str, &str)]| {
        list.iter().any(|(op, part, _)| source.contains(&format!("= {op}(")) && id.contains(part))
    };
    let program = validate(program, &Limits::none());
    if listed(REFUSED) {
        return program.map_or(Ok(()), |_| Err("was accepted".into()));
    }
    let program =
        program.map_err(|e| e.diagnostics().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let mut weights = Weights::new();
    if let Some(bytes) = case["weight_b64"].as_str() {
        weights.insert("@model_path/weights/weight.bin", STANDARD.decode(bytes).unwrap()).unwrap();
    }
    let f = program.main();
    let inputs: Vec<Tensor> = f
        .inputs
        .iter()
        .filter_map(|&v| match &f.value(v).ty {
            Type::Tensor(ty) => Some(input(&case["inputs"][&f.value(v).name], ty)),
            _ => None,
        })
        .collect();
    let outputs = Interpreter::new(&program, &weights).and_then(|mut i| i.run(&inputs));
    if listed(FAILING) {
        return outputs.map_or(Ok(()), |_| Err("ran".into()));
    }
    let outputs = outputs.map_err(|e| e.to_string())?;
    if listed(NOT_COMPARED) {
        return Ok(());
    }
    let (atol, rtol) = match source.contains("fp16") {
        true => (4e-3, 4e-3),
        false => (case["atol"].as_f64().unwrap(), case["rtol"].as_f64().unwrap()),
    };
    for (&v, found) in f.outputs.iter().zip(&outputs) {
        let name = &f.value(v).name;
        let expected = &case["outputs"][name];
        if expected.is_null() {
            continue;
        }
        let (shape, expected) = numbers(expected);
        if found.shape() != shape {
            return Err(format!("`{name}` has shape {:?}, expected {shape:?}", found.shape()));
        }
        for (i, (a, b)) in found.to_f64s().into_iter().zip(expected).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
            if !same {
                return Err(format!("`{name}` element {i} is {a}, expected {b}"));
            }
        }
    }
    Ok(())
}

/// An input as it is declared. Scalars are given for vectors of one element.
fn input(v: &Value, ty: &TensorType) -> Tensor {
    let (given, elements) = numbers(v);
    let shape = ty.fixed_shape().filter(|_| ty.n_elements() == Some(elements.len())).unwrap_or(given);
    match ty.dtype.is_float() {
        true => Tensor::float(ty.dtype, &shape, elements),
        false => Tensor::int(ty.dtype, &shape, elements.into_iter().map(|x| x as i64).collect()),
    }
}

/// Shape and elements of an array of numpy's.
fn numbers(v: &Value) -> (Vec<usize>, Vec<f64>) {
    let shape: Vec<usize> = v["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let dtype = match v["dtype"].as_str().unwrap() {
        "float16" => DType::Fp16,
        "float32" => DType::Fp32,
        "float64" => DType::Fp64,
        other => DType::from_name(other).unwrap(),
    };
    let bytes = STANDARD.decode(v["b64"].as_str().unwrap()).unwrap();
    (shape.clone(), Tensor::from_bytes(dtype, &shape, &bytes).unwrap().to_f64s())
}
