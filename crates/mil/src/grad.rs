//! Reverse mode over programs: from a program with a loss to one that also computes gradients, plain MIL again.

mod halves;

use crate::builder::{Builder, Made, Value};
use crate::error::{Error, Result};
use crate::ir::{DType, Program};
use crate::ops::Vjp;
use crate::replay::Replay;
use crate::tensor::Tensor;
use crate::valid::{ValidFunction, ValidProgram};
pub use halves::Halves;
use std::collections::HashMap;
use std::ops::Range;

/// What the gradient of the loss starts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seed<'a> {
    /// The constant 1: gradients come out as they are.
    One,
    /// An input of this name and of the loss's type that the program is given for it: a loss scale that may
    /// change from run to run.
    Input(&'a str),
}

/// A program that computes its gradients too.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The outputs of the program it came from, then the gradients.
    pub program: Program,
    /// The names of the gradients, in the order they were asked for.
    pub gradients: Vec<String>,
    /// The number of inputs and of calls of the program it came from, which come first.
    n_inputs: usize,
    n_forward: usize,
}

/// Extends the main function of `program` by the gradients of its output `loss` by the values named `wrt`.
///
/// The forward part is computed once; a value that no gradient needs has none computed.
///
/// # Errors
///
/// If a name is unknown, the loss is no single floating-point number, or an op on the way has no gradient.
pub fn gradient(program: &ValidProgram, loss: &str, wrt: &[&str], seed: Seed<'_>) -> Result<Gradient> {
    let f = program.main();
    let (mut b, values) = resume(program, f)?;
    let n_calls = b.made().len();
    let by_name: HashMap<&str, Value> =
        f.values.iter().map(|v| v.name.as_str()).zip(values.iter().copied()).collect();
    let find = |name: &str| {
        by_name.get(name).copied().ok_or_else(|| Error::gradient(format!("the program has no value `{name}`")))
    };
    let loss = find(loss)?;
    let ty = b.tensor_ty(loss)?.clone();
    if !ty.dtype.is_float() || ty.n_elements() != Some(1) {
        let message = format!("`{}` is {ty}, expected a single floating-point number as the loss", b.name(loss));
        return Err(Error::gradient(message));
    }
    let wrt = wrt.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let mut wanted = vec![false; b.n_values()];
    wrt.iter().for_each(|v| wanted[v.index()] = true);
    spread(&mut wanted, &b, b.made());
    let start = match seed {
        Seed::One => b.named_constant("loss_seed", Tensor::float(ty.dtype, &b.shape(loss)?, vec![1.0])),
        Seed::Input(name) => b.input(name, ty)?,
    };
    let mut tape = Tape { grads: HashMap::from([(loss, start)]), wanted };
    tape.backward(&mut b, 0..n_calls)?;
    let mut outputs: Vec<Value> = f.outputs.iter().map(|v| values[v.index()]).collect();
    let mut gradients = Vec::new();
    for v in wrt {
        let grad = match tape.grads.get(&v) {
            Some(&g) if !outputs.contains(&g) => g,
            // An output of its own for a value that is returned already.
            Some(&g) => b.call("identity").arg("x", g).finish()?,
            None => zeros(&mut b, v)?,
        };
        outputs.push(grad);
        gradients.push(b.name(grad).to_string());
    }
    Ok(Gradient { program: b.finish(&outputs)?, gradients, n_inputs: f.inputs.len(), n_forward: n_calls })
}

fn zeros(b: &mut Builder, like: Value) -> Result<Value> {
    let dtype = b.tensor_ty(like)?.dtype;
    let shape = b.shape(like)?;
    b.filled(if dtype.is_float() { dtype } else { DType::Fp32 }, &shape, 0.0)
}

/// A builder that holds all of a function, with its value for each of the function's.
fn resume(program: &ValidProgram, f: &ValidFunction) -> Result<(Builder, Vec<Value>)> {
    let mut replay = Replay::new(f, program.program().version);
    for &id in &f.inputs {
        replay.input(id)?;
    }
    for call in &f.body.calls {
        replay.call(call)?;
    }
    let values = f.ids().map(|id| replay.value(id)).collect::<Result<_>>()?;
    Ok((replay.builder, values))
}

/// Adds to the `wanted` values those that depend on them through `calls`. Only floating-point numbers do: whole
/// numbers made of them, such as shapes and indices, do not change with them bit by bit.
pub(crate) fn spread(wanted: &mut [bool], b: &Builder, calls: &[Made]) {
    for call in calls {
        let reached = call.args.iter().flatten().flatten().any(|a| wanted[a.index()]);
        for out in &call.outputs {
            wanted[out.index()] |= reached && b.ty(*out).as_tensor().is_some_and(|t| t.dtype.is_float());
        }
    }
}

/// Where gradients add up.
pub(crate) struct Tape {
    /// The gradient of each value so far.
    pub(crate) grads: HashMap<Value, Value>,
    /// Whether a gradient is of use, by value of the forward part.
    pub(crate) wanted: Vec<bool>,
}

impl Tape {
    /// Adds to the gradient of a value.
    pub(crate) fn add(&mut self, b: &mut Builder, value: Value, gradient: Value) -> Result<()> {
        let sum = match self.grads.get(&value) {
            Some(&so_far) => b.add(so_far, gradient)?,
            None => gradient,
        };
        self.grads.insert(value, sum);
        Ok(())
    }

    /// Goes back through some of the builder's calls.
    pub(crate) fn backward(&mut self, b: &mut Builder, calls: Range<usize>) -> Result<()> {
        for i in calls.rev() {
            let call = b.made()[i].clone();
            let dys: Vec<Option<Value>> = call.outputs.iter().map(|v| self.grads.get(v).copied()).collect();
            if dys.iter().all(Option::is_none) || !call.outputs.iter().any(|v| self.wanted[v.index()]) {
                continue;
            }
            let label = call.outputs.first().map(|&v| b.name(v).to_string()).unwrap_or_default();
            let named = |message: String| Error::gradient(format!("op `{}` (`{label}`) {message}", call.def.name));
            let vjp = call.def.vjp.ok_or_else(|| named("has no gradient".into()))?;
            let mut v = Vjp {
                b,
                def: call.def,
                args: &call.args,
                outputs: &call.outputs,
                dys: &dys,
                wanted: &self.wanted,
                grads: Vec::new(),
            };
            vjp(&mut v).map_err(|e| named(e.to_string()))?;
            for (value, grad) in v.grads {
                if self.wanted[value.index()] {
                    self.add(b, value, grad)?;
                }
            }
        }
        Ok(())
    }
}
