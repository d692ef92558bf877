//! Messages to Apple's classes: the only unsafe code of the driver.
//!
//! Classes are looked up by name after their frameworks were opened, and the type of every method that is called
//! is compared with what this file expects before the first call. Each call has its autorelease pool, Objective-C
//! exceptions are caught, and what a call says about its failure is kept. Everything above this file is safe code.
//!
//! Sources of the methods and their types: the class dumps of macOS 27 in logan-ane and tmc/apple; the rules of
//! use (`@{}` and never `nil`, text as `NSData`) are those of maderix/ANE and its issues.
#![allow(unsafe_code)]

use super::Failure;
use super::layout::Described;
use super::table::{self, Kind, Selector};
use crate::error::{Error, Result};
use libloading::Library;
use objc2::encode::{Encoding, RefEncode};
use objc2::exception::Exception;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, Bool, Method, Sel};
use objc2::{ffi, msg_send};
use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex};

/// The quality of service of every call: `QOS_CLASS_DEFAULT`, which all known users pass.
const QOS: u32 = 21;

/// `kIOSurfaceLockReadOnly`.
const LOCK_READ_ONLY: u32 = 1;

/// How many failures are kept.
const MAX_FAILURES: usize = 32;

/// An `IOSurfaceRef` points to one.
#[repr(C)]
pub(super) struct RawSurface {
    _opaque: [u8; 0],
}

// SAFETY: `IOSurfaceRef` is declared as `struct __IOSurface *`, with the struct left open.
unsafe impl RefEncode for RawSurface {
    const ENCODING_REF: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// An object that is released in a pool of its own.
struct Object(ManuallyDrop<Retained<AnyObject>>);

// SAFETY: the objects kept are immutable Foundation values, surfaces, whose memory is only touched through
// `&mut Surface` or a lock, and models, which `Model` lets one thread call at a time. Reference counts are atomic.
unsafe impl Send for Object {}
// SAFETY: as for `Send`.
unsafe impl Sync for Object {}

impl Object {
    fn new(object: Retained<AnyObject>) -> Object {
        Object(ManuallyDrop::new(object))
    }

