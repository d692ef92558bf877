//! Elements picked by indices, and elements put where indices say.

use crate::error::{Error, Result};

/// What an index means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A slice at that place of the axis.
    Slices,
    /// An element at that place of the axis, at the other coordinates of the index itself.
    Along,
}

/// A gather or scatter along one axis of data `[batch, outer, n, inner]`. Indices are `[batch, m]` for slices and
/// `[batch, outer, m, inner]` for elements; what they pick is `[batch, outer, m, inner]`.
#[derive(Debug)]
pub(super) struct Picks {
    pub(super) kind: Kind,
    pub(super) batch: usize,
    pub(super) outer: usize,
    pub(super) n: usize,
    pub(super) inner: usize,
    pub(super) m: usize,
    /// The call, for messages.
    pub(super) label: String,
}

impl Picks {
    /// The place an index means; it counts from the end if negative.
    fn place(&self, index: i32) -> Result<usize> {
        let n = self.n as i64;
        let at = if index < 0 { i64::from(index) + n } else { index.into() };
        if (0..n).contains(&at) {
            return Ok(at as usize);
        }
        Err(Error::config(format!("{}: argument `indices` holds {index}, the axis has {n} elements", self.label)))
    }

    /// For each run of picked elements that lie together, calls `f(data, picked, length)` with their first places.
    fn each(&self, indices: &[i32], mut f: impl FnMut(usize, usize, usize)) -> Result<()> {
        let Picks { kind, batch, outer, n, inner, m, .. } = *self;
        for o in 0..batch * outer {
            for j in 0..m {
                let (data, picked) = (o * n * inner, (o * m + j) * inner);
                if kind == Kind::Slices {
                    f(data + self.place(indices[o / outer.max(1) * m + j])? * inner, picked, inner);
                } else {
                    for (i, &index) in indices[picked..][..inner].iter().enumerate() {
                        f(data + self.place(index)? * inner + i, picked + i, 1);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn gather<T: Copy>(&self, x: &[T], indices: &[i32], out: &mut [T]) -> Result<()> {
        self.each(indices, |data, picked, length| match length {
            1 => out[picked] = x[data],
            _ => out[picked..][..length].copy_from_slice(&x[data..][..length]),
        })
    }

    /// `out` is `data` with the updates added, or in place of what they meet, in their order.
    pub(super) fn scatter(&self, add: bool, indices: &[i32], updates: &[f32], out: &mut [f32]) -> Result<()> {
        self.each(indices, |data, picked, length| {
            let (out, updates) = (&mut out[data..][..length], &updates[picked..][..length]);
            if add {
                out.iter_mut().zip(updates).for_each(|(out, u)| *out += u);
            } else {
                out.copy_from_slice(updates);
            }
        })
    }
}
