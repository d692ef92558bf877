//! Programs before and after.

