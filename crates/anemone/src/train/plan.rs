//! What runs where: cuts a training graph into programs for the device and work for the host.
//!
//! Linear layers (convolutions whose weights depend on parameters alone), forward and backward, run on the device
//! in fp16, one program each. What depends on parameters alone, such as the transposed weights of a backward
//! layer, is prepared on the host once a weight version. The rest (activations, loss, gradients of weights) runs
//! on the host in f32, by the same steps the software engine has.

use super::programs::Linear;
use crate::error::{Error, Result};
use crate::nn::{Built, INPUT, TARGET};
use crate::soft::plan::Plan;
use crate::soft::steps::Memory;
use anemone_mil::grad::{Seed, gradient};
use anemone_mil::ir::Version;
use anemone_mil::limits::Limits;
use anemone_mil::replay::Replay;
use anemone_mil::valid::{ArgIds, ValidCall, ValidFunction, ValueId};
use anemone_mil::{Weights, validate};
use std::collections::HashSet;
use std::ops::Range;

/// The name of the input that gradients start from.
const LOSS_SCALE: &str = "loss_scale";

/// A training graph, cut.
pub(crate) struct TrainPlan {
    /// In the order they run.
    pub(crate) pieces: Vec<Piece>,
    /// What the device's weights are made of; runs when parameters have changed.
    pub(crate) preparation: HostPiece,
    pub(crate) x: ValueId,
    pub(crate) target: ValueId,
    pub(crate) loss_scale: ValueId,
    pub(crate) loss: ValueId,
    /// The parameters, and in the same order the gradients of those that are trained.
    pub(crate) params: Vec<ValueId>,
    pub(crate) gradients: Vec<ValueId>,
    /// Floating-point operations of a step in matrix products, on the device and on the host.
    pub(crate) n_device_flops: u64,
    pub(crate) n_host_flops: u64,
    /// The number of elements of each value of the graph.
    sizes: Vec<usize>,
}

/// A part of a step.
pub(crate) enum Piece {
    /// Runs on the device: the number of the layer among the linear layers.
    Device(usize, Linear),
    Host(HostPiece),
}

/// Calls that run on the host, as a program of their own.
pub(crate) struct HostPiece {
    plan: Plan,
    memory: Memory,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

/// The values that go from piece to piece, by number; empty for those that do not.
pub(crate) struct Environment {
    values: Vec<Vec<f32>>,
}

impl TrainPlan {
    /// Cuts the graph of a model. With `input_gradient`, the gradient of the input is computed too.
    ///
    /// # Errors
    ///
    /// If an op has no gradient, or cannot be run.
    pub(crate) fn new(built: &Built, input_gradient: bool) -> Result<TrainPlan> {
        let forward = validate(built.program.clone(), &Limits::none())?;
        let trained = built.params.iter().filter(|(spec, _)| spec.trainable);
        let mut wrt: Vec<&str> = trained.map(|(_, name)| name.as_str()).collect();
        if input_gradient {
            wrt.push(INPUT);
        }
        let joint = gradient(&forward, &built.loss, &wrt, Seed::Input(LOSS_SCALE))?;
        let program = validate(joint.program, &Limits::none())?;
        let f = program.main();
        let input = |name: &str| {
            let found = f.inputs.iter().find(|&&v| f.value(v).name == name);
            found.copied().ok_or_else(|| Error::config(format!("the training graph has no input `{name}`")))
        };
        let params = built.params.iter().map(|(_, name)| input(name)).collect::<Result<Vec<_>>>()?;
        let output = |name: &str| f.outputs.iter().copied().find(|&v| f.value(v).name == name);
        let find = |name: &str| {
            output(name).ok_or_else(|| Error::config(format!("the training graph has no output `{name}`")))
        };
        let gradients = joint.gradients.iter().map(|g| find(g)).collect::<Result<Vec<_>>>()?;

        let parts = classify(f, &params)?;
        let mut kept: HashSet<ValueId> = gradients.iter().copied().collect();
        let loss = find(&built.loss)?;
        kept.insert(loss);
        // A host value is kept if another piece or the trainer reads it.
        let mut reads: Vec<HashSet<ValueId>> = Vec::new();
        for part in &parts.in_order {
            reads.push(match part {
                Part::Device(linear) => HashSet::from([linear.x]),
                Part::Host(calls) => used(f, &f.body.calls[calls.clone()]),
            });
        }
        let weights: HashSet<ValueId> = parts
            .in_order
            .iter()
            .filter_map(|p| match p {
                Part::Device(l) => Some(l.weight),
                Part::Host(_) => None,
            })
            .collect();
        let host_flops = std::cell::Cell::new(0);
        let host = |calls: &[&ValidCall], read_later: &HashSet<ValueId>| {
            host_flops.set(host_flops.get() + calls.iter().map(|c| n_flops(f, c)).sum::<u64>());
            HostPiece::new(f, calls, read_later)
        };
        let mut pieces = Vec::new();
        let mut n_device_flops = 0;
        let mut n_layers = 0;
        for (i, part) in parts.in_order.into_iter().enumerate() {
            pieces.push(match part {
                Part::Device(linear) => {
                    n_device_flops += linear.n_flops();
                    n_layers += 1;
                    Piece::Device(n_layers - 1, linear)
                }
                Part::Host(calls) => {
                    let later: HashSet<ValueId> = reads[i + 1..].iter().flatten().chain(&kept).copied().collect();
                    let calls: Vec<&ValidCall> =
                        f.body.calls[calls].iter().filter(|c| !parts.prepared.contains(&c.outputs[0])).collect();
                    Piece::Host(host(&calls, &later)?)
                }
            });
        }
        let prepared: Vec<&ValidCall> =
            f.body.calls.iter().filter(|c| parts.prepared.contains(&c.outputs[0])).collect();
        // Host pieces may use what was prepared as well.
        let read: HashSet<ValueId> = reads.iter().flatten().copied().chain(weights).collect();
        let preparation = HostPiece::new(f, &prepared, &read)?;
        let sizes = f.values.iter().map(|v| v.ty.as_tensor().and_then(|t| t.n_elements()).unwrap_or(0)).collect();
        Ok(TrainPlan {
            pieces,
            preparation,
            x: input(INPUT)?,
            target: input(TARGET)?,
            loss_scale: input(LOSS_SCALE)?,
            loss,
            params,
            gradients,
            n_device_flops,
            n_host_flops: host_flops.get(),
            sizes,
        })
    }

