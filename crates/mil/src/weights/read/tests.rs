//! What is refused, what is warned of, and that nothing in a file makes the reader panic.

use super::*;
use crate::error::Severity;
use crate::ir::DType;
use crate::weights::{CODES, WeightsWriter};

/// One record of fp16 at 64 with data at 128 (1, 2, 3, 4, 5, 6), and one of uint3 at 192 with data at 256.
fn small_file() -> Vec<u8> {
    let mut writer = WeightsWriter::new();
    writer.add_f32_as(DType::Fp16, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    writer.add(&Tensor::int(DType::UInt3, &[5], vec![0, 1, 2, 7, 5])).unwrap();
    writer.finish()
}

/// The small file with `field` written at `at`.
fn patched<const N: usize>(at: usize, field: [u8; N]) -> Vec<u8> {
    let mut bytes = small_file();
    bytes[at..at + N].copy_from_slice(&field);
    bytes
}

fn fp16(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Fp16, shape)
}

#[test]
fn elements_of_every_type_are_read_back() {
    let tensors: Vec<Tensor> = CODES
        .iter()
        .map(|&(dtype, _)| match dtype.is_float() {
            true => Tensor::float(dtype, &[3, 1, 3], vec![0.5, -1.0, 0.0, 3.0, -0.0, 2.0, 1.5, 4.0, -0.25]),
            false => Tensor::int(dtype, &[3, 1, 3], vec![0, 1, -1, 5, 63, -128, 7, 2, 3]),
        })
        .collect();
    let mut writer = WeightsWriter::new();
    let offsets: Vec<u64> = tensors.iter().map(|t| writer.add(t).unwrap()).collect();
    let bytes = writer.finish();
    let file = WeightsFile::new(&bytes).unwrap();
    assert_eq!(file.diagnostics(), []);
    assert_eq!(file.stated_count(), 17);
    let records: Vec<_> = file.records().map(Result::unwrap).collect();
    assert_eq!(records.iter().map(Record::offset).collect::<Vec<_>>(), offsets);
    for (t, r) in tensors.iter().zip(&records) {
        assert_eq!((r.dtype(), r.n_elements()), (t.dtype(), 9));
        assert_eq!(r.data(), t.to_bytes().unwrap());
        assert_eq!(file.tensor(r.offset(), &t.ty()).unwrap(), *t);
    }
}

