//! Programs before and after: names, types, what computes the same, and what is refused.

use super::*;
use anemone_mil::ir::BlobRef;
use anemone_mil::tensor::Tensor;
use anemone_mil::{Builder, Chip, Interpreter};

const USUAL: Form = Form { fp16_io: true, pad: true, packed: false };

fn shaped(build: impl FnOnce(&mut Builder) -> Vec<anemone_mil::builder::Value>) -> Result<(ValidProgram, Shaped)> {
    let mut b = Builder::new(Version::V1_0);
    let outputs = build(&mut b);
    let program = validate(b.finish(&outputs).unwrap(), &Limits::none()).unwrap();
    let shaped = Shaped::new(&program, &Weights::new(), USUAL)?;
    Ok((program, shaped))
}

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

/// Runs a program on a wave, with what the host does for the shaped one: rounding, padding, packing, cutting.
fn run(program: &ValidProgram, weights: &Weights, ports: Option<&Shaped>) -> Vec<Vec<f64>> {
    let f = program.main();
    let of = |id: &anemone_mil::valid::ValueId| f.value(*id).ty.as_tensor().unwrap().clone();
    let types: Vec<(TensorType, TensorType)> = match ports {
        Some(shaped) => shaped.inputs.iter().map(|p| (p.host.clone(), p.engine.clone())).collect(),
        None => f.inputs.iter().map(|id| (of(id), of(id))).collect(),
    };
    let mut inputs = Vec::new();
    for (i, (host, engine)) in types.iter().enumerate() {
        let (shape, wide) = (host.fixed_shape().unwrap(), engine.fixed_shape().unwrap());
        let (width, stride) = (shape[shape.len() - 1], wide[wide.len() - 1]);
        // NaN in the padding: were a column read that should not be, it would show.
        let mut elements = vec![f64::NAN; engine.n_elements().unwrap()];
        for k in 0..host.n_elements().unwrap() {
            elements[k / width * stride + k % width] = (k as f64 * 0.37 + i as f64).sin();
        }
        inputs.push(Tensor::float(engine.dtype, &wide, elements));
    }
    if let Some(packing) = ports.and_then(|s| s.packing.as_ref()) {
        inputs = vec![packed(packing, &inputs)];
    }
    let outputs = Interpreter::new(program, weights).unwrap().run(&inputs).unwrap();
    let cut = |(i, t): (usize, &Tensor)| {
        let stride = *t.shape().last().unwrap();
        let width = ports.map_or(stride, |s| *s.outputs[i].host.fixed_shape().unwrap().last().unwrap());
        t.floats().unwrap().chunks(stride).flat_map(|row| row[..width].to_vec()).collect()
    };
    outputs.iter().enumerate().map(cut).collect()
}

/// Lays inputs side by side, with NaN where none is.
fn packed(packing: &Packing, inputs: &[Tensor]) -> Tensor {
    let shape = packing.port.engine.fixed_shape().unwrap();
    let mut all = vec![f64::NAN; shape.iter().product()];
    for (x, column) in inputs.iter().zip(&packing.columns) {
        for (row, elements) in x.floats().unwrap().chunks(*x.shape().last().unwrap()).enumerate() {
            let at = row * shape[3] + column;
            all[at..at + elements.len()].copy_from_slice(elements);
        }
    }
    Tensor::float(packing.port.engine.dtype, &shape, all)
}

/// Whether the shaped program computes what the program does, on both rungs of the ladder of versions.
fn assert_same(program: &ValidProgram, weights: &Weights, shaped: &Shaped) {
    let expected = run(program, weights, None);
    let mut own = Weights::new();
    if let Some(file) = &shaped.weights {
        own.insert(WEIGHTS_PATH, file.clone()).unwrap();
    }
    for version in [Version::V1_0, Version::V1_3] {
        let again = validate(text::parse(&shaped.text(version).unwrap()).unwrap(), &Limits::none()).unwrap();
        assert_eq!(run(&again, &own, Some(shaped)), expected);
    }
}

#[test]
fn inputs_and_outputs_are_fp16_sorted_and_padded() {
    let (program, shaped) = shaped(|b| {
        let x = b.input("x", ty(DType::Fp32, &[1, 4, 1, 5])).unwrap();
        let a = b.input("a", ty(DType::Fp16, &[1, 4, 1, 5])).unwrap();
        let x16 = b.cast(x, DType::Fp16).unwrap();
        let sum = b.add(x16, a).unwrap();
        let y = b.cast(sum, DType::Fp32).unwrap();
        let z = b.relu(a).unwrap();
        vec![y, z]
    })
    .unwrap();
    let text = shaped.text(Version::V1_3).unwrap();
    assert!(text.contains("func main<ios18>(") && !text.contains("cast(") && !text.contains("fp32"), "{text}");
    assert!(shaped.text(Version::V1_0).unwrap().contains("func main<ios16>("));
    let symbols = |ports: &[Port]| ports.iter().map(|p| p.symbol.clone()).collect::<Vec<_>>();
    assert_eq!(symbols(&shaped.inputs), ["i000", "i001"]);
    assert_eq!(symbols(&shaped.outputs), ["o000", "o001"]);
    assert_eq!(shaped.inputs[0].name, "x");
    assert_eq!(shaped.inputs[0].host, ty(DType::Fp32, &[1, 4, 1, 5]));
    assert_eq!(shaped.inputs[0].engine, ty(DType::Fp16, &[1, 4, 1, 32]));
    assert!(!shaped.has_fp32_io());
    assert_same(&program, &Weights::new(), &shaped);
}

