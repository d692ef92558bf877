//! Convolutions and their transposes.

mod unfold;

use super::shape::mul_dims;
use super::slice::between_zeros;
use super::window::{Geometry, Windows, coordinates, positive};
use super::*;
use crate::builder::{self, Builder};
use crate::ir::{Dim, TensorType};
pub(crate) use unfold::{is_linear, unfold};

const STRIDES: Param = Param::constant("strides", INT32).optional();
const PAD_TYPE: Param = Param::constant("pad_type", STRING).or(Const::Str("valid"));
const PAD: Param = Param::constant("pad", INT32).optional();
const DILATIONS: Param = Param::constant("dilations", INT32).optional();
const GROUPS: Param = Param::constant("groups", INT32).or(Const::Int(1));

const CONV: OpDef = OpDef {
    name: "conv",
    since: Opset::Ios13,
    params: &[
        Param::new("x", FLOAT),
        Param::new("weight", FLOAT),
        Param::constant("bias", FLOAT).group('T').optional(),
        STRIDES,
        PAD_TYPE,
        PAD,
        DILATIONS,
        GROUPS,
    ],
    infer: |args| Ok(vec![Conv::of(args)?.ty.into()]),
    eval: Eval::By(|args| conv_eval(args, args.tensor("weight")?.to_f64s(), args.optional("bias"))),
    vjp: Some(conv_vjp),
};

const CONV_TRANSPOSE: OpDef = OpDef {
    name: "conv_transpose",
    since: Opset::Ios13,
    params: &[
        Param::new("x", FLOAT),
        Param::constant("weight", FLOAT).group('T'),
        Param::constant("bias", FLOAT).group('T').optional(),
        PAD,
        Param::constant("output_shape", INT32).optional(),
        PAD_TYPE,
        STRIDES,
        DILATIONS,
        GROUPS,
    ],
    infer: |args| Ok(vec![Conv::transpose(args)?.ty.into()]),
    eval: Eval::By(transpose_eval),
    vjp: Some(transpose_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    CONV,
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("x", FLOAT),
            Param::new("weight", FLOAT).group('U'),
            Param::new("bias", FLOAT).group('U').optional(),
            STRIDES,
            PAD_TYPE,
            PAD,
            DILATIONS,
            GROUPS,
        ],
        ..CONV
    },
    OpDef {
        name: "conv_quantized",
        since: Opset::Ios13,
        params: &[
            Param::new("x", FLOAT),
            Param::new("weight", &[DType::UInt8]).group('U'),
            Param::constant("bias", &[DType::UInt8]).group('U').optional(),
            Param::constant("quantization_type", STRING),
            Param::constant("nbits", INT32).or(Const::Int(8)),
            Param::constant("quant_scale", FLOAT).group('T'),
            Param::constant("quant_bias", FLOAT).group('T'),
            STRIDES,
            PAD_TYPE,
            PAD,
            DILATIONS,
            GROUPS,
        ],
        infer: |args| {
            match args.int("nbits")? {
                1..=8 => {}
                n => return Err(OpError::arg("nbits", format!("is {n}, expected 1 to 8"))),
            }
            match args.str("quantization_type")? {
                "linear" | "lut" => Ok(vec![Conv::of(args)?.ty.into()]),
                other => Err(OpError::arg("quantization_type", format!("is `{other}`, expected linear or lut"))),
            }
        },
        eval: Eval::By(quantized_eval),
        // Quantized numbers do not move by small steps.
        vjp: None,
    },
    CONV_TRANSPOSE,
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("x", FLOAT),
            Param::new("weight", FLOAT).group('U'),
            Param::new("bias", FLOAT).group('U').optional(),
            PAD,
            Param::constant("output_shape", INT32).optional(),
            PAD_TYPE,
            STRIDES,
            DILATIONS,
            GROUPS,
        ],
        ..CONV_TRANSPOSE
    },
];

