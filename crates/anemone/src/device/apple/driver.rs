//! The device on Apple's classes: what is compiled in which form, what is loaded, and how it runs.

use super::folder::{Folder, Folders};
use super::program::{Form, Port, Shaped, WEIGHTS_PATH};
use super::surface::AppleBuffer;
use super::sys::{Model, Request, Runtime, Surface, SurfaceApi};
use super::{Failure, Options, ProgramIo};
use crate::device::{Buffer, Device, Kernel, Signature, Usage, is_io_type};
use crate::error::{Error, Result};
use anemone_mil::ir::{TensorType, Version};
use anemone_mil::limits::Limits;
use anemone_mil::{ValidProgram, Weights};
use std::any::Any;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where the frameworks are. They live in the cache of the dynamic linker and need not exist as files.
const FRAMEWORKS: [&str; 3] = [
    "/System/Library/Frameworks/Foundation.framework/Foundation",
    "/System/Library/Frameworks/IOSurface.framework/IOSurface",
    "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine",
];

/// Surfaces are whole pages of this size where they have a smallest size at all.
const PAGE_BYTES: usize = 16 * 1024;

/// After a compile that failed the next one waits, twice as long each time: compiles that fail one after the other
/// upset the system's compile service (ANEForge waits 15 s).
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Requests that a kernel keeps, one for each set of buffers it was run with.
const MAX_REQUESTS: usize = 4;

/// What outputs are filled with before a first run, to see that they are written: NaN in fp16 and in fp32.
const POISON: u8 = 0xff;

/// The Neural Engine.
pub struct AppleDevice {
    engine: Arc<Engine>,
}

struct Engine {
    runtime: Arc<Runtime>,
    options: Options,
    limits: Limits,
    is_virtual: Option<bool>,
    folders: Arc<Folders>,
    temporary: PathBuf,
    /// The form that was taken first: version, and whether fp32 inputs and outputs were.
    form: Mutex<Taken>,
    backoff: Mutex<Backoff>,
    n_compiles: AtomicUsize,
    /// Compiles that were refused in one form and taken in another.
    n_probes: AtomicUsize,
    n_live: AtomicUsize,
}

/// What is known to be taken.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    version: Option<Version>,
    fp32_io: Option<bool>,
}

#[derive(Default)]
struct Backoff {
    n_failures: u32,
    until: Option<Instant>,
}

impl AppleDevice {
    /// Opens the frameworks and checks that their classes and methods are those that this driver was written for.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] that names the framework, class or method that is missing or differs.
    pub fn open(options: &Options) -> Result<AppleDevice> {
        AppleDevice::open_with(options, None)
    }

    /// Opens with other functions than those of IOSurface, if there are any.
    pub(super) fn open_with(options: &Options, surfaces: Option<SurfaceApi>) -> Result<AppleDevice> {
        let libraries = match &options.stand_ins {
            Some(paths) => paths.clone(),
            None if cfg!(target_os = "macos") => FRAMEWORKS.map(PathBuf::from).to_vec(),
            None => {
                return Err(Error::unavailable(
                    "the Neural Engine is in Apple's machines and this is none; use `--device soft`",
                ));
            }
        };
        let runtime = Runtime::open(&libraries, &options.class_prefix, surfaces)?;
        let (has_engine, is_virtual) = runtime.machine()?;
        if has_engine == Some(false) {
            return Err(Error::unavailable(
                "the system says that this machine has no Neural Engine; use `--device soft`",
            ));
        }
        let temporary = runtime.temporary_folder()?;
        Ok(AppleDevice {
            engine: Arc::new(Engine {
                runtime,
                options: options.clone(),
                limits: Limits::of(options.chip),
                is_virtual,
                folders: Arc::new(Folders::default()),
                temporary,
                form: Mutex::new(Taken { version: options.version, fp32_io: None }),
                backoff: Mutex::new(Backoff::default()),
                n_compiles: AtomicUsize::new(0),
                n_probes: AtomicUsize::new(0),
                n_live: AtomicUsize::new(0),
            }),
        })
    }

