//! The memory that a plan runs in: its inputs and outputs, and what lies between.

use super::floats::Floats;
use super::fp16;
use super::plan::Plan;
use super::steps::{Holder, Place, PlaceKind, Step};
use anemone_mil::ir::{DType, Type};
use anemone_mil::ops::Value;
use anemone_mil::tensor::Tensor;

/// What a plan runs in. Each kernel has its own.
pub(crate) struct Memory {
    /// Slots, each of which holds one value after the other.
    pub(super) floats: Vec<Floats>,
    pub(super) ints: Vec<Vec<i32>>,
    pub(super) others: Vec<Option<Value>>,
    /// How often each input has been written.
    pub(super) versions: Vec<u64>,
    /// Which inputs are still to be rounded to fp16.
    pub(super) is_raw: Vec<bool>,
    /// For each step, which of these it has last worked on, if it depends on one input alone.
    pub(super) done: Vec<u64>,
    /// For each step that packs an input, which of these it has last seen, and whether more than once.
    pub(super) seen: Vec<(u64, bool)>,
    /// Whether products that may add to what their results hold do so.
    pub(super) adds: bool,
}

impl Memory {
    /// Whether products that may add to what their results hold do so from now on.
    pub(crate) fn add(&mut self, adds: bool) {
        self.adds = adds;
    }

    /// Lets a floating-point input be these elements, of which two contents never have the same version. They are
    /// not copied; [`Memory::forget_input`] gives them back. If they are `raw` they still have to be rounded to
    /// fp16.
    pub(crate) fn share_input(&mut self, plan: &Plan, index: usize, elements: &Floats, version: u64, raw: bool) {
        let place = &plan.input_places[index];
        self.floats[place.slot] = elements.clone();
        self.versions[index] = version;
        self.is_raw[index] = raw && plan.rounds_late[index];
        if raw && !plan.rounds_late[index] {
            fp16::round_all(&mut self.floats[place.slot]);
        }
    }

    /// Lets a floating-point input be these elements, on the grid of its type, from now on. They are not copied.
    pub(crate) fn set_input(&mut self, plan: &Plan, index: usize, elements: Floats) {
        let place = &plan.input_places[index];
        if place.kind == PlaceKind::Floats {
            assert!(place.range == (0..elements.len()));
            self.floats[place.slot] = elements;
            self.versions[index] += 1;
        }
    }

    /// Gives a shared input back, so that whoever owns it can write it without copying it first.
    pub(crate) fn forget_input(&mut self, plan: &Plan, index: usize) {
        let place = &plan.input_places[index];
        if place.kind == PlaceKind::Floats {
            self.floats[place.slot] = Floats::default();
        }
    }

    /// Exchanges the memory of a floating-point output for another of its size, if it is the output's alone.
    pub(crate) fn swap_output(&mut self, plan: &Plan, index: usize, elements: &mut Floats) -> bool {
        let place = &plan.output_places[index];
        if place.kind != PlaceKind::Floats || !plan.is_own[index] {
            return false;
        }
        std::mem::swap(&mut self.floats[place.slot], elements);
        true
    }

    /// The memory of a floating-point input, to be exchanged.
    pub(crate) fn input_floats_mut(&mut self, plan: &Plan, index: usize) -> Option<&mut Floats> {
        let place = &plan.input_places[index];
        self.versions[index] += 1;
        (place.kind == PlaceKind::Floats).then(|| &mut self.floats[place.slot])
    }

    /// The memory of a floating-point input, to be shared.
    pub(crate) fn lendable_input(&self, plan: &Plan, index: usize) -> Option<&Floats> {
        self.whole(&plan.input_places[index])
    }

    /// The memory of a floating-point output, to be shared, if it is not part of another value's.
    pub(crate) fn lendable_output(&self, plan: &Plan, index: usize) -> Option<&Floats> {
        self.whole(&plan.output_places[index])
    }

    fn whole(&self, place: &Place) -> Option<&Floats> {
        let floats = if place.kind == PlaceKind::Floats { self.floats.get(place.slot)? } else { return None };
        (place.range == (0..floats.len())).then_some(floats)
    }

    /// The elements of a floating-point input, to be written before a run; fp16 inputs take numbers on the fp16
    /// grid. Nothing of an `int32` input: [`Memory::write_input`] takes those too.
    pub(crate) fn input_mut(&mut self, plan: &Plan, index: usize) -> &mut [f32] {
        self.versions[index] += 1;
        let Place { kind, slot, range } = &plan.input_places[index];
        match kind {
            PlaceKind::Floats => &mut self.floats[*slot][range.clone()],
            PlaceKind::Ints => &mut [],
        }
    }

    /// The elements of a floating-point input.
    pub(crate) fn input(&self, plan: &Plan, index: usize) -> &[f32] {
        match &plan.input_places[index] {
            place if place.kind == PlaceKind::Floats => self.read(place),
            _ => &[],
        }
    }

    /// The elements of a floating-point output, after a run; of an `int32` output [`Memory::read_output`] gives
    /// them.
    pub(crate) fn output(&self, plan: &Plan, index: usize) -> &[f32] {
        match &plan.output_places[index] {
            place if place.kind == PlaceKind::Floats => self.read(place),
            _ => &[],
        }
    }

    /// Writes an input, whole numbers of an `int32` one being given as floats.
    pub(crate) fn write_input(&mut self, plan: &Plan, index: usize, elements: &[f32]) {
        self.versions[index] += 1;
        let Place { kind, slot, range } = &plan.input_places[index];
        match kind {
            PlaceKind::Floats => self.floats[*slot][range.clone()].copy_from_slice(elements),
            PlaceKind::Ints => {
                let to = &mut self.ints[*slot][range.clone()];
                to.iter_mut().zip(elements).for_each(|(to, &x)| *to = x as i32);
            }
        }
    }

    /// Reads an output, whole numbers of an `int32` one as floats.
    #[cfg(test)]
    pub(crate) fn read_output(&self, plan: &Plan, index: usize, elements: &mut [f32]) {
        let place = &plan.output_places[index];
        match place.kind {
            PlaceKind::Floats => elements.copy_from_slice(self.read(place)),
            PlaceKind::Ints => {
                elements.iter_mut().zip(self.read_ints(place)).for_each(|(to, &x)| *to = x as f32);
            }
        }
    }
}

impl Memory {
    pub(super) fn read(&self, place: &Place) -> &[f32] {
        &self.floats[place.slot][place.range.clone()]
    }

    pub(super) fn read_ints(&self, place: &Place) -> &[i32] {
        &self.ints[place.slot][place.range.clone()]
    }

    pub(super) fn value(&self, step: &Step, holder: Holder, ty: &Type) -> Option<Value> {
        let place = match holder {
            Holder::Other(i) => return self.others[i].clone(),
            Holder::Place(i) => &step.reads[i],
        };
        let Type::Tensor(t) = ty else { return None };
        let shape = t.fixed_shape()?;
        let tensor = match (place.kind, t.dtype) {
            (PlaceKind::Ints, _) => {
                Tensor::int(t.dtype, &shape, self.read_ints(place).iter().map(|&x| x.into()).collect())
            }
            (_, DType::Bool) => {
                Tensor::int(t.dtype, &shape, self.read(place).iter().map(|&x| (x != 0.0).into()).collect())
            }
            _ => Tensor::float(t.dtype, &shape, self.read(place).iter().map(|&x| x.into()).collect()),
        };
        Some(tensor.into())
    }
}
