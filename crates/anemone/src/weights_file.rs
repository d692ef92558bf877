//! Named tensors in the safetensors format: <https://github.com/huggingface/safetensors#format>.

use crate::{Error, Result, file};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// The key under which the format keeps metadata, so that no tensor can have this name.
const METADATA_KEY: &str = "__metadata__";
/// The most bytes of header that the `safetensors` crate, and so every reader built on it, accepts.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// A tensor with the name it has in the model or the optimizer.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Unique in its file.
    pub name: String,
    /// Empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order, as many as `shape` says.
    pub data: Vec<f32>,
}

/// A tensor that lies elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct TensorView<'a> {
    pub(crate) name: String,
    pub(crate) shape: &'a [usize],
    pub(crate) data: &'a [f32],
}

impl<'a> From<&'a NamedTensor> for TensorView<'a> {
    fn from(tensor: &'a NamedTensor) -> TensorView<'a> {
        TensorView { name: tensor.name.clone(), shape: &tensor.shape, data: &tensor.data }
    }
}

impl From<TensorView<'_>> for NamedTensor {
    fn from(view: TensorView<'_>) -> NamedTensor {
        NamedTensor { name: view.name, shape: view.shape.to_vec(), data: view.data.to_vec() }
    }
}

impl PartialEq for NamedTensor {
    /// Same name, shape and bits: a NaN equals itself, and 0 differs from -0.
    fn eq(&self, other: &NamedTensor) -> bool {
        let bits = |t: &NamedTensor| t.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        self.name == other.name && self.shape == other.shape && bits(self) == bits(other)
    }
}

/// Writes `tensors` as F32 to `path`, in their order, with `metadata`; a file that is there is replaced in one
/// step. Equal arguments give equal bytes.
///
/// # Errors
///
/// If a name is empty, `__metadata__` or comes twice, if a shape does not fit its elements, or if writing fails.
pub fn save_safetensors(path: &Path, tensors: &[NamedTensor], metadata: &BTreeMap<String, String>) -> Result<()> {
    save_views(path, tensors.iter().map(TensorView::from).collect(), metadata)
}

/// As [`save_safetensors`], of tensors that lie elsewhere.
pub(crate) fn save_views(
    path: &Path,
    tensors: Vec<TensorView<'_>>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let doing = || format!("save weights to `{}`", path.display());
    let contents = Encoded::new(tensors, metadata).map_err(|e| e.context(doing()))?;
    file::replace(path, |w| contents.write(w))
}

/// The tensors of the safetensors file at `path` in the order of their data; F16 and BF16 are widened.
///
/// # Errors
///
/// If the file cannot be read, is no safetensors file, is cut short, or has a tensor of another type.
pub fn load_safetensors(path: &Path) -> Result<Vec<NamedTensor>> {
    let failed = |e: io::Error| match e.kind() {
        ErrorKind::InvalidData => Error::checkpoint(format!("load weights from `{}`: {e}", path.display())),
        _ => Error::io("read", path, e),
    };
    let file = File::open(path).map_err(failed)?;
    let n_bytes = file.metadata().map_err(failed)?.len();
    Ok(decode(file, n_bytes).map_err(failed)?.0)
}

