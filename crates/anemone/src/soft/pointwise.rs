//! Element by element work: chains of functions that run block after block, so that what goes from one function to
//! the next never leaves the cache.

use super::fp16;
use super::math::{self, Gelu};
use super::prefetch::prefetch;
use super::reduce::{larger, smaller};
use super::simd::vectorized;
use super::threads;

/// Elements of a block.
pub(super) const BLOCK: usize = 512;
/// Elements of a chain from which on its blocks are fetched ahead: fewer lie in the caches of a core, where that
/// would take longer than it saves.
const LEAST_AHEAD: usize = 1 << 14;
/// The most operands, functions and results of a chain.
pub(super) const MOST_LOADS: usize = 16;
pub(super) const MOST_OPS: usize = 32;
pub(super) const MOST_STORES: usize = 8;

/// A chain of functions over `n` elements.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) n: usize,
    /// How the elements of each operand are found.
    pub(super) loads: Vec<Load>,
    pub(super) ops: Vec<Op>,
    /// The function whose results each output takes.
    pub(super) stores: Vec<usize>,
}

/// How the elements of an operand are found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Load {
    /// One for each element of the result.
    Dense,
    /// One for all.
    Scalar,
    /// By steps along the axes of the result.
    Strided { sizes: Vec<usize>, steps: Vec<usize> },
}

/// Where a function takes its argument from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Load(usize),
    Op(usize),
    Constant(f32),
}

impl PartialEq for Source {
    /// Of constants by their bits: by 0 or by -0 makes a difference.
    fn eq(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Load(x), Source::Load(y)) | (Source::Op(x), Source::Op(y)) => x == y,
            (Source::Constant(x), Source::Constant(y)) => x.to_bits() == y.to_bits(),
            _ => false,
        }
    }
}

/// One function.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) f: Function,
    pub(super) args: [Source; 3],
    /// Whether the result is rounded to fp16.
    pub(super) fp16: bool,
    /// The output that takes the result without anybody else reading it, if there is one.
    pub(super) straight: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    // Of one number.
    Identity,
    Abs,
    Ceil,
    Clip(f32, f32),
    Elu(f32),
    Erf,
    Exp,
    Floor,
    Gelu(Gelu),
    Inverse(f32),
    Leaky(f32),
    Linear(f32, f32),
    Log(f32),
    Not,
    Relu,
    Round,
    Rsqrt(f32),
    Sigmoid,
    Sign,
    Silu,
    Softplus,
    Softsign,
    Sqrt,
    Square,
    Tanh,
    Threshold(f32),
    ToBool,
    // Of two.
    Add,
    And,
    Div,
    Equal,
    FloorDiv,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Max,
    Min,
    Mul,
    NotEqual,
    Or,
    Sub,
    Xor,
    // Of three.
    Select,
}

/// An argument of a function in one block.
#[derive(Clone, Copy)]
enum Block<'a> {
    Slice(&'a [f32]),
    Splat(f32),
}

impl Load {
    /// Of an operand with these steps along the axes of `shape`; axes that can be walked as one are joined.
    pub(super) fn new(shape: &[usize], steps: &[usize]) -> Load {
        let (mut sizes, mut joined): (Vec<usize>, Vec<usize>) = (vec![], vec![]);
        for (&d, &s) in shape.iter().zip(steps) {
            match (sizes.last_mut(), joined.last_mut()) {
                _ if d == 1 => {}
                (Some(size), Some(last)) if *last == s * d => (*size, *last) = (*size * d, s),
                _ => {
                    sizes.push(d);
                    joined.push(s);
                }
            }
        }
        match joined[..] {
            [] | [1] => Load::Dense,
            [0] => Load::Scalar,
            _ => Load::Strided { sizes, steps: joined },
        }
    }

