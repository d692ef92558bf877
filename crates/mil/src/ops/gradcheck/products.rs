//! Gradient checks of convolution, products, pooling, recurrence, attention.

use super::*;
use crate::Result;
use crate::builder::Value;

/// A convolution of `v[0]` by `v[1]`, plus `v[2]` if there: strides, dilations, padding of that type, groups.
fn conv(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    [strides, dilations, pad]: [&[i32]; 3],
    pad_type: &str,
    groups: i32,
) -> Result<Value> {
    let mut c = b.call(op).arg("x", v[0]).arg("weight", v[1]);
    if let Some(&bias) = v.get(2) {
        c = c.arg("bias", bias);
    }
    c.constant("strides", Tensor::i32s(strides))
        .constant("dilations", Tensor::i32s(dilations))
        .constant("pad_type", Tensor::string(pad_type))
        .constant("pad", Tensor::i32s(pad))
        .constant("groups", Tensor::i32(groups))
        .finish()
}

/// Pooling of `v[0]`: kernel, strides, padding.
fn pool(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    sizes: [&[i32]; 3],
    flag: Option<&'static str>,
) -> Result<Value> {
    let [kernel, strides, pad] = sizes;
    let mut c = b
        .call(op)
        .arg("x", v[0])
        .constant("kernel_sizes", Tensor::i32s(kernel))
        .constant("strides", Tensor::i32s(strides))
        .constant("pad_type", Tensor::string("custom"))
        .constant("pad", Tensor::i32s(pad));
    if let Some(flag) = flag {
        c = c.constant(flag, Tensor::bool(true));
    }
    c.finish()
}

