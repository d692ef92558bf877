//! Memory for numbers.

mod region;

use region::{Piece, pieces, unshared};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Elements of a line of the caches.
pub(super) const LINE: usize = 16;

/// Numbers, the first at the beginning of a line of the caches: vectors that lie across two lines take twice as
/// long. Clones share their memory until one of them is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Floats(Option<Arc<Piece>>);

impl Floats {
    /// As many zeros.
    pub(crate) fn zeros(n: usize) -> Floats {
        Floats::together(&[n]).pop().unwrap_or_default()
    }

    /// As many zeros for each of these sizes, side by side. They keep the memory of all until the last has gone.
    pub(super) fn together(sizes: &[usize]) -> Vec<Floats> {
        pieces(sizes).into_iter().map(|piece| Floats(Some(Arc::new(piece)))).collect()
    }

    /// Writes the numbers that come, as many as there is room for.
    pub(super) fn copy_from_iter(&mut self, from: impl Iterator<Item = f32>) {
        self.iter_mut().zip(from).for_each(|(to, x)| *to = x);
    }
}

impl From<&[f32]> for Floats {
    fn from(x: &[f32]) -> Floats {
        let mut floats = Floats::zeros(x.len());
        floats.copy_from_slice(x);
        floats
    }
}

impl From<Vec<f32>> for Floats {
    fn from(x: Vec<f32>) -> Floats {
        Floats::from(&x[..])
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_ref().map_or(&[], |piece| piece.elements())
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut().map_or(&mut [], unshared)
    }
}

/// The elements from the first that begins a line on.
pub(super) fn aligned(x: &mut [f32]) -> &mut [f32] {
    let start = start(x);
    &mut x[start..]
}

/// The most elements that [`aligned`] leaves out.
pub(super) const MOST_SKIPPED: usize = LINE - 1;

fn start(x: &[f32]) -> usize {
    x.as_ptr().align_offset(LINE * size_of::<f32>()).min(x.len().min(LINE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_written() {
        let mut x = Floats::from(&[1.0, 2.0][..]);
        let y = x.clone();
        assert!(std::ptr::eq(&x[0], &y[0]));
        x[0] = 3.0;
        assert_eq!((&x[..], &y[..]), (&[3.0, 2.0][..], &[1.0, 2.0][..]));
        assert_eq!(x.as_ptr().align_offset(64), 0);
        assert!(Floats::default().is_empty() && Floats::zeros(0).is_empty());
    }
}
