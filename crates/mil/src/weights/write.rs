//! Writing a weights file, byte for byte as Apple's writer does.

use super::{BLOCK, SENTINEL, VERSION, code_of};
use crate::error::{Error, Result};
use crate::ir::DType;
use crate::tensor::Tensor;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Elements converted at a time: few enough to stay in the first-level cache.
const CHUNK: usize = 4096;

/// A weights file in the making.
#[derive(Clone, Debug)]
pub struct WeightsWriter {
    /// The file so far, complete but for the number of records in its header.
    bytes: Vec<u8>,
    n_records: u32,
}

/// What a record says of its data.
struct Layout {
    code: u32,
    n_bytes: usize,
    padding_bits: u8,
}

impl Default for WeightsWriter {
    fn default() -> WeightsWriter {
        WeightsWriter::new()
    }
}

impl WeightsWriter {
    /// A file without records.
    pub fn new() -> WeightsWriter {
        let mut bytes = vec![0; BLOCK];
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        WeightsWriter { bytes, n_records: 0 }
    }

    /// Adds a record with the elements of `tensor` and returns its offset, which is what `BLOBFILE` takes.
    ///
    /// # Errors
    ///
    /// If the file cannot hold elements of that type ([`code_of`]), or if there are none: Apple's writer writes
    /// empty records, but Apple's reader refuses them.
    pub fn add(&mut self, tensor: &Tensor) -> Result<u64> {
        layout(tensor.dtype(), tensor.len())?;
        self.add_bytes(tensor.dtype(), tensor.len(), &tensor.to_bytes().unwrap_or_default())
    }

    /// Adds a record of `n_elements` elements and returns its offset. `data` holds them little-endian and in
    /// row-major order, those narrower than a byte as one stream of bits, least significant first; bits after the
    /// last element are written as zeros.
    ///
    /// # Errors
    ///
    /// As [`WeightsWriter::add`], and if `data` is not as long as the elements.
    pub fn add_bytes(&mut self, dtype: DType, n_elements: usize, data: &[u8]) -> Result<u64> {
        let layout = layout(dtype, n_elements)?;
        if data.len() != layout.n_bytes {
            return Err(Error::weights(format!(
                "data of {} bytes for {n_elements} elements of {dtype}, expected {} bytes",
                data.len(),
                layout.n_bytes
            )));
        }
        let offset = self.begin(&layout)?;
        self.bytes.extend_from_slice(data);
        if let Some(last) = self.bytes.last_mut() {
            *last &= 0xff >> layout.padding_bits;
        }
        Ok(offset)
    }

    /// Adds a record with `elements` rounded to the floating-point type `dtype`, to nearest and ties to even, and
    /// returns its offset. NaN and infinities stay what they are. `fp16`, `bf16` and `fp32` do not go through a
    /// [`Tensor`].
    ///
    /// # Errors
    ///
    /// As [`WeightsWriter::add`], and if `dtype` is no floating-point type.
    pub fn add_f32_as(&mut self, dtype: DType, elements: &[f32]) -> Result<u64> {
        if !dtype.is_float() {
            return Err(Error::weights(format!("f32 elements as {dtype}, expected a floating-point type")));
        }
        let layout = layout(dtype, elements.len())?;
        if !matches!(dtype, DType::Fp32 | DType::Fp16 | DType::Bf16) {
            let elements: Vec<f64> = elements.iter().map(|&x| x.into()).collect();
            return self.add(&Tensor::float(dtype, &[elements.len()], elements));
        }
        let offset = self.begin(&layout)?;
        let start = self.bytes.len();
        self.bytes.resize(start + layout.n_bytes, 0);
        let data = &mut self.bytes[start..];
        match dtype {
            DType::Fp16 => {
                narrow(elements, data, |from, to: &mut [f16]| to.convert_from_f32_slice(from), f16::to_le_bytes)
            }
            DType::Bf16 => {
                narrow(elements, data, |from, to: &mut [bf16]| to.convert_from_f32_slice(from), bf16::to_le_bytes)
            }
            _ => data.as_chunks_mut().0.iter_mut().zip(elements).for_each(|(to, x)| *to = x.to_le_bytes()),
        }
        Ok(offset)
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[..4].copy_from_slice(&self.n_records.to_le_bytes());
        self.bytes
    }