/// A safetensors file about to be written.
///
/// The `safetensors` crate would keep metadata in random order and copy all elements; this writes the same bytes
/// for the same tensors and needs no second copy of them.
pub(crate) struct Encoded<'a> {
    /// The length field, the JSON, and spaces up to a multiple of 8 bytes.
    header: Vec<u8>,
    tensors: Vec<TensorView<'a>>,
    n_data_bytes: usize,
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(tensors: Vec<TensorView<'a>>, metadata: &BTreeMap<String, String>) -> Result<Encoded<'a>> {
        let mut names = HashSet::new();
        let mut fields = serde_json::Map::new();
        if !metadata.is_empty() {
            fields.insert(METADATA_KEY.into(), serde_json::json!(metadata));
        }
        let mut end = 0usize;
        for &TensorView { ref name, shape, data } in &tensors {
            if name.is_empty() || name == METADATA_KEY {
                return Err(Error::config(format!("a tensor cannot have the name `{name}`: give it another one")));
            }
            if !names.insert(name) {
                return Err(Error::config(format!("two tensors have the name `{name}`: rename one of them")));
            }
            let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if n != Some(data.len()) {
                let n_data = data.len();
                return Err(Error::config(format!("tensor `{name}` has shape {shape:?} but {n_data} elements")));
            }
            let start = end;
            end += size_of_val(data);
            let info = TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) };
            fields.insert(name.clone(), serde_json::json!(info));
        }
        let mut json = serde_json::Value::Object(fields).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() > MAX_HEADER_BYTES {
            let n = json.len();
            return Err(Error::config(format!(
                "names, shapes and metadata take {n} bytes, more than the {MAX_HEADER_BYTES} that can be read back"
            )));
        }
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json);
        Ok(Encoded { header, tensors, n_data_bytes: end })
    }

    /// The size of the file in bytes.
    pub(crate) fn n_bytes(&self) -> u64 {
        (self.header.len() + self.n_data_bytes) as u64
    }

    pub(crate) fn write(&self, w: &mut (impl Write + ?Sized)) -> io::Result<()> {
        w.write_all(&self.header)?;
        let mut bytes = Vec::new();
        for part in self.tensors.iter().flat_map(|t| t.data.chunks(1 << 14)) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|x| x.to_le_bytes()));
            w.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// The tensors and the metadata of a safetensors file of so many bytes; takes memory only for the tensors.
///
/// # Errors
///
/// [`ErrorKind::InvalidData`], with the reason, if it is no such file, and whatever reading gives.
pub(crate) fn decode(mut r: impl Read, n_bytes: u64) -> io::Result<(Vec<NamedTensor>, BTreeMap<String, String>)> {
    let invalid = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    let foreign = |why: &dyn Display| invalid(format!("not a safetensors file, or a damaged one: {why}"));
    let n_after_length = n_bytes.checked_sub(8).ok_or_else(|| foreign(&format!("it has {n_bytes} bytes")))?;
    let mut length = [0; 8];
    r.read_exact(&mut length)?;
    let n_header = u64::from_le_bytes(length);
    if n_header > n_after_length.min(MAX_HEADER_BYTES as u64) {
        return Err(foreign(&format!("a header of {n_header} bytes in a file of {n_bytes}")));
    }
    let mut header = vec![0; n_header as usize];
    r.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| foreign(&e))?;
    let (expected, found) = (header.data_len() as u64, n_after_length - n_header);
    if expected != found {
        return Err(foreign(&format!("{found} bytes of elements, but its header says {expected}")));
    }
    let mut infos: Vec<_> = header.tensors().into_iter().collect();
    // Tensors without elements may share a place; their names make the order certain.
    infos.sort_by(|(a_name, a), (b_name, b)| (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name)));
    let mut tensors = Vec::new();
    for (name, info) in infos {
        let n = info.data_offsets.1 - info.data_offsets.0;
        let data = match info.dtype {
            Dtype::F32 => elements(&mut r, n, f32::from_le_bytes),
            Dtype::F16 => elements(&mut r, n, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => elements(&mut r, n, |b| bf16::from_le_bytes(b).to_f32()),
            other => {
                let expected = "expected F32, F16 or BF16: convert it";
                return Err(invalid(format!("tensor `{name}` is of type {other}, {expected}")));
            }
        };
        tensors.push(NamedTensor { name, shape: info.shape.clone(), data: data? });
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default().into_iter().collect()))
}