    fn get(&self) -> &AnyObject {
        &self.0
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is not used again, as this is the end of its only owner.
        let object = unsafe { ManuallyDrop::take(&mut self.0) };
        let release = || autoreleasepool(|_| drop(object));
        // An exception in `dealloc` leaves nothing that could be mended.
        let _ = objc2::exception::catch(AssertUnwindSafe(release));
    }
}

/// IOSurface's functions.
#[derive(Clone, Copy)]
pub(super) struct SurfaceApi {
    pub(super) create: unsafe extern "C-unwind" fn(*const AnyObject) -> *mut RawSurface,
    pub(super) lock: unsafe extern "C-unwind" fn(*mut RawSurface, u32, *mut u32) -> i32,
    pub(super) unlock: unsafe extern "C-unwind" fn(*mut RawSurface, u32, *mut u32) -> i32,
    pub(super) base: unsafe extern "C-unwind" fn(*mut RawSurface) -> *mut c_void,
    pub(super) alloc_size: unsafe extern "C-unwind" fn(*mut RawSurface) -> usize,
}

impl SurfaceApi {
    fn find(libraries: &[Library]) -> Result<SurfaceApi> {
        // SAFETY: the types are those of IOSurface's header.
        unsafe {
            Ok(SurfaceApi {
                create: symbol(libraries, c"IOSurfaceCreate")?,
                lock: symbol(libraries, c"IOSurfaceLock")?,
                unlock: symbol(libraries, c"IOSurfaceUnlock")?,
                base: symbol(libraries, c"IOSurfaceGetBaseAddress")?,
                alloc_size: symbol(libraries, c"IOSurfaceGetAllocSize")?,
            })
        }
    }
}

/// The keys of a surface's properties, in the order [`Runtime::surface`] gives their values.
const SURFACE_KEYS: [&CStr; 6] = [
    c"kIOSurfaceWidth",
    c"kIOSurfaceHeight",
    c"kIOSurfaceBytesPerElement",
    c"kIOSurfaceBytesPerRow",
    c"kIOSurfaceAllocSize",
    c"kIOSurfacePixelFormat",
];

/// The classes, in one place so that each is looked up once.
struct Classes {
    string: &'static AnyClass,
    data: &'static AnyClass,
    number: &'static AnyClass,
    array: &'static AnyClass,
    dictionary: &'static AnyClass,
    exception: &'static AnyClass,
    descriptor: &'static AnyClass,
    model: &'static AnyClass,
    surface_object: &'static AnyClass,
    request: &'static AnyClass,
}

/// The frameworks, opened and checked.
pub(super) struct Runtime {
    classes: Classes,
    surfaces: SurfaceApi,
    surface_keys: [Object; 6],
    temporary_folder: unsafe extern "C-unwind" fn() -> *mut AnyObject,
    has_attributes: bool,
    /// Asks the machine about itself, where the class exists.
    device_info: Option<&'static AnyClass>,
    failures: Mutex<Vec<Failure>>,
    /// Kept open: classes cannot be unloaded. After everything that uses them.
    _libraries: Vec<ManuallyDrop<Library>>,
}

impl Runtime {
    /// Opens the libraries, finds the classes whose names begin with `prefix`, and checks the type of each method.
    /// Surfaces come from IOSurface's functions, if no others are given.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] that names what is missing or differs.
    pub(super) fn open(libraries: &[PathBuf], prefix: &str, surfaces: Option<SurfaceApi>) -> Result<Arc<Runtime>> {
        let libraries = libraries.iter().map(|path| open_library(path.as_os_str())).collect::<Result<Vec<_>>>()?;
        for row in table::SELECTORS {
            check(row, prefix)?;
        }
        let class = |name: &str| find_class(&table::class_name(name, prefix));
        let classes = Classes {
            string: class("NSString")?,
            data: class("NSData")?,
            number: class("NSNumber")?,
            array: class("NSArray")?,
            dictionary: class("NSDictionary")?,
            exception: class("NSException")?,
            descriptor: class(table::DESCRIPTOR)?,
            model: class(table::MODEL)?,
            surface_object: class(table::SURFACE_OBJECT)?,
            request: class(table::REQUEST)?,
        };
        let has_attributes = method(classes.model, Kind::Instance, "modelAttributes").is_some();
        // SAFETY: the type is that of Foundation's header.
        let temporary_folder = unsafe { symbol(&libraries, c"NSTemporaryDirectory")? };
        let has_constants = surfaces.is_none();
        let surfaces = match surfaces {
            Some(api) => api,
            None => SurfaceApi::find(&libraries)?,
        };
        let [a, b, c, d, e, f] = SURFACE_KEYS;
        let key = |name: &CStr| match has_constants {
            true => surface_key(&libraries, name),
            false => surface_key_text(classes.string, name),
        };
        let surface_keys = [key(a)?, key(b)?, key(c)?, key(d)?, key(e)?, key(f)?];
        Ok(Arc::new(Runtime {
            classes,
            surfaces,
            surface_keys,
            temporary_folder,
            has_attributes,
            device_info: find_class(&table::class_name(table::DEVICE_INFO, prefix)).ok(),
            failures: Mutex::new(Vec::new()),
            _libraries: libraries.into_iter().map(ManuallyDrop::new).collect(),
        }))
    }

    /// What the system says of the machine: whether it has an engine, and whether it is virtual.
    pub(super) fn machine(&self) -> Result<(Option<bool>, Option<bool>)> {
        let Some(class) = self.device_info else { return Ok((None, None)) };
        let has = |name: &str| method(class, Kind::Class, name).is_some();
        self.call("hasANE", || {
            // SAFETY: both take nothing and return a BOOL, as `check` has confirmed where they exist.
            let has_engine: Option<Bool> = has("hasANE").then(|| unsafe { msg_send![class, hasANE] });
            let is_virtual: Option<Bool> =
                // SAFETY: as above.
                has("isVirtualMachine").then(|| unsafe { msg_send![class, isVirtualMachine] });
            Ok((has_engine.map(Bool::as_bool), is_virtual.map(Bool::as_bool)))
        })
    }