    /// Writes the metadata of a record, whose data is to follow at once, and returns the offset.
    fn begin(&mut self, layout: &Layout) -> Result<u64> {
        self.n_records = self
            .n_records
            .checked_add(1)
            .ok_or_else(|| Error::weights("more records than the header of a weights file can count"))?;
        let start = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(start, 0);
        self.bytes.reserve(BLOCK + layout.n_bytes);
        self.bytes.extend_from_slice(&SENTINEL.to_le_bytes());
        self.bytes.extend_from_slice(&layout.code.to_le_bytes());
        for field in [layout.n_bytes, start + BLOCK, layout.padding_bits.into(), 0, 0, 0, 0] {
            self.bytes.extend_from_slice(&(field as u64).to_le_bytes());
        }
        Ok(start as u64)
    }
}

/// What a record of such elements says; an error if there is no such record.
fn layout(dtype: DType, n_elements: usize) -> Result<Layout> {
    let (Some(code), Some(bits)) = (code_of(dtype), dtype.bits()) else {
        return Err(Error::weights(format!(
            "elements of {dtype}, which a weights file cannot hold; write the constant in the text of the program"
        )));
    };
    if n_elements == 0 {
        return Err(Error::weights(
            "a record without elements, which readers refuse; write the constant in the text of the program",
        ));
    }
    let n_bits = n_elements
        .checked_mul(bits as usize)
        .ok_or_else(|| Error::weights(format!("{n_elements} elements of {dtype}, more than memory can hold")))?;
    let n_bytes = n_bits.div_ceil(8);
    // Not by way of `8 * n_bytes`, which can overflow.
    Ok(Layout { code, n_bytes, padding_bits: ((8 - n_bits % 8) % 8) as u8 })
}

