//! Stand-ins for Apple's classes, for tests: they take any program and hand it to the software engine.
//!
//! Each [`StandIns`] registers classes of its own names, so that one process can have any number of them, each
//! with another fault. They are as strict as the real ones are known to be (facts and sources in the rules of
//! [`Limits`](anemone_mil::Limits)), and count what they are given: objects, compiles, loads, locks.
#![allow(unsafe_code)]

mod engine;
mod iosurface;
mod model;

use super::driver::AppleDevice;
use super::sys::{RawSurface, SurfaceApi};
use super::{Options, table};
use crate::device::Kernel;
use crate::error::{Error, Result};
use anemone_mil::Chip;
use objc2::exception::Exception;
use objc2::msg_send;
use objc2::rc::Retained;
use objc2::runtime::{AnyClass, AnyObject, Bool, ClassBuilder, Sel};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The descriptor is nil.
    NilDescriptor,
    /// The model is nil.
    NilModel,
    /// The compile says NO with an error.
    CompileNo,
    /// The compile says NO without an error.
    CompileSilentNo,
    /// The compile raises an exception.
    CompileRaises,
    /// The load says NO with the error of a process that has too many programs.
    LoadNo,
    /// The evaluation says NO with status 0x1d.
    EvaluateNo,
    /// The evaluation of a request with several inputs says NO with status 0x1d. From the start.
    EvaluateSeveralNo,
    /// The evaluation raises an exception, as a selector that is not implemented does.
    EvaluateRaises,
    /// The evaluation says YES and writes nothing.
    EvaluateWritesNothing,
    /// The unload says NO.
    UnloadNo,
    /// The surface object is nil.
    NilSurfaceObject,
    /// The request is nil.
    NilRequest,
    /// There is no class for requests. From the start.
    MissingClass,
    /// The model has no method to evaluate. From the start.
    MissingMethod,
    /// The method to load has another type. From the start.
    OtherType,
    /// A load with the net of a donor says NO.
    PatchNo,
    /// A load with the net of a donor says YES, and the weights are the donor's. From the start.
    PatchIgnored,
}

/// What models say of their inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// Nothing: they lie densely, in the order of the bytes of their names.
    #[default]
    Nothing,
    /// That they lie with gaps between rows, channels and batches, in the other order; and so they do.
    Unusual,
    /// Something that cannot be: they lie as with `Nothing`.
    Wrong,
}

/// What the stand-ins have been given, and what of it is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects of the stand-in classes that were not released yet.
    pub n_objects: i64,
    /// Compiles, those that failed included.
    pub n_compiles: usize,
    /// Models that are loaded.
    pub n_loaded: i64,
    /// Evaluations.
    pub n_evaluations: usize,
    /// Surfaces that were not released yet, of all stand-ins of the process.
    pub n_surfaces: i64,
    /// Locks that were not undone yet, of all stand-ins of the process.
    pub n_locks: i64,
}

/// One set of stand-in classes.
pub struct StandIns {
    world: Arc<World>,
}

struct World {
    prefix: String,
    /// Its budgets are not asked: the stand-ins have their own.
    chip: Chip,
    fault: Option<(Fault, usize)>,
    says: Says,
    foundation: PathBuf,
    compiled: Mutex<Compiled>,
    n_faults: AtomicUsize,
    n_objects: AtomicI64,
    n_compiles: AtomicUsize,
    n_loaded: AtomicI64,
    n_evaluations: AtomicUsize,
}

/// The worlds by the address of their classes.
static WORLDS: Mutex<Option<HashMap<usize, Arc<World>>>> = Mutex::new(None);
/// For names of classes.
static N_WORLDS: AtomicUsize = AtomicUsize::new(0);
static N_SURFACES: AtomicI64 = AtomicI64::new(0);
static N_LOCKS: AtomicI64 = AtomicI64::new(0);

/// The name of the instance variable that points to an object's [`State`].
const STATE: &CStr = c"state";

/// Weights files by their paths.
type Files = Vec<(String, Vec<u8>)>;

