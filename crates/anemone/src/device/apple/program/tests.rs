//! Programs before and after.