    /// What calls have said about their failures, oldest first; the last few.
    pub(super) fn failures(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Where models are looked for, which need not be the folder for temporary files that the environment names.
    pub(super) fn temporary_folder(&self) -> Result<PathBuf> {
        self.call("NSTemporaryDirectory", || {
            // SAFETY: the function takes nothing and returns a string that lives as long as the pool.
            let path = unsafe { (self.temporary_folder)().as_ref() }.and_then(text_of);
            path.map(PathBuf::from).ok_or_else(|| Failure::nil("NSTemporaryDirectory"))
        })
    }

    /// A surface of one row of `n_bytes` bytes, all zero.
    pub(super) fn surface(self: &Arc<Self>, n_bytes: usize) -> Result<Surface> {
        self.call("IOSurfaceCreate", || {
            let values = [n_bytes, 1, 1, n_bytes, n_bytes, 0].map(|n| self.number(n as u64));
            let values: Option<Vec<Retained<AnyObject>>> = values.into_iter().collect();
            let values = values.ok_or_else(|| Failure::nil("numberWithUnsignedLongLong:"))?;
            let keys: Vec<&AnyObject> = self.surface_keys.iter().map(Object::get).collect();
            let properties = self.dictionary(&keys, &values.iter().map(|v| &**v).collect::<Vec<_>>())?;
            // SAFETY: the argument is a dictionary of numbers; the result is owned by whoever calls.
            let raw = unsafe { (self.surfaces.create)(&*properties) };
            // SAFETY: an `IOSurfaceRef` is an object, or null.
            let object = unsafe { Retained::from_raw(raw.cast::<AnyObject>()) };
            let object = Object::new(object.ok_or_else(|| Failure::nil("IOSurfaceCreate"))?);
            // SAFETY: it is the surface just made.
            let found = unsafe { (self.surfaces.alloc_size)(raw) };
            if found < n_bytes {
                return Err(Failure::said("IOSurfaceGetAllocSize", format!("{found} bytes instead of {n_bytes}")));
            }
            let wrapper: Option<Retained<AnyObject>> =
                // SAFETY: the argument is a surface of the type that `check` has confirmed.
                unsafe { msg_send![self.classes.surface_object, objectWithIOSurface: raw] };
            let wrapper = wrapper.ok_or_else(|| Failure::nil("objectWithIOSurface:"))?;
            Ok(Surface { runtime: self.clone(), raw, wrapper: Object::new(wrapper), _object: object, n_bytes })
        })
    }

    /// A model of MIL text and its weights files, each with the path that the text has for it.
    pub(super) fn model(self: &Arc<Self>, mil: &[u8], weights: &[(&str, &[u8])]) -> Result<Model> {
        const SELECTOR: &str = "modelWithMILText:weights:optionsPlist:";
        let object = self.call(SELECTOR, || {
            let mut paths = Vec::new();
            let mut files = Vec::new();
            let offset_key = self.string("offset")?;
            let data_key = self.string("data")?;
            for (path, bytes) in weights {
                let zero = self.number(0).ok_or_else(|| Failure::nil("numberWithUnsignedLongLong:"))?;
                let data = self.data(bytes)?;
                paths.push(self.string(path)?);
                files.push(self.dictionary(&[&offset_key, &data_key], &[&zero, &data])?);
            }
            let refs = |v: &[Retained<AnyObject>]| v.iter().map(|o| ptr::from_ref(&**o)).collect::<Vec<_>>();
            let weights = self.dictionary_of(&refs(&paths), &refs(&files))?;
            let text = self.data(mil)?;
            let no_options: Option<&AnyObject> = None;
            // SAFETY: text as data, a dictionary and nil are what the method takes; `check` has confirmed its
            // type.
            let descriptor: Option<Retained<AnyObject>> = unsafe {
                msg_send![self.classes.descriptor, modelWithMILText: &*text, weights: &*weights, optionsPlist: no_options]
            };
            let descriptor = descriptor.ok_or_else(|| Failure::nil(SELECTOR))?;
            let model: Option<Retained<AnyObject>> =
                // SAFETY: the argument is a descriptor.
                unsafe { msg_send![self.classes.model, inMemoryModelWithDescriptor: &*descriptor] };
            model.map(Object::new).ok_or_else(|| Failure::nil("inMemoryModelWithDescriptor:"))
        })?;
        Ok(Model { runtime: self.clone(), object })
    }

    /// A request that reads and writes these surfaces, in this order.
    pub(super) fn request(&self, inputs: &[&Surface], outputs: &[&Surface]) -> Result<Request> {
        const SELECTOR: &str =
            "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:";
        let object = self.call(SELECTOR, || {
            let objects = |s: &[&Surface]| self.array(s.iter().map(|s| ptr::from_ref(s.wrapper.get())).collect());
            let indices = |n: usize| {
                let numbers: Option<Vec<_>> = (0..n).map(|i| self.number(i as u64)).collect();
                let numbers = numbers.ok_or_else(|| Failure::nil("numberWithUnsignedLongLong:"))?;
                self.array(numbers.iter().map(|n| ptr::from_ref(&**n)).collect())
            };
            let (xs, ys) = (objects(inputs)?, objects(outputs)?);
            let (x_indices, y_indices) = (indices(inputs.len())?, indices(outputs.len())?);
            let procedure = self.number(0).ok_or_else(|| Failure::nil("numberWithUnsignedLongLong:"))?;
            let nothing: Option<&AnyObject> = None;
            // SAFETY: arrays of surface objects and numbers, nil twice, a number; `check` has confirmed the type.
            let request: Option<Retained<AnyObject>> = unsafe {
                msg_send![
                    self.classes.request,
                    requestWithInputs: &*xs,
                    inputIndices: &*x_indices,
                    outputs: &*ys,
                    outputIndices: &*y_indices,
                    weightsBuffer: nothing,
                    perfStats: nothing,
                    procedureIndex: &*procedure,
                ]
            };
            request.map(Object::new).ok_or_else(|| Failure::nil(SELECTOR))
        })?;
        Ok(Request { object })
    }

    /// Makes a call in a pool of its own, and turns its failure or exception into an error, which is kept.
    fn call<T>(&self, what: &str, f: impl FnOnce() -> Result<T, Failure>) -> Result<T> {
        let result = autoreleasepool(|_| match objc2::exception::catch(AssertUnwindSafe(f)) {
            Ok(result) => result,
            Err(exception) => Err(self.raised(what, exception.as_deref())),
        });
        result.map_err(|failure| {
            let error = Error::device(failure.to_string());
            self.keep(failure);
            error
        })
    }

    /// Keeps what a call has said.
    pub(super) fn keep(&self, failure: Failure) {
        let mut kept = self.failures.lock().unwrap_or_else(|e| e.into_inner());
        if kept.len() == MAX_FAILURES {
            kept.remove(0);
        }
        kept.push(failure);
    }

    fn raised(&self, what: &str, exception: Option<&Exception>) -> Failure {
        let describe = |e: &AnyObject| {
            // SAFETY: every object answers this, with a BOOL.
            let known: Bool = unsafe { msg_send![e, isKindOfClass: self.classes.exception] };
            if known.is_false() {
                return None;
            }
            let (name, reason): (Option<Retained<AnyObject>>, Option<Retained<AnyObject>>) =
                // SAFETY: both return strings or nil.
                unsafe { (msg_send![e, name], msg_send![e, reason]) };
            let text = |s: Option<Retained<AnyObject>>| s.as_deref().and_then(text_of).unwrap_or_default();
            Some(format!("{}: {}", text(name), text(reason)))
        };
        let described = objc2::exception::catch(AssertUnwindSafe(|| exception.and_then(|e| describe(e))));
        Failure {
            call: what.into(),
            raised: true,
            text: described.ok().flatten().unwrap_or_else(|| "an object that is no NSException".into()),
            ..Failure::default()
        }
    }

    fn string(&self, s: &str) -> Result<Retained<AnyObject>, Failure> {
        let failed = || Failure::nil("stringWithUTF8String:");
        let s = CString::new(s).map_err(|_| failed())?;
        let string: Option<Retained<AnyObject>> =
            // SAFETY: the argument ends with a zero byte and is copied.
            unsafe { msg_send![self.classes.string, stringWithUTF8String: s.as_ptr()] };
        string.ok_or_else(failed)
    }

    fn data(&self, bytes: &[u8]) -> Result<Retained<AnyObject>, Failure> {
        let start: *const c_void = bytes.as_ptr().cast();
        let data: Option<Retained<AnyObject>> =
            // SAFETY: the bytes are there, and are copied.
            unsafe { msg_send![self.classes.data, dataWithBytes: start, length: bytes.len()] };
        data.ok_or_else(|| Failure::nil("dataWithBytes:length:"))
    }

    fn number(&self, n: u64) -> Option<Retained<AnyObject>> {
        // SAFETY: the method takes an unsigned number of 64 bits.
        unsafe { msg_send![self.classes.number, numberWithUnsignedLongLong: n] }
    }

    fn array(&self, objects: Vec<*const AnyObject>) -> Result<Retained<AnyObject>, Failure> {
        let array: Option<Retained<AnyObject>> =
            // SAFETY: the objects are alive, and are retained.
            unsafe { msg_send![self.classes.array, arrayWithObjects: objects.as_ptr(), count: objects.len()] };
        array.ok_or_else(|| Failure::nil("arrayWithObjects:count:"))
    }

    fn dictionary(&self, keys: &[&AnyObject], values: &[&AnyObject]) -> Result<Retained<AnyObject>, Failure> {
        let pointers = |v: &[&AnyObject]| v.iter().map(|o| ptr::from_ref(*o)).collect::<Vec<_>>();
        self.dictionary_of(&pointers(keys), &pointers(values))
    }

    fn dictionary_of(
        &self,
        keys: &[*const AnyObject],
        values: &[*const AnyObject],
    ) -> Result<Retained<AnyObject>, Failure> {
        let n = keys.len().min(values.len());
        // SAFETY: there are `n` of each, all alive; they are retained.
        let dictionary: Option<Retained<AnyObject>> = unsafe {
            msg_send![
                self.classes.dictionary,
                dictionaryWithObjects: values.as_ptr(),
                forKeys: keys.as_ptr(),
                count: n,
            ]
        };
        dictionary.ok_or_else(|| Failure::nil("dictionaryWithObjects:forKeys:count:"))
    }

    /// A method that says YES, or NO with an error.
    fn said_yes(&self, call: &str, send: impl FnOnce(*mut *mut AnyObject) -> Bool) -> Result<()> {
        self.call(call, || {
            let mut error: *mut AnyObject = ptr::null_mut();
            if send(&mut error).as_bool() {
                return Ok(());
            }
            // SAFETY: it is nil as it was, or an error that lives as long as the pool.
            Err(match unsafe { error.as_ref() } {
                Some(error) => Failure { call: call.into(), ..self.error(error) },
                None => Failure::said(call, "NO, and no NSError".into()),
            })
        })
    }

    /// What an `NSError` says.
    fn error(&self, error: &AnyObject) -> Failure {
        let (domain, code, text): (Option<Retained<AnyObject>>, isize, Option<Retained<AnyObject>>) =
            // SAFETY: the three methods of `NSError`, whose types `check` has confirmed.
            unsafe { (msg_send![error, domain], msg_send![error, code], msg_send![error, localizedDescription]) };
        Failure {
            domain: domain.as_deref().and_then(text_of),
            code: Some(code as i64),
            text: text.as_deref().and_then(text_of).unwrap_or_default(),
            ..Failure::default()
        }
    }
}

/// Memory that the engine and the host share.
pub(super) struct Surface {
    runtime: Arc<Runtime>,
    raw: *mut RawSurface,
    /// The `_ANEIOSurfaceObject`.
    wrapper: Object,
    /// What `raw` points to, kept alive.
    _object: Object,
    n_bytes: usize,
}

// SAFETY: the surface may be used from any thread; its bytes are only reached through `&mut self`, or through
// `&self` for reading.
unsafe impl Send for Surface {}

impl Surface {
    /// Its size.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Where it is, to tell it from others.
    pub(super) fn address(&self) -> usize {
        self.raw as usize
    }