    /// The layers that run on the device, in the order they run.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Linear> {
        self.pieces.iter().filter_map(|p| match p {
            Piece::Device(_, linear) => Some(linear),
            Piece::Host(_) => None,
        })
    }

    /// Room for the values that go from piece to piece.
    pub(crate) fn environment(&self) -> Environment {
        let mut values = vec![Vec::new(); self.sizes.len()];
        let mut needed: HashSet<ValueId> = [self.x, self.target, self.loss_scale, self.loss].into();
        needed.extend(self.params.iter().chain(&self.gradients));
        for piece in &self.pieces {
            match piece {
                Piece::Device(_, l) => needed.extend([l.x, l.y, l.weight]),
                Piece::Host(h) => needed.extend(h.inputs.iter().chain(&h.outputs)),
            }
        }
        needed.extend(self.preparation.inputs.iter().chain(&self.preparation.outputs));
        for id in needed {
            values[id.index()] = vec![0.0; self.sizes[id.index()]];
        }
        Environment { values }
    }
}

impl Environment {
    pub(crate) fn get(&self, id: ValueId) -> &[f32] {
        &self.values[id.index()]
    }

    pub(crate) fn get_mut(&mut self, id: ValueId) -> &mut [f32] {
        &mut self.values[id.index()]
    }

    /// The input and the target of a batch, both to be written.
    pub(crate) fn batch_mut(&mut self, plan: &TrainPlan) -> (&mut [f32], &mut [f32]) {
        let (x, t) = (plan.x.index(), plan.target.index());
        let [x, t] = self.values.get_disjoint_mut([x, t]).expect("x and target are two values");
        (x, t)
    }
}

impl HostPiece {
    /// The calls as a program, whose outputs are what `read_later` wants of them.
    fn new(f: &ValidFunction, calls: &[&ValidCall], read_later: &HashSet<ValueId>) -> Result<HostPiece> {
        let made: HashSet<ValueId> = calls.iter().flat_map(|c| c.outputs.iter().copied()).collect();
        let mut inputs = Vec::new();
        for id in calls.iter().flat_map(|c| c.args.iter().flatten()).flat_map(|a| a.ids()) {
            let computed = matches!(
                f.value(*id).origin,
                anemone_mil::valid::Origin::Input | anemone_mil::valid::Origin::Call
            );
            if computed && !made.contains(id) && !inputs.contains(id) {
                inputs.push(*id);
            }
        }
        let outputs: Vec<ValueId> =
            calls.iter().flat_map(|c| c.outputs.iter().copied()).filter(|v| read_later.contains(v)).collect();
        let mut replay = Replay::new(f, Version::V1_3);
        for &id in &inputs {
            replay.input(id)?;
        }
        for call in calls {
            replay.call(call)?;
        }
        let results = outputs.iter().map(|&id| replay.value(id)).collect::<Result<Vec<_>, _>>()?;
        let program = validate(replay.builder.finish(&results)?, &Limits::none())?;
        let plan = Plan::new(program.main(), &Weights::new())?;
        let memory = plan.memory();
        Ok(HostPiece { plan, memory, inputs, outputs })
    }

