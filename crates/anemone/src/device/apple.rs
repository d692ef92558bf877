//! The Neural Engine, driven through the private classes of `AppleNeuralEngine.framework`.
//!
//! [`program`] brings a program into the form that the engine takes and runs anywhere. The rest exists on macOS,
//! and with the feature `gnustep` elsewhere, where tests put stand-ins in the place of Apple's classes. Without
//! either, [`AppleDevice::open`] says why there is no engine.

#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
mod absent;
#[cfg_attr(not(any(target_os = "macos", feature = "gnustep")), allow(dead_code))]
mod backoff;
#[cfg_attr(not(any(target_os = "macos", feature = "gnustep")), allow(dead_code))]
mod donor;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod driver;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod energy;
#[cfg_attr(not(any(target_os = "macos", feature = "gnustep")), allow(dead_code))]
mod folder;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod kernel;
#[cfg_attr(not(any(target_os = "macos", feature = "gnustep")), allow(dead_code))]
mod layout;
pub mod program;
#[cfg(all(feature = "stand-ins", any(target_os = "macos", feature = "gnustep")))]
pub mod stand_in;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod surface;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod sys;
#[cfg_attr(not(any(target_os = "macos", feature = "gnustep")), allow(dead_code))]
mod table;

#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
pub use absent::AppleDevice;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
pub use driver::AppleDevice;

use anemone_mil::Chip;
use anemone_mil::ir::Version;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// How the engine is driven.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The chip whose rules hold.
    pub chip: Chip,
    /// The version of the language; `None` tries 1.3, then 1.0, and keeps to what was taken first.
    pub version: Option<Version>,
    /// What becomes of programs with fp32 inputs and outputs.
    pub io: ProgramIo,
    /// How programs with several inputs get them.
    pub inputs: ProgramInputs,
    /// Whether a program that was compiled before gets new weights by the donor patch instead of a compile. The
    /// device tries it on a known answer when it is opened; where that comes out wrong it goes on compiling, and
    /// its name says so.
    pub donor_patch: bool,
    /// Whether a last axis that is no multiple of 32 elements is padded, and the program refused if it cannot be.
    /// Without padding, rows lie densely, as the field's first such programs have them.
    pub pad: bool,
    /// Surfaces are at least so large, in bytes. 48 KiB is the most that any report asks for (Orion constraint 4);
    /// others run with 2 KiB.
    pub min_surface_bytes: usize,
    /// Instead of Apple's frameworks, libraries with stand-ins for their classes and functions.
    pub stand_ins: Option<Vec<PathBuf>>,
    /// What the names of the engine's classes begin with.
    pub class_prefix: String,
    /// The most compiles of this process, if fewer than the rules allow.
    pub max_compiles: Option<usize>,
    /// The most loaded programs of this process, if fewer than the rules allow.
    pub max_live_programs: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            chip: Chip::M4,
            version: None,
            io: ProgramIo::Fp16,
            inputs: ProgramInputs::Separate,
            donor_patch: false,
            pad: true,
            min_surface_bytes: 48 * 1024,
            stand_ins: None,
            class_prefix: "_ANE".into(),
            max_compiles: None,
            max_live_programs: None,
        }
    }
}

impl Options {
    /// The form of the field's first training program: `program(1.0)`, fp32 inputs and outputs with casts where
    /// the program has them, nothing padded, surfaces as large as their tensor.
    pub fn plain() -> Options {
        Options {
            version: Some(Version::V1_0),
            io: ProgramIo::AsWritten,
            pad: false,
            min_surface_bytes: 0,
            ..Options::default()
        }
    }
}

/// What becomes of programs with fp32 inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramIo {
    /// They become fp16 where the program only casts them, and the host rounds as the cast would.
    #[default]
    Fp16,
    /// They stay, if the engine takes that; else as `Fp16`, which the device's name then says.
    AsWritten,
}

/// How programs with several inputs get them, such as weights beside activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramInputs {
    /// Each in a surface of its own, all of one size.
    #[default]
    Separate,
    /// Side by side in the columns of one, which the program takes apart.
    Packed,
}

/// What a call has said about its failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The method or function.
    pub call: String,
    /// The domain of the `NSError`.
    pub domain: Option<String>,
    /// Its code, or the status of a function.
    pub code: Option<i64>,
    /// Its text.
    pub text: String,
    /// Whether it was an exception, and no answer.
    pub raised: bool,
}

#[cfg(any(target_os = "macos", feature = "gnustep"))]
impl Failure {
    fn nil(call: &str) -> Failure {
        Failure::said(call, "nil".into())
    }

    fn said(call: &str, text: String) -> Failure {
        Failure { call: call.into(), text, ..Failure::default() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.raised { "raised" } else { "said" };
        write!(f, "`{}` {verb}: {}", self.call, self.text.trim())?;
        match (&self.domain, self.code) {
            (Some(domain), Some(code)) => write!(f, " (domain `{domain}`, code {code})"),
            (None, Some(code)) => write!(f, " (code {code})"),
            _ => Ok(()),
        }
    }
}
