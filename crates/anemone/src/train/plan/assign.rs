//! Says of each call of the training graph where it runs, and in which order.

use super::Target;
use super::fit::{is_computed, is_taken, made_of_params};
use crate::config::{Io, Place, Strategy};
use crate::error::Result;
use crate::train::programs::{DeviceCall, Form, arg, constant};
use anemone_mil::Tensor;
use anemone_mil::valid::{ValidCall, ValidFunction, ValueId};
use std::collections::{HashMap, HashSet};

/// The calls of a function in the order they run, by number.
pub(super) struct Assigned {
    pub(super) order: Vec<Piece>,
    /// What runs on the device, in the order it runs.
    pub(super) calls: Vec<DeviceCall>,
    /// The values made of parameters alone that are needed, by the calls that make them.
    pub(super) prepared: Vec<usize>,
    /// Layers that stay on the host, and why.
    pub(super) reasons: Vec<(String, String)>,
}

/// A part of a step, with the numbers of its calls.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// The next of the device's calls.
    Device,
    Host(Vec<usize>),
    Deferred(Vec<usize>),
}

/// Sorts the calls.
///
/// # Errors
///
/// If fp32 inputs and outputs are refused where fp16 ones are not.
pub(super) fn assign(f: &ValidFunction, params: &[&str], loss: &str, target: Target<'_>) -> Result<Assigned> {
    let calls = &f.body.calls;
    let of_params = made_of_params(f, params);
    let made_by: HashMap<ValueId, usize> =
        calls.iter().enumerate().flat_map(|(i, c)| c.outputs.iter().map(move |&v| (v, i))).collect();
    let is_prepared: Vec<bool> = calls.iter().map(|c| of_params.contains(&c.outputs[0])).collect();

    let mut on_device: HashMap<usize, DeviceCall> = HashMap::new();
    let mut with: HashMap<usize, usize> = HashMap::new();
    let mut reasons = Vec::new();
    let mut known: Vec<(Form, Option<String>)> = Vec::new();
    for (i, call) in calls.iter().enumerate() {
        let is_layer = matches!(call.op.name, "conv" | "conv_transpose")
            && arg(call, "weight").is_some_and(|w| of_params.contains(&w))
            && !is_prepared[i];
        let found = if is_layer {
            let source = arg(call, "weight").and_then(|w| made_by.get(&w)).map(|&i| &calls[i]);
            DeviceCall::of(f, call, source, target.strategy)
        } else if target.config.weight_gradients == Place::Device && !is_prepared[i] {
            let sum = only_reader(f, call.outputs[0]).filter(|&s| sums_the_batch(f, &calls[s]));
            match DeviceCall::weight_gradient(f, call, sum.map(|s| &calls[s])) {
                Some(d) => {
                    with.extend(sum.filter(|&s| calls[s].outputs[0] == d.output).map(|s| (i, s)));
                    Ok(d)
                }
                None => continue,
            }
        } else {
            continue;
        };
        let label = f.label(call).to_string();
        match found {
            Err(why) => reasons.push((label, why)),
            Ok(device_call) => match refusal(&device_call.form, &mut known, target)? {
                Some(why) => {
                    with.remove(&i);
                    reasons.push((label, why));
                }
                None => drop(on_device.insert(i, device_call)),
            },
        }
    }
    leave_what_exceeds_the_budget(&mut on_device, &mut with, &mut reasons, target);

    let follows: HashSet<usize> = with.values().copied().collect();
    let is_host = |i: usize| !is_prepared[i] && !on_device.contains_key(&i) && !follows.contains(&i);
    let urgent = urgent(f, &made_by, &on_device, loss, &is_host);
    let mut order = Vec::new();
    let (mut host, mut deferred) = (Vec::new(), Vec::new());
    let flush = |order: &mut Vec<Piece>, host: &mut Vec<usize>, deferred: &mut Vec<usize>| {
        let (h, d) = (std::mem::take(host), std::mem::take(deferred));
        order.extend((!h.is_empty()).then_some(Piece::Host(h)));
        order.extend((!d.is_empty()).then_some(Piece::Deferred(d)));
    };
    let mut device_calls = Vec::new();
    for i in 0..calls.len() {
        if let Some(call) = on_device.remove(&i) {
            flush(&mut order, &mut host, &mut deferred);
            device_calls.push(call);
            order.push(Piece::Device);
        } else if !is_prepared[i] && !follows.contains(&i) {
            if urgent[i] { host.push(i) } else { deferred.push(i) }
        }
    }
    flush(&mut order, &mut host, &mut deferred);
    let prepared = needed_of_prepared(f, &is_prepared, &made_by, &device_calls, &order);
    Ok(Assigned { order, calls: device_calls, prepared, reasons })
}

/// Why the device does not take a program; known forms are not tried again.
fn refusal(form: &Form, known: &mut Vec<(Form, Option<String>)>, target: Target<'_>) -> Result<Option<String>> {
    if let Some((_, why)) = known.iter().find(|(f, _)| f == form) {
        return Ok(why.clone());
    }
    let why = match is_taken(form, target) {
        Ok(()) => None,
        Err(refusal) => {
            let fp16 = Target { io: Io::Fp16, ..target };
            if target.io == Io::Fp32 && is_taken(form, fp16).is_ok() {
                return Err(refusal.error);
            }
            Some(refusal.why)
        }
    };
    known.push((form.clone(), why.clone()));
    Ok(why)
}

