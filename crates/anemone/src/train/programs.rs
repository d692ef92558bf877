//! The programs a device gets: a linear layer in fp16, its weights compiled in or passed in, or the gradient of
//! one.

use crate::config::{Io, Strategy};
use crate::error::Result;
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{BlobRef, DType, Program, TensorType, Version};
use anemone_mil::tensor::Tensor;
use anemone_mil::valid::{ArgIds, ValidCall, ValidFunction, ValueId};

/// Where programs look for their weights file.
pub(crate) const WEIGHTS_PATH: &str = "@model_path/weights/weight.bin";

/// The offset of the first record of a weights file, which follows its header of 64 bytes.
const FIRST_RECORD: u64 = 64;

/// A call of the training graph that runs on the device as a program of its own.
#[derive(Clone, Debug)]
pub(crate) struct DeviceCall {
    /// What reports call it: the name of its output in the training graph.
    pub(crate) label: String,
    /// What it reads beside weights.
    pub(crate) inputs: Vec<ValueId>,
    /// The weights, which depend on parameters alone.
    pub(crate) weight: Option<ValueId>,
    pub(crate) output: ValueId,
    /// What it computes, which two calls may share.
    pub(crate) form: Form,
}

/// What a program computes, whatever its weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// A convolution, or a transposed one, whose weights are compiled in.
    Baked {
        op: &'static str,
        x: Vec<usize>,
        weight: Vec<usize>,
        y: Vec<usize>,
        /// The constant arguments by name.
        constants: Vec<(&'static str, Tensor)>,
    },
    /// `y = W x`, or `W^T x`, over channels: `W` is `[1, groups, rows, columns]`.
    Product { weight: [usize; 4], transposed: bool, x: Vec<usize>, y: Vec<usize> },
    /// The gradient of a linear layer by its weights: `dW = dy x^T`, summed over batch and positions.
    WeightGradient { dy: [usize; 3], x: [usize; 3] },
}

impl DeviceCall {
    /// The device's form of a convolution, if there is one under this strategy, else why not.
    pub(crate) fn of(
        f: &ValidFunction,
        call: &ValidCall,
        weight_made_by: Option<&ValidCall>,
        strategy: Strategy,
    ) -> Result<DeviceCall, String> {
        let convolution = Convolution::of(f, call)?;
        let (weight, form) = match strategy {
            Strategy::Baked => (convolution.weight, convolution.baked(f, call)),
            Strategy::Operand => convolution.product(f, weight_made_by)?,
        };
        Ok(DeviceCall {
            label: f.label(call).to_string(),
            inputs: vec![convolution.x],
            weight: Some(weight),
            output: call.outputs[0],
            form,
        })
    }

    /// The device's form of `matmul(dy, x^T)`, with the sum over the batch after it, if this is it.
    pub(crate) fn weight_gradient(
        f: &ValidFunction,
        call: &ValidCall,
        sum: Option<&ValidCall>,
    ) -> Option<DeviceCall> {
        let [dy, x] = ["x", "y"].map(|name| arg(call, name));
        let flag = |name| constant(f, call, name).and_then(Tensor::ints).is_some_and(|v| v == [1]);
        let shapes = [dy?, x?].map(|id| shape(f, id).and_then(|s| <[usize; 3]>::try_from(s).ok()));
        let [Some(dy_shape), Some(x_shape)] = shapes else { return None };
        if call.op.name != "matmul" || flag("transpose_x") || !flag("transpose_y") || dy_shape[0] != x_shape[0] {
            return None;
        }
        let last = match (dy_shape[0], sum) {
            (1, _) => call,
            (_, Some(sum)) => sum,
            (_, None) => return None,
        };
        Some(DeviceCall {
            label: f.label(call).to_string(),
            inputs: vec![dy?, x?],
            weight: None,
            output: last.outputs[0],
            form: Form::WeightGradient { dy: dy_shape, x: x_shape },
        })
    }
}

/// A convolution without bias, or its transpose.
struct Convolution {
    x: ValueId,
    weight: ValueId,
    xs: Vec<usize>,
    ws: Vec<usize>,
    ys: Vec<usize>,
    groups: usize,
    has_strides: bool,
    is_transpose: bool,
}

