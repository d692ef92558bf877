//! Whole models, read from their files and run by the reference interpreter, agree with what PyTorch and ONNX
//! Runtime computed.
//!
//! The models are not part of the project. `ANEMONE_SHARED` names the folder that has them; without it these tests
//! say so and check nothing.
#![allow(clippy::print_stderr)]

use anemone::model_file::ModelFile;
use anemone_mil::ir::{DType, Program};
use anemone_mil::{Interpreter, Limits, Tensor, ValidProgram, validate};
use npyz::{NpyFile, TypeChar};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder or file of that name among the shared data.
fn shared(name: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("ANEMONE_SHARED") else {
        eprintln!("skipped: ANEMONE_SHARED does not name a folder with `{name}`");
        return None;
    };
    let path = Path::new(&root).join(name);
    assert!(path.exists(), "ANEMONE_SHARED has no `{name}`");
    Some(path)
}

/// The arrays of an `.npz` by name.
fn read_npz(path: &Path) -> BTreeMap<String, Tensor> {
    let mut zip = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    let mut arrays = BTreeMap::new();
    for file in names {
        let mut bytes = Vec::new();
        zip.by_name(&file).unwrap().read_to_end(&mut bytes).unwrap();
        let name = npyz::npz::array_name_from_file_name(&file).unwrap().to_string();
        arrays.insert(name, read_npy(&bytes));
    }
    arrays
}

fn read_npy(bytes: &[u8]) -> Tensor {
    let npy = NpyFile::new(bytes).unwrap();
    assert_eq!(npy.order(), npyz::Order::C);
    let shape: Vec<usize> = npy.shape().iter().map(|&d| d as usize).collect();
    let npyz::DType::Plain(ty) = npy.dtype() else { panic!("{:?}", npy.dtype()) };
    match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 4) => {
            let x: Vec<f32> = npy.into_vec().unwrap();
            Tensor::float(DType::Fp32, &shape, x.into_iter().map(f64::from).collect())
        }
        (TypeChar::Int, 4) => {
            let x: Vec<i32> = npy.into_vec().unwrap();
            Tensor::int(DType::Int32, &shape, x.into_iter().map(i64::from).collect())
        }
        (TypeChar::Int, 8) => Tensor::int(DType::Int64, &shape, npy.into_vec().unwrap()),
        other => panic!("{other:?} is not among the shared data"),
    }
}

#[track_caller]
fn checked(program: Program, path: &Path) -> ValidProgram {
    validate(program, &Limits::none()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The outputs by name.
fn run(
    program: &ValidProgram,
    interpreter: &mut Interpreter<'_>,
    inputs: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let main = program.main();
    let given: Vec<Tensor> = main.inputs.iter().map(|&v| inputs[&main.value(v).name].clone()).collect();
    let outputs = interpreter.run(&given).unwrap();
    main.outputs.iter().map(|&v| main.value(v).name.clone()).zip(outputs).collect()
}

/// The largest difference, relative to the largest magnitude expected.
fn difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.shape(), expected.shape());
    let (got, expected) = (got.to_f64s(), expected.to_f64s());
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // Not `max`, which passes NaN by.
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) / largest
}

#[test]
fn models_agree_with_pytorch_from_text_and_package() {
    let Some(folder) = shared("conformance/models") else { return };
    let mut n = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        let arrays = read_npz(&folder.join("io.npz"));
        let named = |prefix: &str| -> BTreeMap<String, Tensor> {
            let wanted = arrays.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_string(), t.clone())));
            wanted.collect()
        };
        let (inputs, expected) = (named("in:"), named("out:"));
        assert!(!inputs.is_empty() && !expected.is_empty(), "{name}");
        for path in [folder.join("model.mil"), folder.join(format!("{name}.mlpackage"))] {
            let model = ModelFile::open(&path).unwrap();
            let fp16 = model.program.to_string().contains("fp16");
            let program = checked(model.program, &path);
            let outputs = run(&program, &mut Interpreter::new(&program, &model.weights).unwrap(), &inputs);
            for (output, expected) in &expected {
                let (got, allowed) = (&outputs[output], if fp16 { 1e-2 } else { 1e-4 });
                if got.floats().is_none() {
                    assert_eq!(got.ints(), expected.ints(), "{}: {output}", path.display());
                    continue;
                }
                let off = difference(got, expected);
                assert!(off <= allowed, "{}: {output} is off by {off:.1e}, allowed {allowed:.0e}", path.display());
                eprintln!("{}: {output} is off by {off:.1e} of its largest", path.display());
            }
            n += 1;
        }
    }
    assert!(n >= 24, "{n} files");
}

