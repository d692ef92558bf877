//! The reference interpreter: runs a program call by call, exactly and slowly.
//!
//! It is the definition of the ops: every device is tested against it. Each op computes in f64 (or in whole
//! numbers) and rounds its result once to the declared type.
//!
//! States live from run to run and begin as zeros. A run that fails leaves them as they were.

use crate::error::{Error, Result};
use crate::ir::{BlobRef, TensorType, Type, shapes_agree};
use crate::ops::{Args, Bound, Eval, EvalFn, OpError, Operand, Value, infer};
use crate::tensor::Tensor;
use crate::valid::{ArgIds, Origin, ValidBlock, ValidCall, ValidFunction, ValidProgram, ValueId};
use crate::weights::Weights;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The rounds that all loops of one run may take together; a run that needs more fails, because it may never end.
pub const MAX_ITERATIONS: usize = 100_000;

/// The elements that one value may have, 8 GiB of them; an op that gives more fails.
pub const MAX_ELEMENTS: usize = 1 << 30;

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
    /// The states, as they were after the last run.
    states: Vec<(ValueId, Tensor)>,
}

impl<'a> Interpreter<'a> {
    /// Of the program's main function.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`, or a state has no fixed shape.
    pub fn new(program: &'a ValidProgram, weights: &Weights) -> Result<Interpreter<'a>> {
        Interpreter::of(program.main(), weights)
    }

    /// Of any function.
    ///
    /// # Errors
    ///
    /// As [`Interpreter::new`].
    pub fn of(function: &'a ValidFunction, weights: &Weights) -> Result<Interpreter<'a>> {
        // Constants may share a record, which then is decoded once.
        let mut records: HashMap<(&BlobRef, &TensorType), Tensor> = HashMap::new();
        let constants = function
            .values
            .iter()
            .map(|v| match (&v.origin, &v.ty) {
                (Origin::Constant(c), _) => Ok(Some(c.clone())),
                (Origin::Blob(b), Type::Tensor(ty)) => Ok(Some(match records.entry((b, ty)) {
                    Entry::Occupied(there) => there.get().clone().into(),
                    Entry::Vacant(place) => place.insert(weights.resolve(b, ty)?).clone().into(),
                })),
                (Origin::Blob(_), ty) => {
                    Err(Error::weights(format!("`{}` has type {ty}, expected a tensor", v.name)))
                }
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        let states = function
            .inputs
            .iter()
            .filter_map(|&id| match &function.value(id).ty {
                Type::State(ty) => Some((id, ty)),
                _ => None,
            })
            .map(|(id, ty)| match (ty.fixed_shape(), ty.n_elements()) {
                (Some(shape), Some(0..=MAX_ELEMENTS)) => Ok((id, Tensor::zeros(ty.dtype, &shape))),
                _ => {
                    let name = &function.value(id).name;
                    Err(Error::eval(format!(
                        "state `{name}` has type {ty}, expected a fixed shape of at most {MAX_ELEMENTS} elements"
                    )))
                }
            })
            .collect::<Result<_>>()?;
        Ok(Interpreter { function, constants, states })
    }

    /// What a state holds; `None` if the function has no state of that name.
    pub fn state(&self, name: &str) -> Option<&Tensor> {
        self.states.iter().find(|(id, _)| self.function.value(*id).name == name).map(|(_, t)| t)
    }

    /// Writes a state.
    ///
    /// # Errors
    ///
    /// If the function has no state of that name, or it has another type.
    pub fn set_state(&mut self, name: &str, value: Tensor) -> Result<()> {
        let f = self.function;
        let Some((_, state)) = self.states.iter_mut().find(|(id, _)| f.value(*id).name == name) else {
            return Err(Error::eval(format!("function `{}` has no state `{name}`", f.name)));
        };
        if value.ty() != state.ty() {
            return Err(Error::eval(format!("state `{name}` has type {}, got {}", state.ty(), value.ty())));
        }
        *state = value;
        Ok(())
    }

    /// The outputs for these inputs, both in the order of the program; states are no inputs here.
    ///
    /// # Errors
    ///
    /// If the inputs are not those the program declares, an op cannot be computed on them, or the loops take more
    /// than [`MAX_ITERATIONS`].
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let f = self.function;
        let declared: Vec<ValueId> =
            f.inputs.iter().copied().filter(|&id| !matches!(f.value(id).ty, Type::State(_))).collect();
        if inputs.len() != declared.len() {
            return Err(Error::eval(format!(
                "function `{}` takes {} inputs, got {}",
                f.name,
                declared.len(),
                inputs.len()
            )));
        }
        let mut values = self.constants.clone();
        for (id, t) in declared.into_iter().zip(inputs) {
            let v = f.value(id);
            let value = Value::Tensor(t.clone());
            if !fits(&value, &v.ty) {
                return Err(Error::eval(format!("input `{}` has type {}, expected {}", v.name, t.ty(), v.ty)));
            }
            values[id.index()] = Some(value);
        }
        for (id, t) in &self.states {
            values[id.index()] = Some(t.clone().into());
        }
        let mut run = Run { function: f, values, n_iterations: 0 };
        run.block(&f.body)?;
        let outputs = f.outputs.iter().map(|&id| run.tensor(id).cloned()).collect::<Result<_>>()?;
        for (id, t) in &mut self.states {
            *t = run.tensor(*id)?.clone();
        }
        Ok(outputs)
    }
}

/// One run of a function.
struct Run<'a> {
    function: &'a ValidFunction,
    /// What is known so far; a state is the tensor it holds.
    values: Vec<Option<Value>>,
    n_iterations: usize,
}

impl Run<'_> {
    fn tensor(&self, id: ValueId) -> Result<&Tensor> {
        match &self.values[id.index()] {
            Some(Value::Tensor(t)) => Ok(t),
            _ => Err(Error::eval(format!("`{}` is no tensor", self.function.value(id).name))),
        }
    }

    fn block(&mut self, block: &ValidBlock) -> Result<()> {
        for call in &block.calls {
            let outputs = match call.op.eval {
                Eval::By(eval) => self.call(call, eval)?,
                Eval::Interpreter => self.control(call)?,
                Eval::No(why) => {
                    let label = self.function.label(call);
                    return Err(Error::eval(format!("op `{}` (`{label}`) cannot be run: {why}", call.op.name)));
                }
            };
            self.define(&call.outputs, outputs)?;
        }
        Ok(())
    }

    /// Gives values to what a call or a block declares.
    fn define(&mut self, ids: &[ValueId], values: Vec<Value>) -> Result<()> {
        for (&id, value) in ids.iter().zip(values) {
            let v = self.function.value(id);
            if !fits(&value, &v.ty) {
                let came = match value {
                    Value::Tensor(t) => t.ty().to_string(),
                    Value::List(_) => "a list of other elements".into(),
                };
                return Err(Error::eval(format!("`{}` is declared as {}, but is {came}", v.name, v.ty)));
            }
            self.values[id.index()] = Some(value);
        }
        Ok(())
    }

    fn call(&self, call: &ValidCall, eval: EvalFn) -> Result<Vec<Value>> {
        // The types as they are at run time: sizes that the program leaves open are known here.
        let at_run_time = |id: &ValueId| match (&self.values[id.index()], &self.function.value(*id).ty) {
            (Some(Value::Tensor(t)), Type::State(_)) => Type::State(t.ty()),
            (Some(Value::Tensor(t)), _) => t.ty().into(),
            (_, declared) => declared.clone(),
        };
        let types: Vec<Vec<Type>> =
            call.args.iter().map(|a| a.iter().flat_map(|a| a.ids()).map(at_run_time).collect()).collect();
        let operands = call
            .args
            .iter()
            .zip(&types)
            .map(|(a, types)| {
                let bound = a.as_ref()?.ids().iter().zip(types).map(|(id, ty)| Bound {
                    ty,
                    value: self.values[id.index()].as_ref(),
                    constant: self.function.value(*id).is_constant(),
                });
                let bound: Vec<Bound<'_>> = bound.collect();
                Some(if let Some(ArgIds::One(_)) = a { Operand::One(bound[0]) } else { Operand::Many(bound) })
            })
            .collect();
        let args = Args { def: call.op, operands };
        // Work goes by the sizes of axes even where one of them is 0.
        let n_places = |shape: Vec<usize>| shape.iter().fold(1usize, |n, &d| n.saturating_mul(d.max(1)));
        let too_large = |t: &&TensorType| t.fixed_shape().is_some_and(|shape| n_places(shape) > MAX_ELEMENTS);
        infer(&args)
            .and_then(|types| match types.iter().filter_map(Type::as_tensor).find(too_large) {
                Some(t) => Err(OpError::new(format!("gives {t}, more than {MAX_ELEMENTS} elements"))),
                None => eval(&args),
            })
            .map_err(|e| Error::eval(format!("op `{}` (`{}`): {e}", call.op.name, self.function.label(call))))
    }

    /// The ops that are about blocks and states.
    fn control(&mut self, call: &ValidCall) -> Result<Vec<Value>> {
        // Validation has seen to the number of blocks and to arguments being there.
        let arg = |name: &str| {
            let place = call.op.param(name).and_then(|(place, _)| call.args[place].as_ref());
            place.map(ArgIds::ids).unwrap_or_default()
        };
        match (call.op.name, &call.blocks[..]) {
            ("cond", [yes, no]) => {
                let pred = self.tensor(arg("pred")[0])?.ints() == Some(&[1]);
                self.nested(if pred { yes } else { no }, Vec::new())
            }
            ("while_loop", [cond, body]) => {
                let mut vars = self.values_of(arg("loop_vars"));
                loop {
                    self.nested(cond, vars.clone())?;
                    if self.tensor(cond.outputs[0])?.ints() != Some(&[1]) {
                        return Ok(vars);
                    }
                    self.n_iterations += 1;
                    if self.n_iterations > MAX_ITERATIONS {
                        return Err(Error::eval(format!(
                            "op `while_loop` (`{}`) goes on after {MAX_ITERATIONS} rounds of the loops of this run, \
                             the most that are allowed: does its condition ever become false?",
                            self.function.label(call)
                        )));
                    }
                    vars = self.nested(body, vars)?;
                }
            }
            ("write_state", _) => self.write_state(arg("input")[0], arg("data")[0]).map(|_| Vec::new()),
            ("coreml_update_state", _) => Ok(vec![self.write_state(arg("state")[0], arg("value")[0])?]),
            (name, _) => Err(Error::eval(format!("op `{name}` cannot be run"))),
        }
    }

    /// Runs a nested block on what its parameters are to be.
    fn nested(&mut self, block: &ValidBlock, params: Vec<Value>) -> Result<Vec<Value>> {
        self.define(&block.params, params)?;
        self.block(block)?;
        Ok(self.values_of(&block.outputs))
    }

    fn values_of(&self, ids: &[ValueId]) -> Vec<Value> {
        // Values are defined before they are used.
        ids.iter().filter_map(|id| self.values[id.index()].clone()).collect()
    }

    fn write_state(&mut self, state: ValueId, value: ValueId) -> Result<Value> {
        let value = Value::Tensor(self.tensor(value)?.clone());
        self.define(&[state], vec![value.clone()])?;
        Ok(value)
    }
}

/// Whether a value is of a declared type, whose unknown sizes it may fill. Lists grow, so their length is free.
fn fits(value: &Value, ty: &Type) -> bool {
    match (value, ty) {
        (Value::Tensor(t), Type::Tensor(ty) | Type::State(ty)) => {
            t.dtype() == ty.dtype && shapes_agree(&t.ty().shape, &ty.shape)
        }
        (Value::List(items), Type::List(ty, _)) => items.iter().all(|t| fits(&Value::Tensor(t.clone()), ty)),
        _ => false,
    }
}
