//! Attention.

use super::activation::softmax;
use super::elementwise::{broadcast_dims, show};
use super::shape::{strides, walk};
use super::*;
use crate::ir::{TensorType, shapes_agree};

const BOOL_OR_FLOAT: &[DType] = &[DType::Bool, DType::Fp16, DType::Fp32, DType::Fp64];

pub(super) const OPS: &[OpDef] = &[OpDef {
    name: "scaled_dot_product_attention",
    since: Opset::Ios18,
    params: &[
        Param::new("query", FLOAT),
        Param::new("key", FLOAT),
        Param::new("value", FLOAT),
        Param::new("attn_mask", BOOL_OR_FLOAT).group('M').optional(),
    ],
    infer: |args| Ok(vec![attention_type(args)?.into()]),
    eval: Eval::By(attention_eval),
    vjp: Some(attention_vjp),
}];

/// Query `[.., L, E]`, key `[.., S, E]`, value `[.., S, V]` and a mask that broadcasts to `[.., L, S]` give
/// `[.., L, V]`.
fn attention_type(args: &Args<'_>) -> OpResult<TensorType> {
    let (q, k, v) = (args.ty("query")?, args.shape("key")?, args.shape("value")?);
    let rank = q.shape.len();
    let fits = rank >= 3
        && k.len() == rank
        && v.len() == rank
        && shapes_agree(&q.shape[..rank - 2], &k[..rank - 2])
        && shapes_agree(&q.shape[..rank - 2], &v[..rank - 2])
        && q.shape[rank - 1].agrees(k[rank - 1])
        && k[rank - 2].agrees(v[rank - 2]);
    if !fits {
        return Err(OpError::new(format!(
            "query, key and value have shapes {}, {} and {}, expected [.., L, E], [.., S, E] and [.., S, V]",
            show(&q.shape),
            show(k),
            show(v)
        )));
    }
    if args.has("attn_mask") {
        let mask = args.shape("attn_mask")?;
        let scores = [&q.shape[..rank - 1], &k[rank - 2..rank - 1]].concat();
        let together = broadcast_dims(mask, &scores)?;
        if mask.is_empty() || !shapes_agree(&together, &scores) {
            let message = format!("has shape {}, which does not broadcast to {}", show(mask), show(&scores));
            return Err(OpError::arg("attn_mask", message));
        }
    }
    Ok(TensorType { dtype: q.dtype, shape: [&q.shape[..rank - 1], &v[rank - 1..]].concat() })
}

/// `softmax(query key^T / sqrt(E) + mask) value`; a mask of bools lets through where it is true.
fn attention_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let out_shape = attention_type(args)?.fixed_shape().unwrap_or_default();
    let (q, k, v) = (args.tensor("query")?, args.tensor("key")?, args.tensor("value")?);
    let rank = q.rank();
    let (l, e, s, n_v) = (q.shape()[rank - 2], q.shape()[rank - 1], k.shape()[rank - 2], v.shape()[rank - 1]);
    let score_shape = [&out_shape[..rank - 1], &[s]].concat();
    let (qs, ks, vs) = (q.to_f64s(), k.to_f64s(), v.to_f64s());
    let mut scores: Vec<f64> = (0..score_shape.iter().product())
        .map(|i: usize| {
            let (batch, row, column) = (i / s / l, i / s % l, i % s);
            let product = |j: usize| qs[(batch * l + row) * e + j] * ks[(batch * s + column) * e + j];
            (0..e).map(product).sum::<f64>() / (e as f64).sqrt()
        })
        .collect();
    if let Some(mask) = args.optional("attn_mask") {
        let (lead, steps) = (rank - mask.rank(), strides(mask.shape()));
        let step =
            |axis: usize| if axis < lead || mask.shape()[axis - lead] == 1 { 0 } else { steps[axis - lead] };
        let values = mask.to_f64s();
        for (i, score) in scores.iter_mut().enumerate() {
            let m = values[walk(&score_shape, i, |axis, c| c * step(axis))];
            match mask.dtype() {
                DType::Bool if m == 0.0 => *score = f64::NEG_INFINITY,
                DType::Bool => {}
                _ => *score += m,
            }
        }
    }
    let weights = softmax(&Tensor::exact(DType::Fp64, &score_shape, scores), rank - 1);
    let element = |i: usize| {
        let (row, column) = (i / n_v, i % n_v);
        let batch = row / l;
        (0..s).map(|j| weights[row * s + j] * vs[(batch * s + j) * n_v + column]).sum()
    };
    Ok(vec![Tensor::float(q.dtype(), &out_shape, (0..out_shape.iter().product()).map(element).collect()).into()])
}

fn attention_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let (query, key, value, mask) = (v.arg("query")?, v.arg("key")?, v.arg("value")?, v.optional("attn_mask"));
    let e = *v.b.shape(query)?.last().unwrap_or(&1);
    v.through(|v| {
        let products = v.b.matmul(query, key, false, true)?;
        let mut scores = v.b.scale(products, 1.0 / (e as f64).sqrt())?;
        if let Some(mask) = mask {
            scores = if v.b.tensor_ty(mask)?.dtype == DType::Bool {
                let never = v.number(scores, f64::NEG_INFINITY)?;
                v.select(mask, scores, never)?
            } else {
                let mask = v.arg_like("attn_mask", scores)?;
                v.b.add(scores, mask)?
            };
        }
        let weights = v.b.call("softmax").arg("x", scores).constant("axis", Tensor::i32(-1)).finish()?;
        Ok(vec![v.b.matmul(weights, value, false, false)?])
    })
}
