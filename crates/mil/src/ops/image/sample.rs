//! Ops that sample images `[B, C, H, W]` at points: crop_resize, resample, affine.
//!
//! Each is told by its samples: of which elements of the image, with which weights, each output is made.

use super::super::blocks::scattered;
use super::Grid;
use crate::ir::{DType, Dim, Opset, TensorType, Type};
use crate::ops::elementwise::show;
use crate::ops::shape::out_shape;
use crate::ops::window::positive;
use crate::ops::{Args, BOOL, Const, Eval, FLOAT, INT32, OpDef, OpError, OpResult, Param, STRING, Value, Vjp};
use crate::tensor::Tensor;

const X: Param = Param::new("x", FLOAT);
const HEIGHT: Param = Param::constant("target_height", INT32).or(Const::Int(1));
const WIDTH: Param = Param::constant("target_width", INT32).or(Const::Int(1));
const NORMALIZED: Param = Param::constant("normalized_coordinates", BOOL).or(Const::Bool(false));
const SPATIAL_SCALE: Param = Param::constant("spatial_scale", &[DType::Fp32, DType::Fp64]).or(Const::Float(1.0));
const BOX_MODE: Param = Param::constant("box_coordinate_mode", STRING).or(Const::Str("CORNERS_HEIGHT_FIRST"));
const SAMPLING: Param = Param::constant("sampling_mode", STRING).or(Const::Str("DEFAULT"));
const PAD_VALUE: Param = Param::constant("pad_value", FLOAT).group('T').or(Const::Float(0.0));

const CROP_RESIZE: OpDef = OpDef {
    name: "crop_resize",
    since: Opset::Ios13,
    params: &[X, Param::new("roi", FLOAT), HEIGHT, WIDTH, NORMALIZED, SPATIAL_SCALE, BOX_MODE, SAMPLING],
    infer: crop_resize_infer,
    eval: Eval::By(|args| sampled(args, &crop_resize_samples(args)?)),
    vjp: Some(|v| sample_vjp(v, crop_resize_samples)),
};

const RESAMPLE: OpDef = OpDef {
    name: "resample",
    since: Opset::Ios15,
    params: &[
        X,
        Param::new("coordinates", &[DType::Fp32, DType::Fp64, DType::Int32]).group('U'),
        Param::constant("sampling_mode", STRING),
        Param::constant("padding_mode", STRING),
        Param::constant("padding_value", FLOAT).group('T'),
        Param::constant("coordinates_mode", STRING),
        Param::constant("align_corners", BOOL),
    ],
    infer: resample_infer,
    eval: Eval::By(|args| sampled(args, &resample_samples(args)?)),
    vjp: Some(|v| sample_vjp(v, resample_samples)),
};

pub(crate) const OPS: &[OpDef] = &[
    CROP_RESIZE,
    OpDef {
        since: Opset::Ios16,
        params: &[
            X,
            Param::new("roi", FLOAT),
            HEIGHT,
            WIDTH,
            NORMALIZED,
            SPATIAL_SCALE,
            BOX_MODE,
            SAMPLING,
            PAD_VALUE,
        ],
        ..CROP_RESIZE
    },
    OpDef {
        since: Opset::Ios17,
        params: &[
            X,
            Param::new("boxes", &[DType::Fp16, DType::Fp32, DType::Fp64, DType::UInt16]).group('B'),
            Param::new("box_indices", &[DType::Int32, DType::UInt16]).group('I').optional(),
            HEIGHT,
            WIDTH,
            NORMALIZED,
            SPATIAL_SCALE,
            BOX_MODE,
            SAMPLING,
            PAD_VALUE,
        ],
        ..CROP_RESIZE
    },
    RESAMPLE,
    OpDef {
        since: Opset::Ios16,
        params: &[
            X,
            Param::new("coordinates", &[DType::Fp16, DType::Fp32, DType::Fp64, DType::Int32]).group('U'),
            Param::constant("sampling_mode", STRING),
            Param::constant("padding_mode", STRING),
            Param::constant("padding_value", FLOAT).group('T'),
            Param::constant("coordinates_mode", STRING),
            Param::constant("align_corners", BOOL),
        ],
        ..RESAMPLE
    },
    OpDef {
        since: Opset::Ios17,
        params: &[
            X,
            Param::new("coordinates", crate::ops::NUMBER_17).group('U'),
            Param::constant("sampling_mode", STRING),
            Param::constant("padding_mode", STRING),
            Param::constant("padding_value", FLOAT).group('T'),
            Param::constant("coordinates_mode", STRING),
            Param::constant("align_corners", BOOL),
        ],
        ..RESAMPLE
    },
    OpDef {
        name: "affine",
        since: Opset::Ios15,
        params: &[
            X,
            Param::new("transform_matrix", FLOAT),
            Param::constant("output_height", INT32),
            Param::constant("output_width", INT32),
            Param::constant("sampling_mode", STRING),
            Param::constant("padding_mode", STRING),
            Param::constant("padding_value", FLOAT).group('T'),
            Param::constant("coordinates_mode", STRING),
            Param::constant("align_corners", BOOL),
        ],
        infer: affine_infer,
        eval: Eval::By(|args| sampled(args, &affine_samples(args)?)),
        vjp: Some(|v| sample_vjp(v, affine_samples)),
    },
];

