//! New programs out of parts of a valid one.

use crate::builder::{Builder, Value};
use crate::error::{Error, Result};
use crate::ir::{Type, Version};
use crate::ops;
use crate::valid::{Origin, ValidCall, ValidFunction, ValueId};

/// Rebuilds calls of a function in a builder, in which other things may be added before, between and after.
/// Constants come along by themselves when a call needs them.
pub struct Replay<'a> {
    function: &'a ValidFunction,
    values: Vec<Option<Value>>,
    /// What is being built.
    pub builder: Builder,
}

impl<'a> Replay<'a> {
    /// Nothing yet.
    pub fn new(function: &'a ValidFunction, version: Version) -> Replay<'a> {
        Replay { function, values: vec![None; function.values.len()], builder: Builder::new(version) }
    }

    /// What a value of the function has become, if it is there already.
    pub fn get(&self, id: ValueId) -> Option<Value> {
        self.values[id.index()]
    }

    /// Makes a value of the builder stand for a value of the function.
    pub fn set(&mut self, id: ValueId, value: Value) {
        self.values[id.index()] = Some(value);
    }

    /// Forgets what a value of the function has become, so that it can become something else.
    pub fn forget(&mut self, id: ValueId) {
        self.values[id.index()] = None;
    }

    /// Makes a value of the function an input, whatever it was.
    ///
    /// # Errors
    ///
    /// If it is no tensor or its name is taken.
    pub fn input(&mut self, id: ValueId) -> Result<Value> {
        let v = self.function.value(id);
        let Type::Tensor(ty) = &v.ty else {
            return Err(Error::gradient(format!("`{}` has type {}, expected a tensor", v.name, v.ty)));
        };
        let value = self.builder.input(&v.name, ty.clone())?;
        self.values[id.index()] = Some(value);
        Ok(value)
    }

    /// A value that is there already, or a constant.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn value(&mut self, id: ValueId) -> Result<Value> {
        if let Some(v) = self.get(id) {
            return Ok(v);
        }
        let v = self.function.value(id);
        let name = if v.name.is_empty() { "const" } else { &v.name };
        let value = match (&v.origin, &v.ty) {
            (Origin::Constant(ops::Value::Tensor(t)), _) => self.builder.named_constant(name, t.clone()),
            (Origin::Blob(blob), Type::Tensor(ty)) => self.builder.blob(name, ty.clone(), blob.clone()),
            _ => {
                return Err(Error::gradient(format!(
                    "`{}` ({}) cannot be taken over into another program",
                    v.name, v.ty
                )));
            }
        };
        self.values[id.index()] = Some(value);
        Ok(value)
    }

    /// Makes a call again, its outputs under the same names or, where these are taken, under similar ones.
    ///
    /// # Errors
    ///
    /// If it has nested blocks or no outputs, or an argument is not there.
    pub fn call(&mut self, call: &ValidCall) -> Result<()> {
        let f = self.function;
        if !call.blocks.is_empty() || call.outputs.is_empty() {
            let message =
                format!("op `{}` (`{}`) cannot be taken over into another program", call.op.name, f.label(call));
            return Err(Error::gradient(message));
        }
        let mut passed = Vec::new();
        for (param, arg) in call.op.params.iter().zip(&call.args) {
            if let Some(ids) = arg {
                passed.push((param, ids.ids().iter().map(|&id| self.value(id)).collect::<Result<Vec<_>>>()?));
            }
        }
        let names = call.outputs.iter().map(|&v| f.value(v).name.as_str());
        let mut c = self.builder.call(call.op.name).named_each(names);
        for (param, values) in passed {
            c = if param.variadic { c.args(param.name, &values) } else { c.arg(param.name, values[0]) };
        }
        for (&id, v) in call.outputs.iter().zip(c.finish_many()?) {
            self.values[id.index()] = Some(v);
        }
        Ok(())
    }
}
