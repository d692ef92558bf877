//! From a validated function to steps over memory: planned once, run without allocating.

use super::engine::Arithmetic;
use super::floats::Floats;
use super::fuse::Open;
use super::gemm::{self, Gemm};
use super::memory::Memory;
use super::product::{Product, Start};
use super::slots::{Buffer, Content, Slots};
use super::steps::{Holder, Place, PlaceKind, Reference, Step, Work};
use crate::error::{Error, Result};
use anemone_mil::Weights;
use anemone_mil::ir::{BlobRef, DType, TensorType, Type};
use anemone_mil::ops::{Args, Bound, Eval, Operand, Value};
use anemone_mil::tensor::{Data, Tensor};
use anemone_mil::valid::{Origin, ValidCall, ValidFunction, ValueId};
use std::collections::HashMap;
use std::ops::Range;

/// The steps of a function, and where its values lie.
pub(crate) struct Plan {
    inputs: Vec<(String, Type)>,
    outputs: Vec<(String, Type)>,
    pub(super) input_places: Vec<Place>,
    pub(super) output_places: Vec<Place>,
    /// For each input, whether nothing but products read it, as their B: they can round it themselves.
    pub(super) rounds_late: Vec<bool>,
    /// For each output, whether its memory is written by steps and is no other's.
    pub(super) is_own: Vec<bool>,
    steps: Vec<Step>,
    /// Where the steps of each part end.
    parts: Vec<usize>,
    slots: Slots,
    /// The values that are neither floats nor booleans nor `int32`, by number; only references touch them.
    others: Vec<Option<Value>>,
}

impl Plan {
    /// Plans a function whose inputs and outputs have fixed shapes.
    ///
    /// # Errors
    ///
    /// If a constant is not in `weights`, a shape is unknown, the program is too large, or an op cannot be run.
    pub(crate) fn new(f: &ValidFunction, weights: &Weights) -> Result<Plan> {
        Plan::in_parts(f, weights, &[f.body.calls.len()])
    }

    /// As [`new`](Plan::new), to be run in parts: the first of them is the first `ends[0]` calls, the next those
    /// up to `ends[1]`, and so on. Inputs keep their values from part to part and from run to run, and may be
    /// written in between.
    ///
    /// # Errors
    ///
    /// As [`new`](Plan::new).
    pub(crate) fn in_parts(f: &ValidFunction, weights: &Weights, ends: &[usize]) -> Result<Plan> {
        Planner::new(f, weights, Arithmetic::Ieee)?.plan(ends)
    }

    /// As [`new`](Plan::new), for a device of this arithmetic, of whose inputs some stay the same for many runs:
    /// what is laid out of an input alone is kept until that is written again.
    ///
    /// # Errors
    ///
    /// As [`new`](Plan::new); also if the arithmetic has a rule for an op, but not for this form of it.
    pub(crate) fn for_device(f: &ValidFunction, weights: &Weights, arithmetic: Arithmetic) -> Result<Plan> {
        let mut planner = Planner::new(f, weights, arithmetic)?;
        planner.keeps_inputs = true;
        planner.plan(&[f.body.calls.len()])
    }

    /// Bytes of the memory it runs in.
    pub(crate) fn n_bytes(&self) -> usize {
        self.slots.n_elements() * size_of::<f32>()
    }

    /// The part of them that an input takes.
    pub(crate) fn n_input_bytes(&self, index: usize) -> usize {
        self.input_places[index].range.len() * size_of::<f32>()
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
        let (floats, ints) = self.slots.memory();
        Memory {
            floats,
            ints,
            others: self.others.clone(),
            versions: vec![1; self.inputs.len()],
            is_raw: vec![false; self.inputs.len()],
            done: vec![0; self.steps.len()],
            seen: vec![(0, false); self.steps.len()],
            adds: false,
        }
    }

    /// Runs all steps on what lies in the inputs.
    ///
    /// # Errors
    ///
    /// If an index is out of range, or an op without a step of its own fails on these values.
    pub(crate) fn run(&self, memory: &mut Memory) -> Result<()> {
        self.run_steps(0..self.steps.len(), memory)
    }

