//! A program with its gradients taken apart into forward and backward, and values computed again rather than kept.

use super::Gradient;
use crate::error::Result;
use crate::ir::Program;
use crate::limits::Limits;
use crate::ops::OpDef;
use crate::replay::Replay;
use crate::valid::{Origin, ValidCall, ValidFunction, ValidProgram, ValueId, validate};
use std::collections::{HashMap, HashSet};

/// Two programs that together compute what a [`Gradient`] does.
#[derive(Clone, Debug)]
pub struct Halves {
    /// From the inputs of the original program to its outputs and after them those taps that are none of these.
    pub forward: Program,
    /// From the taps and, if there is one, the seed to the gradients, in the order they were asked for.
    pub backward: Program,
    /// The names of the values that the backward program needs of the forward program, its inputs among them.
    pub taps: Vec<String>,
}

impl Gradient {
    /// The forward and the backward part as programs of their own. Results of ops that `recompute` says yes to are
    /// not handed over but computed again in the backward program.
    ///
    /// # Errors
    ///
    /// If a call has nested blocks.
    pub fn halves(&self, recompute: impl Fn(&OpDef) -> bool) -> Result<Halves> {
        let program = validate(self.program.clone(), &Limits::none())?;
        let parts = Parts::new(self, &program, recompute);
        let f = parts.f;
        let (forward, backward) = f.body.calls.split_at(self.n_forward);
        let (originals, gradients) = f.outputs.split_at(f.outputs.len() - self.gradients.len());
        let taps = parts.taps(used(backward).chain(gradients.iter().copied()));

        let mut first = Replay::new(f, program.program().version);
        for &id in f.inputs.iter().filter(|&&id| !parts.is_seed(id)) {
            first.input(id)?;
        }
        for call in forward {
            first.call(call)?;
        }
        let there: HashSet<ValueId> = originals.iter().chain(&f.inputs).copied().collect();
        let handed = taps.iter().filter(|id| !there.contains(id));
        let outputs = originals.iter().chain(handed).map(|&id| first.value(id)).collect::<Result<Vec<_>>>()?;

        let mut second = Replay::new(f, program.program().version);
        for &id in &taps {
            second.input(id)?;
        }
        let gradients = parts.backward(&mut second, backward, gradients)?;
        let names = taps.iter().filter(|&&id| !parts.is_seed(id)).map(|&id| f.value(id).name.clone());
        Ok(Halves {
            forward: first.builder.finish(&outputs)?,
            taps: names.collect(),
            backward: second.builder.finish(&gradients)?,
        })
    }

    /// The same program, but that its backward part computes results of ops that `recompute` says yes to again
    /// instead of reading them from the forward part, so that they need not be kept.
    ///
    /// # Errors
    ///
    /// If a call has nested blocks.
    pub fn recomputed(self, recompute: impl Fn(&OpDef) -> bool) -> Result<Gradient> {
        let program = validate(self.program.clone(), &Limits::none())?;
        let parts = Parts::new(&self, &program, recompute);
        let f = parts.f;
        let (forward, backward) = f.body.calls.split_at(self.n_forward);
        let (originals, gradients) = f.outputs.split_at(f.outputs.len() - self.gradients.len());
        let mut replay = Replay::new(f, program.program().version);
        for &id in &f.inputs {
            replay.input(id)?;
        }
        for call in forward {
            replay.call(call)?;
        }
        let mut outputs = originals.iter().map(|&id| replay.value(id)).collect::<Result<Vec<_>>>()?;
        parts.made.keys().filter(|id| parts.is_again(**id)).for_each(|&id| replay.forget(id));
        let gradients = parts.backward(&mut replay, backward, gradients)?;
        let names = gradients.iter().map(|&v| replay.builder.name(v).to_string()).collect();
        outputs.extend(gradients);
        Ok(Gradient { program: replay.builder.finish(&outputs)?, gradients: names, ..self })
    }
}

/// What the halves are cut from.
struct Parts<'a, R> {
    f: &'a ValidFunction,
    /// The call of the forward part that makes a value.
    made: HashMap<ValueId, &'a ValidCall>,
    /// The inputs that only the backward part reads.
    seeds: HashSet<ValueId>,
    recompute: R,
}

impl<'a, R: Fn(&OpDef) -> bool> Parts<'a, R> {
    fn new(gradient: &Gradient, program: &'a ValidProgram, recompute: R) -> Parts<'a, R> {
        let f = program.main();
        let forward = &f.body.calls[..gradient.n_forward];
        let made = forward.iter().flat_map(|c| c.outputs.iter().map(move |&v| (v, c))).collect();
        let seeds = f.inputs[gradient.n_inputs..].iter().copied().collect();
        Parts { f, made, seeds, recompute }
    }

    fn is_seed(&self, id: ValueId) -> bool {
        self.seeds.contains(&id)
    }

    /// Whether the backward part computes this value of the forward part again.
    fn is_again(&self, id: ValueId) -> bool {
        self.made.get(&id).is_some_and(|call| (self.recompute)(call.op))
    }

    /// The inputs and the values of the forward part that must be there to have the given values in the backward
    /// part, in the order they are defined.
    fn taps(&self, wanted: impl Iterator<Item = ValueId>) -> Vec<ValueId> {
        let mut open: Vec<ValueId> = wanted.collect();
        let (mut seen, mut taps) = (HashSet::new(), Vec::new());
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            if self.is_again(id) {
                open.extend(used(std::slice::from_ref(self.made[&id])));
            } else if self.made.contains_key(&id) || self.f.value(id).origin == Origin::Input {
                taps.push(id);
            }
        }
        taps.sort();
        taps
    }

    /// Makes the calls of the backward part, and what they need computed again right before they need it.
    fn backward(
        &self,
        replay: &mut Replay<'_>,
        calls: &[ValidCall],
        gradients: &[ValueId],
    ) -> Result<Vec<crate::builder::Value>> {
        for call in calls {
            self.again(replay, used(std::slice::from_ref(call)))?;
            replay.call(call)?;
        }
        self.again(replay, gradients.iter().copied())?;
        gradients.iter().map(|&id| replay.value(id)).collect()
    }

    /// Computes again those of the values that are to be and are not there yet, after what they need.
    fn again(&self, replay: &mut Replay<'_>, ids: impl Iterator<Item = ValueId>) -> Result<()> {
        let mut open: Vec<ValueId> = ids.collect();
        while let Some(&id) = open.last() {
            let call = match self.made.get(&id) {
                Some(&call) if self.is_again(id) && replay.get(id).is_none() => call,
                _ => {
                    open.pop();
                    continue;
                }
            };
            let missing = |&v: &ValueId| self.is_again(v) && replay.get(v).is_none();
            let needed: Vec<ValueId> = used(std::slice::from_ref(call)).filter(missing).collect();
            if needed.is_empty() {
                replay.call(call)?;
                open.pop();
            }
            open.extend(needed);
        }
        Ok(())
    }
}

/// The values that calls read.
fn used(calls: &[ValidCall]) -> impl Iterator<Item = ValueId> {
    calls.iter().flat_map(|c| c.args.iter().flatten()).flat_map(|a| a.ids().iter().copied())
}
