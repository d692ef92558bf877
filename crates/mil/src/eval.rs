//! The reference interpreter: runs a program call by call, exactly and slowly.
//!
//! It is the definition of the ops: every device is tested against it. Each op computes in f64 (or in whole
//! numbers) and rounds its result once to the declared type.

use crate::error::{Error, Result};
use crate::ir::{Dim, Type};
use crate::ops::{Args, Bound, Eval, Operand, Value};
use crate::tensor::Tensor;
use crate::valid::{ArgIds, Origin, ValidBlock, ValidCall, ValidFunction, ValidProgram, ValueId};
use crate::weights::Weights;
use std::collections::HashMap;

/// Runs one function of a program, whose constants it has read.
///
/// ```
/// use anemone_mil::{Builder, Interpreter, Limits, Tensor, Weights, validate};
/// use anemone_mil::ir::{DType, TensorType, Version};
///
/// let mut b = Builder::new(Version::V1_3);
/// let x = b.input("x", TensorType::new(DType::Fp16, &[3]))?;
/// let y = b.relu(x)?;
/// let program = validate(b.finish(&[y])?, &Limits::none())?;
/// let mut interpreter = Interpreter::new(&program, &Weights::new())?;
/// let y = interpreter.run(&[Tensor::float(DType::Fp16, &[3], vec![-1.0, 0.0, 2.0])])?;
/// assert_eq!(y[0].floats(), Some(&[0.0, 0.0, 2.0][..]));
/// # Ok::<(), anemone_mil::Error>(())
/// ```
pub struct Interpreter<'a> {
    function: &'a ValidFunction,
    /// The constants, by value; `None` for what is computed.
    constants: Vec<Option<Value>>,
}

impl<'a> Interpreter<'a> {
    /// Of the program's main function.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`.
    pub fn new(program: &'a ValidProgram, weights: &Weights) -> Result<Interpreter<'a>> {
        Interpreter::of(program.main(), weights)
    }

    /// Of any function.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`.
    pub fn of(function: &'a ValidFunction, weights: &Weights) -> Result<Interpreter<'a>> {
        let constants = function
            .values
            .iter()
            .map(|v| match (&v.origin, &v.ty) {
                (Origin::Constant(c), _) => Ok(Some(c.clone())),
                (Origin::Blob(b), Type::Tensor(ty)) => weights.resolve(b, ty).map(|t| Some(t.into())),
                (Origin::Blob(_), ty) => {
                    Err(Error::weights(format!("`{}` has type {ty}, expected a tensor", v.name)))
                }
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        Ok(Interpreter { function, constants })
    }

    /// The outputs for these inputs, both in the order of the program.
    ///
    /// # Errors
    ///
    /// If the inputs are not those the program declares, or an op cannot be computed on them.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let f = self.function;
        if inputs.len() != f.inputs.len() {
            return Err(Error::eval(format!(
                "function `{}` takes {} inputs, got {}",
                f.name,
                f.inputs.len(),
                inputs.len()
            )));
        }
        let mut values = self.constants.clone();
        for (&id, t) in f.inputs.iter().zip(inputs) {
            let v = f.value(id);
            if !fits(t, &v.ty) {
                return Err(Error::eval(format!("input `{}` has type {}, expected {}", v.name, t.ty(), v.ty)));
            }
            values[id.index()] = Some(t.clone().into());
        }
        self.block(&f.body, &mut values)?;
        f.outputs
            .iter()
            .map(|&id| match &values[id.index()] {
                Some(Value::Tensor(t)) => Ok(t.clone()),
                _ => Err(Error::eval(format!("output `{}` is no tensor", f.value(id).name))),
            })
            .collect()
    }

    fn block(&self, block: &ValidBlock, values: &mut [Option<Value>]) -> Result<()> {
        for call in &block.calls {
            let outputs = self.call(call, values)?;
            for (&id, value) in call.outputs.iter().zip(outputs) {
                let v = self.function.value(id);
                if let Value::Tensor(t) = &value
                    && !fits(t, &v.ty)
                {
                    let message =
                        format!("op `{}` gave `{}` as {}, declared as {}", call.op.name, v.name, t.ty(), v.ty);
                    return Err(Error::eval(message));
                }
                values[id.index()] = Some(value);
            }
        }
        Ok(())
    }

    fn call(&self, call: &ValidCall, values: &[Option<Value>]) -> Result<Vec<Value>> {
        let label = self.function.label(call);
        let Eval::By(eval) = call.op.eval else {
            let why = match call.op.eval {
                Eval::No(why) => why,
                _ => "the interpreter does not run it",
            };
            return Err(Error::eval(format!("op `{}` (`{label}`) cannot be run: {why}", call.op.name)));
        };
        // The types the arguments have in this run: sizes that the program leaves open are known here.
        let ids = || call.args.iter().flatten().flat_map(|a| a.ids());
        let types: HashMap<ValueId, Type> = ids().map(|&id| (id, self.actual_type(id, values))).collect();
        let bind = |id: &ValueId| Bound { ty: &types[id], value: values[id.index()].as_ref() };
        let operands = call
            .args
            .iter()
            .map(|a| {
                Some(match a.as_ref()? {
                    ArgIds::One(v) => Operand::One(bind(v)),
                    ArgIds::Many(vs) => Operand::Many(vs.iter().map(bind).collect()),
                })
            })
            .collect();
        eval(&Args { def: call.op, operands })
            .map_err(|e| Error::eval(format!("op `{}` (`{label}`): {e}", call.op.name)))
    }

    fn actual_type(&self, id: ValueId, values: &[Option<Value>]) -> Type {
        match &values[id.index()] {
            Some(Value::Tensor(t)) => t.ty().into(),
            _ => self.function.value(id).ty.clone(),
        }
    }
}

/// Whether a tensor is of a declared type, whose unknown sizes it may fill.
fn fits(t: &Tensor, ty: &Type) -> bool {
    let Type::Tensor(ty) = ty else { return false };
    t.dtype() == ty.dtype
        && t.rank() == ty.shape.len()
        && t.shape().iter().zip(&ty.shape).all(|(&n, d)| *d == Dim::Any || d.fixed() == Some(n))
}