/// What was compiled, text and weights files, by the `net.plist` that was left.
type Compiled = HashMap<Vec<u8>, (Vec<u8>, Files)>;

/// What an object of a stand-in class holds.
struct State {
    world: Arc<World>,
    content: Content,
}

enum Content {
    Descriptor { mil: Vec<u8>, weights: Files },
    Model(Mutex<ModelState>),
    SurfaceObject(Retained<AnyObject>),
    Request { inputs: Vec<Retained<AnyObject>>, outputs: Vec<Retained<AnyObject>> },
    Surface { bytes: Mutex<Vec<u8>>, n_locks: AtomicI64 },
}

struct ModelState {
    mil: Vec<u8>,
    weights: Files,
    /// What the compile, or a load with the net of a donor, made.
    kernel: Option<Box<dyn Kernel>>,
    loaded: bool,
}

impl StandIns {
    /// Classes that compute by the rules of `chip`. The n-th time that `fault` could happen, counted from 1, it
    /// does.
    ///
    /// `foundation` is the library with Foundation's classes, which is opened first.
    ///
    /// # Errors
    ///
    /// If the classes cannot be registered.
    pub fn new(foundation: PathBuf, chip: Chip, fault: Option<(Fault, usize)>) -> Result<StandIns> {
        StandIns::saying(Says::Nothing, foundation, chip, fault)
    }

    /// The same, whose models say something of their inputs and outputs.
    ///
    /// # Errors
    ///
    /// As [`StandIns::new`].
    pub fn saying(says: Says, foundation: PathBuf, chip: Chip, fault: Option<(Fault, usize)>) -> Result<StandIns> {
        let opened = super::sys::open_library(foundation.as_os_str())?;
        // Classes cannot be unloaded.
        std::mem::forget(opened);
        let number = N_WORLDS.fetch_add(1, Ordering::Relaxed);
        let world =
            Arc::new(World { says, ..World::new(format!("AnemoneStandIn{number}_"), chip, fault, foundation) });
        register(&world)?;
        Ok(StandIns { world })
    }

    /// The device on these classes.
    ///
    /// # Errors
    ///
    /// As [`AppleDevice::open`].
    pub fn open(&self, options: &Options) -> Result<AppleDevice> {
        let options = Options {
            stand_ins: Some(vec![self.world.foundation.clone()]),
            class_prefix: self.world.prefix.clone(),
            chip: self.world.chip,
            ..options.clone()
        };
        let api = SurfaceApi {
            create: iosurface::create,
            lock: iosurface::lock,
            unlock: iosurface::unlock,
            base: iosurface::base,
            alloc_size: iosurface::alloc_size,
        };
        AppleDevice::open_with(&options, Some(api))
    }

    /// What is there.
    pub fn counts(&self) -> Counts {
        let w = &self.world;
        Counts {
            n_objects: w.n_objects.load(Ordering::SeqCst),
            n_compiles: w.n_compiles.load(Ordering::SeqCst),
            n_loaded: w.n_loaded.load(Ordering::SeqCst),
            n_evaluations: w.n_evaluations.load(Ordering::SeqCst),
            n_surfaces: N_SURFACES.load(Ordering::SeqCst),
            n_locks: N_LOCKS.load(Ordering::SeqCst),
        }
    }
}

impl World {
    fn new(prefix: String, chip: Chip, fault: Option<(Fault, usize)>, foundation: PathBuf) -> World {
        World {
            prefix,
            chip,
            fault,
            says: Says::Nothing,
            foundation,
            compiled: Mutex::default(),
            n_faults: AtomicUsize::new(0),
            n_objects: AtomicI64::new(0),
            n_compiles: AtomicUsize::new(0),
            n_loaded: AtomicI64::new(0),
            n_evaluations: AtomicUsize::new(0),
        }
    }

    /// Whether it is this fault's turn.
    fn fails(&self, fault: Fault) -> bool {
        let due = self.fault.filter(|(f, _)| *f == fault);
        due.is_some_and(|(_, at)| self.n_faults.fetch_add(1, Ordering::SeqCst) + 1 == at)
    }