/// Takes programs off the device beyond those that a process can compile and keep loaded, those with the least
/// work first.
fn leave_what_exceeds_the_budget(
    on_device: &mut HashMap<usize, DeviceCall>,
    with: &mut HashMap<usize, usize>,
    reasons: &mut Vec<(String, String)>,
    target: Target<'_>,
) {
    let budgets = [target.limits.max_live_programs(), target.limits.max_compiles()];
    let Some(max) = budgets.into_iter().flatten().min() else { return };
    // New kernels are compiled while the old ones train on.
    let max = if target.overlap { max / 2 } else { max };
    let mut programs: Vec<(u64, Vec<usize>)> = Vec::new();
    let mut calls: Vec<(&usize, &DeviceCall)> = on_device.iter().collect();
    calls.sort_by_key(|(i, _)| **i);
    let mut forms: Vec<&Form> = Vec::new();
    for (&i, call) in calls {
        let same = forms.iter().position(|&f| target.strategy == Strategy::Operand && *f == call.form);
        match same {
            Some(p) => {
                programs[p].0 += call.form.n_flops();
                programs[p].1.push(i);
            }
            None => {
                forms.push(&call.form);
                programs.push((call.form.n_flops(), vec![i]));
            }
        }
    }
    programs.sort_by_key(|p| std::cmp::Reverse(p.0));
    for i in programs.into_iter().skip(max).flat_map(|(_, calls)| calls) {
        with.remove(&i);
        if let Some(call) = on_device.remove(&i) {
            reasons
                .push((call.label, format!("a process has {max} programs for a step, and others have more work")));
        }
    }
}

/// Whether each call must run before some call of the device, or makes the loss.
fn urgent(
    f: &ValidFunction,
    made_by: &HashMap<ValueId, usize>,
    on_device: &HashMap<usize, DeviceCall>,
    loss: &str,
    is_host: &dyn Fn(usize) -> bool,
) -> Vec<bool> {
    let mut urgent = vec![false; f.body.calls.len()];
    let of_loss = f.outputs.iter().copied().filter(|&v| f.value(v).name == loss);
    let mut open: Vec<ValueId> =
        on_device.values().flat_map(|c| c.inputs.iter().copied()).chain(of_loss).collect();
    while let Some(id) = open.pop() {
        if let Some(&i) = made_by.get(&id)
            && is_host(i)
            && !std::mem::replace(&mut urgent[i], true)
        {
            open.extend(f.body.calls[i].args.iter().flatten().flat_map(|a| a.ids()));
        }
    }
    urgent
}

/// The calls on parameters alone that weights of the device, calls of the host or outputs need.
fn needed_of_prepared(
    f: &ValidFunction,
    is_prepared: &[bool],
    made_by: &HashMap<ValueId, usize>,
    device: &[DeviceCall],
    order: &[Piece],
) -> Vec<usize> {
    let host = order.iter().flat_map(|p| match p {
        Piece::Host(calls) | Piece::Deferred(calls) => &calls[..],
        Piece::Device => &[],
    });
    let args = |i: usize| f.body.calls[i].args.iter().flatten().flat_map(|a| a.ids()).copied();
    let weights = device.iter().filter_map(|c| c.weight);
    let mut open: Vec<ValueId> =
        host.flat_map(|&i| args(i)).chain(weights).chain(f.outputs.iter().copied()).collect();
    let mut needed = HashSet::new();
    while let Some(id) = open.pop() {
        if let Some(&i) = made_by.get(&id)
            && is_prepared[i]
            && needed.insert(i)
        {
            open.extend(args(i));
        }
    }
    let mut needed: Vec<usize> = needed.into_iter().collect();
    needed.sort_unstable();
    needed
}

fn sums_the_batch(f: &ValidFunction, call: &ValidCall) -> bool {
    call.op.name == "reduce_sum" && constant(f, call, "axes").and_then(Tensor::ints) == Some(&[0])
}

/// The only call that reads a value, which is no output.
fn only_reader(f: &ValidFunction, id: ValueId) -> Option<usize> {
    if f.outputs.contains(&id) {
        return None;
    }
    let mut readers =
        f.body.calls.iter().enumerate().filter(|(_, c)| c.args.iter().flatten().any(|a| a.ids().contains(&id)));
    let (i, _) = readers.next()?;
    readers.next().is_none().then_some(i)
}

/// The values that calls read but do not make, each once, in order.
pub(super) fn read_from_outside(f: &ValidFunction, calls: &[usize]) -> Vec<ValueId> {
    let made: HashSet<ValueId> = calls.iter().flat_map(|&i| f.body.calls[i].outputs.iter().copied()).collect();
    let mut seen = HashSet::new();
    let args =
        calls.iter().flat_map(|&i| f.body.calls[i].args.iter().flatten()).flat_map(|a| a.ids().iter().copied());
    args.filter(|id| is_computed(f, *id) && !made.contains(id) && seen.insert(*id)).collect()
}