    /// Locks the surface, reads its bytes, unlocks it.
    pub(super) fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let lock = Lock::new(self, LOCK_READ_ONLY)?;
        // SAFETY: there are `n_bytes` bytes at the base of a locked surface, and nobody writes while `self` is
        // borrowed: the engine only does in `evaluate`, which the kernel calls with its outputs borrowed mutably.
        let result = f(unsafe { std::slice::from_raw_parts(lock.base, self.n_bytes) });
        lock.unlock().map(|()| result)
    }

    /// Locks the surface, writes its bytes, unlocks it.
    pub(super) fn write(&mut self, f: impl FnOnce(&mut [u8])) -> Result<()> {
        let lock = Lock::new(self, 0)?;
        // SAFETY: as for `read`, and `self` is borrowed mutably.
        f(unsafe { std::slice::from_raw_parts_mut(lock.base, self.n_bytes) });
        lock.unlock()
    }
}

/// A locked surface.
struct Lock<'a> {
    surface: &'a Surface,
    options: u32,
    base: *mut u8,
}

impl<'a> Lock<'a> {
    fn new(surface: &'a Surface, options: u32) -> Result<Lock<'a>> {
        let api = surface.runtime.surfaces;
        let base = surface.runtime.call("IOSurfaceLock", || {
            // SAFETY: the surface is alive; no seed is asked for.
            let status = unsafe { (api.lock)(surface.raw, options, ptr::null_mut()) };
            if status != 0 {
                return Err(Failure {
                    code: Some(status.into()),
                    ..Failure::said("IOSurfaceLock", "failed".into())
                });
            }
            // SAFETY: the surface is locked.
            let base = unsafe { (api.base)(surface.raw) };
            if base.is_null() {
                // SAFETY: it was locked above, with the same options.
                unsafe { (api.unlock)(surface.raw, options, ptr::null_mut()) };
                return Err(Failure::nil("IOSurfaceGetBaseAddress"));
            }
            Ok(base.cast())
        })?;
        Ok(Lock { surface, options, base })
    }

    fn unlock(self) -> Result<()> {
        let lock = ManuallyDrop::new(self);
        lock.surface.runtime.call("IOSurfaceUnlock", || match lock.end() {
            0 => Ok(()),
            status => {
                Err(Failure { code: Some(status.into()), ..Failure::said("IOSurfaceUnlock", "failed".into()) })
            }
        })
    }

    fn end(&self) -> i32 {
        // SAFETY: the surface was locked with these options, once, and this ends it.
        unsafe { (self.surface.runtime.surfaces.unlock)(self.surface.raw, self.options, ptr::null_mut()) }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Only when reading or writing has panicked.
        self.end();
    }
}

/// An `_ANERequest`, which retains its surfaces.
pub(super) struct Request {
    object: Object,
}

/// An `_ANEInMemoryModel`. Not `Sync`-shared: its owner calls it from one thread at a time.
pub(super) struct Model {
    runtime: Arc<Runtime>,
    object: Object,
}

impl Model {
    /// The identity of text, options and weights, which also names the folder that the framework reads.
    pub(super) fn identifier(&self) -> Result<String> {
        self.runtime.call("hexStringIdentifier", || {
            // SAFETY: returns a string or nil.
            let id: Option<Retained<AnyObject>> = unsafe { msg_send![self.object.get(), hexStringIdentifier] };
            id.as_deref().and_then(text_of).ok_or_else(|| Failure::nil("hexStringIdentifier"))
        })
    }

