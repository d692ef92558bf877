//! Recurrent layers over sequences `[s, b, I]`: `lstm`, `gru`, `rnn`.

use super::elementwise::{maximum, minimum, show};
use super::shape::mul_dims;
use super::*;
use crate::builder;
use crate::ir::{Dim, TensorType, shapes_agree};

const FP32: &[DType] = &[DType::Fp32, DType::Fp64];

const DIRECTION: Param = Param::constant("direction", STRING).or(Const::Str("forward"));
const OUTPUT_SEQUENCE: Param = Param::constant("output_sequence", BOOL).or(Const::Bool(false));
const RECURRENT_ACTIVATION: Param = Param::constant("recurrent_activation", STRING).or(Const::Str("sigmoid"));
const CELL_ACTIVATION: Param = Param::constant("cell_activation", STRING).or(Const::Str("tanh"));
const ACTIVATION: Param = Param::constant("activation", STRING).or(Const::Str("tanh"));

/// A constant of the same element type as `x`.
const fn weight(name: &'static str, types: &'static [DType]) -> Param {
    Param::constant(name, types).group('T')
}

/// The parameters of `lstm` for floats of these types.
macro_rules! lstm_params {
    ($types:expr) => {
        &[
            Param::new("x", $types),
            Param::new("initial_h", $types),
            Param::new("initial_c", $types),
            weight("weight_ih", $types),
            weight("weight_hh", $types),
            weight("bias", $types).optional(),
            weight("peephole", $types).optional(),
            weight("weight_ih_back", $types).optional(),
            weight("weight_hh_back", $types).optional(),
            weight("bias_back", $types).optional(),
            weight("peephole_back", $types).optional(),
            DIRECTION,
            OUTPUT_SEQUENCE,
            RECURRENT_ACTIVATION,
            CELL_ACTIVATION,
            ACTIVATION,
            weight("clip", $types).optional(),
        ]
    };
}

/// The parameters of `gru` or `rnn` for floats of these types.
macro_rules! cell_params {
    ($types:expr, $($more:expr),*) => {
        &[
            Param::new("x", $types),
            Param::new("initial_h", $types),
            weight("weight_ih", $types),
            weight("weight_hh", $types),
            weight("bias", $types).optional(),
            DIRECTION,
            OUTPUT_SEQUENCE,
            ACTIVATION,
            $($more),*
        ]
    };
}

const LSTM: OpDef = OpDef {
    name: "lstm",
    since: Opset::Ios13,
    params: lstm_params!(FP32),
    infer: |args| Layer::of(args).map(|l| l.types()),
    eval: Eval::By(lstm_eval),
    vjp: Some(lstm_vjp),
};

const GRU: OpDef = OpDef {
    name: "gru",
    since: Opset::Ios13,
    params: cell_params!(FP32, RECURRENT_ACTIVATION),
    infer: |args| Layer::of(args).map(|l| l.types()),
    eval: Eval::By(gru_eval),
    vjp: Some(gru_vjp),
};

const RNN: OpDef = OpDef {
    name: "rnn",
    since: Opset::Ios13,
    params: cell_params!(FP32,),
    infer: |args| Layer::of(args).map(|l| l.types()),
    eval: Eval::By(rnn_eval),
    vjp: Some(rnn_vjp),
};

pub(super) const OPS: &[OpDef] = &[
    LSTM,
    OpDef { since: Opset::Ios17, params: lstm_params!(FLOAT), ..LSTM },
    GRU,
    OpDef { since: Opset::Ios17, params: cell_params!(FLOAT, RECURRENT_ACTIVATION), ..GRU },
    OpDef {
        since: Opset::Ios18,
        params: cell_params!(
            FLOAT,
            RECURRENT_ACTIVATION,
            Param::constant("reset_after", BOOL).or(Const::Bool(false)),
            weight("input_bias", FLOAT).optional()
        ),
        ..GRU
    },
    RNN,
    OpDef { since: Opset::Ios17, params: cell_params!(FLOAT,), ..RNN },
];

/// The states that an op carries from step to step.
fn states(def: &OpDef) -> &'static [&'static str] {
    if def.name == "lstm" { &["initial_h", "initial_c"] } else { &["initial_h"] }
}

