//! Reverse mode over programs: from a program with a loss to one that also computes gradients, plain MIL again.

use crate::builder::{Builder, Value};
use crate::error::{Error, Result};
use crate::ir::{DType, Program, Type};
use crate::ops::Vjp;
use crate::tensor::Tensor;
use crate::valid::{Origin, ValidCall, ValidFunction, ValidProgram};
use std::collections::HashMap;

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
    let wanted = depends_on(f, &values, &wrt);
    let start = match seed {
        Seed::One => b.named_constant("loss_seed", Tensor::float(ty.dtype, &b.shape(loss)?, vec![1.0])),
        Seed::Input(name) => b.input(name, ty)?,
    };
    let mut tape = Tape { grads: HashMap::from([(loss, start)]), wanted };
    for call in f.body.calls.iter().rev() {
        tape.backward(&mut b, f, call, &values)?;
    }
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
    Ok(Gradient { program: b.finish(&outputs)?, gradients })
}

fn zeros(b: &mut Builder, like: Value) -> Result<Value> {
    let dtype = b.tensor_ty(like)?.dtype;
    let shape = b.shape(like)?;
    b.fill(if dtype.is_float() { dtype } else { DType::Fp32 }, &shape, 0.0)
}

/// A builder that holds all of a function, with its value for each of the function's.
fn resume(program: &ValidProgram, f: &ValidFunction) -> Result<(Builder, Vec<Value>)> {
    let mut b = Builder::new(program.program().version);
    let mut values: Vec<Option<Value>> = vec![None; f.values.len()];
    for (i, v) in f.values.iter().enumerate() {
        let name = if v.name.is_empty() { "const" } else { &v.name };
        values[i] = match (&v.origin, &v.ty) {
            (Origin::Input, Type::Tensor(ty)) => Some(b.input(name, ty.clone())?),
            (Origin::Constant(crate::ops::Value::Tensor(t)), _) => Some(b.named_constant(name, t.clone())),
            (Origin::Blob(blob), Type::Tensor(ty)) => Some(b.blob(name, ty.clone(), blob.clone())),
            (Origin::Call, _) => None,
            (_, ty) => return Err(Error::gradient(format!("`{}` has type {ty}, which has no gradient", v.name))),
        };
    }
    for call in &f.body.calls {
        if !call.blocks.is_empty() || call.outputs.is_empty() {
            return Err(Error::gradient(format!("op `{}` (`{}`) has no gradient", call.op.name, f.label(call))));
        }
        let mut c = b.call(call.op.name);
        if let [one] = call.outputs[..] {
            c = c.named(&f.value(one).name);
        }
        for (param, arg) in call.op.params.iter().zip(&call.args) {
            if let Some(ids) = arg {
                // Values are defined before they are used.
                let passed: Vec<Value> = ids.ids().iter().filter_map(|v| values[v.index()]).collect();
                c = if param.variadic { c.args(param.name, &passed) } else { c.arg(param.name, passed[0]) };
            }
        }
        for (&id, v) in call.outputs.iter().zip(c.finish_many()?) {
            values[id.index()] = Some(v);
        }
    }
    let values = values.into_iter().collect::<Option<_>>();
    Ok((b, values.ok_or_else(|| Error::gradient("a value of the program is never defined"))?))
}

/// For each value of the builder, whether it depends on one of `wrt`.
fn depends_on(f: &ValidFunction, values: &[Value], wrt: &[Value]) -> Vec<bool> {
    let mut depends = vec![false; values.iter().map(|v| v.index() + 1).max().unwrap_or(0)];
    wrt.iter().for_each(|v| depends[v.index()] = true);
    for call in &f.body.calls {
        let reached = call.args.iter().flatten().flat_map(|a| a.ids()).any(|a| depends[values[a.index()].index()]);
        for out in &call.outputs {
            depends[values[out.index()].index()] |= reached;
        }
    }
    depends
}

struct Tape {
    /// The gradient of each value so far.
    grads: HashMap<Value, Value>,
    /// Whether a gradient is of use, by value of the forward part.
    wanted: Vec<bool>,
}

impl Tape {
    fn backward(&mut self, b: &mut Builder, f: &ValidFunction, call: &ValidCall, values: &[Value]) -> Result<()> {
        let outputs: Vec<Value> = call.outputs.iter().map(|v| values[v.index()]).collect();
        let dys: Vec<Option<Value>> = outputs.iter().map(|v| self.grads.get(v).copied()).collect();
        if dys.iter().all(Option::is_none) || !outputs.iter().any(|v| self.wanted[v.index()]) {
            return Ok(());
        }
        let named =
            |message: String| Error::gradient(format!("op `{}` (`{}`) {message}", call.op.name, f.label(call)));
        let vjp = call.op.vjp.ok_or_else(|| named("has no gradient".into()))?;
        let args: Vec<Option<Vec<Value>>> = call
            .args
            .iter()
            .map(|a| Some(a.as_ref()?.ids().iter().map(|v| values[v.index()]).collect()))
            .collect();
        let mut v = Vjp {
            b,
            def: call.op,
            args: &args,
            outputs: &outputs,
            dys: &dys,
            wanted: &self.wanted,
            grads: Vec::new(),
        };
        vjp(&mut v).map_err(|e| named(e.to_string()))?;
        for (value, grad) in v.grads {
            if self.wanted[value.index()] {
                let sum = match self.grads.get(&value) {
                    Some(&so_far) => b.add(so_far, grad)?,
                    None => grad,
                };
                self.grads.insert(value, sum);
            }
        }
        Ok(())
    }
}