/// A convolution or its transpose: what it gives, and how its windows lie.
struct Conv {
    ty: TensorType,
    windows: Windows,
    groups: usize,
}

impl Conv {
    fn of(args: &Args<'_>) -> OpResult<Conv> {
        let (x, w, groups) = operands(args)?;
        let (channels, inner) = (x.shape[1], w.shape[1]);
        if let (Dim::Fixed(c), Dim::Fixed(i)) = (channels, inner)
            && i.checked_mul(groups as u64) != Some(c)
        {
            let expected = if c % groups as u64 == 0 { (c / groups as u64).to_string() } else { "?".into() };
            let tail: String = w.shape[2..].iter().map(|d| format!(", {d}")).collect();
            return Err(OpError::arg(
                "weight",
                format!(
                    "has shape {}, expected [*, {expected}{tail}] to match input `x` {} in {groups} groups",
                    show(w),
                    show(x)
                ),
            ));
        }
        divided(w.shape[0], groups, "output")?;
        check_bias(args, w.shape[0])?;
        let geometry = Geometry::of(args, x.shape.len() - 2)?;
        let (windows, spatial) = geometry.over(&x.shape[2..], &w.shape[2..], false)?;
        let shape = [&[x.shape[0], w.shape[0]], &spatial[..]].concat();
        Ok(Conv { ty: TensorType { dtype: x.dtype, shape }, windows, groups })
    }

    /// Of `conv_transpose`: its windows lie on the output, one for each element of the input.
    fn transpose(args: &Args<'_>) -> OpResult<Conv> {
        let (x, w, groups) = operands(args)?;
        if let (Dim::Fixed(c), Dim::Fixed(i)) = (x.shape[1], w.shape[0])
            && c != i
        {
            let message = format!("has shape {}, expected {c} rows to match input `x` {}", show(w), show(x));
            return Err(OpError::arg("weight", message));
        }
        divided(w.shape[0], groups, "input")?;
        let channels = mul_dims(w.shape[1], Dim::Fixed(groups as u64))?;
        check_bias(args, channels)?;
        let given = args.ints("output_shape")?;
        let image = match &given {
            None => None,
            Some(s) => {
                let fits = |d: Dim, s: i64| d.agrees(Dim::Fixed(s as u64));
                let sizes: Option<Vec<usize>> = s.iter().map(|&s| usize::try_from(s).ok()).collect();
                let is_shape = |sizes: &Vec<usize>| {
                    sizes.len() == x.shape.len() && fits(x.shape[0], s[0]) && fits(channels, s[1])
                };
                let Some(sizes) = sizes.filter(is_shape) else {
                    let message = format!(
                        "is {s:?}, expected {} sizes, the first {} and {channels}",
                        x.shape.len(),
                        x.shape[0]
                    );
                    return Err(OpError::arg("output_shape", message));
                };
                Some(sizes[2..].to_vec())
            }
        };
        let geometry = Geometry::of(args, x.shape.len() - 2)?;
        let (windows, spatial) = geometry.under(&x.shape[2..], &w.shape[2..], image.as_deref())?;
        let shape = [&[x.shape[0], channels], &spatial[..]].concat();
        Ok(Conv { ty: TensorType { dtype: x.dtype, shape }, windows, groups })
    }
}

fn operands<'a>(args: &Args<'a>) -> OpResult<(&'a TensorType, &'a TensorType, usize)> {
    let (x, w) = (args.ty("x")?, args.ty("weight")?);
    let rank = x.shape.len();
    if !(3..=5).contains(&rank) || w.shape.len() != rank {
        return Err(OpError::arg(
            "weight",
            format!("has shape {}, `x` {}: expected both of the same rank, 3 to 5", show(w), show(x)),
        ));
    }
    Ok((x, w, positive("groups", args.int("groups")?)?))
}

