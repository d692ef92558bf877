//! What the gradient of an op has to work with.

use super::{Args, OpDef, OpError, OpResult, Operand, Param};
use crate::builder::{Builder, Value};
use crate::error::Error;
use crate::tensor::Tensor;

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

    /// The call as its type rule saw it.
    pub fn forward(&self) -> Args<'_> {
        let bind = |v: &Value| self.b.bound(*v);
        let operand = |(param, values): (&Param, &Option<Vec<Value>>)| {
            let values = values.as_ref()?;
            Some(match param.variadic {
                true => Operand::Many(values.iter().map(bind).collect()),
                false => Operand::One(bind(values.first()?)),
            })
        };
        Args { def: self.def, operands: self.def.params.iter().zip(self.args).map(operand).collect() }
    }

    /// The constant passed for a parameter.
    pub fn constant(&self, name: &'static str) -> OpResult<Tensor> {
        let v = self.arg(name)?;
        self.b.value_of(v).cloned().ok_or_else(|| OpError::arg(name, "must be a constant for a gradient"))
    }

    /// The integers passed for a parameter.
    pub fn ints(&self, name: &'static str) -> OpResult<Vec<i64>> {
        let t = self.constant(name)?;
        t.ints().map(<[i64]>::to_vec).ok_or_else(|| OpError::arg(name, "must be integers"))
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

    /// Gives the gradient of a parameter's argument.
    pub fn give(&mut self, name: &'static str, gradient: Value) -> OpResult<()> {
        let v = self.arg(name)?;
        self.give_value(v, gradient);
        Ok(())
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