    /// What calls have said about their failures, those included that were recovered from; the last few, oldest
    /// first.
    pub fn failures(&self) -> Vec<Failure> {
        self.engine.runtime.failures()
    }

    /// The folders with model files that exist now.
    pub fn n_folders(&self) -> usize {
        self.engine.folders.n_folders()
    }

    /// Whether the machine is a virtual one, if the system says.
    pub fn is_virtual(&self) -> Option<bool> {
        self.engine.is_virtual
    }

    /// Whether fp32 inputs and outputs were tried and refused.
    pub fn fell_back_to_fp16(&self) -> bool {
        self.engine.taken().fp32_io == Some(false)
    }

    /// The version of the language that was taken, once a program was.
    pub fn version(&self) -> Option<Version> {
        self.engine.taken().version
    }
}

impl Device for AppleDevice {
    fn name(&self) -> String {
        let engine = &self.engine;
        let taken = engine.taken();
        let version = taken.version.map_or("not yet known".into(), |v| format!("program({})", v.as_str()));
        let io = match (engine.options.io, taken.fp32_io) {
            (ProgramIo::Fp16, _) => "fp16 inputs and outputs",
            (ProgramIo::AsWritten, Some(false)) => "fp16 inputs and outputs, as fp32 was refused",
            (ProgramIo::AsWritten, _) => "inputs and outputs as written",
        };
        // What stands in for the engine is never called by its name.
        let what = if engine.options.stand_ins.is_some() { "stand-in classes" } else { "Neural Engine" };
        format!("{what} ({}, {version}, {io})", engine.limits.name())
    }

    fn limits(&self) -> &Limits {
        &self.engine.limits
    }

    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>> {
        let engine = &self.engine;
        engine.check_budgets()?;
        engine.pause();
        let result = engine.compile(program, weights);
        engine.note(result.as_ref().err().is_some_and(Error::is_device));
        Ok(Box::new(result?))
    }

    fn arithmetic(&self) -> &'static str {
        match self.engine.options.stand_ins {
            Some(_) => "that of the stand-in classes",
            None => "fp16, accumulated and rounded as the engine does",
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            n_compiles: self.engine.n_compiles.load(Ordering::Relaxed),
            n_live: self.engine.n_live.load(Ordering::Relaxed),
        }
    }
}

