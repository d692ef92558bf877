//! Random numbers, the same in every run.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), begun
//! with the seed as its state; elements are drawn in row-major order. Core ML draws other numbers, and with a
//! negative or absent seed others in each run: here -1, the default, is a seed like any other, so that a program
//! with random numbers can be tested.

use super::activation::softmax;
use super::elementwise::X_FLOAT;
use super::shape::dim;
use super::*;
use crate::ir::{Dim, TensorType};
use std::f64::consts::TAU;

const SHAPE: Param = Param::new("shape", INT32).group(' ');
const SEED: Param = Param::constant("seed", INT32).or(Const::Int(-1));

/// A constant number of the output's element type.
const fn number(name: &'static str, default: f64) -> Param {
    Param::constant(name, FLOAT).group('T').or(Const::Float(default))
}

/// The table row of a distribution: `(name, its two parameters, |args, generator| the next element)`.
macro_rules! distribution {
    ($name:literal, $params:expr, $next:expr) => {
        OpDef {
            name: $name,
            since: Opset::Ios13,
            params: $params,
            infer: |args| Ok(vec![drawn_type(args)?.into()]),
            eval: Eval::By(|args| draw(args, $next)),
            vjp: None,
        }
    };
}

pub(super) const OPS: &[OpDef] = &[
    // 1 with probability `prob`, else 0.
    distribution!("random_bernoulli", &[SHAPE, number("prob", 0.5), SEED], |args| {
        let prob = args.float("prob")?;
        Ok(Box::new(move |g| f64::from(u8::from(g.uniform() < prob))))
    }),
    OpDef {
        name: "random_categorical",
        since: Opset::Ios13,
        params: &[
            X_FLOAT,
            Param::constant("mode", STRING).or(Const::Str("logits")),
            Param::constant("size", INT32).or(Const::Int(1)),
            SEED,
        ],
        infer: categorical_type,
        eval: Eval::By(categorical_eval),
        vjp: None,
    },
    // By Box and Muller's transform, of two uniform numbers each.
    distribution!("random_normal", &[SHAPE, number("mean", 0.0), number("stddev", 1.0), SEED], |args| {
        let (mean, deviation) = (args.float("mean")?, args.float("stddev")?);
        Ok(Box::new(move |g| {
            let radius = (-2.0 * (1.0 - g.uniform()).ln()).sqrt();
            mean + deviation * radius * (TAU * g.uniform()).cos()
        }))
    }),
    // From `low` to `high`, which is reached only where a number just below it rounds to it.
    distribution!("random_uniform", &[SHAPE, number("low", 0.0), number("high", 1.0), SEED], |args| {
        let (low, high) = (args.float("low")?, args.float("high")?);
        Ok(Box::new(move |g| low + (high - low) * g.uniform()))
    }),
];

/// SplitMix64.
struct Generator(u64);

impl Generator {
    fn new(args: &Args<'_>) -> OpResult<Generator> {
        Ok(Generator(args.int("seed")? as u64))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The upper 53 bits as a number from 0 to below 1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Gives the next element.
type Next = Box<dyn Fn(&mut Generator) -> f64>;

fn drawn_type(args: &Args<'_>) -> OpResult<TensorType> {
    let shape = match args.optional("shape").and_then(|t| t.ints()) {
        Some(sizes) => sizes.iter().map(|&d| dim("shape", d)).collect::<OpResult<_>>()?,
        None => match args.shape("shape")? {
            [Dim::Fixed(rank @ 0..=16)] => vec![Dim::Any; *rank as usize],
            _ => return Err(OpError::arg("shape", "must be a vector of known length")),
        },
    };
    // The element type is that of the distribution's parameters, the one group there is.
    let typed = args.def.params.iter().find(|p| p.group == 'T' && args.has(p.name));
    Ok(TensorType { dtype: typed.map_or(Ok(DType::Fp32), |p| args.dtype(p.name))?, shape })
}

fn draw(args: &Args<'_>, next: fn(&Args<'_>) -> OpResult<Next>) -> OpResult<Vec<Value>> {
    let ty = drawn_type(args)?;
    let (shape, next) = (ty.fixed_shape().unwrap_or_default(), next(args)?);
    let mut generator = Generator::new(args)?;
    let out = (0..shape.iter().product()).map(|_| next(&mut generator)).collect();
    Ok(vec![Tensor::float(ty.dtype, &shape, out).into()])
}

fn categorical_type(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let x = args.ty("x")?;
    let Some((_, lead)) = x.shape.split_last() else {
        return Err(OpError::arg("x", format!("has type {x}, expected rank 1 or more")));
    };
    let mode = args.str("mode")?;
    if !["logits", "probs"].contains(&mode) {
        return Err(OpError::arg("mode", format!("is `{mode}`, expected `logits` or `probs`")));
    }
    let mut shape = lead.to_vec();
    shape.push(dim("size", args.int("size")?)?);
    Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
}

/// For each row of `x`, `size` indices, drawn with the row's probabilities; as numbers of the type of `x`.
fn categorical_eval(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (x, size) = (args.tensor("x")?, args.int("size")? as usize);
    let weights = if args.str("mode")? == "logits" { softmax(x, x.rank() - 1) } else { x.to_f64s() };
    let n = x.shape()[x.rank() - 1];
    let mut shape = x.shape().to_vec();
    shape[x.rank() - 1] = size;
    let rows: usize = x.shape()[..x.rank() - 1].iter().product();
    if n == 0 && rows * size > 0 {
        return Err(OpError::arg("x", format!("has type {}, with nothing to draw from", x.ty())));
    }
    let mut generator = Generator::new(args)?;
    let mut out = Vec::with_capacity(rows * size);
    for row in weights.chunks(n.max(1)) {
        let total: f64 = row.iter().sum();
        for _ in 0..size {
            let mut left = generator.uniform() * total;
            let hit = row.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            // Rounding may leave a little: that belongs to the last one that can be drawn.
            let last = || row.iter().rposition(|&w| w > 0.0).unwrap_or(0);
            out.push(hit.unwrap_or_else(last) as f64);
        }
    }
    Ok(vec![Tensor::float(x.dtype(), &shape, out).into()])
}
