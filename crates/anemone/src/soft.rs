//! The software engine's inside: programs become lists of steps over one block of memory.
//!
//! Every floating-point or boolean value lives in that block as `f32`; a value the program declares as fp16 always
//! lies on the fp16 grid, because each step rounds its result once, to nearest, ties to even. Products of two
//! fp16 numbers are exact in `f32`, and sums run in the order of the contracted axis, so that results are the
//! same on every machine and for every way a product is written (`conv` or `matmul`).

pub(crate) mod kernels;
pub(crate) mod plan;
pub(crate) mod steps;
