//! Types and values of Core ML's protobuf.

use super::{In, Read};
use crate::ir::{BlobRef, Constant, DType, Dim, Literal, TensorType, Type};
use crate::tensor::Tensor;
use crate::valid::agree;
use coreml_proto::proto::mil_spec as pb;
use pb::tensor_value::Value as Elements;
use pb::value::Value as Stored;
use pb::value::immediate_value::Value as Immediate;

/// The text nests its literals no deeper, and Core ML itself stops at 5.
const MAX_RANK: i64 = 64;
/// How many empty rows a tensor without elements may have: they take no bytes here, but some in the text.
const MAX_EMPTY_ROWS: u64 = 1 << 16;

/// Whether a name is an identifier, as `MIL.proto` has them: letters, digits, `_` and `@`, no digit first.
pub(super) fn check_name(name: &str) -> Read<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match starts && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'@') {
        true => Ok(()),
        false => Err(format!("the name {name:?} is no identifier, expected letters, digits, `_` and `@`")),
    }
}

pub(super) fn ty(ty: &pb::ValueType) -> Read<Type> {
    use pb::value_type::Type as T;
    let inner = |t: &Option<Box<pb::ValueType>>| match t {
        Some(t) => self::ty(t),
        None => Err("a type without the type of its elements".into()),
    };
    Ok(match &ty.r#type {
        Some(T::TensorType(t)) => Type::Tensor(tensor_type(t)?),
        Some(T::ListType(list)) => {
            let length = list.length.ok_or_else(|| "a list type without a length".to_string()).and_then(dim)?;
            let length = match length {
                Dim::Fixed(n) => Some(n),
                Dim::Any => None,
            };
            Type::List(Box::new(inner(&list.r#type)?), length)
        }
        Some(T::TupleType(tuple)) => Type::Tuple(tuple.types.iter().map(self::ty).collect::<Read<_>>()?),
        Some(T::DictionaryType(dict)) => {
            Type::Dict(Box::new(inner(&dict.key_type)?), Box::new(inner(&dict.value_type)?))
        }
        Some(T::StateType(state)) => match inner(&state.wrapped_type)? {
            Type::Tensor(t) => Type::State(t),
            other => return Err(format!("a state of {other}, expected a tensor")),
        },
        None => return Err("a type of no known kind".into()),
    })
}

fn tensor_type(t: &pb::TensorType) -> Read<TensorType> {
    if let Some(name) = t.attributes.keys().min() {
        return Err(format!("a tensor type has the attribute `{name}`, but types have none in the language"));
    }
    if t.rank == -1 {
        return Err("a tensor type of variable rank, expected a known one".into());
    }
    if t.rank > MAX_RANK {
        return Err(format!("a tensor type of rank {}, expected {MAX_RANK} at most", t.rank));
    }
    if usize::try_from(t.rank) != Ok(t.dimensions.len()) {
        return Err(format!("a tensor type of rank {} with {} dimensions", t.rank, t.dimensions.len()));
    }
    let shape = t.dimensions.iter().map(|&d| dim(d)).collect::<Read<_>>()?;
    Ok(TensorType { dtype: dtype(t.data_type)?, shape })
}

fn dim(d: pb::Dimension) -> Read<Dim> {
    use pb::dimension::Dimension as D;
    match d.dimension {
        Some(D::Constant(c)) => Ok(Dim::Fixed(c.size)),
        Some(D::Unknown(u)) if u.variadic => Err("a dimension that stands for any number of them".into()),
        Some(D::Unknown(_)) => Ok(Dim::Any),
        None => Err("a dimension without a size".into()),
    }
}

fn dtype(code: i32) -> Read<DType> {
    use pb::DataType as D;
    Ok(match D::try_from(code) {
        Ok(D::Bool) => DType::Bool,
        Ok(D::String) => DType::String,
        Ok(D::Float8e4m3fn) => DType::Fp8E4M3Fn,
        Ok(D::Float8e5m2) => DType::Fp8E5M2,
        Ok(D::Float16) => DType::Fp16,
        Ok(D::Float32) => DType::Fp32,
        Ok(D::Float64) => DType::Fp64,
        Ok(D::Bfloat16) => DType::Bf16,
        Ok(D::Int4) => DType::Int4,
        Ok(D::Int8) => DType::Int8,
        Ok(D::Int16) => DType::Int16,
        Ok(D::Int32) => DType::Int32,
        Ok(D::Int64) => DType::Int64,
        Ok(D::Uint1) => DType::UInt1,
        Ok(D::Uint2) => DType::UInt2,
        Ok(D::Uint3) => DType::UInt3,
        Ok(D::Uint4) => DType::UInt4,
        Ok(D::Uint6) => DType::UInt6,
        Ok(D::Uint8) => DType::UInt8,
        Ok(D::Uint16) => DType::UInt16,
        Ok(D::Uint32) => DType::UInt32,
        Ok(D::Uint64) => DType::UInt64,
        Ok(D::UnusedType) | Err(_) => return Err(format!("unknown element type {code}")),
    })
}

/// A value with its type.
pub(super) fn constant(v: &pb::Value) -> Read<Constant> {
    let ty = v.r#type.as_ref().ok_or_else(|| "a value without a type".to_string()).and_then(ty)?;
    let value = match &v.value {
        Some(Stored::BlobFileValue(b)) => match &ty {
            Type::Tensor(_) => Literal::Blob(BlobRef { path: b.file_name.clone(), offset: b.offset }),
            _ => return Err(format!("a value of type {ty} in a weights file, expected a tensor")),
        },
        Some(Stored::ImmediateValue(i)) => literal(i, &ty)?,
        None => return Err(format!("a value of type {ty} that is not there")),
    };
    Ok(Constant { ty, value })
}

/// The value of an element of a list, tuple or dictionary, which has the type that its container says.
fn element(v: Option<&pb::Value>, expected: &Type) -> Read<Literal> {
    let constant =
        v.ok_or_else(|| "a container with an element that is not there".to_string()).and_then(constant)?;
    match agree(&constant.ty, expected) {
        true => Ok(constant.value),
        false => Err(format!("an element of type {}, expected {expected}", constant.ty)),
    }
}

fn literal(value: &pb::value::ImmediateValue, ty: &Type) -> Read<Literal> {
    let n_is = |n: usize, expected: Option<u64>| match expected {
        Some(expected) if expected != n as u64 => Err(format!("{n} elements for a value of type {ty}")),
        _ => Ok(()),
    };
    Ok(match (&value.value, ty) {
        (Some(Immediate::Tensor(t)), Type::Tensor(ty)) => Literal::Tensor(tensor(t, ty)?),
        (Some(Immediate::List(list)), Type::List(of, length)) => {
            n_is(list.values.len(), *length)?;
            Literal::List(list.values.iter().map(|v| element(Some(v), of)).collect::<Read<_>>()?)
        }
        (Some(Immediate::Tuple(tuple)), Type::Tuple(types)) => {
            n_is(tuple.values.len(), Some(types.len() as u64))?;
            let items = tuple.values.iter().zip(types).map(|(v, ty)| element(Some(v), ty));
            Literal::Tuple(items.collect::<Read<_>>()?)
        }
        (Some(Immediate::Dictionary(dict)), Type::Dict(key, of)) => {
            let pair = |p: &pb::dictionary_value::KeyValuePair| {
                Ok((element(p.key.as_ref(), key)?, element(p.value.as_ref(), of)?))
            };
            Literal::Dict(dict.values.iter().map(pair).collect::<Read<_>>()?)
        }
        (None, _) => return Err(format!("a value of type {ty} that is not there")),
        (Some(_), _) => return Err(format!("a value of another kind than its type {ty}")),
    })
}

fn tensor(value: &pb::TensorValue, ty: &TensorType) -> Read<Tensor> {
    let (Some(shape), Some(n)) = (ty.fixed_shape(), ty.n_elements()) else {
        return Err(format!("elements for the type {ty}, whose size is not known or beyond memory"));
    };
    let rows = ty.shape.iter().map(|d| if let Dim::Fixed(n) = d { (*n).max(1) } else { 1 });
    if n == 0 && rows.fold(1, u64::saturating_mul) > MAX_EMPTY_ROWS {
        return Err(format!("a value of type {ty} has more than {MAX_EMPTY_ROWS} empty rows"));
    }
    elements(value, ty, &shape, n).of(|| format!("a value of type {ty}"))
}

/// `shape` are the sizes of `ty` and `n` is their product.
fn elements(value: &pb::TensorValue, ty: &TensorType, shape: &[usize], n: usize) -> Read<Tensor> {
    let dtype = ty.dtype;
    let n_is = |stored: usize| match stored == n {
        true => Ok(()),
        false => Err(format!("it has {stored} elements")),
    };
    let floats = |xs: Vec<f64>| match dtype.is_float() {
        true => n_is(xs.len()).map(|()| Tensor::float(dtype, shape, xs)),
        false => Err("its elements are stored as floating-point numbers".to_string()),
    };
    let ints = |xs: Vec<i64>| {
        n_is(xs.len())?;
        let Some((least, most)) = dtype.int_range() else {
            return Err("its elements are stored as integers".to_string());
        };
        // `uint32` and `uint64` are stored in signed fields of their width, as the same bits.
        let fits =
            |&x: &i64| (least..=most).contains(&x.into()) || dtype == DType::UInt32 || dtype == DType::UInt64;
        match xs.iter().find(|x| !fits(x)) {
            Some(x) => Err(format!("{x} is out of its range")),
            None => Ok(Tensor::int(dtype, shape, xs)),
        }
    };
    match &value.value {
        Some(Elements::Floats(x)) => floats(x.values.iter().map(|&x| x.into()).collect()),
        Some(Elements::Doubles(x)) => floats(x.values.clone()),
        Some(Elements::Ints(x)) => ints(x.values.iter().map(|&x| x.into()).collect()),
        Some(Elements::LongInts(x)) => ints(x.values.clone()),
        Some(Elements::Bools(x)) => match dtype {
            DType::Bool => n_is(x.values.len())
                .map(|()| Tensor::int(dtype, shape, x.values.iter().map(|&b| b.into()).collect())),
            _ => Err("its elements are stored as booleans".into()),
        },
        Some(Elements::Strings(x)) => match dtype {
            DType::String => n_is(x.values.len()).map(|()| Tensor::strings(shape, x.values.clone())),
            _ => Err("its elements are stored as strings".into()),
        },
        Some(Elements::Bytes(x)) => match (ty.n_bytes(), Tensor::from_bytes(dtype, shape, &x.values)) {
            (Some(n), Some(tensor)) if n == x.values.len() => Ok(tensor),
            (Some(n), _) => Err(format!("it has {} bytes, expected {n}", x.values.len())),
            (None, _) => Err("its elements are stored as bytes".into()),
        },
        None => Err("its elements are not there".into()),
    }
}