    fn has_from_the_start(&self, fault: Fault) -> bool {
        self.fault.is_some_and(|(f, _)| f == fault)
    }
}

fn worlds() -> MutexGuard<'static, Option<HashMap<usize, Arc<World>>>> {
    WORLDS.lock().unwrap_or_else(|e| e.into_inner())
}

fn selector(name: &str) -> Sel {
    Sel::register(&CString::new(name).unwrap_or_default())
}

/// Registers the classes of a world.
fn register(world: &Arc<World>) -> Result<()> {
    let root = class("NSObject")?;
    let builder = |name: &str| {
        let name = CString::new(table::class_name(name, &world.prefix)).unwrap_or_default();
        let mut builder = ClassBuilder::new(&name, root).ok_or_else(|| {
            Error::unavailable(format!("register the class `{}`: there is one", name.to_string_lossy()))
        })?;
        builder.add_ivar::<*mut c_void>(STATE);
        // SAFETY: the method has the type of `dealloc`.
        unsafe { builder.add_method(selector("dealloc"), dealloc as extern "C-unwind" fn(_, _)) };
        Ok::<_, Error>(builder)
    };
    let mut known = worlds();
    let known = known.get_or_insert_with(HashMap::new);
    let mut finish = |builder: ClassBuilder| {
        known.insert(ptr::from_ref(builder.register()) as usize, world.clone());
    };

    // SAFETY: each method has the type that `table::SELECTORS` gives for it, but for the one that is a fault.
    unsafe {
        let mut b = builder(table::DESCRIPTOR)?;
        let make: extern "C-unwind" fn(_, _, _, _, _) -> _ = model::make_descriptor;
        b.add_class_method(selector("modelWithMILText:weights:optionsPlist:"), make);
        finish(b);

        let mut b = builder(table::MODEL)?;
        let make: extern "C-unwind" fn(_, _, _) -> _ = model::make_model;
        b.add_class_method(selector("inMemoryModelWithDescriptor:"), make);
        let identify: extern "C-unwind" fn(_, _) -> _ = model::identify;
        b.add_method(selector("hexStringIdentifier"), identify);
        let attributes: extern "C-unwind" fn(_, _) -> _ = engine::attributes;
        b.add_method(selector("modelAttributes"), attributes);
        let compile: extern "C-unwind" fn(_, _, _, _, _) -> _ = model::compile;
        b.add_method(selector("compileWithQoS:options:error:"), compile);
        if world.has_from_the_start(Fault::OtherType) {
            let load: extern "C-unwind" fn(_, _, _, _, _) -> _ = model::load_of_another_type;
            b.add_method(selector("loadWithQoS:options:error:"), load);
        } else {
            let load: extern "C-unwind" fn(_, _, _, _, _) -> _ = model::load;
            b.add_method(selector("loadWithQoS:options:error:"), load);
        }
        let unload: extern "C-unwind" fn(_, _, _, _) -> _ = model::unload;
        b.add_method(selector("unloadWithQoS:error:"), unload);
        if !world.has_from_the_start(Fault::MissingMethod) {
            let evaluate: extern "C-unwind" fn(_, _, _, _, _, _) -> _ = model::evaluate;
            b.add_method(selector("evaluateWithQoS:options:request:error:"), evaluate);
        }
        finish(b);

        let mut b = builder(table::SURFACE_OBJECT)?;
        let make: extern "C-unwind" fn(_, _, _) -> _ = make_surface_object;
        b.add_class_method(selector("objectWithIOSurface:"), make);
        finish(b);

        if !world.has_from_the_start(Fault::MissingClass) {
            let mut b = builder(table::REQUEST)?;
            let make: extern "C-unwind" fn(_, _, _, _, _, _, _, _, _) -> _ = make_request;
            b.add_class_method(
                selector(
                    "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
                ),
                make,
            );
            finish(b);
        }
    }
    Ok(())
}

