//! Programs rewritten into programs that compute the same.

mod unfold;

pub use unfold::unfold;
