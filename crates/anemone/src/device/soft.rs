//! The software engine as a device: the same rules, budgets and texts as the Neural Engine's, on any machine.

use super::faults::{Call, Faults, Injector};
use super::{Buffer, Device, Kernel, Signature, Usage, Version};
use crate::error::{Error, Result};
use crate::soft::engine::Arithmetic;
use crate::soft::floats::Floats;
use crate::soft::fp16;
use crate::soft::memory::Memory;
use crate::soft::plan::Plan;
use anemone_mil::ir::{DType, TensorType};
use anemone_mil::limits::{Chip, Limits};
use anemone_mil::{ValidProgram, Weights, text, validate};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The software engine. It is handed MIL text and weights files as the real one is, reads them, checks them
/// against the rules of its chip, and counts what a process may use up.
pub struct SoftDevice {
    engine: Arc<Engine>,
}

struct Engine {
    chip: Chip,
    limits: Limits,
    arithmetic: Arithmetic,
    injector: Injector,
    n_compiles: AtomicUsize,
    n_live: AtomicUsize,
}

impl SoftDevice {
    /// An engine that follows the rules of `chip`, in IEEE's arithmetic, with nothing used up.
    pub fn new(chip: Chip, faults: Faults) -> SoftDevice {
        SoftDevice::with_arithmetic(chip, faults, Arithmetic::Ieee)
    }

    /// As [`new`](SoftDevice::new), in the arithmetic that is asked for.
    pub fn with_arithmetic(chip: Chip, faults: Faults, arithmetic: Arithmetic) -> SoftDevice {
        SoftDevice {
            engine: Arc::new(Engine {
                chip,
                limits: Limits::of(chip),
                arithmetic,
                injector: Injector::new(faults),
                n_compiles: AtomicUsize::new(0),
                n_live: AtomicUsize::new(0),
            }),
        }
    }

    /// Compiles and loads MIL text, as [`Device::compile`] does with a program.
    ///
    /// # Errors
    ///
    /// As [`Device::compile`]; also if the text is no MIL.
    pub fn compile_text(&self, mil: &str, weights: &Weights) -> Result<Box<dyn Kernel>> {
        let engine = &self.engine;
        let used = engine.n_compiles.fetch_add(1, Ordering::Relaxed);
        if let Some(max) = engine.limits.max_compiles().filter(|&max| used >= max) {
            engine.n_compiles.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::budget(format!(
                "all {max} compiles of this process are used up (rule `compile-budget`)"
            )));
        }
        engine.injector.call(Call::Compile)?;
        let program = validate(text::parse(mil)?, &engine.limits)?;
        let plan = Plan::for_device(program.main(), weights, engine.arithmetic)?;
        engine.injector.call(Call::Load)?;
        let live = Live::new(engine)?;
        Ok(Box::new(SoftKernel::new(plan, live)?))
    }
}

impl Device for SoftDevice {
    fn name(&self) -> String {
        format!("software engine ({}, {})", self.engine.limits.name(), self.engine.arithmetic)
    }

    fn limits(&self) -> &Limits {
        &self.engine.limits
    }

    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>> {
        self.compile_text(&text::print(program.program()), weights)
    }

    fn is_apart(&self) -> bool {
        false
    }

    fn arithmetic(&self) -> &'static str {
        self.engine.arithmetic.of_chip(self.engine.chip)
    }

    fn usage(&self) -> Usage {
        Usage {
            n_compiles: self.engine.n_compiles.load(Ordering::Relaxed),
            n_live: self.engine.n_live.load(Ordering::Relaxed),
        }
    }
}

/// A place among the loaded programs, given back when dropped.
struct Live(Arc<Engine>);

impl Live {
    fn new(engine: &Arc<Engine>) -> Result<Live> {
        let loaded = engine.n_live.fetch_add(1, Ordering::Relaxed);
        let live = Live(engine.clone());
        match engine.limits.max_live_programs() {
            Some(max) if loaded >= max => Err(Error::budget(format!(
                "{max} programs are loaded, the most a process can have (rule `live-programs`)"
            ))),
            _ => Ok(live),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.n_live.fetch_sub(1, Ordering::Relaxed);
    }
}

struct SoftKernel {
    plan: Plan,
    memory: Memory,
    signature: Signature,
    live: Live,
}

impl SoftKernel {
    fn new(plan: Plan, live: Live) -> Result<SoftKernel> {
        let signature = Signature::new(plan.inputs(), plan.outputs())?;
        let memory = plan.memory();
        Ok(SoftKernel { plan, memory, signature, live })
    }
}

impl Kernel for SoftKernel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn input_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(SoftBuffer::new(self.signature.input(index)?.clone())))
    }

    fn output_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(SoftBuffer::new(self.signature.output(index)?.clone())))
    }

    fn run(&mut self, inputs: &[&dyn Buffer], outputs: &mut [&mut dyn Buffer]) -> Result<()> {
        let s = &self.signature;
        s.check_counts(inputs.len(), outputs.len())?;
        for (i, (buffer, (name, ty))) in inputs.iter().zip(&s.inputs).enumerate() {
            let buffer = soft(*buffer, name, ty)?;
            let elements = buffer.lent.as_ref().unwrap_or(&buffer.elements);
            let is_raw = buffer.lent.is_some() && buffer.ty.dtype == DType::Fp16;
            self.memory.share_input(&self.plan, i, elements, buffer.version.number(), is_raw);
        }
        self.live.0.injector.call(Call::Evaluate)?;
        for (i, (buffer, (name, ty))) in outputs.iter_mut().zip(&s.outputs).enumerate() {
            let buffer = soft_mut(*buffer, name, ty)?;
            self.memory.swap_output(&self.plan, i, &mut buffer.elements);
        }
        let done = self.plan.run(&mut self.memory);
        for (i, (buffer, (name, ty))) in outputs.iter_mut().zip(&s.outputs).enumerate() {
            let buffer = soft_mut(*buffer, name, ty)?;
            if !self.memory.swap_output(&self.plan, i, &mut buffer.elements) {
                buffer.elements.copy_from_slice(self.memory.output(&self.plan, i));
            }
            buffer.version = Version::next();
        }
        (0..inputs.len()).for_each(|i| self.memory.forget_input(&self.plan, i));
        done
    }
}