#[test]
fn casts_that_are_more_than_a_boundary_stay() {
    let (program, shaped) = shaped(|b| {
        let x = b.input("x", ty(DType::Fp32, &[1, 32])).unwrap();
        let x16 = b.cast(x, DType::Fp16).unwrap();
        // The input is also used as it is, and the output also inside.
        let y = b.relu(x).unwrap();
        let z = b.relu(x16).unwrap();
        let w = b.cast(z, DType::Fp32).unwrap();
        let v = b.add(w, y).unwrap();
        vec![w, v]
    })
    .unwrap();
    assert!(shaped.has_fp32_io());
    assert_same(&program, &Weights::new(), &shaped);
}

#[test]
fn a_matrix_product_pads_the_columns_that_are_free() {
    let (program, shaped) = shaped(|b| {
        let w = b.input("w", ty(DType::Fp16, &[1, 1, 8, 64])).unwrap();
        let x = b.input("x", ty(DType::Fp16, &[1, 64, 1, 16])).unwrap();
        let columns = b.reshape(x, &[1, 1, 64, 16]).unwrap();
        let product = b.matmul(w, columns, false, false).unwrap();
        vec![b.reshape(product, &[1, 8, 1, 16]).unwrap()]
    })
    .unwrap();
    assert_eq!(shaped.inputs[0].engine, shaped.inputs[0].host, "weights are no columns");
    assert_eq!(shaped.inputs[1].engine, ty(DType::Fp16, &[1, 64, 1, 32]));
    assert_eq!(shaped.outputs[0].engine, ty(DType::Fp16, &[1, 8, 1, 32]));
    assert_same(&program, &Weights::new(), &shaped);
}

#[test]
fn programs_that_mix_columns_are_refused() {
    type Build = fn(&mut Builder) -> Vec<anemone_mil::builder::Value>;
    let cases: [(&str, Build); 6] = [
        ("reduce_sum", |b| {
            let x = b.input("x", ty(DType::Fp16, &[4, 6])).unwrap();
            vec![b.reduce_sum(x, &[1], true).unwrap()]
        }),
        // Square, so that shapes alone do not tell.
        ("matmul", |b| {
            let x = b.input("x", ty(DType::Fp16, &[6, 6])).unwrap();
            vec![b.matmul(x, x, false, false).unwrap()]
        }),
        ("transpose", |b| {
            let x = b.input("x", ty(DType::Fp16, &[6, 6])).unwrap();
            vec![b.transpose(x, &[1, 0]).unwrap()]
        }),
        ("reshape", |b| {
            let x = b.input("x", ty(DType::Fp16, &[4, 6])).unwrap();
            vec![b.reshape(x, &[6, 4]).unwrap()]
        }),
        // A constant of as many columns would have to be padded too.
        ("add", |b| {
            let x = b.input("x", ty(DType::Fp16, &[4, 6])).unwrap();
            let c = b.constant(Tensor::float(DType::Fp16, &[6], vec![1.0; 6]));
            vec![b.add(x, c).unwrap()]
        }),
        ("another input", |b| {
            let x = b.input("x", ty(DType::Fp16, &[1, 6])).unwrap();
            let z = b.input("z", ty(DType::Fp16, &[6, 1])).unwrap();
            vec![b.add(x, z).unwrap()]
        }),
    ];
    for (word, build) in cases {
        let e = shaped(build).err().unwrap_or_else(|| panic!("{word} is padded"));
        assert!(e.is_refused() && e.to_string().contains(word), "{word}: {e:?}");
    }
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let result = shaped(|b| {
        let x = b.input("x", ty(DType::Fp16, &[1, 32])).unwrap();
        vec![b.relu(x).unwrap(), x]
    });
    let e = result.err().unwrap();
    assert!(e.is_refused() && e.to_string().contains("output `x` is an input"), "{e:?}");
}

