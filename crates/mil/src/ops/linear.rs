//! Products of matrices: `linear`, `matmul`, `einsum`.

use super::elementwise::{broadcast_dims, from_f64s};
use super::shape::broadcast_shapes;
use super::window::coordinates;
use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType};

const TRANSPOSE_X: Param = Param::constant("transpose_x", BOOL).or(Const::Bool(false));
const TRANSPOSE_Y: Param = Param::constant("transpose_y", BOOL).or(Const::Bool(false));

const LINEAR: OpDef = OpDef {
    name: "linear",
    since: Opset::Ios13,
    params: &[
        Param::new("x", NUMBER),
        Param::constant("weight", NUMBER).group('T'),
        Param::constant("bias", NUMBER).group('T').optional(),
    ],
    infer: |args| Ok(vec![linear_type(args)?.into()]),
    eval: Eval::By(linear_eval),
    vjp: Some(linear_vjp),
};

const MATMUL: OpDef = OpDef {
    name: "matmul",
    since: Opset::Ios13,
    params: &[Param::new("x", NUMBER), Param::new("y", NUMBER), TRANSPOSE_X, TRANSPOSE_Y],
    infer: |args| Ok(vec![matmul_type(args)?.into()]),
    eval: Eval::By(matmul_eval),
    vjp: Some(matmul_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    LINEAR,
    OpDef {
        since: Opset::Ios17,
        params: &[
            Param::new("x", NUMBER),
            Param::constant("weight", NUMBER).group('U'),
            Param::constant("bias", NUMBER).group('U').optional(),
        ],
        ..LINEAR
    },
    MATMUL,
    OpDef {
        since: Opset::Ios17,
        params: &[Param::new("x", NUMBER), Param::new("y", NUMBER).group('U'), TRANSPOSE_X, TRANSPOSE_Y],
        ..MATMUL
    },
    OpDef {
        name: "einsum",
        since: Opset::Ios13,
        params: &[Param::new("values", NUMBER).variadic(), Param::constant("equation", STRING)],
        infer: |args| Ok(vec![einsum_type(args)?.into()]),
        eval: Eval::By(einsum_eval),
        vjp: Some(einsum_vjp),
    },
];

fn show(t: &TensorType) -> String {
    super::elementwise::show(&t.shape)
}

/// Rows and columns of the last two axes, as the flags say.
fn rows_and_columns(shape: &[Dim], transposed: bool) -> (Dim, Dim) {
    let (a, b) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    if transposed { (b, a) } else { (a, b) }
}

/// The element type of a product: both sides', or where they differ that of the one that is no constant.
fn matmul_dtype(args: &Args<'_>) -> OpResult<DType> {
    let (x, y) = (args.bound("x")?, args.bound("y")?);
    let (tx, ty) = (args.dtype("x")?, args.dtype("y")?);
    match (x.constant, y.constant) {
        _ if tx == ty => Ok(tx),
        (false, true) => Ok(tx),
        (true, false) => Ok(ty),
        _ => Err(OpError::arg(
            "y",
            format!("has {ty} elements, `x` {tx}: they may differ only if one is a constant"),
        )),
    }
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
    let mut shape = broadcast_dims(&xs[..xs.len() - 2], &ys[..ys.len() - 2])?;
    if x.shape.len() > 1 {
        shape.push(m);
    }
    if y.shape.len() > 1 {
        shape.push(n);
    }
    Ok(TensorType { dtype: matmul_dtype(args)?, shape })
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
    Ok(vec![from_f64s(matmul_dtype(args)?, &out_shape, out).into()])
}

/// With `z = op(x) op(y)`: `d op(x) = dz op(y)^T`, `d op(y) = op(x)^T dz`, transposed back where `op` transposes.
/// A vector is a matrix of one row on the left, of one column on the right.
fn matmul_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (mut x, mut y, mut dz) = (v.arg("x")?, v.arg("y")?, v.dy()?);
    let dtype = v.b.tensor_ty(dz)?.dtype;
    for side in [&mut x, &mut y] {
        if v.b.tensor_ty(*side)?.dtype != dtype {
            *side = v.b.cast(*side, dtype)?;
        }
    }
    let (xs, ys) = (v.b.shape(x)?, v.b.shape(y)?);
    let flag = |v: &Vjp<'_>, name| Ok::<bool, OpError>(v.ints(name)? == [1]);
    let tx = flag(v, "transpose_x")? && xs.len() > 1;
    let ty = flag(v, "transpose_y")? && ys.len() > 1;
    let mut zs = v.b.shape(dz)?;
    if let [d] = ys[..] {
        y = v.b.reshape(y, &[d, 1])?;
        zs.push(1);
    }
    if let [d] = xs[..] {
        x = v.b.reshape(x, &[1, d])?;
        zs.insert(zs.len() - 1, 1);
    }
    if zs.len() != v.b.shape(dz)?.len() {
        dz = v.b.reshape(dz, &zs)?;
    }
    if v.wants("x") {
        let dx = if tx { v.b.matmul(y, dz, ty, true)? } else { v.b.matmul(dz, y, false, !ty)? };
        give_matrix(v, "x", dx, xs.len() == 1)?;
    }
    if v.wants("y") {
        let dy = if ty { v.b.matmul(dz, x, true, tx)? } else { v.b.matmul(x, dz, !tx, false)? };
        give_matrix(v, "y", dy, ys.len() == 1)?;
    }
    Ok(())
}

