//! Weights files that Apple's tools and the training program wrote: read, judged, and written again byte for byte.
//!
//! The files are not part of the project. The tests look for them in the folder that `ANEMONE_SHARED` names.

use anemone_mil::error::Severity;
use anemone_mil::ir::{DType, TensorType};
use anemone_mil::tensor::Tensor;
use anemone_mil::weights::{WeightsFile, WeightsWriter, code_of};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A folder under the one that `ANEMONE_SHARED` names.
#[allow(clippy::print_stderr)]
fn shared(folder: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("ANEMONE_SHARED") else {
        eprintln!("skipped: ANEMONE_SHARED is not set, which names the folder with {folder}");
        return None;
    };
    Some(Path::new(&root).join(folder))
}

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_type_as_apples_writer_wrote_it() {
    let Some(folder) = shared("conformance/blobs") else { return };
    let bytes = read(folder.join("alltypes.bin"));
    let file = WeightsFile::new(&bytes).unwrap();
    assert_eq!(file.diagnostics(), []);
    let listed: Vec<Value> = serde_json::from_slice(&read(folder.join("alltypes.json"))).unwrap();
    assert_eq!(file.records().count(), listed.len());
    assert_eq!(file.stated_count() as usize, listed.len());

    let mut writer = WeightsWriter::new();
    for (record, listed) in file.records().map(Result::unwrap).zip(&listed) {
        let kind = listed["kind"].as_str().unwrap();
        let dtype = DType::from_name(kind).unwrap();
        assert_eq!(record.dtype(), dtype);
        assert_eq!(code_of(dtype).map(u64::from), listed["dtype"].as_u64(), "{kind}");
        assert_eq!(Some(record.offset()), listed["offset"].as_u64(), "{kind}");
        assert_eq!(Some(record.n_bytes() as u64), listed["size"].as_u64(), "{kind}");
        assert_eq!(Some(record.data_offset()), listed["data_offset"].as_u64(), "{kind}");
        assert_eq!(Some(record.padding_bits().into()), listed["padding_bits"].as_u64(), "{kind}");
        let hex: String = record.data().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Some(&*hex), listed["hex"].as_str(), "{kind}");

        // The halves are listed by their bits, all others by value.
        let expected = match (listed["bits"].as_array(), listed["values"].as_array()) {
            (Some(bits), _) => {
                let bytes = bits.iter().flat_map(|b| (b.as_u64().unwrap() as u16).to_le_bytes());
                Tensor::from_bytes(dtype, &[bits.len()], &bytes.collect::<Vec<_>>()).unwrap()
            }
            (None, Some(values)) if dtype.is_float() => {
                Tensor::float(dtype, &[values.len()], values.iter().map(|v| v.as_f64().unwrap()).collect())
            }
            (None, values) => {
                let values = values.unwrap();
                Tensor::int(dtype, &[values.len()], values.iter().map(|v| v.as_i64().unwrap()).collect())
            }
        };
        assert_eq!(record.tensor(&expected.ty()).unwrap(), expected);
        assert_eq!(writer.add(&expected).unwrap(), record.offset());
    }
    assert_eq!(writer.finish(), bytes);
}

