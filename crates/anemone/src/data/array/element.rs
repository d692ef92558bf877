//! The element types of files of numbers.

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Element {
    /// Bytes an element.
    pub(super) fn size(self) -> usize {
        match self {
            Element::Bool | Element::U8 | Element::I8 => 1,
            Element::U16 | Element::I16 | Element::F16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::U64 | Element::I64 | Element::F64 => 8,
        }
    }

    /// The elements in these bytes, each rounded to f32.
    pub(super) fn decode(self, bytes: &[u8], big_endian: bool) -> Vec<f32> {
        // The arms differ in the type alone.
        macro_rules! each {
            ($ty:ty, $to_f32:expr) => {{
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$ty>() }>();
                let to_f32: fn($ty) -> f32 = $to_f32;
                match big_endian {
                    true => chunks.iter().map(|&b| to_f32(<$ty>::from_be_bytes(b))).collect(),
                    false => chunks.iter().map(|&b| to_f32(<$ty>::from_le_bytes(b))).collect(),
                }
            }};
        }
        match self {
            Element::Bool | Element::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            Element::I8 => each!(i8, |x| f32::from(x)),
            Element::U16 => each!(u16, |x| f32::from(x)),
            Element::I16 => each!(i16, |x| f32::from(x)),
            Element::U32 => each!(u32, |x| x as f32),
            Element::I32 => each!(i32, |x| x as f32),
            Element::U64 => each!(u64, |x| x as f32),
            Element::I64 => each!(i64, |x| x as f32),
            Element::F16 => each!(half::f16, |x| x.to_f32()),
            Element::F32 => each!(f32, |x| x),
            Element::F64 => each!(f64, |x| x as f32),
        }
    }
}
