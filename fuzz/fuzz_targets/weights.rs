//! Any weights file: records are found or refused, and those found resolve to tensors of their size.
#![no_main]

use anemone_mil::Weights;
use anemone_mil::ir::{BlobRef, DType, Dim, TensorType};
use anemone_mil::weights::WeightsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = WeightsFile::new(bytes) else { return };
    file.diagnostics();
    let mut weights = Weights::new();
    weights.insert("w.bin", bytes.to_vec()).expect("it was opened before");
    for record in file.records().take(100).flatten() {
        let blob = BlobRef { path: "w.bin".into(), offset: record.offset() };
        let ty = TensorType { dtype: record.dtype(), shape: vec![Dim::Fixed(record.n_elements())] };
        let tensor = weights.resolve(&blob, &ty).expect("the type is the record's own");
        assert_eq!(tensor.len() as u64, record.n_elements());
        record.warnings();
        for wrong in [TensorType::new(DType::Fp64, &[1]), TensorType { shape: vec![Dim::Fixed(u64::MAX); 2], ..ty }] {
            assert!(weights.resolve(&blob, &wrong).is_err());
        }
    }
    for offset in [0, 1, 63, 64, 65, bytes.len() as u64, u64::MAX - 63, u64::MAX] {
        // Found or not: there is no panic.
        let _ = file.record(offset);
    }
});
