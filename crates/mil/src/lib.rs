//! MIL, the language of programs for Apple's Neural Engine.
#![forbid(unsafe_code)]

pub mod builder;
pub mod error;
pub mod ir;
pub mod limits;
pub mod ops;
pub mod tensor;
pub mod valid;

pub use builder::Builder;
pub use error::{Diagnostic, Error, Result};
pub use limits::{Chip, Limits};
pub use valid::{ValidProgram, validate};
