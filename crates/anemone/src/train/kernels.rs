//! How kernels get their weights: compiled in, compiled in behind the trainer's back, or passed in.

use super::plan::{Environment, Source, TrainPlan};
use super::programs::{DeviceCall, Form, WEIGHTS_PATH};
use crate::config::{Io, Strategy};
use crate::device::{Buffer, Device, Kernel, soft};
use crate::error::{Error, Result};
use crate::soft::threads;
use anemone_mil::ir::DType;
use anemone_mil::weights::WeightsWriter;
use anemone_mil::{ValidProgram, Weights, validate};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a device call that failed is tried again, and how long before the first such try; the pause doubles.
const RETRIES: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What makes kernels: the validated programs.
pub(crate) struct Compiler {
    device: Arc<dyn Device>,
    strategy: Strategy,
    /// The programs, with the name of the first call of each.
    programs: Vec<(String, ValidProgram)>,
    /// The program of each call. With weights passed in, calls of one form share one.
    of_call: Vec<usize>,
    /// Where the weights of each call come from.
    sources: Vec<Option<Source>>,
    /// The most compiles that this process may make, failed ones included.
    budget: usize,
}

/// What compiling took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CompileStats {
    /// Time spent compiling, on whichever thread.
    pub(crate) busy: Duration,
    /// Device calls that failed and were repeated.
    pub(crate) n_retries: u64,
}

impl Compiler {
    /// The programs of all calls of a plan.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if the device's limits say no.
    pub(crate) fn new(
        device: Arc<dyn Device>,
        plan: &TrainPlan,
        strategy: Strategy,
        io: Io,
        budget: usize,
    ) -> Result<Compiler> {
        let (mut programs, mut of_call) = (Vec::new(), Vec::new());
        let mut forms: Vec<&Form> = Vec::new();
        for call in &plan.calls {
            let shared = forms.iter().position(|&f| strategy == Strategy::Operand && *f == call.form);
            of_call.push(shared.unwrap_or(forms.len()));
            if shared.is_none() {
                let program = validate(call.form.program(io)?, device.limits()).map_err(Error::from);
                programs.push((
                    call.label.clone(),
                    program.map_err(|e| e.context(format!("layer `{}`", call.label)))?,
                ));
                forms.push(&call.form);
            }
        }
        Ok(Compiler { device, strategy, programs, of_call, sources: plan.weight_sources().to_vec(), budget })
    }

    /// The number of programs, and so of compiles, in a set of kernels.
    pub(crate) fn n_programs(&self) -> usize {
        self.programs.len()
    }

    /// Compiles all programs for the weights of each call, and says what it took even if it fails.
    ///
    /// # Errors
    ///
    /// As [`Device::compile`]; a failure of the device only after it was tried again.
    pub(crate) fn compile(&self, weights: &[&[f32]]) -> (Result<Kernels>, CompileStats) {
        let start = Instant::now();
        let mut n_retries = 0;
        let kernels = self.kernels(weights, &mut n_retries);
        (kernels, CompileStats { busy: start.elapsed(), n_retries })
    }

    fn kernels(&self, weights: &[&[f32]], n_retries: &mut u64) -> Result<Kernels> {
        let mut programs = Vec::new();
        for (i, (label, program)) in self.programs.iter().enumerate() {
            let constants = match self.strategy {
                // Each call has a program of its own.
                Strategy::Baked => weights_file(weights[i])?,
                Strategy::Operand => Weights::new(),
            };
            let kernel = retry(n_retries, || self.compile_once(program, &constants))
                .map_err(|e| e.context(format!("compile `{label}`")))?;
            programs.push((label, kernel));
        }
        let (mut calls, mut passed) = (Vec::new(), Vec::<Passed>::new());
        for (i, (&program, w)) in self.of_call.iter().zip(weights).enumerate() {
            let (label, kernel) = &programs[program];
            let is_passed = self.strategy == Strategy::Operand && !w.is_empty();
            let passed = is_passed.then(|| self.pass(i, &**kernel, &mut passed)).transpose();
            let passed = passed.map_err(|e| e.context(format!("buffers of `{label}`")))?;
            calls.push(Call { program, passed });
        }
        let first = |program| calls.iter().find(|c: &&Call| c.program == program);
        let programs = programs.into_iter().enumerate().map(|(i, (label, kernel))| {
            let n_weights = usize::from(first(i).is_some_and(|c| c.passed.is_some()));
            Loaded::new(label, kernel, n_weights)
        });
        let mut kernels = Kernels { programs: programs.collect::<Result<_>>()?, calls, passed };
        kernels.write_weights(weights)?;
        Ok(kernels)
    }