/// What each output is made of.
struct Samples {
    /// Images `[B, C, H, W]` are sampled.
    image: [usize; 4],
    /// For each pixel of each patch, patch by patch: elements of a channel of all images, `[B, H, W]`, with their
    /// weights. `None` is the padding.
    taps: Vec<[(Option<usize>, f64); 4]>,
    /// The number of patches; each is `[C, height, width]`.
    n_patches: usize,
    /// What is outside the image.
    padding: f64,
}

/// The two elements of an axis that a point lies between, with their weights; `None` outside the axis.
type Taps = [(Option<usize>, f64); 2];

fn linear(at: f64, n: usize) -> Taps {
    let floor = at.floor();
    let inside = |c: f64| (c >= 0.0 && c < n as f64).then_some(c as usize);
    [(inside(floor), 1.0 - (at - floor)), (inside(floor + 1.0), at - floor)]
}

fn nearest(at: f64, n: usize) -> Taps {
    let [first, _] = linear(at.round_ties_even(), n);
    [first, (first.0, 0.0)]
}

/// The four elements around a point of image `b`.
fn crossed(image: &[usize; 4], b: usize, y: Taps, x: Taps) -> [(Option<usize>, f64); 4] {
    let [_, _, h, w] = *image;
    let one = |(y, wy): (Option<usize>, f64), (x, wx): (Option<usize>, f64)| {
        (y.zip(x).map(|(y, x)| (b * h + y) * w + x), wy * wx)
    };
    [one(y[0], x[0]), one(y[0], x[1]), one(y[1], x[0]), one(y[1], x[1])]
}

fn sampled(args: &Args<'_>, samples: &Samples) -> OpResult<Vec<Value>> {
    let (x, shape) = (args.tensor("x")?, out_shape(args)?);
    let (xs, [_, n_channels, h, w]) = (x.to_f64s(), samples.image);
    let per_patch = samples.taps.len() / samples.n_patches.max(1);
    let element = |i: usize| {
        let (patch, c) = (i / per_patch / n_channels, i / per_patch % n_channels);
        let taps = samples.taps[patch * per_patch + i % per_patch];
        let value = |at: Option<usize>| match at {
            Some(at) => xs[(at / (h * w) * n_channels + c) * h * w + at % (h * w)],
            None => samples.padding,
        };
        // What has no weight is not there, infinite or not.
        taps.into_iter().filter(|t| t.1 != 0.0).map(|(at, weight)| weight * value(at)).sum()
    };
    let out = (0..shape.iter().product()).map(element).collect();
    Ok(vec![Tensor::float(x.dtype(), &shape, out).into()])
}

/// Each element of the image takes the weighted gradients of the outputs it is part of. The points must be
/// constants, and have no gradient themselves.
fn sample_vjp(v: &mut Vjp<'_>, samples: fn(&Args<'_>) -> OpResult<Samples>) -> OpResult<()> {
    v.only(&["x"])?;
    let dy = v.dy()?;
    let dtype = v.b.tensor_ty(dy)?.dtype;
    let Samples { image: [n_images, c, h, w], taps, n_patches, .. } = samples(&v.args())?;
    // Pixels of all patches side by side, four times over, each channel a row: `[C, 4 P]`.
    let n = taps.len();
    let rows = v.b.reshape(dy, &[n_patches, c, n / n_patches.max(1)])?;
    let rows = v.b.transpose(rows, &[1, 0, 2])?;
    let rows = v.b.reshape(rows, &[c, n])?;
    let rows = v.b.concat(&[rows; 4], 1)?;
    let all = || (0..4).flat_map(|i| taps.iter().map(move |t| t[i]));
    let weights = all().map(|(at, weight)| if at.is_some() { weight } else { 0.0 }).collect();
    let weights = v.b.constant(Tensor::float(dtype, &[4 * n], weights));
    let updates = v.b.mul(rows, weights)?;
    let places: Vec<i32> = all().map(|(at, _)| at.unwrap_or(0) as i32).collect();
    let indices = v.b.constant(Tensor::i32s(&places));
    let dx = scattered(v.b, &[c, n_images * h * w], indices, updates, 1)?;
    let dx = v.b.reshape(dx, &[c, n_images, h, w])?;
    let dx = v.b.transpose(dx, &[1, 0, 2, 3])?;
    v.give("x", dx)
}

