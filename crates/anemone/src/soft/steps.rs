//! The steps a plan is made of, and how each runs.

use super::kernels::{self, Gemm};
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType, Type};
use anemone_mil::ops::{Args, Bound, Eval, Operand, Value};
use anemone_mil::tensor::Tensor;
use anemone_mil::valid::ValidCall;
use std::ops::Range;

/// What a plan runs in. Each kernel has its own.
pub(crate) struct Memory {
    pub(super) floats: Vec<f32>,
    pub(super) others: Vec<Option<Value>>,
    /// Room for transposed operands.
    pub(super) scratch: Vec<f32>,
}

/// Where the elements of an operand are found, for each element of the result.
pub(super) enum Access {
    /// At the same place.
    Same,
    /// At one place.
    Scalar,
    /// At these places.
    Indexed(Box<[u32]>),
}

pub(super) enum Step {
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

pub(super) struct Product {
    pub(super) shape: Gemm,
    pub(super) a: Range<usize>,
    pub(super) b: Range<usize>,
    /// Whether the operand lies transposed.
    pub(super) transposed: (bool, bool),
    /// For each product of the batch, the offsets of its operands.
    pub(super) batch: Box<[(usize, usize)]>,
    pub(super) init: Option<Range<usize>>,
    pub(super) out: Range<usize>,
    pub(super) fp16: bool,
}

pub(super) struct Reference {
    pub(super) call: ValidCall,
    pub(super) label: String,
    pub(super) args: Vec<Option<Vec<(Place, Type)>>>,
    pub(super) outputs: Vec<(Place, TensorType)>,
}

/// Where a value lies.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Floats(Range<usize>),
    Other(usize),
}

#[derive(Clone, Copy)]
pub(super) enum Unary {
    Copy,
    Relu,
    Sigmoid,
    Tanh,
    Square,
}

#[derive(Clone, Copy)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Greater,
    Less,
}

#[derive(Clone, Copy)]
pub(super) enum Reduction {
    Sum,
    Mean,
}

/// Which output each element of the input is summed into.
pub(super) enum Groups {
    /// All into one.
    All,
    Of(Box<[u32]>),
}

impl Step {
    pub(super) fn run(&self, memory: &mut Memory) -> Result<()> {
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
        let Gemm { m, k, n, .. } = self.shape;
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
