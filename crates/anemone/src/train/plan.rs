//! What runs where: cuts a training graph into programs for the device and work for the host.
//!
//! Linear layers (convolutions whose weights depend on parameters alone), forward and backward, run on the device
//! in fp16, one dispatch each; those too large for it are split, convolutions with windows unfolded where weights
//! are passed in, and what it refuses all the same stays on the host. What depends on parameters alone, such as
//! the transposed weights of a backward layer, is prepared on the host once a weight version. The rest
//! (activations, attention, norms, loss and, unless the device is asked for them, gradients of weights) runs on
//! the host in f32, by the same steps the software engine has: one program over one memory, run in parts between
//! the device's calls.

mod assign;
mod describe;
mod fit;
mod host;

use super::programs::DeviceCall;
use crate::config::{Io, Place, PlanConfig, Strategy};
use crate::error::{Error, Result};
use crate::nn::{Built, INPUT};
use crate::soft::floats::Floats;
use anemone_mil::grad::{Seed, gradient};
use anemone_mil::limits::Limits;
use anemone_mil::validate;
use assign::{Assigned, Piece};
pub use describe::{Description, HostOp, ProgramUse};
use host::HostSide;
pub(crate) use host::{Environment, Source};
use std::sync::Arc;

/// The name of the input that gradients start from.
const LOSS_SCALE: &str = "loss_scale";

/// What a plan is made for.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) strategy: Strategy,
    /// Whether kernels are compiled while others train.
    pub(crate) overlap: bool,
    pub(crate) io: Io,
    pub(crate) config: &'a PlanConfig,
    /// Whether the gradient of the input is computed too.
    pub(crate) input_gradient: bool,
}

/// A training graph, cut.
pub(crate) struct TrainPlan {
    /// In the order they run.
    pub(crate) parts: Vec<Part>,
    /// The calls that run on the device.
    pub(crate) calls: Vec<DeviceCall>,
    /// The weights of each of these calls.
    weights: Vec<Option<Source>>,
    host: Arc<HostSide>,
    description: Description,
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    /// Runs on the device: the number of the call.
    Device(usize),
    /// Runs on the host: the number of the host's part.
    Host(usize),
    /// Runs on the host at any time from here on: nothing but gradients needs it.
    Deferred(usize),
}

impl TrainPlan {
    /// Cuts the graph of a model.
    ///
    /// # Errors
    ///
    /// If an op has no gradient or cannot be run; [`Error::is_refused`] if layers that the device would take with
    /// fp16 inputs and outputs are refused with fp32 ones.
    pub(crate) fn new(built: &Built, target: Target<'_>) -> Result<TrainPlan> {
        if target.config.weight_gradients == Place::Device && target.strategy == Strategy::Baked {
            return Err(Error::config(
                "`plan.weight_gradients = \"device\"` is for the strategy `operand`; with `baked` they stay on the host",
            ));
        }
        let forward = validate(built.program.clone(), &Limits::none())?;
        let params: Vec<&str> = built.params.iter().map(|(_, name)| name.as_str()).collect();
        let forward = fit::to_device(&forward, &params, target)?;
        let trained = built.params.iter().filter(|(spec, _)| spec.trainable);
        let mut wrt: Vec<&str> = trained.map(|(_, name)| name.as_str()).collect();
        let n_trained = wrt.len();
        if target.input_gradient {
            wrt.push(INPUT);
        }
        let mut joint = gradient(&forward, &built.loss, &wrt, Seed::Input(LOSS_SCALE))?;
        if target.config.recompute {
            // Products are kept: they cost more than their memory. So are sums: a residual stream computed again
            // would be computed again from its beginning.
            joint = joint
                .recomputed(|op| !matches!(op.name, "conv" | "matmul" | "add" | "gather" | "conv_transpose"))?;
        }
        let program = validate(joint.program, &Limits::none())?;
        let f = program.main();
        let Assigned { order, calls, prepared, reasons } = assign::assign(f, &params, &built.loss, target)?;
        let gradients = &joint.gradients[..n_trained];
        let (host, weights) = HostSide::new(f, &order, &calls, &prepared, &params, &built.loss, gradients)?;
        let description = Description::new(f, &order, &calls, &reasons, &host, target);
        let (mut n_device, mut n_host) = (0, 0);
        let next = |n: &mut usize| {
            *n += 1;
            *n - 1
        };
        let parts = order
            .iter()
            .map(|piece| match piece {
                Piece::Device => Part::Device(next(&mut n_device)),
                Piece::Host(_) => Part::Host(next(&mut n_host)),
                Piece::Deferred(_) => Part::Deferred(next(&mut n_host)),
            })
            .collect();
        Ok(TrainPlan { parts, calls, weights, host, description })
    }

    /// Room for the values of a step.
    pub(crate) fn environment(&self) -> Environment {
        self.host.environment()
    }

    /// Computes what depends on parameters alone: the weights of the device's calls, and what the host's parts
    /// read.
    ///
    /// # Errors
    ///
    /// If an op cannot be computed on these values.
    pub(crate) fn prepare(&self, e: &mut Environment, params: &[Floats]) -> Result<()> {
        self.host.prepare(e, params)
    }

    /// What was prepared last for the host's parts.
    pub(crate) fn handed(&self, e: &Environment, params: &[Floats]) -> Vec<Floats> {
        self.host.handed(e, params)
    }

    /// Lets the host's parts go by such values.
    pub(crate) fn hand(&self, e: &mut Environment, values: Vec<Floats>) {
        self.host.hand(e, values);
    }

    /// Takes the parameters from the host's parts, so that they are changed where they lie. Nothing runs before
    /// new values have been [handed](TrainPlan::hand).
    pub(crate) fn release(&self, e: &mut Environment) {
        self.host.release(e);
    }

    /// The weights of each call of the device, as they were prepared last; empty for calls without.
    pub(crate) fn weights<'a>(&self, e: &'a Environment, params: &'a [Floats]) -> Vec<&'a [f32]> {
        let weight = |s: &Option<Source>| s.map_or(&[][..], |s| e.source(s, params));
        self.weights.iter().map(weight).collect()
    }

    /// Where the weights of each call of the device come from.
    pub(crate) fn weight_sources(&self) -> &[Option<Source>] {
        &self.weights
    }

    /// Runs a part of the host.
    ///
    /// # Errors
    ///
    /// If an op cannot be computed on these values.
    pub(crate) fn run_host(&self, part: usize, e: &mut Environment) -> Result<()> {
        self.host.run(part, e)
    }

    /// Floating-point operations in the matrix products of a part of the host.
    pub(crate) fn host_flops(&self, part: usize) -> u64 {
        self.host.flops[part]
    }

    /// The first part of the host that may add to gradients of the steps before.
    pub(crate) fn adds_from(&self) -> Option<usize> {
        self.host.adds_from
    }

    /// What runs where, for people.
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }
}
