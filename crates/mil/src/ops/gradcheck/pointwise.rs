//! Gradient checks of the element-wise ops, activations, reductions and normalizations.

use super::*;
use crate::Result;
use crate::builder::Value;

fn unary(b: &mut Builder, op: &'static str, x: Value) -> Result<Value> {
    b.call(op).arg("x", x).finish()
}

fn binary(b: &mut Builder, op: &'static str, x: Value, y: Value) -> Result<Value> {
    b.call(op).arg("x", x).arg("y", y).finish()
}

fn alpha(b: &mut Builder, op: &'static str, x: Value, alpha: f64) -> Result<Value> {
    b.call(op).arg("x", x).constant("alpha", scalar(alpha)).finish()
}

fn alpha_beta(b: &mut Builder, op: &'static str, x: Value, alpha: f64, beta: f64) -> Result<Value> {
    b.call(op).arg("x", x).constant("alpha", scalar(alpha)).constant("beta", scalar(beta)).finish()
}

fn over(b: &mut Builder, op: &'static str, x: Value, axes: &[i32]) -> Result<Value> {
    b.call(op).arg("x", x).constant("axes", Tensor::i32s(axes)).finish()
}

fn gelu(b: &mut Builder, x: Value, mode: &str) -> Result<Value> {
    b.call("gelu").arg("x", x).constant("mode", Tensor::string(mode)).finish()
}

fn scalar(x: f64) -> Tensor {
    Tensor::float(DType::Fp64, &[], vec![x])
}

/// `x` [2, 3] with zeros at these places, where it still has a derivative.
fn with_zeros(b: &mut Builder, x: Value, places: &[usize]) -> Result<Value> {
    let mut shift = sample(6, 0);
    (0..6).filter(|i| !places.contains(i)).for_each(|i| shift[i] = 0.0);
    let shift = b.constant(Tensor::float(DType::Fp64, &[2, 3], shift));
    b.sub(x, shift)
}

fn response(b: &mut Builder, x: Value, size: i32) -> Result<Value> {
    b.call("local_response_norm")
        .arg("x", x)
        .constant("size", Tensor::i32(size))
        .constant("alpha", scalar(0.9))
        .constant("beta", scalar(0.7))
        .constant("k", scalar(1.1))
        .finish()
}