/// All outputs of a recurrent layer in one tensor. `flags` are names and values of arguments that are strings, of
/// which `true` stands for the boolean; `params` are those that `v` is passed for.
fn layer(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    params: &[&'static str],
    flags: &[(&'static str, &str)],
) -> Result<Value> {
    let mut c = b.call(op);
    for (param, &v) in params.iter().zip(v) {
        c = c.arg(param, v);
    }
    for &(flag, value) in flags {
        c = c.constant(flag, if value == "true" { Tensor::bool(true) } else { Tensor::string(value) });
    }
    let outputs = c.finish_many()?;
    let mut flat = Vec::new();
    for y in outputs {
        let n = b.shape(y)?.iter().product();
        flat.push(b.reshape(y, &[n])?);
    }
    b.call("concat").args("values", &flat).constant("axis", Tensor::i32(0)).finish()
}

fn attention(b: &mut Builder, v: &[Value]) -> Result<Value> {
    let mut c = b.call("scaled_dot_product_attention").arg("query", v[0]).arg("key", v[1]).arg("value", v[2]);
    if let Some(&mask) = v.get(3) {
        c = c.arg("attn_mask", mask);
    }
    c.finish()
}

fn einsum(b: &mut Builder, v: &[Value], equation: &str) -> Result<Value> {
    b.call("einsum").args("values", v).constant("equation", Tensor::string(equation)).finish()
}

pub(super) const CASES: &[Case] = &[
    ("conv", &[&[2, 4, 5, 7], &[6, 2, 3, 2], &[6]], |b, v| {
        conv(b, "conv", v, [&[2, 3], &[1, 2], &[1, 0, 2, 1]], "custom", 2)
    }),
    // The stride leaves elements that no window touches, and there is no padding to take them.
    // As many windows as elements, and yet not one for each.
    ("conv", &[&[1, 2, 4, 4], &[3, 2, 1, 1]], |b, v| {
        conv(b, "conv", v, [&[2, 2], &[1, 1], &[2, 2, 2, 2]], "custom", 1)
    }),
    ("conv", &[&[1, 2, 8], &[3, 2, 2]], |b, v| conv(b, "conv", v, [&[4], &[1], &[0, 0]], "valid", 1)),
    ("conv", &[&[2, 3, 6], &[3, 1, 4]], |b, v| conv(b, "conv", v, [&[1], &[1], &[0, 0]], "same", 3)),
    ("conv", &[&[1, 2, 5, 4], &[2, 2, 2, 2]], |b, v| {
        conv(b, "conv", v, [&[2, 1], &[1, 1], &[0, 0, 0, 0]], "same_lower", 1)
    }),
    ("conv", &[&[1, 2, 3, 3, 3], &[2, 1, 2, 2, 2]], |b, v| {
        conv(b, "conv", v, [&[1, 1, 2], &[1, 2, 1], &[0, 0, 1, 0, 0, 0]], "custom", 2)
    }),
    ("conv_transpose", &[&[2, 4, 3], &[4, 3, 3], &[6]], |b, v| {
        conv(b, "conv_transpose", v, [&[2], &[2], &[1, 2]], "custom", 2)
    }),
    ("conv_transpose", &[&[1, 2, 3, 2], &[2, 2, 2, 3]], |b, v| {
        conv(b, "conv_transpose", v, [&[1, 2], &[1, 1], &[0; 4]], "valid", 1)
    }),
    // The window is narrower than the stride.
    ("conv_transpose", &[&[1, 2, 3], &[2, 2, 2]], |b, v| {
        conv(b, "conv_transpose", v, [&[3], &[1], &[0, 0]], "same", 1)
    }),
    ("conv_transpose", &[&[1, 2, 3], &[2, 2, 3]], |b, v| {
        b.call("conv_transpose")
            .arg("x", v[0])
            .arg("weight", v[1])
            .constant("strides", Tensor::i32s(&[2]))
            .constant("output_shape", Tensor::i32s(&[1, 2, 6]))
            .constant("pad_type", Tensor::string("custom"))
            .constant("pad", Tensor::i32s(&[1, 1]))
            .finish()
    }),
    // The output reaches so far behind the last window that a convolution of it has one more.
    ("conv_transpose", &[&[1, 2, 3], &[2, 2, 2]], |b, v| {
        b.call("conv_transpose")
            .arg("x", v[0])
            .arg("weight", v[1])
            .constant("strides", Tensor::i32s(&[2]))
            .constant("output_shape", Tensor::i32s(&[1, 2, 9]))
            .finish()
    }),
    ("matmul", &[&[3], &[3]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[3], &[2, 3, 4]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[2, 4, 3], &[3]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[2, 3, 4], &[3]], |b, v| b.matmul(v[0], v[1], true, false)),
    ("matmul", &[&[3], &[4, 3]], |b, v| b.matmul(v[0], v[1], false, true)),
    ("einsum", &[&[2, 3, 1, 4], &[1, 4, 2, 3]], |b, v| einsum(b, v, "nchw,nwhu->nchu")),
    ("einsum", &[&[3, 2, 4], &[4, 1, 3]], |b, v| einsum(b, v, "chw, whr -> chr")),
    ("avg_pool", &[&[2, 3, 5, 4]], |b, v| pool(b, "avg_pool", v, [&[2, 3], &[2, 1], &[1, 0, 1, 1]], None)),
    ("avg_pool", &[&[1, 2, 5]], |b, v| {
        pool(b, "avg_pool", v, [&[2], &[3], &[1, 1]], Some("exclude_padding_from_average"))
    }),
    ("avg_pool", &[&[1, 2, 4, 5]], |b, v| {
        pool(b, "avg_pool", v, [&[3, 2], &[2, 2], &[1, 1, 0, 0]], Some("ceil_mode"))
    }),
    ("l2_pool", &[&[1, 2, 5, 4]], |b, v| pool(b, "l2_pool", v, [&[2, 2], &[2, 1], &[0, 1, 1, 0]], None)),
    ("max_pool", &[&[2, 2, 5, 4]], |b, v| pool(b, "max_pool", v, [&[3, 2], &[2, 1], &[1, 1, 0, 1]], None)),
    ("max_pool", &[&[1, 2, 6]], |b, v| pool(b, "max_pool", v, [&[3], &[2], &[0, 0]], Some("ceil_mode"))),
    ("max_pool", &[&[1, 1, 3, 3, 3]], |b, v| pool(b, "max_pool", v, [&[2, 2, 1], &[1, 1, 2], &[0; 6]], None)),
    ("scaled_dot_product_attention", &[&[2, 3, 4], &[2, 5, 4], &[2, 5, 2], &[3, 5]], attention),
    ("scaled_dot_product_attention", &[&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 3]], |b, v| {
        let mask = Tensor::int(DType::Bool, &[1, 5], vec![1, 1, 0, 1, 0]);
        let mask = b.constant(mask);
        attention(b, &[v, &[mask]].concat())
    }),
];

/// Cases of ops that want constants but for their first input.
pub(super) const CONSTANT_CASES: &[Case] = &[
    ("linear", &[&[2, 3, 4], &[5, 4], &[5]], |b, v| {
        b.call("linear").arg("x", v[0]).arg("weight", v[1]).arg("bias", v[2]).finish()
    }),
    ("linear", &[&[4], &[5, 4]], |b, v| b.call("linear").arg("x", v[0]).arg("weight", v[1]).finish()),
    ("rnn", &[&[3, 2, 2], &[2, 3], &[3, 2], &[3, 3], &[3]], |b, v| {
        let params = ["x", "initial_h", "weight_ih", "weight_hh", "bias"];
        layer(b, "rnn", v, &params, &[("output_sequence", "true"), ("direction", "reverse")])
    }),
    ("gru", &[&[3, 2, 2], &[2, 3], &[9, 2], &[9, 3], &[9], &[9]], |b, v| {
        let params = ["x", "initial_h", "weight_ih", "weight_hh", "bias", "input_bias"];
        layer(b, "gru", v, &params, &[("output_sequence", "true")])
    }),
    ("gru", &[&[2, 2, 2], &[2, 3], &[9, 2], &[9, 3], &[9], &[9]], |b, v| {
        let params = ["x", "initial_h", "weight_ih", "weight_hh", "bias", "input_bias"];
        layer(b, "gru", v, &params, &[("reset_after", "true"), ("activation", "scaled_tanh")])
    }),
    ("lstm", &[&[2, 2, 2], &[2, 3], &[2, 3], &[12, 2], &[12, 3], &[12], &[9]], |b, v| {
        let params = ["x", "initial_h", "initial_c", "weight_ih", "weight_hh", "bias", "peephole"];
        layer(b, "lstm", v, &params, &[("recurrent_activation", "hard_sigmoid"), ("direction", "reverse")])
    }),
    ("lstm", &[&[2, 1, 2], &[1, 4], &[1, 4], &[8, 2], &[8, 2], &[8, 2], &[8, 2], &[8]], |b, v| {
        let clip = b.constant(Tensor::float(DType::Fp64, &[], vec![0.9]));
        let params = [
            "x",
            "initial_h",
            "initial_c",
            "weight_ih",
            "weight_hh",
            "weight_ih_back",
            "weight_hh_back",
            "bias_back",
            "clip",
        ];
        let flags = [("output_sequence", "true"), ("direction", "bidirectional")];
        layer(b, "lstm", &[v, &[clip]].concat(), &params, &flags)
    }),
];