impl Engine {
    fn taken(&self) -> Taken {
        *self.form.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn check_budgets(&self) -> Result<()> {
        let used = self.n_compiles.load(Ordering::Relaxed) + self.n_probes.load(Ordering::Relaxed);
        let least = |own: Option<usize>, rule: Option<usize>| own.into_iter().chain(rule).min();
        if let Some(max) = least(self.options.max_compiles, self.limits.max_compiles())
            && used >= max
        {
            return Err(Error::budget(format!(
                "all {max} compiles of this process are used up (rule `compile-budget`)"
            )));
        }
        let live = self.n_live.load(Ordering::Relaxed);
        if let Some(max) = least(self.options.max_live_programs, self.limits.max_live_programs())
            && live >= max
        {
            return Err(Error::budget(format!(
                "{max} programs are loaded, the most a process can have (rule `live-programs`)"
            )));
        }
        Ok(())
    }

    /// Waits if compiles have failed just now.
    fn pause(&self) {
        let until = self.backoff.lock().unwrap_or_else(|e| e.into_inner()).until;
        if let Some(rest) = until.and_then(|t| t.checked_duration_since(Instant::now())) {
            std::thread::sleep(rest);
        }
    }

    /// Notes how a compile has ended.
    fn note(&self, failed: bool) {
        let mut backoff = self.backoff.lock().unwrap_or_else(|e| e.into_inner());
        if failed {
            let pause = FIRST_PAUSE.saturating_mul(1 << backoff.n_failures.min(16)).min(LONGEST_PAUSE);
            *backoff = Backoff { n_failures: backoff.n_failures + 1, until: Some(Instant::now() + pause) };
        } else {
            *backoff = Backoff::default();
        }
    }

    /// Compiles in the first form that is taken: the newer version of the language before the older, inputs and
    /// outputs as written before fp16. A form that was taken once is the only one from then on.
    fn compile(self: &Arc<Self>, program: &ValidProgram, weights: &Weights) -> Result<AppleKernel> {
        let taken = self.taken();
        let shape = |fp16_io| Shaped::new(program, weights, Form { fp16_io, pad: self.options.pad });
        let mut forms = Vec::new();
        if self.options.io == ProgramIo::AsWritten && taken.fp32_io != Some(false) {
            let shaped = shape(false)?;
            if shaped.has_fp32_io() {
                forms.push(shaped);
            }
        }
        if forms.is_empty() || taken.fp32_io.is_none() {
            forms.push(shape(true)?);
        }
        let versions = match taken.version {
            Some(version) => vec![version],
            None => vec![Version::V1_3, Version::V1_0],
        };
        let mut refusals: Vec<String> = Vec::new();
        let n_forms = forms.len();
        for shaped in forms {
            for &version in &versions {
                let has_fp32 = shaped.has_fp32_io();
                let io = if has_fp32 { "fp32" } else { "fp16" };
                match self.try_form(&shaped, version) {
                    Ok(kernel) => {
                        let mut form = self.form.lock().unwrap_or_else(|e| e.into_inner());
                        form.version = Some(version);
                        if n_forms > 1 {
                            form.fp32_io = Some(has_fp32);
                        }
                        self.n_probes.fetch_add(refusals.len(), Ordering::Relaxed);
                        self.n_compiles.fetch_add(1, Ordering::Relaxed);
                        return Ok(kernel);
                    }
                    Err(e) if e.is_device() => {
                        refusals.push(format!("as program({}) with {io}: {e}", version.as_str()));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        self.n_compiles.fetch_add(refusals.len(), Ordering::Relaxed);
        Err(Error::device(refusals.join("; ")))
    }

    fn try_form(self: &Arc<Self>, shaped: &Shaped, version: Version) -> Result<AppleKernel> {
        let text = shaped.text(version)?;
        let files: Vec<(&str, &[u8])> = shaped.weights.iter().map(|w| (WEIGHTS_PATH, &w[..])).collect();
        let model = self.runtime.model(text.as_bytes(), &files)?;
        let folder = self.folders.enter(&self.temporary, &model.identifier()?, &text, &files)?;
        model.compile()?;
        let loaded = Loaded::new(self, model, folder)?;
        AppleKernel::new(shaped, loaded)
    }
}

/// A loaded model, unloaded when dropped.
struct Loaded {
    model: Model,
    engine: Arc<Engine>,
    /// After the model: its files are removed when nobody reads them any more.
    _folder: Folder,
}

impl Loaded {
    fn new(engine: &Arc<Engine>, model: Model, folder: Folder) -> Result<Loaded> {
        model.load()?;
        engine.n_live.fetch_add(1, Ordering::Relaxed);
        Ok(Loaded { model, engine: engine.clone(), _folder: folder })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A failure is kept with the others; there is no one here to tell.
        let _ = self.model.unload();
        self.engine.n_live.fetch_sub(1, Ordering::Relaxed);
    }
}

struct AppleKernel {
    loaded: Loaded,
    signature: Signature,
    inputs: Side,
    outputs: Side,
    /// With the addresses of their surfaces.
    requests: Vec<(Vec<usize>, Request)>,
}

/// The inputs, or the outputs, of a kernel.
struct Side {
    ports: Vec<Port>,
    /// The size of each of its surfaces: that of the largest, as the engine wants them equal (Orion constraints 2
    /// and 18).
    n_bytes: usize,
    /// For each place in the engine's order, the index of the port that belongs there.
    order: Vec<usize>,
    /// Surfaces of this kernel for buffers that do not fit.
    scratch: Vec<Option<AppleBuffer>>,
}

impl Side {
    fn new(ports: &[Port], engine_order: Option<&[String]>, min_bytes: usize) -> Side {
        let largest = ports.iter().map(Port::n_bytes).max().unwrap_or(0);
        let n_bytes = match min_bytes {
            0 => largest,
            min => largest.max(min).next_multiple_of(PAGE_BYTES),
        };
        // Symbols of outputs carry a suffix, as in `o000@output`. Without an order, or with one that is not of
        // these names, the order of their bytes holds, which the names were made for.
        let find = |symbol: &String| {
            let name = symbol.split('@').next().unwrap_or(symbol);
            ports.iter().position(|p| p.symbol == name)
        };
        let said = engine_order.and_then(|symbols| symbols.iter().map(find).collect::<Option<Vec<usize>>>());
        let is_order = |order: &Vec<usize>| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.iter().copied().eq(0..ports.len())
        };
        let order = said.filter(is_order).unwrap_or_else(|| (0..ports.len()).collect());
        Side { scratch: ports.iter().map(|_| None).collect(), ports: ports.to_vec(), n_bytes, order }
    }

    fn buffer(&self, engine: &Engine, side: &str, index: usize) -> Result<AppleBuffer> {
        let port = self.ports.get(index).ok_or_else(|| {
            Error::config(format!("the kernel has {} {side}s, there is none of index {index}", self.ports.len()))
        })?;
        AppleBuffer::new(&engine.runtime, port, self.n_bytes)
    }

    /// The surface for a buffer of the port of that index: its own if it fits.
    fn surface<'a>(&'a self, index: usize, buffer: &'a AppleBuffer) -> &'a Surface {
        match &self.scratch[index] {
            Some(scratch) if !buffer.fits(&self.ports[index], self.n_bytes) => scratch.surface(),
            _ => buffer.surface(),
        }
    }

    /// Makes a surface of its own for a buffer that does not fit; says whether it does not.
    fn needs_scratch(&mut self, engine: &Engine, index: usize, buffer: &AppleBuffer) -> Result<bool> {
        if buffer.fits(&self.ports[index], self.n_bytes) {
            return Ok(false);
        }
        if self.scratch[index].is_none() {
            self.scratch[index] = Some(AppleBuffer::new(&engine.runtime, &self.ports[index], self.n_bytes)?);
        }
        Ok(true)
    }
}

impl AppleKernel {
    fn new(shaped: &Shaped, loaded: Loaded) -> Result<AppleKernel> {
        let typed = |ports: &[Port]| {
            ports
                .iter()
                .map(|p| match is_io_type(p.host.dtype) {
                    true => Ok((p.name.clone(), p.host.clone())),
                    false => Err(Error::config(format!(
                        "`{}` is {}; a kernel's inputs and outputs are fp16 or fp32 tensors of fixed shape",
                        p.name, p.host
                    ))),
                })
                .collect::<Result<Vec<_>>>()
        };
        let signature = Signature { inputs: typed(&shaped.inputs)?, outputs: typed(&shaped.outputs)? };
        let symbols = loaded.model.live_symbols()?;
        let min = loaded.engine.options.min_surface_bytes;
        let [xs, ys] = match &symbols {
            Some([xs, ys]) => [Some(&xs[..]), Some(&ys[..])],
            None => [None, None],
        };
        Ok(AppleKernel {
            signature,
            inputs: Side::new(&shaped.inputs, xs, min),
            outputs: Side::new(&shaped.outputs, ys, min),
            requests: Vec::new(),
            loaded,
        })
    }

    /// The request for these buffers, and whether it is new.
    fn request(&mut self, inputs: &[&AppleBuffer], outputs: &[&AppleBuffer]) -> Result<(usize, bool)> {
        let pick = |side: &Side, buffers: &[&AppleBuffer]| -> Vec<usize> {
            side.order.iter().map(|&i| side.surface(i, buffers[i]).address()).collect()
        };
        let key: Vec<usize> = pick(&self.inputs, inputs).into_iter().chain(pick(&self.outputs, outputs)).collect();
        if let Some(index) = self.requests.iter().position(|(k, _)| *k == key) {
            return Ok((index, false));
        }
        let xs: Vec<&Surface> = self.inputs.order.iter().map(|&i| self.inputs.surface(i, inputs[i])).collect();
        let ys: Vec<&Surface> = self.outputs.order.iter().map(|&i| self.outputs.surface(i, outputs[i])).collect();
        let request = self.loaded.engine.runtime.request(&xs, &ys)?;
        if self.requests.len() == MAX_REQUESTS {
            self.requests.remove(0);
        }
        self.requests.push((key, request));
        Ok((self.requests.len() - 1, true))
    }
}

impl Kernel for AppleKernel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn input_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.inputs.buffer(&self.loaded.engine, "input", index)?))
    }