pub(super) const CASES: &[Case] = &[
    ("abs", &[&[5]], |b, v| unary(b, "abs", v[0])),
    ("acos", &[&[5]], |b, v| {
        let x = b.scale(v[0], 0.5)?;
        unary(b, "acos", x)
    }),
    ("asin", &[&[5]], |b, v| {
        let x = b.scale(v[0], 0.5)?;
        unary(b, "asin", x)
    }),
    ("atan", &[&[5]], |b, v| unary(b, "atan", v[0])),
    ("atanh", &[&[5]], |b, v| {
        let x = b.scale(v[0], 0.5)?;
        unary(b, "atanh", x)
    }),
    ("ceil", &[&[5]], |b, v| unary(b, "ceil", v[0])),
    ("clip", &[&[9]], |b, v| alpha_beta(b, "clip", v[0], -0.5, 1.0)),
    ("cos", &[&[5]], |b, v| unary(b, "cos", v[0])),
    ("cosh", &[&[5]], |b, v| unary(b, "cosh", v[0])),
    ("erf", &[&[5]], |b, v| unary(b, "erf", v[0])),
    ("exp", &[&[5]], |b, v| unary(b, "exp", v[0])),
    ("exp2", &[&[5]], |b, v| unary(b, "exp2", v[0])),
    ("floor", &[&[5]], |b, v| unary(b, "floor", v[0])),
    ("inverse", &[&[5]], |b, v| b.call("inverse").arg("x", v[0]).constant("epsilon", scalar(0.01)).finish()),
    ("log", &[&[5]], |b, v| {
        let x = unary(b, "square", v[0])?;
        b.call("log").arg("x", x).constant("epsilon", scalar(0.1)).finish()
    }),
    ("round", &[&[5]], |b, v| unary(b, "round", v[0])),
    ("rsqrt", &[&[5]], |b, v| {
        let x = unary(b, "square", v[0])?;
        b.call("rsqrt").arg("x", x).constant("epsilon", scalar(0.1)).finish()
    }),
    ("sign", &[&[5]], |b, v| unary(b, "sign", v[0])),
    ("sin", &[&[5]], |b, v| unary(b, "sin", v[0])),
    ("sinh", &[&[5]], |b, v| unary(b, "sinh", v[0])),
    ("sqrt", &[&[5]], |b, v| {
        let x = unary(b, "square", v[0])?;
        unary(b, "sqrt", x)
    }),
    ("tan", &[&[5]], |b, v| {
        let x = b.scale(v[0], 0.5)?;
        unary(b, "tan", x)
    }),
    ("threshold", &[&[9]], |b, v| alpha(b, "threshold", v[0], 0.3)),
    ("floor_div", &[&[2, 3], &[3]], |b, v| binary(b, "floor_div", v[0], v[1])),
    ("maximum", &[&[2, 3], &[3]], |b, v| binary(b, "maximum", v[0], v[1])),
    ("minimum", &[&[2, 3], &[2, 1]], |b, v| binary(b, "minimum", v[0], v[1])),
    // Both sides the same: halves that add up.
    ("maximum", &[&[3]], |b, v| binary(b, "maximum", v[0], v[0])),
    ("mod", &[&[2, 3], &[3]], |b, v| binary(b, "mod", v[0], v[1])),
    ("pow", &[&[2, 3], &[3]], |b, v| {
        let x = unary(b, "square", v[0])?;
        binary(b, "pow", x, v[1])
    }),
    ("pow", &[&[2, 3]], |b, v| {
        let exponents = b.constant(Tensor::float(DType::Fp64, &[3], vec![0.0, 2.0, -3.0]));
        binary(b, "pow", v[0], exponents)
    }),
    ("pow", &[&[2, 3]], |b, v| {
        let x = with_zeros(b, v[0], &[1, 2])?;
        let exponents = b.constant(Tensor::float(DType::Fp64, &[3], vec![1.0, 2.0, 3.0]));
        binary(b, "pow", x, exponents)
    }),
    ("clamped_relu", &[&[9]], |b, v| alpha_beta(b, "clamped_relu", v[0], 0.3, 0.9)),
    ("elu", &[&[5]], |b, v| alpha(b, "elu", v[0], 0.7)),
    ("gelu", &[&[5]], |b, v| gelu(b, v[0], "EXACT")),
    ("gelu", &[&[5]], |b, v| gelu(b, v[0], "TANH_APPROXIMATION")),
    ("gelu", &[&[5]], |b, v| gelu(b, v[0], "SIGMOID_APPROXIMATION")),
    ("leaky_relu", &[&[5]], |b, v| alpha(b, "leaky_relu", v[0], 0.3)),
    ("linear_activation", &[&[5]], |b, v| alpha_beta(b, "linear_activation", v[0], 0.3, 0.9)),
    ("relu6", &[&[9]], |b, v| {
        let x = b.scale(v[0], 5.0)?;
        unary(b, "relu6", x)
    }),
    ("scaled_tanh", &[&[5]], |b, v| alpha_beta(b, "scaled_tanh", v[0], 0.3, 0.9)),
    ("sigmoid_hard", &[&[9]], |b, v| alpha_beta(b, "sigmoid_hard", v[0], 0.6, 0.4)),
    ("silu", &[&[5]], |b, v| unary(b, "silu", v[0])),
    ("softmax", &[&[2, 3]], |b, v| unary(b, "softmax", v[0])),
    ("softmax", &[&[2, 3, 2]], |b, v| b.call("softmax").arg("x", v[0]).constant("axis", Tensor::i32(-2)).finish()),
    ("softplus", &[&[5]], |b, v| unary(b, "softplus", v[0])),
    ("softsign", &[&[5]], |b, v| unary(b, "softsign", v[0])),
    ("thresholded_relu", &[&[9]], |b, v| alpha(b, "thresholded_relu", v[0], 0.6)),
    ("reduce_l1_norm", &[&[2, 3]], |b, v| over(b, "reduce_l1_norm", v[0], &[1])),
    ("reduce_l2_norm", &[&[2, 3]], |b, v| over(b, "reduce_l2_norm", v[0], &[-2])),
    ("reduce_log_sum", &[&[2, 3]], |b, v| {
        let x = unary(b, "square", v[0])?;
        over(b, "reduce_log_sum", x, &[1])
    }),
    ("reduce_log_sum_exp", &[&[2, 3, 2]], |b, v| over(b, "reduce_log_sum_exp", v[0], &[0, 2])),
    ("reduce_prod", &[&[2, 3]], |b, v| over(b, "reduce_prod", v[0], &[1])),
    // One zero in a product, and two.
    ("reduce_prod", &[&[2, 3]], |b, v| {
        let x = with_zeros(b, v[0], &[1, 3, 5])?;
        over(b, "reduce_prod", x, &[1])
    }),
    ("instance_norm", &[&[2, 3, 4]], |b, v| unary(b, "instance_norm", v[0])),
    ("l2_norm", &[&[2, 1, 2, 3]], |b, v| unary(b, "l2_norm", v[0])),
    ("l2_norm", &[&[2, 2, 3]], |b, v| b.call("l2_norm").arg("x", v[0]).constant("epsilon", scalar(0.1)).finish()),
    ("layer_norm", &[&[3, 4]], |b, v| unary(b, "layer_norm", v[0])),
    ("local_response_norm", &[&[2, 5, 3]], |b, v| response(b, v[0], 3)),
    ("local_response_norm", &[&[1, 5, 1, 2]], |b, v| response(b, v[0], 4)),
];

