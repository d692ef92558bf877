//! How kernels get their weights: compiled in, compiled in behind the trainer's back, or passed in.

use super::plan::{Environment, TrainPlan};
use super::programs::{Linear, WEIGHTS_PATH};
use crate::config::{Io, Strategy};
use crate::device::{Buffer, Device, Kernel};
use crate::error::{Error, Result};
use anemone_mil::ir::DType;
use anemone_mil::weights::WeightsWriter;
use anemone_mil::{ValidProgram, Weights, validate};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a device call that failed is tried again, and how long before the first such try; the pause doubles.
const RETRIES: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What makes kernels: the validated programs of all layers.
pub(crate) struct Compiler {
    device: Arc<dyn Device>,
    strategy: Strategy,
    layers: Vec<(String, ValidProgram)>,
}

/// What compiling took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CompileStats {
    /// Time spent compiling, on whichever thread.
    pub(crate) busy: Duration,
    /// Device calls that failed and were repeated.
    pub(crate) n_retries: u64,
}

/// The weights of each layer.
pub(crate) type LayerWeights = Vec<Vec<f32>>;

impl Compiler {
    /// The programs of all layers for one element type of inputs and outputs.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if the device's limits say no.
    pub(crate) fn new(device: Arc<dyn Device>, plan: &TrainPlan, strategy: Strategy, io: Io) -> Result<Compiler> {
        let layer = |l: &Linear| {
            let program = validate(l.program(strategy, io)?, device.limits()).map_err(Error::from);
            Ok((l.label.clone(), program.map_err(|e| e.context(format!("layer `{}`", l.label)))?))
        };
        let layers = plan.layers().map(layer).collect::<Result<_>>()?;
        Ok(Compiler { device, strategy, layers })
    }

    /// The number of programs, and so of compiles, in a set of kernels.
    pub(crate) fn n_programs(&self) -> usize {
        self.layers.len()
    }

    /// Compiles all layers, and says what it took even if it fails.
    ///
    /// # Errors
    ///
    /// As [`Device::compile`]; a failure of the device only after it was tried again.
    pub(crate) fn compile(&self, weights: &LayerWeights) -> (Result<Kernels>, CompileStats) {
        let start = Instant::now();
        let mut n_retries = 0;
        let kernels = self.kernels(weights, &mut n_retries);
        (kernels, CompileStats { busy: start.elapsed(), n_retries })
    }

    fn kernels(&self, weights: &LayerWeights, n_retries: &mut u64) -> Result<Kernels> {
        let mut layers = Vec::new();
        for ((label, program), w) in self.layers.iter().zip(weights) {
            let constants = match self.strategy {
                Strategy::Baked => weights_file(w)?,
                Strategy::Operand => Weights::new(),
            };
            let kernel = retry(n_retries, || self.device.compile(program, &constants))
                .map_err(|e| e.context(format!("compile `{label}`")))?;
            layers.push(Layer::new(label, kernel)?);
        }
        let mut kernels = Kernels { layers, strategy: self.strategy };
        kernels.write_weights(weights)?;
        Ok(kernels)
    }

    /// Compiles all layers on a thread of its own.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub(crate) fn compile_in_background(self: &Arc<Self>, weights: LayerWeights) -> Result<Background> {
        let compiler = self.clone();
        let thread = std::thread::Builder::new()
            .name("compile".into())
            .spawn(move || compiler.compile(&weights))
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

/// A kernel for each layer, with its buffers.
pub(crate) struct Kernels {
    layers: Vec<Layer>,
    strategy: Strategy,
}

struct Layer {
    kernel: Box<dyn Kernel>,
    /// In the order of the program: with weights as an operand, `W` and `x`; else `x`.
    inputs: Vec<Box<dyn Buffer>>,
    output: Box<dyn Buffer>,
}

impl Layer {
    fn new(label: &str, kernel: Box<dyn Kernel>) -> Result<Layer> {
        let n = kernel.signature().inputs.len();
        let in_layer = |e: Error| e.context(format!("buffers of `{label}`"));
        Ok(Layer {
            inputs: (0..n).map(|i| kernel.input_buffer(i)).collect::<Result<_>>().map_err(in_layer)?,
            output: kernel.output_buffer(0).map_err(in_layer)?,
            kernel,
        })
    }
}

impl Kernels {
    /// Passes new weights to kernels that take them as an operand; does nothing for others.
    ///
    /// # Errors
    ///
    /// If sizes do not fit.
    pub(crate) fn write_weights(&mut self, weights: &LayerWeights) -> Result<()> {
        if self.strategy == Strategy::Operand {
            for (layer, w) in self.layers.iter_mut().zip(weights) {
                layer.inputs[0].write(w)?;
            }
        }
        Ok(())
    }

    /// Runs the layer of that index on what lies in the environment.
    ///
    /// # Errors
    ///
    /// If the device failed, again and again.
    pub(crate) fn run(
        &mut self,
        index: usize,
        linear: &Linear,
        e: &mut Environment,
        n_retries: &mut u64,
    ) -> Result<()> {
        let Layer { kernel, inputs, output } = &mut self.layers[index];
        let last = inputs.len() - 1;
        inputs[last].write(e.get(linear.x))?;
        let refs: [&dyn Buffer; 2] = [&*inputs[0], &*inputs[last]];
        let refs = if last == 0 { &refs[..1] } else { &refs[..] };
        retry(n_retries, || kernel.run(refs, &mut [&mut **output]))
            .map_err(|e| e.context(format!("evaluate `{}`", linear.label)))?;
        output.read(e.get_mut(linear.y))
    }
}
