//! Ops on images: sizes changed by interpolation, crops. Those that sample at given points are in `sample`.

pub(super) mod sample;

use super::blocks::image_margins;
use super::elementwise::{from_f64s, show};
use super::shape::{dim, out_shape, strides, walk};
use super::slice::between_zeros;
use super::window::positive;
use super::*;
use crate::ir::{Dim, TensorType};

const X: Param = Param::new("x", FLOAT);
const SCALE: &[DType] = &[DType::Fp32, DType::Fp64, DType::Int32];
// An integer and a fractional factor may stand side by side.
const SCALE_HEIGHT: Param = Param::constant("scale_factor_height", SCALE).or(Const::Int(1));
const SCALE_WIDTH: Param = Param::constant("scale_factor_width", SCALE).or(Const::Int(1));
const ALIGN: Param = Param::constant("align_corners", BOOL).or(Const::Bool(true));
const SAMPLING: Param = Param::constant("sampling_mode", STRING).or(Const::Str("DEFAULT"));

const UPSAMPLE_BILINEAR: OpDef = OpDef {
    name: "upsample_bilinear",
    since: Opset::Ios13,
    params: &[X, SCALE_HEIGHT, SCALE_WIDTH, ALIGN],
    infer: |args| resized_type(args, upsample_bilinear(args)?),
    eval: Eval::By(|args| resized(args, upsample_bilinear(args)?)),
    vjp: Some(|v| resize_vjp(v, upsample_bilinear)),
};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "upsample_nearest_neighbor",
        since: Opset::Ios13,
        params: &[X, SCALE_HEIGHT, SCALE_WIDTH],
        infer: |args| resized_type(args, upsample_nearest(args)?),
        eval: Eval::By(|args| resized(args, upsample_nearest(args)?)),
        vjp: Some(|v| resize_vjp(v, upsample_nearest)),
    },
    UPSAMPLE_BILINEAR,
    OpDef {
        since: Opset::Ios16,
        params: &[X, SCALE_HEIGHT, SCALE_WIDTH, ALIGN, Param::constant("half_pixel_centers", BOOL).optional()],
        ..UPSAMPLE_BILINEAR
    },
    OpDef {
        name: "resize_nearest_neighbor",
        since: Opset::Ios13,
        params: &[X, Param::constant("target_size_height", INT32), Param::constant("target_size_width", INT32)],
        infer: |args| resized_type(args, resize_nearest(args)?),
        eval: Eval::By(|args| resized(args, resize_nearest(args)?)),
        vjp: Some(|v| resize_vjp(v, resize_nearest)),
    },
    OpDef {
        name: "resize_bilinear",
        since: Opset::Ios13,
        params: &[
            X,
            Param::constant("target_size_height", INT32).or(Const::Int(1)),
            Param::constant("target_size_width", INT32).or(Const::Int(1)),
            SAMPLING,
        ],
        infer: |args| resized_type(args, resize_bilinear(args)?),
        eval: Eval::By(|args| resized(args, resize_bilinear(args)?)),
        vjp: Some(|v| resize_vjp(v, resize_bilinear)),
    },
    OpDef {
        name: "resize",
        since: Opset::Ios17,
        params: &[
            Param::new("x", NUMBER),
            Param::new("shape", &[DType::Int16, DType::Int32, DType::UInt16, DType::UInt32]).group('U'),
            Param::constant("resized_dims", &[DType::UInt32]),
            Param::constant("interpolation_mode", STRING).or(Const::Str("LINEAR")),
            SAMPLING,
        ],
        infer: |args| resized_type(args, resize(args)?),
        eval: Eval::By(|args| resized(args, resize(args)?)),
        vjp: Some(|v| resize_vjp(v, resize)),
    },
    OpDef {
        name: "crop",
        since: Opset::Ios13,
        params: &[X, Param::constant("crop_height", INT32), Param::constant("crop_width", INT32)],
        infer: |args| {
            let x = args.ty("x")?;
            let (mut shape, first) = (x.shape.clone(), first_of_two(args)?);
            for (axis, [before, after]) in (first..).zip(crops(args)?) {
                if let Dim::Fixed(d) = shape[axis] {
                    let name = if axis == first { "crop_height" } else { "crop_width" };
                    shape[axis] = cropped(name, d, [before, after])?;
                }
            }
            Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
        },
        eval: Eval::By(|args| {
            let (x, shape, first) = (args.tensor("x")?, out_shape(args)?, first_of_two(args)?);
            let (crops, steps) = (crops(args)?, strides(x.shape()));
            let before = |axis: usize| if axis < first { 0 } else { crops[axis - first][0] };
            Ok(vec![x.picked(&shape, |i| walk(&shape, i, |axis, c| (c + before(axis)) * steps[axis])).into()])
        }),
        vjp: Some(|v| {
            let (shape, mut dx) = (v.b.shape(v.arg("x")?)?, v.dy()?);
            let (first, crops) = {
                let args = v.args();
                (first_of_two(&args)?, crops(&args)?)
            };
            for (axis, [before, _]) in (first..).zip(crops) {
                dx = between_zeros(v.b, dx, axis, before, shape[axis])?;
            }
            v.give("x", dx)
        }),
    },
];

