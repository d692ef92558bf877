//! MIL, the language of programs for Apple's Neural Engine.
#![forbid(unsafe_code)]

pub mod error;
pub mod ir;
mod render;
pub mod tensor;
pub mod text;

pub use error::{Diagnostic, Error, Result};
pub use render::line_column;