/// The bundles of Silero VAD's 32 ms variants, each in its second revision: that is the one which pads the end of
/// a chunk by reflection, as the reference does.
fn silero_bundles(corpus: &Path) -> BTreeMap<String, PathBuf> {
    let table = std::fs::read_to_string(corpus.join("SOURCES.tsv")).unwrap();
    let mut bundles = BTreeMap::new();
    for path in table.lines().filter_map(|line| line.split('\t').nth(8)).map(|path| corpus.join(path)) {
        let bundle = path.parent().unwrap();
        let name = bundle.file_stem().unwrap_or_default().to_str().unwrap().to_string();
        if path.starts_with(corpus.join("FluidInference+mobius")) && !name.contains("256ms") {
            let pads = std::fs::read_to_string(&path).unwrap().contains("\"reflect\"");
            assert!(!pads || bundles.insert(name, bundle.to_path_buf()).is_none(), "{}", path.display());
        }
    }
    bundles
}

#[test]
fn silero_vad_hears_what_the_reference_hears() {
    let (Some(io), Some(corpus)) = (shared("conformance/endtoend/silero_io.npz"), shared("corpus")) else {
        return;
    };
    let arrays = read_npz(&io);
    let (chunks, expected) = (&arrays["chunks"], arrays["prob"].to_f64s());
    // The reference interpreter is slow, and without optimization slower still. Speech begins in the eleventh
    // chunk.
    let n_chunks = if cfg!(debug_assertions) { 24 } else { expected.len() };
    let bundles = silero_bundles(&corpus);
    assert_eq!(bundles.len(), 8);
    let mut n_uncompressed = 0;
    for (name, path) in bundles {
        let model = ModelFile::open(&path).unwrap();
        let program = checked(model.program, &path);
        let mut interpreter = Interpreter::new(&program, &model.weights).unwrap();
        let zeros = Tensor::float(DType::Fp32, &[1, 128], vec![0.0; 128]);
        let states = ["hidden_state", "cell_state"];
        let mut inputs: BTreeMap<String, Tensor> = states.map(|s| (s.to_string(), zeros.clone())).into();
        let (mut n_other, mut furthest) = (0, 0.0f64);
        for (i, &expected) in expected[..n_chunks].iter().enumerate() {
            inputs.insert("audio_input".to_string(), chunks.picked(&[1, 576], |j| i * 576 + j));
            let mut outputs = run(&program, &mut interpreter, &inputs);
            let probability = outputs["vad_output"].to_f64s()[0];
            assert!((0.0..=1.0).contains(&probability), "{name}: chunk {i}: {probability} is no probability");
            n_other += usize::from((probability > 0.5) != (expected > 0.5));
            furthest = furthest.max((probability - expected).abs());
            for state in states {
                inputs.insert(state.to_string(), outputs.remove(&format!("new_{state}")).unwrap());
            }
        }
        // The others lost what their few bits a weight cost, and nobody says how much that is.
        if name.starts_with("silero-vad-unified") {
            n_uncompressed += 1;
            assert!(n_other == 0 && furthest <= 0.05, "{name}: {n_other} other decisions, {furthest} off");
        }
        eprintln!("{name}: {n_other} of {n_chunks} decisions differ, probabilities by {furthest:.4} at most");
    }
    assert_eq!(n_uncompressed, 1);
}
