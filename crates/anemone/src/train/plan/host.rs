//! The host's side of a step: one program over one block of memory, run in parts between the device's calls.

use super::LOSS_SCALE;
use super::assign::{Piece, read_from_outside};
use crate::error::{Error, Result};
use crate::nn::{INPUT, TARGET};
use crate::soft::floats::Floats;
use crate::soft::memory::Memory;
use crate::soft::plan::Plan;
use crate::train::programs::{DeviceCall, arg};
use anemone_mil::ir::Version;
use anemone_mil::limits::Limits;
use anemone_mil::replay::Replay;
use anemone_mil::valid::{ValidCall, ValidFunction, ValueId};
use anemone_mil::{ValidProgram, Weights, validate};
use std::collections::HashSet;
use std::sync::Arc;

/// Both programs of the host: what is made of parameters alone, and the rest.
pub(super) struct HostSide {
    preparation: Plan,
    /// The parameter that each input of the preparation is.
    prepared_from: Vec<usize>,
    plan: Plan,
    /// Where the inputs of the plan come from that are not written during a step.
    handed: Vec<(usize, Source)>,
    /// By the number of the value.
    slots: Vec<Option<Slot>>,
    x: Option<ValueId>,
    target: Option<ValueId>,
    loss_scale: Option<ValueId>,
    loss: ValueId,
    gradients: Vec<ValueId>,
    /// Which gradients are added to those of the steps before where they are computed, and the first part that
    /// does so.
    is_added: Vec<bool>,
    pub(super) adds_from: Option<usize>,
    n_x: usize,
    n_target: usize,
    /// Floating-point operations in matrix products, by part.
    pub(super) flops: Vec<u64>,
}

/// Where a value lies that is made of parameters alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Param(usize),
    Prepared(usize),
}

/// Where a value of the training graph lies in the plan's memory.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Input(usize),
    Output(usize),
    Prepared(usize),
}

/// The values of a step.
pub(crate) struct Environment {
    side: Arc<HostSide>,
    memory: Memory,
    prepared: Memory,
    x: Floats,
    target: Floats,
}

