//! Products: `conv`, `matmul`, `linear`.

use super::shape::broadcast_shapes;
use super::*;
use crate::ir::{Dim, TensorType};

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "conv",
        since: Opset::Ios13,
        params: &[
            Param::new("x", FLOAT),
            Param::new("weight", FLOAT),
            Param::new("bias", FLOAT).optional(),
            Param::constant("strides", INT32).optional(),
            Param::constant("pad_type", STRING).or(Const::Str("valid")),
            Param::constant("pad", INT32).optional(),
            Param::constant("dilations", INT32).optional(),
            Param::constant("groups", INT32).or(Const::Int(1)),
        ],
        infer: |args| Ok(vec![Conv::of(args)?.ty.into()]),
        eval: Eval::By(conv_eval),
        vjp: Some(conv_vjp),
    },
    OpDef {
        name: "matmul",
        since: Opset::Ios13,
        params: &[
            Param::new("x", NUMBER),
            Param::new("y", NUMBER),
            Param::constant("transpose_x", BOOL).or(Const::Bool(false)),
            Param::constant("transpose_y", BOOL).or(Const::Bool(false)),
        ],
        infer: |args| Ok(vec![matmul_type(args)?.into()]),
        eval: Eval::By(matmul_eval),
        vjp: Some(matmul_vjp),
    },
];

/// The geometry of a convolution.
struct Conv {
    ty: TensorType,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Rows of padding before each spatial axis.
    before: Vec<usize>,
    groups: usize,
}

impl Conv {
    fn of(args: &Args<'_>) -> OpResult<Conv> {
        let (x, w) = (args.ty("x")?, args.ty("weight")?);
        let rank = x.shape.len();
        if !(3..=5).contains(&rank) || w.shape.len() != rank {
            return Err(OpError::arg(
                "weight",
                format!("has shape {}, `x` {}: expected both of the same rank, 3 to 5", show(w), show(x)),
            ));
        }
        let n = rank - 2;
        let groups = positive("groups", args.int("groups")?)?;
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
        if let Dim::Fixed(o) = w.shape[0]
            && o % groups as u64 != 0
        {
            return Err(OpError::arg(
                "weight",
                format!("has {o} output channels, which {groups} groups do not divide"),
            ));
        }
        if args.has("bias") {
            let bias = args.ty("bias")?;
            if bias.shape != [w.shape[0]] {
                return Err(OpError::arg("bias", format!("has shape {}, expected [{}]", show(bias), w.shape[0])));
            }
        }
        let strides = sizes(args, "strides", n)?;
        let dilations = sizes(args, "dilations", n)?;
        let pad_type = args.str("pad_type")?;
        let pad = args.ints("pad")?.unwrap_or_default();
        let mut shape = vec![x.shape[0], w.shape[0]];
        let mut before = Vec::with_capacity(n);
        for i in 0..n {
            let (Dim::Fixed(d), Dim::Fixed(k)) = (x.shape[2 + i], w.shape[2 + i]) else {
                shape.push(Dim::Any);
                before.push(0);
                continue;
            };
            let (stride, dilation) = (strides[i] as u64, dilations[i] as u64);
            let too_large = || OpError::arg("x", format!("has shape {}, which padding makes too large", show(x)));
            let window =
                k.checked_sub(1).and_then(|k| k.checked_mul(dilation)?.checked_add(1)).ok_or_else(too_large)?;
            let (lo, hi) = match pad_type {
                "valid" => (0, 0),
                "custom" => {
                    let side = |j: usize| pad.get(j).and_then(|&p| u64::try_from(p).ok());
                    side(2 * i).zip(side(2 * i + 1)).ok_or_else(|| {
                        OpError::arg("pad", format!("is {pad:?}, expected {} sizes that are not negative", 2 * n))
                    })?
                }
                "same" | "same_lower" => {
                    let total =
                        ((d.div_ceil(stride)).saturating_sub(1) * stride).saturating_add(window).saturating_sub(d);
                    // The odd element comes last for `same`, first for `same_lower`.
                    let less = total / 2;
                    if pad_type == "same" { (less, total - less) } else { (total - less, less) }
                }
                other => {
                    let message = format!("is `{other}`, expected valid, same, same_lower or custom");
                    return Err(OpError::arg("pad_type", message));
                }
            };
            let padded = d.checked_add(lo).and_then(|d| d.checked_add(hi)).ok_or_else(too_large)?;
            let room = padded.checked_sub(window).ok_or_else(|| {
                OpError::arg(
                    "x",
                    format!("has {padded} padded elements on axis {}, fewer than the window of {window}", 2 + i),
                )
            })?;
            shape.push(Dim::Fixed(room / stride + 1));
            before.push(lo as usize);
        }
        Ok(Conv { ty: TensorType { dtype: x.dtype, shape }, strides, dilations, before, groups })
    }
}

