//! The weights file: what `BLOBFILE(path = ..., offset = ...)` in a program refers to.
//!
//! The format is Apple's MIL blob storage, version 2, little-endian throughout (`StorageFormat.hpp` in
//! apple/coremltools, `mlmodel/src/MILBlob/Blob`). A header of 64 bytes is followed by records, each 64 bytes of
//! metadata and then its data:
//!
//! | header | | record | |
//! | --- | --- | --- | --- |
//! | 0 u32 | number of records | +0 u32 | sentinel `0xdeadbeef` |
//! | 4 u32 | version, 2 | +4 u32 | type of the elements, [`code_of`] |
//! | 8..64 | reserved | +8 u64 | bytes of data |
//! | | | +16 u64 | offset of the data, from the start of the file |
//! | | | +24 u64 | unused bits after the last element, for elements narrower than a byte |
//! | | | +32..64 | reserved |
//!
//! A program names the offset of the record, never that of its data. Apple's writer starts records and data at
//! multiples of 64, data right behind its record, and ends the file with the last byte of data.
//!
//! Nothing here opens files: [`WeightsFile`] reads whatever holds bytes, a memory map as well as a `Vec`.
//!
//! ```
//! use anemone_mil::ir::{BlobRef, DType, TensorType};
//! use anemone_mil::weights::{Weights, WeightsWriter};
//!
//! let mut writer = WeightsWriter::new();
//! let offset = writer.add_f32_as(DType::Fp16, &[1.0, 2.0, 3.0, 4.0])?;
//!
//! let path = "@model_path/weights/weight.bin";
//! let mut weights = Weights::new();
//! weights.insert(path, writer.finish())?;
//!
//! let blob = BlobRef { path: path.into(), offset };
//! let w = weights.resolve(&blob, &TensorType::new(DType::Fp16, &[2, 2]))?;
//! assert_eq!(w.floats(), Some(&[1.0, 2.0, 3.0, 4.0][..]));
//! # Ok::<(), anemone_mil::Error>(())
//! ```

mod read;
mod record;
mod write;

pub use read::WeightsFile;
pub use record::Record;
pub use write::WeightsWriter;

use crate::error::{Error, Result};
use crate::ir::{BlobRef, DType, TensorType};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of the header and of a record's metadata, and what Apple's writer aligns both to
/// (`DefaultStorageAlignment`).
const BLOCK: usize = 64;
/// The only version there is of this format; version 1 was Espresso's.
const VERSION: u32 = 2;
/// What every record begins with (`BlobMetadataSentinel`).
const SENTINEL: u32 = 0xdead_beef;

/// The types a file can hold and their codes: `BlobDataType` in apple/coremltools,
/// `mlmodel/src/MILBlob/Blob/BlobDataType.hpp`.
const CODES: [(DType, u32); 17] = [
    (DType::Fp16, 1),
    (DType::Fp32, 2),
    (DType::UInt8, 3),
    (DType::Int8, 4),
    (DType::Bf16, 5),
    (DType::Int16, 6),
    (DType::UInt16, 7),
    (DType::Int4, 8),
    (DType::UInt1, 9),
    (DType::UInt2, 10),
    (DType::UInt4, 11),
    (DType::UInt3, 12),
    (DType::UInt6, 13),
    (DType::Int32, 14),
    (DType::UInt32, 15),
    (DType::Fp8E4M3Fn, 16),
    (DType::Fp8E5M2, 17),
];

/// The code of an element type in a weights file; `None` for those it cannot hold (`bool`, `string` and the types
/// of 64 bits), whose constants stay in the text.
pub fn code_of(dtype: DType) -> Option<u32> {
    CODES.iter().find(|(d, _)| *d == dtype).map(|(_, code)| *code)
}

/// The element type of a code.
pub fn dtype_of(code: u32) -> Option<DType> {
    CODES.iter().find(|(_, c)| *c == code).map(|(dtype, _)| *dtype)
}

/// The weights files that a program refers to, by the path it names them with. Cloning shares the bytes.
#[derive(Clone, Default)]
pub struct Weights {
    files: BTreeMap<String, WeightsFile<SharedBytes>>,
}