/// Rows of the weights for each element of the state.
fn n_gates(def: &OpDef) -> u64 {
    match def.name {
        "lstm" => 4,
        "gru" => 3,
        _ => 1,
    }
}

/// What the sizes and flags of a call come to.
struct Layer {
    dtype: DType,
    steps: Dim,
    batch: Dim,
    hidden: Dim,
    /// For each direction, whether it goes from the last step to the first.
    directions: &'static [bool],
    output_sequence: bool,
    n_states: usize,
}

impl Layer {
    fn of(args: &Args<'_>) -> OpResult<Layer> {
        let x = args.ty("x")?;
        let [steps, batch, input] = x.shape[..] else {
            return Err(OpError::arg("x", format!("has type {x}, expected [steps, batch, size]")));
        };
        let directions: &[bool] = match args.str("direction")? {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" if args.def.name == "lstm" => &[false, true],
            other => {
                let both = if args.def.name == "lstm" { ", reverse or bidirectional" } else { " or reverse" };
                return Err(OpError::arg("direction", format!("is `{other}`, expected forward{both}")));
            }
        };
        let hidden = match args.shape("weight_hh")? {
            [_, h] => *h,
            other => {
                return Err(OpError::arg("weight_hh", format!("has shape {}, expected [*, hidden]", show(other))));
            }
        };
        let times = |n: u64| mul_dims(hidden, Dim::Fixed(n));
        let check = |name: &'static str, expected: &[Dim]| {
            if !args.has(name) {
                return Ok(());
            }
            let shape = args.shape(name)?;
            match shapes_agree(shape, expected) {
                true => Ok(()),
                false => {
                    Err(OpError::arg(name, format!("has shape {}, expected {}", show(shape), show(expected))))
                }
            }
        };
        let rows = times(n_gates(args.def))?;
        let vectors: &[&str] =
            if args.def.name == "gru" { &["bias", "input_bias"] } else { &["bias", "bias_back"] };
        for name in states(args.def) {
            check(name, &[batch, times(directions.len() as u64)?])?;
        }
        for &name in ["weight_ih", "weight_ih_back"].iter().filter(|n| args.def.param(n).is_some()) {
            check(name, &[rows, input])?;
        }
        for &name in ["weight_hh", "weight_hh_back"].iter().filter(|n| args.def.param(n).is_some()) {
            check(name, &[rows, hidden])?;
        }
        for &name in vectors.iter().filter(|n| args.def.param(n).is_some()) {
            check(name, &[rows])?;
        }
        if args.def.name == "lstm" {
            for name in ["peephole", "peephole_back"] {
                check(name, &[times(3)?])?;
            }
            for name in ["weight_ih_back", "weight_hh_back"] {
                if directions.len() == 2 && !args.has(name) {
                    return Err(OpError::arg(name, "is missing, which a bidirectional layer needs"));
                }
            }
        }
        for name in ["recurrent_activation", "cell_activation", "activation"] {
            if args.def.param(name).is_some() {
                Activation::named(name, args.str(name)?)?;
            }
        }
        let output_sequence = args.bool("output_sequence")?;
        Ok(Layer {
            dtype: x.dtype,
            steps,
            batch,
            hidden,
            directions,
            output_sequence,
            n_states: states(args.def).len(),
        })
    }

    /// The states of every step or of the last, then each state of the last step.
    fn types(&self) -> Vec<Type> {
        let width = match self.hidden {
            // Checked when the states were.
            Dim::Fixed(h) => Dim::Fixed(h * self.directions.len() as u64),
            Dim::Any => Dim::Any,
        };
        let steps = if self.output_sequence { self.steps } else { Dim::Fixed(1) };
        let ty = |shape: &[Dim]| Type::Tensor(TensorType { dtype: self.dtype, shape: shape.to_vec() });
        let mut types = vec![ty(&[steps, self.batch, width])];
        types.extend((0..self.n_states).map(|_| ty(&[self.batch, width])));
        types
    }

    /// The fixed sizes, as evaluations and gradients have them: steps, batch, hidden.
    fn sizes(&self) -> OpResult<[usize; 3]> {
        let known = |d: Dim| d.fixed().ok_or_else(|| OpError::arg("x", "must have a fixed shape"));
        Ok([known(self.steps)?, known(self.batch)?, known(self.hidden)?])
    }

    /// The steps in the order in which a direction takes them, each with its place in the output: that of the step
    /// in the input if there are two directions, else its turn.
    fn order(&self, direction: usize, steps: usize) -> Vec<(usize, usize)> {
        let reverse = self.directions[direction];
        let step = |turn: usize| if reverse { steps - 1 - turn } else { turn };
        (0..steps).map(|turn| (step(turn), if self.directions.len() == 2 { step(turn) } else { turn })).collect()
    }
}

