//! Weights that a program keeps compressed: quantized, as indices into a palette, sparse. Also `quantize` and
//! `dequantize`, which do the same at run time.
//!
//! None has a gradient: what is stored does not move by small steps.

use super::elementwise::{from_f64s, show};
use super::shape::{dim, mul_dims, strides, unknown_sizes, vector, walk};
use super::*;
use crate::ir::{Dim, TensorType, shapes_agree};

const BYTE: &[DType] = &[DType::Int8, DType::UInt8];
const UINT1: &[DType] = &[DType::UInt1];
const UINT8: &[DType] = &[DType::UInt8];
const INDEX: &[DType] = &[DType::UInt1, DType::UInt2, DType::UInt3, DType::UInt4, DType::UInt6, DType::UInt8];
/// What palettes and, before iOS 18, sparse tensors hold.
const ENTRY: &[DType] = &[DType::Int8, DType::UInt8, DType::Fp16, DType::Fp32, DType::Fp64];
/// What is quantized in blocks, and their offsets.
const BLOCKED: &[DType] =
    &[DType::Int4, DType::UInt4, DType::Int8, DType::UInt8, DType::Fp16, DType::Fp32, DType::Fp64];

const fn constant(name: &'static str, types: &'static [DType], group: char) -> Param {
    Param::constant(name, types).group(group)
}

