//! A device of one's own: it wraps another, counts the calls and times them, while a model trains on it.
#![allow(clippy::print_stdout)] // An example shows what it does.

use anemone::device::{self, Buffer, Device, Kernel, Signature, Usage};
use anemone::mil::{Limits, ValidProgram, Weights};
use anemone::{Config, Result, Trainer, train::Event};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many calls there were, and how long they took together.
type Calls = Arc<Mutex<(u64, Duration)>>;

struct Timed {
    inner: Arc<dyn Device>,
    calls: Calls,
}

impl Device for Timed {
    fn name(&self) -> String {
        format!("timed {}", self.inner.name())
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>> {
        Ok(Box::new(TimedKernel { inner: self.inner.compile(program, weights)?, calls: self.calls.clone() }))
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
    fn arithmetic(&self) -> &'static str {
        self.inner.arithmetic()
    }
    fn is_apart(&self) -> bool {
        self.inner.is_apart()
    }
}

struct TimedKernel {
    inner: Box<dyn Kernel>,
    calls: Calls,
}

impl Kernel for TimedKernel {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn input_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        self.inner.input_buffer(index) // the wrapped kernel's own, so that it finds in `run` what it knows
    }
    fn output_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        self.inner.output_buffer(index)
    }
    fn run(&mut self, inputs: &[&dyn Buffer], outputs: &mut [&mut dyn Buffer]) -> Result<()> {
        let begun = Instant::now();
        self.inner.run(inputs, outputs)?;
        let mut calls = self.calls.lock().unwrap_or_else(|e| e.into_inner());
        *calls = (calls.0 + 1, calls.1 + begun.elapsed());
        Ok(())
    }
}

fn main() -> Result<()> {
    let config = Config::from_toml("[train]\nsteps = 200\n[weights]\nstrategy = \"operand\"")?;
    let calls = Calls::default();
    let timed = Timed { inner: device::open(&config.device.options()?)?, calls: calls.clone() };
    let mut trainer = Trainer::new(&config, Arc::new(timed))?;
    let mut loss = f32::NAN;
    while let Event::Step(step) = trainer.step()? {
        loss = step.loss;
    }
    let (n_calls, time) = *calls.lock().unwrap_or_else(|e| e.into_inner());
    println!("{}: loss {loss:.6}, {n_calls} calls took {time:?}", trainer.device().name());
    Ok(())
}