/// An activation by name.
#[derive(Clone, Copy)]
enum Activation {
    Linear,
    Relu,
    Sigmoid,
    Tanh,
    /// `1.7159 tanh(2 x / 3)`: LeCun's constants, for `lstm` has no argument for them.
    ScaledTanh,
    /// `min(max(0.2 x + 0.5, 0), 1)`: the constants of Keras and ONNX.
    HardSigmoid,
}

const SCALED_TANH: (f64, f64) = (1.7159, 2.0 / 3.0);
const HARD_SIGMOID: (f64, f64) = (0.2, 0.5);

impl Activation {
    fn named(param: &'static str, name: &str) -> OpResult<Activation> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "linear" => Activation::Linear,
            "relu" => Activation::Relu,
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "scaled_tanh" => Activation::ScaledTanh,
            "hard_sigmoid" | "sigmoid_hard" => Activation::HardSigmoid,
            _ => {
                let message = format!(
                    "is `{name}`, expected linear, relu, sigmoid, tanh, scaled_tanh, hard_sigmoid or sigmoid_hard"
                );
                return Err(OpError::arg(param, message));
            }
        })
    }

    fn of(args: &Args<'_>, param: &'static str) -> OpResult<Activation> {
        Activation::named(param, args.str(param)?)
    }

    fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Linear => x,
            Activation::Relu => maximum(x, 0.0),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::ScaledTanh => SCALED_TANH.0 * (SCALED_TANH.1 * x).tanh(),
            Activation::HardSigmoid => (HARD_SIGMOID.0 * x + HARD_SIGMOID.1).clamp(0.0, 1.0),
        }
    }

    fn emit(self, v: &mut Vjp<'_>, x: builder::Value) -> OpResult<builder::Value> {
        let (op, (alpha, beta)) = match self {
            Activation::Linear => return Ok(x),
            Activation::Relu => return v.unary("relu", x),
            Activation::Sigmoid => return v.unary("sigmoid", x),
            Activation::Tanh => return v.unary("tanh", x),
            Activation::ScaledTanh => ("scaled_tanh", SCALED_TANH),
            Activation::HardSigmoid => ("sigmoid_hard", HARD_SIGMOID),
        };
        let (alpha, beta) = (v.number(x, alpha)?, v.number(x, beta)?);
        Ok(v.b.call(op).arg("x", x).arg("alpha", alpha).arg("beta", beta).finish()?)
    }
}

/// The numbers of an optional argument, or zeros.
fn or_zeros(args: &Args<'_>, name: &'static str, n: usize) -> Vec<f64> {
    args.optional(name).map_or_else(|| vec![0.0; n], Tensor::to_f64s)
}

/// Row `row` of the matrix `w` times `x`.
fn product(w: &[f64], row: usize, x: &[f64]) -> f64 {
    x.iter().zip(&w[row * x.len()..]).map(|(x, w)| x * w).sum()
}

