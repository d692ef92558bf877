//! Training graphs of small models: nothing in them is left to the reference interpreter.

use super::*;
use anemone_mil::builder::CallBuilder;
use anemone_mil::grad::{Seed, gradient};

/// A graph under construction: its data and parameters become inputs.
struct Model {
    b: Builder,
    /// Types of the inputs, and below what the elements of `int32` ones are.
    inputs: Vec<(TensorType, i64)>,
    params: Vec<String>,
}

impl Model {
    fn new() -> Model {
        Model { b: Builder::new(Version::V1_3), inputs: Vec::new(), params: Vec::new() }
    }

    fn param(&mut self, name: &str, shape: &[usize]) -> Result<Value> {
        self.params.push(name.into());
        self.inputs.push((fp32(shape), 0));
        self.b.input(name, fp32(shape))
    }

    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Value> {
        self.inputs.push((fp32(shape), 0));
        self.b.input(name, fp32(shape))
    }

    fn ints(&mut self, name: &str, shape: &[usize], below: usize) -> Result<Value> {
        self.inputs.push((int32(shape), below as i64));
        self.b.input(name, int32(shape))
    }

    fn call(&mut self, op: &'static str, x: Value) -> CallBuilder<'_> {
        self.b.call(op).arg("x", x)
    }

    /// `W x + b` over channels.
    fn linear(&mut self, name: &str, x: Value, n_out: usize) -> Result<Value> {
        let n_in = self.b.shape(x)?[1];
        let w = self.param(&format!("{name}_w"), &[n_out, n_in, 1, 1])?;
        let bias = self.param(&format!("{name}_b"), &[1, n_out, 1, 1])?;
        let y = self.b.pointwise(x, w)?;
        self.b.add(y, bias)
    }

    fn layer_norm(&mut self, name: &str, x: Value) -> Result<Value> {
        let c = self.b.shape(x)?[1];
        let gamma = self.param(&format!("{name}_g"), &[1, c, 1, 1])?;
        let beta = self.param(&format!("{name}_b"), &[1, c, 1, 1])?;
        let epsilon = Tensor::float(DType::Fp32, &[], vec![1e-5]);
        let y = self
            .call("layer_norm", x)
            .constant("axes", Tensor::i32s(&[1]))
            .constant("epsilon", epsilon)
            .finish()?;
        let y = self.b.mul(y, gamma)?;
        self.b.add(y, beta)
    }

    fn rms_norm(&mut self, name: &str, x: Value) -> Result<Value> {
        let c = self.b.shape(x)?[1];
        let gamma = self.param(&format!("{name}_g"), &[1, c, 1, 1])?;
        let squares = self.call("square", x).finish()?;
        let mean = self.b.reduce_mean(squares, &[1], true)?;
        let epsilon = Tensor::float(DType::Fp32, &[], vec![1e-5]);
        let factor = self.call("rsqrt", mean).constant("epsilon", epsilon).finish()?;
        let y = self.b.mul(x, factor)?;
        self.b.mul(y, gamma)
    }

    /// `[N, C, 1, S]` of the tokens `[N, S]`.
    fn embedding(&mut self, table: Value, tokens: Value) -> Result<Value> {
        let x = self.call("gather", table).arg("indices", tokens).constant("axis", Tensor::i32(0)).finish()?;
        let x = self.b.transpose(x, &[0, 2, 1])?;
        let shape = self.b.shape(x)?;
        self.b.reshape(x, &[shape[0], shape[1], 1, shape[2]])
    }

    /// Of heads `[.., D, S]`, each position looking at itself and those before.
    fn attention(&mut self, q: Value, k: Value, v: Value) -> Result<Value> {
        let shape = self.b.shape(q)?;
        let (d, s) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let scores = self.b.matmul(q, k, true, false)?;
        let scores = self.b.scale(scores, 1.0 / (d as f64).sqrt())?;
        let mask = (0..s * s).map(|i| if i % s > i / s { -1e9 } else { 0.0 }).collect();
        let mask = self.b.constant(Tensor::float(DType::Fp32, &[1, 1, s, s], mask));
        let scores = self.b.add(scores, mask)?;
        let weights = self.call("softmax", scores).constant("axis", Tensor::i32(-1)).finish()?;
        self.b.matmul(v, weights, false, true)
    }

    /// The mean over positions of `ln(sum(e^x)) - x[target]` along the channels.
    fn cross_entropy(&mut self, logits: Value, targets: Value) -> Result<Value> {
        let axes = Tensor::i32s(&[1]);
        let call = self.call("reduce_log_sum_exp", logits).constant("axes", axes);
        let all = call.constant("keep_dims", Tensor::bool(true)).finish()?;
        let call = self.call("gather_along_axis", logits).arg("indices", targets);
        let own = call.constant("axis", Tensor::i32(1)).finish()?;
        let losses = self.b.sub(all, own)?;
        self.b.reduce_mean(losses, &[0, 1, 2, 3], false)
    }

    /// The graph with the gradients of all parameters, and inputs for it.
    fn training(self, loss: Value) -> (ValidProgram, Vec<Tensor>) {
        let name = self.b.name(loss).to_string();
        let forward = validate(self.b.finish(&[loss]).unwrap(), &Limits::none()).unwrap();
        let params: Vec<&str> = self.params.iter().map(String::as_str).collect();
        let joint = gradient(&forward, &name, &params, Seed::One).unwrap();
        let program = validate(joint.program, &Limits::none()).unwrap();
        let mut numbers = Numbers::new(11);
        let tensor = |(ty, below): &(TensorType, i64)| {
            let shape = ty.fixed_shape().unwrap();
            let n = shape.iter().product();
            if ty.dtype == DType::Int32 {
                return Tensor::int(
                    DType::Int32,
                    &shape,
                    (0..n).map(|_| i64::from(numbers.bits()) % below).collect(),
                );
            }
            Tensor::float(DType::Fp32, &shape, (0..n).map(|_| 0.3 * numbers.float() + 0.1).collect())
        };
        let inputs = self.inputs.iter().map(tensor).collect();
        (program, inputs)
    }
}

/// Sizes of a language model.
struct Sizes {
    n_layers: usize,
    n_heads: usize,
    width: usize,
    context: usize,
    batch: usize,
    vocabulary: usize,
}

fn gpt(z: &Sizes, mode: &str) -> Result<(ValidProgram, Vec<Tensor>)> {
    let Sizes { n_layers, n_heads, width, context, batch, vocabulary } = *z;
    let mut m = Model::new();
    let tokens = m.ints("tokens", &[batch, context], vocabulary)?;
    let targets = m.ints("targets", &[batch, 1, 1, context], vocabulary)?;
    let table = m.param("table", &[vocabulary, width])?;
    let positions = m.param("positions", &[1, width, 1, context])?;
    let x = m.embedding(table, tokens)?;
    let mut x = m.b.add(x, positions)?;
    for l in 0..n_layers {
        let h = m.layer_norm(&format!("l{l}_norm1"), x)?;
        let qkv = m.linear(&format!("l{l}_qkv"), h, 3 * width)?;
        let call = m.call("split", qkv).constant("num_splits", Tensor::i32(3));
        let parts = call.constant("axis", Tensor::i32(1)).finish_many()?;
        let heads = [batch, n_heads, width / n_heads, context];
        let parts: Vec<Value> = parts.into_iter().map(|p| m.b.reshape(p, &heads)).collect::<Result<_>>()?;
        let h = m.attention(parts[0], parts[1], parts[2])?;
        let h = m.b.reshape(h, &[batch, width, 1, context])?;
        let h = m.linear(&format!("l{l}_proj"), h, width)?;
        x = m.b.add(x, h)?;
        let h = m.layer_norm(&format!("l{l}_norm2"), x)?;
        let h = m.linear(&format!("l{l}_up"), h, 4 * width)?;
        let h = m.call("gelu", h).constant("mode", Tensor::string(mode)).finish()?;
        let h = m.linear(&format!("l{l}_down"), h, width)?;
        x = m.b.add(x, h)?;
    }
    let x = m.layer_norm("norm", x)?;
    let classifier = m.b.reshape(table, &[vocabulary, width, 1, 1])?;
    let logits = m.b.pointwise(x, classifier)?;
    let loss = m.cross_entropy(logits, targets)?;
    Ok(m.training(loss))
}

/// Turns pairs of halves of `[.., D, S]` by the angles of the positions.
fn rotary(m: &mut Model, x: Value) -> Result<Value> {
    let shape = m.b.shape(x)?;
    let rank = shape.len();
    let (d, s) = (shape[rank - 2], shape[rank - 1]);
    let angle = |i: usize| (i % s) as f64 / 10_000f64.powf((i / s % (d / 2)) as f64 * 2.0 / d as f64);
    let table = |f: fn(f64) -> f64| Tensor::float(DType::Fp32, &[d, s], (0..d * s).map(|i| f(angle(i))).collect());
    let (cos, sin) = (m.b.constant(table(f64::cos)), m.b.constant(table(f64::sin)));
    let mut half = shape.clone();
    half[rank - 2] = d / 2;
    let mut begin = vec![0; rank];
    let first = m.b.slice(x, &begin, &half)?;
    begin[rank - 2] = d / 2;
    let second = m.b.slice(x, &begin, &half)?;
    let second = m.b.scale(second, -1.0)?;
    let turned = m.b.concat(&[second, first], rank - 2)?;
    let (x, turned) = (m.b.mul(x, cos)?, m.b.mul(turned, sin)?);
    m.b.add(x, turned)
}

/// RMS norm, rotary positions, two query heads for each of keys and values, SwiGLU.
fn llama() -> Result<(ValidProgram, Vec<Tensor>)> {
    let (batch, context, width, n_kv, d, vocabulary) = (2, 7, 16, 2, 4, 11);
    let mut m = Model::new();
    let tokens = m.ints("tokens", &[batch, context], vocabulary)?;
    let targets = m.ints("targets", &[batch, 1, 1, context], vocabulary)?;
    let table = m.param("table", &[vocabulary, width])?;
    let x = m.embedding(table, tokens)?;
    let h = m.rms_norm("norm1", x)?;
    let part = |m: &mut Model, name: &str, group: usize| {
        let y = m.linear(name, h, n_kv * group * d)?;
        m.b.reshape(y, &[batch, n_kv, group, d, context])
    };
    let (q, k, v) = (part(&mut m, "q", 2)?, part(&mut m, "k", 1)?, part(&mut m, "v", 1)?);
    let (q, k) = (rotary(&mut m, q)?, rotary(&mut m, k)?);
    let h = m.attention(q, k, v)?;
    let h = m.b.reshape(h, &[batch, width, 1, context])?;
    let h = m.linear("o", h, width)?;
    let x = m.b.add(x, h)?;
    let h = m.rms_norm("norm2", x)?;
    let (gate, up) = (m.linear("gate", h, 24)?, m.linear("up", h, 24)?);
    let gate = m.call("silu", gate).finish()?;
    let h = m.b.mul(gate, up)?;
    let h = m.linear("down", h, width)?;
    let x = m.b.add(x, h)?;
    let x = m.rms_norm("norm", x)?;
    let logits = m.linear("classifier", x, vocabulary)?;
    // Positions whose target is 0 do not count.
    let zero = m.b.constant(Tensor::i32(0));
    let counts = m.call("not_equal", targets).arg("y", zero).finish()?;
    let counts = m.b.cast(counts, DType::Fp32)?;
    let counts_of_one = m.b.reduce_sum(counts, &[0, 1, 2, 3], false)?;
    let loss = m.cross_entropy(logits, targets)?;
    let weighted = m.b.mul(loss, counts)?;
    let sum = m.b.reduce_sum(weighted, &[0, 1, 2, 3], false)?;
    let loss = m.b.call("real_div").arg("x", sum).arg("y", counts_of_one).finish()?;
    Ok(m.training(loss))
}

/// Convolutions with padding, strides and groups, both pools, a classifier.
fn convnet() -> Result<(ValidProgram, Vec<Tensor>)> {
    let mut m = Model::new();
    let x = m.floats("images", &[3, 2, 12, 12])?;
    let targets = m.ints("targets", &[3, 1, 1, 1], 10)?;
    let conv = |m: &mut Model, name: &str, x, shape: [usize; 4], stride: i32, pad: i32, groups: i32| {
        let w = m.param(name, &shape)?;
        let bias = m.param(&format!("{name}_b"), &[1, shape[0], 1, 1])?;
        let call = m.call("conv", x).arg("weight", w).constant("pad_type", Tensor::string("custom"));
        let call = call.constant("strides", Tensor::i32s(&[stride; 2])).constant("pad", Tensor::i32s(&[pad; 4]));
        let y = call.constant("groups", Tensor::i32(groups)).finish()?;
        let y = m.b.add(y, bias)?;
        m.b.relu(y)
    };
    let pool = |m: &mut Model, op, x, size: i32, stride: i32| {
        let call = m.call(op, x).constant("kernel_sizes", Tensor::i32s(&[size; 2]));
        let call = call.constant("strides", Tensor::i32s(&[stride; 2]));
        call.constant("pad_type", Tensor::string("custom")).constant("pad", Tensor::i32s(&[1; 4])).finish()
    };
    let x = conv(&mut m, "conv1", x, [8, 2, 3, 3], 1, 1, 1)?;
    let x = pool(&mut m, "max_pool", x, 3, 2)?;
    let x = conv(&mut m, "conv2", x, [12, 2, 3, 3], 2, 1, 4)?;
    let x = conv(&mut m, "conv3", x, [12, 1, 3, 3], 1, 1, 12)?;
    let x = pool(&mut m, "avg_pool", x, 2, 1)?;
    let x = m.b.reduce_mean(x, &[2, 3], true)?;
    let logits = m.linear("classifier", x, 10)?;
    let loss = m.cross_entropy(logits, targets)?;
    Ok(m.training(loss))
}

const SMALL: Sizes = Sizes { n_layers: 2, n_heads: 2, width: 8, context: 6, batch: 3, vocabulary: 13 };

#[test]
fn training_graphs_run_by_steps_of_their_own_and_give_what_the_definitions_give() {
    let models = [
        ("gpt", gpt(&SMALL, "EXACT")),
        ("gpt with tanh", gpt(&SMALL, "TANH_APPROXIMATION")),
        ("llama", llama()),
        ("convnet", convnet()),
    ];
    for (name, model) in models {
        let (program, inputs) = model.unwrap();
        let plan = planned(&program);
        assert_eq!(references(&plan), [""; 0], "{name}");
        let (found, expected) = (engine(&plan, &inputs).unwrap(), reference(&program, &inputs).unwrap());
        for ((found, expected), (output, _)) in found.iter().zip(&expected).zip(plan.outputs()) {
            let off: f64 = found.iter().zip(expected).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
            let size: f64 = expected.iter().map(|y| y * y).sum();
            // Some gradients are 0 but for rounding, as that of what is added to all keys.
            assert!(off.sqrt() <= 1e-5 * size.sqrt() + 1e-7, "{name}: {output} is off by {off:e} of {size:e}");
        }
    }
}

#[test]
fn memory_is_that_of_what_lives_together_and_a_run_leaves_no_trace() {
    let (program, inputs) = gpt(&Sizes { n_layers: 6, ..SMALL }, "EXACT").unwrap();
    let plan = planned(&program);
    let f = program.main();
    let all: usize = f.values.iter().filter_map(|v| v.ty.as_tensor()?.n_elements()).sum();
    assert!(plan.n_elements() * 3 < all, "{} of {all} elements", plan.n_elements());
    let mut memory = plan.memory();
    let mut run = |first: i64| {
        for (i, t) in inputs.iter().enumerate() {
            let shift = if t.dtype() == DType::Int32 { first } else { 0 };
            let x: Vec<f32> = t.to_f64s().into_iter().map(|x| (x as i64 + shift) as f32 % 13.0).collect();
            let x =
                if t.dtype() == DType::Int32 { x } else { t.to_f64s().into_iter().map(|x| x as f32).collect() };
            memory.write_input(&plan, i, &x);
        }
        plan.run(&mut memory).unwrap();
        plan.outputs().iter().enumerate().flat_map(|(i, _)| memory.output(&plan, i).to_vec()).collect::<Vec<_>>()
    };
    let (first, other, again) = (run(0), run(1), run(0));
    assert!(first == again && first != other);
}
