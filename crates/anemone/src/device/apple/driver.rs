//! The device on Apple's classes: what is compiled in which form, what is loaded, and how it runs.

use super::backoff::Backoff;
use super::donor::{self, Donors};
use super::energy::Meter;
use super::folder::{Folder, Folders};
use super::kernel::AppleKernel;
use super::program::{Form, Shaped, WEIGHTS_PATH};
use super::sys::{Model, Runtime, SurfaceApi};
use super::{Failure, Options, ProgramInputs, ProgramIo};
use crate::config::Io;
use crate::device::{Device, Kernel, Usage, self_test};
use crate::error::{Error, Result};
use anemone_mil::ir::Version;
use anemone_mil::limits::Limits;
use anemone_mil::{ValidProgram, Weights};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Where the frameworks are. They live in the cache of the dynamic linker and need not exist as files.
const FRAMEWORKS: [&str; 3] = [
    "/System/Library/Frameworks/Foundation.framework/Foundation",
    "/System/Library/Frameworks/IOSurface.framework/IOSurface",
    "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine",
];

/// The Neural Engine.
pub struct AppleDevice {
    engine: Arc<Engine>,
}

pub(super) struct Engine {
    pub(super) runtime: Arc<Runtime>,
    pub(super) options: Options,
    limits: Limits,
    is_virtual: Option<bool>,
    folders: Arc<Folders>,
    temporary: PathBuf,
    /// The form that was taken first: version, and whether fp32 inputs and outputs were.
    form: Mutex<Taken>,
    backoff: Mutex<Backoff>,
    donors: Donors,
    meter: Option<Meter>,
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
        let is_engine = options.stand_ins.is_none() && surfaces.is_none() && is_virtual != Some(true);
        let device = AppleDevice {
            engine: Arc::new(Engine {
                runtime,
                options: options.clone(),
                limits: Limits::of(options.chip),
                is_virtual,
                folders: Arc::new(Folders::default()),
                temporary,
                form: Mutex::new(Taken { version: options.version, fp32_io: None }),
                backoff: Mutex::new(Backoff::default()),
                donors: Donors::new(options.donor_patch),
                // What runs elsewhere takes none of the engine's energy.
                meter: if is_engine { Meter::start() } else { None },
                n_compiles: AtomicUsize::new(0),
                n_probes: AtomicUsize::new(0),
                n_live: AtomicUsize::new(0),
            }),
        };
        if options.donor_patch {
            device.try_donor_patch();
        }
        Ok(device)
    }

    /// Uses the donor patch on a layer with a known answer, and never again if that comes out wrong.
    fn try_donor_patch(&self) {
        let donors = &self.engine.donors;
        match self_test::linear_layer(self, Io::Fp16) {
            Err(e) => donors.refuse(e.to_string()),
            Ok(_) if donors.n_patches() == 0 => donors.refuse(format!("compiles leave no `{}`", donor::NET)),
            Ok(_) => {}
        }
    }

    /// Programs that got new weights by the donor patch, without a compile.
    pub fn n_patches(&self) -> usize {
        self.engine.donors.n_patches()
    }

    /// Why the donor patch is not used although it was asked for.
    pub fn donor_refusal(&self) -> Option<String> {
        self.engine.donors.refusal()
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
        let inputs = match engine.options.inputs {
            ProgramInputs::Separate => "",
            ProgramInputs::Packed => ", several inputs packed into one",
        };
        let donor = match engine.donors.refusal() {
            Some(why) => format!(", no donor patch as it was tried and does not work: {why}"),
            None if engine.options.donor_patch => ", new weights by donor patch".into(),
            None => String::new(),
        };
        format!("{what} ({}, {version}, {io}{inputs}{donor})", engine.limits.name())
    }

    fn limits(&self) -> &Limits {
        &self.engine.limits
    }

    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>> {
        let engine = &self.engine;
        let place = Arc::new(Place::take(engine)?);
        engine.take_compile()?;
        engine.pause();
        let result = engine.compile(program, weights, place);
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

    fn engine_energy_j(&self) -> Option<f64> {
        self.engine.meter.as_ref().and_then(Meter::joules)
    }
}

