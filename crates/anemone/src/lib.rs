//! Trains neural networks on Apple's Neural Engine, or on its software twin.

pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod file;
pub mod generate;
mod map;
pub mod metrics;
pub mod model_file;
pub mod models;
pub mod nn;
pub mod optim;
pub mod params;
pub mod pretrained;
pub mod random;
pub mod report;
pub mod run;
mod soft;
pub mod train;
pub mod weights_file;

pub use anemone_mil as mil;
pub use config::Config;
pub use error::{Error, Result};
pub use report::Report;
pub use run::Run;
pub use soft::simd::{Instructions, set_instructions};
pub use soft::threads::set_n_threads;
pub use train::Trainer;

/// The program in the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The programs in the book, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct Book;
