//! Models with a configuration.

mod mlp;

pub use mlp::Mlp;
