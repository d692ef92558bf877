//! The engine of the stand-ins: the software engine between surfaces, and what a model says of those.

use super::model::model;
use super::{Content, Says, class, state, string};
use crate::device::apple::program::WIDTH_MULTIPLE;
use crate::device::{Buffer, Kernel};
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType};
use objc2::msg_send;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, Sel};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

/// Where the elements of a tensor lie.
struct Place {
    /// Batches, channels, rows, columns.
    sizes: [usize; 4],
    element: usize,
    /// Bytes from one batch, channel, row to the next.
    strides: [usize; 3],
}

impl Place {
    fn new(ty: &TensorType, says: Says) -> Place {
        let shape = ty.fixed_shape().unwrap_or_default();
        let axis = |from_the_right: usize| shape.len().checked_sub(from_the_right).map_or(1, |i| shape[i]);
        // A matrix is as many channels as it has rows.
        let (channels, rows) = if shape.len() == 2 { (axis(2), 1) } else { (axis(3), axis(2)) };
        let sizes = [ty.n_elements().unwrap_or(0) / (channels * rows * axis(1)).max(1), channels, rows, axis(1)];
        let element = if ty.dtype == DType::Fp16 { 2 } else { 4 };
        // Odd numbers of lines of memory, each different.
        let more = |n| if says == Says::Unusual { n } else { 0 };
        let row = sizes[3] * element + more(64);
        let plane = rows * row + more(320);
        let batch = channels * plane + more(704);
        Place { sizes, element, strides: [batch, plane, row] }
    }

    /// The first byte of a row.
    fn row(&self, index: usize) -> usize {
        let [_, channels, rows, _] = self.sizes;
        let [batch, plane, row] = self.strides;
        let channel = index / rows;
        channel / channels * batch + channel % channels * plane + index % rows * row
    }

    fn n_bytes(&self) -> usize {
        match self.sizes.iter().product::<usize>() {
            0 => 0,
            n => self.row(n / self.sizes[3] - 1) + self.sizes[3] * self.element,
        }
    }
}

/// The indices of ports in the engine's order: that of the bytes of their names, or the other way round.
fn order(ports: &[(String, TensorType)], says: Says) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ports.len()).collect();
    order.sort_by(|&a, &b| ports[a].0.as_bytes().cmp(ports[b].0.as_bytes()));
    if says == Says::Unusual {
        order.reverse();
    }
    order
}

/// `modelAttributes`: nothing, or inputs and outputs of what was loaded.
pub(super) extern "C-unwind" fn attributes(this: &AnyObject, _: Sel) -> *mut AnyObject {
    // SAFETY: `this` is a model of a stand-in class.
    let Some((world, model)) = (unsafe { model(this) }) else { return ptr::null_mut() };
    let (Some(kernel), true) = (&model.kernel, model.loaded && world.says != Says::Nothing) else {
        return ptr::null_mut();
    };
    let list = |ports: &[(String, TensorType)], suffix: &str| {
        let item = |&i: &usize| {
            let (name, ty) = &ports[i];
            let place = Place::new(ty, world.says);
            let [batches, channels, rows, mut columns] = place.sizes;
            if world.says == Says::Wrong {
                columns += 1;
            }
            let [batch, plane, row] = place.strides;
            let numbers = [
                ("Batches", batches),
                ("Channels", channels),
                ("Depth", 1),
                ("Height", rows),
                ("Width", columns),
                ("BatchStride", batch),
                ("PlaneStride", plane),
                ("RowStride", row),
                ("Interleave", 1),
            ];
            let numbers = numbers.map(|(key, n)| (key, number(n)));
            let entries = [("Name", string(&format!("{name}{suffix}"))), ("Type", string("Float16"))];
            dictionary(&entries.into_iter().chain(numbers).collect::<Vec<_>>())
        };
        array(&order(ports, world.says).iter().map(item).collect::<Vec<_>>())
    };
    let s = kernel.signature();
    let lists = [("LiveInputList", list(&s.inputs, "")), ("LiveOutputList", list(&s.outputs, "@output"))];
    dictionary(&[("NetworkStatusList", array(&[dictionary(&lists)]))])
}

fn number(n: usize) -> *mut AnyObject {
    let Ok(class) = class("NSNumber") else { return ptr::null_mut() };
    // SAFETY: the method takes an unsigned number of 64 bits.
    let number: Option<Retained<AnyObject>> = unsafe { msg_send![class, numberWithUnsignedLongLong: n as u64] };
    number.map_or(ptr::null_mut(), Retained::autorelease_ptr)
}

fn array(objects: &[*mut AnyObject]) -> *mut AnyObject {
    let Ok(class) = class("NSArray") else { return ptr::null_mut() };
    let array: Option<Retained<AnyObject>> =
        // SAFETY: the objects live as long as the pool, and are retained.
        unsafe { msg_send![class, arrayWithObjects: objects.as_ptr(), count: objects.len()] };
    array.map_or(ptr::null_mut(), Retained::autorelease_ptr)
}

