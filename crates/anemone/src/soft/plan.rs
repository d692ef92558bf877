//! From a validated function to steps over memory: planned once, run without allocating.

use super::kernels::{self, Gemm};
use crate::error::{Error, Result};
use anemone_mil::Weights;
use anemone_mil::ir::{DType, TensorType, Type};
use anemone_mil::ops::{Args, Bound, Eval, Operand, Value};
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
    /// Memory as it is before the first run: constants in place, the rest 0.
    start: Vec<f32>,
    /// The values that are no floats and no booleans, by number; only [`Step::Reference`] touches them.
    others: Vec<Option<Value>>,
    n_scratch: usize,
}

/// What a plan runs in. Each kernel has its own.
pub(crate) struct Memory {
    floats: Vec<f32>,
    others: Vec<Option<Value>>,
    /// Room for transposed operands.
    scratch: Vec<f32>,
}

/// Where the elements of an operand are found, for each element of the result.
enum Access {
    /// At the same place.
    Same,
    /// At one place.
    Scalar,
    /// At these places.
    Indexed(Box<[u32]>),
}

enum Step {
    /// `out[batch] = A[batch] B[batch]`, started from `init` along the rows.
    Product(Box<Product>),
    Unary {
        op: Unary,
        x: Range<usize>,
        out: Range<usize>,
        fp16: bool,
    },
    Binary {
        op: Binary,
        x: (Range<usize>, Access),
        y: (Range<usize>, Access),
        out: Range<usize>,
        fp16: bool,
    },
    Select {
        cond: (Range<usize>, Access),
        a: (Range<usize>, Access),
        b: (Range<usize>, Access),
        out: Range<usize>,
    },
    /// Elements of `x` in another order, or some of them.
    Pick {
        x: Range<usize>,
        index: Box<[u32]>,
        out: Range<usize>,
    },
    Reduce {
        op: Reduction,
        x: Range<usize>,
        groups: Groups,
        out: Range<usize>,
        fp16: bool,
    },
    /// Whatever has no step of its own: the op's definition.
    Reference(Box<Reference>),
}

struct Product {
    shape: Gemm,
    a: Range<usize>,
    b: Range<usize>,
    /// Whether the operand lies transposed.
    transposed: (bool, bool),
    /// For each product of the batch, the offsets of its operands.
    batch: Box<[(usize, usize)]>,
    init: Option<Range<usize>>,
    out: Range<usize>,
    fp16: bool,
}

struct Reference {
    call: ValidCall,
    label: String,
    args: Vec<Option<Vec<(Place, Type)>>>,
    outputs: Vec<(Place, TensorType)>,
}

/// Where a value lies.
#[derive(Clone, Debug)]
enum Place {
    Floats(Range<usize>),
    Other(usize),
}

#[derive(Clone, Copy)]
enum Unary {
    Copy,
    Relu,
    Sigmoid,
    Tanh,
    Square,
}

#[derive(Clone, Copy)]
enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Greater,
    Less,
}

#[derive(Clone, Copy)]
enum Reduction {
    Sum,
    Mean,
}

/// Which output each element of the input is summed into.
enum Groups {
    /// All into one.
    All,
    Of(Box<[u32]>),
}

