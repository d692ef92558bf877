//! The Neural Engine where there is none.

use super::{Failure, Options};
use crate::device::{Device, Kernel, Usage};
use crate::error::{Error, Result};
use anemone_mil::ir::Version;
use anemone_mil::limits::Limits;
use anemone_mil::{ValidProgram, Weights};
use std::convert::Infallible;

/// The device of another machine: there is no value of this type.
pub struct AppleDevice(Infallible);

impl AppleDevice {
    /// Says why there is no engine.
    ///
    /// # Errors
    ///
    /// Always, with [`Error::is_unavailable`].
    pub fn open(_: &Options) -> Result<AppleDevice> {
        Err(Error::unavailable("the Neural Engine is in Apple's machines and this is none; use `--device soft`"))
    }

    /// Whether the machine is a virtual one, if the system says.
    pub fn is_virtual(&self) -> Option<bool> {
        match self.0 {}
    }

    /// Whether fp32 inputs and outputs were tried and refused.
    pub fn fell_back_to_fp16(&self) -> bool {
        match self.0 {}
    }

    /// The folders with model files that exist now.
    pub fn n_folders(&self) -> usize {
        match self.0 {}
    }

    /// The version of the language that was taken, once a program was.
    pub fn version(&self) -> Option<Version> {
        match self.0 {}
    }

    /// Programs that got new weights by the donor patch.
    pub fn n_patches(&self) -> usize {
        match self.0 {}
    }

    /// Why the donor patch is not used although it was asked for.
    pub fn donor_refusal(&self) -> Option<String> {
        match self.0 {}
    }

    /// What calls have said about their failures.
    pub fn failures(&self) -> Vec<Failure> {
        match self.0 {}
    }
}

impl Device for AppleDevice {
    fn name(&self) -> String {
        match self.0 {}
    }

    fn limits(&self) -> &Limits {
        match self.0 {}
    }

    fn compile(&self, _: &ValidProgram, _: &Weights) -> Result<Box<dyn Kernel>> {
        match self.0 {}
    }

    fn usage(&self) -> Usage {
        match self.0 {}
    }
}
