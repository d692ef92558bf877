//! Attention over the tokens of a pass: what each of them may see, rotary positions, heads.

use super::{CacheShape, Graph, embedding};
use crate::error::{Error, Result};
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use anemone_mil::ir::DType;

/// What is added to the scores of keys that may not be seen: its exponential is 0 in fp32, and it is far enough
/// from fp16's largest number for a score to be added.
const UNSEEN: f64 = -1e4;

/// One way of tokens through a transformer: either all tokens of a run at once, each seeing itself and those
/// before it, or one token after others whose keys and values are kept in caches.
pub struct Pass {
    pub(super) place: Place,
    /// Added to the scores: `[1, 1, S, S]`, or `[1, 1, 1, n_positions + 1]` for one token.
    mask: Value,
    /// Keys and values of the tokens before, for each attention layer in order.
    caches: Vec<(Value, Value)>,
    /// Keys and values of this pass, for each attention layer so far, where there are caches.
    columns: Vec<(Value, Value)>,
    /// Cosines and sines of [`rope`], and the base and head size they are of.
    rotation: Option<(f32, usize, Value, Value)>,
}

/// Where the tokens of a pass stand.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// At the first positions.
    First(usize),
    /// At one position, int32 `[1, 1]`, of so many.
    At { position: Value, n_positions: usize },
}

impl Pass {
    /// All `n_tokens` tokens of each run at once.
    pub fn causal(g: &mut Graph, n_tokens: usize) -> Pass {
        let seen = |i: usize| if i % n_tokens <= i / n_tokens { 0.0 } else { UNSEEN };
        let mask = (0..n_tokens * n_tokens).map(seen).collect();
        let mask = Tensor::float(DType::Fp32, &[1, 1, n_tokens, n_tokens], mask);
        let mask = g.named_constant("causal_mask", mask);
        Pass { place: Place::First(n_tokens), mask, caches: Vec::new(), columns: Vec::new(), rotation: None }
    }

    /// One token at `position`, int32 `[1, 1]`, whose predecessors' keys and values lie in the first `position`
    /// columns of the caches; the others do not count.
    pub(super) fn step(
        g: &mut Graph,
        position: Value,
        n_positions: usize,
        caches: Vec<(Value, Value)>,
    ) -> Result<Pass> {
        // The token itself comes last, and is before every position.
        let places = (0..n_positions as i64).chain([-1]).collect();
        let places = Tensor::int(DType::Int32, &[1, 1, 1, n_positions + 1], places);
        let places = g.named_constant("positions", places);
        let scalar = g.reshape(position, &[1, 1, 1, 1])?;
        let seen = g.call("less").arg("x", places).arg("y", scalar).finish()?;
        let number = |x| Tensor::float(DType::Fp32, &[], vec![x]);
        let (zero, unseen) = (g.constant(number(0.0)), g.constant(number(UNSEEN)));
        let mask = g.call("select").arg("cond", seen).arg("a", zero).arg("b", unseen).finish()?;
        Ok(Pass { place: Place::At { position, n_positions }, mask, caches, columns: Vec::new(), rotation: None })
    }

    /// How many positions there must be for its tokens.
    pub(super) fn n_positions(&self) -> usize {
        match self.place {
            Place::First(n) | Place::At { n_positions: n, .. } => n,
        }
    }

    /// The columns of keys and values that this pass adds to the caches, by layer.
    pub(super) fn into_columns(self) -> Vec<(Value, Value)> {
        self.columns
    }

    /// Keys and values of everything that is seen, from those of the pass: `[N, heads, D, S]` both.
    fn with_past(&mut self, g: &mut Graph, k: Value, v: Value) -> Result<(Value, Value)> {
        if matches!(self.place, Place::First(_)) {
            return Ok((k, v));
        }
        let n = self.columns.len();
        let Some(&(keys, values)) = self.caches.get(n) else {
            return Err(Error::config(format!(
                "is attention layer {n}, counted from 0, of a model that says it has {}",
                self.caches.len()
            )));
        };
        self.columns.push((k, v));
        Ok((g.concat(&[keys, k], 3)?, g.concat(&[values, v], 3)?))
    }

    /// Cosines and sines of the angles by which [`rope`] turns, `[1, 1, head_size / 2, S]` both.
    fn rotation(&mut self, g: &mut Graph, theta: f32, head_size: usize) -> Result<(Value, Value)> {
        match self.rotation {
            Some((t, d, cos, sin)) if t == theta && d == head_size => return Ok((cos, sin)),
            _ => {}
        }
        let (n, half) = (self.n_positions(), head_size / 2);
        let angle = |position: usize, pair: usize| {
            position as f64 * f64::from(theta).powf(-((2 * pair) as f64) / head_size as f64)
        };
        let table = |g: &mut Graph, name: &str, f: fn(f64) -> f64| match self.place {
            Place::First(_) => {
                let table = (0..half * n).map(|i| f(angle(i % n, i / n))).collect();
                Ok::<_, Error>(g.named_constant(name, Tensor::float(DType::Fp32, &[1, 1, half, n], table)))
            }
            Place::At { position, .. } => {
                let table = (0..n * half).map(|i| f(angle(i / half, i % half))).collect();
                let table = g.named_constant(name, Tensor::float(DType::Fp32, &[n, half], table));
                let row = embedding::look_up(g, table, position)?;
                Ok(g.reshape(row, &[1, 1, half, 1])?)
            }
        };
        let (cos, sin) = (table(g, "rope_cos", f64::cos)?, table(g, "rope_sin", f64::sin)?);
        self.rotation = Some((theta, head_size, cos, sin));
        Ok((cos, sin))
    }
}

