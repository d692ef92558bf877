//! MIL, the language of programs for Apple's Neural Engine.
#![forbid(unsafe_code)]

pub mod error;
pub mod ir;
pub mod tensor;
pub mod weights;

pub use error::{Diagnostic, Error, Result};