/// Gives the gradient of an argument that went in as a matrix; if it is a vector, the axis that made it one is
/// taken out first.
fn give_matrix(v: &mut Vjp<'_>, name: &'static str, gradient: builder::Value, is_vector: bool) -> OpResult<()> {
    if !is_vector {
        return v.give_reduced(name, gradient);
    }
    let mut shape = v.b.shape(gradient)?;
    let at = shape.len() - if name == "x" { 2 } else { 1 };
    shape.remove(at);
    let gradient = v.b.reshape(gradient, &shape)?;
    v.give_reduced(name, gradient)
}

fn linear_type(args: &Args<'_>) -> OpResult<TensorType> {
    let (x, w) = (args.ty("x")?, args.ty("weight")?);
    let (Some((&columns, rows)), [d_out, d_in]) = (x.shape.split_last(), &w.shape[..]) else {
        let message = format!("has shape {}, `x` {}: expected [*, columns of x]", show(w), show(x));
        return Err(OpError::arg("weight", message));
    };
    if !columns.agrees(*d_in) {
        let message = format!("has shape {}, expected [*, {columns}] to match input `x` {}", show(w), show(x));
        return Err(OpError::arg("weight", message));
    }
    if args.has("bias") {
        let bias = args.ty("bias")?;
        if bias.shape.len() != 1 || !bias.shape[0].agrees(*d_out) {
            return Err(OpError::arg("bias", format!("has shape {}, expected [{d_out}]", show(bias))));
        }
    }
    Ok(TensorType { dtype: x.dtype, shape: [rows, &[*d_out]].concat() })
}

/// `y[.., o] = bias[o] + sum over i of x[.., i] weight[o, i]`, in the order of `i`.
fn linear_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = (args.tensor("x")?, args.tensor("weight")?);
    let shape = linear_type(args)?.fixed_shape().unwrap_or_default();
    let (n_out, n_in) = (w.shape()[0], w.shape()[1]);
    let (xs, ws, bias) = (x.to_f64s(), w.to_f64s(), args.optional("bias").map(Tensor::to_f64s));
    let element = |at: usize| {
        let (row, o) = (at / n_out, at % n_out);
        let product = |i: usize| xs[row * n_in + i] * ws[o * n_in + i];
        bias.as_ref().map_or(0.0, |b| b[o]) + (0..n_in).map(product).sum::<f64>()
    };
    Ok(vec![from_f64s(x.dtype(), &shape, (0..shape.iter().product()).map(element).collect()).into()])
}

/// `dx = dy W`, `dW = dy^T x` and `db = dy` summed over all rows.
fn linear_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (x, dy) = (v.arg("x")?, v.dy()?);
    let w = v.arg_like("weight", x)?;
    let (ys, ws) = (v.b.shape(dy)?, v.b.shape(w)?);
    let rows: usize = ys[..ys.len() - 1].iter().product();
    let flat = v.b.reshape(dy, &[rows, ws[0]])?;
    if v.wants("x") {
        let dx = v.b.matmul(flat, w, false, false)?;
        let shape = v.b.shape(x)?;
        let dx = v.b.reshape(dx, &shape)?;
        v.give("x", dx)?;
    }
    if v.wants("weight") {
        let x = v.b.reshape(x, &[rows, ws[1]])?;
        let dw = v.b.matmul(flat, x, true, false)?;
        v.give("weight", dw)?;
    }
    if v.wants("bias") {
        let db = v.b.reduce_sum(flat, &[0], false)?;
        v.give("bias", db)?;
    }
    Ok(())
}

