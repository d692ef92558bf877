//! Buffers in surfaces: rows of the last axis, one after the other, in the engine's element type.

use super::program::Port;
use super::sys::{Runtime, Surface};
use crate::device::Buffer;
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::sync::Arc;

/// A tensor in a surface.
pub(super) struct AppleBuffer {
    /// As the program declares it.
    ty: TensorType,
    layout: Layout,
    surface: Surface,
}

/// Where the elements lie.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    dtype: DType,
    n_rows: usize,
    /// Elements in a row that are the tensor's.
    width: usize,
    /// Elements from one row to the next.
    stride: usize,
}

impl Layout {
    fn new(port: &Port) -> Result<Layout> {
        let shape = |t: &TensorType| {
            let fixed = t.fixed_shape();
            fixed.ok_or_else(|| Error::config(format!("`{}` is {t}, expected a fixed shape", port.name)))
        };
        let (host, engine) = (shape(&port.host)?, shape(&port.engine)?);
        let width = host.last().copied().unwrap_or(1);
        let n = port.host.n_elements().unwrap_or(0);
        Ok(Layout {
            dtype: port.engine.dtype,
            n_rows: n.checked_div(width).unwrap_or(0),
            width,
            stride: engine.last().copied().unwrap_or(1),
        })
    }

    fn row_bytes(&self) -> (usize, usize) {
        let size = if self.dtype == DType::Fp16 { 2 } else { 4 };
        (self.width * size, self.stride * size)
    }
}

impl AppleBuffer {
    pub(super) fn new(runtime: &Arc<Runtime>, port: &Port, n_bytes: usize) -> Result<AppleBuffer> {
        let surface = runtime.surface(n_bytes).map_err(|e| e.context(format!("buffer for `{}`", port.name)))?;
        let mut buffer = AppleBuffer { ty: port.host.clone(), layout: Layout::new(port)?, surface };
        let needed = buffer.layout.n_rows * buffer.layout.row_bytes().1;
        if needed > n_bytes {
            return Err(Error::device(format!("`{}` needs {needed} bytes in a surface of {n_bytes}", port.name)));
        }
        buffer.surface.write(|bytes| bytes.fill(0))?;
        Ok(buffer)
    }

    pub(super) fn surface(&self) -> &Surface {
        &self.surface
    }

    /// Whether the kernel that has this port, with surfaces of that size, can use the buffer as it is.
    pub(super) fn fits(&self, port: &Port, n_bytes: usize) -> bool {
        self.surface.n_bytes() == n_bytes && Layout::new(port).is_ok_and(|l| l == self.layout)
    }

    /// Takes over the elements of a buffer of the same type with another layout.
    pub(super) fn take_from(&mut self, other: &AppleBuffer) -> Result<()> {
        let mut elements = vec![0.0; self.ty.n_elements().unwrap_or(0)];
        other.read(&mut elements)?;
        self.write(&elements)
    }

    /// Writes one byte everywhere.
    pub(super) fn fill(&mut self, byte: u8) -> Result<()> {
        self.surface.write(|bytes| bytes.fill(byte))
    }

    /// Whether the elements consist of that byte alone.
    pub(super) fn is_filled_with(&self, byte: u8) -> Result<bool> {
        let (row, stride) = self.layout.row_bytes();
        let rows = self.layout.n_rows;
        self.surface.read(|bytes| {
            rows > 0 && row > 0 && bytes.chunks(stride).take(rows).all(|r| r[..row].iter().all(|&b| b == byte))
        })
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
        let layout = &self.layout;
        if layout.width == 0 {
            return Ok(());
        }
        let (row, stride) = layout.row_bytes();
        let mut halves = vec![f16::ZERO; layout.width];
        self.surface.write(|bytes| {
            for (from, to) in elements.chunks_exact(layout.width).zip(bytes.chunks_mut(stride)) {
                if layout.dtype == DType::Fp16 {
                    halves.convert_from_f32_slice(from);
                    copy(&mut to[..row], halves.iter().map(|h| h.to_le_bytes()));
                } else {
                    copy(&mut to[..row], from.iter().map(|x| x.to_le_bytes()));
                }
            }
        })
    }

    fn read(&self, elements: &mut [f32]) -> Result<()> {
        self.check(elements.len())?;
        let layout = &self.layout;
        if layout.width == 0 {
            return Ok(());
        }
        let (row, stride) = layout.row_bytes();
        let mut halves = vec![f16::ZERO; layout.width];
        self.surface.read(|bytes| {
            for (to, from) in elements.chunks_exact_mut(layout.width).zip(bytes.chunks(stride)) {
                let from = &from[..row];
                if layout.dtype == DType::Fp16 {
                    halves.iter_mut().zip(from.as_chunks().0).for_each(|(h, &b)| *h = f16::from_le_bytes(b));
                    halves.convert_to_f32_slice(to);
                } else {
                    to.iter_mut().zip(from.as_chunks().0).for_each(|(x, &b)| *x = f32::from_le_bytes(b));
                }
            }
        })
    }
}

/// Writes numbers one after the other.
fn copy<const N: usize>(to: &mut [u8], numbers: impl Iterator<Item = [u8; N]>) {
    to.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
}
