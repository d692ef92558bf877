//! NumPy's `.npy` and the `.npz` archives of them.
//!
//! The header is read here: what reads it elsewhere multiplies sizes without looking and parses any Python
//! literal, to any depth, so that a hostile file could end the process.

use super::element::Element;
use super::{Parse, Parsed, n_elements};
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// How a file begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads a `.npy` file (NumPy: `numpy.lib.format`): magic, version, length of the header, the header as a Python
/// dictionary, the elements.
pub(super) fn parse(bytes: &[u8]) -> Parse<Parsed> {
    let Some([major, _, rest @ ..]) = bytes.strip_prefix(MAGIC) else {
        return Err("npy: no magic number and version".into());
    };
    let cut = || "npy: the file ends in its header".to_string();
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(&n, rest)| (usize::from(u16::from_le_bytes(n)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(&n, rest)| (u32::from_le_bytes(n) as usize, rest)),
        _ => return Err(format!("npy: version {major}, expected 1, 2 or 3")),
    }
    .ok_or_else(cut)?;
    let (header, elements) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| "npy: the header is no text")?;
    let (element, big_endian) = element(field(header, "descr")?)?;
    let shape = shape(field(header, "shape")?)?;
    let expected = n_elements(&shape)?.checked_mul(element.size());
    if expected != Some(elements.len()) {
        let expected = expected.map_or("more than there can be".into(), |n| n.to_string());
        return Err(format!("npy: {} bytes of elements, expected {expected} for shape {shape:?}", elements.len()));
    }
    let values = element.decode(elements, big_endian);
    let values = match field(header, "fortran_order")? {
        order if order.starts_with("False") => values,
        order if order.starts_with("True") => row_major(&shape, &values),
        order => return Err(format!("npy: `fortran_order` is `{order}`, expected True or False")),
    };
    Ok(Parsed { shape, values, columns: None })
}

/// Reads an array of an archive; without a name the only one.
pub(super) fn parse_archive(bytes: &[u8], name: Option<&str>) -> Parse<Parsed> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("npz: {e}"))?;
    let names: Vec<String> =
        archive.file_names().filter_map(|name| Some(name.ok()?.strip_suffix(".npy")?.to_string())).collect();
    let name = match (name, &names[..]) {
        (Some(name), _) if names.iter().any(|n| n == name) => name.to_string(),
        (None, [only]) => only.clone(),
        (found, _) => {
            let found =
                found.map_or("no array is named".to_string(), |name| format!("there is no array `{name}`"));
            return Err(format!("npz: {found}, expected `#` and one of {} after the file", names.join(", ")));
        }
    };
    let wrong = |e: &dyn std::fmt::Display| format!("npz: array `{name}`: {e}");
    let mut array = Vec::new();
    let mut file = archive.by_name(&format!("{name}.npy")).map_err(|e| wrong(&e))?;
    // It grows with what is there, not with what the archive says.
    file.read_to_end(&mut array).map_err(|e| wrong(&e))?;
    parse(&array).map_err(|e| wrong(&e))
}

/// What stands after a key of the header. NumPy writes keys in single quotes.
fn field<'a>(header: &'a str, key: &str) -> Parse<&'a str> {
    let quoted = format!("'{key}':");
    let at = header.find(&quoted).ok_or_else(|| format!("npy: the header has no `{key}`"))?;
    Ok(header[at + quoted.len()..].trim_start())
}

/// The element type, and whether it is big-endian.
fn element(descr: &str) -> Parse<(Element, bool)> {
    let name = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next()).unwrap_or("records");
    let element = match name.trim_start_matches(['<', '>', '|', '=']) {
        "b1" => Element::Bool,
        "u1" => Element::U8,
        "u2" => Element::U16,
        "u4" => Element::U32,
        "u8" => Element::U64,
        "i1" => Element::I8,
        "i2" => Element::I16,
        "i4" => Element::I32,
        "i8" => Element::I64,
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        _ => return Err(format!("npy: elements are `{name}`, expected real numbers of up to 64 bits")),
    };
    Ok((element, name.starts_with('>')))
}

fn shape(tuple: &str) -> Parse<Vec<usize>> {
    let sizes = tuple.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(sizes, _)| sizes);
    let sizes = sizes.ok_or("npy: the shape is no tuple")?;
    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().map_err(|_| format!("npy: `{size}` in the shape, expected a size"))).collect()
}

/// The elements in row-major order, of those that stand with the first index running fastest.
fn row_major(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |stride, &size| {
            let this = *stride;
            *stride *= size;
            Some(this)
        })
        .collect();
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(values.len());
    while out.len() < values.len() {
        out.push(values[at]);
        // The next index, the last dimension fastest, and where it stands.
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
    out
}