/// The elements that the next `n_bytes` hold, `N` bytes each.
fn elements<const N: usize>(
    r: &mut impl Read,
    n_bytes: usize,
    element: impl Fn([u8; N]) -> f32,
) -> io::Result<Vec<f32>> {
    let mut elements = Vec::new();
    // Refused instead of fatal if there is no such memory.
    elements.try_reserve_exact(n_bytes / N).map_err(|_| ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; n_bytes.min(1 << 16)];
    let mut n_left = n_bytes;
    while n_left > 0 {
        let n = n_left.min(bytes.len());
        r.read_exact(&mut bytes[..n])?;
        elements.extend(bytes[..n].as_chunks().0.iter().map(|&b| element(b)));
        n_left -= n;
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;
    use std::fs;

    fn tensor(name: &str, shape: &[usize], data: &[f32]) -> NamedTensor {
        NamedTensor { name: name.into(), shape: shape.to_vec(), data: data.to_vec() }
    }

    fn some_tensors() -> Vec<NamedTensor> {
        // A signalling NaN with a payload, a negative quiet NaN, -0, the smallest subnormal, infinity.
        let odd = [0x7fa1_2345, 0xffc0_0001, 0x8000_0000, 1, 0x7f80_0000, 0x3f80_0000].map(f32::from_bits);
        vec![
            tensor("z.weight", &[1, 3, 1, 2], &odd),
            tensor("a \"quoted\" \u{e9}\n", &[], &[0.1]),
            tensor("none", &[2, 0], &[]),
            tensor("b", &[20_000], &vec![1.5; 20_000]),
        ]
    }

    #[test]
    fn every_bit_the_order_and_the_metadata_come_back_and_the_crate_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let tensors = some_tensors();
        let metadata: BTreeMap<_, _> = (0..20).map(|i| (format!("key {i}"), format!("line\n\"{i}\""))).collect();
        save_safetensors(&path, &tensors, &metadata).unwrap();
        assert_eq!(load_safetensors(&path).unwrap(), tensors);

        let bytes = fs::read(&path).unwrap();
        assert_eq!(decode(&bytes[..], bytes.len() as u64).unwrap().1, metadata);
        let by_crate = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(by_crate.len(), tensors.len());
        assert_eq!(by_crate.tensor("z.weight").unwrap().data()[..4], 0x7fa1_2345u32.to_le_bytes());
        assert_eq!((bytes.len() - 4 * (6 + 1 + 20_000)) % 8, 0, "data begins at a multiple of 8");

        save_safetensors(&path, &tensors, &metadata).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "equal arguments, equal bytes");
    }

    #[test]
    fn half_precision_is_widened_and_integers_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        let view = |dtype, bytes| TensorView::new(dtype, vec![2], bytes).unwrap();
        let f16s: Vec<u8> = [1.5, -65504.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let bf16s: Vec<u8> = [1.5, -3e38].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let file = [("f", view(Dtype::F16, &f16s)), ("g", view(Dtype::BF16, &bf16s))];
        fs::write(&path, safetensors::serialize(file, None).unwrap()).unwrap();
        let mut loaded = load_safetensors(&path).unwrap();
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        let wide = bf16::from_f32(-3e38).to_f32();
        assert_eq!(loaded, [tensor("f", &[2], &[1.5, -65504.0]), tensor("g", &[2], &[1.5, wide])]);

        let file = [("ids", view(Dtype::I16, &f16s))];
        fs::write(&path, safetensors::serialize(file, None).unwrap()).unwrap();
        let e = load_safetensors(&path).unwrap_err().to_string();
        assert!(e.contains("`ids` is of type I16, expected F32, F16 or BF16"), "{e}");
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        for (tensors, message) in [
            (vec![tensor("a", &[1], &[1.0]), tensor("a", &[1], &[2.0])], "two tensors have the name `a`"),
            (vec![tensor("a", &[2, 2], &[1.0])], "tensor `a` has shape [2, 2] but 1 elements"),
            (vec![tensor("a", &[usize::MAX, 2], &[1.0])], "but 1 elements"),
            (vec![tensor("__metadata__", &[1], &[1.0])], "cannot have the name `__metadata__`"),
        ] {
            let e = save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap_err();
            assert!(e.is_config() && e.to_string().contains(message), "{e}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn every_truncation_and_a_lying_header_length_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        save_safetensors(&path, &some_tensors()[..3], &BTreeMap::new()).unwrap();
        let whole = fs::read(&path).unwrap();
        for n in 0..whole.len() {
            assert!(decode(&whole[..n], n as u64).is_err(), "{n} of {} bytes", whole.len());
        }
        for lie in [u64::MAX, u64::MAX - 8, 1 << 40, whole.len() as u64, 0] {
            let mut bytes = whole.clone();
            bytes[..8].copy_from_slice(&lie.to_le_bytes());
            assert!(decode(&bytes[..], bytes.len() as u64).is_err(), "{lie}");
        }
    }
}
