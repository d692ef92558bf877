//! Memory maps of files, the only way this crate looks at files as bytes without reading them whole.
#![allow(unsafe_code)] // A map is unsafe to make; this file is small so that it can be judged.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// The bytes of the file at `path`, which must not change while the map lives.
///
/// # Errors
///
/// If the file cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    // SAFETY: the map is read-only and private to this process. What the compiler may not assume is that another
    // process leaves the file alone: maps live for as long as it takes to read weights, which are written once, by
    // replacing them whole, or an array of examples. What is read from for long is not mapped.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}