pub(super) const CONSTANT_CASES: &[Case] = &[
    ("prelu", &[&[2, 3, 1, 2], &[3]], |b, v| b.call("prelu").arg("x", v[0]).arg("alpha", v[1]).finish()),
    ("softplus_parametric", &[&[2, 3, 2], &[3], &[3]], |b, v| {
        b.call("softplus_parametric").arg("x", v[0]).arg("alpha", v[1]).arg("beta", v[2]).finish()
    }),
    ("batch_norm", &[&[2, 3, 2], &[3], &[3], &[3], &[3]], |b, v| {
        b.call("batch_norm")
            .arg("x", v[0])
            .arg("mean", v[1])
            .arg("variance", v[2])
            .arg("gamma", v[3])
            .arg("beta", v[4])
            // Above the most negative of the sample's variances.
            .constant("epsilon", scalar(2.0))
            .finish()
    }),
    ("batch_norm", &[&[2, 3, 1, 2], &[3]], |b, v| {
        let variance = Tensor::float(DType::Fp64, &[3], vec![0.5, 1.0, 2.0]);
        b.call("batch_norm").arg("x", v[0]).arg("mean", v[1]).constant("variance", variance).finish()
    }),
    ("instance_norm", &[&[2, 3, 2, 2], &[3], &[3]], |b, v| {
        b.call("instance_norm").arg("x", v[0]).arg("gamma", v[1]).arg("beta", v[2]).finish()
    }),
    ("layer_norm", &[&[2, 3, 4], &[2, 4], &[2, 4]], |b, v| {
        b.call("layer_norm")
            .arg("x", v[0])
            .constant("axes", Tensor::i32s(&[-1, 0]))
            .arg("gamma", v[1])
            .arg("beta", v[2])
            .finish()
    }),
];

/// A loss of `call`, whose `x` is fp16 and whose other arguments, `param` among them, are fp32.
fn mixed(param: &str, call: &str) -> Result<crate::grad::Gradient> {
    let source = format!(
        "program(1.3)\n{{\n func main<ios17>(tensor<fp16, [2, 3, 4]> x) {{\n\
         tensor<fp32, [3]> p = const()[val = tensor<fp32, [3]>([1, 2, 3])];\n\
         fp32 a = const()[val = fp32(0.5)];\n\
         tensor<fp16, [2, 3, 4]> y = {call};\n\
         fp16 loss = reduce_sum(x = y);\n }} -> (loss);\n}}"
    );
    let program = validate(crate::text::parse(&source).unwrap(), &Limits::none()).unwrap();
    gradient(&program, "loss", &["x", param], Seed::One)
}

#[test]
fn gradients_have_the_element_types_of_their_arguments_and_know_defaults() {
    // Neither epsilon nor axes of these calls are written out.
    let call = "batch_norm(x = x, mean = p, variance = p, gamma = p)";
    for call in [call, "instance_norm(x = x, gamma = p, beta = p)"] {
        let g = mixed("p", call).unwrap();
        let program = validate(g.program, &Limits::none()).unwrap();
        let f = program.main();
        let types: Vec<String> = f.outputs.iter().map(|&v| f.value(v).ty.to_string()).collect();
        assert_eq!(types, ["fp16 []", "fp16 [2, 3, 4]", "fp32 [3]"], "{call}");
    }
}

#[test]
fn what_has_no_gradient_is_refused_by_name() {
    let e = mixed("a", "elu(x = x, alpha = a)").unwrap_err().to_string();
    assert!(e.contains("op `elu` (`y`) argument `alpha` has no gradient"), "{e}");
}
