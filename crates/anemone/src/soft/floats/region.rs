//! Memory that many vectors lie in, so that it can be had in large pages: small ones, whose places are looked up
//! time and again, make a step of training take a tenth longer.
#![allow(unsafe_code)] // To give the parts of one allocation different owners; small, so that it can be judged.

use super::LINE;
use memmap2::MmapMut;
use std::ptr::NonNull;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Bytes of a large page on x86-64, and on ARM with pages of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;
/// Bytes from which on a region has large pages: in a smaller one, too much of them is never used.
const LEAST_LARGE: usize = 8 * LARGE_PAGE;
/// Bytes from which on a region has pages of its own, which the system has back as soon as it goes. The allocator
/// may keep them.
const LEAST_MAPPED: usize = 1 << 18;

/// What keeps the memory; nobody but its pieces touches the elements.
#[derive(Debug)]
#[expect(dead_code)] // Held, not read.
enum Region {
    Heap(Vec<f32>),
    Map(MmapMut),
}

/// Elements of a region that are no other piece's.
#[derive(Debug)]
pub(super) struct Piece {
    start: NonNull<f32>,
    len: usize,
    /// Alive as long as the piece.
    _region: Arc<Region>,
}

// SAFETY: a piece owns its elements as a `Vec` does: no other piece overlaps it, the region is never touched but
// through pieces, and it may be freed by any thread.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared piece only lets its elements be read.
unsafe impl Sync for Piece {}

impl Piece {
    pub(super) fn elements(&self) -> &[f32] {
        // SAFETY: `start` points to `len` initialized elements, which live as long as `_region` and change only
        // through `&mut self`.
        unsafe { from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn elements_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and nobody else has them.
        unsafe { from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Clone for Piece {
    /// In a region of its own.
    fn clone(&self) -> Piece {
        let mut clone = pieces(&[self.len]).swap_remove(0);
        clone.elements_mut().copy_from_slice(self.elements());
        clone
    }
}

/// The elements of a piece, to be written: if it has other owners, of a copy that it becomes.
pub(super) fn unshared(piece: &mut Arc<Piece>) -> &mut [f32] {
    // `Arc::make_mut` would take some 20 ns, each time anything is written: it reckons with weak references.
    if Arc::strong_count(piece) > 1 {
        *piece = Arc::new(Piece::clone(piece));
    }
    // What owners that are gone have read was read before.
    fence(Ordering::Acquire);
    // SAFETY: as above. Nobody else has the elements: there is no other owner, none can come from this one, which
    // is borrowed, and nobody makes weak references to pieces.
    unsafe { from_raw_parts_mut(piece.start.as_ptr(), piece.len) }
}

/// A piece of zeros of each of these sizes, each beginning a line of the caches.
pub(super) fn pieces(sizes: &[usize]) -> Vec<Piece> {
    let rooms = || sizes.iter().map(|n| n.next_multiple_of(LINE));
    let n = rooms().sum::<usize>() + LINE;
    let n_bytes = n * size_of::<f32>();
    // Zeroed, and without any page before it is touched, as large vectors of zeros are.
    let map = if n_bytes >= LEAST_MAPPED { MmapMut::map_anon(n_bytes).ok() } else { None };
    let (start, region) = match map {
        Some(mut map) => {
            if n_bytes >= LEAST_LARGE {
                ask_for_large_pages(&map);
            }
            (NonNull::from(&mut map[..]).cast::<f32>(), Region::Map(map))
        }
        None => {
            let mut vec = vec![0.0f32; n];
            (NonNull::from(&mut vec[..]).cast(), Region::Heap(vec))
        }
    };
    let region = Arc::new(region);
    let mut at = start.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let mut pieces = Vec::with_capacity(sizes.len());
    for (&len, room) in sizes.iter().zip(rooms()) {
        // SAFETY: `at + len` is at most `n`, the number of elements from `start` on: a line for the alignment and
        // the room of each piece. Moving the owner into the `Arc` does not move the elements.
        let start = unsafe { start.add(at) };
        pieces.push(Piece { start, len, _region: region.clone() });
        at += room;
    }
    pieces
}

/// On Linux; elsewhere there is nothing to ask. A kernel without large pages gives small ones.
fn ask_for_large_pages(map: &MmapMut) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_and_outlive_each_other() {
        for sizes in [
            vec![3, 0, 16, 17, 1],
            vec![LEAST_MAPPED / 8, 5, LEAST_MAPPED / 4],
            vec![LEAST_LARGE / 4, 7],
            vec![],
            vec![0],
        ] {
            let mut pieces: Vec<_> = pieces(&sizes).into_iter().enumerate().collect();
            assert_eq!(pieces.len(), sizes.len());
            for (i, piece) in &mut pieces {
                assert_eq!(piece.elements().as_ptr().align_offset(64), 0);
                assert!(piece.elements().len() == sizes[*i] && piece.elements().iter().all(|&x| x == 0.0));
                piece.elements_mut().fill(*i as f32 + 1.0);
            }
            while !pieces.is_empty() {
                let (i, piece) = pieces.swap_remove(0);
                assert!(piece.elements().iter().all(|&x| x == i as f32 + 1.0));
            }
        }
    }
}