    /// Compiles what lies in the folder of that name.
    pub(super) fn compile(&self) -> Result<()> {
        let options = self.no_options()?;
        self.runtime.said_yes("compileWithQoS:options:error:", |error| {
            // SAFETY: an empty dictionary and a place for an error; `check` has confirmed the type.
            unsafe { msg_send![self.object.get(), compileWithQoS: QOS, options: options.get(), error: error] }
        })
    }

    /// Loads what was compiled.
    pub(super) fn load(&self) -> Result<()> {
        let options = self.no_options()?;
        self.runtime.said_yes("loadWithQoS:options:error:", |error| {
            // SAFETY: as for `compile`.
            unsafe { msg_send![self.object.get(), loadWithQoS: QOS, options: options.get(), error: error] }
        })
    }

    /// Unloads what was loaded.
    pub(super) fn unload(&self) -> Result<()> {
        self.runtime.said_yes("unloadWithQoS:error:", |error| {
            // SAFETY: a place for an error; `check` has confirmed the type.
            unsafe { msg_send![self.object.get(), unloadWithQoS: QOS, error: error] }
        })
    }

    /// Runs what was loaded.
    pub(super) fn evaluate(&self, request: &Request) -> Result<()> {
        let options = self.no_options()?;
        self.runtime.said_yes("evaluateWithQoS:options:request:error:", |error| {
            let request = request.object.get();
            // SAFETY: an empty dictionary, a request and a place for an error; `check` has confirmed the type.
            unsafe {
                msg_send![self.object.get(), evaluateWithQoS: QOS, options: options.get(), request: request, error: error]
            }
        })
    }