fn class(name: &str) -> Result<&'static AnyClass> {
    let c_name = CString::new(name).unwrap_or_default();
    AnyClass::get(&c_name).ok_or_else(|| Error::unavailable(format!("there is no class `{name}`")))
}

/// An object of a class with its state, released with the pool; null if there is no such class.
fn object(class: &AnyClass, world: &Arc<World>, content: Content) -> *mut AnyObject {
    // SAFETY: `new` of a class that inherits it from NSObject; the variable was added with this type.
    unsafe {
        let object: Option<Retained<AnyObject>> = msg_send![class, new];
        let (Some(object), Some(variable)) = (object, class.instance_variable(STATE)) else {
            return ptr::null_mut();
        };
        let state = Box::into_raw(Box::new(State { world: world.clone(), content }));
        *variable.load_ptr::<*mut c_void>(&object) = state.cast();
        world.n_objects.fetch_add(1, Ordering::SeqCst);
        Retained::autorelease_ptr(object)
    }
}

/// The state of an object.
///
/// # Safety
///
/// The object is alive and of a stand-in class.
unsafe fn state<'a>(object: *const AnyObject) -> Option<&'a State> {
    // SAFETY: as the caller has promised; the variable was set when the object was made.
    unsafe {
        let object = object.as_ref()?;
        let variable = object.class().instance_variable(STATE)?;
        variable.load_ptr::<*mut c_void>(object).read().cast::<State>().as_ref()
    }
}

fn world_of(class: &AnyClass) -> Option<Arc<World>> {
    worlds().as_ref()?.get(&(ptr::from_ref(class) as usize)).cloned()
}

extern "C-unwind" fn dealloc(this: &AnyObject, _: Sel) {
    // SAFETY: this is the last message to the object, whose state was made by `Box`.
    unsafe {
        if let Some(variable) = this.class().instance_variable(STATE) {
            let state = variable.load_ptr::<*mut c_void>(this).read().cast::<State>();
            if !state.is_null() {
                let state = Box::from_raw(state);
                match &state.content {
                    Content::Surface { .. } => N_SURFACES.fetch_sub(1, Ordering::SeqCst),
                    _ => state.world.n_objects.fetch_sub(1, Ordering::SeqCst),
                };
            }
        }
        if let Some(parent) = this.class().superclass() {
            let _: () = msg_send![super(this, parent), dealloc];
        }
    }
}

/// Whether an object is of a class of Foundation.
fn is_a(object: *const AnyObject, name: &str) -> bool {
    // SAFETY: what is passed to the stand-ins are objects or nil.
    let Some(object) = (unsafe { object.as_ref() }) else { return false };
    let Ok(class) = class(name) else { return false };
    // SAFETY: every object answers this.
    let is: Bool = unsafe { msg_send![object, isKindOfClass: class] };
    is.as_bool()
}

fn bytes_of(data: *const AnyObject) -> Option<Vec<u8>> {
    if !is_a(data, "NSData") {
        return None;
    }
    // SAFETY: it is data, whose bytes live as long as it does, and are copied.
    unsafe {
        let n: usize = msg_send![&*data, length];
        let start: *const c_void = msg_send![&*data, bytes];
        Some(if n == 0 { Vec::new() } else { std::slice::from_raw_parts(start.cast(), n).to_vec() })
    }
}