/// Takes `step(direction, x, states)` over the sequence of each direction and item of the batch.
fn unroll(args: &Args<'_>, step: impl Fn(usize, &[f64], &mut [Vec<f64>])) -> OpResult<Vec<Value>> {
    let (layer, x) = (Layer::of(args)?, args.tensor("x")?);
    let [n_steps, batch, hidden] = layer.sizes()?;
    let (xs, input, width) = (x.to_f64s(), x.shape()[2], hidden * layer.directions.len());
    let initial = states(args.def).iter().map(|n| Ok(args.tensor(n)?.to_f64s())).collect::<OpResult<Vec<_>>>()?;
    let kept = if layer.output_sequence { n_steps } else { 1 };
    let mut sequence = vec![0.0; kept * batch * width];
    let mut last = initial.clone();
    for direction in 0..layer.directions.len() {
        for item in 0..batch {
            let at = item * width + direction * hidden;
            let mut state: Vec<Vec<f64>> = initial.iter().map(|s| s[at..at + hidden].to_vec()).collect();
            for (t, place) in layer.order(direction, n_steps) {
                let x = &xs[(t * batch + item) * input..][..input];
                step(direction, x, &mut state);
                let row = if layer.output_sequence { place * batch * width } else { 0 };
                sequence[row + at..][..hidden].copy_from_slice(&state[0]);
            }
            for (last, state) in last.iter_mut().zip(&state) {
                last[at..at + hidden].copy_from_slice(state);
            }
        }
    }
    let mut outputs = vec![Tensor::float(x.dtype(), &[kept, batch, width], sequence).into()];
    outputs.extend(last.into_iter().map(|s| Tensor::float(x.dtype(), &[batch, width], s).into()));
    Ok(outputs)
}

/// ```text
/// i, f, o = recurrent_activation(W x + R h + b + peephole c), where o sees the new c
/// g       = cell_activation(W x + R h + b)
/// c       = clip(f c + i g)
/// h       = o activation(c)
/// ```
/// The rows of the weights are in the order i, f, o, g, those of the peephole i, f, o.
fn lstm_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let [_, _, n] = Layer::of(args)?.sizes()?;
    let weights = [
        ("weight_ih", "weight_hh", "bias", "peephole"),
        ("weight_ih_back", "weight_hh_back", "bias_back", "peephole_back"),
    ]
    .map(|(ih, hh, b, p)| {
        (or_zeros(args, ih, 0), or_zeros(args, hh, 0), or_zeros(args, b, 4 * n), or_zeros(args, p, 3 * n))
    });
    let gate = Activation::of(args, "recurrent_activation")?;
    let (cell, out) = (Activation::of(args, "cell_activation")?, Activation::of(args, "activation")?);
    let clip = if args.has("clip") { args.float("clip")?.abs() } else { f64::INFINITY };
    unroll(args, |direction, x, states| {
        let (ih, hh, b, p) = &weights[direction];
        let h = states[0].clone();
        let sum = |row: usize| b[row] + product(ih, row, x) + product(hh, row, &h);
        for j in 0..n {
            let c = states[1][j];
            let i = gate.apply(sum(j) + p[j] * c);
            let f = gate.apply(sum(n + j) + p[n + j] * c);
            let g = cell.apply(sum(3 * n + j));
            let c = minimum(maximum(f * c + i * g, -clip), clip);
            let o = gate.apply(sum(2 * n + j) + p[2 * n + j] * c);
            states[1][j] = c;
            states[0][j] = o * out.apply(c);
        }
    })
}

/// ```text
/// r, z = recurrent_activation(W x + R h + b)
/// o    = activation(W x + R (r h) + b), with reset_after activation(W x + input_bias + r (R h + b))
/// h    = (1 - z) o + z h
/// ```
/// The rows of the weights are in the order r, o, z. `input_bias` is added to `b` where nothing else is said.
fn gru_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let [_, _, n] = Layer::of(args)?.sizes()?;
    let (ih, hh) = (args.tensor("weight_ih")?.to_f64s(), args.tensor("weight_hh")?.to_f64s());
    let b = or_zeros(args, "bias", 3 * n);
    let (reset_after, input_b) = match args.def.param("reset_after") {
        Some(_) => (args.bool("reset_after")?, or_zeros(args, "input_bias", 3 * n)),
        None => (false, vec![0.0; 3 * n]),
    };
    let (gate, out) = (Activation::of(args, "recurrent_activation")?, Activation::of(args, "activation")?);
    unroll(args, |_, x, states| {
        let h = states[0].clone();
        let from_x = |row: usize| input_b[row] + product(&ih, row, x);
        let gate = |row: usize| gate.apply(from_x(row) + product(&hh, row, &h) + b[row]);
        let r: Vec<f64> = (0..n).map(gate).collect();
        let reset: Vec<f64> = h.iter().zip(&r).map(|(h, r)| h * r).collect();
        for j in 0..n {
            let from_h = match reset_after {
                true => r[j] * (product(&hh, n + j, &h) + b[n + j]),
                false => product(&hh, n + j, &reset) + b[n + j],
            };
            let (o, z) = (out.apply(from_x(n + j) + from_h), gate(2 * n + j));
            states[0][j] = (1.0 - z) * o + z * h[j];
        }
    })
}