/// `bchw, bwhu -> bchu` for two tensors of rank 4, without `b` for two of rank 3: a product of matrices over the
/// axes before and behind `h`, for each `b` and `h`. Sizes of 1 of `b` and `h` are broadcast.
fn einsum_type(args: &Args<'_>) -> OpResult<TensorType> {
    let equation = args.str("equation")?;
    if !matches!(&letters(equation)[..], [x, y, z] if is_product(x, y, z)) {
        let message = format!("is `{equation}`, expected the like of nchw,nwhu->nchu or chw,whr->chr");
        return Err(OpError::arg("equation", message));
    }
    let values = args.many("values");
    let types: Vec<&TensorType> = values.iter().filter_map(|b| b.ty.as_tensor()).collect();
    let rank = letters(equation)[0].len();
    let [x, y] = types[..] else { return Err(OpError::arg("values", "must be two tensors")) };
    if x.shape.len() != rank || y.shape.len() != rank {
        let message = format!("have shapes {} and {}, expected rank {rank} for `{equation}`", show(x), show(y));
        return Err(OpError::arg("values", message));
    }
    let (xs, ys) = (&x.shape[rank - 3..], &y.shape[rank - 3..]);
    if !xs[2].agrees(ys[0]) {
        let message = format!("have shapes {} and {}: {} columns meet {} rows", show(x), show(y), xs[2], ys[0]);
        return Err(OpError::arg("values", message));
    }
    let batch = broadcast_dims(&x.shape[..rank - 3], &y.shape[..rank - 3])?;
    let h = broadcast_dims(&xs[1..2], &ys[1..2])?;
    let shape = [&batch[..], &[xs[0]], &h, &[ys[2]]].concat();
    Ok(TensorType { dtype: x.dtype, shape })
}

/// The letters of each operand and of the result.
fn letters(equation: &str) -> Vec<Vec<char>> {
    let equation = equation.replace(' ', "");
    let Some((operands, result)) = equation.split_once("->") else { return Vec::new() };
    operands.split(',').chain([result]).map(|s| s.chars().collect()).collect()
}

fn is_product(x: &[char], y: &[char], z: &[char]) -> bool {
    let mut all: Vec<char> = x.iter().chain(y).copied().collect();
    all.sort_unstable();
    all.dedup();
    match (x, y, z) {
        (&[n, c, h, w], &[n2, w2, h2, u], &[n3, c3, h3, u3]) => {
            all.len() == 5 && [n2, n3, w2, h2, c3, h3, u3] == [n, n, w, h, c, h, u]
        }
        (&[c, h, w], &[w2, h2, u], &[c3, h3, u3]) => all.len() == 4 && [w2, h2, c3, h3, u3] == [w, h, c, h, u],
        _ => false,
    }
}

/// `z[b, c, h, u] = sum over w of x[b, c, h, w] y[b, w, h, u]`, in the order of `w`.
fn einsum_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let out = einsum_type(args)?.fixed_shape().unwrap_or_default();
    let values = args.many("values");
    let operands: Vec<&Tensor> = values.iter().filter_map(|b| b.tensor()).collect();
    let with_batch = |s: &[usize]| [&vec![1; 4 - s.len()], s].concat();
    let (xs, ys) = (with_batch(operands[0].shape()), with_batch(operands[1].shape()));
    let (x, y) = (operands[0].to_f64s(), operands[1].to_f64s());
    let at =
        |s: &[usize], c: [usize; 4]| s.iter().zip(c).fold(0, |at, (&d, c)| at * d + if d == 1 { 0 } else { c });
    let element = |c: Vec<usize>| -> f64 {
        let product = |w: usize| x[at(&xs, [c[0], c[1], c[2], w])] * y[at(&ys, [c[0], w, c[2], c[3]])];
        (0..xs[3]).map(product).sum()
    };
    let z = coordinates(&with_batch(&out)).map(element).collect();
    Ok(vec![from_f64s(operands[0].dtype(), &out, z).into()])
}

/// Through the product of matrices that it is, `h` before the others.
fn einsum_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let values = v.many("values");
    let perm: &[i32] = if v.b.shape(values[0])?.len() == 4 { &[0, 2, 1, 3] } else { &[1, 0, 2] };
    v.through(|v| {
        let x = v.b.transpose(values[0], perm)?;
        let y = v.b.transpose(values[1], perm)?;
        let z = v.b.matmul(x, y, false, false)?;
        Ok(vec![v.b.transpose(z, perm)?])
    })
}