    fn output_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.outputs.buffer(&self.loaded.engine, "output", index)?))
    }

    fn run(&mut self, inputs: &[&dyn Buffer], outputs: &mut [&mut dyn Buffer]) -> Result<()> {
        let s = &self.signature;
        if inputs.len() != s.inputs.len() || outputs.len() != s.outputs.len() {
            return Err(Error::config(format!(
                "the kernel takes {} inputs and {} outputs, got {} and {}",
                s.inputs.len(),
                s.outputs.len(),
                inputs.len(),
                outputs.len()
            )));
        }
        let inputs = inputs.iter().zip(&s.inputs).map(|(b, (name, ty))| apple(*b, name, ty));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let outputs = outputs.iter_mut().zip(&s.outputs).map(|(b, (name, ty))| apple_mut(&mut **b, name, ty));
        let mut outputs = outputs.collect::<Result<Vec<_>>>()?;

        let engine = self.loaded.engine.clone();
        for (i, buffer) in inputs.iter().enumerate() {
            if self.inputs.needs_scratch(&engine, i, buffer)?
                && let Some(scratch) = &mut self.inputs.scratch[i]
            {
                scratch.take_from(buffer)?;
            }
        }
        let mut copied = Vec::new();
        for (i, buffer) in outputs.iter().enumerate() {
            if self.outputs.needs_scratch(&engine, i, buffer)? {
                copied.push(i);
            }
        }
        let (index, is_new) = self.request(&inputs, &outputs.iter().map(|b| &**b).collect::<Vec<_>>())?;
        if is_new {
            for (i, buffer) in outputs.iter_mut().enumerate() {
                match &mut self.outputs.scratch[i] {
                    Some(scratch) if copied.contains(&i) => scratch.fill(POISON)?,
                    _ => buffer.fill(POISON)?,
                }
            }
        }
        self.loaded.model.evaluate(&self.requests[index].1)?;
        for i in copied {
            if let Some(scratch) = &self.outputs.scratch[i] {
                outputs[i].take_from(scratch)?;
            }
        }
        if is_new {
            for (buffer, (name, _)) in outputs.iter().zip(&self.signature.outputs) {
                if buffer.is_filled_with(POISON)? {
                    self.requests.remove(index);
                    return Err(Error::device(format!(
                        "`evaluateWithQoS:options:request:error:` said YES, but has not written output `{name}`"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn misfit(name: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display) -> Error {
    Error::config(format!("the buffer for `{name}` holds {found}, expected {expected} of the Neural Engine"))
}

fn apple<'a>(buffer: &'a dyn Buffer, name: &str, ty: &TensorType) -> Result<&'a AppleBuffer> {
    let any: &dyn Any = buffer;
    any.downcast_ref().filter(|_| buffer.ty() == ty).ok_or_else(|| misfit(name, ty, buffer.ty()))
}

fn apple_mut<'a>(buffer: &'a mut dyn Buffer, name: &str, ty: &TensorType) -> Result<&'a mut AppleBuffer> {
    if buffer.ty() != ty {
        return Err(misfit(name, ty, buffer.ty()));
    }
    let any: &mut dyn Any = buffer;
    any.downcast_mut().ok_or_else(|| Error::config(format!("the buffer for `{name}` is another device's")))
}