fn dictionary(entries: &[(&str, *mut AnyObject)]) -> *mut AnyObject {
    let Ok(class) = class("NSDictionary") else { return ptr::null_mut() };
    let keys: Vec<*mut AnyObject> = entries.iter().map(|(key, _)| string(key)).collect();
    let values: Vec<*mut AnyObject> = entries.iter().map(|(_, value)| *value).collect();
    let dictionary: Option<Retained<AnyObject>> =
        // SAFETY: there are as many keys as values; all live as long as the pool, and are retained.
        unsafe { msg_send![class, dictionaryWithObjects: values.as_ptr(), forKeys: keys.as_ptr(), count: keys.len()] };
    dictionary.map_or(ptr::null_mut(), Retained::autorelease_ptr)
}

/// Runs a kernel on surfaces: those of inputs, and of outputs, are in the order of [`order`].
pub(super) fn run(
    kernel: &mut dyn Kernel,
    says: Says,
    inputs: &[Retained<AnyObject>],
    outputs: &[Retained<AnyObject>],
) -> Result<()> {
    let signature = kernel.signature().clone();
    let mut xs = (0..inputs.len()).map(|i| kernel.input_buffer(i)).collect::<Result<Vec<_>>>()?;
    let mut ys = (0..outputs.len()).map(|i| kernel.output_buffer(i)).collect::<Result<Vec<_>>>()?;
    for (surface, &i) in inputs.iter().zip(&order(&signature.inputs, says)) {
        let ty = &signature.inputs[i].1;
        let place = Place::new(ty, says);
        let mut elements = vec![0.0; ty.n_elements().unwrap_or(0)];
        with_surface(surface, ty, &place, |bytes| {
            for (row, xs) in elements.chunks_mut(place.sizes[3]).enumerate() {
                let bytes = bytes[place.row(row)..].chunks(place.element);
                xs.iter_mut().zip(bytes).for_each(|(x, bytes)| *x = element(ty, bytes));
            }
        })?;
        xs[i].write(&elements)?;
    }
    uniform(inputs)?;
    uniform(outputs)?;
    let refs: Vec<&dyn Buffer> = xs.iter().map(|x| &**x).collect();
    let mut outs: Vec<&mut dyn Buffer> = ys.iter_mut().map(|y| &mut **y).collect();
    kernel.run(&refs, &mut outs)?;
    for (surface, &i) in outputs.iter().zip(&order(&signature.outputs, says)) {
        let ty = &signature.outputs[i].1;
        let place = Place::new(ty, says);
        let mut elements = vec![0.0; ty.n_elements().unwrap_or(0)];
        ys[i].read(&mut elements)?;
        with_surface(surface, ty, &place, |bytes| {
            for (row, xs) in elements.chunks(place.sizes[3]).enumerate() {
                let bytes = bytes[place.row(row)..].chunks_mut(place.element);
                xs.iter().zip(bytes).for_each(|(&x, bytes)| set_element(ty, bytes, x));
            }
        })?;
    }
    Ok(())
}

fn element(ty: &TensorType, bytes: &[u8]) -> f32 {
    match ty.dtype {
        DType::Fp16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

fn set_element(ty: &TensorType, bytes: &mut [u8], x: f32) {
    match ty.dtype {
        DType::Fp16 => bytes[..2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
        _ => bytes[..4].copy_from_slice(&x.to_le_bytes()),
    }
}

/// The surface of a surface object.
fn surface(object: &AnyObject) -> Option<(&Mutex<Vec<u8>>, &AtomicI64)> {
    // SAFETY: requests hold surface objects of a stand-in class, which hold surfaces.
    let object = unsafe { state(object) }?;
    let Content::SurfaceObject(surface) = &object.content else { return None };
    // SAFETY: as above.
    match &unsafe { state(&**surface) }?.content {
        Content::Surface { bytes, n_locks } => Some((bytes, n_locks)),
        _ => None,
    }
}

/// Calls `f` with the bytes of a surface that holds a tensor of that type, as the engine would find them.
fn with_surface(object: &AnyObject, ty: &TensorType, place: &Place, f: impl FnOnce(&mut [u8])) -> Result<()> {
    let (bytes, n_locks) = surface(object).ok_or_else(|| Error::device("no surface"))?;
    if n_locks.load(Ordering::SeqCst) != 0 {
        return Err(Error::device("the surface is locked"));
    }
    let mut bytes = bytes.lock().unwrap_or_else(|e| e.into_inner());
    let width = ty.fixed_shape().and_then(|s| s.last().copied()).unwrap_or(1);
    if !width.is_multiple_of(WIDTH_MULTIPLE) {
        return Err(Error::device(format!("a width of {width}")));
    }
    match place.n_bytes() {
        n if n <= bytes.len() => {
            f(&mut bytes);
            Ok(())
        }
        n => Err(Error::device(format!("{ty} takes {n} bytes, the surface has {}", bytes.len()))),
    }
}

fn uniform(objects: &[Retained<AnyObject>]) -> Result<()> {
    let sizes: Option<Vec<usize>> =
        objects.iter().map(|o| Some(surface(o)?.0.lock().unwrap_or_else(|e| e.into_inner()).len())).collect();
    match sizes {
        Some(sizes) if sizes.windows(2).all(|w| w[0] == w[1]) => Ok(()),
        _ => Err(Error::device("surfaces of different sizes")),
    }
}
