//! The software engine's inside: programs become lists of steps over a few blocks of memory.
//!
//! Every floating-point or boolean value lies there as `f32`; a value the program declares as fp16 always lies on
//! the fp16 grid, because each step rounds its result once, to nearest, ties to even. Products of matrices
//! multiply and add in one rounding, in the order of the contracted axis; machines without such an instruction
//! compute the same by f64. So results are the same on every machine, with any number of threads, and for every
//! way a product is written (`conv` or `matmul`). Programs for a device may be planned in the engine's arithmetic
//! instead (`engine.rs`).

mod copy;
pub(crate) mod engine;
pub(crate) mod floats;
pub(crate) mod fp16;
mod fuse;
mod gather;
pub(crate) mod gemm;
mod lower;
mod math;
pub(crate) mod memory;

pub(crate) mod plan;
mod pointwise;
mod prefetch;
mod product;
mod reduce;
pub(crate) mod simd;
mod slots;
pub(crate) mod steps;
pub(crate) mod threads;
mod window;

#[cfg(test)]
mod tests;
