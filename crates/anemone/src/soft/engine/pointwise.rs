//! Functions of single elements: operands read as the engine reads them, exact results or those of a table, one
//! rounding.

use super::numbers::{decode, round};
use super::tables::{TABLES, Tables};
use crate::soft::simd::vectorized;
use crate::soft::threads;

/// Elements that are worked on together.
const BLOCK: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::soft) enum Function {
    // Of one number.
    Abs,
    Ceil,
    Clip(f64, f64),
    Erf,
    Exp,
    Floor,
    Gelu,
    Inverse(f64),
    Leaky(f64),
    Linear(f64, f64),
    Log(f64),
    Round,
    Rsqrt(f64),
    Sigmoid,
    Sign,
    Silu,
    Sqrt,
    Square,
    Tanh,
    Threshold(f64),
    // Of two.
    Add,
    Div,
    Equal,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Max,
    Min,
    Mul,
    NotEqual,
    Sub,
    // Of three.
    Select,
}

/// Applies a function, over threads if that is worth it.
pub(super) fn run(f: Function, reads: [Option<&[f32]>; 3], out: &mut [f32]) {
    threads::over_units(4 * out.len(), out, 1, |first, out| {
        vectorized!('a, |_| (
            f: Function = f,
            tables: &'a Tables = &TABLES,
            reads: [Option<&'a [f32]>; 3] = reads,
            first: usize = first,
            out: &'a mut [f32] = out,
        ) {
            let mut blocks = [[0f32; BLOCK]; 3];
            for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                for (block, x) in blocks.iter_mut().zip(reads) {
                    match x {
                        Some([x]) => block.fill(decode(*x)),
                        Some(x) => {
                            let x = &x[first + b * BLOCK..][..out.len()];
                            block.iter_mut().zip(x).for_each(|(to, &x)| *to = decode(x));
                        }
                        None => {}
                    }
                }
                f.block(tables, &blocks, out);
            }
        });
    });
}

/// Rounds fp32 numbers; those that are not finite stay what they are, as the engine sees them only in fp16.
pub(super) fn to_fp16(x: &[f32], out: &mut [f32]) {
    vectorized!('a, |_| (x: &'a [f32] = x, out: &'a mut [f32] = out) {
        for (out, &x) in out.iter_mut().zip(x) {
            let rounded = round(f64::from(x));
            *out = if x.is_finite() { rounded } else { x };
        }
    });
}

/// `out = f(x)` or `f(x, y)`, rounded.
macro_rules! each {
    ($blocks:expr, $out:expr, |$a:ident| $f:expr) => {
        for (out, &x) in $out.iter_mut().zip(&$blocks[0]) {
            let $a = f64::from(x);
            *out = round($f);
        }
    };
    ($blocks:expr, $out:expr, |$a:ident, $b:ident| $f:expr) => {
        for ((out, &x), &y) in $out.iter_mut().zip(&$blocks[0]).zip(&$blocks[1]) {
            let ($a, $b) = (f64::from(x), f64::from(y));
            *out = round($f);
        }
    };
}

#[inline(always)]
fn truth(x: bool) -> f64 {
    f64::from(u8::from(x))
}

/// The larger of two numbers that are no NaN.
#[inline(always)]
fn larger(x: f64, y: f64) -> f64 {
    if x > y { x } else { y }
}

/// The smaller of two numbers that are no NaN.
#[inline(always)]
fn smaller(x: f64, y: f64) -> f64 {
    if x < y { x } else { y }
}

/// The sum of a number and an epsilon, as fp16, and as it is read again: infinity is a number.
#[inline(always)]
fn shifted(x: f64, epsilon: f64) -> f64 {
    f64::from(decode(round(x + epsilon)))
}

impl Function {
    #[inline(always)]
    fn block(self, t: &Tables, blocks: &[[f32; BLOCK]; 3], out: &mut [f32]) {
        match self {
            Function::Abs => each!(blocks, out, |x| x.abs()),
            Function::Ceil => each!(blocks, out, |x| x.ceil()),
            Function::Clip(low, high) => each!(blocks, out, |x| smaller(larger(x, low), high)),
            Function::Erf => each!(blocks, out, |x| t.erf(x)),
            Function::Exp => each!(blocks, out, |x| t.exp(x)),
            Function::Floor => each!(blocks, out, |x| x.floor()),
            Function::Gelu => each!(blocks, out, |x| t.gelu(x)),
            Function::Inverse(epsilon) => each!(blocks, out, |x| t.inverse(shifted(x, epsilon))),
            Function::Leaky(alpha) => each!(blocks, out, |x| if x < 0.0 { alpha * x } else { x }),
            Function::Linear(alpha, beta) => each!(blocks, out, |x| alpha * x + beta),
            Function::Log(epsilon) => each!(blocks, out, |x| t.log(shifted(x, epsilon))),
            Function::Round => each!(blocks, out, |x| x.round_ties_even()),
            Function::Rsqrt(epsilon) => each!(blocks, out, |x| t.rsqrt(shifted(x, epsilon))),
            Function::Sigmoid => each!(blocks, out, |x| t.sigmoid(x)),
            Function::Sign => each!(blocks, out, |x| if x == 0.0 { x } else { 1f64.copysign(x) }),
            Function::Silu => each!(blocks, out, |x| t.silu(x)),
            Function::Sqrt => each!(blocks, out, |x| t.sqrt(x)),
            Function::Square => each!(blocks, out, |x| x * x),
            Function::Tanh => each!(blocks, out, |x| t.tanh(x)),
            Function::Threshold(alpha) => each!(blocks, out, |x| larger(x, alpha)),
            Function::Add => each!(blocks, out, |x, y| x + y),
            Function::Div => each!(blocks, out, |x, y| divided(x, y)),
            Function::Equal => each!(blocks, out, |x, y| truth(x == y)),
            Function::Greater => each!(blocks, out, |x, y| truth(x > y)),
            Function::GreaterEqual => each!(blocks, out, |x, y| truth(x >= y)),
            Function::Less => each!(blocks, out, |x, y| truth(x < y)),
            Function::LessEqual => each!(blocks, out, |x, y| truth(x <= y)),
            Function::Max => each!(blocks, out, |x, y| larger(x, y)),
            Function::Min => each!(blocks, out, |x, y| smaller(x, y)),
            Function::Mul => each!(blocks, out, |x, y| x * y),
            Function::NotEqual => each!(blocks, out, |x, y| truth(x != y)),
            Function::Sub => each!(blocks, out, |x, y| x - y),
            Function::Select => {
                let [condition, x, y] = blocks;
                for (((out, &c), &x), &y) in out.iter_mut().zip(condition).zip(x).zip(y) {
                    *out = round(f64::from(if c != 0.0 { x } else { y }));
                }
            }
        }
    }
}

/// The quotient; of zero by zero infinity, as there is no NaN.
#[inline(always)]
fn divided(x: f64, y: f64) -> f64 {
    if y == 0.0 { f64::INFINITY.copysign(x) * 1f64.copysign(y) } else { x / y }
}