/// Converts `elements` and lays them into `data` as bytes, by way of a buffer for which `half` has vector code.
fn narrow<T: Copy + Default>(
    elements: &[f32],
    data: &mut [u8],
    convert: impl Fn(&[f32], &mut [T]),
    to_bytes: impl Fn(T) -> [u8; 2],
) {
    let mut buffer = [T::default(); CHUNK];
    for (from, to) in elements.chunks(CHUNK).zip(data.as_chunks_mut::<2>().0.chunks_mut(CHUNK)) {
        let halves = &mut buffer[..from.len()];
        convert(from, halves);
        to.iter_mut().zip(halves).for_each(|(to, x)| *to = to_bytes(*x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of the record at `at`: sentinel, code, bytes, offset of the data, padding, and whether the rest
    /// is 0.
    fn fields(file: &[u8], at: usize) -> (u32, u32, u64, u64, u64, bool) {
        let u32_at = |i: usize| u32::from_le_bytes(file[at + i..][..4].try_into().unwrap());
        let u64_at = |i: usize| u64::from_le_bytes(file[at + i..][..8].try_into().unwrap());
        let rest = file[at + 32..at + 64].iter().all(|&b| b == 0);
        (u32_at(0), u32_at(4), u64_at(8), u64_at(16), u64_at(24), rest)
    }

    #[test]
    fn layout_is_apples() {
        let mut writer = WeightsWriter::new();
        let t = Tensor::int(DType::UInt3, &[5], vec![0, 1, 2, 7, 5]);
        assert_eq!(writer.add(&t).unwrap(), 64);
        assert_eq!(writer.add_bytes(DType::Int8, 65, &[7; 65]).unwrap(), 192);
        assert_eq!(writer.add_f32_as(DType::Fp32, &[1.5]).unwrap(), 384);
        let file = writer.finish();

        assert_eq!(file[..8], [3, 0, 0, 0, 2, 0, 0, 0]);
        assert!(file[8..64].iter().all(|&b| b == 0));
        assert_eq!(fields(&file, 64), (0xdead_beef, 12, 2, 128, 1, true));
        assert_eq!(file[128..130], [0x88, 0x5e]);
        assert!(file[130..192].iter().all(|&b| b == 0));
        assert_eq!(fields(&file, 192), (0xdead_beef, 4, 65, 256, 0, true));
        assert_eq!(file[256..321], [7; 65]);
        assert_eq!(fields(&file, 384), (0xdead_beef, 2, 4, 448, 0, true));
        assert_eq!(file[448..], 1.5f32.to_le_bytes());
    }

    #[test]
    fn a_file_without_records_is_its_header() {
        let mut header = [0; 64];
        header[4] = 2;
        assert_eq!(WeightsWriter::new().finish(), header);
    }

    #[test]
    fn unused_bits_are_zeros() {
        let mut writer = WeightsWriter::new();
        writer.add_bytes(DType::UInt6, 3, &[0xff; 3]).unwrap();
        let file = writer.finish();
        assert_eq!(fields(&file, 64), (0xdead_beef, 13, 3, 128, 6, true));
        assert_eq!(file[128..], [0xff, 0xff, 0x03]);
    }

    #[test]
    fn f32_is_rounded_to_nearest_even_and_stays_special() {
        // Value, its nearest fp16, its nearest bf16: a tie to even below and above, the largest that rounds to a
        // finite fp16 and the smallest that does not, subnormals, a tie at half the smallest, infinities.
        let table: [(f32, u16, u16); 11] = [
            (1.0, 0x3c00, 0x3f80),
            (1.0 + 1.0 / 2048.0, 0x3c00, 0x3f80),
            (1.0 + 3.0 / 2048.0, 0x3c02, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3c0c, 0x3f82),
            (65519.996, 0x7bff, 0x4780),
            (65520.0, 0x7c00, 0x4780),
            (5.960_464_5e-8, 0x0001, 0x3380),
            (2.980_232_2e-8, 0x0000, 0x3300),
            (-0.0, 0x8000, 0x8000),
            (f32::INFINITY, 0x7c00, 0x7f80),
            (f32::NEG_INFINITY, 0xfc00, 0xff80),
        ];
        // Long enough for several chunks and a remainder of the vector code.
        let n = 3 * CHUNK + 5;
        let elements: Vec<f32> = (0..n).map(|i| table[i % table.len()].0).collect();
        for dtype in [DType::Fp16, DType::Bf16, DType::Fp32] {
            let mut writer = WeightsWriter::new();
            writer.add_f32_as(dtype, &elements).unwrap();
            let file = writer.finish();
            for (i, (x, fp16, bf16)) in table.iter().cycle().take(n).enumerate() {
                match dtype {
                    DType::Fp16 => assert_eq!(file[128 + 2 * i..][..2], fp16.to_le_bytes(), "fp16 {x}"),
                    DType::Bf16 => assert_eq!(file[128 + 2 * i..][..2], bf16.to_le_bytes(), "bf16 {x}"),
                    _ => assert_eq!(file[128 + 4 * i..][..4], x.to_le_bytes(), "fp32 {x}"),
                }
            }
        }
        for (dtype, exponent) in [(DType::Fp16, 0x7c00), (DType::Bf16, 0x7f80)] {
            // NaNs whose upper bits alone would be an infinity must not become one.
            for nan in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xff80_0001)] {
                for n in [1, 16] {
                    let mut writer = WeightsWriter::new();
                    writer.add_f32_as(dtype, &vec![nan; n]).unwrap();
                    for half in writer.finish()[128..].as_chunks::<2>().0 {
                        let bits = u16::from_le_bytes(*half);
                        assert!(bits & 0x7fff > exponent, "{dtype}: {bits:#06x} for {:#010x}", nan.to_bits());
                        assert_eq!(bits >> 15 == 1, nan.is_sign_negative());
                    }
                }
            }
        }
    }

    #[test]
    fn f32_as_eight_bits_goes_the_exact_way() {
        let mut writer = WeightsWriter::new();
        writer.add_f32_as(DType::Fp8E4M3Fn, &[1.0, 448.0]).unwrap();
        let file = writer.finish();
        assert_eq!(fields(&file, 64), (0xdead_beef, 16, 2, 128, 0, true));
        assert_eq!(file[128..], [0x38, 0x7e]);
    }

    #[test]
    fn what_no_file_can_hold_is_refused() {
        let mut writer = WeightsWriter::new();
        let refused = [
            (writer.add(&Tensor::bool(true)), "bool"),
            (writer.add(&Tensor::string("x")), "string"),
            (writer.add(&Tensor::i32s(&[])), "without elements"),
            (writer.add_bytes(DType::Int64, 1, &[0; 8]), "int64"),
            (writer.add_bytes(DType::Fp16, 2, &[0; 3]), "3 bytes for 2 elements of fp16, expected 4"),
            (writer.add_bytes(DType::UInt3, usize::MAX, &[]), "more than memory"),
            (writer.add_f32_as(DType::Int32, &[1.0]), "as int32"),
            (writer.add_f32_as(DType::Fp64, &[1.0]), "fp64"),
            (writer.add_f32_as(DType::Fp16, &[]), "without elements"),
        ];
        for (result, says) in refused {
            let error = result.unwrap_err();
            assert!(error.is_weights() && error.to_string().contains(says), "{error}");
        }
        assert_eq!(writer.finish(), WeightsWriter::new().finish(), "a refused record leaves nothing behind");
    }
}
