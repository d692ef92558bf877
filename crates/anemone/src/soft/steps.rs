//! The steps a plan is made of, and how each runs.

use super::copy::{self, Copy};
use super::engine;
use super::floats::Floats;
use super::fp16;
use super::gather::Picks;
use super::gemm::Gemm;
use super::memory::Memory;
use super::pointwise::{Chain, MOST_LOADS, MOST_STORES};
use super::product::{How, Operands, Product, Start};
use super::reduce::{Along, Reduce};
use super::threads;
use super::window::{Conv, Pool};
use crate::error::{Error, Result};
use anemone_mil::ir::{TensorType, Type};
use anemone_mil::ops::{Args, Bound, Eval, Operand, Value};
use anemone_mil::valid::ValidCall;
use std::mem::take;
use std::ops::Range;

/// Where the elements of a value lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) kind: PlaceKind,
    pub(super) slot: usize,
    pub(super) range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PlaceKind {
    Floats,
    Ints,
}

/// One step. It never writes into a slot that it reads.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) work: Work,
    pub(super) reads: Vec<Place>,
    pub(super) writes: Vec<Place>,
    /// Whether the results are rounded to fp16; those of a chain and of a reference round themselves.
    pub(super) fp16: bool,
    /// The input it alone depends on, if it runs only when that has been written.
    pub(super) once: Option<usize>,
}

/// What a step does with what it reads.
#[derive(Debug)]
pub(super) enum Work {
    Chain(Chain),
    /// Of A, B and, where sums start from one, a vector.
    Product(Product),
    /// Of the A of such products: laid out as they read it; of an input, perhaps not unless it stays the same for
    /// a second run, as what it was before did.
    Pack {
        shape: Gemm,
        is_lazy: bool,
    },
    Reduce(Reduce),
    Softmax(Along),
    LogSumExp(Along),
    /// Of `x` and, where it has them, gamma and beta.
    LayerNorm {
        along: Along,
        gamma: bool,
        beta: bool,
        epsilon: f32,
    },
    /// Of `x`, weights and, where it has one, a bias.
    Conv(Conv),
    Pool(Pool),
    /// In the engine's arithmetic, whose results are rounded already.
    Engine(engine::Work),
    /// A box of elements of each operand; what none of them covers is filled.
    Copies {
        copies: Vec<Copy>,
        fill: Option<f32>,
    },
    /// Of data and indices.
    Gather(Picks),
    /// Of data, indices and updates.
    Scatter {
        picks: Picks,
        add: bool,
    },
    ToInts,
    ToFloats,
    /// Of two vectors of whole numbers, each one element or as many as the result.
    Ints(IntFunction),
    /// Whatever has no step of its own: the op's definition.
    Reference(Box<Reference>),
}

/// Functions of two whole numbers. Comparisons give floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum IntFunction {
    Add,
    Sub,
    Mul,
    Max,
    Min,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

#[derive(Debug)]
pub(super) struct Reference {
    pub(super) call: ValidCall,
    pub(super) label: String,
    pub(super) args: Vec<Option<Vec<(Holder, Type)>>>,
    pub(super) outputs: Vec<(Holder, TensorType)>,
}

/// Where a reference finds a value: among what the step reads or writes, or beside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder {
    Place(usize),
    Other(usize),
}

impl Step {
    pub(super) fn run(&self, memory: &mut Memory) -> Result<()> {
        if let Work::Reference(r) = &self.work {
            return r.run(self, memory);
        }
        match (&self.work, &self.writes[..]) {
            (Work::Chain(chain), writes) => {
                self.chain(chain, writes, memory);
                Ok(())
            }
            (work, [to]) if to.kind == PlaceKind::Floats => {
                let mut slot = take(&mut memory.floats[to.slot]);
                let out = &mut slot[to.range.clone()];
                let result = self.floats(work, memory, out);
                if self.fp16 && !matches!(work, Work::Product(_)) {
                    fp16::round_all(out);
                }
                memory.floats[to.slot] = slot;
                result
            }
            (work, [to]) => {
                let mut slot = take(&mut memory.ints[to.slot]);
                let result = self.ints(work, memory, &mut slot[to.range.clone()]);
                memory.ints[to.slot] = slot;
                result
            }
            _ => Ok(()),
        }
    }

    fn chain(&self, chain: &Chain, writes: &[Place], memory: &mut Memory) {
        let mut slots: [Floats; MOST_STORES] = Default::default();
        for (slot, to) in slots.iter_mut().zip(writes) {
            *slot = take(&mut memory.floats[to.slot]);
        }
        let mut outs: [&mut [f32]; MOST_STORES] = Default::default();
        for ((out, slot), to) in outs.iter_mut().zip(&mut slots).zip(writes) {
            *out = &mut slot[to.range.clone()];
        }
        let mut loads: [&[f32]; MOST_LOADS] = Default::default();
        for (load, from) in loads.iter_mut().zip(&self.reads) {
            *load = memory.read(from);
        }
        chain.run(&loads, outs);
        for (slot, to) in slots.iter_mut().zip(writes) {
            memory.floats[to.slot] = take(slot);
        }
    }

