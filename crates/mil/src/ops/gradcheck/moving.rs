//! Cases of the gradient check: ops that move elements, by shape, slice, block, index or interpolation.

use super::Case;
use crate::builder::{Builder, Value};
use crate::ir::DType;
use crate::tensor::Tensor;

/// `op(x = v[0])` with constants.
fn of(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    constants: &[(&'static str, Tensor)],
) -> crate::Result<Value> {
    constants.iter().fold(b.call(op).arg("x", v[0]), |call, (name, t)| call.constant(name, t.clone())).finish()
}

/// The first output of an op that may have several.
fn first_of(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    constants: &[(&'static str, Tensor)],
) -> crate::Result<Vec<Value>> {
    constants
        .iter()
        .fold(b.call(op).arg("x", v[0]), |call, (name, t)| call.constant(name, t.clone()))
        .finish_many()
}

/// A scatter of `v[1]` into `v[0]`; the places are such that some are met twice.
fn scatter(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    indices: (&[usize], &[i64]),
    mode: &str,
    axis: Option<i32>,
) -> crate::Result<Value> {
    let mut call = b.call(op).arg("data", v[0]).arg("updates", v[1]).constant("indices", ints(indices));
    if let Some(axis) = axis {
        call = call.constant("axis", Tensor::i32(axis));
    }
    call.constant("mode", Tensor::string(mode)).finish()
}

fn i32s(xs: &[i32]) -> Tensor {
    Tensor::i32s(xs)
}

fn ints((shape, xs): (&[usize], &[i64])) -> Tensor {
    Tensor::int(DType::Int32, shape, xs.to_vec())
}

fn bools(xs: &[i64]) -> Tensor {
    Tensor::int(DType::Bool, &[xs.len()], xs.to_vec())
}

fn text(s: &str) -> Tensor {
    Tensor::string(s)
}

fn f64s(shape: &[usize], xs: &[f64]) -> Tensor {
    Tensor::float(DType::Fp64, shape, xs.to_vec())
}

/// The parts of a split put to different uses, one to none.
fn split_and_use(b: &mut Builder, v: &[Value], sizes: &[i32]) -> crate::Result<Value> {
    let parts = first_of(b, "split", v, &[("split_sizes", i32s(sizes)), ("axis", Tensor::i32(-1))])?;
    b.concat(&[parts[2], parts[0], parts[2]], 1)
}

pub(super) const CASES: &[Case] = &[
    ("reshape_like", &[&[2, 6]], |b, v| {
        let like = b.filled(DType::Fp64, &[3, 7, 4], 0.0)?;
        let scalars = |b: &mut Builder, xs: [i32; 2]| xs.map(|x| b.constant(Tensor::i32(x)));
        let (begins, ends) = (scalars(b, [0, -1]), scalars(b, [1, 0]));
        let masks = [false, true].map(|m| b.constant(Tensor::bool(m)));
        b.call("reshape_like")
            .arg("x", v[0])
            .args("ref_tensors", &[like, like])
            .args("begins", &begins)
            .args("ends", &ends)
            .args("end_masks", &masks)
            .finish()
    }),
    ("expand_dims", &[&[2, 3]], |b, v| of(b, "expand_dims", v, &[("axes", i32s(&[0, -1]))])),
    ("squeeze", &[&[2, 1, 3, 1]], |b, v| of(b, "squeeze", v, &[("axes", i32s(&[1]))])),
    ("flatten2d", &[&[2, 3, 2]], |b, v| of(b, "flatten2d", v, &[("axis", Tensor::i32(-1))])),
    ("slice_by_index", &[&[5, 7, 3]], |b, v| {
        let masks = [("begin_mask", bools(&[0, 1, 0])), ("end_mask", bools(&[0, 0, 0]))];
        let spans = [("begin", i32s(&[1, 0, -2])), ("end", i32s(&[-1, 6, 0])), ("stride", i32s(&[1, 2, 1]))];
        of(b, "slice_by_index", v, &[&masks[..], &spans, &[("squeeze_mask", bools(&[0, 0, 1]))]].concat())
    }),
    ("slice_by_index", &[&[4, 8]], |b, v| {
        let masks = [("begin_mask", bools(&[1, 0])), ("end_mask", bools(&[1, 0]))];
        let spans = [("begin", i32s(&[0, 6])), ("end", i32s(&[0, 0])), ("stride", i32s(&[-1, -3]))];
        of(b, "slice_by_index", v, &[&masks[..], &spans].concat())
    }),
    ("slice_update", &[&[3, 5], &[2, 2]], |b, v| {
        b.call("slice_update")
            .arg("x", v[0])
            .arg("update", v[1])
            .constant("begin", i32s(&[1, 4]))
            .constant("end", i32s(&[3, 0]))
            .constant("stride", i32s(&[1, -2]))
            .finish()
    }),
    ("reverse", &[&[2, 3, 2]], |b, v| of(b, "reverse", v, &[("axes", i32s(&[0, -1]))])),
    ("reverse", &[&[2, 3]], |b, v| of(b, "reverse", v, &[])),
    ("reverse_sequence", &[&[3, 2, 4]], |b, v| {
        let axes = [("seq_axis", Tensor::i32(-1)), ("batch_axis", Tensor::i32(0))];
        of(b, "reverse_sequence", v, &[&axes[..], &[("lengths", i32s(&[3, 0, 4]))]].concat())
    }),
    ("pad", &[&[2, 3]], |b, v| of(b, "pad", v, &[("pad", i32s(&[1, 2])), ("constant_val", f64s(&[], &[0.5]))])),
    ("pad", &[&[3, 4]], |b, v| of(b, "pad", v, &[("pad", i32s(&[2, 1, 3, 0])), ("mode", text("reflect"))])),
    ("pad", &[&[2, 1, 3]], |b, v| of(b, "pad", v, &[("pad", i32s(&[2, 1, 0, 3])), ("mode", text("replicate"))])),
    ("concat", &[&[2, 3], &[2, 3], &[2, 3]], |b, v| {
        let call = b.call("concat").args("values", v).constant("axis", Tensor::i32(1));
        call.constant("interleave", Tensor::bool(true)).finish()
    }),
    ("concat", &[&[], &[]], |b, v| b.concat(v, 0)),
    ("stack", &[&[2, 3], &[2, 3]], |b, v| {
        b.call("stack").args("values", v).constant("axis", Tensor::i32(-1)).finish()
    }),
    ("split", &[&[2, 6]], |b, v| split_and_use(b, v, &[1, 3, 2])),
    ("split", &[&[4, 2]], |b, v| {
        Ok(first_of(b, "split", v, &[("num_splits", Tensor::i32(2)), ("axis", Tensor::i32(0))])?[1])
    }),
    ("tile", &[&[2, 1, 3]], |b, v| of(b, "tile", v, &[("reps", i32s(&[2, 3, 1]))])),
    ("depth_to_space", &[&[1, 8, 2, 1]], |b, v| of(b, "depth_to_space", v, &[("block_size", Tensor::i32(2))])),
    ("space_to_depth", &[&[1, 2, 2, 4]], |b, v| of(b, "space_to_depth", v, &[("block_size", Tensor::i32(2))])),
    ("pixel_shuffle", &[&[1, 8, 2, 1]], |b, v| of(b, "pixel_shuffle", v, &[("upscale_factor", Tensor::i32(2))])),
    ("pixel_unshuffle", &[&[1, 2, 2, 4]], |b, v| {
        of(b, "pixel_unshuffle", v, &[("downscale_factor", Tensor::int(DType::UInt32, &[], vec![2]))])
    }),
    ("space_to_batch", &[&[2, 1, 3, 4]], |b, v| {
        let block = ("block_shape", i32s(&[2, 3]));
        of(b, "space_to_batch", v, &[block, ("paddings", ints((&[2, 2], &[1, 0, 0, 2])))])
    }),
    ("batch_to_space", &[&[12, 1, 2, 2]], |b, v| {
        let block = ("block_shape", i32s(&[2, 3]));
        of(b, "batch_to_space", v, &[block, ("crops", ints((&[2, 2], &[1, 0, 0, 2])))])
    }),
    ("sliding_windows", &[&[2, 7, 2]], |b, v| {
        let windows = [("size", Tensor::i32(3)), ("stride", Tensor::i32(2))];
        of(b, "sliding_windows", v, &[&windows[..], &[("axis", Tensor::i32(-2))]].concat())
    }),
    // Its shape counts, not its numbers.
    ("fill_like", &[&[2, 3]], |b, v| {
        let ones = b.call("fill_like").arg("ref_tensor", v[0]).constant("value", f64s(&[], &[1.0])).finish()?;
        b.mul(ones, v[0])
    }),
    // The way through the order of the elements has no gradient, and need not have one.
    ("mul", &[&[4]], |b, v| {
        let order = b.call("argsort").arg("x", v[0]).finish()?;
        let call = b.call("one_hot").arg("indices", order).constant("one_hot_vector_size", Tensor::i32(4));
        let call = call.constant("on_value", f64s(&[], &[2.0])).constant("off_value", f64s(&[], &[0.5]));
        let rows = call.finish()?;
        b.mul(rows, v[0])
    }),
    ("band_part", &[&[2, 3, 4]], |b, v| {
        of(b, "band_part", v, &[("lower", Tensor::i32(1)), ("upper", Tensor::i32(0))])
    }),
    ("cumsum", &[&[3, 2, 2]], |b, v| of(b, "cumsum", v, &[("axis", Tensor::i32(0))])),
    ("cumsum", &[&[3, 2, 2]], |b, v| {
        let ways = [("exclusive", Tensor::bool(true)), ("reverse", Tensor::bool(true))];
        of(b, "cumsum", v, &[&ways[..], &[("axis", Tensor::i32(-2))]].concat())
    }),
    ("topk", &[&[2, 4, 2]], |b, v| {
        let how = [("k", Tensor::i32(3)), ("axis", Tensor::i32(1)), ("ascending", Tensor::bool(true))];
        Ok(first_of(b, "topk", v, &how)?[0])
    }),
    ("topk", &[&[5]], |b, v| of(b, "topk", v, &[("k", Tensor::i32(2)), ("return_indices", Tensor::bool(false))])),
    ("gather", &[&[3, 4, 2]], |b, v| {
        of(b, "gather", v, &[("indices", ints((&[2, 2], &[1, 3, -1, 1]))), ("axis", Tensor::i32(1))])
    }),
    ("gather", &[&[3, 2]], |b, v| of(b, "gather", v, &[("indices", Tensor::i32(2)), ("axis", Tensor::i32(0))])),
    ("gather", &[&[2, 3, 4, 2]], |b, v| {
        let how = [("axis", Tensor::i32(2)), ("batch_dims", Tensor::i32(1))];
        of(b, "gather", v, &[&how[..], &[("indices", ints((&[2, 2, 1], &[1, 3, 0, 0])))]].concat())
    }),
    ("gather_along_axis", &[&[2, 3]], |b, v| {
        let indices = ints((&[2, 4], &[0, 2, 2, 1, 1, 1, 0, -1]));
        of(b, "gather_along_axis", v, &[("indices", indices), ("axis", Tensor::i32(1))])
    }),
    ("gather_nd", &[&[2, 3, 2]], |b, v| {
        of(b, "gather_nd", v, &[("indices", ints((&[3, 2], &[0, 1, 1, 2, 0, 1])))])
    }),
    ("gather_nd", &[&[2, 3, 2]], |b, v| {
        let indices = ints((&[2, 2, 1], &[0, 1, 2, 2]));
        of(b, "gather_nd", v, &[("indices", indices), ("batch_dims", Tensor::i32(1))])
    }),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "add", Some(-1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "sub", Some(1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "update", Some(1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "mul", Some(1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "div", Some(1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "max", Some(1))),
    ("scatter", &[&[3, 4], &[3, 3]], |b, v| scatter(b, "scatter", v, (&[3], &[3, 1, 3]), "min", Some(1))),
    ("scatter_along_axis", &[&[3, 2], &[2, 2]], |b, v| {
        scatter(b, "scatter_along_axis", v, (&[2, 2], &[0, 2, 0, 1]), "mul", Some(0))
    }),
    ("scatter_nd", &[&[3, 2, 2], &[3, 2]], |b, v| {
        scatter(b, "scatter_nd", v, (&[3, 2], &[0, 1, 2, 0, 0, 1]), "update", None)
    }),
    ("crop", &[&[2, 4, 5]], |b, v| {
        of(b, "crop", v, &[("crop_height", i32s(&[1, 0])), ("crop_width", i32s(&[2, 1]))])
    }),
    ("upsample_nearest_neighbor", &[&[2, 3, 3]], |b, v| {
        let factors = [("scale_factor_height", Tensor::i32(2)), ("scale_factor_width", f64s(&[], &[0.7]))];
        of(b, "upsample_nearest_neighbor", v, &factors)
    }),
    ("upsample_bilinear", &[&[2, 3, 3]], |b, v| {
        let factors = [("scale_factor_height", Tensor::i32(2)), ("scale_factor_width", f64s(&[], &[1.7]))];
        of(b, "upsample_bilinear", v, &[&factors[..], &[("align_corners", Tensor::bool(false))]].concat())
    }),
    ("resize_nearest_neighbor", &[&[1, 3, 4]], |b, v| {
        let size = [("target_size_height", Tensor::i32(5)), ("target_size_width", Tensor::i32(3))];
        of(b, "resize_nearest_neighbor", v, &size)
    }),
    ("resize_bilinear", &[&[1, 3, 4]], |b, v| {
        let size = [("target_size_height", Tensor::i32(5)), ("target_size_width", Tensor::i32(3))];
        of(b, "resize_bilinear", v, &[&size[..], &[("sampling_mode", text("OFFSET_CORNERS"))]].concat())
    }),
    ("resize", &[&[2, 3, 2]], |b, v| {
        let dims = ("resized_dims", Tensor::int(DType::UInt32, &[], vec![2]));
        of(b, "resize", v, &[("shape", i32s(&[5, 0])), dims, ("sampling_mode", text("ALIGN_CORNERS"))])
    }),
    ("crop_resize", &[&[2, 2, 3, 4]], |b, v| {
        let boxes = f64s(&[3, 4], &[0.1, 0.3, 0.8, 0.9, 0.0, 0.0, 1.0, 1.0, -0.2, 0.4, 0.6, 0.7]);
        let size = [("target_height", Tensor::i32(2)), ("target_width", Tensor::i32(3))];
        let how = [("normalized_coordinates", Tensor::bool(true)), ("sampling_mode", text("ALIGN_CORNERS"))];
        let of_boxes = [("boxes", boxes), ("box_indices", i32s(&[1, 0, 1]))];
        of(b, "crop_resize", v, &[&size[..], &how, &of_boxes].concat())
    }),
    ("resample", &[&[2, 2, 3, 4]], |b, v| {
        let points = [0.1, -0.3, 0.9, 0.2, -1.7, 0.4, 0.3, 1.2, 0.5, -0.1, -0.4, 0.8];
        let modes = [("sampling_mode", text("bilinear")), ("padding_mode", text("constant"))];
        let coordinates = [("coordinates_mode", text("normalized_minus_one_to_one"))];
        let others = [("padding_value", f64s(&[], &[0.5])), ("align_corners", Tensor::bool(false))];
        let points = [("coordinates", f64s(&[2, 1, 3, 2], &points))];
        of(b, "resample", v, &[&modes[..], &coordinates, &others, &points].concat())
    }),
    ("affine", &[&[2, 2, 3, 2]], |b, v| {
        let modes = [("sampling_mode", text("bilinear")), ("padding_mode", text("constant"))];
        let coordinates = [("coordinates_mode", text("normalized_minus_one_to_one"))];
        let others = [("padding_value", f64s(&[], &[0.0])), ("align_corners", Tensor::bool(true))];
        let size = [("output_height", Tensor::i32(3)), ("output_width", Tensor::i32(2))];
        let matrix = [("transform_matrix", f64s(&[1, 6], &[0.7, 0.2, 0.1, -0.3, 0.8, -0.2]))];
        of(b, "affine", v, &[&modes[..], &coordinates, &others, &size, &matrix].concat())
    }),
];