impl Plan {
    /// Plans a function whose inputs and outputs have fixed shapes.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`, a shape is unknown, the program is too large for 32-bit places, or an op
    /// cannot be run.
    pub(crate) fn new(f: &ValidFunction, weights: &Weights) -> Result<Plan> {
        Planner::new(f)?.plan(weights)
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
}

impl Memory {
    /// The elements of an input, to be written before a run; fp16 inputs take numbers on the fp16 grid.
    pub(crate) fn input_mut(&mut self, plan: &Plan, index: usize) -> &mut [f32] {
        &mut self.floats[plan.input_slots[index].clone()]
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

    fn plan(mut self, weights: &Weights) -> Result<Plan> {
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
        for call in &f.body.calls {
            self.call(call)?;
        }
        let slots = |ids: &[ValueId]| {
            ids.iter()
                .map(|id| match &self.places[id.index()] {
                    Some(Place::Floats(r))
                        if f.value(*id).ty.as_tensor().is_some_and(|t| t.dtype != DType::Bool) =>
                    {
                        Ok(r.clone())
                    }
                    _ => {
                        let v = f.value(*id);
                        Err(Error::config(format!(
                            "`{}` is {}; inputs and outputs are floating-point tensors",
                            v.name, v.ty
                        )))
                    }
                })
                .collect::<Result<Vec<_>>>()
        };
        let named =
            |ids: &[ValueId]| ids.iter().map(|&v| (f.value(v).name.clone(), f.value(v).ty.clone())).collect();
        Ok(Plan {
            input_slots: slots(&f.inputs)?,
            output_slots: slots(&f.outputs)?,
            inputs: named(&f.inputs),
            outputs: named(&f.outputs),
            steps: self.steps,
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
        let shape = Gemm { m: ws[0], k: ws[1], n: size };
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
        let shape = Gemm { m, k, n };
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

impl Step {
    fn run(&self, memory: &mut Memory) -> Result<()> {
        match self {
            Step::Product(p) => p.run(memory),
            Step::Unary { op, x, out, fp16 } => {
                let (before, out) = split(&mut memory.floats, out);
                let x = &before[x.clone()];
                match op {
                    Unary::Copy => map(x, out, |x| x),
                    Unary::Relu => map(x, out, |x| if x < 0.0 { 0.0 } else { x }),
                    Unary::Sigmoid => map(x, out, |x| 1.0 / (1.0 + (-x).exp())),
                    Unary::Tanh => map(x, out, f32::tanh),
                    Unary::Square => map(x, out, |x| x * x),
                }
                round(out, *fp16);
            }
            Step::Binary { op, x, y, out, fp16 } => {
                let (before, out) = split(&mut memory.floats, out);
                let (x, y) = ((&before[x.0.clone()], &x.1), (&before[y.0.clone()], &y.1));
                match op {
                    Binary::Add => zip(x, y, out, |x, y| x + y),
                    Binary::Sub => zip(x, y, out, |x, y| x - y),
                    Binary::Mul => zip(x, y, out, |x, y| x * y),
                    Binary::Div => zip(x, y, out, |x, y| x / y),
                    Binary::Greater => zip(x, y, out, |x, y| f32::from(u8::from(x > y))),
                    Binary::Less => zip(x, y, out, |x, y| f32::from(u8::from(x < y))),
                }
                round(out, *fp16);
            }
            Step::Select { cond, a, b, out } => {
                let (before, out) = split(&mut memory.floats, out);
                let (c, x, y) = (&before[cond.0.clone()], &before[a.0.clone()], &before[b.0.clone()]);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = if c[cond.1.at(i)] != 0.0 { x[a.1.at(i)] } else { y[b.1.at(i)] };
                }
            }
            Step::Pick { x, index, out } => {
                let (before, out) = split(&mut memory.floats, out);
                let x = &before[x.clone()];
                for (out, &i) in out.iter_mut().zip(index) {
                    *out = x[i as usize];
                }
            }
            Step::Reduce { op, x, groups, out, fp16 } => {
                let (before, out) = split(&mut memory.floats, out);
                let x = &before[x.clone()];
                out.fill(0.0);
                match groups {
                    Groups::All => out[0] = x.iter().sum(),
                    Groups::Of(index) => index.iter().zip(x).for_each(|(&i, &x)| out[i as usize] += x),
                }
                if matches!(op, Reduction::Mean) {
                    let n = (x.len() / out.len().max(1)) as f32;
                    out.iter_mut().for_each(|y| *y /= n);
                }
                round(out, *fp16);
            }
            Step::Reference(r) => r.run(memory)?,
        }
        Ok(())
    }
}

impl Access {
    fn at(&self, i: usize) -> usize {
        match self {
            Access::Same => i,
            Access::Scalar => 0,
            Access::Indexed(index) => index[i] as usize,
        }
    }
}

/// What lies before a step's output, where its operands are, and the output itself.
fn split<'m>(floats: &'m mut [f32], out: &Range<usize>) -> (&'m [f32], &'m mut [f32]) {
    let (before, rest) = floats.split_at_mut(out.start);
    (before, &mut rest[..out.len()])
}

fn round(out: &mut [f32], fp16: bool) {
    if fp16 {
        kernels::round_to_fp16(out);
    }
}

fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x));
}

fn zip(x: (&[f32], &Access), y: (&[f32], &Access), out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (x, y) {
        ((x, Access::Same), (y, Access::Same)) => {
            out.iter_mut().zip(x).zip(y).for_each(|((out, &x), &y)| *out = f(x, y));
        }
        ((x, Access::Same), (y, Access::Scalar)) => map(x, out, |x| f(x, y[0])),
        ((x, Access::Scalar), (y, Access::Same)) => map(y, out, |y| f(x[0], y)),
        ((x, at_x), (y, at_y)) => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = f(x[at_x.at(i)], y[at_y.at(i)]);
            }
        }
    }
}

