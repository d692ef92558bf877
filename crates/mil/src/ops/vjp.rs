//! What the gradient of an op has to work with.

use super::{Args, OpDef, OpError, OpResult, Presence};
use crate::builder::{Builder, Value};
use crate::error::Error;
use crate::grad::{Tape, spread};
use crate::ir::DType;
use crate::tensor::Tensor;
use std::collections::HashMap;

/// One call of the forward program, seen from its gradient: a vector-Jacobian product is emitted as MIL into the
/// builder, from the gradients of the outputs to those of the arguments.
pub struct Vjp<'a> {
    /// Where the calls of the gradient go. All values of the forward program are there already.
    pub b: &'a mut Builder,
    pub(crate) def: &'static OpDef,
    pub(crate) args: &'a [Option<Vec<Value>>],
    pub(crate) outputs: &'a [Value],
    pub(crate) dys: &'a [Option<Value>],
    pub(crate) wanted: &'a [bool],
    pub(crate) grads: Vec<(Value, Value)>,
}

impl From<Error> for OpError {
    fn from(e: Error) -> OpError {
        OpError::new(e.to_string())
    }
}

impl Vjp<'_> {
    fn place(&self, name: &'static str) -> usize {
        self.def.param(name).unwrap_or_else(|| panic!("op `{}` has no parameter `{name}`", self.def.name)).0
    }

    /// The value passed for a required parameter.
    pub fn arg(&self, name: &'static str) -> OpResult<Value> {
        self.optional(name).ok_or_else(|| OpError::arg(name, "is missing"))
    }

    /// The value passed for a parameter, if any was.
    pub fn optional(&self, name: &'static str) -> Option<Value> {
        self.args[self.place(name)].as_ref()?.first().copied()
    }

    /// The values passed for a variadic parameter.
    pub fn many(&self, name: &'static str) -> Vec<Value> {
        self.args[self.place(name)].clone().unwrap_or_default()
    }

    /// The constant passed for a parameter, or its default.
    pub fn constant(&self, name: &'static str) -> OpResult<Tensor> {
        let Some(v) = self.optional(name) else {
            return match self.def.params[self.place(name)].presence {
                Presence::Default(c) => Ok(c.to_tensor(self.float())),
                _ => Err(OpError::arg(name, "is missing")),
            };
        };
        self.b.value_of(v).cloned().ok_or_else(|| OpError::arg(name, "must be a constant for a gradient"))
    }

    /// The integers passed for a parameter.
    pub fn ints(&self, name: &'static str) -> OpResult<Vec<i64>> {
        let t = self.constant(name)?;
        t.ints().map(<[i64]>::to_vec).ok_or_else(|| OpError::arg(name, "must be integers"))
    }

    /// The element type of the first argument if it is a float, else `fp32`.
    fn float(&self) -> DType {
        let first = self.args.iter().flatten().find_map(|vs| vs.first());
        let dtype = first.and_then(|&v| self.b.ty(v).as_tensor()).map(|t| t.dtype);
        dtype.filter(|d| d.is_float()).unwrap_or(DType::Fp32)
    }

    /// What was passed for a parameter (or its default) in the element type of `like`.
    pub fn arg_like(&mut self, name: &'static str, like: Value) -> OpResult<Value> {
        let dtype = self.b.tensor_ty(like)?.dtype;
        match self.optional(name) {
            Some(v) => self.converted(v, dtype),
            None => {
                let default = self.constant(name)?;
                let default = self.b.constant(default);
                self.converted(default, dtype)
            }
        }
    }

    fn converted(&mut self, v: Value, dtype: DType) -> OpResult<Value> {
        Ok(if self.b.tensor_ty(v)?.dtype == dtype { v } else { self.b.cast(v, dtype)? })
    }

    /// Emits the scalar `value` in the element type of `like`.
    pub fn number(&mut self, like: Value, value: f64) -> OpResult<Value> {
        let dtype = self.b.tensor_ty(like)?.dtype;
        Ok(self.b.constant(Tensor::float(dtype, &[], vec![value])))
    }

    /// Emits `op(x)`.
    pub fn unary(&mut self, op: &'static str, x: Value) -> OpResult<Value> {
        Ok(self.b.call(op).arg("x", x).finish()?)
    }

    /// Emits `op(x, y)`.
    pub fn binary(&mut self, op: &'static str, x: Value, y: Value) -> OpResult<Value> {
        Ok(self.b.call(op).arg("x", x).arg("y", y).finish()?)
    }

    /// Emits the elements of `a` where `cond` holds, else those of `b`, broadcast.
    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> OpResult<Value> {
        Ok(self.b.call("select").arg("cond", cond).arg("a", a).arg("b", b).finish()?)
    }

    /// The first output.
    pub fn out(&self) -> Value {
        self.outputs[0]
    }

    /// The gradient of the first output, for ops that have one.
    pub fn dy(&self) -> OpResult<Value> {
        self.dys[0].ok_or_else(|| OpError::new("the gradient of the first output is not used"))
    }

    /// The gradient of each output, `None` where the loss does not depend on it.
    pub fn dys(&self) -> &[Option<Value>] {
        self.dys
    }

    /// Whether the gradient of a parameter's argument is of use to anybody.
    pub fn wants(&self, name: &'static str) -> bool {
        self.optional(name).is_some_and(|v| self.wants_value(v))
    }

    /// Whether the gradient of a value is of use to anybody.
    pub fn wants_value(&self, v: Value) -> bool {
        self.wanted[v.index()]
    }

    /// The arguments, as the op's own rules see them.
    pub fn args(&self) -> Args<'_> {
        self.b.bind(self.def, self.args)
    }

    /// The gradients of an op that is made of others: `forward` emits those, from the arguments of this call to
    /// its outputs, and the gradients are taken through what it emitted.
    pub fn through(&mut self, forward: impl FnOnce(&mut Vjp<'_>) -> OpResult<Vec<Value>>) -> OpResult<()> {
        let first = self.b.made().len();
        let outputs = forward(self)?;
        let last = self.b.made().len();
        let mut wanted = self.wanted.to_vec();
        wanted.resize(self.b.n_values(), false);
        spread(&mut wanted, self.b, &self.b.made()[first..last]);
        let mut tape = Tape { grads: HashMap::new(), wanted };
        for (y, dy) in outputs.into_iter().zip(self.dys) {
            if let Some(dy) = dy {
                tape.add(self.b, y, *dy)?;
            }
        }
        tape.backward(self.b, first..last)?;
        for &v in self.args.iter().flatten().flatten() {
            if let Some(gradient) = tape.grads.remove(&v) {
                self.give_value(v, gradient);
            }
        }
        Ok(())
    }

    /// Gives the gradient of a parameter's argument, in that one's element type.
    pub fn give(&mut self, name: &'static str, gradient: Value) -> OpResult<()> {
        let v = self.arg(name)?;
        let gradient = self.converted(gradient, self.b.tensor_ty(v)?.dtype)?;
        self.give_value(v, gradient);
        Ok(())
    }

    /// Gives `dy` times `slope` as the gradient of `x`.
    pub fn give_slope(&mut self, slope: Value) -> OpResult<()> {
        let dy = self.dy()?;
        let dx = self.b.mul(dy, slope)?;
        self.give("x", dx)
    }

    /// Refuses if anybody wants the gradient of an argument other than `given`.
    pub fn only(&self, given: &[&'static str]) -> OpResult<()> {
        match self.def.params.iter().find(|p| !given.contains(&p.name) && self.wants(p.name)) {
            Some(p) => Err(OpError::arg(p.name, "has no gradient")),
            None => Ok(()),
        }
    }

    /// Gives the gradient of one value; gradients of the same value add up.
    pub fn give_value(&mut self, v: Value, gradient: Value) {
        self.grads.push((v, gradient));
    }

    /// Gives the gradient of an argument that was broadcast: summed over the axes it was stretched along.
    pub fn give_reduced(&mut self, name: &'static str, gradient: Value) -> OpResult<()> {
        let (from, to) = (self.b.shape(gradient)?, self.b.shape(self.arg(name)?)?);
        if from == to {
            return self.give(name, gradient);
        }
        let lead = from.len() - to.len();
        let axes: Vec<i32> = (0..from.len())
            .filter(|&i| i < lead || (to[i - lead] == 1 && from[i] != 1))
            .map(|i| i as i32)
            .collect();
        let summed = if axes.is_empty() { gradient } else { self.b.reduce_sum(gradient, &axes, true)? };
        let gradient = if self.b.shape(summed)? == to { summed } else { self.b.reshape(summed, &to)? };
        self.give(name, gradient)
    }
}
