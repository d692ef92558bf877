//! From a validated function to steps over memory: planned once, run without allocating.

use super::kernels::Gemm;
use super::steps::*;
use crate::error::{Error, Result};
use anemone_mil::Weights;
use anemone_mil::ir::{DType, TensorType, Type};
use anemone_mil::ops::{Eval, Value};
use anemone_mil::tensor::Tensor;
use anemone_mil::valid::{ArgIds, Origin, ValidCall, ValidFunction, ValueId};
use std::ops::Range;

/// The steps of a function, and where its values lie.
pub(crate) struct Plan {
    inputs: Vec<(String, Type)>,
    outputs: Vec<(String, Type)>,
    input_slots: Vec<Range<usize>>,
    output_slots: Vec<Range<usize>>,
    steps: Vec<Step>,
    /// Where the steps of each part end.
    parts: Vec<usize>,
    /// Memory as it is before the first run: constants in place, the rest 0.
    start: Vec<f32>,
    /// The values that are no floats and no booleans, by number; only [`Step::Reference`] touches them.
    others: Vec<Option<Value>>,
    n_scratch: usize,
}

impl Plan {
    /// Plans a function whose inputs and outputs have fixed shapes.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`, a shape is unknown, the program is too large for 32-bit places, or an op
    /// cannot be run.
    pub(crate) fn new(f: &ValidFunction, weights: &Weights) -> Result<Plan> {
        Plan::in_parts(f, weights, &[f.body.calls.len()])
    }

    /// As [`new`](Plan::new), to be run in parts: the first of them is the first `ends[0]` calls, the next those up to
    /// `ends[1]`, and so on. Inputs keep their values from part to part and from run to run.
    ///
    /// # Errors
    ///
    /// As [`new`](Plan::new).
    pub(crate) fn in_parts(f: &ValidFunction, weights: &Weights, ends: &[usize]) -> Result<Plan> {
        Planner::new(f)?.plan(weights, ends)
    }

    /// Bytes of the memory it runs in.
    pub(crate) fn n_bytes(&self) -> usize {
        (self.start.len() + self.n_scratch) * size_of::<f32>()
    }

    /// Name and type of each input.
    pub(crate) fn inputs(&self) -> &[(String, Type)] {
        &self.inputs
    }

    /// Name and type of each output.
    pub(crate) fn outputs(&self) -> &[(String, Type)] {
        &self.outputs
    }

    /// Memory to run in.
    pub(crate) fn memory(&self) -> Memory {
        Memory { floats: self.start.clone(), others: self.others.clone(), scratch: vec![0.0; self.n_scratch] }
    }

    /// Runs all steps on what lies in the inputs.
    ///
    /// # Errors
    ///
    /// If an op without a step of its own fails on these values.
    pub(crate) fn run(&self, memory: &mut Memory) -> Result<()> {
        for step in &self.steps {
            step.run(memory)?;
        }
        Ok(())
    }

    /// Runs the steps of one part.
    ///
    /// # Errors
    ///
    /// As [`run`](Plan::run).
    pub(crate) fn run_part(&self, part: usize, memory: &mut Memory) -> Result<()> {
        let start = part.checked_sub(1).map_or(0, |p| self.parts[p]);
        for step in &self.steps[start..self.parts[part]] {
            step.run(memory)?;
        }
        Ok(())
    }
}

impl Memory {
    /// The elements of an input, to be written before a run; fp16 inputs take numbers on the fp16 grid.
    pub(crate) fn input_mut(&mut self, plan: &Plan, index: usize) -> &mut [f32] {
        &mut self.floats[plan.input_slots[index].clone()]
    }

    /// Writes an input from f32.
    pub(crate) fn write_input(&mut self, plan: &Plan, index: usize, values: &[f32]) {
        self.input_mut(plan, index).copy_from_slice(values);
    }

    /// The elements of an input.
    pub(crate) fn input(&self, plan: &Plan, index: usize) -> &[f32] {
        &self.floats[plan.input_slots[index].clone()]
    }

    /// The elements of an output, after a run.
    pub(crate) fn output(&self, plan: &Plan, index: usize) -> &[f32] {
        &self.floats[plan.output_slots[index].clone()]
    }
}

