//! In place of the matrix unit of x86-64, on other CPUs: there is none.

use super::tiles::{Panels, ROWS, Tiles, Unit};

pub(in crate::soft) fn is_here() -> bool {
    false
}

pub(in crate::soft) fn stay_awake() {}

/// What cannot be had.
pub(super) enum Amx {}

impl Amx {
    pub(super) fn new() -> Option<Amx> {
        None
    }
}

pub(super) fn run(tiles: Tiles<'_, Amx>) {
    match tiles.1 {}
}

impl Unit for Amx {
    fn square(&mut self, _: Panels<'_, 2>, _: Panels<'_, 2>, _: usize, _: (&mut [f32], usize, bool)) {
        match *self {}
    }

    fn column(&mut self, _: Panels<'_, ROWS>, _: Panels<'_, 1>, _: usize, _: (&mut [f32], bool)) {
        match *self {}
    }
}
