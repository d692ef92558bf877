//! Reading a weights file: refuses what Apple's reader refuses and warns where that one is lax.
//!
//! What Apple's reader does was tried out on `libmilstoragepython` of coremltools 9.0. Nothing here takes memory
//! by what the file says, and no offset or size is used before it was held against the length of the file.

use super::record::{Record, bits_of, n_bits};
use super::{BLOCK, SENTINEL, VERSION, dtype_of};
use crate::error::{Diagnostic, Error, Result};
use crate::ir::TensorType;
use crate::tensor::Tensor;
use std::fmt;
use std::iter;

/// A weights file, in whatever holds its bytes.
#[derive(Clone)]
pub struct WeightsFile<B> {
    /// What errors call it.
    name: Box<str>,
    bytes: B,
}

impl<B: AsRef<[u8]>> WeightsFile<B> {
    /// The file in `bytes`.
    ///
    /// # Errors
    ///
    /// If there is no header, or one of another version than 2.
    pub fn new(bytes: B) -> Result<WeightsFile<B>> {
        WeightsFile::named("weights file", bytes)
    }

    /// The file in `bytes` that errors are to call `name`.
    pub(super) fn named(name: &str, bytes: B) -> Result<WeightsFile<B>> {
        let n_bytes = bytes.as_ref().len();
        let header = block(bytes.as_ref(), 0).ok_or_else(|| {
            Error::weights(format!("{name}: {n_bytes} bytes, expected a header of {BLOCK} at least"))
        })?;
        let version = uint(&header[4..8]);
        if version != VERSION.into() {
            return Err(Error::weights(format!("{name}: version {version}, expected {VERSION}")));
        }
        Ok(WeightsFile { name: name.into(), bytes })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// The number of records that the header states, which nothing but [`WeightsFile::diagnostics`] goes by.
    pub fn stated_count(&self) -> u32 {
        block(self.bytes(), 0).map_or(0, |header| uint(&header[..4]) as u32)
    }

    /// The record at `offset`, which is what a program's `BLOBFILE` gives. Takes the same time wherever it is.
    ///
    /// # Errors
    ///
    /// If there is no record there, its element type is unknown, its data is empty or not within the file, or the
    /// number of unused bits is impossible for elements narrower than a byte.
    pub fn record(&self, offset: u64) -> Result<Record<'_>> {
        let error = |what: String| Error::weights(format!("{}: record at offset {offset}: {what}", self.name));
        let bytes = self.bytes();
        let Some(metadata) = block(bytes, offset).filter(|metadata| is_sentinel(metadata)) else {
            let before = offset.checked_sub(BLOCK as u64).filter(|&before| self.is_record(before));
            return Err(error(match (before, block(bytes, offset)) {
                (Some(before), _) => format!("this is the data of the record at {before}; give that offset"),
                (None, None) => {
                    format!("its {BLOCK} bytes do not lie within the file, which has {}", bytes.len())
                }
                (None, Some(metadata)) => format!(
                    "it begins with {:#010x}, expected {SENTINEL:#010x}; give the offset of a record",
                    uint(&metadata[..4])
                ),
            }));
        };
        let code = uint(&metadata[4..8]);
        let known = u32::try_from(code).ok().and_then(dtype_of);
        let dtype = known.ok_or_else(|| error(format!("unknown element type {code}, expected 1 to 17")))?;
        let (n_bytes, data_offset, padding) =
            (uint(&metadata[8..16]), uint(&metadata[16..24]), uint(&metadata[24..32]));
        if n_bytes == 0 {
            return Err(error("it has no data".into()));
        }
        let data = slice(bytes, data_offset, n_bytes).ok_or_else(|| {
            error(format!(
                "its {n_bytes} bytes of data at {data_offset} do not lie within the file, which has {}",
                bytes.len()
            ))
        })?;
        let bits = bits_of(dtype);
        // Not more than a byte of them, and so many that whole elements remain.
        if bits < 8 && (padding >= 8 || !(n_bits(data) - u128::from(padding)).is_multiple_of(bits)) {
            return Err(error(format!(
                "{padding} unused bits in {n_bytes} bytes of {dtype} leave no whole elements"
            )));
        }
        let reserved = metadata[32..].iter().any(|&b| b != 0);
        Ok(Record { file: &self.name, offset, dtype, data_offset, data, padding, reserved })
    }

    /// The value of the record at `offset`, for a constant that a program declares with type `ty`.
    ///
    /// # Errors
    ///
    /// As [`WeightsFile::record`] and [`Record::tensor`].
    pub fn tensor(&self, offset: u64, ty: &TensorType) -> Result<Tensor> {
        self.record(offset)?.tensor(ty)
    }

    /// The records in the order of the file, for inspection; an error for each that [`WeightsFile::record`]
    /// refuses.
    ///
    /// The file has no table of them. Each is looked for where the data of the one before ends, and from there on
    /// at every multiple of 64. Where data lies elsewhere than behind its record, it is looked at for records too.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> {
        let mut at = BLOCK as u64;
        iter::from_fn(move || {
            while !self.is_record(at) {
                block(self.bytes(), at)?;
                at = (at / BLOCK as u64 + 1) * BLOCK as u64;
            }
            let record = self.record(at);
            let after = at + BLOCK as u64;
            at = match &record {
                Ok(r) if (after..after + BLOCK as u64).contains(&r.data_offset) => {
                    r.data_offset + r.data.len() as u64
                }
                _ => after,
            };
            Some(record)
        })
    }

    /// What is odd about the file: errors for records that cannot be read, warnings where Apple's reader looks the
    /// other way but another may not. Empty for whatever [`WeightsWriter`](super::WeightsWriter) wrote.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let warn = |code, what: String| Diagnostic::warning(code, format!("{}: {what}", self.name));
        let mut found = Vec::new();
        if block(self.bytes(), 0).is_some_and(|header| header[8..].iter().any(|&b| b != 0)) {
            found.push(warn("weights-reserved", "reserved bytes of the header are not 0".into()));
        }
        let mut n_records = 0u64;
        for record in self.records() {
            n_records += 1;
            match record {
                Ok(record) => found.extend(record.warnings()),
                Err(error) => found.extend_from_slice(error.diagnostics()),
            }
        }
        let stated = self.stated_count();
        if n_records != stated.into() {
            found.push(warn("weights-count", format!("its header states {stated} records, it has {n_records}")));
        }
        found
    }

    fn is_record(&self, offset: u64) -> bool {
        block(self.bytes(), offset).is_some_and(is_sentinel)
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for WeightsFile<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightsFile").field("name", &self.name).field("n_bytes", &self.len()).finish()
    }
}

/// The 64 bytes at `offset`, if the file has them.
fn block(bytes: &[u8], offset: u64) -> Option<&[u8; BLOCK]> {
    slice(bytes, offset, BLOCK as u64)?.first_chunk()
}

/// Whether a record begins like that.
fn is_sentinel(metadata: &[u8; BLOCK]) -> bool {
    uint(&metadata[..4]) == SENTINEL.into()
}

/// The `n_bytes` bytes at `offset`, if the file has them.
fn slice(bytes: &[u8], offset: u64, n_bytes: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(n_bytes).ok()?)?)
}

/// A little-endian number of up to 8 bytes.
fn uint(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |x, &b| x << 8 | u64::from(b))
}

#[cfg(test)]
mod tests;