const CAST: OpDef = OpDef {
    name: "constexpr_cast",
    since: Opset::Ios16,
    params: &[Param::constant("source_val", &[DType::Fp16]), Param::constant("output_dtype", STRING)],
    infer: |args| match args.str("output_dtype")? {
        "fp32" => Ok(vec![args.ty("source_val")?.with_dtype(DType::Fp32).into()]),
        other => Err(OpError::arg("output_dtype", format!("is `{other}`, expected fp32"))),
    },
    eval: Eval::By(|args| {
        let x = args.tensor("source_val")?;
        Ok(vec![Tensor::float(DType::Fp32, x.shape(), x.to_f64s()).into()])
    }),
    vjp: None,
};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "constexpr_affine_dequantize",
        since: Opset::Ios16,
        params: &[
            constant("quantized_data", BYTE, 'S'),
            constant("zero_point", &[DType::Int8, DType::UInt8, DType::Fp32, DType::Fp64], 'Z'),
            constant("scale", FLOAT, 'D'),
            Param::constant("axis", INT32),
        ],
        infer: |args| {
            let q = args.ty("quantized_data")?;
            args.axis("axis", q.shape.len())?;
            along_axis(args, "scale", q)?;
            along_axis(args, "zero_point", q)?;
            Ok(vec![q.with_dtype(args.dtype("scale")?).into()])
        },
        eval: Eval::By(|args| dequantized(args, "quantized_data")),
        vjp: None,
    },
    CAST,
    OpDef { since: Opset::Ios18, ..CAST },
    OpDef {
        name: "constexpr_lut_to_dense",
        since: Opset::Ios16,
        params: &[
            Param::constant("indices", UINT8),
            constant("lut", ENTRY, 'T'),
            Param::constant("shape", &[DType::UInt32]),
        ],
        infer: |args| {
            let index = packed_index(args)?;
            let ty = TensorType { dtype: args.dtype("lut")?, shape: given_shape(args)? };
            packed_size(args, "indices", &ty, index.bits().unwrap_or(8) as usize)?;
            Ok(vec![ty.into()])
        },
        eval: Eval::By(|args| {
            let (lut, shape) = (args.tensor("lut")?, sizes(&given_shape(args)?));
            let indices = unpacked(args, "indices", packed_index(args)?, shape.iter().product())?;
            Ok(vec![lut.picked(&shape, |i| indices[i] as usize).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "constexpr_lut_to_dense",
        since: Opset::Ios18,
        params: &[
            constant("indices", INDEX, 'I'),
            constant("lut", ENTRY, 'T'),
            Param::constant("vector_axis", INT32).optional(),
        ],
        infer: |args| {
            let palette = Palette::of(args, args.ty("indices")?.clone())?;
            Ok(vec![TensorType { dtype: args.dtype("lut")?, shape: palette.dense }.into()])
        },
        eval: Eval::By(|args| {
            let palette = Palette::of(args, args.ty("indices")?.clone())?;
            let indices = args.tensor("indices")?.ints().unwrap_or_default().to_vec();
            Ok(vec![palette.look_up(args.tensor("lut")?, &indices).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "constexpr_lut_to_sparse",
        since: Opset::Ios18,
        params: &[
            Param::constant("indices_mask", UINT1),
            constant("indices_nonzero_data", INDEX, 'I'),
            constant("lut", ENTRY, 'T'),
            Param::constant("vector_axis", INT32).optional(),
        ],
        infer: |args| {
            let indices = args.ty("indices_mask")?.with_dtype(args.dtype("indices_nonzero_data")?);
            let n = nonzero(args, "indices_mask", "indices_nonzero_data")?;
            let palette = Palette::of(args, indices)?;
            let n = mul_dims(n, Dim::Fixed(palette.vector as u64))?;
            let dtype = args.dtype("lut")?;
            let mask = TensorType { dtype: DType::UInt1, shape: palette.dense };
            Ok(vec![mask.into(), TensorType { dtype, shape: vec![n] }.into()])
        },
        eval: Eval::By(|args| {
            let mask = args.tensor("indices_mask")?;
            let indices = args.ty("indices_mask")?.with_dtype(args.dtype("indices_nonzero_data")?);
            let palette = Palette::of(args, indices)?;
            let dense = scattered(mask, args.tensor("indices_nonzero_data")?)?;
            let values = palette.look_up(args.tensor("lut")?, dense.ints().unwrap_or_default());
            let wide = mask.picked(values.shape(), |i| palette.index_of(i));
            let kept = gathered(&wide, &values);
            Ok(vec![wide.into(), kept.into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "constexpr_sparse_to_dense",
        since: Opset::Ios16,
        params: &[
            constant("nonzero_data", ENTRY, 'T'),
            Param::constant("mask", UINT8),
            Param::constant("shape", &[DType::UInt32]),
        ],
        infer: |args| {
            let ty = TensorType { dtype: args.dtype("nonzero_data")?, shape: given_shape(args)? };
            packed_size(args, "mask", &ty, 1)?;
            vector(args, "nonzero_data")?;
            Ok(vec![ty.into()])
        },
        eval: Eval::By(|args| {
            let shape = sizes(&given_shape(args)?);
            let bits = unpacked(args, "mask", DType::UInt1, shape.iter().product())?;
            Ok(vec![scattered(&Tensor::int(DType::UInt1, &shape, bits), args.tensor("nonzero_data")?)?.into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "constexpr_sparse_to_dense",
        since: Opset::Ios18,
        params: &[constant("nonzero_data", BLOCKED, 'T'), Param::constant("mask", UINT1)],
        infer: |args| {
            nonzero(args, "mask", "nonzero_data")?;
            Ok(vec![args.ty("mask")?.with_dtype(args.dtype("nonzero_data")?).into()])
        },
        eval: Eval::By(|args| Ok(vec![scattered(args.tensor("mask")?, args.tensor("nonzero_data")?)?.into()])),
        vjp: None,
    },
    OpDef {
        name: "constexpr_blockwise_shift_scale",
        since: Opset::Ios18,
        params: &[
            constant("data", BLOCKED, 'S'),
            constant("scale", FLOAT, 'D'),
            constant("offset", BLOCKED, 'O').optional(),
        ],
        infer: |args| {
            let data = args.ty("data")?;
            check_blocks(args, data)?;
            Ok(vec![data.with_dtype(args.dtype("scale")?).into()])
        },
        eval: Eval::By(|args| Ok(vec![shifted_and_scaled(args, args.tensor("data")?)?.into()])),
        vjp: None,
    },
    OpDef {
        name: "constexpr_sparse_blockwise_shift_scale",
        since: Opset::Ios18,
        params: &[
            Param::constant("data_mask", UINT1),
            constant("nonzero_data", BLOCKED, 'S'),
            constant("scale", FLOAT, 'D'),
            constant("offset", BLOCKED, 'O').optional(),
        ],
        infer: |args| {
            let mask = args.ty("data_mask")?;
            let n = nonzero(args, "data_mask", "nonzero_data")?;
            check_blocks(args, &mask.with_dtype(args.dtype("nonzero_data")?))?;
            Ok(vec![mask.clone().into(), TensorType { dtype: args.dtype("scale")?, shape: vec![n] }.into()])
        },
        eval: Eval::By(|args| {
            let mask = args.tensor("data_mask")?;
            let values = shifted_and_scaled(args, &scattered(mask, args.tensor("nonzero_data")?)?)?;
            Ok(vec![mask.clone().into(), gathered(mask, &values).into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "quantize",
        since: Opset::Ios17,
        params: &[
            Param::new("input", FLOAT).group('S'),
            constant("zero_point", BYTE, 'D').optional(),
            constant("scale", FLOAT, 'S'),
            Param::constant("axis", INT32).optional(),
            Param::constant("output_dtype", STRING),
        ],
        infer: |args| {
            let input = args.ty("input")?;
            check_axis(args, input)?;
            let dtype = quantized_dtype(args)?;
            if args.has("zero_point") && args.dtype("zero_point")? != dtype {
                let message =
                    format!("has elements of {}, expected output_dtype {dtype}", args.dtype("zero_point")?);
                return Err(OpError::arg("zero_point", message));
            }
            if args.optional("scale").is_some_and(|s| s.len() > 0 && s.to_f64s().iter().all(|&s| s == 0.0)) {
                return Err(OpError::arg("scale", "is 0"));
            }
            Ok(vec![input.with_dtype(dtype).into()])
        },
        eval: Eval::By(quantized),
        vjp: None,
    },
    OpDef {
        name: "dequantize",
        since: Opset::Ios17,
        params: &[
            Param::new("input", BYTE).group('S'),
            constant("zero_point", BYTE, 'S').optional(),
            constant("scale", FLOAT, 'D'),
            Param::constant("axis", INT32).optional(),
        ],
        infer: |args| {
            let input = args.ty("input")?;
            check_axis(args, input)?;
            Ok(vec![input.with_dtype(args.dtype("scale")?).into()])
        },
        eval: Eval::By(|args| dequantized(args, "input")),
        vjp: None,
    },
];

/// Sizes that are known, as they are in an evaluation.
fn sizes(shape: &[Dim]) -> Vec<usize> {
    shape.iter().filter_map(|d| d.fixed()).collect()
}

/// That a number is one for all or a vector, one for each index of the axis.
fn along_axis(args: &Args<'_>, name: &'static str, data: &TensorType) -> OpResult<()> {
    match *args.shape(name)? {
        [] => Ok(()),
        [n] if args.has("axis") && n.agrees(data.shape[args.axis("axis", data.shape.len())?]) => Ok(()),
        ref other => Err(OpError::arg(
            name,
            format!(
                "has shape {}, expected a scalar or one number for each index of the axis of {data}",
                show(other)
            ),
        )),
    }
}

/// The rule of `quantize` and `dequantize`: scalars have no axis, vectors have one.
fn check_axis(args: &Args<'_>, data: &TensorType) -> OpResult<()> {
    let rank = args.shape("scale")?.len();
    if args.has("axis") && rank == 0 {
        return Err(OpError::arg("axis", "has no meaning for a scale that is a scalar"));
    }
    along_axis(args, "scale", data)?;
    if args.has("zero_point") {
        along_axis(args, "zero_point", data)?;
        if args.shape("zero_point")?.len() != rank {
            return Err(OpError::arg("zero_point", "must be a scalar or a vector as `scale` is"));
        }
    }
    Ok(())
}

/// A number for each element of `data`: the one for all, or that of its index on the axis; 0 if left out.
fn spread_along<'a>(
    args: &Args<'a>,
    name: &'static str,
    data: &Tensor,
) -> OpResult<impl Fn(usize) -> f64 + use<'a>> {
    let (values, mut inner, mut n) = (args.optional(name).map_or(vec![0.0], Tensor::to_f64s), 1, 1);
    if args.optional(name).is_some_and(|t| t.rank() == 1) {
        let axis = args.axis("axis", data.rank())?;
        (inner, n) = (data.shape()[axis + 1..].iter().product(), data.shape()[axis]);
    }
    Ok(move |i: usize| values[i / inner % n])
}

/// `scale (data - zero_point)`.
fn dequantized(args: &Args<'_>, data: &'static str) -> OpResult<Vec<Value>> {
    let q = args.tensor(data)?;
    let (scale, zero) = (spread_along(args, "scale", q)?, spread_along(args, "zero_point", q)?);
    let out = q.to_f64s().into_iter().enumerate().map(|(i, q)| scale(i) * (q - zero(i))).collect();
    Ok(vec![Tensor::float(args.dtype("scale")?, q.shape(), out).into()])
}

fn quantized_dtype(args: &Args<'_>) -> OpResult<DType> {
    let name = args.str("output_dtype")?;
    DType::from_name(name)
        .filter(|d| BYTE.contains(d))
        .ok_or_else(|| OpError::arg("output_dtype", format!("is `{name}`, expected int8 or uint8")))
}

/// `clip(round(input / scale) + zero_point)` to the range of the type, ties to even.
fn quantized(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, dtype) = (args.tensor("input")?, quantized_dtype(args)?);
    let (scale, zero) = (spread_along(args, "scale", x)?, spread_along(args, "zero_point", x)?);
    let (low, high) = dtype.int_range().unwrap_or((0, 0));
    let element =
        |(i, x): (usize, f64)| ((x / scale(i)).round_ties_even() + zero(i)).max(low as f64).min(high as f64);
    Ok(vec![from_f64s(dtype, x.shape(), x.to_f64s().into_iter().enumerate().map(element).collect()).into()])
}

/// The sizes that the argument `shape` gives, unknown ones where it is not known itself.
fn given_shape(args: &Args<'_>) -> OpResult<Vec<Dim>> {
    match args.optional("shape").and_then(|t| t.ints()) {
        Some(given) => given.iter().map(|&d| dim("shape", d)).collect(),
        None => unknown_sizes(args, "shape"),
    }
}

/// The type of the indices into a palette of iOS 16, which the palette's size says.
fn packed_index(args: &Args<'_>) -> OpResult<DType> {
    match vector(args, "lut")? {
        Dim::Fixed(2) => Ok(DType::UInt1),
        Dim::Fixed(4) => Ok(DType::UInt2),
        Dim::Fixed(16) => Ok(DType::UInt4),
        Dim::Fixed(64) => Ok(DType::UInt6),
        Dim::Fixed(256) => Ok(DType::UInt8),
        n => Err(OpError::arg("lut", format!("has {n} entries, expected 2, 4, 16, 64 or 256"))),
    }
}

/// That there are as many bytes as the elements of `ty` need, `bits` for each.
fn packed_size(args: &Args<'_>, name: &'static str, ty: &TensorType, bits: usize) -> OpResult<()> {
    let n = vector(args, name)?;
    if ty.fixed_shape().is_none() {
        return Ok(());
    }
    let bytes = ty.n_elements().and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
    match bytes {
        Some(bytes) if n.agrees(Dim::Fixed(bytes as u64)) => Ok(()),
        Some(bytes) => Err(OpError::arg(
            name,
            format!("has {n} bytes, expected {bytes} for {ty} with {bits} bits an element"),
        )),
        None => Err(OpError::arg("shape", "gives too many elements")),
    }
}

/// Numbers that lie in bytes one after the other, least significant bit first.
fn unpacked(args: &Args<'_>, name: &'static str, dtype: DType, n: usize) -> OpResult<Vec<i64>> {
    let bytes = args.tensor(name)?.to_bytes().unwrap_or_default();
    let numbers = Tensor::from_bytes(dtype, &[n], &bytes);
    let numbers = numbers.ok_or_else(|| OpError::arg(name, format!("has fewer than {n} elements of {dtype}")))?;
    Ok(numbers.ints().unwrap_or_default().to_vec())
}

/// The number of elements that a mask lets through, which is that of `data`, where known.
fn nonzero(args: &Args<'_>, mask: &'static str, data: &'static str) -> OpResult<Dim> {
    let n = vector(args, data)?;
    match args.optional(mask).and_then(|t| t.ints()) {
        Some(bits) => {
            let set = bits.iter().filter(|&&b| b != 0).count();
            match n.agrees(Dim::Fixed(set as u64)) {
                true => Ok(Dim::Fixed(set as u64)),
                false => Err(OpError::arg(data, format!("has {n} elements, but `{mask}` has room for {set}"))),
            }
        }
        None => Ok(n),
    }
}

/// The elements of `data`, in order, where `mask` is 1, and zeros elsewhere.
fn scattered(mask: &Tensor, data: &Tensor) -> OpResult<Tensor> {
    let bits = mask.ints().unwrap_or_default();
    let set = bits.iter().filter(|&&b| b != 0).count();
    if set != data.len() {
        return Err(OpError::arg(
            "nonzero_data",
            format!("has {} elements, but the mask has room for {set}", data.len()),
        ));
    }
    let mut elements = data.to_f64s().into_iter();
    let dense = bits.iter().map(|&b| if b == 0 { 0.0 } else { elements.next().unwrap_or(0.0) }).collect();
    Ok(from_f64s(data.dtype(), mask.shape(), dense))
}

/// The elements of `dense` where `mask` is 1, in order.
fn gathered(mask: &Tensor, dense: &Tensor) -> Tensor {
    let bits = mask.ints().unwrap_or_default();
    let places: Vec<usize> = (0..bits.len()).filter(|&i| bits[i] != 0).collect();
    dense.picked(&[places.len()], |i| places[i])
}

/// That `scale`, and `offset` if there, divide `data` into blocks.
fn check_blocks(args: &Args<'_>, data: &TensorType) -> OpResult<()> {
    let scale = args.shape("scale")?;
    let divides = |(d, s): (&Dim, &Dim)| match (d, s) {
        (Dim::Fixed(d), Dim::Fixed(s)) => *s > 0 && d % s == 0,
        _ => true,
    };
    if data.shape.is_empty() || scale.len() != data.shape.len() || !data.shape.iter().zip(scale).all(divides) {
        let message = format!("has shape {}, expected sizes that divide those of {data}", show(scale));
        return Err(OpError::arg("scale", message));
    }
    if args.has("offset") {
        let offset = args.ty("offset")?;
        if !shapes_agree(&offset.shape, scale) {
            let message = format!("has shape {}, expected that of `scale` {}", show(&offset.shape), show(scale));
            return Err(OpError::arg("offset", message));
        }
        if !offset.dtype.is_float() && offset.dtype != data.dtype {
            let message = format!("has elements of {}, expected floats or {}", offset.dtype, data.dtype);
            return Err(OpError::arg("offset", message));
        }
    }
    Ok(())
}

/// `scale (data - offset)`, each of the numbers for a block of `data`.
fn shifted_and_scaled(args: &Args<'_>, data: &Tensor) -> OpResult<Tensor> {
    let scale = args.tensor("scale")?;
    let (scales, offsets) = (scale.to_f64s(), args.optional("offset").map(Tensor::to_f64s));
    let out = data.to_f64s().into_iter().enumerate().map(|(i, x)| {
        let block = block_of(data.shape(), scale.shape(), i);
        scales[block] * (x - offsets.as_ref().map_or(0.0, |o| o[block]))
    });
    Ok(Tensor::float(scale.dtype(), data.shape(), out.collect()))
}

/// The block, of as many as `blocks` says on each axis, that element `i` of a tensor of `shape` is in.
fn block_of(shape: &[usize], blocks: &[usize], i: usize) -> usize {
    let steps = strides(blocks);
    walk(shape, i, |axis, c| c / (shape[axis] / blocks[axis]) * steps[axis])
}

/// Palettes `[blocks.., entries, vector]`: for each block of indices its own, each entry a vector that lies along
/// an axis of the result.
struct Palette {
    indices: TensorType,
    vector: usize,
    axis: usize,
    /// The shape of what the indices stand for.
    dense: Vec<Dim>,
}

impl Palette {
    fn of(args: &Args<'_>, indices: TensorType) -> OpResult<Palette> {
        let lut = args.shape("lut")?;
        let rank = indices.shape.len();
        let misfit = |expected: String| {
            OpError::arg("lut", format!("has shape {}, expected {expected} for indices {indices}", show(lut)))
        };
        if rank == 0 || lut.len() != rank + 2 {
            return Err(misfit("two more sizes than the indices".into()));
        }
        let divides = |(d, s): (&Dim, &Dim)| match (d, s) {
            (Dim::Fixed(d), Dim::Fixed(s)) => *s > 0 && d % s == 0,
            _ => true,
        };
        if !indices.shape.iter().zip(lut).all(divides) {
            return Err(misfit("blocks that divide the indices".into()));
        }
        let entries = 1u64 << indices.dtype.bits().unwrap_or(0);
        if !lut[rank].agrees(Dim::Fixed(entries)) {
            return Err(misfit(format!("{entries} entries")));
        }
        let Some(vector) = lut[rank + 1].fixed() else { return Err(misfit("vectors of known size".into())) };
        let axis = match args.has("vector_axis") {
            true => args.axis("vector_axis", rank)?,
            false if vector == 1 => 0,
            false => {
                return Err(OpError::arg("vector_axis", format!("is missing, which vectors of {vector} need")));
            }
        };
        let mut dense = indices.shape.clone();
        dense[axis] = mul_dims(dense[axis], Dim::Fixed(vector as u64))?;
        Ok(Palette { indices, vector, axis, dense })
    }

    /// The index that the `i`-th element of the result comes from.
    fn index_of(&self, i: usize) -> usize {
        let steps = strides(&sizes(&self.indices.shape));
        let along = |axis: usize, c: usize| if axis == self.axis { c / self.vector } else { c };
        walk(&sizes(&self.dense), i, |axis, c| along(axis, c) * steps[axis])
    }

    fn look_up(&self, lut: &Tensor, indices: &[i64]) -> Tensor {
        let (shape, dense) = (sizes(&self.indices.shape), sizes(&self.dense));
        let blocks = &lut.shape()[..shape.len()];
        let entries = lut.shape()[shape.len()];
        let inner: usize = dense[self.axis + 1..].iter().product();
        lut.picked(&dense, |i| {
            let at = self.index_of(i);
            let entry = block_of(&shape, blocks, at) * entries + indices[at] as usize;
            entry * self.vector + i / inner % self.vector
        })
    }
}