#[test]
fn headers_of_other_formats_are_refused() {
    for (bytes, says) in [
        (Vec::new(), "0 bytes, expected a header of 64"),
        (small_file()[..63].to_vec(), "63 bytes"),
        (patched(4, [1]), "version 1, expected 2"),
        (patched(4, [3]), "version 3"),
        (patched(7, [1]), "version 16777218"),
    ] {
        let error = WeightsFile::new(bytes).unwrap_err();
        assert!(error.is_weights() && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn records_that_apples_reader_refuses_are_refused() {
    let max = u64::MAX.to_le_bytes();
    // Bytes, offset asked for, what the error says.
    let table = [
        (small_file(), 0, "it begins with 0x00000002, expected 0xdeadbeef"),
        (small_file(), 32, "it begins with 0x00000000"),
        (small_file(), 128, "this is the data of the record at 64"),
        (small_file(), 193, "it begins with 0x0cdeadbe"),
        (small_file(), 256, "this is the data of the record at 192"),
        (small_file(), 257, "its 64 bytes do not lie within the file, which has 258"),
        (small_file(), 1 << 40, "do not lie within the file"),
        (small_file(), u64::MAX - 31, "do not lie within the file"),
        (small_file(), u64::MAX, "do not lie within the file"),
        (patched(64, [0]), 64, "it begins with 0xdeadbe00"),
        (patched(68, [0]), 64, "unknown element type 0"),
        (patched(68, [18]), 64, "unknown element type 18"),
        (patched(71, [1]), 64, "unknown element type 16777217"),
        (patched(72, [0]), 64, "it has no data"),
        (patched(72, [131]), 64, "its 131 bytes of data at 128 do not lie within the file, which has 258"),
        (patched(72, max), 64, "do not lie within"),
        (patched(80, [0, 16]), 64, "its 12 bytes of data at 4096"),
        (patched(80, max), 64, "do not lie within"),
        (patched(80, (u64::MAX - 11).to_le_bytes()), 64, "do not lie within"),
        (patched(72, (u64::MAX - 127).to_le_bytes()), 64, "do not lie within"),
        // Unused bits of uint3, of whose 16 bits 15 are used by 5 elements.
        (patched(216, [0]), 192, "0 unused bits in 2 bytes of uint3 leave no whole elements"),
        (patched(216, [3]), 192, "3 unused bits"),
        (patched(216, [10]), 192, "10 unused bits"),
        (patched(216, max), 192, "18446744073709551615 unused bits"),
        // The same of uint4.
        (patched(196, [11, 0, 0, 0]), 192, "1 unused bits in 2 bytes of uint4"),
    ];
    for (bytes, offset, says) in table {
        let file = WeightsFile::new(bytes).unwrap();
        let error = file.record(offset).unwrap_err();
        let message = error.to_string();
        assert!(error.is_weights() && message.contains(says), "{message}; expected: {says}");
        assert!(message.starts_with(&format!("weights file: record at offset {offset}: ")), "{message}");
    }
    // Four unused bits leave four elements, which is what Apple's reader gives.
    let file = WeightsFile::new(patched(216, [4])).unwrap();
    assert_eq!(file.record(192).unwrap().n_elements(), 4);
}

#[test]
fn constants_of_another_type_are_refused() {
    let file = WeightsFile::new(small_file()).unwrap();
    assert_eq!(file.tensor(64, &fp16(&[2, 3])).unwrap().floats(), Some(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..]));
    let any = TensorType { dtype: DType::Fp16, shape: vec![crate::ir::Dim::Any] };
    for (ty, says) in [
        (TensorType::new(DType::Bf16, &[6]), "it holds elements of fp16, expected bf16 for bf16 [6]"),
        (TensorType::new(DType::String, &[6]), "expected string"),
        (fp16(&[]), "it holds 6 elements, expected 1 for fp16 []"),
        (fp16(&[7]), "expected 7"),
        (fp16(&[0, 6]), "expected 0"),
        (fp16(&[1 << 40]), "expected 1099511627776"),
        (fp16(&[usize::MAX, 2]), "expected a fixed shape that fits in memory for "),
        (fp16(&[1 << 63]), "expected a fixed shape that fits in memory for "),
        (any, "expected a fixed shape that fits in memory for "),
    ] {
        let error = file.tensor(64, &ty).unwrap_err().to_string();
        assert!(error.contains(says), "{error}; expected: {says}");
    }
}

#[test]
fn oddities_that_apples_reader_accepts_are_warned_of() {
    let max = u64::MAX.to_le_bytes();
    // Bytes, elements of the first record, code of the warning.
    let table = [
        (patched(0, [0]), 6, "weights-count"),
        (patched(0, [3]), 6, "weights-count"),
        (patched(63, [1]), 6, "weights-reserved"),
        (patched(96, [1]), 6, "weights-reserved"),
        (patched(88, max), 6, "weights-padding"),
        (patched(72, [13]), 6, "weights-size"),
        (patched(80, [130]), 6, "weights-alignment"),
        (patched(80, [0]), 6, "weights-data-elsewhere"),
    ];
    for (bytes, n_elements, code) in table {
        let file = WeightsFile::new(bytes).unwrap();
        let found: Vec<_> = file.diagnostics().iter().map(|d| (d.severity, d.code)).collect();
        assert_eq!(found, [(Severity::Warning, code)]);
        assert!(file.tensor(64, &fp16(&[n_elements])).is_ok());
    }
    assert_eq!(WeightsFile::new(patched(88, max)).unwrap().record(64).unwrap().padding_bits(), 0);

    // A record that cannot be read is found too, as an error.
    let found = WeightsFile::new(patched(80, [2, 1])).unwrap().diagnostics();
    assert_eq!(found.iter().map(|d| (d.severity, d.code)).collect::<Vec<_>>(), [(Severity::Error, "weights")]);
}

#[test]
fn records_are_found_behind_gaps_and_where_nothing_is_aligned() {
    let offsets = |bytes: Vec<u8>| -> Vec<u64> {
        WeightsFile::new(bytes).unwrap().records().filter_map(Result::ok).map(|r| r.offset()).collect()
    };
    assert_eq!(offsets(small_file()), [64, 192]);

    let whole = small_file();
    let mut gap = whole[..192].to_vec();
    gap.resize(192 + 3 * 64, 0xaa);
    gap.extend_from_slice(&whole[64..140]);
    assert_eq!(offsets(gap), [64, 384]);

    // Records right behind the data of the one before; the second's data lies at 204.
    let mut packed = whole[..140].to_vec();
    packed.extend_from_slice(&whole[64..140]);
    packed[156..164].copy_from_slice(&204u64.to_le_bytes());
    assert_eq!(offsets(packed.clone()), [64, 140]);
    assert_eq!(WeightsFile::new(packed).unwrap().tensor(140, &fp16(&[6])).unwrap().len(), 6);

    // A record that cannot be read does not hide the next.
    assert_eq!(offsets(patched(68, [99])), [192]);
    // A record whose data is the rest of the file, or lies before it, does not either.
    assert_eq!(offsets(patched(80, [0])), [64, 192]);
}

/// All that can be asked of a file. What comes back is checked to be part of it.
fn exercise(bytes: &[u8]) {
    let Ok(file) = WeightsFile::new(bytes) else { return };
    let within = bytes.as_ptr_range();
    let n_records = file.records().count();
    assert!(n_records <= bytes.len() / 4);
    assert!(file.diagnostics().len() <= 2 + 5 * n_records);
    let offsets = (0..bytes.len() as u64 + 2).chain([1 << 32, u64::MAX - 63, u64::MAX]);
    for record in offsets.filter_map(|offset| file.record(offset).ok()) {
        let data = record.data().as_ptr_range();
        assert!(within.start <= data.start && data.end <= within.end);
        let ty = TensorType::new(record.dtype(), &[record.n_elements() as usize]);
        assert_eq!(record.tensor(&ty).unwrap().ty(), ty);
        assert!(record.tensor(&ty.with_dtype(DType::Fp64)).is_err());
    }
}

#[test]
fn no_truncated_or_flipped_file_panics() {
    let bytes = small_file();
    let complete = WeightsFile::new(&bytes).unwrap();
    assert_eq!(complete.records().filter(Result::is_ok).count(), 2);
    for n in 0..=bytes.len() {
        exercise(&bytes[..n]);
        if n < bytes.len() && n >= BLOCK {
            let file = WeightsFile::new(&bytes[..n]).unwrap();
            assert!(file.records().filter(Result::is_ok).count() < 2, "{n} bytes");
        }
    }
    let mut mutant = bytes.clone();
    for bit in 0..8 * bytes.len() {
        mutant[bit / 8] ^= 1 << (bit % 8);
        exercise(&mutant);
        mutant[bit / 8] ^= 1 << (bit % 8);
    }
    // Every byte of header and metadata at both ends of its range, alone and with its neighbour.
    for at in 0..bytes.len() - 1 {
        for value in [0x00, 0x7f, 0x80, 0xff] {
            mutant[at] = value;
            exercise(&mutant);
            mutant[at + 1] = value;
            exercise(&mutant);
            mutant[at..at + 2].copy_from_slice(&bytes[at..at + 2]);
        }
    }
}