/// Plans one function.
struct Planner<'a> {
    f: &'a ValidFunction,
    places: Vec<Option<Place>>,
    start: Vec<f32>,
    n_others: usize,
    others: Vec<Option<Value>>,
    steps: Vec<Step>,
    n_scratch: usize,
}

/// Places are kept in 32 bits.
const MAX_FLOATS: usize = u32::MAX as usize;

impl<'a> Planner<'a> {
    fn new(f: &'a ValidFunction) -> Result<Planner<'a>> {
        // The whole size is known before any of it is taken.
        let sizes = f
            .values
            .iter()
            .filter_map(|v| v.ty.as_tensor())
            .filter(|t| in_floats(t.dtype))
            .map(|t| t.n_elements());
        let total = sizes.into_iter().try_fold(0usize, |n, m| n.checked_add(m?));
        match total {
            Some(total) if total <= MAX_FLOATS => {}
            Some(total) => {
                return Err(Error::config(format!(
                    "the program's values have {total} elements, at most {MAX_FLOATS} fit"
                )));
            }
            None => {
                return Err(Error::config("the program has values whose shape is not known when it is compiled"));
            }
        }
        Ok(Planner {
            f,
            places: vec![None; f.values.len()],
            start: Vec::new(),
            n_others: 0,
            others: Vec::new(),
            steps: Vec::new(),
            n_scratch: 0,
        })
    }

    fn plan(mut self, weights: &Weights, ends: &[usize]) -> Result<Plan> {
        let f = self.f;
        for (i, v) in f.values.iter().enumerate() {
            let constant = match (&v.origin, &v.ty) {
                (Origin::Constant(c), _) => Some(c.clone()),
                (Origin::Blob(blob), Type::Tensor(ty)) => {
                    if let Some(range) = self.blob(weights, blob, ty)? {
                        self.places[i] = Some(Place::Floats(range));
                        continue;
                    }
                    Some(weights.resolve(blob, ty)?.into())
                }
                (Origin::Input, _) => None,
                _ => continue,
            };
            self.places[i] = Some(self.place(&v.ty, constant));
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for &end in ends {
            for call in &f.body.calls[start..end] {
                self.call(call)?;
            }
            parts.push(self.steps.len());
            start = end;
        }
        let slots = |ids: &[ValueId]| {
            let slot = |&id: &ValueId| {
                let v = f.value(id);
                let what = || format!("`{}` is {}; inputs and outputs are floating-point tensors", v.name, v.ty);
                self.range(id).ok_or_else(|| Error::config(what()))
            };
            ids.iter().map(slot).collect::<Result<Vec<_>>>()
        };
        let named =
            |ids: &[ValueId]| ids.iter().map(|&v| (f.value(v).name.clone(), f.value(v).ty.clone())).collect();
        Ok(Plan {
            input_slots: slots(&f.inputs)?,
            output_slots: slots(&f.outputs)?,
            inputs: named(&f.inputs),
            outputs: named(&f.outputs),
            steps: self.steps,
            parts,
            start: self.start,
            others: self.others,
            n_scratch: self.n_scratch,
        })
    }

    /// fp16 and fp32 constants go straight from the file to their place.
    fn blob(
        &mut self,
        weights: &Weights,
        blob: &anemone_mil::ir::BlobRef,
        ty: &TensorType,
    ) -> Result<Option<Range<usize>>> {
        let start = self.start.len();
        let bytes = weights.record(blob)?.bytes_as(ty)?;
        match ty.dtype {
            DType::Fp16 => {
                self.start.extend(bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()))
            }
            DType::Fp32 => self.start.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            _ => return Ok(None),
        }
        Ok(Some(start..self.start.len()))
    }

    /// A new place for a value, holding `value` from the start if that is known.
    fn place(&mut self, ty: &Type, value: Option<Value>) -> Place {
        match (ty, value) {
            (Type::Tensor(t), value) if in_floats(t.dtype) => {
                let start = self.start.len();
                match value {
                    Some(Value::Tensor(t)) => self.start.extend(t.to_f64s().into_iter().map(|x| x as f32)),
                    _ => self.start.resize(start + t.n_elements().unwrap_or(0), 0.0),
                }
                Place::Floats(start..self.start.len())
            }
            (_, value) => {
                self.others.push(value);
                self.n_others += 1;
                Place::Other(self.n_others - 1)
            }
        }
    }

    fn range(&self, id: ValueId) -> Option<Range<usize>> {
        match &self.places[id.index()] {
            Some(Place::Floats(r)) => Some(r.clone()),
            _ => None,
        }
    }

    fn are_fp16(&self, ids: &[ValueId]) -> bool {
        ids.iter().all(|&id| self.f.value(id).ty.as_tensor().is_some_and(|t| t.dtype == DType::Fp16))
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.f.value(id).ty.as_tensor().and_then(|t| t.fixed_shape()).unwrap_or_default()
    }

    fn arg(&self, call: &ValidCall, name: &str) -> Option<ValueId> {
        let (place, _) = call.op.param(name)?;
        match call.args[place].as_ref()? {
            ArgIds::One(v) => Some(*v),
            ArgIds::Many(_) => None,
        }
    }

    fn constant(&self, call: &ValidCall, name: &str) -> Option<&Tensor> {
        match self.f.value(self.arg(call, name)?).constant()? {
            Value::Tensor(t) => Some(t),
            Value::List(_) => None,
        }
    }

    fn ints(&self, call: &ValidCall, name: &str) -> Option<&[i64]> {
        self.constant(call, name)?.ints()
    }

    /// Plans a call: by a step of its own if the op has one for these operands, else by its definition.
    fn call(&mut self, call: &ValidCall) -> Result<()> {
        if self.fast(call).is_some() {
            return Ok(());
        }
        let label = self.f.label(call).to_string();
        if let Eval::No(why) = call.op.eval {
            return Err(Error::config(format!("op `{}` (`{label}`) cannot be run: {why}", call.op.name)));
        }
        if !matches!(call.op.eval, Eval::By(_)) {
            return Err(Error::config(format!(
                "op `{}` (`{label}`) does not run on the software engine",
                call.op.name
            )));
        }
        let mut outputs = Vec::new();
        for &id in &call.outputs {
            let Type::Tensor(ty) = &self.f.value(id).ty else {
                return Err(Error::config(format!("op `{}` (`{label}`) gives no tensor", call.op.name)));
            };
            let place = self.place(&self.f.value(id).ty, None);
            self.places[id.index()] = Some(place.clone());
            outputs.push((place, ty.clone()));
        }
        let args = call
            .args
            .iter()
            .map(|a| {
                let of = |id: &ValueId| Some((self.places[id.index()].clone()?, self.f.value(*id).ty.clone()));
                a.as_ref()?.ids().iter().map(of).collect()
            })
            .collect();
        self.steps.push(Step::Reference(Box::new(Reference { call: call.clone(), label, args, outputs })));
        Ok(())
    }

    /// Plans a call by a step of its own; `None` if there is none for it.
    fn fast(&mut self, call: &ValidCall) -> Option<()> {
        let [output] = call.outputs[..] else { return None };
        let fp16 = match self.f.value(output).ty.as_tensor()?.dtype {
            DType::Fp16 => true,
            DType::Fp32 | DType::Bool => false,
            _ => return None,
        };
        match call.op.name {
            "identity" | "reshape" | "expand_dims" | "squeeze" => {
                // The same elements: the same place.
                let x = self.range(self.arg(call, "x")?)?;
                self.places[output.index()] = Some(Place::Floats(x));
            }
            "cast" => {
                let x = self.arg(call, "x")?;
                let from = self.f.value(x).ty.as_tensor()?.dtype;
                let x = self.range(x)?;
                match (from, fp16) {
                    (DType::Fp16 | DType::Fp32 | DType::Bool, _)
                        if self.f.value(output).ty.as_tensor()?.dtype == DType::Bool =>
                    {
                        return None;
                    }
                    (DType::Fp32, true) => self.unary(output, Unary::Copy, x, true),
                    (DType::Fp16 | DType::Fp32 | DType::Bool, _) => {
                        self.places[output.index()] = Some(Place::Floats(x))
                    }
                    _ => return None,
                }
            }
            "relu" | "sigmoid" | "tanh" | "square" => {
                let x = self.range(self.arg(call, "x")?)?;
                let op = match call.op.name {
                    "relu" => Unary::Relu,
                    "sigmoid" => Unary::Sigmoid,
                    "tanh" => Unary::Tanh,
                    _ => Unary::Square,
                };
                self.unary(output, op, x, fp16);
            }
            "add" | "sub" | "mul" | "real_div" | "greater" | "less" => {
                let op = match call.op.name {
                    "add" => Binary::Add,
                    "sub" => Binary::Sub,
                    "mul" => Binary::Mul,
                    "real_div" => Binary::Div,
                    "greater" => Binary::Greater,
                    _ => Binary::Less,
                };
                let shape = self.shape(output);
                let x = self.access(self.arg(call, "x")?, &shape)?;
                let y = self.access(self.arg(call, "y")?, &shape)?;
                let out = self.output(output)?;
                self.steps.push(Step::Binary { op, x, y, out, fp16 });
            }
            "select" => {
                let shape = self.shape(output);
                let cond = self.access(self.arg(call, "cond")?, &shape)?;
                let a = self.access(self.arg(call, "a")?, &shape)?;
                let b = self.access(self.arg(call, "b")?, &shape)?;
                let out = self.output(output)?;
                self.steps.push(Step::Select { cond, a, b, out });
            }
            "transpose" => {
                let x = self.arg(call, "x")?;
                let (range, shape) = (self.range(x)?, self.shape(x));
                let steps = strides(&shape);
                let perm: Vec<usize> = self
                    .ints(call, "perm")?
                    .iter()
                    .map(|&p| if p < 0 { p + shape.len() as i64 } else { p } as usize)
                    .collect();
                let moved: Vec<usize> = perm.iter().map(|&p| steps[p]).collect();
                let index = places(&self.shape(output), &moved);
                let out = self.output(output)?;
                self.steps.push(Step::Pick { x: range, index, out });
            }
            "fill" => {
                let value = self.constant(call, "value")?.to_f64s().first().copied()? as f32;
                let out = self.output(output)?;
                self.start[out].fill(value);
            }
            "reduce_sum" | "reduce_mean" => {
                let x = self.arg(call, "x")?;
                let (range, shape) = (self.range(x)?, self.shape(x));
                let rank = shape.len();
                let axes: Vec<usize> = match self.arg(call, "axes") {
                    Some(_) => self
                        .ints(call, "axes")?
                        .iter()
                        .map(|&a| if a < 0 { a + rank as i64 } else { a } as usize)
                        .collect(),
                    None => (0..rank).collect(),
                };
                let mut moved = vec![0; rank];
                let mut step = 1;
                for axis in (0..rank).rev().filter(|a| !axes.contains(a)) {
                    moved[axis] = step;
                    step *= shape[axis];
                }
                let op = if call.op.name == "reduce_sum" { Reduction::Sum } else { Reduction::Mean };
                let out = self.output(output)?;
                let groups = if out.len() == 1 { Groups::All } else { Groups::Of(places(&shape, &moved)) };
                self.steps.push(Step::Reduce { op, x: range, groups, out, fp16 });
            }
            "conv" => self.conv(call, output, fp16)?,
            "matmul" => self.matmul(call, output, fp16)?,
            _ => return None,
        }
        Some(())
    }

    /// A new place for the floats of an output.
    fn output(&mut self, id: ValueId) -> Option<Range<usize>> {
        let place = self.place(&self.f.value(id).ty, None);
        self.places[id.index()] = Some(place);
        self.range(id)
    }

    fn unary(&mut self, output: ValueId, op: Unary, x: Range<usize>, fp16: bool) {
        if let Some(out) = self.output(output) {
            self.steps.push(Step::Unary { op, x, out, fp16 });
        }
    }

    /// How the elements of a value are found when it is broadcast to `shape`.
    fn access(&self, id: ValueId, shape: &[usize]) -> Option<(Range<usize>, Access)> {
        let (range, own) = (self.range(id)?, self.shape(id));
        let access = if own == shape {
            Access::Same
        } else if range.len() == 1 {
            Access::Scalar
        } else {
            let lead = shape.len() - own.len();
            let mut moved = vec![0; shape.len()];
            for (i, s) in strides(&own).into_iter().enumerate() {
                moved[lead + i] = if own[i] == 1 { 0 } else { s };
            }
            Access::Indexed(places(shape, &moved))
        };
        Some((range, access))
    }

    /// A 1x1 convolution without strides, padding and groups is a matrix product.
    fn conv(&mut self, call: &ValidCall, output: ValueId, fp16: bool) -> Option<()> {
        let (x, w) = (self.arg(call, "x")?, self.arg(call, "weight")?);
        let (xs, ws, ys) = (self.shape(x), self.shape(w), self.shape(output));
        let ones = |name| self.ints(call, name).is_none_or(|s| s.iter().all(|&s| s == 1));
        if ws[2..].iter().any(|&k| k != 1) || xs[2..] != ys[2..] || !ones("strides") || !ones("groups") {
            return None;
        }
        let size: usize = xs[2..].iter().product();
        let shape = Gemm { m: ws[0], k: ws[1], n: size, exact: self.are_fp16(&[x, w]) };
        let (a, b) = (self.range(w)?, self.range(x)?);
        let init = match self.arg(call, "bias") {
            Some(bias) => Some(self.range(bias)?),
            None => None,
        };
        let batch = (0..xs[0]).map(|i| (0, i * ws[1] * size)).collect();
        let out = self.output(output)?;
        self.steps.push(Step::Product(Box::new(Product {
            shape,
            a,
            b,
            transposed: (false, false),
            batch,
            init,
            out,
            fp16,
        })));
        Some(())
    }

    fn matmul(&mut self, call: &ValidCall, output: ValueId, fp16: bool) -> Option<()> {
        let (x, y) = (self.arg(call, "x")?, self.arg(call, "y")?);
        let (xs, ys) = (self.shape(x), self.shape(y));
        if xs.len() < 2 || ys.len() < 2 {
            return None;
        }
        let flag = |name| self.ints(call, name).is_some_and(|f| f == [1]);
        let transposed = (flag("transpose_x"), flag("transpose_y"));
        let (rows, columns) = (xs[xs.len() - 2], xs[xs.len() - 1]);
        let (m, k) = if transposed.0 { (columns, rows) } else { (rows, columns) };
        let n = ys[ys.len() - if transposed.1 { 2 } else { 1 }];
        let outer = self.shape(output);
        let outer = &outer[..outer.len() - 2];
        let offsets = |own: &[usize], size: usize| {
            let own = &own[..own.len() - 2];
            let lead = outer.len() - own.len();
            let mut moved = vec![0; outer.len()];
            for (i, s) in strides(own).into_iter().enumerate() {
                moved[lead + i] = if own[i] == 1 { 0 } else { s * size };
            }
            places(outer, &moved)
        };
        let batch = offsets(&xs, m * k)
            .iter()
            .zip(&offsets(&ys, k * n))
            .map(|(&a, &b)| (a as usize, b as usize))
            .collect();
        let (a, b) = (self.range(x)?, self.range(y)?);
        let out = self.output(output)?;
        self.n_scratch = self.n_scratch.max(m * k + k * n);
        let shape = Gemm { m, k, n, exact: self.are_fp16(&[x, y]) };
        self.steps.push(Step::Product(Box::new(Product {
            shape,
            a,
            b,
            transposed,
            batch,
            init: None,
            out,
            fp16,
        })));
        Some(())
    }
}

/// Whether values of a type are kept as f32. Integers are not: beyond 2^24 f32 has gaps.
fn in_floats(dtype: DType) -> bool {
    matches!(dtype, DType::Fp16 | DType::Fp32 | DType::Bool)
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// For each element of `shape` in order, the place that moving by `steps` along its axes leads to.
fn places(shape: &[usize], steps: &[usize]) -> Box<[u32]> {
    let n = shape.iter().product();
    let mut out = Vec::with_capacity(n);
    let mut at = 0usize;
    let mut coordinate = vec![0; shape.len()];
    for _ in 0..n {
        // The planner has checked that all places fit.
        out.push(at as u32);
        for axis in (0..shape.len()).rev() {
            coordinate[axis] += 1;
            at += steps[axis];
            if coordinate[axis] < shape[axis] {
                break;
            }
            at -= steps[axis] * shape[axis];
            coordinate[axis] = 0;
        }
    }
    out.into()
}