impl Convolution {
    fn of(f: &ValidFunction, call: &ValidCall) -> Result<Convolution, String> {
        if arg(call, "bias").is_some() {
            return Err("it has a bias of its own, which the engine's convolution does not take".into());
        }
        let (Some(x), Some(weight)) = (arg(call, "x"), arg(call, "weight")) else {
            return Err("it is no convolution".into());
        };
        let (Some(xs), Some(ws), Some(ys)) = (shape(f, x), shape(f, weight), shape(f, call.outputs[0])) else {
            return Err("its shapes are not fixed".into());
        };
        let groups = constant(f, call, "groups").and_then(|t| t.ints()?.first().copied()).unwrap_or(1);
        let is_transpose = call.op.name == "conv_transpose";
        let has_strides = has_strides(constant(f, call, "strides"));
        Ok(Convolution { x, weight, xs, ws, ys, groups: groups as usize, has_strides, is_transpose })
    }

    fn baked(&self, f: &ValidFunction, call: &ValidCall) -> Form {
        let constants = call.op.params.iter().filter(|p| p.constant && !["weight", "bias"].contains(&p.name));
        Form::Baked {
            op: call.op.name,
            x: self.xs.clone(),
            weight: self.ws.clone(),
            y: self.ys.clone(),
            constants: constants.filter_map(|p| Some((p.name, constant(f, call, p.name)?.clone()))).collect(),
        }
    }

    /// The weights to pass and the product they go into. Weights that are others transposed are passed as those.
    fn product(&self, f: &ValidFunction, made_by: Option<&ValidCall>) -> Result<(ValueId, Form), String> {
        let Convolution { xs, ws, ys, groups, .. } = self;
        if ws[2..].iter().any(|&k| k != 1) || self.has_strides || xs[2..] != ys[2..] {
            return Err(format!("weights {ws:?} cannot be passed, only those of 1x1 kernels without strides"));
        }
        let mut weight = self.weight;
        let (mut rows, mut columns, mut transposed) = (ws[0] / groups, ws[1], self.is_transpose);
        if let Some(source) =
            made_by.filter(|c| *groups == 1 && swaps_the_first_two(f, c)).and_then(|c| arg(c, "x"))
        {
            weight = source;
            (rows, columns, transposed) = (columns, rows, !transposed);
        }
        Ok((
            weight,
            Form::Product { weight: [1, *groups, rows, columns], transposed, x: xs.clone(), y: ys.clone() },
        ))
    }
}

fn has_strides(strides: Option<&Tensor>) -> bool {
    strides.and_then(Tensor::ints).is_some_and(|s| s.iter().any(|&s| s != 1))
}

/// Whether a call exchanges the first two axes and leaves the others.
fn swaps_the_first_two(f: &ValidFunction, call: &ValidCall) -> bool {
    let perm = constant(f, call, "perm").and_then(Tensor::ints).unwrap_or_default();
    call.op.name == "transpose"
        && perm.starts_with(&[1, 0])
        && perm.iter().skip(2).eq(&(2..perm.len() as i64).collect::<Vec<_>>())
}

pub(super) fn arg(call: &ValidCall, name: &str) -> Option<ValueId> {
    match call.args[call.op.param(name)?.0].as_ref()? {
        ArgIds::One(v) => Some(*v),
        ArgIds::Many(_) => None,
    }
}

pub(super) fn constant<'a>(f: &'a ValidFunction, call: &ValidCall, name: &str) -> Option<&'a Tensor> {
    match f.value(arg(call, name)?).constant()? {
        anemone_mil::ops::Value::Tensor(t) => Some(t),
        anemone_mil::ops::Value::List(_) => None,
    }
}

fn shape(f: &ValidFunction, id: ValueId) -> Option<Vec<usize>> {
    f.value(id).ty.as_tensor()?.fixed_shape()
}

impl Form {
    /// Output and input channels of a linear layer of one group that can be split.
    pub(crate) fn channels(&self) -> Option<(usize, usize)> {
        match self {
            Form::Baked { op: "conv", x, weight, y, constants }
                if weight[1] == x[1]
                    && weight[2..].iter().all(|&k| k == 1)
                    && x[2..] == y[2..]
                    && !has_strides(constants.iter().find(|(name, _)| *name == "strides").map(|(_, t)| t)) =>
            {
                Some((weight[0], weight[1]))
            }
            Form::Product { weight: [_, 1, rows, columns], transposed: false, .. } => Some((*rows, *columns)),
            _ => None,
        }
    }

