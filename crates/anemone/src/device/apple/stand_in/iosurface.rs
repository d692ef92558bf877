//! Stand-ins for IOSurface's functions, which count surfaces and locks.

use super::{Content, N_LOCKS, N_SURFACES, STATE, World, class, dealloc, object, selector, state, string, worlds};
use crate::device::apple::sys::RawSurface;
use anemone_mil::Chip;
use objc2::msg_send;
use objc2::rc::Retained;
use objc2::runtime::{AnyClass, AnyObject, ClassBuilder};
use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

/// The class of surfaces, of which there is one for all.
fn surface_class() -> Option<&'static AnyClass> {
    let mut known = worlds();
    const NAME: &CStr = c"AnemoneStandInSurface";
    if let Some(class) = AnyClass::get(NAME) {
        return Some(class);
    }
    let mut builder = ClassBuilder::new(NAME, class("NSObject").ok()?)?;
    builder.add_ivar::<*mut c_void>(STATE);
    // SAFETY: the method has the type of `dealloc`.
    unsafe { builder.add_method(selector("dealloc"), dealloc as extern "C-unwind" fn(_, _)) };
    known.get_or_insert_with(HashMap::new);
    Some(builder.register())
}

pub(super) unsafe extern "C-unwind" fn create(properties: *const AnyObject) -> *mut RawSurface {
    let number = |key: &str| -> Option<usize> {
        // SAFETY: the driver passes a dictionary of numbers.
        unsafe {
            let value: Option<Retained<AnyObject>> = msg_send![&*properties, objectForKey: string(key)];
            let value: u64 = msg_send![&*value?, unsignedLongLongValue];
            usize::try_from(value).ok()
        }
    };
    let size = || {
        let [width, height] = [number("IOSurfaceWidth")?, number("IOSurfaceHeight")?];
        let [element, row] = [number("IOSurfaceBytesPerElement")?, number("IOSurfaceBytesPerRow")?];
        let size = number("IOSurfaceAllocSize")?;
        (size > 0 && width * element <= row && row * height <= size).then_some(size)
    };
    let (Some(size), Some(class)) = (size(), surface_class()) else { return ptr::null_mut() };
    let world = Arc::new(World::new(String::new(), Chip::M4, None, PathBuf::new()));
    let content = Content::Surface { bytes: Mutex::new(vec![0; size]), n_locks: AtomicI64::new(0) };
    let object = object(class, &world, content);
    N_SURFACES.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the object was just made; the caller owns what it gets.
    unsafe { Retained::retain(object) }.map_or(ptr::null_mut(), Retained::into_raw).cast()
}

/// The state of a surface.
///
/// # Safety
///
/// The surface is alive.
unsafe fn surface_state<'a>(raw: *mut RawSurface) -> Option<(&'a Mutex<Vec<u8>>, &'a AtomicI64)> {
    // SAFETY: as the caller has promised.
    match &unsafe { state(raw.cast()) }?.content {
        Content::Surface { bytes, n_locks } => Some((bytes, n_locks)),
        _ => None,
    }
}

pub(super) unsafe extern "C-unwind" fn lock(raw: *mut RawSurface, _: u32, _: *mut u32) -> i32 {
    // SAFETY: the driver passes a surface that is alive.
    let Some((_, n_locks)) = (unsafe { surface_state(raw) }) else { return -1 };
    n_locks.fetch_add(1, Ordering::SeqCst);
    N_LOCKS.fetch_add(1, Ordering::SeqCst);
    0
}

pub(super) unsafe extern "C-unwind" fn unlock(raw: *mut RawSurface, _: u32, _: *mut u32) -> i32 {
    // SAFETY: the driver passes a surface that is alive.
    let Some((_, n_locks)) = (unsafe { surface_state(raw) }) else { return -1 };
    N_LOCKS.fetch_sub(1, Ordering::SeqCst);
    if n_locks.fetch_sub(1, Ordering::SeqCst) > 0 { 0 } else { -1 }
}

pub(super) unsafe extern "C-unwind" fn base(raw: *mut RawSurface) -> *mut c_void {
    // SAFETY: the driver passes a surface that is alive.
    match unsafe { surface_state(raw) } {
        Some((bytes, n_locks)) if n_locks.load(Ordering::SeqCst) > 0 => {
            bytes.lock().unwrap_or_else(|e| e.into_inner()).as_mut_ptr().cast()
        }
        _ => ptr::null_mut(),
    }
}

pub(super) unsafe extern "C-unwind" fn alloc_size(raw: *mut RawSurface) -> usize {
    // SAFETY: the driver passes a surface that is alive.
    let state = unsafe { surface_state(raw) };
    state.map_or(0, |(bytes, _)| bytes.lock().unwrap_or_else(|e| e.into_inner()).len())
}
