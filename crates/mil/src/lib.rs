//! MIL, the language of programs for Apple's Neural Engine.
#![forbid(unsafe_code)]

pub mod builder;
pub mod error;
pub mod eval;
pub mod grad;
pub mod ir;
pub mod limits;
pub mod ops;
pub mod package;
pub mod pass;
mod render;
pub mod replay;
pub mod tensor;
pub mod text;
pub mod valid;
pub mod weights;

pub use builder::Builder;
pub use error::{Diagnostic, Error, Result};
pub use eval::Interpreter;
pub use limits::{Chip, Limits};
pub use render::line_column;
pub use tensor::Tensor;
pub use valid::{ValidProgram, validate};
pub use weights::Weights;