/// Bytes from anywhere, shared.
#[derive(Clone)]
pub struct SharedBytes(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl Weights {
    /// No files, which is enough for programs whose constants are all in the text.
    pub fn new() -> Weights {
        Weights::default()
    }

    /// Adds the file that programs call `path`, `@model_path/weights/weight.bin` by custom, in the place of one
    /// that had that path. `bytes` is kept as it is, not copied: a `Vec<u8>`, an `Arc<[u8]>`, a memory map.
    ///
    /// # Errors
    ///
    /// As [`WeightsFile::new`].
    pub fn insert(
        &mut self,
        path: impl Into<String>,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<()> {
        let path = path.into();
        let file = WeightsFile::named(&format!("weights file `{path}`"), SharedBytes(Arc::new(bytes)))?;
        self.files.insert(path, file);
        Ok(())
    }

    /// The file of that path.
    pub fn get(&self, path: &str) -> Option<&WeightsFile<SharedBytes>> {
        self.files.get(path)
    }

    /// The number of files.
    pub fn n_files(&self) -> usize {
        self.files.len()
    }

    /// The files with their paths, in the order of these.
    pub fn files(&self) -> impl Iterator<Item = (&str, &WeightsFile<SharedBytes>)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// The record that a constant of a program refers to.
    ///
    /// # Errors
    ///
    /// If there is no file of that path, and as [`WeightsFile::record`].
    pub fn record(&self, blob: &BlobRef) -> Result<Record<'_>> {
        let file = self.get(&blob.path).ok_or_else(|| {
            let paths: Vec<_> = self.files.keys().map(|p| format!("`{p}`")).collect();
            let there = if paths.is_empty() { "no files were given".into() } else { paths.join(", ") };
            Error::weights(format!("no weights file `{}`, which the program refers to; there: {there}", blob.path))
        })?;
        file.record(blob.offset)
    }

    /// The value of a constant that a program declares with type `ty`.
    ///
    /// # Errors
    ///
    /// As [`Weights::record`] and [`Record::tensor`].
    pub fn resolve(&self, blob: &BlobRef, ty: &TensorType) -> Result<Tensor> {
        self.record(blob)?.tensor(ty)
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files.iter().map(|(path, file)| (path, file.len()))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_apples_enumeration() {
        let codes: Vec<_> = CODES.iter().map(|c| c.1).collect();
        assert_eq!(codes, (1..=17).collect::<Vec<_>>());
        for dtype in DType::ALL {
            assert_eq!(code_of(dtype).and_then(dtype_of), code_of(dtype).map(|_| dtype), "{dtype}");
        }
        let none: Vec<_> = DType::ALL.into_iter().filter(|&d| code_of(d).is_none()).collect();
        assert_eq!(none, [DType::Fp64, DType::Bool, DType::String, DType::Int64, DType::UInt64]);
        assert_eq!((dtype_of(0), dtype_of(18), dtype_of(u32::MAX)), (None, None, None));
    }

    #[test]
    fn constants_are_found_in_the_file_they_name() {
        let file = |x: f32| {
            let mut writer = WeightsWriter::new();
            writer.add_f32_as(DType::Fp32, &[x]).unwrap();
            writer.finish()
        };
        let mut weights = Weights::new();
        weights.insert("@model_path/a.bin", file(1.0)).unwrap();
        weights.insert("@model_path/b.bin", Arc::<[u8]>::from(file(2.0))).unwrap();
        weights.insert("@model_path/b.bin", &*file(3.0).leak()).unwrap();
        assert_eq!(weights.n_files(), 2);
        assert_eq!(
            weights.files().map(|(path, _)| path).collect::<Vec<_>>(),
            ["@model_path/a.bin", "@model_path/b.bin"]
        );

        let ty = TensorType::new(DType::Fp32, &[1]);
        let value = |path: &str, offset| weights.resolve(&BlobRef { path: path.into(), offset }, &ty);
        assert_eq!(value("@model_path/a.bin", 64).unwrap().floats(), Some(&[1.0][..]));
        assert_eq!(value("@model_path/b.bin", 64).unwrap().floats(), Some(&[3.0][..]));

        let missing = value("@model_path/c.bin", 64).unwrap_err();
        assert!(missing.is_weights());
        assert_eq!(
            missing.to_string(),
            "no weights file `@model_path/c.bin`, which the program refers to; there: `@model_path/a.bin`, \
             `@model_path/b.bin`"
        );
        let wrong = value("@model_path/a.bin", 128).unwrap_err().to_string();
        assert!(wrong.starts_with("weights file `@model_path/a.bin`: "), "{wrong}");
        assert!(weights.insert("@model_path/d.bin", vec![0; 63]).unwrap_err().to_string().contains("d.bin"));
        assert_eq!(weights.n_files(), 2);
    }
}
