//! One pass forward and backward through the parts of a plan.

use super::Trainer;
use super::kernels::Work;
use super::plan::{Environment, Part};
use crate::data;
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// Floating-point operations above which host work is done on this thread while another waits for the device;
/// starting that one takes some 20 microseconds.
const WORTH_A_THREAD: u64 = 4_000_000;

/// Where the time of a pass went. The rest of it is the host's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// In calls of the device, copies included.
    pub(super) device: Duration,
    /// In copies to and from the device's buffers.
    pub(super) copies: Duration,
    /// In work that nothing but gradients needs, most of it products.
    pub(super) gradients: Duration,
    /// The part of it that was done while the device worked.
    pub(super) gradients_hidden: Duration,
}

impl Trainer {
    /// The loss and the gradients of the next batch, left in the environment; of a loss that is not finite, not
    /// all gradients.
    pub(super) fn forward_and_backward(&mut self) -> Result<Times> {
        let e = &mut self.environment;
        let (x, target) = e.batch_mut();
        self.data.batch(data::Part::Train, self.state.step, x, target)?;
        e.begin(self.state.precision.scale);
        e.add(self.batch.n_added > 0);
        let Some(kernels) = &mut self.kernels else { return Err(Error::config("there are no kernels")) };
        let plan = &self.plan;
        let is_apart = self.device.is_apart();
        let mut times = Times::default();
        let timed = |parts: &[usize], e: &mut Environment| {
            let start = Instant::now();
            parts.iter().try_for_each(|&part| plan.run_host(part, e)).map(|()| start.elapsed())
        };
        // What only gradients need is done while the device works, if it is worth another thread and the device is
        // not this CPU.
        let mut waiting = Vec::new();
        for &part in &plan.parts {
            if let Part::Host(part) | Part::Deferred(part) = part
                && plan.adds_from() == Some(part)
                && !e.loss().is_finite()
            {
                return Ok(times);
            }
            match part {
                Part::Host(part) => plan.run_host(part, e)?,
                Part::Deferred(part) if !is_apart || plan.host_flops(part) < WORTH_A_THREAD => {
                    times.gradients += timed(&[part], e)?;
                }
                Part::Deferred(part) => waiting.push(part),
                Part::Device(index) => {
                    let parts = std::mem::take(&mut waiting);
                    let mut hidden = Duration::ZERO;
                    let mut work = |e: &mut Environment| timed(&parts, e).map(|took| hidden = took);
                    let meanwhile: Option<Work<'_>> = if parts.is_empty() { None } else { Some(&mut work) };
                    let n_retries = &mut self.state.stats.n_retries;
                    let took = kernels.run(index, &plan.calls[index], e, n_retries, meanwhile)?;
                    times.copies += took.copies;
                    times.device += took.copies + took.device;
                    times.gradients += hidden;
                    times.gradients_hidden += hidden.min(took.device);
                }
            }
        }
        if !waiting.is_empty() {
            times.gradients += timed(&waiting, e)?;
        }
        Ok(times)
    }
}