fn divided(channels: Dim, groups: usize, which: &str) -> OpResult<()> {
    match channels {
        Dim::Fixed(c) if c % groups as u64 != 0 => {
            Err(OpError::arg("weight", format!("has {c} {which} channels, which {groups} groups do not divide")))
        }
        _ => Ok(()),
    }
}

fn check_bias(args: &Args<'_>, channels: Dim) -> OpResult<()> {
    if !args.has("bias") {
        return Ok(());
    }
    let bias = args.ty("bias")?;
    match bias.shape[..] {
        [d] if d.agrees(channels) => Ok(()),
        _ => Err(OpError::arg("bias", format!("has shape {}, expected [{channels}]", show(bias)))),
    }
}

fn show(t: &TensorType) -> String {
    super::elementwise::show(&t.shape)
}

/// `y[n, o, p] = bias[o] + sum over i, k of weight[o, i, k] x[n, g(o) I + i, p stride + k dilation - before]`,
/// in the order channels, then kernel positions.
fn conv_eval(args: &Args<'_>, ws: Vec<f64>, bias: Option<&Tensor>) -> OpResult<Vec<Value>> {
    let (x, conv) = (args.tensor("x")?, Conv::of(args)?);
    let out_shape = conv.ty.fixed_shape().unwrap_or_default();
    let (xs, bias) = (x.to_f64s(), bias.map(Tensor::to_f64s));
    let Windows { image, kernel, out, .. } = &conv.windows;
    let (size_x, size_w): (usize, usize) = (image.iter().product(), kernel.iter().product());
    let (n_in, n_out) = (x.shape()[1], out_shape[1]);
    let per_group = n_in / conv.groups;
    let mut y = Vec::with_capacity(out_shape.iter().product());
    for batch in 0..out_shape[0] {
        for o in 0..n_out {
            let first = o / (n_out / conv.groups) * per_group;
            for p in coordinates(out) {
                let mut sum = bias.as_ref().map_or(0.0, |b| b[o]);
                for i in 0..per_group {
                    for (k_at, k) in coordinates(kernel).enumerate() {
                        if let Some(at) = conv.windows.at(&p, &k) {
                            sum += ws[(o * per_group + i) * size_w + k_at]
                                * xs[(batch * n_in + first + i) * size_x + at];
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    Ok(vec![Tensor::float(x.dtype(), &out_shape, y).into()])
}

/// `weight = scale q + bias`, one scale and bias for all or for each output channel.
fn quantized_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    if args.str("quantization_type")? != "linear" {
        return Err(OpError::arg("quantization_type", "is `lut`, whose table no argument holds"));
    }
    let q = args.tensor("weight")?;
    let n_out = q.shape()[0];
    let per_channel = |name| -> OpResult<Vec<f64>> {
        let t = args.tensor(name)?;
        match t.len() {
            1 => Ok(vec![t.to_f64s()[0]; n_out]),
            n if n == n_out => Ok(t.to_f64s()),
            n => Err(OpError::arg(name, format!("has {n} elements, expected 1 or {n_out}"))),
        }
    };
    let (scale, bias) = (per_channel("quant_scale")?, per_channel("quant_bias")?);
    let size = (q.len() / n_out.max(1)).max(1);
    let ws = q.to_f64s().iter().enumerate().map(|(i, q)| q * scale[i / size] + bias[i / size]).collect();
    conv_eval(args, ws, args.optional("bias"))
}

/// `y[n, g(i) O + o, p stride + k dilation - before] += weight[i, o, k] x[n, i, p]`.
fn transpose_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, w, conv) = (args.tensor("x")?, args.tensor("weight")?, Conv::transpose(args)?);
    let out_shape = conv.ty.fixed_shape().unwrap_or_default();
    let (xs, ws) = (x.to_f64s(), w.to_f64s());
    let Windows { image, kernel, out, .. } = &conv.windows;
    let (size_y, size_w): (usize, usize) = (image.iter().product(), kernel.iter().product());
    let (n_in, n_out, per_group) = (x.shape()[1], out_shape[1], w.shape()[1]);
    let mut y = vec![0.0; out_shape.iter().product()];
    if let Some(bias) = args.optional("bias").map(Tensor::to_f64s) {
        y.iter_mut().enumerate().for_each(|(i, y)| *y = bias[i / size_y % n_out]);
    }
    let mut xs = xs.into_iter();
    for batch in 0..x.shape()[0] {
        for i in 0..n_in {
            let first = i / (n_in / conv.groups) * per_group;
            for p in coordinates(out) {
                let x = xs.next().unwrap_or_default();
                for o in 0..per_group {
                    for (k_at, k) in coordinates(kernel).enumerate() {
                        if let Some(at) = conv.windows.at(&p, &k) {
                            y[(batch * n_out + first + o) * size_y + at] +=
                                ws[(i * per_group + o) * size_w + k_at] * x;
                        }
                    }
                }
            }
        }
    }
    Ok(vec![Tensor::float(x.dtype(), &out_shape, y).into()])
}

fn conv_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let conv = Conv::of(&v.args())?;
    let (x, w, dy) = (v.arg("x")?, v.arg("weight")?, v.dy()?);
    let windows = &conv.windows;
    if conv.groups == 1 && windows.are_elements() {
        return pointwise_vjp(v);
    }
    if v.wants("x") {
        let dx = spread(v.b, dy, w, windows, conv.groups)?;
        v.give("x", dx)?;
    }
    if v.wants("weight") {
        let dw = weight_gradient(v.b, x, dy, windows, conv.groups)?;
        v.give("weight", dw)?;
    }
    bias_vjp(v)
}

/// Of the 1x1 convolution `y = W x`: `dx = W^T dy`, `dW = dy x^T` summed over the batch.
fn pointwise_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, w, dy) = (v.arg("x")?, v.arg("weight")?, v.dy()?);
    let (xs, ws, ys) = (v.b.shape(x)?, v.b.shape(w)?, v.b.shape(dy)?);
    if v.wants("x") {
        let mut perm: Vec<i32> = (0..ws.len() as i32).collect();
        perm.swap(0, 1);
        let wt = v.b.transpose(w, &perm)?;
        // Named after the layer, and so are the programs cut from a training graph.
        let name = format!("{}_dx", v.b.name(v.out()));
        let dx = v.b.pointwise_call(dy, wt)?.named(&name).finish()?;
        v.give("x", dx)?;
    }
    if v.wants("weight") {
        let size: usize = xs[2..].iter().product();
        let dy_rows = v.b.reshape(dy, &[xs[0], ys[1], size])?;
        let x_rows = v.b.reshape(x, &[xs[0], xs[1], size])?;
        let per_item = v.b.matmul(dy_rows, x_rows, false, true)?;
        let summed = if xs[0] == 1 { per_item } else { v.b.reduce_sum(per_item, &[0], false)? };
        let dw = v.b.reshape(summed, &ws)?;
        v.give("weight", dw)?;
    }
    bias_vjp(v)
}