#[test]
fn the_layout_of_the_training_program_is_apples() {
    let Some(folder) = shared("conformance/blobs") else { return };
    let mut writer = WeightsWriter::new();
    writer.add_f32_as(DType::Fp16, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let written = writer.finish();
    assert_eq!(written, read(folder.join("seed_style.bin")));
    assert_eq!(written, read(folder.join("seed_style_by_apple.bin")));
}

#[test]
fn broken_files_are_refused_or_warned_of_as_apples_reader_does() {
    let Some(folder) = shared("conformance/blobs") else { return };
    /// The elements that Apple's reader gives and the code of the warning, or what the error says.
    type Expected = Result<(usize, &'static str), &'static str>;
    let table: [(&str, Expected); 11] = [
        ("bad_count0", Ok((6, "weights-count"))),
        ("bad_dtype2", Err("it holds elements of fp32, expected fp16")),
        ("bad_odd_size", Ok((2, "weights-size"))),
        ("bad_offset_past_end", Err("its 12 bytes of data at 4096 do not lie within the file")),
        ("bad_padding_garbage", Ok((6, "weights-padding"))),
        ("bad_reserved", Ok((6, "weights-reserved"))),
        ("bad_sentinel", Err("it begins with 0xdeadbe00")),
        ("bad_size_past_end", Err("its 4096 bytes of data at 128 do not lie within the file")),
        ("bad_unaligned_data", Ok((4, "weights-alignment"))),
        ("bad_version1", Err("version 1, expected 2")),
        ("bad_version3", Err("version 3, expected 2")),
    ];
    let mut listed: Vec<String> = table.iter().map(|(name, _)| format!("{name}.bin")).collect();
    listed.sort();
    let mut there: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("bad_"))
        .collect();
    there.sort();
    assert_eq!(there, listed);

    for (name, expected) in table {
        let bytes = read(folder.join(format!("{name}.bin")));
        let n_elements = expected.map_or(6, |(n, _)| n);
        let ty = TensorType::new(DType::Fp16, &[n_elements]);
        let result = WeightsFile::new(&bytes).and_then(|file| {
            let tensor = file.tensor(64, &ty)?;
            Ok((tensor, file.diagnostics()))
        });
        match expected {
            Err(says) => {
                let error = result.unwrap_err();
                assert!(error.is_weights() && error.to_string().contains(says), "{name}: {error}");
            }
            Ok((_, code)) => {
                let (tensor, found) = result.unwrap_or_else(|e| panic!("{name}: {e}"));
                // The data of the one unaligned record begins with the second element.
                let first = if name == "bad_unaligned_data" { 1 } else { 0 };
                let elements: Vec<f64> = (first..first + n_elements).map(|x| x as f64).collect();
                assert_eq!(tensor.floats(), Some(&elements[..]), "{name}");
                assert_eq!(
                    found.iter().map(|d| (d.severity, d.code)).collect::<Vec<_>>(),
                    [(Severity::Warning, code)]
                );
            }
        }
    }
}

#[test]
fn the_first_weights_of_the_training_program_are_reproduced() {
    let Some(folder) = shared("oracle/programs") else { return };
    // Each product and each sum is rounded to f32: a fused multiply-add gives other weights.
    let w1: Vec<f32> = (0..128 * 64).map(|i| 0.01f32 * (i as f32 * 1.3f32 + 0.7f32).sin()).collect();
    let w2: Vec<f32> = (0..64 * 128).map(|i| 0.01f32 * (i as f32 * 0.9f32 + 1.1f32).cos()).collect();
    let transposed = |w: &[f32], rows: usize| -> Vec<f32> {
        let columns = w.len() / rows;
        (0..w.len()).map(|i| w[i % rows * columns + i / rows]).collect()
    };
    let blobs = [w1.clone(), w2.clone(), transposed(&w2, 64), transposed(&w1, 128)];
    for (i, elements) in blobs.iter().enumerate() {
        let bytes = read(folder.join(format!("blob_{i:04}.bin")));
        let mut writer = WeightsWriter::new();
        assert_eq!(writer.add_f32_as(DType::Fp16, elements).unwrap(), 64);
        assert!(writer.finish() == bytes, "blob {i} differs");
    }
}

#[test]
fn files_of_the_training_program_survive_reading_and_writing() {
    let Some(folder) = shared("oracle/programs") else { return };
    for i in 0..8 {
        let bytes = read(folder.join(format!("blob_{i:04}.bin")));
        let file = WeightsFile::new(&bytes).unwrap();
        assert_eq!(file.diagnostics(), [], "blob {i}");
        let w = file.tensor(64, &TensorType::new(DType::Fp16, &[64, 128, 1, 1])).unwrap();
        let mut writer = WeightsWriter::new();
        writer.add(&w).unwrap();
        assert!(writer.finish() == bytes, "blob {i} differs");
    }
}

#[test]
fn files_of_real_models_are_written_again_byte_for_byte() {
    let Some(folder) = shared("conformance/models") else { return };
    let mut n_files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path().join("weights/weight.bin");
        if !path.exists() {
            continue;
        }
        let bytes = read(path.clone());
        let file = WeightsFile::new(&bytes).unwrap();
        assert_eq!(file.diagnostics(), [], "{}", path.display());
        let mut writer = WeightsWriter::new();
        for record in file.records().map(Result::unwrap) {
            let offset = writer.add_bytes(record.dtype(), record.n_elements() as usize, record.data()).unwrap();
            assert_eq!(offset, record.offset());
        }
        assert!(writer.finish() == bytes, "{} differs", path.display());
        n_files += 1;
    }
    assert!(n_files > 10, "only {n_files} models in {}", folder.display());
}
