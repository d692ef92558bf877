//! Windows that slide over the spatial axes of a tensor, as convolution and pooling have them.

use super::elementwise::show;
use super::*;
use crate::ir::Dim;

/// Which elements of an image each output looks at. Spatial axes only; sizes that are not known are 0, which no
/// evaluation meets.
#[derive(Clone)]
pub(super) struct Windows {
    /// Sizes of the image.
    pub(super) image: Vec<usize>,
    /// Sizes of the window.
    pub(super) kernel: Vec<usize>,
    /// Sizes of the output: the number of windows along each axis.
    pub(super) out: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// Elements of padding before each axis.
    pub(super) before: Vec<usize>,
    /// Elements of padding after each axis, some of which no window may touch.
    pub(super) after: Vec<usize>,
}

/// What the arguments of a call say of its windows.
pub(super) struct Geometry {
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pad_type: PadType,
    pad: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum PadType {
    Valid,
    Same,
    SameLower,
    Custom,
}

impl Geometry {
    /// The arguments `strides`, `pad_type`, `pad` and, where the op has them, `dilations`, for `n` spatial axes.
    pub(super) fn of(args: &Args<'_>, n: usize) -> OpResult<Geometry> {
        let strides = sizes(args, "strides", n)?;
        let dilations = match args.def.param("dilations") {
            Some(_) => sizes(args, "dilations", n)?,
            None => vec![1; n],
        };
        let pad_type = match args.str("pad_type")? {
            "valid" => PadType::Valid,
            "same" => PadType::Same,
            "same_lower" => PadType::SameLower,
            "custom" => PadType::Custom,
            other => {
                let message = format!("is `{other}`, expected valid, same, same_lower or custom");
                return Err(OpError::arg("pad_type", message));
            }
        };
        let mut pad = vec![0; 2 * n];
        if pad_type == PadType::Custom {
            let given = args.ints("pad")?.unwrap_or_else(|| vec![0; 2 * n]);
            pad = given.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
            if given.len() != 2 * n || pad.len() != 2 * n {
                let message = format!("is {given:?}, expected {} sizes that are not negative", 2 * n);
                return Err(OpError::arg("pad", message));
            }
        }
        Ok(Geometry { strides, dilations, pad_type, pad })
    }

    /// The part of `total` elements of padding, an even share but for one, that stands before an axis: the odd
    /// element comes last for `same`, first for `same_lower`.
    fn share_before(&self, total: usize) -> usize {
        if self.pad_type == PadType::SameLower { total - total / 2 } else { total / 2 }
    }

    /// The elements from the first to the last of a window on an axis.
    fn reach(&self, axis: usize, kernel: usize) -> Option<usize> {
        kernel.checked_sub(1)?.checked_mul(self.dilations[axis])?.checked_add(1)
    }

    /// The windows over an image, and the sizes of their output. With `ceil`, a last window may begin in the image
    /// and end behind the padding.
    pub(super) fn over(&self, image: &[Dim], kernel: &[Dim], ceil: bool) -> OpResult<(Windows, Vec<Dim>)> {
        let mut windows = self.windows(kernel);
        let mut dims = Vec::new();
        for (axis, (&d, &k)) in image.iter().zip(kernel).enumerate() {
            let (Some(d), Some(k)) = (d.fixed(), k.fixed()) else {
                windows.push(0, 0, 0, 0);
                dims.push(Dim::Any);
                continue;
            };
            let too_large =
                || OpError::arg("x", format!("has shape {}, which padding makes too large", show(image)));
            let reach = self.reach(axis, k).ok_or_else(too_large)?;
            let stride = self.strides[axis];
            let (lo, hi) = match self.pad_type {
                PadType::Valid => (0, 0),
                PadType::Custom => (self.pad[2 * axis], self.pad[2 * axis + 1]),
                PadType::Same | PadType::SameLower => {
                    let begins =
                        (d.div_ceil(stride)).saturating_sub(1).checked_mul(stride).ok_or_else(too_large)?;
                    let total = begins.checked_add(reach).ok_or_else(too_large)?.saturating_sub(d);
                    (self.share_before(total), total - self.share_before(total))
                }
            };
            let padded = d.checked_add(lo).and_then(|d| d.checked_add(hi)).ok_or_else(too_large)?;
            let room = padded.checked_sub(reach).ok_or_else(|| {
                OpError::arg(
                    "x",
                    format!(
                        "has {padded} padded elements on spatial axis {axis}, fewer than the window's {reach}"
                    ),
                )
            })?;
            let mut n = room / stride + 1;
            if ceil {
                n = room.div_ceil(stride) + 1;
                // The last window would begin in the padding.
                if lo + hi > 0 && (n - 1).checked_mul(stride).is_none_or(|b| b >= d.saturating_add((lo + hi) / 2))
                {
                    n -= 1;
                }
            }
            windows.push(d, n, lo, hi);
            dims.push(Dim::Fixed(n as u64));
        }
        Ok((windows, dims))
    }