    /// Compiles a program as long as the budget lasts.
    fn compile_once(&self, program: &ValidProgram, constants: &Weights) -> Result<Box<dyn Kernel>> {
        let is_spent = || self.device.usage().n_compiles >= self.budget;
        if is_spent() {
            return Err(Error::budget(format!(
                "the budget of {} compiles is spent, some of it on compiles that failed",
                self.budget
            )));
        }
        // Another try would be one too many.
        let last = |e: Error| match e.is_device() && is_spent() {
            true => Error::budget(format!("{e}; the budget of {} compiles is spent", self.budget)),
            false => e,
        };
        self.device.compile(program, constants).map_err(last)
    }

    /// The number of the buffer for the weights of a call of this kernel, if there is none yet a new one.
    fn pass(&self, call: usize, kernel: &dyn Kernel, passed: &mut Vec<Passed>) -> Result<usize> {
        let ty = kernel.signature().input(0)?;
        // An engine of its own lays weights out as the program wants them.
        let shares = !self.device.is_apart();
        let is_same = |p: &Passed| shares && self.sources[p.call] == self.sources[call] && p.buffer.ty() == ty;
        if let Some(there) = passed.iter().position(is_same) {
            return Ok(there);
        }
        passed.push(Passed { call, buffer: kernel.input_buffer(0)? });
        Ok(passed.len() - 1)
    }

    /// Compiles all programs on a thread of its own.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub(crate) fn compile_in_background(self: &Arc<Self>, weights: Vec<Vec<f32>>) -> Result<Background> {
        let compiler = self.clone();
        let thread = std::thread::Builder::new()
            .name("compile".into())
            .spawn(move || compiler.compile(&weights.iter().map(|w| &w[..]).collect::<Vec<_>>()))
            .map_err(|e| Error::device(format!("start a thread to compile on: {e}")))?;
        Ok(Background { thread })
    }
}

/// Kernels being compiled on another thread.
pub(crate) struct Background {
    thread: JoinHandle<(Result<Kernels>, CompileStats)>,
}