/// `h = activation(W x + R h + b)`.
fn rnn_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let [_, _, n] = Layer::of(args)?.sizes()?;
    let (ih, hh) = (args.tensor("weight_ih")?.to_f64s(), args.tensor("weight_hh")?.to_f64s());
    let (b, out) = (or_zeros(args, "bias", n), Activation::of(args, "activation")?);
    unroll(args, |_, x, states| {
        let h = states[0].clone();
        states[0] = (0..n).map(|j| out.apply(product(&ih, j, x) + product(&hh, j, &h) + b[j])).collect();
    })
}

/// The elements from `from` on of an axis, `n` of them.
fn part(v: &mut Vjp<'_>, x: builder::Value, axis: usize, from: usize, n: usize) -> OpResult<builder::Value> {
    let mut size = v.b.shape(x)?;
    let mut begin = vec![0; size.len()];
    (begin[axis], size[axis]) = (from, n);
    Ok(v.b.slice(x, &begin, &size)?)
}

fn concat(v: &mut Vjp<'_>, values: &[builder::Value], axis: usize) -> OpResult<builder::Value> {
    match values {
        [one] => Ok(*one),
        _ => Ok(v.b.concat(values, axis)?),
    }
}

/// `x w^T`, plus an optional argument.
fn affine(
    v: &mut Vjp<'_>,
    x: builder::Value,
    w: builder::Value,
    bias: Option<builder::Value>,
) -> OpResult<builder::Value> {
    let y = v.b.matmul(x, w, false, true)?;
    Ok(match bias {
        Some(b) => v.b.add(y, b)?,
        None => y,
    })
}