    /// What the model says of its inputs and outputs, in the engine's order; `None` where it says nothing.
    pub(super) fn attributes(&self) -> Result<Option<(Vec<Described>, Vec<Described>)>> {
        if !self.runtime.has_attributes {
            return Ok(None);
        }
        self.runtime.call("modelAttributes", || {
            // SAFETY: returns an object or nil.
            let attributes: Option<Retained<AnyObject>> = unsafe { msg_send![self.object.get(), modelAttributes] };
            let lists = attributes.and_then(|a| {
                let statuses = self.entry(&a, "NetworkStatusList")?;
                let status = self.items(&statuses)?.into_iter().next()?;
                let list = |key: &str| {
                    let list = self.entry(&status, key)?;
                    self.items(&list)?.iter().map(|item| self.described(item)).collect::<Option<Vec<_>>>()
                };
                Some((list("LiveInputList")?, list("LiveOutputList")?))
            });
            Ok(lists)
        })
    }

    /// What an item of a list of inputs or outputs says.
    fn described(&self, item: &AnyObject) -> Option<Described> {
        let name = self.entry(item, "Name").filter(|n| self.is_a(n, self.runtime.classes.string))?;
        let number = |key| self.number(&*self.entry(item, key)?);
        Some(Described {
            // Symbols of outputs carry a suffix, as in `o000@output`.
            symbol: text_of(&name)?.split('@').next()?.into(),
            sizes: ["Batches", "Channels", "Depth", "Height", "Width"].map(number),
            strides: ["BatchStride", "PlaneStride", "RowStride"].map(number),
            interleave: number("Interleave"),
        })
    }

