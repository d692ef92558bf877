//! A loaded program: its surfaces, its requests, a run.

use super::Failure;
use super::driver::{Engine, Loaded};
use super::layout::{Described, Layout};
use super::program::{Packing, Port, Shaped};
use super::surface::AppleBuffer;
use super::sys::{Request, Surface};
use crate::device::{Buffer, Kernel, Signature, Version};
use crate::error::{Error, Result};
use anemone_mil::ir::{TensorType, Type};
use std::any::Any;

/// Surfaces are whole pages of this size where they have a smallest size at all.
const PAGE_BYTES: usize = 16 * 1024;

/// Requests that a kernel keeps, one for each set of buffers it was run with.
const MAX_REQUESTS: usize = 4;

/// What outputs are filled with before a first run, to see that they are written: NaN in fp16 and in fp32.
const POISON: u8 = 0xff;

pub(super) struct AppleKernel {
    loaded: Loaded,
    signature: Signature,
    inputs: Inputs,
    outputs: Side,
    /// With the addresses of their surfaces.
    requests: Vec<(Vec<usize>, Request)>,
}

/// How the inputs of a program reach the engine.
enum Inputs {
    /// Each in a surface of its own.
    Separate(Side),
    /// All in one.
    Packed(Packed),
}

/// The inputs, or the outputs, of a kernel, each in a surface.
struct Side {
    ports: Vec<Port>,
    layouts: Vec<Layout>,
    /// The size of each of its surfaces: that of the largest, as the engine wants them equal (Orion constraints 2
    /// and 18).
    n_bytes: usize,
    /// For each place in the engine's order, the index of the port that belongs there.
    order: Vec<usize>,
    /// Surfaces of this kernel for buffers that do not fit.
    scratch: Vec<Option<AppleBuffer>>,
}

impl Side {
    /// Surfaces for these ports, with what the model has said of them.
    fn new(ports: &[Port], said: Option<&[Described]>, engine: &Engine) -> Result<Side> {
        let said = said.unwrap_or_default();
        let layouts = ports.iter().map(|port| layout(port, said, engine)).collect::<Result<Vec<_>>>()?;
        let largest = layouts.iter().map(Layout::n_bytes).max().unwrap_or(0);
        let n_bytes = match engine.options.min_surface_bytes {
            0 => largest,
            min => largest.max(min).next_multiple_of(PAGE_BYTES),
        };
        // Without an order, or with one that is not of these names, the order of their bytes holds, which the
        // names were made for.
        let find = |d: &Described| ports.iter().position(|p| p.symbol == d.symbol);
        let order: Vec<usize> = said.iter().filter_map(find).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let in_order: Vec<usize> = (0..ports.len()).collect();
        let order = if sorted == in_order { order } else { in_order };
        Ok(Side { scratch: ports.iter().map(|_| None).collect(), ports: ports.to_vec(), layouts, n_bytes, order })
    }

    fn buffer(&self, engine: &Engine, index: usize) -> Result<AppleBuffer> {
        AppleBuffer::new(&engine.runtime, &self.ports[index], self.layouts[index].clone(), self.n_bytes)
    }

    fn fits(&self, index: usize, buffer: &AppleBuffer) -> bool {
        buffer.fits(&self.layouts[index], self.n_bytes)
    }

    /// Makes a surface of its own for a buffer that does not fit; says whether it does not.
    fn needs_scratch(&mut self, engine: &Engine, index: usize, buffer: &AppleBuffer) -> Result<bool> {
        if self.fits(index, buffer) {
            return Ok(false);
        }
        if self.scratch[index].is_none() {
            self.scratch[index] = Some(self.buffer(engine, index)?);
        }
        Ok(true)
    }

    /// The surfaces for these buffers in the engine's order: their own where they fit.
    fn surfaces<'a>(&'a self, buffers: &[&'a AppleBuffer]) -> Vec<&'a Surface> {
        let surface = |&i: &usize| match &self.scratch[i] {
            Some(scratch) if !self.fits(i, buffers[i]) => scratch.surface(),
            _ => buffers[i].surface(),
        };
        self.order.iter().map(surface).collect()
    }
}

/// The layout of a port: as the model describes it, or dense.
fn layout(port: &Port, said: &[Described], engine: &Engine) -> Result<Layout> {
    let Some(said) = said.iter().find(|d| d.symbol == port.symbol) else { return Layout::dense(port) };
    Layout::described(port, said).or_else(|e| {
        engine.runtime.keep(Failure::said("modelAttributes", e.to_string()));
        Layout::dense(port)
    })
}

/// Several inputs in the surface of one.
struct Packed {
    ports: Vec<Port>,
    /// Where each of them lies.
    blocks: Vec<Layout>,
    all: AppleBuffer,
    /// What lies in each block: an operand that has not changed since is not copied again.
    loaded: Vec<Version>,
}

impl Packed {
    fn new(ports: &[Port], packing: &Packing, said: Option<&[Described]>, engine: &Engine) -> Result<Packed> {
        let side = Side::new(std::slice::from_ref(&packing.port), said, engine)?;
        let block = |(port, &column): (&Port, &usize)| side.layouts[0].block(port, column);
        Ok(Packed {
            ports: ports.to_vec(),
            blocks: ports.iter().zip(&packing.columns).map(block).collect::<Result<_>>()?,
            all: side.buffer(engine, 0)?,
            loaded: vec![Version::default(); ports.len()],
        })
    }