impl HostSide {
    /// The host's programs, and where the weights of each call of the device lie.
    #[allow(clippy::too_many_arguments)] // What the planner has found, once.
    pub(super) fn new(
        f: &ValidFunction,
        order: &[Piece],
        calls: &[DeviceCall],
        prepared: &[usize],
        params: &[&str],
        loss: &str,
        gradients: &[String],
    ) -> Result<(Arc<HostSide>, Vec<Option<Source>>)> {
        let param_of = |id: ValueId| params.iter().position(|p| f.value(id).name == *p);
        let output = |name: &str| {
            let found = f.outputs.iter().copied().find(|&v| f.value(v).name == name);
            found.ok_or_else(|| Error::config(format!("the training graph has no output `{name}`")))
        };
        let loss = output(loss)?;
        let gradients = gradients.iter().map(|g| output(g)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<&[usize]> = order
            .iter()
            .filter_map(|p| match p {
                Piece::Host(calls) | Piece::Deferred(calls) => Some(&calls[..]),
                Piece::Device => None,
            })
            .collect();
        let all: Vec<usize> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let made: HashSet<ValueId> = all.iter().flat_map(|&i| f.body.calls[i].outputs.iter().copied()).collect();
        let wanted: Vec<ValueId> = calls
            .iter()
            .flat_map(|c| c.inputs.iter().copied())
            .chain([loss])
            .chain(gradients.iter().copied())
            .collect();

        // What is made of parameters alone.
        let prepared_calls: HashSet<ValueId> =
            prepared.iter().flat_map(|&i| f.body.calls[i].outputs.iter().copied()).collect();
        let inputs = read_from_outside(f, &all);
        let weights = calls.iter().filter_map(|c| c.weight);
        let mut prepared_outputs = Vec::new();
        for id in inputs.iter().copied().chain(weights).chain(wanted.iter().copied()) {
            if prepared_calls.contains(&id) && !prepared_outputs.contains(&id) {
                prepared_outputs.push(id);
            }
        }
        let prepared_inputs = read_from_outside(f, prepared);
        let preparation = program(f, &prepared_inputs, &[prepared], &prepared_outputs)?.0;
        let source = |id: ValueId| {
            let made = prepared_outputs.iter().position(|&p| p == id).map(Source::Prepared);
            made.or_else(|| param_of(id).map(Source::Param))
        };

        // The rest. What the device makes and what the batch brings is written into its inputs.
        let mut outputs = Vec::new();
        for id in wanted.iter().copied() {
            if made.contains(&id) && !outputs.contains(&id) {
                outputs.push(id);
            }
        }
        let mut plan_inputs = inputs;
        for id in wanted.into_iter().chain(calls.iter().map(|c| c.output)) {
            // Values that go from device to device, or that nobody but the trainer reads.
            if !made.contains(&id) && !prepared_calls.contains(&id) && !plan_inputs.contains(&id) {
                plan_inputs.push(id);
            }
        }
        let (rest, ends) = program(f, &plan_inputs, &parts, &outputs)?;
        let mut slots = vec![None; f.values.len()];
        prepared_outputs.iter().enumerate().for_each(|(i, id)| slots[id.index()] = Some(Slot::Prepared(i)));
        plan_inputs.iter().enumerate().for_each(|(i, id)| slots[id.index()] = Some(Slot::Input(i)));
        outputs.iter().enumerate().for_each(|(i, id)| slots[id.index()] = Some(Slot::Output(i)));
        let handed = plan_inputs.iter().enumerate().filter_map(|(i, &id)| Some((i, source(id)?))).collect();
        let input = |name: &str| f.inputs.iter().copied().find(|&v| f.value(v).name == name);
        let n = |id: Option<ValueId>| {
            id.and_then(|id| f.value(id).ty.as_tensor()).and_then(|t| t.n_elements()).unwrap_or(0)
        };
        let (x, target) = (input(INPUT), input(TARGET));
        let flops = parts.iter().map(|p| p.iter().map(|&i| n_flops(f, &f.body.calls[i])).sum()).collect();
        let part_of =
            |id: ValueId| parts.iter().position(|p| p.iter().any(|&i| f.body.calls[i].outputs.contains(&id)));
        let mut plan = Plan::in_parts(rest.main(), &Weights::new(), &ends)?;
        // A step whose loss is not finite is left out, so what it would add must come after the loss.
        let adds = |plan: &mut Plan, id: ValueId| match (slots[id.index()], part_of(loss), part_of(id)) {
            (Some(Slot::Output(i)), Some(loss), Some(part)) if loss < part && plan.accumulate(i) => Some(part),
            _ => None,
        };
        let added_in: Vec<Option<usize>> = gradients.iter().map(|&id| adds(&mut plan, id)).collect();
        let side = HostSide {
            preparation: Plan::new(preparation.main(), &Weights::new())?,
            prepared_from: prepared_inputs.iter().filter_map(|&id| param_of(id)).collect(),
            plan,
            adds_from: added_in.iter().flatten().min().copied(),
            is_added: added_in.iter().map(Option::is_some).collect(),
            handed,
            slots,
            x,
            target,
            loss_scale: input(LOSS_SCALE),
            loss,
            gradients,
            n_x: n(x),
            n_target: n(target),
            flops,
        };
        Ok((Arc::new(side), calls.iter().map(|c| source(c.weight?)).collect()))
    }

    pub(super) fn environment(self: &Arc<HostSide>) -> Environment {
        Environment {
            side: self.clone(),
            memory: self.plan.memory(),
            prepared: self.preparation.memory(),
            x: Floats::zeros(self.n_x),
            target: Floats::zeros(self.n_target),
        }
    }

    /// Bytes of the memory a step runs in, beside the parameters.
    pub(super) fn n_bytes(&self) -> usize {
        let shared = self.handed.iter().map(|&(i, _)| self.plan.n_input_bytes(i)).sum::<usize>();
        let params = (0..self.prepared_from.len()).map(|i| self.preparation.n_input_bytes(i)).sum::<usize>();
        self.plan.n_bytes() - shared + self.preparation.n_bytes() - params
    }

    /// Computes what is made of parameters alone.
    pub(super) fn prepare(&self, e: &mut Environment, params: &[Floats]) -> Result<()> {
        for (i, &param) in self.prepared_from.iter().enumerate() {
            e.prepared.set_input(&self.preparation, i, params[param].clone());
        }
        self.preparation.run(&mut e.prepared)
    }

    /// What the host's parts read of it.
    pub(super) fn handed(&self, e: &Environment, params: &[Floats]) -> Vec<Floats> {
        let value = |&(_, source): &(usize, Source)| match source {
            Source::Param(i) => params[i].clone(),
            Source::Prepared(i) => match e.prepared.lendable_output(&self.preparation, i) {
                Some(whole) => whole.clone(),
                None => e.prepared.output(&self.preparation, i).into(),
            },
        };
        self.handed.iter().map(value).collect()
    }

    /// Gives such values to the host's parts.
    pub(super) fn hand(&self, e: &mut Environment, values: Vec<Floats>) {
        for (&(input, _), value) in self.handed.iter().zip(values) {
            e.memory.set_input(&self.plan, input, value);
        }
    }

    /// Takes the parameters from the host's parts, which need new ones to run again.
    pub(super) fn release(&self, e: &mut Environment) {
        self.handed.iter().for_each(|&(input, _)| e.memory.forget_input(&self.plan, input));
        (0..self.prepared_from.len()).for_each(|i| e.prepared.forget_input(&self.preparation, i));
    }

    fn slot(&self, id: ValueId) -> Option<Slot> {
        self.slots.get(id.index()).copied().flatten()
    }

    fn value<'a>(&self, source: Source, prepared: &'a Memory, params: &'a [Floats]) -> &'a [f32] {
        match source {
            Source::Param(i) => &params[i],
            Source::Prepared(i) => prepared.output(&self.preparation, i),
        }
    }

    pub(super) fn run(&self, part: usize, e: &mut Environment) -> Result<()> {
        self.plan.run_part(part, &mut e.memory)
    }
}

impl Environment {
    /// Input and target of the batch, to be filled; whole numbers where they are int32.
    pub(crate) fn batch_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.x, &mut self.target)
    }

    /// Takes over the batch that was filled in, and what its gradients are multiplied by.
    pub(crate) fn begin(&mut self, loss_scale: f32) {
        let side = &*self.side;
        let input = |id: Option<ValueId>| match side.slot(id?)? {
            Slot::Input(i) => Some(i),
            _ => None,
        };
        for (id, value) in [(side.x, &mut self.x), (side.target, &mut self.target)] {
            if let Some(i) = input(id) {
                match self.memory.input_floats_mut(&side.plan, i) {
                    Some(floats) => std::mem::swap(floats, value),
                    None => self.memory.write_input(&side.plan, i, value),
                }
            }
        }
        if let Some(i) = input(side.loss_scale) {
            self.memory.write_input(&side.plan, i, &[loss_scale]);
        }
    }

    /// A value made of parameters alone.
    pub(super) fn source<'a>(&'a self, source: Source, params: &'a [Floats]) -> &'a [f32] {
        self.side.value(source, &self.prepared, params)
    }

    /// Whether gradients that can be are added to those that are there, from now on.
    pub(crate) fn add(&mut self, adds: bool) {
        self.memory.add(adds);
    }

    /// Whether the gradient of a parameter that is trained is then the sum of all steps since it was not.
    pub(crate) fn is_added(&self, param: usize) -> bool {
        self.side.is_added[param]
    }

    /// The loss, after a step.
    pub(crate) fn loss(&self) -> f32 {
        self.get(self.side.loss).first().copied().unwrap_or(f32::NAN)
    }

    /// The gradient of a parameter that is trained, after a step.
    pub(crate) fn gradient(&self, param: usize) -> &[f32] {
        self.get(self.side.gradients[param])
    }

    /// A value that goes between host and device, or that the trainer reads.
    pub(crate) fn get(&self, id: ValueId) -> &[f32] {
        match self.side.slot(id) {
            Some(Slot::Input(i)) => self.memory.input(&self.side.plan, i),
            Some(Slot::Output(i)) => self.memory.output(&self.side.plan, i),
            Some(Slot::Prepared(i)) => self.prepared.output(&self.side.preparation, i),
            None => &[],
        }
    }

    /// A value that goes to the device, if its memory can be lent.
    pub(crate) fn lendable(&self, id: ValueId) -> Option<&Floats> {
        match self.side.slot(id)? {
            Slot::Input(i) => self.memory.lendable_input(&self.side.plan, i),
            Slot::Output(i) => self.memory.lendable_output(&self.side.plan, i),
            Slot::Prepared(i) => self.prepared.lendable_output(&self.side.preparation, i),
        }
    }

    /// The memory of a value that the device makes.
    pub(crate) fn floats_mut(&mut self, id: ValueId) -> Option<&mut Floats> {
        match self.side.slot(id)? {
            Slot::Input(i) => self.memory.input_floats_mut(&self.side.plan, i),
            _ => None,
        }
    }

    /// A value that the device makes.
    pub(crate) fn get_mut(&mut self, id: ValueId) -> &mut [f32] {
        match self.side.slot(id) {
            Some(Slot::Input(i)) => self.memory.input_mut(&self.side.plan, i),
            _ => &mut [],
        }
    }
}