    /// Runs the steps of one part.
    ///
    /// # Errors
    ///
    /// As [`run`](Plan::run).
    pub(crate) fn run_part(&self, part: usize, memory: &mut Memory) -> Result<()> {
        let start = part.checked_sub(1).map_or(0, |p| self.parts[p]);
        self.run_steps(start..self.parts[part], memory)
    }

    fn run_steps(&self, steps: Range<usize>, memory: &mut Memory) -> Result<()> {
        for i in steps {
            gemm::stay_awake();
            let step = &self.steps[i];
            if let Some(input) = step.once {
                let version = memory.versions[input];
                // An input that changes all the time is not worth packing for one product. What stayed for several
                // will do so again.
                let (last, is_kept) = memory.seen[i];
                let is_worth_it = is_kept || version == last;
                memory.seen[i] = (version, version == last);
                if memory.done[i] == version
                    || (!is_worth_it && matches!(step.work, Work::Pack { is_lazy: true, .. }))
                {
                    continue;
                }
            }
            step.run(memory)?;
            if let Some(input) = step.once {
                memory.done[i] = memory.versions[input];
            }
        }
        Ok(())
    }

    /// Lets an output be added to what it holds where [`Memory::add`] says so, if it is a product that no other
    /// value shares; whether it is.
    pub(crate) fn accumulate(&mut self, output: usize) -> bool {
        let place = &self.output_places[output];
        let is_it = |p: &Place| (p.kind, p.slot) == (place.kind, place.slot);
        let is_read = self.steps.iter().flat_map(|s| &s.reads).any(is_it);
        let mut writers = self.steps.iter_mut().filter(|s| s.writes.iter().any(is_it));
        let (Some(step), None) = (writers.next(), writers.next()) else { return false };
        match &mut step.work {
            Work::Product(p) if p.start == Start::Zero && !step.fp16 && !is_read && self.is_own[output] => {
                p.accumulates = true;
                true
            }
            _ => false,
        }
    }

    #[cfg(test)]
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The elements of all slots.
    #[cfg(test)]
    pub(super) fn n_elements(&self) -> usize {
        self.slots.n_elements()
    }
}

/// What is known of a value while a function is planned.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Nothing yet, or it is a constant that nobody has needed so far.
    Nothing,
    /// It lies there; the slot is the number of a buffer.
    At(Place),
    /// All its elements are this.
    Uniform(f32),
    /// It is the result of that function of the open chain of that many elements.
    Pending(usize, usize),
    /// It is no tensor of floats, booleans or `int32`.
    Other(usize),
}

/// Where an operand lies packed; the step and the input, if only while that has stayed the same.
type Packed = (Place, Option<(usize, usize)>);

/// Plans one function.
pub(super) struct Planner<'a> {
    pub(super) f: &'a ValidFunction,
    weights: &'a Weights,
    pub(super) arithmetic: Arithmetic,
    pub(super) held: Vec<Held>,
    /// The values of constants and of what was computed of them alone.
    known: Vec<Option<Value>>,
    /// How often each value is read by calls that are needed, outputs counting once.
    pub(super) uses: Vec<usize>,
    /// Which of the needed calls read each value.
    pub(super) readers: Vec<Vec<usize>>,
    /// Calls that another has done too.
    pub(super) done: Vec<bool>,
    pub(super) open: Vec<Open>,
    pub(super) steps: Vec<Step>,
    buffers: Vec<Buffer>,
    uniform: HashMap<(u32, usize), Place>,
    /// Operands of products that have been packed, by place and shape.
    packed: HashMap<(Place, Gemm), Packed>,
    keeps_inputs: bool,
    others: Vec<Option<Value>>,
}

/// The most elements a plan has room for.
const MOST_ELEMENTS: usize = u32::MAX as usize;
/// The most elements that are computed when a function is planned, because they depend on constants alone.
const MOST_FOLDED: usize = 1 << 22;

