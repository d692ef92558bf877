//! The donor patch: new weights for a program that was compiled before, without a compile.
//!
//! What a compile leaves in a model's folder, `net.plist`, is put beside the text and the new weights in the
//! folder of another model, with the weights once more as `data`; that model is then loaded. Orion tests it
//! (`tests/test_delta_compile.m`, `orion_program_patch_weights`) and Espresso ships it; what Orion's trainer does
//! instead, writing new files under a loaded model and loading it again, has no effect by three other projects,
//! and is not done here. No one has shown that the patch works everywhere, so a device tries it on a known answer
//! first.

use super::folder::Folder;
use crate::error::Result;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// What a compile leaves.
pub(super) const NET: &str = "net.plist";

/// Where the weights are once more.
const DATA: &str = "data";

/// What compiles have left, by the text that was compiled.
#[derive(Debug)]
pub(super) struct Donors {
    is_on: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nets: HashMap<String, Vec<u8>>,
    n_patches: usize,
    /// Why there are no more of them.
    refusal: Option<String>,
}

impl Donors {
    /// None yet, and none ever unless `is_on`.
    pub(super) fn new(is_on: bool) -> Donors {
        Donors { is_on, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What a compile of that text has left, if it may be used.
    pub(super) fn net(&self, text: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.nets.get(text).filter(|_| state.refusal.is_none()).cloned()
    }

    /// Keeps what the compile of that text has left.
    pub(super) fn keep(&self, text: &str, folder: &Folder) {
        if self.is_on
            && let Some(net) = folder.read(NET)
        {
            self.state().nets.insert(text.into(), net);
        }
    }

    /// Counts a patch.
    pub(super) fn note_patch(&self) {
        self.state().n_patches += 1;
    }

    /// How many there were.
    pub(super) fn n_patches(&self) -> usize {
        self.state().n_patches
    }

    /// Ends it: from now on there are compiles only. The first reason is kept.
    pub(super) fn refuse(&self, why: String) {
        self.state().refusal.get_or_insert(why);
    }

    /// Why it has ended.
    pub(super) fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }
}

/// Puts into a model's folder what makes its load a patch.
pub(super) fn patch(folder: &Folder, net: &[u8], weights: &[u8]) -> Result<()> {
    folder.add(NET, net)?;
    folder.add(DATA, weights)
}