    /// The same linear layer with other channels.
    pub(crate) fn with_channels(&self, n_out: usize, n_in: usize) -> Form {
        let mut form = self.clone();
        match &mut form {
            Form::Baked { x, weight, y, .. } => (x[1], y[1], weight[0], weight[1]) = (n_in, n_out, n_out, n_in),
            Form::Product { x, weight, y, .. } => (x[1], y[1], weight[2], weight[3]) = (n_in, n_out, n_out, n_in),
            Form::WeightGradient { .. } => {}
        }
        form
    }

    /// The form of a linear layer's gradient by its input.
    pub(crate) fn backward(&self) -> Form {
        let mut form = self.clone();
        match &mut form {
            Form::Baked { x, y, weight, .. } => {
                std::mem::swap(x, y);
                weight.swap(0, 1);
            }
            Form::Product { x, y, transposed, .. } => {
                std::mem::swap(x, y);
                *transposed = !*transposed;
            }
            Form::WeightGradient { .. } => {}
        }
        form
    }

    /// What it computes, and on which shapes.
    pub(crate) fn words(&self) -> (String, String) {
        match self {
            Form::Baked { op, x, weight, y, .. } => (op.to_string(), format!("{weight:?} {x:?} -> {y:?}")),
            Form::Product { weight, transposed, x, y } => {
                (if *transposed { "W^T x" } else { "W x" }.into(), format!("{:?} {x:?} -> {y:?}", &weight[1..]))
            }
            Form::WeightGradient { dy, x } => ("dy x^T".into(), format!("{dy:?} {x:?} -> [{}, {}]", dy[1], x[1])),
        }
    }

    /// Floating-point operations of one run: a multiplication and an addition for each term.
    pub(crate) fn n_flops(&self) -> u64 {
        let product = |sizes: &[usize]| sizes.iter().map(|&n| n as u64).product::<u64>();
        match self {
            Form::Baked { op: "conv_transpose", x, weight, .. } => 2 * product(x) * product(&weight[1..]),
            Form::Baked { y, weight, .. } => 2 * product(y) * product(&weight[1..]),
            Form::Product { weight, x, .. } => 2 * product(weight) * (product(x) / product(&x[1..2])),
            Form::WeightGradient { dy, x } => 2 * product(dy) * x[1] as u64,
        }
    }

    /// Elements of the inputs that are no weights, of the weights and of the output.
    pub(crate) fn n_elements(&self) -> [usize; 3] {
        let n = |shape: &[usize]| shape.iter().product();
        match self {
            Form::Baked { x, weight, y, .. } => [n(x), n(weight), n(y)],
            Form::Product { weight, x, y, .. } => [n(x), n(weight), n(y)],
            Form::WeightGradient { dy, x } => [n(dy) + n(x), 0, dy[1] * x[1]],
        }
    }

    /// The program.
    ///
    /// # Errors
    ///
    /// If it is wrong, which would be a fault of the planner.
    pub(crate) fn program(&self, io: Io) -> Result<Program> {
        match self {
            Form::Baked { op, x, weight, constants, .. } => baked(op, x, weight, constants, io),
            Form::Product { weight, transposed, x, y } => product(weight, *transposed, x, y, io),
            Form::WeightGradient { dy, x } => weight_gradient(dy, x, io),
        }
    }
}

