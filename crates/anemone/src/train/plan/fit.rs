//! Makes linear layers of what the device would take as such: convolutions unfolded, layers too large split.

use super::Target;
use crate::config::Strategy;
use crate::error::{Error, Result};
use crate::train::programs::{DeviceCall, Form, arg};
use anemone_mil::limits::{Check, Effect, Limits, Rule};
use anemone_mil::valid::{Origin, ValidCall, ValidFunction, ValueId, check};
use anemone_mil::{ValidProgram, pass, validate};
use std::collections::HashSet;

/// The most parts an axis is split into; a layer that is refused even so runs on the host.
const MAX_PARTS: usize = 64;

/// The program with its convolutions unfolded where weights are passed in, and with layers split that the device
/// refuses for their size.
pub(super) fn to_device(forward: &ValidProgram, params: &[&str], target: Target<'_>) -> Result<ValidProgram> {
    let of_params = |f: &ValidFunction, call: &ValidCall| {
        arg(call, "weight").is_some_and(|w| made_of_params(f, params).contains(&w))
    };
    let mut program = forward.clone();
    let is_operand = target.strategy == Strategy::Operand;
    if is_operand {
        program = validate(pass::unfold(&program, of_params)?, &Limits::none())?;
    }
    let parts = |f: &ValidFunction, call: &ValidCall| {
        if !of_params(f, call) {
            return None;
        }
        let layer = DeviceCall::of(f, call, None, target.strategy).ok()?;
        parts_that_fit(&layer.form, target).filter(|&parts| parts != (1, 1))
    };
    Ok(validate(pass::split(&program, parts)?, &Limits::none())?)
}

/// The values made of parameters alone, these included.
pub(super) fn made_of_params(f: &ValidFunction, params: &[&str]) -> HashSet<ValueId> {
    let is_param = |id: &ValueId| params.contains(&f.value(*id).name.as_str());
    let mut made: HashSet<ValueId> = f.inputs.iter().copied().filter(is_param).collect();
    for call in &f.body.calls {
        let mut args = call.args.iter().flatten().flat_map(|a| a.ids()).filter(|id| !f.value(**id).is_constant());
        if call.args.iter().flatten().flat_map(|a| a.ids()).any(|id| made.contains(id))
            && args.all(|id| made.contains(id))
        {
            made.extend(&call.outputs);
        }
    }
    made
}

/// The fewest parts of output and input channels with which the device takes the layer and its backward part;
/// `None` if there are none.
fn parts_that_fit(form: &Form, target: Target<'_>) -> Option<(usize, usize)> {
    let (n_out, n_in) = form.channels()?;
    let powers = |n: usize| (0..).map(|i| 1 << i).take_while(move |&p| p <= n.min(MAX_PARTS));
    let mut grids: Vec<(usize, usize)> = powers(n_out).flat_map(|o| powers(n_in).map(move |i| (o, i))).collect();
    grids.sort_by_key(|(o, i)| o * i);
    grids.into_iter().find(|&(o, i)| {
        // Parts differ by one where the channels cannot be divided.
        let sizes = |n: usize, parts: usize| [n / parts, n.div_ceil(parts)];
        sizes(n_out, o).into_iter().flat_map(|o| sizes(n_in, i).map(|i| (o, i))).all(|(o, i)| {
            let part = form.with_channels(o, i);
            is_taken(&part, target).is_ok() && is_taken(&part.backward(), target).is_ok()
        })
    })
}

/// Why the device does not take a program.
pub(super) struct Refusal {
    pub(super) why: String,
    /// The error itself.
    pub(super) error: Error,
}

/// Whether the device takes a program and computes it right, for all we know.
pub(super) fn is_taken(form: &Form, target: Target<'_>) -> Result<(), Refusal> {
    let program = form.program(target.io).map_err(|error| Refusal { why: error.to_string(), error })?;
    let (_, findings) = check(program.clone(), target.limits);
    let is_wrong = |code: &str| {
        // What else goes wrong unnoticed (orders, widths), devices see to themselves.
        let rule = Rule::of_name(code);
        rule.is_some_and(|r| r.effect == Effect::Wrong && matches!(r.check, Check::ContractionMultiple(_)))
    };
    if let Some(wrong) = findings.iter().find(|d| is_wrong(d.code)) {
        let why = format!("rule `{}`: {}", wrong.code, wrong.message);
        return Err(Refusal { error: Error::config(why.clone()), why });
    }
    match validate(program, target.limits) {
        Ok(_) => Ok(()),
        Err(e) => {
            let first = findings.iter().find(|d| d.severity == anemone_mil::error::Severity::Error);
            let why = first.map_or_else(|| e.to_string(), |d| format!("rule `{}`: {}", d.code, d.message));
            Err(Refusal { why, error: e.into() })
        }
    }
}

/// Whether a value is computed, or passed in: no constant.
pub(super) fn is_computed(f: &ValidFunction, id: ValueId) -> bool {
    matches!(f.value(id).origin, Origin::Input | Origin::Call)
}