    /// Runs on what lies in the environment, and puts the results there.
    ///
    /// # Errors
    ///
    /// If an op cannot be computed on these values.
    pub(crate) fn run(&mut self, environment: &mut Environment) -> Result<()> {
        for (i, &id) in self.inputs.iter().enumerate() {
            self.memory.input_mut(&self.plan, i).copy_from_slice(environment.get(id));
        }
        self.plan.run(&mut self.memory)?;
        for (i, &id) in self.outputs.iter().enumerate() {
            environment.get_mut(id).copy_from_slice(self.memory.output(&self.plan, i));
        }
        Ok(())
    }
}

/// A part of a step before it is made into a piece.
enum Part {
    Device(Linear),
    /// Calls that follow each other in the graph.
    Host(Range<usize>),
}

struct Parts {
    in_order: Vec<Part>,
    /// What depends on parameters alone.
    prepared: HashSet<ValueId>,
}

/// Sorts the calls: what depends on parameters alone, linear layers, and runs of others.
fn classify(f: &ValidFunction, params: &[ValueId]) -> Result<Parts> {
    let mut of_params: HashSet<ValueId> = params.iter().copied().collect();
    let mut prepared = HashSet::new();
    let mut in_order = Vec::new();
    let mut host: Option<Range<usize>> = None;
    for (i, call) in f.body.calls.iter().enumerate() {
        let is_constant = |id: &ValueId| f.value(*id).constant().is_some();
        let mut args = call.args.iter().flatten().flat_map(|a| a.ids()).filter(|id| !is_constant(id)).peekable();
        if args.peek().is_some() && args.all(|id| of_params.contains(id)) {
            of_params.extend(&call.outputs);
            prepared.extend(&call.outputs);
        } else if let Some((x, weight)) = linear_operands(call)
            && of_params.contains(&weight)
            && !of_params.contains(&x)
        {
            in_order.extend(host.take().map(Part::Host));
            in_order.push(Part::Device(Linear::of(f, call, x, weight)?));
            continue;
        }
        // Prepared calls are left out when the run becomes a piece.
        if !prepared.contains(&call.outputs[0]) {
            host = Some(host.map_or(i, |h| h.start)..i + 1);
        }
    }
    in_order.extend(host.map(Part::Host));
    Ok(Parts { in_order, prepared })
}

/// Input and weights of a convolution without bias.
fn linear_operands(call: &ValidCall) -> Option<(ValueId, ValueId)> {
    let arg = |name: &str| match call.args[call.op.param(name)?.0].as_ref()? {
        ArgIds::One(v) => Some(*v),
        ArgIds::Many(_) => None,
    };
    (call.op.name == "conv" && arg("bias").is_none()).then_some((arg("x")?, arg("weight")?))
}

fn used(f: &ValidFunction, calls: &[ValidCall]) -> HashSet<ValueId> {
    let ids = calls.iter().flat_map(|c| c.args.iter().flatten()).flat_map(|a| a.ids().iter().copied());
    ids.filter(|id| f.value(*id).constant().is_none()).collect()
}

/// Floating-point operations of a matrix product; 0 for other ops.
fn n_flops(f: &ValidFunction, call: &ValidCall) -> u64 {
    let n = |id: ValueId| f.value(id).ty.as_tensor().and_then(|t| t.n_elements()).unwrap_or(0) as u64;
    let arg = |name: &str| call.op.param(name).and_then(|(i, _)| call.args[i].as_ref()).map(|a| a.ids()[0]);
    match (call.op.name, arg("x"), arg("y")) {
        // Elements of x [m, k], y [k, n] and z [m, n] multiply to (m k n)^2.
        ("matmul", Some(x), Some(y)) => {
            let product = n(x) as f64 * n(y) as f64 * n(call.outputs[0]) as f64;
            2 * product.sqrt().round() as u64
        }
        _ => 0,
    }
}
