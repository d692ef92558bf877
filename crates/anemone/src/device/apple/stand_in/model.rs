//! Stand-ins for descriptors and models: what is compiled, loaded, patched and run.

use super::engine::run;
use super::{
    Content, Fault, ModelState, World, bytes_of, is_a, items_of, no, object, raise, state, string, text_of,
    world_of,
};
use crate::device::{Kernel, SoftDevice};
use crate::error::{Error, Result};
use anemone_mil::{Chip, Weights};
use objc2::msg_send;
use objc2::rc::Retained;
use objc2::runtime::{AnyClass, AnyObject, Bool, Sel};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) extern "C-unwind" fn make_descriptor(
    class: &AnyClass,
    _: Sel,
    mil: *mut AnyObject,
    weights: *mut AnyObject,
    options: *mut AnyObject,
) -> *mut AnyObject {
    let Some(world) = world_of(class) else { return ptr::null_mut() };
    let (Some(mil), true, true) = (bytes_of(mil), is_a(weights, "NSDictionary"), options.is_null()) else {
        return ptr::null_mut();
    };
    if world.fails(Fault::NilDescriptor) {
        return ptr::null_mut();
    }
    let mut files = Vec::new();
    // SAFETY: it is a dictionary; its keys are strings and its values dictionaries, or the descriptor is nil.
    unsafe {
        let keys: Option<Retained<AnyObject>> = msg_send![&*weights, allKeys];
        let keys = keys.and_then(|k| items_of(&*k)).unwrap_or_default();
        for key in keys {
            let file: Option<Retained<AnyObject>> = msg_send![&*weights, objectForKey: &*key];
            let Some(file) = file.filter(|f| is_a(&**f, "NSDictionary")) else { return ptr::null_mut() };
            let data: Option<Retained<AnyObject>> = msg_send![&*file, objectForKey: string("data")];
            let offset: Option<Retained<AnyObject>> = msg_send![&*file, objectForKey: string("offset")];
            let data = data.and_then(|d| bytes_of(&*d));
            let (Some(path), Some(data), Some(_)) = (text_of(&*key), data, offset) else { return ptr::null_mut() };
            files.push((path, data));
        }
    }
    object(class, &world, Content::Descriptor { mil, weights: files })
}

pub(super) extern "C-unwind" fn make_model(
    class: &AnyClass,
    _: Sel,
    descriptor: *mut AnyObject,
) -> *mut AnyObject {
    // SAFETY: the driver passes a descriptor.
    let Some(state) = (unsafe { state(descriptor) }) else { return ptr::null_mut() };
    let Content::Descriptor { mil, weights } = &state.content else { return ptr::null_mut() };
    if state.world.fails(Fault::NilModel) {
        return ptr::null_mut();
    }
    let model = ModelState { mil: mil.clone(), weights: weights.clone(), kernel: None, loaded: false };
    object(class, &state.world, Content::Model(Mutex::new(model)))
}

/// The model of an object, locked.
///
/// # Safety
///
/// As [`state`].
pub(super) unsafe fn model<'a>(this: &'a AnyObject) -> Option<(&'a Arc<World>, MutexGuard<'a, ModelState>)> {
    // SAFETY: as the caller has promised.
    let state = unsafe { state(this) }?;
    match &state.content {
        Content::Model(model) => Some((&state.world, model.lock().unwrap_or_else(|e| e.into_inner()))),
        _ => None,
    }
}

pub(super) extern "C-unwind" fn identify(this: &AnyObject, _: Sel) -> *mut AnyObject {
    // SAFETY: `this` is a model of a stand-in class.
    let Some((world, model)) = (unsafe { model(this) }) else { return ptr::null_mut() };
    string(&identifier(world, &model))
}

fn identifier(world: &World, model: &ModelState) -> String {
    let weights = model.weights.iter().fold(0, |h, (_, data)| h ^ crc32fast::hash(data));
    format!("{}{:08X}_{weights:08X}", world.prefix, crc32fast::hash(&model.mil))
}