/// The axis of the height; that of the width is the last.
fn first_of_two(args: &Args<'_>) -> OpResult<usize> {
    let x = args.shape("x")?;
    match x.len() {
        0..=2 => Err(OpError::arg("x", format!("has shape {}, expected rank 3 or more", show(x)))),
        rank => Ok(rank - 2),
    }
}

/// What is left of `d` elements.
pub(super) fn cropped(name: &'static str, d: u64, [before, after]: [usize; 2]) -> OpResult<Dim> {
    let left = d.checked_sub(before as u64).and_then(|d| d.checked_sub(after as u64));
    let message = || format!("cuts {before} and {after} from the ends of {d} elements");
    left.map(Dim::Fixed).ok_or_else(|| OpError::arg(name, message()))
}

fn crops(args: &Args<'_>) -> OpResult<[[usize; 2]; 2]> {
    let one = |name| match image_margins(args, name)?[..] {
        [before, after] => Ok([before, after]),
        ref other => Err(OpError::arg(name, format!("is {other:?}, expected two sizes"))),
    };
    Ok([one("crop_height")?, one("crop_width")?])
}

/// Where the points of a grid of `n_out` lie among `n_in` elements, from 0 to `n_in - 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Grid {
    /// The first and the last point are the first and the last element; a single point is the first.
    StrictAlignCorners,
    /// So too, but a single point lies in the middle.
    AlignCorners,
    /// The first point is the first element, each stands for as many elements.
    Default,
    /// The points lie in the middle of equal parts of the way from the first element to the last.
    OffsetCorners,
    /// The points lie in the middle of equal parts, where elements have a width too.
    UnalignCorners,
}

impl Grid {
    fn of(name: &'static str, mode: &str) -> OpResult<Grid> {
        Ok(match mode {
            "STRICT_ALIGN_CORNERS" => Grid::StrictAlignCorners,
            "ALIGN_CORNERS" => Grid::AlignCorners,
            "DEFAULT" => Grid::Default,
            "OFFSET_CORNERS" => Grid::OffsetCorners,
            "UNALIGN_CORNERS" => Grid::UnalignCorners,
            other => {
                let message = format!(
                    "is `{other}`, expected STRICT_ALIGN_CORNERS, ALIGN_CORNERS, DEFAULT, OFFSET_CORNERS or \
                     UNALIGN_CORNERS"
                );
                return Err(OpError::arg(name, message));
            }
        })
    }

    /// The `i`-th point of `n_out` on `n_in` elements (of which there may be a fraction).
    fn point(self, i: usize, n_in: f64, n_out: usize) -> f64 {
        let (i, n) = (i as f64, n_out as f64);
        let point = match self {
            Grid::AlignCorners if n_out == 1 => (n_in - 1.0) / 2.0,
            Grid::StrictAlignCorners | Grid::AlignCorners => i * (n_in - 1.0) / (n - 1.0).max(1.0),
            Grid::Default => i * n_in / n,
            Grid::OffsetCorners => (i + 0.5) * (n_in - 1.0).max(1.0) / n,
            Grid::UnalignCorners => (i + 0.5) * n_in / n - 0.5,
        };
        point.min(n_in - 1.0).max(0.0)
    }
}