    /// Writes the elements from number `first` on.
    #[inline(always)]
    fn spread(sizes: &[usize], steps: &[usize], x: &[f32], first: usize, out: &mut [f32]) {
        let (Some((&n, outer)), Some((&step, steps))) = (sizes.split_last(), steps.split_last()) else { return };
        let (mut row, mut column) = (first / n, first % n);
        let mut done = 0;
        // Where the row begins, and how many after it follow by the step of the next axis: dividing takes as long
        // as copying many numbers.
        let (mut from, mut n_left) = (0, 0);
        let row_step = steps.last().copied().unwrap_or(0);
        while done < out.len() {
            if n_left == 0 {
                from = 0;
                let mut rest = row;
                for (size, step) in outer.iter().zip(steps).rev() {
                    from += rest % size * step;
                    rest /= size;
                }
                n_left = outer.last().map_or(1, |size| size - row % size);
            }
            let length = (n - column).min(out.len() - done);
            let out = &mut out[done..done + length];
            if step == 0 {
                out.fill(x[from]);
            } else {
                out.copy_from_slice(&x[from + column..][..length]);
            }
            done += length;
            (row, column, from, n_left) = (row + 1, 0, from + row_step, n_left - 1);
        }
    }
}

impl Chain {
    /// Room for the results of a block.
    pub(super) fn n_scratch(&self) -> usize {
        (self.loads.len() + self.ops.len()) * BLOCK
    }

    /// Runs it, over threads if that is worth it. `outs` has as many elements for each output as the chain has.
    pub(super) fn run(&self, loads: &[&[f32]; MOST_LOADS], outs: [&mut [f32]; MOST_STORES]) {
        let work = self.n * self.ops.iter().map(|op| op.f.work()).sum::<usize>();
        let parts = threads::n_parts(work);
        match threads::pool() {
            Some(pool) if parts > 1 => {
                // Whole blocks, but for the last part.
                let each = self.n.div_ceil(parts).next_multiple_of(BLOCK);
                pool.install(|| self.split(loads, outs, 0, each));
            }
            _ => self.part(loads, outs, 0),
        }
    }

    fn split(&self, loads: &[&[f32]; MOST_LOADS], outs: [&mut [f32]; MOST_STORES], first: usize, each: usize) {
        if outs.first().is_none_or(|o| o.len() <= each) {
            return self.part(loads, outs, first);
        }
        let mut rest: [&mut [f32]; MOST_STORES] = Default::default();
        let mut here: [&mut [f32]; MOST_STORES] = Default::default();
        for ((out, here), rest) in outs.into_iter().zip(&mut here).zip(&mut rest) {
            (*here, *rest) = out.split_at_mut(each.min(out.len()));
        }
        rayon::join(|| self.part(loads, here, first), || self.split(loads, rest, first + each, each));
    }

    /// The elements from number `first` on, as many as the outputs have.
    fn part(&self, loads: &[&[f32]; MOST_LOADS], outs: [&mut [f32]; MOST_STORES], first: usize) {
        let n = outs.first().map_or(0, |o| o.len());
        threads::with_scratch(self.n_scratch(), |scratch| {
            vectorized!('a, |simd| (
                chain: &'a Chain = self,
                loads: &'a [&'a [f32]; MOST_LOADS] = loads,
                outs: [&'a mut [f32]; MOST_STORES] = outs,
                first: usize = first,
                n: usize = n,
                scratch: &'a mut [f32] = scratch,
            ) {
                let mut outs = outs;
                for from in (0..n).step_by(BLOCK) {
                    chain.block(simd, loads, &mut outs, first, from, BLOCK.min(n - from), scratch);
                }
            });
        });
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // What a chain works on, block by block.
    fn block<S: pulp::Simd>(
        &self,
        simd: S,
        loads: &[&[f32]; MOST_LOADS],
        outs: &mut [&mut [f32]; MOST_STORES],
        first: usize,
        from: usize,
        len: usize,
        scratch: &mut [f32],
    ) {
        let n_loads = self.loads.len();
        let is_large = self.n >= LEAST_AHEAD;
        for (i, (load, x)) in self.loads.iter().zip(loads).enumerate() {
            match load {
                Load::Strided { sizes, steps } => {
                    Load::spread(sizes, steps, x, first + from, &mut scratch[i * BLOCK..][..len]);
                }
                Load::Dense if is_large => ahead(x, first + from + BLOCK),
                Load::Dense | Load::Scalar => {}
            }
        }
        if is_large {
            for out in &outs[..self.stores.len()] {
                ahead(out, from + BLOCK);
            }
        }
        for (i, op) in self.ops.iter().enumerate() {
            let (before, rest) = scratch.split_at_mut((n_loads + i) * BLOCK);
            let mut args = [Block::Splat(0.0); 3];
            for (arg, source) in args.iter_mut().zip(op.args) {
                *arg = match source {
                    Source::Constant(c) => Block::Splat(c),
                    Source::Op(i) => Block::Slice(&before[(n_loads + i) * BLOCK..][..len]),
                    Source::Load(i) => match self.loads[i] {
                        Load::Dense => Block::Slice(&loads[i][first + from..][..len]),
                        Load::Scalar => Block::Splat(loads[i][0]),
                        Load::Strided { .. } => Block::Slice(&before[i * BLOCK..][..len]),
                    },
                };
            }
            let out = match op.straight {
                Some(store) => &mut outs[store][from..][..len],
                None => &mut rest[..len],
            };
            op.f.run(args, out);
            if op.fp16 {
                fp16::round(simd, out);
            }
        }
        for (&op, out) in self.stores.iter().zip(outs) {
            if self.ops[op].straight.is_none() {
                out[from..][..len].copy_from_slice(&scratch[(n_loads + op) * BLOCK..][..len]);
            }
        }
    }
}

