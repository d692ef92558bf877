//! Cases of the gradient check: convolution, products, pooling, recurrence, attention.

use super::Case;
use crate::builder::{Builder, Value};
use crate::tensor::Tensor;

/// A convolution of `v[0]` by `v[1]`, plus `v[2]` if there: strides, dilations, padding of that type, groups.
fn conv(
    b: &mut Builder,
    op: &'static str,
    v: &[Value],
    [strides, dilations, pad]: [&[i32]; 3],
    pad_type: &str,
    groups: i32,
) -> crate::Result<Value> {
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

fn einsum(b: &mut Builder, v: &[Value], equation: &str) -> crate::Result<Value> {
    b.call("einsum").args("values", v).constant("equation", Tensor::string(equation)).finish()
}

pub(super) const CASES: &[Case] = &[
    ("conv", &[&[2, 4, 5, 7], &[6, 2, 3, 2], &[6]], |b, v| {
        conv(b, "conv", v, [&[2, 3], &[1, 2], &[1, 0, 2, 1]], "custom", 2)
    }),
    // The stride leaves elements that no window touches, and there is no padding to take them.
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
    ("matmul", &[&[3], &[3]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[3], &[2, 3, 4]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[2, 4, 3], &[3]], |b, v| b.matmul(v[0], v[1], false, false)),
    ("matmul", &[&[2, 3, 4], &[3]], |b, v| b.matmul(v[0], v[1], true, false)),
    ("matmul", &[&[3], &[4, 3]], |b, v| b.matmul(v[0], v[1], false, true)),
    ("einsum", &[&[2, 3, 1, 4], &[1, 4, 2, 3]], |b, v| einsum(b, v, "nchw,nwhu->nchu")),
    ("einsum", &[&[3, 2, 4], &[4, 1, 3]], |b, v| einsum(b, v, "chw, whr -> chr")),
];

/// Cases of ops that want constants but for their first input.
pub(super) const OF_CONSTANTS: &[Case] = &[
    ("linear", &[&[2, 3, 4], &[5, 4], &[5]], |b, v| {
        b.call("linear").arg("x", v[0]).arg("weight", v[1]).arg("bias", v[2]).finish()
    }),
    ("linear", &[&[4], &[5, 4]], |b, v| b.call("linear").arg("x", v[0]).arg("weight", v[1]).finish()),
];