/// Lets a buffer of the software engine hold these elements, not copied, until they are [given back](give_back);
/// `false` if it is another device's, or of another size.
pub(crate) fn lend(buffer: &mut dyn Buffer, elements: &Floats) -> bool {
    let any: &mut dyn std::any::Any = buffer;
    match any.downcast_mut::<SoftBuffer>() {
        Some(buffer) if buffer.elements.len() == elements.len() => {
            buffer.lent = Some(elements.clone());
            buffer.version = Version::next();
            true
        }
        _ => false,
    }
}

/// Ends a [loan](lend): the buffer holds nothing to use.
pub(crate) fn give_back(buffer: &mut dyn Buffer) {
    let any: &mut dyn std::any::Any = buffer;
    if let Some(buffer) = any.downcast_mut::<SoftBuffer>() {
        buffer.lent = None;
    }
}

/// Exchanges the elements of a buffer of the software engine for others; `false` as of [`lend`].
pub(crate) fn exchange(buffer: &mut dyn Buffer, elements: &mut Floats) -> bool {
    let any: &mut dyn std::any::Any = buffer;
    match any.downcast_mut::<SoftBuffer>() {
        Some(buffer) if buffer.elements.len() == elements.len() => {
            std::mem::swap(&mut buffer.elements, elements);
            buffer.version = Version::next();
            true
        }
        _ => false,
    }
}

fn misfit(name: &str, ty: &TensorType, found: &TensorType) -> Error {
    Error::config(format!("the buffer for `{name}` holds {found}, expected {ty} of the software engine"))
}

fn soft<'a>(buffer: &'a dyn Buffer, name: &str, ty: &TensorType) -> Result<&'a SoftBuffer> {
    let any: &dyn std::any::Any = buffer;
    any.downcast_ref().filter(|b: &&SoftBuffer| b.ty == *ty).ok_or_else(|| misfit(name, ty, buffer.ty()))
}

fn soft_mut<'a>(buffer: &'a mut dyn Buffer, name: &str, ty: &TensorType) -> Result<&'a mut SoftBuffer> {
    if buffer.ty() != ty {
        return Err(misfit(name, ty, buffer.ty()));
    }
    let any: &mut dyn std::any::Any = buffer;
    any.downcast_mut().ok_or_else(|| Error::config(format!("the buffer for `{name}` is another device's")))
}

/// Dense elements as the engine computes with them: in f32, those of fp16 on its grid.
struct SoftBuffer {
    ty: TensorType,
    elements: Floats,
    /// What it holds instead for now, not yet on the grid of its type.
    lent: Option<Floats>,
    version: Version,
}

impl SoftBuffer {
    fn new(ty: TensorType) -> SoftBuffer {
        let elements = Floats::zeros(ty.n_elements().unwrap_or(0));
        SoftBuffer { ty, elements, lent: None, version: Version::next() }
    }

    fn check(&self, n: usize) -> Result<()> {
        match self.ty.n_elements() {
            Some(m) if m == n => Ok(()),
            _ => Err(Error::config(format!("{n} elements for a buffer of {}", self.ty))),
        }
    }
}

impl Buffer for SoftBuffer {
    fn ty(&self) -> &TensorType {
        &self.ty
    }

    fn write(&mut self, elements: &[f32]) -> Result<()> {
        self.check(elements.len())?;
        self.version = Version::next();
        self.lent = None;
        self.elements.copy_from_slice(elements);
        if self.ty.dtype == DType::Fp16 {
            fp16::round_all(&mut self.elements);
        }
        Ok(())
    }

    fn read(&self, elements: &mut [f32]) -> Result<()> {
        self.check(elements.len())?;
        elements.copy_from_slice(&self.elements);
        Ok(())
    }
}