fn bias_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    if v.wants("bias") {
        let dy = v.dy()?;
        let axes: Vec<i32> = (0..v.b.shape(dy)?.len() as i32).filter(|&a| a != 1).collect();
        let db = v.b.reduce_sum(dy, &axes, false)?;
        v.give("bias", db)?;
    }
    Ok(())
}

fn transpose_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let conv = Conv::transpose(&v.args())?;
    let (x, w, dy) = (v.arg("x")?, v.arg("weight")?, v.dy()?);
    if v.wants("x") {
        let dy = touched_part(v.b, dy, &conv.windows)?;
        let dx = call(v.b, "conv", dy, w, &conv.windows, conv.groups)?;
        v.give("x", dx)?;
    }
    if v.wants("weight") {
        let dw = weight_gradient(v.b, dy, x, &conv.windows, conv.groups)?;
        v.give("weight", dw)?;
    }
    bias_vjp(v)
}

/// The sum of what each window adds to an image, `dy` times the kernel: `conv_transpose`, and zeros where no
/// window reaches.
pub(super) fn spread(
    b: &mut Builder,
    dy: builder::Value,
    w: builder::Value,
    windows: &Windows,
    groups: usize,
) -> OpResult<builder::Value> {
    let mut dx = call(b, "conv_transpose", dy, w, windows, groups)?;
    for axis in 0..windows.image.len() {
        dx = between_zeros(b, dx, axis + 2, 0, windows.image[axis])?;
    }
    Ok(dx)
}