fn text_of(string: *const AnyObject) -> Option<String> {
    if !is_a(string, "NSString") {
        return None;
    }
    // SAFETY: it is a string; the text is copied.
    unsafe {
        let text: *const c_char = msg_send![&*string, UTF8String];
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

fn string(text: &str) -> *mut AnyObject {
    let c_text = CString::new(text).unwrap_or_default();
    let Ok(class) = class("NSString") else { return ptr::null_mut() };
    // SAFETY: the text ends with a zero byte and is copied.
    let string: Option<Retained<AnyObject>> = unsafe { msg_send![class, stringWithUTF8String: c_text.as_ptr()] };
    string.map_or(ptr::null_mut(), Retained::autorelease_ptr)
}

fn items_of(array: *const AnyObject) -> Option<Vec<Retained<AnyObject>>> {
    if !is_a(array, "NSArray") {
        return None;
    }
    // SAFETY: it is an array, and the indices are within its count.
    unsafe {
        let n: usize = msg_send![&*array, count];
        (0..n).map(|i| msg_send![&*array, objectAtIndex: i]).collect()
    }
}

/// Fills in the error, if there is a place for it, and says NO.
fn no(place: *mut *mut AnyObject, code: isize, text: &str) -> Bool {
    let user_info = || -> Option<Retained<AnyObject>> {
        // The constant `NSLocalizedDescriptionKey` as macOS and as GNUstep have it.
        let keys = ["NSLocalizedDescription", "NSLocalizedDescriptionKey"].map(string);
        let values = [string(text); 2];
        let class = class("NSDictionary").ok()?;
        // SAFETY: two strings each.
        unsafe { msg_send![class, dictionaryWithObjects: values.as_ptr(), forKeys: keys.as_ptr(), count: 2usize] }
    };
    if let (false, Some(info), Ok(class)) = (place.is_null(), user_info(), class("NSError")) {
        let domain = string("com.apple.appleneuralengine");
        // SAFETY: a string, a number and a dictionary; `place` is the caller's.
        unsafe {
            let error: Option<Retained<AnyObject>> =
                msg_send![class, errorWithDomain: domain, code: code, userInfo: &*info];
            *place = error.map_or(ptr::null_mut(), Retained::autorelease_ptr);
        }
    }
    Bool::NO
}

/// Throws an exception; says NO if there is none to throw.
fn raise(reason: &str) -> Bool {
    let nothing: Option<&AnyObject> = None;
    let name = string("NSInvalidArgumentException");
    let Ok(class) = class("NSException") else { return Bool::NO };
    let exception: Option<Retained<AnyObject>> =
        // SAFETY: two strings and nil; what comes is an exception.
        unsafe { msg_send![class, exceptionWithName: name, reason: string(reason), userInfo: nothing] };
    match exception {
        // SAFETY: `Exception` stands for any object that is thrown.
        Some(exception) => objc2::exception::throw(unsafe { Retained::cast_unchecked::<Exception>(exception) }),
        None => Bool::NO,
    }
}

extern "C-unwind" fn make_surface_object(class: &AnyClass, _: Sel, raw: *mut RawSurface) -> *mut AnyObject {
    let Some(world) = world_of(class) else { return ptr::null_mut() };
    // SAFETY: the driver passes a surface, or nil.
    let surface = unsafe { Retained::retain(raw.cast::<AnyObject>()) };
    match surface {
        Some(surface) if !world.fails(Fault::NilSurfaceObject) => {
            object(class, &world, Content::SurfaceObject(surface))
        }
        _ => ptr::null_mut(),
    }
}

#[allow(clippy::too_many_arguments)] // It is Apple's method.
extern "C-unwind" fn make_request(
    class: &AnyClass,
    _: Sel,
    inputs: *mut AnyObject,
    input_indices: *mut AnyObject,
    outputs: *mut AnyObject,
    output_indices: *mut AnyObject,
    weights: *mut AnyObject,
    statistics: *mut AnyObject,
    procedure: *mut AnyObject,
) -> *mut AnyObject {
    let Some(world) = world_of(class) else { return ptr::null_mut() };
    let lists = [inputs, input_indices, outputs, output_indices].map(|list| items_of(list));
    let [Some(inputs), Some(input_indices), Some(outputs), Some(output_indices)] = lists else {
        return ptr::null_mut();
    };
    let fits = inputs.len() == input_indices.len() && outputs.len() == output_indices.len();
    let plain = weights.is_null() && statistics.is_null() && is_a(procedure, "NSNumber");
    if !fits || !plain || world.fails(Fault::NilRequest) {
        return ptr::null_mut();
    }
    object(class, &world, Content::Request { inputs, outputs })
}