#[test]
fn several_weights_files_become_one() {
    let mut weights = Weights::new();
    let mut b = Builder::new(Version::V1_0);
    let x = b.input("x", ty(DType::Fp16, &[1, 2, 1, 32])).unwrap();
    let mut y = x;
    for name in ["first", "second"] {
        let mut writer = WeightsWriter::new();
        writer.add_f32_as(DType::Fp16, &[9.0; 7]).unwrap();
        let elements: Vec<f32> = (0..4).map(|i| i as f32 + name.len() as f32).collect();
        let offset = writer.add_f32_as(DType::Fp16, &elements).unwrap();
        let path = format!("@model_path/weights/{name}.bin");
        weights.insert(path.clone(), writer.finish()).unwrap();
        let w = b.blob(name, ty(DType::Fp16, &[2, 2, 1, 1]), BlobRef { path, offset });
        y = b.pointwise(y, w).unwrap();
    }
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let shaped = Shaped::new(&program, &weights, USUAL).unwrap();
    let text = shaped.text(Version::V1_0).unwrap();
    assert_eq!(text.matches(WEIGHTS_PATH).count(), 2, "{text}");
    assert!(!text.contains("first.bin"), "{text}");
    assert_same(&program, &weights, &shaped);
    let missing = Shaped::new(&program, &Weights::new(), USUAL).unwrap_err();
    assert!(missing.to_string().contains("first.bin"), "{missing}");
}

#[test]
fn many_names_keep_their_order() {
    let mut b = Builder::new(Version::V1_0);
    let inputs: Vec<_> =
        (0..1001).map(|i| b.input(&format!("x{i}"), ty(DType::Fp16, &[1, 32])).unwrap()).collect();
    let y = inputs[1..].iter().fold(inputs[0], |sum, &x| b.add(sum, x).unwrap());
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let shaped = Shaped::new(&program, &Weights::new(), USUAL).unwrap();
    let symbols: Vec<&str> = shaped.inputs.iter().map(|p| p.symbol.as_str()).collect();
    assert!(symbols.is_sorted(), "{symbols:?}");
    assert_eq!(symbols[1000], "i1000");
}

const PACKED: Form = Form { packed: true, ..USUAL };

fn product(n_in: usize, n_out: usize, width: usize, io: DType) -> ValidProgram {
    let mut b = Builder::new(Version::V1_0);
    let w = b.input("w", ty(DType::Fp16, &[1, 1, n_out, n_in])).unwrap();
    let x = b.input("x", ty(io, &[1, n_in, 1, width])).unwrap();
    let x16 = if io == DType::Fp32 { b.cast(x, DType::Fp16).unwrap() } else { x };
    let columns = b.reshape(x16, &[1, 1, n_in, width]).unwrap();
    let y = b.matmul(w, columns, false, false).unwrap();
    let mut outputs = vec![b.reshape(y, &[1, n_out, 1, width]).unwrap()];
    if io == DType::Fp32 {
        // So that the cast is more than a boundary, and stays.
        outputs.push(b.relu(x).unwrap());
    }
    validate(b.finish(&outputs).unwrap(), &Limits::none()).unwrap()
}

#[test]
fn several_inputs_lie_side_by_side_in_one() {
    let program = product(64, 128, 16, DType::Fp16);
    let shaped = Shaped::new(&program, &Weights::new(), PACKED).unwrap();
    let packing = shaped.packing.as_ref().unwrap();
    assert_eq!(packing.port.engine, ty(DType::Fp16, &[1, 128, 1, 64 + 32]));
    assert_eq!((&packing.columns[..], packing.port.symbol.as_str()), (&[0, 64][..], "i000"));
    let hosts: Vec<_> = shaped.inputs.iter().map(|p| (p.name.as_str(), p.host.fixed_shape().unwrap())).collect();
    assert_eq!(hosts, [("w", vec![1, 1, 128, 64]), ("x", vec![1, 64, 1, 16])]);
    let text = shaped.text(Version::V1_3).unwrap();
    assert!(text.contains("tensor<fp16, [1, 128, 1, 96]> i000)") && !text.contains("i001"), "{text}");
    assert_same(&program, &Weights::new(), &shaped);

    let (program, _) = shaped_of_one_input();
    let single = Shaped::new(&program, &Weights::new(), PACKED).unwrap();
    assert!(single.packing.is_none(), "there is nothing to pack");
    assert_same(&program, &Weights::new(), &single);
}

fn shaped_of_one_input() -> (ValidProgram, Shaped) {
    shaped(|b| {
        let x = b.input("x", ty(DType::Fp16, &[1, 32])).unwrap();
        vec![b.relu(x).unwrap()]
    })
    .unwrap()
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let e = Shaped::new(&product(64, 32, 64, DType::Fp32), &Weights::new(), PACKED).unwrap_err();
    assert!(e.is_refused() && e.to_string().contains("`x` is fp32 [1, 64, 1, 64], `w` is fp16"), "{e:?}");
    // The second input begins at 4096 of the width, where an M1 begins at 4094.
    let shaped = Shaped::new(&product(4096, 32, 64, DType::Fp16), &Weights::new(), PACKED).unwrap();
    shaped.check_packing(&Limits::of(Chip::M4)).unwrap();
    let e = shaped.check_packing(&Limits::of(Chip::M1)).unwrap_err();
    assert!(e.is_refused() && e.to_string().contains("slice-start"), "{e:?}");
    assert!(e.to_string().contains("inputs packed into one"), "{e}");
}
