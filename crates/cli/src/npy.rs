//! NumPy's `.npy` files as tensors, and tensors as `.npy` files.

use anemone_mil::Tensor;
use anemone_mil::ir::DType;
use anyhow::{Context, Result, bail};
use half::f16;
use npyz::{NpyFile, Order, TypeChar, WriterBuilder};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

/// The array in the file at `path`, in the element type of the file.
///
/// # Errors
///
/// If the file cannot be read, or its elements are neither real numbers nor booleans.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    let open = || -> Result<Tensor> { read_from(BufReader::new(File::open(path)?)) };
    open().with_context(|| format!("read `{}`", path.display()))
}

fn read_from(reader: impl Read) -> Result<Tensor> {
    let npy = NpyFile::new(reader)?;
    let order = npy.order();
    let shape = npy.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>()?;
    let npyz::DType::Plain(ty) = npy.dtype() else {
        bail!("elements are records, expected numbers: save each field as an array of its own");
    };
    let tensor = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 2) => floats(DType::Fp16, &shape, npy.into_vec::<f16>()?),
        (TypeChar::Float, 4) => floats(DType::Fp32, &shape, npy.into_vec::<f32>()?),
        (TypeChar::Float, 8) => floats(DType::Fp64, &shape, npy.into_vec::<f64>()?),
        (TypeChar::Bool, _) => ints(DType::Bool, &shape, npy.into_vec::<bool>()?),
        (TypeChar::Int, 1) => ints(DType::Int8, &shape, npy.into_vec::<i8>()?),
        (TypeChar::Int, 2) => ints(DType::Int16, &shape, npy.into_vec::<i16>()?),
        (TypeChar::Int, 4) => ints(DType::Int32, &shape, npy.into_vec::<i32>()?),
        (TypeChar::Int, 8) => ints(DType::Int64, &shape, npy.into_vec::<i64>()?),
        (TypeChar::Uint, 1) => ints(DType::UInt8, &shape, npy.into_vec::<u8>()?),
        (TypeChar::Uint, 2) => ints(DType::UInt16, &shape, npy.into_vec::<u16>()?),
        (TypeChar::Uint, 4) => ints(DType::UInt32, &shape, npy.into_vec::<u32>()?),
        _ => bail!(
            "elements of type `{ty}`, expected real numbers or booleans: convert them, as by NumPy's `astype`"
        ),
    };
    Ok(if order == Order::Fortran { row_major(&tensor) } else { tensor })
}

fn floats<T: Into<f64>>(dtype: DType, shape: &[usize], elements: Vec<T>) -> Tensor {
    Tensor::exact(dtype, shape, elements.into_iter().map(Into::into).collect())
}

fn ints<T: Into<i64>>(dtype: DType, shape: &[usize], elements: Vec<T>) -> Tensor {
    Tensor::int(dtype, shape, elements.into_iter().map(Into::into).collect())
}

/// The tensor whose elements stand with the first index running fastest, in row-major order.
fn row_major(t: &Tensor) -> Tensor {
    let shape = t.shape();
    t.picked(shape, |mut i| {
        // The index in each dimension, last first, and what it counts for in the file.
        let mut at = 0;
        for (d, &n) in shape.iter().enumerate().rev() {
            at += i % n * shape[..d].iter().product::<usize>();
            i /= n;
        }
        at
    })
}

/// Writes a tensor as `.npy`. Element types that NumPy lacks become the next wider one that it has.
///
/// # Errors
///
/// If the file cannot be written, or the elements are strings.
pub(crate) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let write = || {
        let (f, i) = (tensor.floats().unwrap_or_default(), tensor.ints().unwrap_or_default());
        match tensor.dtype() {
            DType::Fp16 => put(path, tensor, f.iter().map(|&x| f16::from_f64(x))),
            DType::Fp32 | DType::Bf16 | DType::Fp8E4M3Fn | DType::Fp8E5M2 => {
                put(path, tensor, f.iter().map(|&x| x as f32))
            }
            DType::Fp64 => put(path, tensor, f.iter().copied()),
            DType::Bool => put(path, tensor, i.iter().map(|&x| x != 0)),
            DType::Int4 | DType::Int8 => put(path, tensor, i.iter().map(|&x| x as i8)),
            DType::Int16 => put(path, tensor, i.iter().map(|&x| x as i16)),
            DType::Int32 => put(path, tensor, i.iter().map(|&x| x as i32)),
            DType::Int64 => put(path, tensor, i.iter().copied()),
            DType::UInt1 | DType::UInt2 | DType::UInt3 | DType::UInt4 | DType::UInt6 | DType::UInt8 => {
                put(path, tensor, i.iter().map(|&x| x as u8))
            }
            DType::UInt16 => put(path, tensor, i.iter().map(|&x| x as u16)),
            DType::UInt32 => put(path, tensor, i.iter().map(|&x| x as u32)),
            DType::UInt64 => put(path, tensor, i.iter().map(|&x| x as u64)),
            DType::String => bail!("a tensor of strings cannot be written"),
        }
    };
    write().with_context(|| format!("write `{}`", path.display()))
}

fn put<T: npyz::AutoSerialize>(path: &Path, tensor: &Tensor, elements: impl Iterator<Item = T>) -> Result<()> {
    let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(elements)?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        for dtype in DType::ALL.into_iter().filter(|&d| d != DType::String && d != DType::UInt64) {
            let tensor = if dtype.is_float() {
                Tensor::float(dtype, &[2, 1, 2], vec![0.5, -1.0, 2.0, 3.0])
            } else {
                Tensor::int(dtype, &[2, 1, 2], vec![1, 0, -1, 3])
            };
            write(&path, &tensor).unwrap();
            let read = read(&path).unwrap();
            assert_eq!((read.shape(), read.to_f64s()), (tensor.shape(), tensor.to_f64s()), "{dtype}");
            let bits = dtype.bits().unwrap();
            let same =
                matches!(bits, 16 | 32 | 64) && dtype != DType::Bf16 || matches!(bits, 8) && !dtype.is_float();
            assert_eq!(read.dtype() == dtype, same, "{dtype} came back as {}", read.dtype());
        }
        let scalar = Tensor::float(DType::Fp32, &[], vec![2.0]);
        write(&path, &scalar).unwrap();
        assert_eq!(read(&path).unwrap(), scalar);
        assert!(write(&path, &Tensor::string("a")).is_err());
    }

    #[test]
    fn fortran_order_becomes_row_major() {
        // numpy.asfortranarray(numpy.arange(6, dtype="<u1").reshape(2, 3))
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([0, 3, 1, 4, 2, 5]);
        let tensor = read_from(&bytes[..]).unwrap();
        assert_eq!(tensor, Tensor::int(DType::UInt8, &[2, 3], vec![0, 1, 2, 3, 4, 5]));
        assert!(read_from(&bytes[..bytes.len() - 1]).is_err());
    }
}