/// `NSTemporaryDirectory()`.
fn temporary_folder(world: &World) -> Option<PathBuf> {
    let library = super::super::sys::open_library(world.foundation.as_os_str()).ok()?;
    // SAFETY: the symbol is Foundation's, with the type of its header.
    unsafe {
        let f = library.get::<extern "C-unwind" fn() -> *mut AnyObject>(b"NSTemporaryDirectory\0").ok()?;
        text_of(f()).map(PathBuf::from)
    }
}

pub(super) extern "C-unwind" fn compile(
    this: &AnyObject,
    _: Sel,
    qos: u32,
    options: *mut AnyObject,
    error: *mut *mut AnyObject,
) -> Bool {
    // SAFETY: `this` is a model of a stand-in class.
    let Some((world, mut model)) = (unsafe { model(this) }) else { return Bool::NO };
    let n = world.n_compiles.fetch_add(1, Ordering::SeqCst);
    if qos != 21 || !is_a(options, "NSDictionary") {
        return no(error, 1, "quality of service or options");
    }
    if world.fails(Fault::CompileRaises) {
        drop(model);
        return raise("an object was nil");
    }
    if world.fails(Fault::CompileSilentNo) {
        return Bool::NO;
    }
    let limits = anemone_mil::Limits::of(world.chip);
    if world.fails(Fault::CompileNo) || limits.max_compiles().is_some_and(|max| n >= max) {
        return no(error, 2, "_ANECompiler : ANECCompile() FAILED : err=(CompilationFailure)");
    }
    let Some(folder) = temporary_folder(world).map(|f| f.join(identifier(world, &model))) else {
        return no(error, 3, "no folder");
    };
    if let Err(missing) = check_files(&folder, &model) {
        return no(error, 4, &format!("InvalidMILProgram : {missing}"));
    }
    match kernel(world.chip, &model.mil, &model.weights) {
        Ok(kernel) => {
            model.kernel = Some(kernel);
            leave_net(world, &folder, &model);
            Bool::YES
        }
        Err(e) => no(error, 5, &format!("InvalidMILProgram : {e}")),
    }
}

/// Whether the folder has what the descriptor had.
fn check_files(folder: &Path, model: &ModelState) -> Result<(), &'static str> {
    let on_disk = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
    if on_disk("model.mil") != model.mil {
        return Err("model.mil is not in the folder");
    }
    for (path, data) in &model.weights {
        let name = path.rsplit('/').next().unwrap_or(path);
        if on_disk(&format!("weights/{name}")) != *data {
            return Err("a weights file is not in the folder");
        }
    }
    Ok(())
}

/// Leaves what a compile leaves: `net.plist`, which here is a name for what was compiled, and `data`.
fn leave_net(world: &World, folder: &Path, model: &ModelState) {
    let net = identifier(world, model).into_bytes();
    let _ = std::fs::write(folder.join("net.plist"), &net);
    for (_, data) in &model.weights {
        let _ = std::fs::write(folder.join("data"), data);
    }
    let compiled = (model.mil.clone(), model.weights.clone());
    world.compiled.lock().unwrap_or_else(|e| e.into_inner()).insert(net, compiled);
}

/// What a load finds of a model that was not compiled: the net of a donor, and its own weights as `data`.
fn patched(world: &World, model: &ModelState) -> Result<Box<dyn Kernel>, String> {
    let folder = temporary_folder(world).ok_or("no folder")?.join(identifier(world, model));
    let net = std::fs::read(folder.join("net.plist")).map_err(|_| "load of what was not compiled")?;
    let compiled = world.compiled.lock().unwrap_or_else(|e| e.into_inner());
    let (mil, donated) = compiled.get(&net).filter(|(mil, _)| *mil == model.mil).ok_or("another program's net")?;
    check_files(&folder, model)?;
    let data = std::fs::read(folder.join("data")).unwrap_or_default();
    if model.weights.len() != 1 || model.weights[0].1 != data {
        return Err("the weights are not in `data`".into());
    }
    let weights = if world.has_from_the_start(Fault::PatchIgnored) { donated } else { &model.weights };
    kernel(world.chip, mil, weights).map_err(|e| e.to_string())
}