/// `y = conv(x, W)` with `W` a constant in a weights file.
///
/// Names and order of the constants are those of the field's first such program, so that the texts can be
/// compared.
fn baked(
    op: &'static str,
    x: &[usize],
    weight: &[usize],
    constants: &[(&'static str, Tensor)],
    io: Io,
) -> Result<Program> {
    let mut b = Builder::new(Version::V1_0);
    let x = b.input("x", TensorType::new(io.dtype(), x))?;
    let x16 = to_fp16(&mut b, x, io, "x16", ("d1", "cx"))?;
    let blob = BlobRef { path: WEIGHTS_PATH.into(), offset: FIRST_RECORD };
    let w = b.blob("W", TensorType::new(DType::Fp16, weight), blob);
    const NAMES: [(&str, &str); 6] = [
        ("pad_type", "pt"),
        ("strides", "st"),
        ("pad", "pd"),
        ("dilations", "dl"),
        ("groups", "gr"),
        ("output_shape", "os"),
    ];
    let mut passed = Vec::new();
    for (param, name) in NAMES {
        if let Some((param, t)) = constants.iter().find(|(p, _)| *p == param) {
            passed.push((*param, b.named_constant(name, t.clone())));
        }
    }
    let name = if io == Io::Fp32 { "y16" } else { "y" };
    let mut conv = b.call(op).named(name).labelled("cv").arg("x", x16).arg("weight", w);
    for (param, v) in passed {
        conv = conv.arg(param, v);
    }
    let y16 = conv.finish()?;
    let y = from_fp16(&mut b, y16, io)?;
    Ok(b.finish(&[y])?)
}

/// `y = W x` with `W` an input: a matrix product, because the engine's convolution ignores weights that are no
/// constants.
fn product(weight: &[usize; 4], transposed: bool, x: &[usize], y: &[usize], io: Io) -> Result<Program> {
    let [_, groups, rows, columns] = *weight;
    let n_in = if transposed { rows } else { columns };
    let (n, size) = (x[0], x[2..].iter().product());
    let mut b = Builder::new(Version::V1_0);
    let w = b.input("W", TensorType::new(io.dtype(), weight))?;
    let x = b.input("x", TensorType::new(io.dtype(), x))?;
    let w16 = to_fp16(&mut b, w, io, "W16", ("d0", "cw"))?;
    let x16 = to_fp16(&mut b, x, io, "x16", ("d1", "cx"))?;
    let columns = b.reshape(x16, &[n, groups, n_in, size])?;
    let product = b.matmul(w16, columns, transposed, false)?;
    let y16 = b.reshape(product, y)?;
    let y = from_fp16(&mut b, y16, io)?;
    Ok(b.finish(&[y])?)
}

/// `dW [1, 1, O, I] = sum of dy[n, :, s] x[n, :, s]^T` of `dy [N, O, 1, S]` and `x [N, I, 1, S]`: the positions of
/// the whole batch in one row, so that the product adds them all up.
fn weight_gradient(dy: &[usize; 3], x: &[usize; 3], io: Io) -> Result<Program> {
    let mut b = Builder::new(Version::V1_0);
    let mut side = |name, cast: (&str, &str), [n, c, s]: [usize; 3]| -> Result<Value> {
        let input = b.input(name, TensorType::new(io.dtype(), &[n, c, 1, s]))?;
        let input = to_fp16(&mut b, input, io, &format!("{name}16"), cast)?;
        let channels_first = if n == 1 { input } else { b.transpose(input, &[1, 2, 0, 3])? };
        Ok(b.reshape(channels_first, &[1, 1, c, n * s])?)
    };
    let dy = side("dy", ("d0", "cdy"), *dy)?;
    let x = side("x", ("d1", "cx"), *x)?;
    let dw = b.matmul(dy, x, false, true)?;
    let y = from_fp16(&mut b, dw, io)?;
    Ok(b.finish(&[y])?)
}

impl Io {
    /// The element type.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Io::Fp16 => DType::Fp16,
            Io::Fp32 => DType::Fp32,
        }
    }
}

/// `x` in fp16, by a cast where the program's inputs are fp32.
fn to_fp16(b: &mut Builder, x: Value, io: Io, name: &str, (dtype, label): (&str, &str)) -> Result<Value> {
    if io == Io::Fp16 {
        return Ok(x);
    }
    let fp16 = Tensor::string("fp16");
    Ok(b.call("cast").named(name).labelled(label).arg("x", x).constant_named("dtype", dtype, fp16).finish()?)
}

/// The output `y` from its value in fp16.
fn from_fp16(b: &mut Builder, y16: Value, io: Io) -> Result<Value> {
    if io == Io::Fp16 {
        return Ok(y16);
    }
    let fp32 = Tensor::string("fp32");
    Ok(b.call("cast").named("y").labelled("co").arg("x", y16).constant_named("dtype", "d2", fp32).finish()?)
}