    fn load(&mut self, buffers: &[&AppleBuffer]) -> Result<()> {
        for (i, buffer) in buffers.iter().enumerate() {
            if self.loaded[i] != buffer.version() {
                self.all.take_block(&self.blocks[i], buffer)?;
                self.loaded[i] = buffer.version();
            }
        }
        Ok(())
    }
}

impl Inputs {
    fn buffer(&self, engine: &Engine, index: usize) -> Result<AppleBuffer> {
        match self {
            Inputs::Separate(side) => side.buffer(engine, index),
            Inputs::Packed(packed) => {
                let port = &packed.ports[index];
                let layout = Layout::dense(port)?;
                let n_bytes = layout.n_bytes();
                AppleBuffer::new(&engine.runtime, port, layout, n_bytes)
            }
        }
    }

    /// Brings what is not in a surface that fits into one.
    fn load(&mut self, engine: &Engine, buffers: &[&AppleBuffer]) -> Result<()> {
        let side = match self {
            Inputs::Packed(packed) => return packed.load(buffers),
            Inputs::Separate(side) => side,
        };
        for (i, buffer) in buffers.iter().enumerate() {
            if side.needs_scratch(engine, i, buffer)?
                && let Some(scratch) = &mut side.scratch[i]
            {
                scratch.take_from(buffer)?;
            }
        }
        Ok(())
    }

    fn surfaces<'a>(&'a self, buffers: &[&'a AppleBuffer]) -> Vec<&'a Surface> {
        match self {
            Inputs::Separate(side) => side.surfaces(buffers),
            Inputs::Packed(packed) => vec![packed.all.surface()],
        }
    }
}

impl AppleKernel {
    /// The kernel of a program that was loaded.
    pub(super) fn new(shaped: &Shaped, loaded: Loaded) -> Result<AppleKernel> {
        let typed = |ports: &[Port]| -> Vec<(String, Type)> {
            ports.iter().map(|p| (p.name.clone(), p.host.clone().into())).collect()
        };
        let signature = Signature::new(&typed(&shaped.inputs), &typed(&shaped.outputs))?;
        let engine = &loaded.engine;
        let (said_of_inputs, said_of_outputs) = loaded.model.attributes()?.unzip();
        let said_of_inputs = said_of_inputs.as_deref();
        let inputs = match &shaped.packing {
            Some(packing) => Inputs::Packed(Packed::new(&shaped.inputs, packing, said_of_inputs, engine)?),
            None => Inputs::Separate(Side::new(&shaped.inputs, said_of_inputs, engine)?),
        };
        let outputs = Side::new(&shaped.outputs, said_of_outputs.as_deref(), engine)?;
        Ok(AppleKernel { signature, inputs, outputs, requests: Vec::new(), loaded })
    }

    /// The request for these buffers, and whether it is new.
    fn request(&mut self, inputs: &[&AppleBuffer], outputs: &[&AppleBuffer]) -> Result<(usize, bool)> {
        let (xs, ys) = (self.inputs.surfaces(inputs), self.outputs.surfaces(outputs));
        let key: Vec<usize> = xs.iter().chain(&ys).map(|s| s.address()).collect();
        if let Some(index) = self.requests.iter().position(|(k, _)| *k == key) {
            return Ok((index, false));
        }
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
        self.signature.input(index)?;
        Ok(Box::new(self.inputs.buffer(&self.loaded.engine, index)?))
    }

    fn output_buffer(&self, index: usize) -> Result<Box<dyn Buffer>> {
        self.signature.output(index)?;
        Ok(Box::new(self.outputs.buffer(&self.loaded.engine, index)?))
    }

    fn run(&mut self, inputs: &[&dyn Buffer], outputs: &mut [&mut dyn Buffer]) -> Result<()> {
        let s = &self.signature;
        s.check_counts(inputs.len(), outputs.len())?;
        let inputs = inputs.iter().zip(&s.inputs).map(|(b, (name, ty))| apple(*b, name, ty));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let outputs = outputs.iter_mut().zip(&s.outputs).map(|(b, (name, ty))| apple_mut(&mut **b, name, ty));
        let mut outputs = outputs.collect::<Result<Vec<_>>>()?;

        let engine = self.loaded.engine.clone();
        self.inputs.load(&engine, &inputs)?;
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
        outputs.iter_mut().for_each(|b| b.touch());
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