/// Has the block that begins there fetched.
#[inline(always)]
fn ahead(x: &[f32], from: usize) {
    prefetch(&x[from.min(x.len())..x.len().min(from + BLOCK)]);
}

// Macros, not functions that take closures: nothing makes the compiler inline those.

/// `out = f(x)`.
macro_rules! map {
    ($x:expr, $out:expr, |$a:ident| $f:expr) => {
        match $x {
            Block::Slice(x) => {
                for (out, &$a) in $out.iter_mut().zip(x) {
                    *out = $f;
                }
            }
            Block::Splat($a) => $out.fill($f),
        }
    };
}

/// `out = f(x, y)`.
macro_rules! zip {
    ($x:expr, $y:expr, $out:expr, |$a:ident, $b:ident| $f:expr) => {
        match ($x, $y) {
            (Block::Slice(x), Block::Slice(y)) => {
                for ((out, &$a), &$b) in $out.iter_mut().zip(x).zip(y) {
                    *out = $f;
                }
            }
            (Block::Slice(x), Block::Splat($b)) => {
                for (out, &$a) in $out.iter_mut().zip(x) {
                    *out = $f;
                }
            }
            (Block::Splat($a), Block::Slice(y)) => {
                for (out, &$b) in $out.iter_mut().zip(y) {
                    *out = $f;
                }
            }
            (Block::Splat($a), Block::Splat($b)) => $out.fill($f),
        }
    };
}

/// `a` where the condition holds, else `b`.
#[inline(always)]
fn select(c: Block<'_>, a: Block<'_>, b: Block<'_>, out: &mut [f32]) {
    let c = match c {
        Block::Slice(c) => c,
        Block::Splat(c) => return map!(if c != 0.0 { a } else { b }, out, |x| x),
    };
    let out = out.iter_mut().zip(c);
    match (a, b) {
        (Block::Slice(a), Block::Slice(b)) => {
            for (((out, &c), &a), &b) in out.zip(a).zip(b) {
                *out = if c != 0.0 { a } else { b };
            }
        }
        (Block::Slice(a), Block::Splat(b)) => {
            for ((out, &c), &a) in out.zip(a) {
                *out = if c != 0.0 { a } else { b };
            }
        }
        (Block::Splat(a), Block::Slice(b)) => {
            for ((out, &c), &b) in out.zip(b) {
                *out = if c != 0.0 { a } else { b };
            }
        }
        (Block::Splat(a), Block::Splat(b)) => {
            for (out, &c) in out {
                *out = if c != 0.0 { a } else { b };
            }
        }
    }
}

#[inline(always)]
fn truth(x: bool) -> f32 {
    f32::from(u8::from(x))
}

impl Function {
    /// Whether it is the same function, the bits of its parameters too.
    pub(super) fn is(self, other: Function) -> bool {
        self == other && self.parameters().map(f32::to_bits) == other.parameters().map(f32::to_bits)
    }

    fn parameters(self) -> [f32; 2] {
        match self {
            Function::Clip(a, b) | Function::Linear(a, b) => [a, b],
            Function::Elu(a)
            | Function::Inverse(a)
            | Function::Leaky(a)
            | Function::Log(a)
            | Function::Rsqrt(a)
            | Function::Threshold(a) => [a, 0.0],
            _ => [0.0; 2],
        }
    }