    fn is_a(&self, object: &AnyObject, class: &AnyClass) -> bool {
        // SAFETY: every object answers this.
        let is: Bool = unsafe { msg_send![object, isKindOfClass: class] };
        is.as_bool()
    }

    /// What a number is; `None` if it is none, or negative.
    fn number(&self, object: &AnyObject) -> Option<usize> {
        if !self.is_a(object, self.runtime.classes.number) {
            return None;
        }
        // SAFETY: it is a number, which answers this.
        let n: i64 = unsafe { msg_send![object, longLongValue] };
        usize::try_from(n).ok()
    }

    /// The entry of a dictionary; `None` if there is none, or `object` is no dictionary.
    fn entry(&self, object: &AnyObject, key: &str) -> Option<Retained<AnyObject>> {
        let key = self.runtime.string(key).ok()?;
        if !self.is_a(object, self.runtime.classes.dictionary) {
            return None;
        }
        // SAFETY: a dictionary takes any object as a key.
        unsafe { msg_send![object, objectForKey: &*key] }
    }

    /// The items of an array; `None` if `object` is none.
    fn items(&self, object: &AnyObject) -> Option<Vec<Retained<AnyObject>>> {
        if !self.is_a(object, self.runtime.classes.array) {
            return None;
        }
        // SAFETY: it is an array; the indices are within the count.
        unsafe {
            let n: usize = msg_send![object, count];
            (0..n).map(|i| msg_send![object, objectAtIndex: i]).collect()
        }
    }