/// How an axis gets another size.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Between the two elements next to the point.
    Linear(Grid),
    /// The element nearest to the point, of two the first.
    Nearest(Grid),
    /// The last element not after the point.
    Floor(Grid),
}

impl Rule {
    /// What the `i`-th of `n_out` elements is made of: elements of `n_in`, and their weights.
    fn taps(self, i: usize, n_in: usize, n_out: usize) -> [(usize, f64); 2] {
        let at = |grid: Grid| grid.point(i, n_in as f64, n_out);
        let (at, share) = match self {
            Rule::Linear(grid) => (at(grid).floor() as usize, at(grid).fract()),
            Rule::Nearest(grid) => ((at(grid) - 0.5).ceil() as usize, 0.0),
            Rule::Floor(grid) => (at(grid).floor() as usize, 0.0),
        };
        [(at, 1.0 - share), ((at + 1).min(n_in - 1), share)]
    }
}

/// The axes that get another size: which, what size, and how.
type Resizing = Vec<(usize, Dim, Rule)>;

fn upsampled(args: &Args<'_>, rule: Rule) -> OpResult<Resizing> {
    let first = first_of_two(args)?;
    let one = |(axis, name): (usize, &'static str)| {
        let (d, factor) = (args.shape("x")?[axis], args.float(name)?);
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(OpError::arg(name, format!("is {factor}, expected a positive number")));
        }
        let size = match d {
            Dim::Any => Dim::Any,
            Dim::Fixed(d) => Dim::Fixed((d as f64 * factor).floor() as u64),
        };
        Ok((axis, size, rule))
    };
    [(first, "scale_factor_height"), (first + 1, "scale_factor_width")].into_iter().map(one).collect()
}

fn upsample_nearest(args: &Args<'_>) -> OpResult<Resizing> {
    upsampled(args, Rule::Floor(Grid::Default))
}

fn upsample_bilinear(args: &Args<'_>) -> OpResult<Resizing> {
    let align = args.bool("align_corners")?;
    let half_pixel = match args.def.param("half_pixel_centers") {
        Some(_) if args.has("half_pixel_centers") => args.bool("half_pixel_centers")?,
        _ => !align,
    };
    let grid = match (align, half_pixel) {
        (true, false) => Grid::StrictAlignCorners,
        (false, true) => Grid::UnalignCorners,
        (false, false) => Grid::Default,
        (true, true) => {
            return Err(OpError::arg("half_pixel_centers", "cannot be true where `align_corners` is"));
        }
    };
    upsampled(args, Rule::Linear(grid))
}

fn to_target(args: &Args<'_>, rule: Rule) -> OpResult<Resizing> {
    let first = first_of_two(args)?;
    let size = |name| -> OpResult<_> { Ok(Dim::Fixed(positive(name, args.int(name)?)? as u64)) };
    Ok(vec![(first, size("target_size_height")?, rule), (first + 1, size("target_size_width")?, rule)])
}

fn resize_nearest(args: &Args<'_>) -> OpResult<Resizing> {
    to_target(args, Rule::Floor(Grid::Default))
}

fn resize_bilinear(args: &Args<'_>) -> OpResult<Resizing> {
    to_target(args, Rule::Linear(Grid::of("sampling_mode", args.str("sampling_mode")?)?))
}

