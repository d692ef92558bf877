//! Tensors as the reference interpreter and the constants of a program hold them: exact and slow.
//!
//! Floating-point elements are carried as `f64`, integers and booleans as `i64`, whatever their declared type;
//! an element always lies on the grid of its type, because every tensor is rounded when it is made. Each op
//! therefore computes in `f64` and rounds once, which is what "correctly rounded" means.

use crate::ir::{DType, TensorType};
use half::{bf16, f16};
use std::sync::Arc;

/// Elements in row-major order, with their type and shape. Cloning shares the elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// The elements.
#[derive(Clone, Debug)]
pub enum Data {
    /// Of the floating-point types.
    Float(Arc<[f64]>),
    /// Of the integer types and of `bool` (0 or 1). `uint64` beyond `i64::MAX` is kept as its bit pattern.
    Int(Arc<[i64]>),
    /// Of `string`.
    Str(Arc<[String]>),
}

impl PartialEq for Tensor {
    /// Same type, shape and bits: NaN equals NaN, and 0 differs from -0.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Float(a), Data::Float(b)) => {
                    a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
                }
                (Data::Int(a), Data::Int(b)) => a == b,
                (Data::Str(a), Data::Str(b)) => a == b,
                _ => false,
            }
    }
}

impl Tensor {
    /// A tensor of floating-point elements, each rounded to `dtype`.
    ///
    /// # Panics
    ///
    /// If `dtype` is no floating-point type or the number of elements is not the product of `shape`.
    pub fn float(dtype: DType, shape: &[usize], mut elements: Vec<f64>) -> Tensor {
        assert!(dtype.is_float(), "{dtype} is no floating-point type");
        if dtype != DType::Fp64 {
            elements.iter_mut().for_each(|x| *x = round_float(dtype, *x));
        }
        Tensor::exact(dtype, shape, elements)
    }

    /// A tensor of floating-point elements kept as they are, off the grid of `dtype` or not: how the interpreter
    /// computes in f64 whatever the program declares.
    ///
    /// # Panics
    ///
    /// As [`Tensor::float`].
    pub fn exact(dtype: DType, shape: &[usize], elements: Vec<f64>) -> Tensor {
        assert!(dtype.is_float(), "{dtype} is no floating-point type");
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of shape {shape:?}");
        Tensor { dtype, shape: shape.to_vec(), data: Data::Float(elements.into()) }
    }

    /// A tensor of integers or booleans, each wrapped to `dtype` (two's complement; `bool` is whether it is not
    /// 0).
    ///
    /// # Panics
    ///
    /// If `dtype` is neither an integer type nor `bool`, or the number of elements is not the product of `shape`.
    pub fn int(dtype: DType, shape: &[usize], mut elements: Vec<i64>) -> Tensor {
        assert!(dtype.is_int() || dtype == DType::Bool, "{dtype} is no integer type");
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of shape {shape:?}");
        elements.iter_mut().for_each(|x| *x = wrap_int(dtype, *x));
        Tensor { dtype, shape: shape.to_vec(), data: Data::Int(elements.into()) }
    }

    /// A tensor of strings.
    ///
    /// # Panics
    ///
    /// If the number of elements is not the product of `shape`.
    pub fn strings(shape: &[usize], elements: Vec<String>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of shape {shape:?}");
        Tensor { dtype: DType::String, shape: shape.to_vec(), data: Data::Str(elements.into()) }
    }