fn show(t: &TensorType) -> String {
    super::elementwise::show(&t.shape)
}

pub(super) fn positive(name: &'static str, x: i64) -> OpResult<usize> {
    usize::try_from(x)
        .ok()
        .filter(|&x| x > 0)
        .ok_or_else(|| OpError::arg(name, format!("is {x}, expected 1 or more")))
}

/// A positive size for each of `n` spatial axes.
fn sizes(args: &Args<'_>, name: &'static str, n: usize) -> OpResult<Vec<usize>> {
    let given = args.ints(name)?.unwrap_or_else(|| vec![1; n]);
    if given.len() != n {
        return Err(OpError::arg(name, format!("has {} sizes, expected {n}", given.len())));
    }
    given.into_iter().map(|s| positive(name, s)).collect()
}

/// `y[n, o, p] = bias[o] + sum over i, k of weight[o, i, k] x[n, g(o) I + i, p stride + k dilation - before]`,
/// in the order channels, then kernel positions.
fn conv_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = (args.tensor("x")?, args.tensor("weight")?);
    let conv = Conv::of(args)?;
    let out_shape = conv.ty.fixed_shape().unwrap_or_default();
    let (xs, ws) = (x.floats().unwrap_or_default(), w.floats().unwrap_or_default());
    let bias = args.optional("bias").map(|b| b.to_f64s());
    let (n_out, per_group) = (out_shape[1], w.shape()[1]);
    let (spatial_x, spatial_w, spatial_y) = (&x.shape()[2..], &w.shape()[2..], &out_shape[2..]);
    let (size_x, size_w): (usize, usize) = (spatial_x.iter().product(), spatial_w.iter().product());
    let mut out = Vec::with_capacity(out_shape.iter().product());
    for batch in 0..out_shape[0] {
        for o in 0..n_out {
            let first = o / (n_out / conv.groups) * per_group;
            for p in coordinates(spatial_y) {
                let mut sum = bias.as_ref().map_or(0.0, |b| b[o]);
                for i in 0..per_group {
                    for (k_at, k) in coordinates(spatial_w).enumerate() {
                        if let Some(at) = conv.input_at(spatial_x, &p, &k) {
                            sum += ws[(o * per_group + i) * size_w + k_at]
                                * xs[(batch * x.shape()[1] + first + i) * size_x + at];
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    Ok(vec![Tensor::float(x.dtype(), &out_shape, out).into()])
}

impl Conv {
    /// The offset in a channel of the element under kernel position `k` for output `p`; `None` in the padding.
    fn input_at(&self, spatial: &[usize], p: &[usize], k: &[usize]) -> Option<usize> {
        let mut at = 0;
        for (i, &d) in spatial.iter().enumerate() {
            let c = (p[i] * self.strides[i] + k[i] * self.dilations[i]).checked_sub(self.before[i])?;
            if c >= d {
                return None;
            }
            at = at * d + c;
        }
        Some(at)
    }
}

/// All coordinates of a shape, in row-major order.
fn coordinates(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..shape.iter().product()).map(move |mut i: usize| {
        let mut c = vec![0; shape.len()];
        for (c, &d) in c.iter_mut().zip(shape).rev() {
            *c = i % d;
            i /= d;
        }
        c
    })
}

/// Of the 1x1 convolution `y = W x`: `dx = W^T dy`, `dW = dy x^T` summed over the batch.
fn conv_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, w, dy) = (v.arg("x")?, v.arg("weight")?, v.dy()?);
    let (xs, ws, ys) = (v.b.shape(x)?, v.b.shape(w)?, v.b.shape(dy)?);
    let pointwise = ws[2..].iter().all(|&k| k == 1)
        && xs[2..] == ys[2..]
        && v.optional("strides").is_none_or(|_| v.ints("strides").is_ok_and(|s| s.iter().all(|&s| s == 1)))
        && v.ints("groups")? == [1];
    if !pointwise {
        return Err(OpError::new("has a gradient only for 1x1 kernels without strides, padding and groups"));
    }
    if v.wants("x") {
        let mut perm: Vec<i32> = (0..ws.len() as i32).collect();
        perm.swap(0, 1);
        let wt = v.b.transpose(w, &perm)?;
        let dx = v.b.pointwise(dy, wt)?;
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
    if v.optional("bias").is_some_and(|b| v.wants_value(b)) {
        let axes: Vec<i32> = (0..ys.len() as i32).filter(|&a| a != 1).collect();
        let db = v.b.reduce_sum(dy, &axes, false)?;
        v.give("bias", db)?;
    }
    Ok(())
}

/// Rows and columns of the last two axes, as the flags say.
fn rows_and_columns(shape: &[Dim], transposed: bool) -> (Dim, Dim) {
    let (a, b) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    if transposed { (b, a) } else { (a, b) }
}

fn matmul_type(args: &Args<'_>) -> OpResult<TensorType> {
    let (x, y) = (args.ty("x")?, args.ty("y")?);
    // A vector counts as one row on the left and as one column on the right.
    let as_matrix = |t: &TensorType, left: bool| match t.shape[..] {
        [d] if left => vec![Dim::Fixed(1), d],
        [d] => vec![d, Dim::Fixed(1)],
        _ => t.shape.clone(),
    };
    if x.shape.is_empty() || y.shape.is_empty() {
        return Err(OpError::new(format!("shapes are {} and {}, expected rank 1 or more", show(x), show(y))));
    }
    let (xs, ys) = (as_matrix(x, true), as_matrix(y, false));
    let (m, k) = rows_and_columns(&xs, args.bool("transpose_x")? && x.shape.len() > 1);
    let (k2, n) = rows_and_columns(&ys, args.bool("transpose_y")? && y.shape.len() > 1);
    if let (Dim::Fixed(a), Dim::Fixed(b)) = (k, k2)
        && a != b
    {
        return Err(OpError::new(format!(
            "shapes {} and {} do not match: {a} columns meet {b} rows",
            show(x),
            show(y)
        )));
    }
    let mut shape = super::elementwise::broadcast_dims(&xs[..xs.len() - 2], &ys[..ys.len() - 2])?;
    if x.shape.len() > 1 {
        shape.push(m);
    }
    if y.shape.len() > 1 {
        shape.push(n);
    }
    Ok(TensorType { dtype: x.dtype, shape })
}

/// `z[.., i, j] = sum over k of x[.., i, k] y[.., k, j]`, in the order of `k`.
fn matmul_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, y) = (args.tensor("x")?, args.tensor("y")?);
    let out_shape = matmul_type(args)?.fixed_shape().unwrap_or_default();
    let matrix = |t: &Tensor, left: bool, transposed: bool| {
        let s = t.shape();
        let (r, c) = match s {
            [d] if left => (1, *d),
            [d] => (*d, 1),
            _ => (s[s.len() - 2], s[s.len() - 1]),
        };
        // Rows, columns, and the strides to the next of each.
        if transposed && s.len() > 1 { (c, r, 1, c) } else { (r, c, c, 1) }
    };
    let (m, k, x_row, x_col) = matrix(x, true, args.bool("transpose_x")?);
    let (_, n, y_row, y_col) = matrix(y, false, args.bool("transpose_y")?);
    let batch = |t: &Tensor| t.shape()[..t.rank().saturating_sub(2)].to_vec();
    let batches = broadcast_shapes(&batch(x), &batch(y))?;
    let offset = |t: &Tensor, coordinate: &[usize]| {
        let own = batch(t);
        let lead = coordinate.len() - own.len();
        own.iter().zip(&coordinate[lead..]).fold(0, |at, (&d, &c)| at * d + if d == 1 { 0 } else { c })
    };
    let (xs, ys) = (x.to_f64s(), y.to_f64s());
    let mut out = Vec::with_capacity(out_shape.iter().product());
    for c in coordinates(&batches) {
        let (x0, y0) = (offset(x, &c) * m * k, offset(y, &c) * k * n);
        for i in 0..m {
            for j in 0..n {
                out.push((0..k).map(|l| xs[x0 + i * x_row + l * x_col] * ys[y0 + l * y_row + j * y_col]).sum());
            }
        }
    }
    Ok(vec![
        match x.dtype().is_float() {
            true => Tensor::float(x.dtype(), &out_shape, out),
            false => Tensor::int(x.dtype(), &out_shape, out.into_iter().map(|x| x as i64).collect()),
        }
        .into(),
    ])
}

/// With `z = op(x) op(y)`: `d op(x) = dz op(y)^T`, `d op(y) = op(x)^T dz`, transposed back where `op` transposes.
fn matmul_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, y, dz) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    if v.b.shape(x)?.len() < 2 || v.b.shape(y)?.len() < 2 {
        return Err(OpError::new("has a gradient only for operands of rank 2 or more"));
    }
    let flag = |v: &Vjp<'_>, name| Ok::<bool, OpError>(v.ints(name)? == [1]);
    let (tx, ty) = (flag(v, "transpose_x")?, flag(v, "transpose_y")?);
    if v.wants("x") {
        let dx = if tx { v.b.matmul(y, dz, ty, true)? } else { v.b.matmul(dz, y, false, !ty)? };
        v.give_reduced("x", dx)?;
    }
    if v.wants("y") {
        let dy = if ty { v.b.matmul(dz, x, true, tx)? } else { v.b.matmul(x, dz, !tx, false)? };
        v.give_reduced("y", dy)?;
    }
    Ok(())
}