    /// A step whose result are floats.
    fn floats(&self, work: &Work, memory: &Memory, out: &mut [f32]) -> Result<()> {
        let read = |i: usize| memory.read(&self.reads[i]);
        let maybe = |i: usize| self.reads.get(i).map(|p| memory.read(p));
        match work {
            Work::Product(p) => {
                let is_stale = |(step, input): (usize, usize)| memory.done[step] != memory.versions[input];
                let is_plain = p.packed_by.is_some_and(is_stale);
                let a = if is_plain { read(self.reads.len() - 1) } else { read(0) };
                let start = if p.start == Start::Zero { None } else { maybe(2) };
                let operands = Operands { a, b: read(1), start: start.unwrap_or(&[]) };
                let how = How {
                    packed: p.is_packed && !is_plain,
                    adds: memory.adds && p.accumulates,
                    rounds_b: p.b_input.is_some_and(|i| memory.is_raw[i]),
                    fp16: self.fp16,
                };
                p.run(operands, out, how);
            }
            Work::Pack { shape, .. } => {
                let x = read(0);
                threads::over_units(x.len(), out, shape.n_in_group(), |first, out| {
                    shape.pack(x, first, out);
                });
            }
            Work::Reduce(r) => r.run(read(0), out),
            Work::Softmax(a) => a.softmax(read(0), out),
            Work::LogSumExp(a) => a.log_sum_exp(read(0), out),
            Work::LayerNorm { along, gamma, beta, epsilon } => {
                let g = gamma.then(|| read(1));
                let b = beta.then(|| read(1 + usize::from(*gamma)));
                along.layer_norm(read(0), g, b, *epsilon, out);
            }
            Work::Conv(c) => c.run((read(0), read(1), maybe(2)), out),
            Work::Pool(p) => p.run(read(0), out),
            Work::Engine(w) => w.run([maybe(0), maybe(1), maybe(2)], out),
            Work::Copies { copies, fill } => copy::run_all(copies, *fill, read, out),
            Work::Gather(picks) => return picks.gather(read(0), memory.read_ints(&self.reads[1]), out),
            Work::Scatter { picks, add } => {
                out.copy_from_slice(read(0));
                return picks.scatter(*add, memory.read_ints(&self.reads[1]), read(2), out);
            }
            Work::ToFloats => {
                let x = memory.read_ints(&self.reads[0]);
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as f32);
            }
            Work::Ints(f) => {
                let (x, y) = (memory.read_ints(&self.reads[0]), memory.read_ints(&self.reads[1]));
                let compare: fn(i32, i32) -> bool = match f {
                    IntFunction::Equal => |x, y| x == y,
                    IntFunction::NotEqual => |x, y| x != y,
                    IntFunction::Greater => |x, y| x > y,
                    IntFunction::GreaterEqual => |x, y| x >= y,
                    IntFunction::Less => |x, y| x < y,
                    _ => |x, y| x <= y,
                };
                zip_ints(x, y, out, |x, y| f32::from(u8::from(compare(x, y))));
            }
            Work::Chain(_) | Work::ToInts | Work::Reference(_) => {}
        }
        Ok(())
    }

    /// A step whose result are whole numbers.
    fn ints(&self, work: &Work, memory: &Memory, out: &mut [i32]) -> Result<()> {
        let read = |i: usize| memory.read_ints(&self.reads[i]);
        match work {
            Work::Copies { copies, .. } => copies.iter().enumerate().for_each(|(i, c)| c.run(read(i), out)),
            Work::Gather(picks) => return picks.gather(read(0), read(1), out),
            Work::ToInts => {
                // Truncated, then wrapped.
                let x = memory.read(&self.reads[0]);
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as i64 as i32);
            }
            Work::Ints(f) => {
                let f: fn(i32, i32) -> i32 = match f {
                    IntFunction::Add => i32::wrapping_add,
                    IntFunction::Sub => i32::wrapping_sub,
                    IntFunction::Mul => i32::wrapping_mul,
                    IntFunction::Max => i32::max,
                    _ => i32::min,
                };
                zip_ints(read(0), read(1), out, f);
            }
            _ => {}
        }
        Ok(())
    }
}

fn zip_ints<T>(x: &[i32], y: &[i32], out: &mut [T], f: impl Fn(i32, i32) -> T) {
    let step = |x: &[i32], n: usize| usize::from(x.len() == n && n > 1);
    let (step_x, step_y) = (step(x, out.len()), step(y, out.len()));
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(x[i * step_x], y[i * step_y]);
    }
}

impl Reference {
    fn run(&self, step: &Step, memory: &mut Memory) -> Result<()> {
        let Eval::By(eval) = self.call.op.eval else { return Ok(()) };
        let values: Vec<Option<Vec<Value>>> = self
            .args
            .iter()
            .map(|a| a.as_ref()?.iter().map(|(holder, ty)| memory.value(step, *holder, ty)).collect())
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
        for ((holder, ty), result) in self.outputs.iter().zip(results) {
            match (holder, &result) {
                (Holder::Other(i), _) => memory.others[*i] = Some(result),
                (Holder::Place(i), Value::Tensor(t)) if t.ty() == *ty => {
                    let Place { kind, slot, range } = &step.writes[*i];
                    match kind {
                        PlaceKind::Floats => {
                            let to = &mut memory.floats[*slot][range.clone()];
                            to.iter_mut().zip(t.to_f64s()).for_each(|(to, x)| *to = x as f32);
                        }
                        PlaceKind::Ints => {
                            let to = &mut memory.ints[*slot][range.clone()];
                            to.iter_mut().zip(t.ints().unwrap_or_default()).for_each(|(to, &x)| *to = x as i32);
                        }
                    }
                }
                _ => return Err(failed(format!("gave something else than the {ty} it declares"))),
            }
        }
        Ok(())
    }
}