/// Back through time: emits the layer step by step and takes the gradients through that.
/// `step(v, direction, inputs, states)` emits one step, from `inputs`, the part of `x W^T` that belongs to it,
/// `[b, gates H]`.
fn unrolled_vjp(
    v: &mut Vjp<'_>,
    weights: &[&'static str],
    biases: &[&'static str],
    step: impl Fn(&mut Vjp<'_>, usize, builder::Value, &mut [builder::Value]) -> OpResult<()>,
) -> OpResult<()> {
    let layer = Layer::of(&v.args())?;
    let [n_steps, batch, hidden] = layer.sizes()?;
    let rows = hidden * n_gates(v.def) as usize;
    v.through(|v| {
        let x = v.arg("x")?;
        let (mut sequences, mut last) = (Vec::new(), vec![Vec::new(); layer.n_states]);
        for direction in 0..layer.directions.len() {
            let w = v.arg(weights[direction])?;
            let bias = v.optional(biases[direction]);
            let inputs = affine(v, x, w, bias)?;
            let mut state = Vec::new();
            for name in states(v.def) {
                let initial = v.arg(name)?;
                state.push(part(v, initial, 1, direction * hidden, hidden)?);
            }
            let mut sequence = vec![None; n_steps];
            for (t, place) in layer.order(direction, n_steps) {
                let at = part(v, inputs, 0, t, 1)?;
                let at = v.b.reshape(at, &[batch, rows])?;
                step(v, direction, at, &mut state)?;
                sequence[place] = Some(v.b.reshape(state[0], &[1, batch, hidden])?);
            }
            let kept: Vec<builder::Value> = match layer.output_sequence {
                true => sequence.into_iter().flatten().collect(),
                false => vec![v.b.reshape(state[0], &[1, batch, hidden])?],
            };
            sequences.push(concat(v, &kept, 0)?);
            last.iter_mut().zip(&state).for_each(|(l, s)| l.push(*s));
        }
        let mut outputs = vec![concat(v, &sequences, 2)?];
        for l in last {
            outputs.push(concat(v, &l, 1)?);
        }
        Ok(outputs)
    })
}

fn lstm_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let args = v.args();
    let [_, _, n] = Layer::of(&args)?.sizes()?;
    let gate = Activation::of(&args, "recurrent_activation")?;
    let (cell, out) = (Activation::of(&args, "cell_activation")?, Activation::of(&args, "activation")?);
    let clip = if args.has("clip") { Some(args.float("clip")?.abs()) } else { None };
    let recurrent = ["weight_hh", "weight_hh_back"];
    let peepholes = ["peephole", "peephole_back"];
    unrolled_vjp(v, &["weight_ih", "weight_ih_back"], &["bias", "bias_back"], |v, direction, inputs, states| {
        let r = v.arg(recurrent[direction])?;
        let from_h = v.b.matmul(states[0], r, false, true)?;
        let sums = v.b.add(inputs, from_h)?;
        // Gate `at`, which sees `c` through its part of the peephole.
        let gate_at = |v: &mut Vjp<'_>, at: usize, c: builder::Value| {
            let mut sum = part(v, sums, 1, at * n, n)?;
            if let Some(p) = v.optional(peepholes[direction]) {
                let p = part(v, p, 0, at * n, n)?;
                let seen = v.b.mul(p, c)?;
                sum = v.b.add(sum, seen)?;
            }
            gate.emit(v, sum)
        };
        let c = states[1];
        let (i, f) = (gate_at(v, 0, c)?, gate_at(v, 1, c)?);
        let g = part(v, sums, 1, 3 * n, n)?;
        let g = cell.emit(v, g)?;
        let (kept, new) = (v.b.mul(f, c)?, v.b.mul(i, g)?);
        let mut c = v.b.add(kept, new)?;
        if let Some(clip) = clip {
            let (low, high) = (v.number(c, -clip)?, v.number(c, clip)?);
            c = v.b.call("clip").arg("x", c).arg("alpha", low).arg("beta", high).finish()?;
        }
        let o = gate_at(v, 2, c)?;
        let active = out.emit(v, c)?;
        states[1] = c;
        states[0] = v.b.mul(o, active)?;
        Ok(())
    })
}

fn gru_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let args = v.args();
    let [_, _, n] = Layer::of(&args)?.sizes()?;
    let (gate, out) = (Activation::of(&args, "recurrent_activation")?, Activation::of(&args, "activation")?);
    let newer = v.def.param("reset_after").is_some();
    let reset_after = newer && args.bool("reset_after")?;
    // With `reset_after`, `bias` stands inside the parentheses and is no part of the inputs; else both are.
    let bias = v.optional("bias");
    let first = if newer { "input_bias" } else { "bias" };
    unrolled_vjp(v, &["weight_ih"], &[first], |v, _, inputs, states| {
        let mut inputs = inputs;
        if let Some(b) = bias
            && newer
            && !reset_after
        {
            inputs = v.b.add(inputs, b)?;
        }
        let h = states[0];
        let w = v.arg("weight_hh")?;
        let from_h = affine(v, h, w, bias.filter(|_| reset_after))?;
        let sums = v.b.add(inputs, from_h)?;
        let r = part(v, sums, 1, 0, n)?;
        let r = gate.emit(v, r)?;
        let z = part(v, sums, 1, 2 * n, n)?;
        let z = gate.emit(v, z)?;
        let from_h = match reset_after {
            true => {
                let from_h = part(v, from_h, 1, n, n)?;
                v.b.mul(r, from_h)?
            }
            false => {
                let reset = v.b.mul(r, h)?;
                let w = part(v, w, 0, n, n)?;
                v.b.matmul(reset, w, false, true)?
            }
        };
        let from_x = part(v, inputs, 1, n, n)?;
        let o = v.b.add(from_x, from_h)?;
        let o = out.emit(v, o)?;
        // h' = o + z (h - o).
        let way = v.b.sub(h, o)?;
        let moved = v.b.mul(z, way)?;
        states[0] = v.b.add(o, moved)?;
        Ok(())
    })
}

fn rnn_vjp(v: &mut Vjp<'_>) -> OpResult<()> {
    let out = Activation::of(&v.args(), "activation")?;
    unrolled_vjp(v, &["weight_ih"], &["bias"], |v, _, inputs, states| {
        let w = v.arg("weight_hh")?;
        let from_h = v.b.matmul(states[0], w, false, true)?;
        let sum = v.b.add(inputs, from_h)?;
        states[0] = out.emit(v, sum)?;
        Ok(())
    })
}