    /// About how many additions it takes as long as.
    fn work(self) -> usize {
        match self {
            Function::Elu(_)
            | Function::Erf
            | Function::Exp
            | Function::Gelu(_)
            | Function::Log(_)
            | Function::Sigmoid
            | Function::Silu
            | Function::Softplus
            | Function::Tanh => 8,
            _ => 1,
        }
    }

    #[inline(always)]
    fn run(self, [x, y, z]: [Block<'_>; 3], out: &mut [f32]) {
        match self {
            Function::Identity => map!(x, out, |x| x),
            Function::Abs => map!(x, out, |x| f32::abs(x)),
            Function::Ceil => map!(x, out, |x| f32::ceil(x)),
            Function::Clip(low, high) => map!(x, out, |x| smaller(larger(x, low), high)),
            Function::Elu(alpha) => map!(x, out, |x| if x < 0.0 { alpha * math::exp_m1(x) } else { x }),
            Function::Erf => map!(x, out, |x| math::erf(x)),
            Function::Exp => map!(x, out, |x| math::exp(x)),
            Function::Floor => map!(x, out, |x| f32::floor(x)),
            Function::Gelu(mode) => match mode {
                Gelu::Exact => map!(x, out, |x| math::gelu(Gelu::Exact, x)),
                Gelu::Tanh => map!(x, out, |x| math::gelu(Gelu::Tanh, x)),
                Gelu::Sigmoid => map!(x, out, |x| math::gelu(Gelu::Sigmoid, x)),
            },
            Function::Inverse(epsilon) => map!(x, out, |x| 1.0 / (x + epsilon)),
            Function::Leaky(alpha) => map!(x, out, |x| if x < 0.0 { alpha * x } else { x }),
            Function::Linear(alpha, beta) => map!(x, out, |x| alpha * x + beta),
            Function::Log(epsilon) => map!(x, out, |x| math::ln(x + epsilon)),
            Function::Not => map!(x, out, |x| 1.0 - x),
            Function::Relu => map!(x, out, |x| larger(x, 0.0)),
            Function::Round => map!(x, out, |x| f32::round_ties_even(x)),
            Function::Rsqrt(epsilon) => map!(x, out, |x| 1.0 / (x + epsilon).sqrt()),
            Function::Sigmoid => map!(x, out, |x| math::sigmoid(x)),
            Function::Sign => map!(x, out, |x| if x == 0.0 || x.is_nan() { x } else { 1f32.copysign(x) }),
            Function::Silu => map!(x, out, |x| x * math::sigmoid(x)),
            Function::Softplus => map!(x, out, |x| math::softplus(x)),
            Function::Softsign => map!(x, out, |x| x / (1.0 + x.abs())),
            Function::Sqrt => map!(x, out, |x| f32::sqrt(x)),
            Function::Square => map!(x, out, |x| x * x),
            Function::Tanh => map!(x, out, |x| math::tanh(x)),
            Function::Threshold(alpha) => map!(x, out, |x| larger(x, alpha)),
            Function::ToBool => map!(x, out, |x| truth(x != 0.0)),
            Function::Add => zip!(x, y, out, |x, y| x + y),
            Function::And => zip!(x, y, out, |x, y| x * y),
            Function::Div => zip!(x, y, out, |x, y| x / y),
            Function::Equal => zip!(x, y, out, |x, y| truth(x == y)),
            // In f32 a quotient just below a whole number may be rounded to it.
            Function::FloorDiv => zip!(x, y, out, |x, y| (f64::from(x) / f64::from(y)).floor() as f32),
            Function::Greater => zip!(x, y, out, |x, y| truth(x > y)),
            Function::GreaterEqual => zip!(x, y, out, |x, y| truth(x >= y)),
            Function::Less => zip!(x, y, out, |x, y| truth(x < y)),
            Function::LessEqual => zip!(x, y, out, |x, y| truth(x <= y)),
            Function::Max => zip!(x, y, out, |x, y| larger(x, y)),
            Function::Min => zip!(x, y, out, |x, y| smaller(x, y)),
            Function::Mul => zip!(x, y, out, |x, y| x * y),
            Function::NotEqual => zip!(x, y, out, |x, y| truth(x != y)),
            Function::Or => zip!(x, y, out, |x, y| larger(x, y)),
            Function::Sub => zip!(x, y, out, |x, y| x - y),
            Function::Xor => zip!(x, y, out, |x, y| truth(x != y)),
            Function::Select => select(x, y, z, out),
        }
    }
}