    /// A tensor of zeros; of empty strings for `string`.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let data = match dtype {
            DType::String => Data::Str(vec![String::new(); n].into()),
            _ if dtype.is_float() => Data::Float(vec![0.0; n].into()),
            _ => Data::Int(vec![0; n].into()),
        };
        Tensor { dtype, shape: shape.to_vec(), data }
    }

    /// A string.
    pub fn string(s: impl Into<String>) -> Tensor {
        Tensor::strings(&[], vec![s.into()])
    }

    /// A boolean.
    pub fn bool(b: bool) -> Tensor {
        Tensor::int(DType::Bool, &[], vec![b.into()])
    }

    /// An `int32` scalar.
    pub fn i32(x: i32) -> Tensor {
        Tensor::int(DType::Int32, &[], vec![x.into()])
    }

    /// An `int32` vector, as most arguments of ops are.
    pub fn i32s(xs: &[i32]) -> Tensor {
        Tensor::int(DType::Int32, &[xs.len()], xs.iter().map(|&x| x.into()).collect())
    }

    /// The elements of type `dtype` that lie in `bytes`: little-endian, those narrower than a byte as one stream
    /// of bits, least significant first. `None` if there are too few bytes, or for strings.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<Tensor> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let bits = dtype.bits()? as usize;
        let bytes = bytes.get(..n.checked_mul(bits)?.div_ceil(8))?;
        let shape = shape.to_vec();
        let data = if dtype.is_float() {
            Data::Float(match dtype {
                DType::Fp16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f64()).collect(),
                DType::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f64()).collect(),
                DType::Fp32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
                DType::Fp64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
                _ => bytes.iter().map(|&b| fp8_to_f64(dtype, b)).collect(),
            })
        } else if bits < 8 {
            let bit = |i: usize| (bytes[i / 8] >> (i % 8) & 1) as i64;
            let element = |i: usize| (0..bits).map(|k| bit(i * bits + k) << k).sum::<i64>();
            Data::Int((0..n).map(|i| wrap_int(dtype, element(i))).collect())
        } else {
            Data::Int(
                bytes
                    .chunks_exact(bits / 8)
                    .map(|b| wrap_int(dtype, b.iter().rev().fold(0i64, |x, &b| (x << 8) | i64::from(b))))
                    .collect(),
            )
        };
        Some(Tensor { dtype, shape, data })
    }

    /// The elements as [`Tensor::from_bytes`] reads them; unused bits of the last byte are 0. `None` for strings.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bits = self.dtype.bits()? as usize;
        Some(match &self.data {
            Data::Str(_) => return None,
            Data::Float(xs) => match self.dtype {
                DType::Fp16 => xs.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect(),
                DType::Bf16 => xs.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect(),
                DType::Fp32 => xs.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
                DType::Fp64 => xs.iter().flat_map(|&x| x.to_le_bytes()).collect(),
                _ => xs.iter().map(|&x| f64_to_fp8(self.dtype, x)).collect(),
            },
            Data::Int(xs) if bits < 8 => {
                let mut bytes = vec![0u8; (xs.len() * bits).div_ceil(8)];
                for (i, x) in xs.iter().enumerate() {
                    for k in 0..bits {
                        let at = i * bits + k;
                        bytes[at / 8] |= ((x >> k & 1) as u8) << (at % 8);
                    }
                }
                bytes
            }
            Data::Int(xs) => xs.iter().flat_map(|x| x.to_le_bytes().into_iter().take(bits / 8)).collect(),
        })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, &self.shape)
    }

    /// The number of elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(x) => x.len(),
            Data::Int(x) => x.len(),
            Data::Str(x) => x.len(),
        }
    }

    /// The elements, whichever they are.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements of a tensor of floating-point numbers.
    pub fn floats(&self) -> Option<&[f64]> {
        match &self.data {
            Data::Float(x) => Some(x),
            _ => None,
        }
    }

    /// The elements of a tensor of integers or booleans.
    pub fn ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(x) => Some(x),
            _ => None,
        }
    }

    /// The elements of a tensor of strings.
    pub fn strs(&self) -> Option<&[String]> {
        match &self.data {
            Data::Str(x) => Some(x),
            _ => None,
        }
    }

    /// Numbers of either kind as `f64`; empty for strings.
    pub fn to_f64s(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(x) => x.to_vec(),
            Data::Int(x) => x.iter().map(|&x| x as f64).collect(),
            Data::Str(_) => Vec::new(),
        }
    }

    /// The same elements in another shape; `None` if it has another number of elements.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Tensor> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (n == self.len()).then(|| Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// The elements of this and other tensors of its type end to end, so that one index reaches any of them.
    pub(crate) fn joined(&self, others: &[&Tensor]) -> Tensor {
        let all = || std::iter::once(self).chain(others.iter().copied());
        let data = match &self.data {
            Data::Float(_) => Data::Float(all().filter_map(Tensor::floats).flatten().copied().collect()),
            Data::Int(_) => Data::Int(all().filter_map(Tensor::ints).flatten().copied().collect()),
            Data::Str(_) => Data::Str(all().filter_map(Tensor::strs).flatten().cloned().collect()),
        };
        let mut out = Tensor { dtype: self.dtype, shape: Vec::new(), data };
        out.shape.push(out.len());
        out
    }

    /// The tensor of `shape` whose `i`-th element is the `index(i)`-th of this one, whatever its type.
    ///
    /// # Panics
    ///
    /// If an index is out of range.
    pub fn picked(&self, shape: &[usize], index: impl Fn(usize) -> usize) -> Tensor {
        let n = shape.iter().product();
        let data = match &self.data {
            Data::Float(x) => Data::Float((0..n).map(|i| x[index(i)]).collect()),
            Data::Int(x) => Data::Int((0..n).map(|i| x[index(i)]).collect()),
            Data::Str(x) => Data::Str((0..n).map(|i| x[index(i)].clone()).collect()),
        };
        Tensor { dtype: self.dtype, shape: shape.to_vec(), data }
    }
}

/// `x` rounded to the nearest number of a floating-point type, ties to even.
pub fn round_float(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::Fp16 => f16::from_f64(x).to_f64(),
        DType::Fp32 => (x as f32).into(),
        DType::Bf16 => bf16::from_f64(x).to_f64(),
        DType::Fp8E4M3Fn | DType::Fp8E5M2 => fp8_to_f64(dtype, f64_to_fp8(dtype, x)),
        _ => x,
    }
}

/// `x` wrapped to an integer type; for `bool`, whether it is not 0.
pub fn wrap_int(dtype: DType, x: i64) -> i64 {
    match dtype {
        DType::Bool => (x != 0).into(),
        DType::Int64 | DType::UInt64 | DType::String => x,
        _ => {
            let bits = dtype.bits().unwrap_or(64);
            let low = x & ((1i64 << bits) - 1);
            let negative = dtype <= DType::Int64 && low >> (bits - 1) == 1;
            if negative { low - (1i64 << bits) } else { low }
        }
    }
}