fn kernel(chip: Chip, mil: &[u8], files: &[(String, Vec<u8>)]) -> Result<Box<dyn Kernel>> {
    let text = String::from_utf8(mil.to_vec()).map_err(|_| Error::config("the text is not UTF-8"))?;
    let mut weights = Weights::new();
    for (path, data) in files {
        weights.insert(path.clone(), data.clone())?;
    }
    SoftDevice::new(chip, Default::default()).compile_text(&text, &weights)
}

pub(super) extern "C-unwind" fn load(
    this: &AnyObject,
    _: Sel,
    qos: u32,
    options: *mut AnyObject,
    error: *mut *mut AnyObject,
) -> Bool {
    // SAFETY: `this` is a model of a stand-in class.
    let Some((world, mut model)) = (unsafe { model(this) }) else { return Bool::NO };
    if qos != 21 || !is_a(options, "NSDictionary") || model.loaded {
        return no(error, 1, "load of what was loaded");
    }
    if model.kernel.is_none() {
        match patched(world, &model) {
            Ok(_) if world.fails(Fault::PatchNo) => return no(error, 7, "a net that was not made here"),
            Ok(kernel) => model.kernel = Some(kernel),
            Err(why) => return no(error, 1, &why),
        }
    }
    if world.fails(Fault::LoadNo) {
        return no(error, 0x50004, "Program load failure (0x50004)");
    }
    model.loaded = true;
    world.n_loaded.fetch_add(1, Ordering::SeqCst);
    Bool::YES
}

pub(super) extern "C-unwind" fn load_of_another_type(
    this: &AnyObject,
    selector: Sel,
    qos: u64,
    options: *mut AnyObject,
    error: *mut *mut AnyObject,
) -> Bool {
    load(this, selector, qos as u32, options, error)
}

pub(super) extern "C-unwind" fn unload(this: &AnyObject, _: Sel, qos: u32, error: *mut *mut AnyObject) -> Bool {
    // SAFETY: `this` is a model of a stand-in class.
    let Some((world, mut model)) = (unsafe { model(this) }) else { return Bool::NO };
    if qos != 21 || !model.loaded {
        return no(error, 1, "unload of what was not loaded");
    }
    model.loaded = false;
    world.n_loaded.fetch_sub(1, Ordering::SeqCst);
    match world.fails(Fault::UnloadNo) {
        true => no(error, 6, "unload failed"),
        false => Bool::YES,
    }
}

pub(super) extern "C-unwind" fn evaluate(
    this: &AnyObject,
    _: Sel,
    qos: u32,
    options: *mut AnyObject,
    request: *mut AnyObject,
    error: *mut *mut AnyObject,
) -> Bool {
    // SAFETY: `this` is a model of a stand-in class, and the driver passes a request.
    let (Some((world, mut model)), Some(request)) = (unsafe { (model(this), state(request)) }) else {
        return Bool::NO;
    };
    let Content::Request { inputs, outputs } = &request.content else { return Bool::NO };
    world.n_evaluations.fetch_add(1, Ordering::SeqCst);
    if world.fails(Fault::EvaluateRaises) {
        drop(model);
        return raise("-[_ANEInMemoryModel getUUID]: unrecognized selector sent to instance");
    }
    let rejected = "ANEProgramProcessRequestDirect() Failed with status=0x1d : statusType=0x9 : \
                    Program Inference error";
    let several_fail = inputs.len() > 1 && world.has_from_the_start(Fault::EvaluateSeveralNo);
    let usual = qos == 21 && is_a(options, "NSDictionary") && model.loaded;
    if !usual || several_fail || world.fails(Fault::EvaluateNo) {
        return no(error, 8, rejected);
    }
    if world.fails(Fault::EvaluateWritesNothing) {
        return Bool::YES;
    }
    match model.kernel.as_mut().map(|kernel| run(&mut **kernel, world.says, inputs, outputs)) {
        Some(Ok(())) => Bool::YES,
        Some(Err(e)) => no(error, 8, &format!("{rejected} : {e}")),
        None => no(error, 8, rejected),
    }
}