impl Engine {
    fn taken(&self) -> Taken {
        *self.form.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes one of the compiles that the process has.
    fn take_compile(&self) -> Result<()> {
        let used = self.n_compiles.fetch_add(1, Ordering::Relaxed) + self.n_probes.load(Ordering::Relaxed);
        match least(self.options.max_compiles, self.limits.max_compiles()) {
            Some(max) if used >= max => {
                self.n_compiles.fetch_sub(1, Ordering::Relaxed);
                Err(Error::budget(format!(
                    "all {max} compiles of this process are used up (rule `compile-budget`)"
                )))
            }
            _ => Ok(()),
        }
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits if compiles have failed just now.
    fn pause(&self) {
        let rest = self.backoff().rest(Instant::now());
        std::thread::sleep(rest);
    }

    /// Notes how a compile has ended.
    fn note(&self, failed: bool) {
        self.backoff().note(failed, Instant::now());
    }

    /// Compiles in the first form that is taken: the newer version of the language before the older, inputs and
    /// outputs as written before fp16. A form that was taken once is the only one from then on.
    fn compile(
        self: &Arc<Self>,
        program: &ValidProgram,
        weights: &Weights,
        place: Arc<Place>,
    ) -> Result<AppleKernel> {
        let (n_refused, result) = match self.forms(program, weights) {
            Ok(forms) => self.first_taken(&forms, &place),
            Err(e) => (0, Err(e)),
        };
        // One compile was counted beforehand.
        match &result {
            Ok((_, Made::Compiled)) => {
                self.n_probes.fetch_add(n_refused, Ordering::Relaxed);
            }
            Ok((_, Made::Patched)) => {
                self.n_probes.fetch_add(n_refused, Ordering::Relaxed);
                self.n_compiles.fetch_sub(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.n_compiles.fetch_add(n_refused, Ordering::Relaxed);
                self.n_compiles.fetch_sub(1, Ordering::Relaxed);
            }
        }
        result.map(|(kernel, _)| kernel)
    }

    /// The forms to try, the best first.
    fn forms(&self, program: &ValidProgram, weights: &Weights) -> Result<Vec<Shaped>> {
        let taken = self.taken();
        let packed = self.options.inputs == ProgramInputs::Packed;
        let shape = |fp16_io| {
            let shaped = Shaped::new(program, weights, Form { fp16_io, pad: self.options.pad, packed })?;
            shaped.check_packing(&self.limits)?;
            Ok::<_, Error>(shaped)
        };
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
        Ok(forms)
    }

    /// Compiles the first form that is taken, and says how many were refused before it.
    fn first_taken(
        self: &Arc<Self>,
        forms: &[Shaped],
        place: &Arc<Place>,
    ) -> (usize, Result<(AppleKernel, Made)>) {
        let versions = match self.taken().version {
            Some(version) => vec![version],
            None => vec![Version::V1_3, Version::V1_0],
        };
        let mut refusals: Vec<String> = Vec::new();
        for shaped in forms {
            for &version in &versions {
                let has_fp32 = shaped.has_fp32_io();
                let io = if has_fp32 { "fp32" } else { "fp16" };
                match self.try_form(shaped, version, place) {
                    Ok(made) => {
                        let mut form = self.form.lock().unwrap_or_else(|e| e.into_inner());
                        form.version = Some(version);
                        if forms.len() > 1 {
                            form.fp32_io = Some(has_fp32);
                        }
                        return (refusals.len(), Ok(made));
                    }
                    Err(e) if e.is_device() => {
                        refusals.push(format!("as program({}) with {io}: {e}", version.as_str()));
                    }
                    Err(e) => return (refusals.len(), Err(e)),
                }
            }
        }
        (refusals.len(), Err(Error::device(refusals.join("; "))))
    }

    fn try_form(
        self: &Arc<Self>,
        shaped: &Shaped,
        version: Version,
        place: &Arc<Place>,
    ) -> Result<(AppleKernel, Made)> {
        let text = shaped.text(version)?;
        let files: Vec<(&str, &[u8])> = shaped.weights.iter().map(|w| (WEIGHTS_PATH, &w[..])).collect();
        let make = || {
            let model = self.runtime.model(text.as_bytes(), &files)?;
            let folder = self.folders.enter(&self.temporary, &model.identifier()?, &text, &files)?;
            Ok::<_, Error>((model, folder))
        };
        let (mut model, mut folder) = make()?;
        let mut made = Made::Compiled;
        if let (Some(net), Some(weights)) = (self.donors.net(&text), &shaped.weights) {
            match donor::patch(&folder, &net, weights).and_then(|()| model.load()) {
                Ok(()) => {
                    self.donors.note_patch();
                    made = Made::Patched;
                }
                Err(e) => {
                    self.donors.refuse(e.to_string());
                    // Nothing of the attempt is left: not its files either, as the folder goes with its last user.
                    drop((model, folder));
                    (model, folder) = make()?;
                }
            }
        }
        if made == Made::Compiled {
            model.compile()?;
            self.donors.keep(&text, &folder);
            model.load()?;
        }
        let loaded = Loaded { model, engine: self.clone(), _folder: folder, _place: place.clone() };
        Ok((AppleKernel::new(shaped, loaded)?, made))
    }
}

/// How a model came by its weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Compiled,
    Patched,
}

/// A place among the loaded programs, given back when dropped.
struct Place(Arc<Engine>);

impl Place {
    fn take(engine: &Arc<Engine>) -> Result<Place> {
        let n_live = engine.n_live.fetch_add(1, Ordering::Relaxed);
        let place = Place(engine.clone());
        match least(engine.options.max_live_programs, engine.limits.max_live_programs()) {
            Some(max) if n_live >= max => Err(Error::budget(format!(
                "{max} programs are loaded, the most a process can have (rule `live-programs`)"
            ))),
            _ => Ok(place),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.n_live.fetch_sub(1, Ordering::Relaxed);
    }
}

fn least(own: Option<usize>, rule: Option<usize>) -> Option<usize> {
    own.into_iter().chain(rule).min()
}

/// A loaded model, unloaded when dropped.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) engine: Arc<Engine>,
    /// After the model: its files are removed when nobody reads them any more.
    _folder: Folder,
    _place: Arc<Place>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A failure is kept with the others; there is no one here to tell.
        let _ = self.model.unload();
    }
}
