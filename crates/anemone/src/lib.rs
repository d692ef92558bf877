//! Trains neural networks on Apple's Neural Engine, or on its software twin.

pub mod device;
pub mod error;
mod soft;

pub use anemone_mil as mil;
pub use error::{Error, Result};