/// Mantissa bits and exponent bias of an 8-bit float.
fn fp8_format(dtype: DType) -> (u32, i32) {
    if dtype == DType::Fp8E4M3Fn { (3, 7) } else { (2, 15) }
}

fn fp8_to_f64(dtype: DType, byte: u8) -> f64 {
    let (m_bits, bias) = fp8_format(dtype);
    let sign = if byte & 0x80 != 0 { -1.0 } else { 1.0 };
    let magnitude = byte & 0x7f;
    let (e, m) = (i32::from(magnitude >> m_bits), f64::from(magnitude & ((1 << m_bits) - 1)));
    let unit = f64::from(1u32 << m_bits);
    match (dtype, magnitude) {
        (DType::Fp8E4M3Fn, 0x7f) => f64::NAN,
        (DType::Fp8E5M2, 0x7c) => sign * f64::INFINITY,
        (DType::Fp8E5M2, 0x7d..) => f64::NAN,
        _ if e == 0 => sign * m / unit * 2f64.powi(1 - bias),
        _ => sign * (1.0 + m / unit) * 2f64.powi(e - bias),
    }
}

/// Nearest, ties to even; beyond the largest number infinity for E5M2 and NaN for E4M3FN, which has none.
fn f64_to_fp8(dtype: DType, x: f64) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let (nan, beyond, largest) = if dtype == DType::Fp8E4M3Fn { (0x7f, 0x7f, 0x7e) } else { (0x7f, 0x7c, 0x7b) };
    if x.is_nan() {
        return sign | nan;
    }
    if x.is_infinite() {
        return sign | beyond;
    }
    let (m_bits, bias) = fp8_format(dtype);
    let a = x.abs();
    // The spacing of numbers around `a`, not below that of the subnormals.
    let exponent = if a > 0.0 { (a.log2().floor() as i32).max(1 - bias) } else { 1 - bias };
    let exponent = if a < 2f64.powi(exponent) && exponent > 1 - bias { exponent - 1 } else { exponent };
    let steps = (a / 2f64.powi(exponent - m_bits as i32)).round_ties_even();
    let code = steps + f64::from((exponent + bias - 1) << m_bits);
    sign | if code > f64::from(largest) { beyond } else { code as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_land_on_the_grid_of_their_type() {
        let t = Tensor::float(DType::Fp16, &[3], vec![2049.0, 1e-8, 70000.0]);
        assert_eq!(t.floats(), Some(&[2048.0, 0.0, f64::INFINITY][..]));
        let t = Tensor::int(DType::Int4, &[3], vec![7, 8, -9]);
        assert_eq!(t.ints(), Some(&[7, -8, 7][..]));
    }

    #[test]
    fn narrow_elements_are_one_stream_of_bits() {
        // The examples of Apple's storage format: uint4 [0,1,2,15,9] and uint3 [0,1,2,7,5].
        for (dtype, elements, bytes) in [
            (DType::UInt4, [0, 1, 2, 15, 9], &[0x10, 0xf2, 0x09]),
            (DType::UInt3, [0, 1, 2, 7, 5], &[0x88, 0x5e, 0x00]),
        ] {
            let t = Tensor::int(dtype, &[5], elements.to_vec());
            let packed = t.to_bytes().unwrap();
            assert_eq!(packed, bytes[..packed.len()]);
            assert_eq!(Tensor::from_bytes(dtype, &[5], &packed).unwrap(), t);
        }
    }

    #[test]
    fn every_fp8_number_survives() {
        for dtype in [DType::Fp8E4M3Fn, DType::Fp8E5M2] {
            for byte in 0..=255u8 {
                let x = fp8_to_f64(dtype, byte);
                if !x.is_nan() {
                    assert_eq!(f64_to_fp8(dtype, x), byte, "{dtype} {byte:#x} {x}");
                }
            }
        }
        assert_eq!(round_float(DType::Fp8E4M3Fn, 448.0), 448.0);
        assert!(round_float(DType::Fp8E4M3Fn, 500.0).is_nan());
        assert_eq!(round_float(DType::Fp8E5M2, 1e9), f64::INFINITY);
    }

    #[test]
    fn bytes_of_every_type_are_read_back() {
        for dtype in DType::ALL.into_iter().filter(|&d| d != DType::String) {
            let t = if dtype.is_float() {
                Tensor::float(dtype, &[2, 2], vec![0.5, -1.0, 0.0, 3.0])
            } else {
                Tensor::int(dtype, &[2, 2], vec![1, 0, 1, -1])
            };
            assert_eq!(Tensor::from_bytes(dtype, &[2, 2], &t.to_bytes().unwrap()).unwrap(), t, "{dtype}");
        }
        assert!(Tensor::from_bytes(DType::Fp32, &[2], &[0; 7]).is_none());
        assert!(Tensor::from_bytes(DType::Fp32, &[usize::MAX, 2], &[0; 8]).is_none());
    }
}