/// The last `resized_dims` axes get the last sizes of `shape`, of which 0 keeps the axis as it is.
fn resize(args: &Args<'_>) -> OpResult<Resizing> {
    let grid = Grid::of("sampling_mode", args.str("sampling_mode")?)?;
    let rule = match args.str("interpolation_mode")? {
        "LINEAR" => Rule::Linear(grid),
        "NEAREST_NEIGHBOR" => Rule::Nearest(grid),
        other => {
            let message = format!("is `{other}`, expected LINEAR or NEAREST_NEIGHBOR");
            return Err(OpError::arg("interpolation_mode", message));
        }
    };
    let (x, n) = (args.shape("x")?, args.int("resized_dims")?);
    let given = match args.shape("shape")? {
        [Dim::Fixed(given)] if *given <= x.len() as u64 && (0..=*given as i64).contains(&n) => *given as usize,
        other => {
            let message = format!("has shape {}, expected {n} (`resized_dims`) to {} sizes", show(other), x.len());
            return Err(OpError::arg("shape", message));
        }
    };
    let n = n as usize;
    let sizes = match args.optional("shape") {
        Some(_) => args.ints("shape")?,
        None => None,
    };
    let one = |i: usize| {
        let axis = x.len() - n + i;
        let size = match sizes.as_ref().map(|s| s[given - n + i]) {
            None => Dim::Any,
            Some(0) => x[axis],
            Some(d) => dim("shape", d)?,
        };
        Ok((axis, size, rule))
    };
    (0..n).map(one).collect()
}

fn resized_type(args: &Args<'_>, axes: Resizing) -> OpResult<Vec<Type>> {
    let x = args.ty("x")?;
    let mut shape = x.shape.clone();
    for (axis, size, _) in axes {
        if shape[axis] == Dim::Fixed(0) && size != Dim::Fixed(0) {
            return Err(OpError::arg("x", format!("is {x}, which has nothing on axis {axis} to make {size} of")));
        }
        shape[axis] = size;
    }
    Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
}

/// Axis by axis, each element from the two that the rule names. Axes that shrink come first, so that nothing on
/// the way has more elements than the input and the output.
fn resized(args: &Args<'_>, mut axes: Resizing) -> OpResult<Vec<Value>> {
    let (x, out) = (args.tensor("x")?, out_shape(args)?);
    axes.sort_by_key(|&(axis, ..)| out[axis] > x.shape()[axis]);
    let (mut shape, mut xs) = (x.shape().to_vec(), x.to_f64s());
    for (axis, _, rule) in axes {
        let (n_in, n_out) = (shape[axis], out[axis]);
        let inner: usize = shape[axis + 1..].iter().product();
        let taps: Vec<_> = (0..n_out).map(|i| rule.taps(i, n_in, n_out)).collect();
        shape[axis] = n_out;
        let element = |i: usize| {
            let (outer, rest) = (i / inner / n_out, i % inner);
            let [(a, wa), (b, wb)] = taps[i / inner % n_out];
            let at = |c: usize| xs[(outer * n_in + c) * inner + rest];
            // What has no weight is not there, infinite or not.
            if wb == 0.0 { at(a) } else { at(a) * wa + at(b) * wb }
        };
        xs = (0..shape.iter().product()).map(element).collect();
    }
    Ok(vec![from_f64s(x.dtype(), &out, xs).into()])
}

/// Resizing an axis is a product with a matrix of weights, its gradient the product with the transposed one.
fn resize_vjp(v: &mut Vjp<'_>, axes: fn(&Args<'_>) -> OpResult<Resizing>) -> OpResult<()> {
    let (shape, mut dx) = (v.b.shape(v.arg("x")?)?, v.dy()?);
    let dtype = v.b.tensor_ty(dx)?.dtype;
    for (axis, _, rule) in axes(&v.args())? {
        let mut now = v.b.shape(dx)?;
        let (n_in, n_out) = (shape[axis], now[axis]);
        let mut weights = vec![0.0; n_in * n_out];
        for i in 0..n_out {
            rule.taps(i, n_in, n_out).into_iter().for_each(|(c, w)| weights[i * n_in + c] += w);
        }
        let weights = v.b.constant(Tensor::float(dtype, &[n_out, n_in], weights));
        let (before, after) = (now[..axis].iter().product(), now[axis + 1..].iter().product());
        let lines = v.b.reshape(dx, &[before, n_out, after])?;
        let lines = v.b.matmul(weights, lines, true, false)?;
        now[axis] = n_in;
        dx = v.b.reshape(lines, &now)?;
    }
    v.give("x", dx)
}