    /// The windows whose output `out` is to be spread over an image, and the sizes of the image: those given, or
    /// the smallest that have room for all windows without their padding.
    pub(super) fn under(
        &self,
        out: &[Dim],
        kernel: &[Dim],
        image: Option<&[usize]>,
    ) -> OpResult<(Windows, Vec<Dim>)> {
        let mut windows = self.windows(kernel);
        let mut dims = Vec::new();
        for (axis, (&n, &k)) in out.iter().zip(kernel).enumerate() {
            let (Some(n), Some(k)) = (n.fixed(), k.fixed()) else {
                windows.push(0, 0, 0, 0);
                dims.push(image.map_or(Dim::Any, |s| Dim::Fixed(s[axis] as u64)));
                continue;
            };
            let too_large =
                || OpError::arg("x", format!("has shape {}, which gives too large an output", show(out)));
            let stride = self.strides[axis];
            let begins = n.checked_sub(1).and_then(|n| n.checked_mul(stride)).ok_or_else(too_large)?;
            let reach = self.reach(axis, k).ok_or_else(too_large)?;
            let full = begins.checked_add(reach).ok_or_else(too_large)?;
            let given = image.map(|s| s[axis]);
            let (lo, d) = match self.pad_type {
                PadType::Valid => (0, given.unwrap_or(full)),
                PadType::Same | PadType::SameLower => {
                    let d = match given {
                        Some(d) => d,
                        None => n.checked_mul(stride).ok_or_else(too_large)?,
                    };
                    (self.share_before(full.saturating_sub(d)), d)
                }
                PadType::Custom => {
                    let (lo, hi) = (self.pad[2 * axis], self.pad[2 * axis + 1]);
                    let cropped = full.checked_sub(lo).and_then(|f| f.checked_sub(hi));
                    let d = given.or(cropped).ok_or_else(|| {
                        OpError::arg("pad", format!("takes {lo} and {hi} elements from an axis of {full}"))
                    })?;
                    (lo, d)
                }
            };
            windows.push(d, n, lo, full.saturating_sub(lo).saturating_sub(d));
            dims.push(Dim::Fixed(d as u64));
        }
        Ok((windows, dims))
    }

    fn windows(&self, kernel: &[Dim]) -> Windows {
        Windows {
            image: Vec::new(),
            kernel: kernel.iter().map(|k| k.fixed().unwrap_or(0)).collect(),
            out: Vec::new(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            before: Vec::new(),
            after: Vec::new(),
        }
    }
}

impl Windows {
    fn push(&mut self, image: usize, out: usize, before: usize, after: usize) {
        self.image.push(image);
        self.out.push(out);
        self.before.push(before);
        self.after.push(after);
    }

    /// The offset in the image of the element under kernel position `k` of window `p`; `None` in the padding.
    pub(super) fn at(&self, p: &[usize], k: &[usize]) -> Option<usize> {
        let mut at = 0;
        for (i, &d) in self.image.iter().enumerate() {
            let c = (p[i] * self.strides[i] + k[i] * self.dilations[i]).checked_sub(self.before[i])?;
            if c >= d {
                return None;
            }
            at = at * d + c;
        }
        Some(at)
    }

    /// Whether kernel position `k` of window `p` lies in the image or its padding, not behind.
    pub(super) fn in_padded(&self, p: &[usize], k: &[usize]) -> bool {
        (0..self.image.len()).all(|i| {
            p[i] * self.strides[i] + k[i] * self.dilations[i] < self.before[i] + self.image[i] + self.after[i]
        })
    }

    /// Whether each window is one element, the same as its output's.
    pub(super) fn are_elements(&self) -> bool {
        self.kernel.iter().chain(&self.strides).all(|&n| n == 1) && self.image == self.out
    }

    /// Elements of the padded image up to the end of the last window, on an axis.
    pub(super) fn touched(&self, axis: usize) -> usize {
        (self.out[axis].max(1) - 1) * self.strides[axis]
            + (self.kernel[axis].max(1) - 1) * self.dilations[axis]
            + 1
    }

    /// Elements of the image after the last window, on an axis.
    pub(super) fn untouched(&self, axis: usize) -> usize {
        (self.image[axis] + self.before[axis]).saturating_sub(self.touched(axis))
    }

    /// Padding before and after each axis, of that after only what windows touch: the argument `pad` of a call.
    pub(super) fn pads(&self) -> Vec<i32> {
        let after = |axis: usize| self.touched(axis).saturating_sub(self.before[axis] + self.image[axis]);
        (0..self.image.len()).flat_map(|axis| [self.before[axis] as i32, after(axis) as i32]).collect()
    }
}

/// A positive size.
pub(super) fn positive(name: &'static str, x: i64) -> OpResult<usize> {
    usize::try_from(x)
        .ok()
        .filter(|&x| x > 0)
        .ok_or_else(|| OpError::arg(name, format!("is {x}, expected 1 or more")))
}

/// A positive size for each of `n` spatial axes, 1 where the argument was left out.
pub(super) fn sizes(args: &Args<'_>, name: &'static str, n: usize) -> OpResult<Vec<usize>> {
    let given = args.ints(name)?.unwrap_or_else(|| vec![1; n]);
    if given.len() != n {
        return Err(OpError::arg(name, format!("has {} sizes, expected {n}", given.len())));
    }
    given.into_iter().map(|s| positive(name, s)).collect()
}

/// All coordinates of a shape, in row-major order.
pub(super) fn coordinates(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..shape.iter().product()).map(move |mut i: usize| {
        let mut c = vec![0; shape.len()];
        for (c, &d) in c.iter_mut().zip(shape).rev() {
            *c = i % d;
            i /= d;
        }
        c
    })
}