/// The calls, part by part, as a program of their own, and the number of its calls after each part.
fn program(
    f: &ValidFunction,
    inputs: &[ValueId],
    parts: &[&[usize]],
    outputs: &[ValueId],
) -> Result<(ValidProgram, Vec<usize>)> {
    let mut replay = Replay::new(f, Version::V1_3);
    for &id in inputs {
        replay.input(id)?;
    }
    let (mut n_calls, mut ends) = (0, Vec::new());
    for part in parts {
        for &i in *part {
            replay.call(&f.body.calls[i])?;
        }
        n_calls += part.len();
        ends.push(n_calls);
    }
    let results = outputs.iter().map(|&id| replay.value(id)).collect::<Result<Vec<_>, _>>()?;
    Ok((validate(replay.builder.finish(&results)?, &Limits::none())?, ends))
}

/// Floating-point operations of a matrix product or convolution; 0 for other ops.
pub(super) fn n_flops(f: &ValidFunction, call: &ValidCall) -> u64 {
    let shape = |name: &str| f.value(arg(call, name)?).ty.as_tensor()?.fixed_shape();
    let n = |shape: &[usize]| shape.iter().map(|&d| d as u64).product::<u64>();
    let out = f.value(call.outputs[0]).ty.as_tensor().and_then(|t| t.fixed_shape()).unwrap_or_default();
    match call.op.name {
        "matmul" => {
            let (Some(x), Some(y)) = (shape("x"), shape("y")) else { return 0 };
            // Elements of x [m, k], y [k, n] and z [m, n] multiply to (m k n)^2, one of a batch at a time.
            let last = |s: &[usize]| n(&s[s.len().saturating_sub(2)..]) as f64;
            let terms = (last(&x) * last(&y) * last(&out)).sqrt().round() as u64;
            2 * terms * n(&out[..out.len().saturating_sub(2)])
        }
        "conv" => 2 * n(&out) * shape("weight").map_or(0, |w| n(&w[1..])),
        "conv_transpose" => 2 * shape("x").map_or(0, |x| n(&x)) * shape("weight").map_or(0, |w| n(&w[1..])),
        _ => 0,
    }
}