fn rank_four<'a>(args: &Args<'a>, name: &'static str) -> OpResult<&'a [Dim; 4]> {
    let shape = args.shape(name)?;
    shape.try_into().map_err(|_| OpError::arg(name, format!("has shape {}, expected rank 4", show(shape))))
}

/// The sizes of `x`, all known and none of them 0.
fn image(args: &Args<'_>) -> OpResult<[usize; 4]> {
    let sizes: Option<Vec<usize>> = rank_four(args, "x")?.iter().map(|d| d.fixed().filter(|&d| d > 0)).collect();
    sizes.and_then(|s| s.try_into().ok()).ok_or_else(|| OpError::arg("x", "has sizes that are 0 or not known"))
}

fn size(args: &Args<'_>, name: &'static str) -> OpResult<usize> {
    positive(name, args.int(name)?)
}

fn typed(args: &Args<'_>, shape: &[Dim]) -> OpResult<Vec<Type>> {
    Ok(vec![TensorType { dtype: args.dtype("x")?, shape: shape.to_vec() }.into()])
}

fn expect(args: &Args<'_>, name: &'static str, modes: &[&str]) -> OpResult<()> {
    let mode = args.str(name)?;
    match modes.contains(&mode.to_lowercase().as_str()) {
        true => Ok(()),
        false => Err(OpError::arg(name, format!("is `{mode}`, expected {}", modes.join(" or ")))),
    }
}

const BOX_MODES: [&str; 4] =
    ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"];

/// Until iOS 17 the output is `[N, B, C, height, width]`: each box is cut out of each image, or out of the one
/// whose number stands before its coordinates. Then it is `[N, C, height, width]`.
fn crop_resize_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let &[n_images, c, ..] = rank_four(args, "x")?;
    Grid::of("sampling_mode", args.str("sampling_mode")?)?;
    let mode = args.str("box_coordinate_mode")?;
    if !BOX_MODES.contains(&mode) {
        let message = format!("is `{mode}`, expected {}", BOX_MODES.join(", "));
        return Err(OpError::arg("box_coordinate_mode", message));
    }
    let size = |name| size(args, name).map(|n| Dim::Fixed(n as u64));
    let (height, width) = (size("target_height")?, size("target_width")?);
    let is = |d: Dim, n: u64| d == Dim::Fixed(n) || d == Dim::Any;
    if args.def.since >= Opset::Ios17 {
        let boxes = args.ty("boxes")?;
        let n = match boxes.shape[..] {
            [n, four] if is(four, 4) => n,
            _ => return Err(OpError::arg("boxes", format!("is {boxes}, expected [N, 4]"))),
        };
        if args.bool("normalized_coordinates")? && !boxes.dtype.is_float() {
            return Err(OpError::arg("boxes", format!("is {boxes}, expected floats, as they are normalized")));
        }
        return typed(args, &[n, c, height, width]);
    }
    let roi = args.ty("roi")?;
    match roi.shape[..] {
        [n, one, k, a, b] if [one, a, b].iter().all(|&d| is(d, 1)) && (is(k, 4) || is(k, 5)) => {
            let each = if k == Dim::Fixed(5) { Dim::Fixed(1) } else { n_images };
            typed(args, &[n, each, c, height, width])
        }
        _ => Err(OpError::arg("roi", format!("is {roi}, expected [N, 1, 4, 1, 1] or [N, 1, 5, 1, 1]"))),
    }
}

