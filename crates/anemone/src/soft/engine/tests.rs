//! Tests of the engine's arithmetic.
