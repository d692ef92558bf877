//! Trains neural networks on Apple's Neural Engine, or on its software twin.

pub mod checkpoint;
pub mod error;
pub mod file;
pub mod metrics;
pub mod weights_file;

pub use anemone_mil as mil;
pub use error::{Error, Result};