fn crop_resize_samples(args: &Args<'_>) -> OpResult<Samples> {
    let (image, grid) = (image(args)?, Grid::of("sampling_mode", args.str("sampling_mode")?)?);
    let [n_images, _, h, w] = image;
    let (height, width) = (size(args, "target_height")?, size(args, "target_width")?);
    let (mode, scale) = (args.str("box_coordinate_mode")?, args.float("spatial_scale")?);
    let normalized = args.bool("normalized_coordinates")?;
    let since_17 = args.def.since >= Opset::Ios17;
    let name = if since_17 { "boxes" } else { "roi" };
    let boxes = args.tensor(name)?;
    let per_box = if since_17 { 4 } else { boxes.shape().get(2).copied().unwrap_or(4) };
    // Each patch: its image and its box.
    let mut patches: Vec<(f64, &[f64])> = Vec::new();
    let numbers = boxes.to_f64s();
    let indices = if since_17 { args.optional("box_indices").map(Tensor::to_f64s) } else { None };
    if since_17 && args.has("box_indices") {
        args.tensor("box_indices")?;
    }
    for (i, numbers) in numbers.chunks_exact(per_box).enumerate() {
        match (numbers, since_17) {
            (corners, true) => {
                let at = match &indices {
                    Some(all) => all.get(i).copied().unwrap_or(-1.0),
                    None => i as f64,
                };
                patches.push((at, corners));
            }
            ([at, corners @ ..], false) if corners.len() == 4 => patches.push((*at, corners)),
            (corners, false) => patches.extend((0..n_images).map(|b| (b as f64, corners))),
        }
    }
    let pads = args.def.since >= Opset::Ios16;
    let mut taps = Vec::with_capacity(patches.len().saturating_mul(height * width));
    for &(b, corners) in &patches {
        if !(b >= 0.0 && b < n_images as f64) {
            return Err(OpError::arg(name, format!("names image {b}, `x` has {n_images}")));
        }
        let [a0, b0, a1, b1] = corners else { return Err(OpError::arg(name, "needs four coordinates a box")) };
        let [y0, x0, y1, x1] = match mode {
            "CORNERS_HEIGHT_FIRST" => [*a0, *b0, *a1, *b1],
            "CORNERS_WIDTH_FIRST" => [*b0, *a0, *b1, *a1],
            "CENTER_SIZE_HEIGHT_FIRST" => [a0 - a1 / 2.0, b0 - b1 / 2.0, a0 + a1 / 2.0, b0 + b1 / 2.0],
            _ => [b0 - b1 / 2.0, a0 - a1 / 2.0, b0 + b1 / 2.0, a0 + a1 / 2.0],
        };
        let line = |from: f64, to: f64, n_in: usize, n_out: usize| -> Vec<Option<Taps>> {
            let unit = scale * if normalized { n_in as f64 - 1.0 } else { 1.0 };
            let last = n_in as f64 - 1.0;
            // A box that ends before it begins is run through backwards. Before it could be padded, it counted as
            // the whole image: an op test of coremltools says so.
            let (from, length) = match (to - from) * unit {
                length if length < 0.0 && !pads => (0.0, last),
                length => (from * unit, length),
            };
            let one = |i| {
                let at = from + length.signum() * grid.point(i, length.abs() + 1.0, n_out);
                match pads && !(0.0..=last).contains(&at) {
                    true => None,
                    false => Some(linear(at.min(last).max(0.0), n_in)),
                }
            };
            (0..n_out).map(one).collect()
        };
        let (ys, xs) = (line(y0, y1, h, height), line(x0, x1, w, width));
        let outside = [(None, 1.0), (None, 0.0), (None, 0.0), (None, 0.0)];
        let cross = |y: Option<Taps>, x| y.zip(x).map_or(outside, |(y, x)| crossed(&image, b as usize, y, x));
        taps.extend(ys.iter().flat_map(|&y| xs.iter().map(move |&x| (y, x))).map(|(y, x)| cross(y, x)));
    }
    let padding = if pads { args.float("pad_value")? } else { 0.0 };
    Ok(Samples { image, taps, n_patches: patches.len(), padding })
}

fn resample_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let (&[b, c, ..], &[n, height, width, two]) = (rank_four(args, "x")?, rank_four(args, "coordinates")?);
    expect(args, "sampling_mode", &["bilinear", "nearest"])?;
    expect(args, "padding_mode", &["constant", "border", "reflection", "symmetric"])?;
    expect(args, "coordinates_mode", &["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"])?;
    let either = |a: Dim, b: Dim| a == b || a == Dim::Any || b == Dim::Any;
    if !either(b, n) || !either(two, Dim::Fixed(2)) {
        let coordinates = args.ty("coordinates")?;
        return Err(OpError::arg("coordinates", format!("is {coordinates}, expected [{b}, height, width, 2]")));
    }
    typed(args, &[if b == Dim::Any { n } else { b }, c, height, width])
}