/// How many heads attention has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Of queries.
    pub n_heads: usize,
    /// Of keys and values; as many queries' heads after each other share one.
    pub n_kv_heads: usize,
}

impl Heads {
    /// The channels of a head, in a model whose queries have `width` channels.
    ///
    /// # Errors
    ///
    /// If the heads do not divide the channels, or those of keys and values not those of queries.
    pub fn size(self, width: usize) -> Result<usize> {
        let Heads { n_heads, n_kv_heads } = self;
        let divide = n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads) && width.is_multiple_of(n_heads);
        match width.checked_div(n_heads) {
            Some(size) if divide && size > 0 => Ok(size),
            _ => Err(Error::config(format!(
                "{n_heads} heads of {width} channels with {n_kv_heads} of keys and values: expected heads that divide \
                 the channels, and heads of keys and values that divide the heads"
            ))),
        }
    }

    /// The cache that `n_layers` attention layers need.
    ///
    /// # Errors
    ///
    /// As [`Heads::size`].
    pub fn cache(self, n_layers: usize, width: usize) -> Result<CacheShape> {
        Ok(CacheShape { n_layers, n_kv_heads: self.n_kv_heads, head_size: self.size(width)? })
    }
}

/// Attention with scaled dot products (Vaswani and others: Attention is all you need, 2017) of queries
/// `[N, n_heads D, 1, S]` over keys and values `[N, n_kv_heads D, 1, S]`, giving `[N, n_heads D, 1, S]`. Each
/// token sees what the pass lets it see.
///
/// # Errors
///
/// If the channels do not fit the heads; the message has the `name`.
pub fn attention(
    g: &mut Graph,
    name: &str,
    q: Value,
    k: Value,
    v: Value,
    heads: Heads,
    pass: &mut Pass,
) -> Result<Value> {
    g.layer(name, |g| {
        let Heads { n_heads, n_kv_heads } = heads;
        let [n, width, _, s] = g.channel_first(q)?;
        let d = heads.size(width)?;
        for (what, x) in [("keys", k), ("values", v)] {
            let (found, expected) = (g.shape(x)?, [n, n_kv_heads * d, 1, s]);
            if found != expected {
                return Err(Error::config(format!(
                    "{what} have shape {found:?}, expected {expected:?} for queries {:?}",
                    g.shape(q)?
                )));
            }
        }
        let k = g.reshape(k, &[n, n_kv_heads, d, s])?;
        let v = g.reshape(v, &[n, n_kv_heads, d, s])?;
        let (mut k, mut v) = pass.with_past(g, k, v)?;
        // Queries that share keys stand on an axis of their own, over which keys and values are broadcast.
        let shared = n_heads / n_kv_heads;
        let mut lead = vec![n, n_heads];
        if shared > 1 {
            let n_seen = g.shape(k)?[3];
            k = g.reshape(k, &[n, n_kv_heads, 1, d, n_seen])?;
            v = g.reshape(v, &[n, n_kv_heads, 1, d, n_seen])?;
            lead = vec![n, n_kv_heads, shared];
        }
        let q = g.scale(q, 1.0 / (d as f64).sqrt())?;
        let q = g.reshape(q, &[&lead[..], &[d, s]].concat())?;
        let scores = g.matmul(q, k, true, false)?;
        // The engine ignores the masks of its own attention, so they are added.
        let scores = g.add(scores, pass.mask)?;
        let shares = g.call("softmax").arg("x", scores).constant("axis", Tensor::i32(-1)).finish()?;
        let out = g.matmul(v, shares, false, true)?;
        Ok(g.reshape(out, &[n, width, 1, s])?)
    })
}

/// Rotary position embedding (Su and others: RoFormer, 2021) of queries or keys `[N, n_heads D, 1, S]`: channels
/// `i` and `i + D / 2` of each head are turned by the angle `position theta^(-2 i / D)`.
///
/// # Errors
///
/// If the heads do not divide the channels, or have an odd number of them.
pub fn rope(g: &mut Graph, name: &str, x: Value, n_heads: usize, theta: f32, pass: &mut Pass) -> Result<Value> {
    g.layer(name, |g| {
        let shape = g.channel_first(x)?;
        let [n, width, _, s] = shape;
        if n_heads == 0 || !width.is_multiple_of(2 * n_heads) {
            let message =
                format!("input has shape {shape:?}: {n_heads} heads of an even size do not divide {width}");
            return Err(Error::config(message));
        }
        let half = width / n_heads / 2;
        let (cos, sin) = pass.rotation(g, theta, 2 * half)?;
        let x = g.reshape(x, &[n, n_heads, 2 * half, s])?;
        let size = [n, n_heads, half, s];
        let (a, b) = (g.slice(x, &[0; 4], &size)?, g.slice(x, &[0, 0, half, 0], &size)?);
        let turned = |g: &mut Graph, [x, y]: [Value; 2], op: &'static str| -> Result<Value> {
            let (x, y) = (g.mul(x, cos)?, g.mul(y, sin)?);
            Ok(g.call(op).arg("x", x).arg("y", y).finish()?)
        };
        let (first, second) = (turned(g, [a, b], "sub")?, turned(g, [b, a], "add")?);
        let joined = g.concat(&[first, second], 2)?;
        Ok(g.reshape(joined, &shape)?)
    })
}
