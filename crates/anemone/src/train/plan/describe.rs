//! A plan in words and figures.

use super::Target;
use super::assign::Piece;
use super::host::{HostSide, n_flops};
use crate::config::{Io, Strategy};
use crate::train::programs::{DeviceCall, Form};
use anemone_mil::valid::ValidFunction;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What a step does where, as [`Trainer::plan`](crate::Trainer::plan) gives it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// How kernels get new weights.
    pub strategy: Strategy,
    /// The element type of the programs' inputs and outputs.
    pub io: Io,
    /// The programs of the device.
    pub programs: Vec<ProgramUse>,
    /// What the host computes, by op.
    pub host: Vec<HostOp>,
    /// Layers that stay on the host, and why.
    pub refused: Vec<(String, String)>,
    /// Times a step that the device is called.
    pub dispatches: usize,
    /// Programs compiled at an update; those of `operand` are compiled once.
    pub compiles: usize,
    /// Bytes a step writes to the device and reads from it, weights left out.
    pub bytes_moved: usize,
    /// Bytes of weights written, or compiled in, an update.
    pub weight_bytes: usize,
    /// Floating-point operations of a step in matrix products on the device.
    pub device_flops: u64,
    /// The same on the host.
    pub host_flops: u64,
    /// Bytes of the memory in which the host runs its part of a step.
    pub host_bytes: usize,
}

/// A program of the device, and the calls it serves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProgramUse {
    /// What it computes, such as `W x` or `W^T x`.
    pub what: String,
    /// The shapes of weights, input and output.
    pub shapes: String,
    /// The calls, by the names of their outputs in the training graph.
    pub calls: Vec<String>,
    /// Floating-point operations of one call.
    pub flops: u64,
    /// Bytes one call writes and reads, weights left out.
    pub bytes: usize,
    /// Bytes of the weights of one call.
    pub weight_bytes: usize,
}

/// An op on the host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostOp {
    /// Its name.
    pub op: String,
    /// Calls a step.
    pub calls: usize,
    /// Floating-point operations a step, of matrix products.
    pub flops: u64,
}

impl Description {
    pub(super) fn new(
        f: &ValidFunction,
        order: &[Piece],
        calls: &[DeviceCall],
        refused: &[(String, String)],
        host: &HostSide,
        target: Target<'_>,
    ) -> Description {
        let size = target.io.dtype().bits().unwrap_or(0) as usize / 8;
        let weight_size = if target.strategy == Strategy::Baked { 2 } else { size };
        let mut programs: Vec<(&Form, ProgramUse)> = Vec::new();
        let mut weight_elements = 0;
        for call in calls {
            let [n_in, n_weight, n_out] = call.form.n_elements();
            weight_elements += n_weight;
            let shared =
                |(form, _): &(&Form, ProgramUse)| target.strategy == Strategy::Operand && **form == call.form;
            if let Some(i) = programs.iter().position(shared) {
                programs[i].1.calls.push(call.label.clone());
                continue;
            }
            let (what, shapes) = call.form.words();
            let (flops, bytes) = (call.form.n_flops(), (n_in + n_out) * size);
            let calls = vec![call.label.clone()];
            let weight_bytes = n_weight * weight_size;
            programs.push((&call.form, ProgramUse { what, shapes, calls, flops, bytes, weight_bytes }));
        }
        let programs: Vec<ProgramUse> = programs.into_iter().map(|(_, p)| p).collect();
        let mut ops: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for piece in order {
            if let Piece::Host(calls) | Piece::Deferred(calls) = piece {
                for call in calls.iter().map(|&i| &f.body.calls[i]) {
                    let entry = ops.entry(call.op.name).or_default();
                    *entry = (entry.0 + 1, entry.1 + n_flops(f, call));
                }
            }
        }
        Description {
            strategy: target.strategy,
            io: target.io,
            dispatches: calls.len(),
            compiles: programs.len(),
            bytes_moved: programs.iter().map(|p| p.bytes * p.calls.len()).sum(),
            weight_bytes: weight_elements * weight_size,
            device_flops: calls.iter().map(|c| c.form.n_flops()).sum(),
            host_flops: ops.values().map(|(_, flops)| flops).sum(),
            host_bytes: host.n_bytes(),
            host: ops
                .into_iter()
                .map(|(op, (calls, flops))| HostOp { op: op.to_string(), calls, flops })
                .collect(),
            programs,
            refused: refused.to_vec(),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |n: u64| n as f64 / 1e6;
        let kib = |n: usize| n as f64 / 1024.0;
        let weights = match self.strategy {
            Strategy::Baked => "compiled in at every update",
            Strategy::Operand => "passed in, compiled once",
        };
        writeln!(f, "On the device, inputs and outputs {:?}, weights {weights}:", self.io)?;
        let width = self.programs.iter().map(|p| p.shapes.len()).max().unwrap_or(0);
        for p in &self.programs {
            let first = p.calls.first().map_or("", |c| c.as_str());
            let more = match p.calls.len() {
                0 | 1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            writeln!(
                f,
                "  {:>3} x {:<9} {:<width$} {:>9.1} MFLOP {:>9.1} KiB  {first}{more}",
                p.calls.len(),
                p.what,
                p.shapes,
                mega(p.flops),
                kib(p.bytes)
            )?;
        }
        writeln!(f, "On the host, in f32:")?;
        for op in &self.host {
            let flops = if op.flops > 0 { format!("{:>9.1} MFLOP", mega(op.flops)) } else { String::new() };
            writeln!(f, "{}", format!("  {:>3} x {:<52} {flops}", op.calls, op.op).trim_end())?;
        }
        for (label, why) in &self.refused {
            writeln!(f, "Layer `{label}` stays on the host: {why}")?;
        }
        writeln!(f, "A step: {} dispatches of {} programs", self.dispatches, self.programs.len())?;
        writeln!(
            f,
            "  {:.1} KiB to and from the device, {:.1} KiB of weights an update",
            kib(self.bytes_moved),
            kib(self.weight_bytes)
        )?;
        let all = (self.device_flops + self.host_flops).max(1);
        writeln!(
            f,
            "  {:.1} MFLOP in products, {:.0} % of it on the device; the host works in {:.1} MiB",
            mega(all),
            100.0 * self.device_flops as f64 / all as f64,
            kib(self.host_bytes) / 1024.0
        )
    }
}