impl Background {
    /// Waits for them.
    ///
    /// # Errors
    ///
    /// As [`Compiler::compile`].
    pub(crate) fn finish(self) -> (Result<Kernels>, CompileStats) {
        let panicked = |_| (Err(Error::device("the thread that compiles has panicked")), CompileStats::default());
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// One weights file with one record of fp16 numbers.
fn weights_file(elements: &[f32]) -> Result<Weights> {
    let mut writer = WeightsWriter::new();
    writer.add_f32_as(DType::Fp16, elements)?;
    let mut weights = Weights::new();
    weights.insert(WEIGHTS_PATH, writer.finish())?;
    Ok(weights)
}

/// Calls the device until it succeeds, but not for long; counts how often it had to be called again.
pub(crate) fn retry<T>(n_retries: &mut u64, mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..RETRIES {
        match call() {
            Err(e) if e.is_device() => {
                *n_retries += 1;
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
    call().map_err(|e| e.context(format!("failed {} times", RETRIES + 1)))
}

/// What the host has to do.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&mut Environment) -> Result<()>;

/// The kernels of a plan, with their buffers.
pub(crate) struct Kernels {
    programs: Vec<Loaded>,
    calls: Vec<Call>,
    passed: Vec<Passed>,
}

/// A kernel with the buffers that its calls share.
struct Loaded {
    kernel: Box<dyn Kernel>,
    /// Of the inputs that are no weights.
    inputs: Vec<Box<dyn Buffer>>,
    output: Box<dyn Buffer>,
}

/// What a call has of its own.
struct Call {
    program: usize,
    /// Its weights, where they are passed in: the first input.
    passed: Option<usize>,
}

/// Weights that are passed in: those of this call, and of all that use the same.
struct Passed {
    call: usize,
    buffer: Box<dyn Buffer>,
}

impl Loaded {
    fn new(label: &str, kernel: Box<dyn Kernel>, n_weights: usize) -> Result<Loaded> {
        let n = kernel.signature().inputs.len();
        let in_layer = |e: Error| e.context(format!("buffers of `{label}`"));
        Ok(Loaded {
            inputs: (n_weights..n).map(|i| kernel.input_buffer(i)).collect::<Result<_>>().map_err(in_layer)?,
            output: kernel.output_buffer(0).map_err(in_layer)?,
            kernel,
        })
    }

    /// Runs the kernel on what lies in the buffers, and says how long it is now since the start.
    fn timed(
        &mut self,
        start: Instant,
        weights: Option<&dyn Buffer>,
        n_retries: &mut u64,
    ) -> (Result<()>, Duration) {
        let inputs: Vec<&dyn Buffer> = weights.into_iter().chain(self.inputs.iter().map(|b| &**b)).collect();
        let done = retry(n_retries, || self.kernel.run(&inputs, &mut [&mut *self.output]));
        (done, start.elapsed())
    }
}

/// What a call of the device took.
pub(crate) struct Took {
    /// Copies to and from its buffers.
    pub(crate) copies: Duration,
    /// The call itself.
    pub(crate) device: Duration,
}

impl Kernels {
    /// Passes new weights to kernels that take them as an operand; does nothing for others.
    ///
    /// # Errors
    ///
    /// If sizes do not fit.
    pub(crate) fn write_weights(&mut self, weights: &[&[f32]]) -> Result<()> {
        let work = weights.iter().map(|w| w.len()).sum();
        let failed = Mutex::new(None);
        let write = |passed: &mut Passed| {
            if let Err(e) = passed.buffer.write(weights[passed.call]) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        };
        threads::each(work, self.passed.iter_mut().collect(), write);
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Runs the call of that index on what lies in the environment. `meanwhile` is done on this thread while the
    /// device works.
    ///
    /// # Errors
    ///
    /// If the device failed, again and again, or `meanwhile` did.
    pub(crate) fn run(
        &mut self,
        index: usize,
        call: &DeviceCall,
        e: &mut Environment,
        n_retries: &mut u64,
        meanwhile: Option<Work<'_>>,
    ) -> Result<Took> {
        let start = Instant::now();
        let Call { program, passed } = self.calls[index];
        let loaded = &mut self.programs[program];
        let mut weights = passed.map(|passed| &mut self.passed[passed].buffer);
        let has_waited = meanwhile.is_some();
        let mut has_copied = false;
        for (input, &id) in loaded.inputs.iter_mut().zip(&call.inputs) {
            if !e.lendable(id).is_some_and(|elements| soft::lend(&mut **input, elements)) {
                input.write(e.get(id))?;
                has_copied = true;
            }
        }
        // Reading the clock takes as long as copying some hundred numbers.
        let written = if has_copied { Instant::now() } else { start };
        let (done, device) = match meanwhile {
            None => loaded.timed(written, weights.as_deref().map(|w| &**w), n_retries),
            Some(work) => {
                let (device, worked) = std::thread::scope(|scope| {
                    let (loaded, weights, n_retries) = (&mut *loaded, weights.as_deref_mut(), &mut *n_retries);
                    let device =
                        std::thread::Builder::new().name("device".into()).spawn_scoped(scope, move || {
                            loaded.timed(Instant::now(), weights.map(|w| &**w), n_retries)
                        });
                    let worked = work(e);
                    (device.map(std::thread::ScopedJoinHandle::join), worked)
                });
                worked?;
                match device {
                    Ok(Ok(done)) => done,
                    Ok(Err(_)) => (Err(Error::device("the thread of the device has panicked")), Duration::ZERO),
                    // Without a thread to be had, one after the other.
                    Err(_) => loaded.timed(Instant::now(), weights.as_deref().map(|w| &**w), n_retries),
                }
            }
        };
        let ended = if has_waited { Instant::now() } else { written + device };
        loaded.inputs.iter_mut().for_each(|input| soft::give_back(&mut **input));
        done.map_err(|e| e.context(format!("evaluate `{}`", call.label)))?;
        let mut copies = written - start;
        let is_there = e.floats_mut(call.output).is_some_and(|to| soft::exchange(&mut *loaded.output, to));
        if !is_there {
            loaded.output.read(e.get_mut(call.output))?;
            copies += ended.elapsed();
        }
        Ok(Took { copies, device })
    }
}