impl<'a> Planner<'a> {
    fn new(f: &'a ValidFunction, weights: &'a Weights, arithmetic: Arithmetic) -> Result<Planner<'a>> {
        let sizes = f.values.iter().filter_map(|v| v.ty.as_tensor()).filter(|t| place_kind(t.dtype).is_some());
        for n in sizes.map(TensorType::n_elements) {
            match n {
                Some(n) if n <= MOST_ELEMENTS => {}
                Some(n) => {
                    return Err(Error::config(format!(
                        "the program's values have {n} elements, at most {MOST_ELEMENTS} fit"
                    )));
                }
                None => {
                    return Err(Error::config(
                        "the program has values whose shape is not known when it is compiled",
                    ));
                }
            }
        }
        let n = f.values.len();
        Ok(Planner {
            f,
            weights,
            arithmetic,
            held: vec![Held::Nothing; n],
            known: vec![None; n],
            uses: vec![0; n],
            readers: vec![Vec::new(); n],
            done: vec![false; f.body.calls.len()],
            open: Vec::new(),
            steps: Vec::new(),
            buffers: Vec::new(),
            uniform: HashMap::new(),
            packed: HashMap::new(),
            keeps_inputs: false,
            others: Vec::new(),
        })
    }

    fn plan(mut self, ends: &[usize]) -> Result<Plan> {
        let f = self.f;
        self.count_uses();
        for (i, v) in f.values.iter().enumerate() {
            match (&v.origin, &v.ty) {
                (Origin::Constant(value), _) => self.know(i, value.clone()),
                (Origin::Blob(blob), Type::Tensor(ty)) => self.blob(i, blob, ty)?,
                _ => {}
            }
        }
        for &id in &f.inputs {
            let place = self.new_place(id);
            self.pin(&place);
            self.held[id.index()] = match place {
                Some(place) => Held::At(place),
                None => self.other(None),
            };
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for &end in ends {
            for (i, call) in f.body.calls[start..end].iter().enumerate() {
                let is_needed = call.outputs.iter().any(|id| self.uses[id.index()] > 0);
                if is_needed && !self.done[start + i] {
                    self.call(call)?;
                }
            }
            // What a part computes is there at its end.
            while let Some(n) = self.open.first().map(|c| c.n) {
                self.close(n);
            }
            parts.push(self.steps.len());
            start = end;
        }
        let mut places = |ids: &[ValueId]| {
            let place = |&id: &ValueId| {
                let v = f.value(id);
                let what =
                    || format!("`{}` is {}; inputs and outputs are floating-point or int32 tensors", v.name, v.ty);
                let place = self.place(id);
                self.pin(&place);
                place.ok_or_else(|| Error::config(what()))
            };
            ids.iter().map(place).collect::<Result<Vec<_>>>()
        };
        let (mut input_places, mut output_places) = (places(&f.inputs)?, places(&f.outputs)?);
        let mut steps = self.steps;
        let is_own = |(i, place): (usize, &Place)| {
            let is_other = |p: &Place| (p.kind, p.slot) == (place.kind, place.slot);
            let others = output_places.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p);
            let is_whole = self.buffers[place.slot].len == place.range.len();
            // What is not written in every run must stay where it is.
            let is_kept = steps.iter().any(|s| s.once.is_some() && s.writes.iter().any(is_other));
            is_whole
                && !is_kept
                && self.buffers[place.slot].content.is_none()
                && !input_places.iter().chain(others).any(is_other)
        };
        let is_own = output_places.iter().enumerate().map(is_own).collect();
        let rounds_late = |place: &Place| {
            let is_it = |p: &Place| (p.kind, p.slot) == (place.kind, place.slot);
            let is_b = |s: &Step| {
                let n_reads = s.reads.iter().filter(|p| is_it(p)).count();
                n_reads == 0 || (matches!(s.work, Work::Product(_)) && n_reads == 1 && is_it(&s.reads[1]))
            };
            steps.iter().all(is_b) && !output_places.iter().any(is_it)
        };
        let rounds_late: Vec<bool> = input_places.iter().map(rounds_late).collect();
        for (i, place) in input_places.iter().enumerate().filter(|(i, _)| rounds_late[*i]) {
            for step in &mut steps {
                match &mut step.work {
                    Work::Product(p) if step.reads[1].slot == place.slot => p.b_input = Some(i),
                    _ => {}
                }
            }
        }
        let wanted = input_places.iter().chain(&output_places).map(|p| p.slot);
        let (slots, of_buffer) = Slots::assign(self.buffers, &mut steps, wanted);
        if slots.n_elements() > MOST_ELEMENTS {
            return Err(Error::config(format!(
                "the program's values have {} elements, at most {MOST_ELEMENTS} fit",
                slots.n_elements()
            )));
        }
        input_places.iter_mut().chain(&mut output_places).for_each(|p| p.slot = of_buffer[p.slot]);
        let named =
            |ids: &[ValueId]| ids.iter().map(|&v| (f.value(v).name.clone(), f.value(v).ty.clone())).collect();
        Ok(Plan {
            input_places,
            output_places,
            rounds_late,
            is_own,
            inputs: named(&f.inputs),
            outputs: named(&f.outputs),
            steps,
            parts,
            slots,
            others: self.others,
        })
    }

    /// Counts how often each value is read on the way to the outputs.
    fn count_uses(&mut self) {
        let f = self.f;
        f.outputs.iter().for_each(|id| self.uses[id.index()] += 1);
        for (i, call) in f.body.calls.iter().enumerate().rev() {
            if !call.outputs.iter().any(|id| self.uses[id.index()] > 0) {
                continue;
            }
            for id in call.args.iter().flatten().flat_map(|a| a.ids()) {
                self.uses[id.index()] += 1;
                self.readers[id.index()].push(i);
            }
        }
    }

    fn know(&mut self, i: usize, value: Value) {
        if let (Value::Tensor(t), Some(PlaceKind::Floats)) = (&value, self.kind(i)) {
            let uniform = match t.data() {
                Data::Float(x) => uniform(x, |x| x.to_bits()).map(|x| x as f32),
                Data::Int(x) => uniform(x, |x| x).map(|x| x as f32),
                Data::Str(_) => None,
            };
            if let Some(x) = uniform {
                self.held[i] = Held::Uniform(x);
            }
        }
        self.known[i] = Some(value);
    }

    /// fp16 and fp32 constants go straight from the file to their place, but for single numbers, which may be
    /// parameters.
    fn blob(&mut self, i: usize, blob: &BlobRef, ty: &TensorType) -> Result<()> {
        let bytes = self.weights.record(blob)?.bytes_as(ty)?;
        if !matches!(ty.dtype, DType::Fp16 | DType::Fp32) || ty.n_elements() == Some(1) {
            self.know(i, self.weights.resolve(blob, ty)?.into());
        } else if self.uses[i] > 0 {
            let n = bytes.len() / if ty.dtype == DType::Fp16 { 2 } else { 4 };
            let mut floats = Floats::zeros(n);
            match ty.dtype {
                DType::Fp16 => floats
                    .copy_from_iter(bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32())),
                _ => floats.copy_from_iter(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            }
            self.held[i] = Held::At(self.buffer(PlaceKind::Floats, n, Some(Content::Floats(floats))));
        }
        Ok(())
    }

    fn kind(&self, i: usize) -> Option<PlaceKind> {
        place_kind(self.f.values[i].ty.as_tensor()?.dtype)
    }

    pub(super) fn buffer(&mut self, kind: PlaceKind, len: usize, content: Option<Content>) -> Place {
        self.buffers.push(Buffer { kind, len, pinned: content.is_some(), content });
        Place { kind, slot: self.buffers.len() - 1, range: 0..len }
    }

    fn pin(&mut self, place: &Option<Place>) {
        if let Some(place) = place {
            self.buffers[place.slot].pinned = true;
        }
    }

    fn other(&mut self, value: Option<Value>) -> Held {
        self.others.push(value);
        Held::Other(self.others.len() - 1)
    }

    /// A place for a value that a step will write.
    pub(super) fn new_place(&mut self, id: ValueId) -> Option<Place> {
        let ty = self.f.value(id).ty.as_tensor()?;
        let (kind, len) = (place_kind(ty.dtype)?, ty.n_elements()?);
        Some(self.buffer(kind, len, None))
    }

    /// Where a value lies, which has been computed so far or is now; `None` if it is no tensor of floats, booleans
    /// or `int32`.
    pub(super) fn place(&mut self, id: ValueId) -> Option<Place> {
        let i = id.index();
        if let Held::Pending(n, _) = self.held[i] {
            self.close(n);
        }
        let (kind, len) = (self.kind(i), self.f.value(id).ty.as_tensor()?.n_elements()?);
        let place = match (&self.held[i], &self.known[i]) {
            (Held::At(place), _) => return Some(place.clone()),
            (Held::Uniform(x), _) => {
                let x = *x;
                let found = self.uniform.get(&(x.to_bits(), len)).cloned();
                found.unwrap_or_else(|| {
                    let place = self.buffer(PlaceKind::Floats, len, Some(Content::Uniform(x)));
                    self.uniform.insert((x.to_bits(), len), place.clone());
                    place
                })
            }
            (Held::Nothing, Some(Value::Tensor(t))) => {
                let content = match kind? {
                    PlaceKind::Floats => {
                        let mut floats = Floats::zeros(len);
                        floats.copy_from_iter(t.to_f64s().into_iter().map(|x| x as f32));
                        Content::Floats(floats)
                    }
                    PlaceKind::Ints => Content::Ints(t.ints()?.iter().map(|&x| x as i32).collect()),
                };
                self.buffer(kind?, len, Some(content))
            }
            _ => return None,
        };
        self.held[i] = Held::At(place.clone());
        Some(place)
    }

    /// Where floats or booleans lie.
    pub(super) fn floats(&mut self, id: ValueId) -> Option<Place> {
        if self.kind(id.index()) == Some(PlaceKind::Floats) { self.place(id) } else { None }
    }

    /// Where whole numbers lie.
    pub(super) fn ints(&mut self, id: ValueId) -> Option<Place> {
        if self.kind(id.index()) == Some(PlaceKind::Ints) { self.place(id) } else { None }
    }

    pub(super) fn dtype(&self, id: ValueId) -> Option<DType> {
        Some(self.f.value(id).ty.as_tensor()?.dtype)
    }

    pub(super) fn shape(&self, id: ValueId) -> Vec<usize> {
        self.f.value(id).ty.as_tensor().and_then(|t| t.fixed_shape()).unwrap_or_default()
    }

    pub(super) fn n_elements(&self, id: ValueId) -> usize {
        self.shape(id).iter().product()
    }

    pub(super) fn arg(&self, call: &ValidCall, name: &str) -> Option<ValueId> {
        let (place, _) = call.op.param(name)?;
        call.args[place].as_ref()?.ids().first().copied()
    }

    /// The arguments of a call, with the values of those that are known.
    pub(super) fn args<'s>(&'s self, call: &ValidCall) -> Args<'s> {
        let bound = |&id: &ValueId| {
            let value = self.known[id.index()].as_ref();
            Bound { ty: &self.f.value(id).ty, value, constant: value.is_some() }
        };
        let operand = |(arg, param): (&Option<anemone_mil::valid::ArgIds>, &anemone_mil::ops::Param)| {
            let ids = arg.as_ref()?.ids();
            Some(match ids {
                [one] if !param.variadic => Operand::One(bound(one)),
                _ => Operand::Many(ids.iter().map(bound).collect()),
            })
        };
        Args { def: call.op, operands: call.args.iter().zip(call.op.params).map(operand).collect() }
    }

    pub(super) fn constant(&self, id: ValueId) -> Option<&Tensor> {
        match &self.known[id.index()] {
            Some(Value::Tensor(t)) => Some(t),
            _ => None,
        }
    }

    /// Adds a step that gives one value.
    pub(super) fn step(&mut self, work: Work, reads: Vec<Place>, output: ValueId) -> Option<()> {
        let place = self.new_place(output)?;
        let fp16 = self.dtype(output)? == DType::Fp16;
        self.steps.push(Step { work, reads, writes: vec![place.clone()], fp16, once: None });
        self.held[output.index()] = Held::At(place);
        Some(())
    }

    /// Plans products of one A with a batch of B, or of as many; `reads` are A, B and, if any, where sums start.
    pub(super) fn product(&mut self, mut product: Product, mut reads: Vec<Place>, output: ValueId) -> Option<()> {
        let shape = product.shape;
        let first = product.batch.first()?.0;
        if !product.is_summed && product.batch.iter().all(|at| at.0 == first) {
            let plain = reads[0].clone();
            let from = plain.range.start + first;
            let place = Place { range: from..from + shape.m * shape.k, ..plain.clone() };
            if let Some((packed, packed_by)) = self.packed(&place, shape, product.batch.len() > 1) {
                (product.is_packed, product.packed_by) = (true, packed_by);
                reads[0] = packed;
                // For when the input is new: products find A at the offset of the batch.
                reads.extend(packed_by.map(|_| plain));
            }
        }
        self.step(Work::Product(product), reads, output)
    }

    /// Where the A of a product lies packed, if that is worth its while: because it is a constant, or stays the
    /// same for many runs, or is used by a whole batch.
    fn packed(&mut self, place: &Place, shape: Gemm, is_shared: bool) -> Option<Packed> {
        // How it is laid out depends on this alone of the columns of B.
        let key = (place.clone(), Gemm { n: shape.splits().into(), ..shape });
        if let Some(packed) = self.packed.get(&key) {
            return Some(packed.clone());
        }
        let Buffer { len, content, .. } = &self.buffers[place.slot];
        let packed = if let Some(x) = content.as_ref().and_then(|content| content.floats(*len)) {
            let mut packed = Floats::zeros(shape.n_packed());
            shape.pack(&x[place.range.clone()], 0, &mut packed);
            (self.buffer(PlaceKind::Floats, packed.len(), Some(Content::Floats(packed))), None)
        } else {
            let kept = self.kept(place.slot);
            if kept.is_none() && !is_shared {
                return None;
            }
            let packed = self.buffer(PlaceKind::Floats, shape.n_packed(), None);
            let (reads, writes) = (vec![place.clone()], vec![packed.clone()]);
            let is_lazy = kept.is_some() && !is_shared;
            let work = Work::Pack { shape, is_lazy };
            self.steps.push(Step { work, reads, writes, fp16: false, once: None });
            let packed_by = kept.as_ref().filter(|_| is_lazy).map(|(input, _)| (self.steps.len() - 1, *input));
            if let Some((input, mut steps)) = kept {
                steps.push(self.steps.len() - 1);
                for i in steps {
                    self.steps[i].once = Some(input);
                    self.steps[i].writes.iter().for_each(|p| self.buffers[p.slot].pinned = true);
                }
            }
            (packed, packed_by)
        };
        self.packed.insert(key, packed.clone());
        Some(packed)
    }

    /// The input that a buffer is or is made of by steps that depend on no other, if inputs are kept, and these
    /// steps.
    fn kept(&self, slot: usize) -> Option<(usize, Vec<usize>)> {
        if !self.keeps_inputs {
            return None;
        }
        let is_input = |id: &ValueId| matches!(&self.held[id.index()], Held::At(p) if p.slot == slot);
        if let Some(input) = self.f.inputs.iter().position(is_input) {
            return Some((input, Vec::new()));
        }
        let maker = self.steps.iter().rposition(|s| s.writes.iter().any(|p| p.slot == slot))?;
        // It may depend on values that lie in no place too.
        if matches!(self.steps[maker].work, Work::Reference(_)) {
            return None;
        }
        let (input, mut steps) = self.kept(self.steps[maker].reads.first()?.slot)?;
        for read in &self.steps[maker].reads[1..] {
            let (other, more) = self.kept(read.slot)?;
            steps.extend(more);
            if other != input {
                return None;
            }
        }
        steps.push(maker);
        Some((input, steps))
    }

    /// Plans a call: as a constant, by a step of its own if the op has one for these operands, else by its
    /// definition.
    fn call(&mut self, call: &ValidCall) -> Result<()> {
        if self.fold(call).is_some() || self.by_engine(call)? || self.fast(call).is_some() {
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
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let mut args = Vec::new();
        for arg in &call.args {
            let Some(arg) = arg else {
                args.push(None);
                continue;
            };
            let mut holders = Vec::new();
            for &id in arg.ids() {
                let holder = match self.place(id) {
                    Some(place) => {
                        reads.push(place);
                        Holder::Place(reads.len() - 1)
                    }
                    None => Holder::Other(self.other_of(id)),
                };
                holders.push((holder, self.f.value(id).ty.clone()));
            }
            args.push(Some(holders));
        }
        let mut outputs = Vec::new();
        for &id in &call.outputs {
            let Type::Tensor(ty) = &self.f.value(id).ty else {
                return Err(Error::config(format!("op `{}` (`{label}`) gives no tensor", call.op.name)));
            };
            let holder = match self.new_place(id) {
                Some(place) => {
                    writes.push(place.clone());
                    self.held[id.index()] = Held::At(place);
                    Holder::Place(writes.len() - 1)
                }
                None => Holder::Other(self.other_of(id)),
            };
            outputs.push((holder, ty.clone()));
        }
        let work = Work::Reference(Box::new(Reference { call: call.clone(), label, args, outputs }));
        self.steps.push(Step { work, reads, writes, fp16: false, once: None });
        Ok(())
    }

    fn other_of(&mut self, id: ValueId) -> usize {
        if let Held::Other(i) = self.held[id.index()] {
            return i;
        }
        let value = self.known[id.index()].clone();
        self.held[id.index()] = self.other(value);
        self.others.len() - 1
    }

    /// Computes a call of constants alone.
    fn fold(&mut self, call: &ValidCall) -> Option<()> {
        let Eval::By(eval) = call.op.eval else { return None };
        let n: usize = call.outputs.iter().map(|&id| self.n_elements(id)).sum();
        if call.op.name == "fill" && self.dtype(call.outputs[0]).and_then(place_kind) == Some(PlaceKind::Floats) {
            let value = self.args(call).float("value").ok();
            // Booleans are no numbers to the arguments.
            let value = value.or_else(|| self.constant(self.arg(call, "value")?)?.to_f64s().first().copied());
            self.held[call.outputs[0].index()] = Held::Uniform(value? as f32);
            return Some(());
        }
        let mut ids = call.args.iter().flatten().flat_map(|a| a.ids());
        if n > MOST_FOLDED || call.op.name.starts_with("random") || ids.any(|id| self.known[id.index()].is_none())
        {
            return None;
        }
        let results = eval(&self.args(call)).ok()?;
        let fits = |(&id, value): (&ValueId, &Value)| match value {
            Value::Tensor(t) => self.f.value(id).ty.as_tensor() == Some(&t.ty()),
            Value::List(_) => true,
        };
        if results.len() != call.outputs.len() || !call.outputs.iter().zip(&results).all(fits) {
            return None;
        }
        for (id, value) in call.outputs.iter().zip(results) {
            self.know(id.index(), value);
        }
        Some(())
    }
}

/// How values of a type are kept. Whole numbers are no floats: beyond 2^24 f32 has gaps.
pub(super) fn place_kind(dtype: DType) -> Option<PlaceKind> {
    match dtype {
        DType::Fp16 | DType::Fp32 | DType::Bool => Some(PlaceKind::Floats),
        DType::Int32 => Some(PlaceKind::Ints),
        _ => None,
    }
}

/// What all elements are, if they are the same bit by bit.
fn uniform<T: Copy, B: PartialEq>(x: &[T], bits: impl Fn(T) -> B) -> Option<T> {
    let (&first, rest) = x.split_first()?;
    rest.iter().all(|&x| bits(x) == bits(first)).then_some(first)
}
