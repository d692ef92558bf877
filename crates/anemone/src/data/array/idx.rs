//! The IDX format, in which MNIST is published: two zeros, the element type, the number of dimensions, the sizes
//! as 32 bits each, the elements; all big-endian (Y. LeCun, C. Cortes, C. Burges: The MNIST database).

use super::element::Element;
use super::{Parse, Parsed, n_elements};

pub(super) fn parse(bytes: &[u8]) -> Parse<Parsed> {
    let [0, 0, code, rank, rest @ ..] = bytes else {
        return Err("IDX: no header, expected two zeros, an element type and a number of dimensions".into());
    };
    let element = match code {
        0x08 => Element::U8,
        0x09 => Element::I8,
        0x0b => Element::I16,
        0x0c => Element::I32,
        0x0d => Element::F32,
        0x0e => Element::F64,
        _ => return Err(format!("IDX: element type {code:#04x}, expected 0x08, 0x09, or 0x0b to 0x0e")),
    };
    let rank = usize::from(*rank);
    let Some((sizes, elements)) = rest.split_at_checked(4 * rank) else {
        return Err(format!("IDX: the file ends in the sizes of its {rank} dimensions"));
    };
    let shape: Vec<usize> = sizes.as_chunks().0.iter().map(|&b| u32::from_be_bytes(b) as usize).collect();
    let expected = n_elements(&shape)?.checked_mul(element.size());
    if expected != Some(elements.len()) {
        let expected = expected.map_or("more than there can be".into(), |n| n.to_string());
        return Err(format!("IDX: {} bytes of elements, expected {expected} for shape {shape:?}", elements.len()));
    }
    Ok(Parsed { values: element.decode(elements, true), shape, columns: None })
}