/// Where a coordinate lies among the `n` elements of an axis.
fn place(at: f64, n: usize, mode: &str, align_corners: bool) -> f64 {
    let n = n as f64;
    let unit = match mode {
        "normalized_minus_one_to_one" => (at + 1.0) / 2.0,
        "normalized_zero_to_one" => at,
        _ => return at,
    };
    if align_corners { unit * (n - 1.0) } else { unit * n - 0.5 }
}

/// A place outside an axis of `n` elements as one inside, for the paddings that do so.
fn folded(at: f64, n: usize, padding: &str) -> f64 {
    let last = n as f64 - 1.0;
    // There and back again between the ends.
    let reflect = |at: f64, low: f64, high: f64| {
        let (there, at) = (high - low, (at - low).abs());
        let at = if there > 0.0 { at % (2.0 * there) } else { 0.0 };
        low + if at > there { 2.0 * there - at } else { at }
    };
    let at = match padding {
        "border" => at,
        "reflection" => reflect(at, 0.0, last),
        "symmetric" => reflect(at, -0.5, last + 0.5),
        _ => return at,
    };
    at.min(last).max(0.0)
}

fn resample_samples(args: &Args<'_>) -> OpResult<Samples> {
    let (image, coordinates) = (image(args)?, args.tensor("coordinates")?);
    let lower = |name| args.str(name).map(str::to_lowercase);
    let (sampling, padding, mode) = (lower("sampling_mode")?, lower("padding_mode")?, lower("coordinates_mode")?);
    let align = args.bool("align_corners")?;
    let [n_images, _, h, w] = image;
    let points = coordinates.to_f64s();
    let per_image = points.len() / 2 / n_images.max(1);
    let line = |at: f64, n: usize| {
        let at = folded(place(at, n, &mode, align), n, &padding);
        if sampling == "nearest" { nearest(at, n) } else { linear(at, n) }
    };
    let taps = points.as_chunks().0.iter().enumerate();
    let taps = taps.map(|(i, &[x, y])| crossed(&image, i / per_image, line(y, h), line(x, w))).collect();
    Ok(Samples { image, taps, n_patches: n_images, padding: args.float("padding_value")? })
}

fn affine_infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let &[b, c, ..] = rank_four(args, "x")?;
    expect(args, "sampling_mode", &["bilinear"])?;
    expect(args, "padding_mode", &["constant"])?;
    expect(args, "coordinates_mode", &["normalized_minus_one_to_one"])?;
    let matrix = args.ty("transform_matrix")?;
    let either = |a: Dim, b: Dim| a == b || a == Dim::Any || b == Dim::Any;
    match matrix.shape[..] {
        [n, six] if either(six, Dim::Fixed(6)) && (either(n, b) || n == Dim::Fixed(1)) => {}
        _ => {
            let message = format!("is {matrix}, expected [1, 6] or [{b}, 6]");
            return Err(OpError::arg("transform_matrix", message));
        }
    }
    let size = |name| size(args, name).map(|n| Dim::Fixed(n as u64));
    typed(args, &[b, c, size("output_height")?, size("output_width")?])
}

/// The point `(x, y)` of the output is `(a0 x + a1 y + a2, b0 x + b1 y + b2)` of the image, both from -1 to 1.
fn affine_samples(args: &Args<'_>) -> OpResult<Samples> {
    let (image, matrix) = (image(args)?, args.tensor("transform_matrix")?);
    let (height, width) = (size(args, "output_height")?, size(args, "output_width")?);
    let align = args.bool("align_corners")?;
    let [n_images, _, h, w] = image;
    let rows = matrix.to_f64s();
    let unit = |i: usize, n: usize| match align {
        true => {
            if n > 1 {
                2.0 * i as f64 / (n as f64 - 1.0) - 1.0
            } else {
                0.0
            }
        }
        false => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
    };
    let mut taps = Vec::new();
    for b in 0..n_images {
        let m = rows.chunks_exact(6).nth(if matrix.shape()[0] == 1 { 0 } else { b }).unwrap_or(&[0.0; 6]);
        for i in 0..height {
            for j in 0..width {
                let (x, y) = (unit(j, width), unit(i, height));
                let at = |row: &[f64], n| {
                    linear(place(row[0] * x + row[1] * y + row[2], n, "normalized_minus_one_to_one", align), n)
                };
                taps.push(crossed(&image, b, at(&m[3..], h), at(m, w)));
            }
        }
    }
    Ok(Samples { image, taps, n_patches: n_images, padding: args.float("padding_value")? })
}
