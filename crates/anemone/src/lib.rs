//! Trains neural networks on Apple's Neural Engine, or on its software twin.

pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod models;
pub mod nn;
pub mod optim;
pub mod params;
pub mod random;
mod soft;

pub use anemone_mil as mil;
pub use config::Config;
pub use error::{Error, Result};