    fn no_options(&self) -> Result<Object> {
        self.runtime
            .call("dictionaryWithObjects:forKeys:count:", || self.runtime.dictionary_of(&[], &[]).map(Object::new))
    }
}

/// The key of a surface's property, which is a constant of IOSurface.
fn surface_key(libraries: &[Library], name: &CStr) -> Result<Object> {
    // SAFETY: each key is a constant `CFStringRef`, which may be used as an `NSString`.
    let key = unsafe { Retained::retain(*symbol::<*const *mut AnyObject>(libraries, name)?) };
    let missing = || Error::unavailable(format!("`{}` of IOSurface is nil", name.to_string_lossy()));
    key.map(Object::new).ok_or_else(missing)
}

/// The same where surfaces are stand-ins: the text that the constant holds, its name without the `k`.
fn surface_key_text(string: &'static AnyClass, name: &CStr) -> Result<Object> {
    let key: Option<Retained<AnyObject>> =
        // SAFETY: the text ends with a zero byte and is copied.
        autoreleasepool(|_| unsafe { msg_send![string, stringWithUTF8String: name.as_ptr().add(1)] });
    key.map(Object::new).ok_or_else(|| Error::unavailable("`stringWithUTF8String:` said nil"))
}

/// Opens a library.
pub(super) fn open_library(path: &OsStr) -> Result<Library> {
    // SAFETY: the libraries are frameworks of the system, or stand-ins for them; their initialisers may run at any
    // time.
    let opened = unsafe { Library::new(path) };
    opened.map_err(|e| Error::unavailable(format!("open `{}`: {e}", path.to_string_lossy())))
}

/// The address of a function or constant.
///
/// # Safety
///
/// `T` is a pointer type that fits the symbol, and is not used when the libraries are closed.
unsafe fn symbol<T: Copy>(libraries: &[Library], name: &CStr) -> Result<T> {
    // SAFETY: as the caller has promised.
    let found = libraries.iter().find_map(|l| unsafe { l.get::<T>(name.to_bytes_with_nul()) }.ok().map(|s| *s));
    found.ok_or_else(|| Error::unavailable(format!("no framework has the symbol `{}`", name.to_string_lossy())))
}

fn find_class(name: &str) -> Result<&'static AnyClass> {
    let c_name = CString::new(name).unwrap_or_default();
    AnyClass::get(&c_name).ok_or_else(|| {
        Error::unavailable(format!("the class `{name}` does not exist in this version of the system's frameworks"))
    })
}

fn method(class: &'static AnyClass, kind: Kind, selector: &str) -> Option<&'static Method> {
    let selector = Sel::register(&CString::new(selector).unwrap_or_default());
    match kind {
        Kind::Class => class.class_method(selector),
        Kind::Instance => class.instance_method(selector),
    }
}

/// Compares the type of a method with what is expected.
fn check(row: &Selector, prefix: &str) -> Result<()> {
    let name = table::class_name(row.class, prefix);
    let class = match find_class(&name) {
        Err(_) if !row.required => return Ok(()),
        class => class?,
    };
    let Some(method) = method(class, row.kind, row.selector) else {
        return match row.required {
            true => Err(Error::unavailable(format!(
                "the class `{name}` has no method `{}{}`",
                row.kind.sign(),
                row.selector
            ))),
            false => Ok(()),
        };
    };
    // SAFETY: the method exists; what is returned is null or text that lives as long.
    let found = unsafe {
        let types: *const c_char = ffi::method_getTypeEncoding(method);
        if types.is_null() { None } else { Some(CStr::from_ptr(types).to_string_lossy().into_owned()) }
    };
    let bool_code = <Bool as objc2::Encode>::ENCODING.to_string();
    table::compare(row, &name, &found.unwrap_or_default(), &bool_code)
}

/// A string's text; `None` for nil.
fn text_of(string: &AnyObject) -> Option<String> {
    // SAFETY: the object is a string; the bytes live as long as the pool, and are copied.
    unsafe {
        let bytes: *const c_char = msg_send![string, UTF8String];
        if bytes.is_null() { None } else { Some(CStr::from_ptr(bytes).to_string_lossy().into_owned()) }
    }
}
