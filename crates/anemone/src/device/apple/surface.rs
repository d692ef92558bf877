//! Buffers in surfaces.

use super::layout::Layout;
use super::program::Port;
use super::sys::{Runtime, Surface};
use crate::device::{Buffer, Version};
use crate::error::{Error, Result};
use anemone_mil::ir::TensorType;
use std::sync::Arc;

/// A tensor in a surface.
pub(super) struct AppleBuffer {
    /// As the program declares it.
    ty: TensorType,
    layout: Layout,
    surface: Surface,
    version: Version,
}

impl AppleBuffer {
    /// A buffer for `port`, all zero, in a surface of `n_bytes` bytes.
    pub(super) fn new(runtime: &Arc<Runtime>, port: &Port, layout: Layout, n_bytes: usize) -> Result<AppleBuffer> {
        let needed = layout.n_bytes();
        if needed > n_bytes {
            return Err(Error::device(format!("`{}` needs {needed} bytes in a surface of {n_bytes}", port.name)));
        }
        let surface = runtime.surface(n_bytes).map_err(|e| e.context(format!("buffer for `{}`", port.name)))?;
        let mut buffer = AppleBuffer { ty: port.host.clone(), layout, surface, version: Version::next() };
        buffer.fill(0)?;
        Ok(buffer)
    }

    pub(super) fn surface(&self) -> &Surface {
        &self.surface
    }

    /// What it holds, to tell it from what it held before.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Notes that the engine has written it.
    pub(super) fn touch(&mut self) {
        self.version = Version::next();
    }

    /// Whether a kernel that wants this layout, in surfaces of that size, can use the buffer as it is.
    pub(super) fn fits(&self, layout: &Layout, n_bytes: usize) -> bool {
        self.surface.n_bytes() == n_bytes && self.layout == *layout
    }

    /// Takes over the elements of a buffer of the same type with another layout.
    pub(super) fn take_from(&mut self, other: &AppleBuffer) -> Result<()> {
        let elements = other.elements()?;
        self.write(&elements)
    }

    /// Takes over the elements of a buffer into a part of the tensor that has this layout.
    pub(super) fn take_block(&mut self, block: &Layout, other: &AppleBuffer) -> Result<()> {
        let elements = other.elements()?;
        self.touch();
        self.surface.write(|bytes| block.store(&elements, bytes))
    }

    fn elements(&self) -> Result<Vec<f32>> {
        let mut elements = vec![0.0; self.ty.n_elements().unwrap_or(0)];
        self.read(&mut elements)?;
        Ok(elements)
    }

    /// Writes one byte everywhere.
    pub(super) fn fill(&mut self, byte: u8) -> Result<()> {
        self.touch();
        self.surface.write(|bytes| bytes.fill(byte))
    }

    /// Whether the elements consist of that byte alone.
    pub(super) fn is_filled_with(&self, byte: u8) -> Result<bool> {
        self.surface.read(|bytes| self.layout.is_filled_with(byte, bytes))
    }

    fn check(&self, n: usize) -> Result<()> {
        match self.ty.n_elements() {
            Some(m) if m == n => Ok(()),
            _ => Err(Error::config(format!("{n} elements for a buffer of {}", self.ty))),
        }
    }
}

impl Buffer for AppleBuffer {
    fn ty(&self) -> &TensorType {
        &self.ty
    }

    fn write(&mut self, elements: &[f32]) -> Result<()> {
        self.check(elements.len())?;
        self.touch();
        self.surface.write(|bytes| self.layout.store(elements, bytes))
    }

    fn read(&self, elements: &mut [f32]) -> Result<()> {
        self.check(elements.len())?;
        self.surface.read(|bytes| self.layout.load(bytes, elements))
    }
}