impl Product {
    fn run(&self, memory: &mut Memory) {
        let (before, out) = split(&mut memory.floats, &self.out);
        let Gemm { m, k, n } = self.shape;
        match &self.init {
            Some(bias) => {
                let rows = before[bias.clone()].iter().cycle();
                out.chunks_exact_mut(n.max(1)).zip(rows).for_each(|(row, &b)| row.fill(b));
            }
            None => out.fill(0.0),
        }
        let (room_a, room_b) = memory.scratch.split_at_mut(if self.transposed.0 { m * k } else { 0 });
        for (&(a, b), out) in self.batch.iter().zip(out.chunks_exact_mut((m * n).max(1))) {
            let a = operand(&before[self.a.start + a..][..m * k], self.transposed.0, (k, m), room_a);
            let b = operand(&before[self.b.start + b..][..k * n], self.transposed.1, (n, k), room_b);
            self.shape.accumulate(a, b, out);
        }
        round(out, self.fp16);
    }
}

/// The operand as it lies, or turned round into `room` if it lies transposed as `[rows, columns]`.
fn operand<'m>(x: &'m [f32], transposed: bool, (rows, columns): (usize, usize), room: &'m mut [f32]) -> &'m [f32] {
    if !transposed {
        return x;
    }
    let room = &mut room[..rows * columns];
    kernels::transpose(x, rows, columns, room);
    room
}

impl Reference {
    fn run(&self, memory: &mut Memory) -> Result<()> {
        let Eval::By(eval) = self.call.op.eval else { return Ok(()) };
        let values: Vec<Option<Vec<Value>>> = self
            .args
            .iter()
            .map(|a| a.as_ref()?.iter().map(|(place, ty)| memory.value(place, ty)).collect())
            .collect();
        let operands = self
            .args
            .iter()
            .zip(&values)
            .zip(self.call.op.params)
            .map(|((a, v), p)| {
                let (a, v) = (a.as_ref()?, v.as_ref()?);
                let bound: Vec<Bound<'_>> =
                    a.iter().zip(v).map(|((_, ty), v)| Bound { ty, value: Some(v), constant: false }).collect();
                Some(if p.variadic { Operand::Many(bound) } else { Operand::One(bound[0]) })
            })
            .collect();
        let failed =
            |what: String| Error::config(format!("op `{}` (`{}`): {what}", self.call.op.name, self.label));
        let results = eval(&Args { def: self.call.op, operands }).map_err(|e| failed(e.to_string()))?;
        for ((place, ty), result) in self.outputs.iter().zip(results) {
            match (place, &result) {
                (Place::Other(i), _) => memory.others[*i] = Some(result),
                (Place::Floats(r), Value::Tensor(t)) if t.ty() == *ty => {
                    let to = &mut memory.floats[r.clone()];
                    match (t.floats(), t.ints()) {
                        (Some(x), _) => to.iter_mut().zip(x).for_each(|(to, &x)| *to = x as f32),
                        (_, Some(x)) => to.iter_mut().zip(x).for_each(|(to, &x)| *to = x as f32),
                        _ => {}
                    }
                }
                _ => return Err(failed(format!("gave something else than the {ty} it declares"))),
            }
        }
        Ok(())
    }
}

impl Memory {
    fn value(&self, place: &Place, ty: &Type) -> Option<Value> {
        match (place, ty) {
            (Place::Other(i), _) => self.others[*i].clone(),
            (Place::Floats(r), Type::Tensor(t)) => {
                let (x, shape) = (&self.floats[r.clone()], t.fixed_shape()?);
                Some(
                    match t.dtype {
                        DType::Bool => {
                            Tensor::int(t.dtype, &shape, x.iter().map(|&x| (x != 0.0).into()).collect())
                        }
                        _ => Tensor::float(t.dtype, &shape, x.iter().map(|&x| x.into()).collect()),
                    }
                    .into(),
                )
            }
            _ => None,
        }
    }
}