/// An image without what lies behind its last window, which makes the number of windows on it exact.
fn touched_part(b: &mut Builder, image: builder::Value, windows: &Windows) -> OpResult<builder::Value> {
    let mut shape = b.shape(image)?;
    if (0..windows.image.len()).all(|axis| windows.untouched(axis) == 0) {
        return Ok(image);
    }
    shape.iter_mut().skip(2).enumerate().for_each(|(axis, d)| *d -= windows.untouched(axis));
    Ok(b.slice(image, &vec![0; shape.len()], &shape)?)
}

fn call(
    b: &mut Builder,
    op: &'static str,
    x: builder::Value,
    w: builder::Value,
    windows: &Windows,
    groups: usize,
) -> OpResult<builder::Value> {
    let sizes = |s: &[usize]| Tensor::i32s(&s.iter().map(|&s| s as i32).collect::<Vec<_>>());
    Ok(b.call(op)
        .arg("x", x)
        .arg("weight", w)
        .constant("strides", sizes(&windows.strides))
        .constant("dilations", sizes(&windows.dilations))
        .constant("pad_type", Tensor::string("custom"))
        .constant("pad", Tensor::i32s(&windows.pads()))
        .constant("groups", Tensor::i32(groups as i32))
        .finish()?)
}

/// `dW[o, i, k] = sum over n, p of dy[n, o, p] x[n, g(o) I + i, p stride + k dilation - before]`: again a
/// convolution, of which the batch is the channels, `dy` the kernel, and strides and dilations have changed
/// places.
///
/// Core ML refuses dilations with a kernel that is no constant, so of a convolution with strides this runs on the
/// host.
fn weight_gradient(
    b: &mut Builder,
    x: builder::Value,
    dy: builder::Value,
    windows: &Windows,
    groups: usize,
) -> OpResult<builder::Value> {
    let x = touched_part(b, x, windows)?;
    let xs = b.shape(x)?;
    let (n, inner, rank) = (xs[0], xs[1] / groups, xs.len());
    let swapped = |rank: usize| -> Vec<i32> {
        let mut perm: Vec<i32> = (0..rank as i32).collect();
        perm.swap(0, 1);
        perm
    };
    // [n, g I, ...] to [I, g n, ...], by [n, g, I, rest] and [I, g, n, rest].
    let x = if groups == 1 {
        b.transpose(x, &swapped(rank))?
    } else {
        let rest = xs[2..].iter().product();
        let apart = b.reshape(x, &[n, groups, inner, rest])?;
        let turned = b.transpose(apart, &[2, 1, 0, 3])?;
        b.reshape(turned, &[&[inner, groups * n], &xs[2..]].concat())?
    };
    let dy = b.transpose(dy, &swapped(rank))?;
    let turned = Windows {
        strides: windows.dilations.clone(),
        dilations: windows.strides.clone(),
        kernel: windows.out.clone(),
        out: windows.kernel.clone(),
        image: b.shape(x)?[2..].to_vec(),
        ..windows.clone()
    };
    let dw = call(b, "conv", x, dy, &turned, groups)?;
    Ok(b.transpose(dw, &swapped(rank))?)
}
