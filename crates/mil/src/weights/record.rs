//! One record of a weights file: its elements, and what is odd about them.

use super::BLOCK;
use crate::error::{Diagnostic, Error, Result};
use crate::ir::{DType, TensorType};
use crate::tensor::Tensor;
use std::fmt;

/// One constant in a weights file.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// What errors call the file.
    pub(super) file: &'a str,
    pub(super) offset: u64,
    pub(super) dtype: DType,
    pub(super) data_offset: u64,
    pub(super) data: &'a [u8],
    /// As the file says; anything where elements take whole bytes.
    pub(super) padding: u64,
    /// Whether reserved bytes are not 0.
    pub(super) reserved: bool,
}

impl<'a> Record<'a> {
    /// Where it begins in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where its data begins in the file, in bytes.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Its data: little-endian, elements narrower than a byte as one stream of bits, least significant first.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The length of its data in bytes.
    pub fn n_bytes(&self) -> usize {
        self.data.len()
    }

    /// Unused bits after the last element; always 0 for elements of whole bytes.
    pub fn padding_bits(&self) -> u32 {
        if bits_of(self.dtype) < 8 { self.padding as u32 } else { 0 }
    }

    /// The number of whole elements in its data.
    pub fn n_elements(&self) -> u64 {
        ((n_bits(self.data) - u128::from(self.padding_bits())) / bits_of(self.dtype)) as u64
    }

    /// The bytes of its elements, for a constant that a program declares with type `ty`: the data, dense, without
    /// a copy.
    ///
    /// # Errors
    ///
    /// If `ty` has other elements, or another number of them, or an unknown dimension.
    pub fn bytes_as(&self, ty: &TensorType) -> Result<&'a [u8]> {
        let error = |what: String| {
            Error::weights(format!("{}: record at offset {}: {what} for {ty}", self.file, self.offset))
        };
        if self.dtype != ty.dtype {
            return Err(error(format!("it holds elements of {}, expected {}", self.dtype, ty.dtype)));
        }
        let (Some(n_elements), Some(n_bytes)) = (ty.n_elements(), ty.n_bytes()) else {
            return Err(error("expected a fixed shape that fits in memory".into()));
        };
        if self.n_elements() != n_elements as u64 {
            return Err(error(format!("it holds {} elements, expected {n_elements}", self.n_elements())));
        }
        // Never out of bounds, as the elements were counted; a remainder of less than an element is left.
        self.data.get(..n_bytes).ok_or_else(|| error("its data is too short".into()))
    }

    /// Its value, for a constant that a program declares with type `ty`.
    ///
    /// # Errors
    ///
    /// As [`Record::bytes_as`]; in that case nothing was allocated.
    pub fn tensor(&self, ty: &TensorType) -> Result<Tensor> {
        let bytes = self.bytes_as(ty)?;
        ty.fixed_shape().and_then(|shape| Tensor::from_bytes(ty.dtype, &shape, bytes)).ok_or_else(|| {
            Error::weights(format!("{}: record at offset {}: no value of {ty}", self.file, self.offset))
        })
    }

    /// What is odd about it, although it can be read.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let block = BLOCK as u64;
        let bits = bits_of(self.dtype);
        let odd = [
            (
                self.reserved,
                "weights-reserved",
                "reserved bytes are not 0, as writers before iOS 18 could leave them".into(),
            ),
            (
                bits >= 8 && self.padding != 0,
                "weights-padding",
                format!("{} unused bits, but elements of {} take whole bytes", self.padding, self.dtype),
            ),
            (
                !n_bits(self.data).is_multiple_of(bits.max(8)),
                "weights-size",
                format!("{} bytes are no whole elements of {}, the rest is left", self.n_bytes(), self.dtype),
            ),
            (
                !self.offset.is_multiple_of(block) || !self.data_offset.is_multiple_of(block),
                "weights-alignment",
                format!("it or its data, at {}, does not begin at a multiple of {BLOCK}", self.data_offset),
            ),
            (
                self.offset
                    .checked_add(block)
                    .is_none_or(|after| !(after..after + block).contains(&self.data_offset)),
                "weights-data-elsewhere",
                format!(
                    "its data is at {}, not behind it; offsets count from the start of the file",
                    self.data_offset
                ),
            ),
        ];
        odd.into_iter()
            .filter(|(is_odd, ..)| *is_odd)
            .map(|(_, code, what)| {
                Diagnostic::warning(code, format!("{}: record at offset {}: {what}", self.file, self.offset))
            })
            .collect()
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset)
            .field("dtype", &self.dtype)
            .field("data_offset", &self.data_offset)
            .field("n_bytes", &self.n_bytes())
            .field("padding_bits", &self.padding_bits())
            .finish()
    }
}

/// Bits of an element of a type that a weights file can hold. (There is none without a width.)
pub(super) fn bits_of(dtype: DType) -> u128 {
    dtype.bits().unwrap_or(8).into()
}

/// Bits of data; their number may not fit a `usize`.
pub(super) fn n_bits(data: &[u8]) -> u128 {
    data.len() as u128 * 8
}
