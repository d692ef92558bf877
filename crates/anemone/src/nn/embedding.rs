//! Tables that tokens and positions look their vectors up in, and the classifier that uses the same table.

use super::attention::Place;
use super::{Graph, Pass, linear};
use crate::error::{Error, Result};
use crate::params::Init;
use anemone_mil::Tensor;
use anemone_mil::builder::Value;

/// The vectors of `tokens` int32 `[N, S]`, channel-first: `[N, n_channels, 1, S]`. Declares the table
/// `NAME.weight` `[n_tokens, n_channels]` and gives it too, for [`tied_classifier`].
///
/// # Errors
///
/// If `tokens` is no such tensor or the name is taken.
pub fn embedding(
    g: &mut Graph,
    name: &str,
    tokens: Value,
    n_tokens: usize,
    n_channels: usize,
    init: Init,
) -> Result<(Value, Value)> {
    g.layer(name, |g| {
        let [n, s] = g.whole_numbers(tokens, "input")?;
        if n_tokens == 0 || n_channels == 0 {
            let message = format!("has {n_tokens} tokens of {n_channels} channels, expected 1 or more of each");
            return Err(Error::config(message));
        }
        let table = g.param(&format!("{name}.weight"), &[n_tokens, n_channels], init)?;
        let rows = look_up(g, table, tokens)?;
        let columns = g.transpose(rows, &[0, 2, 1])?;
        Ok((g.reshape(columns, &[n, n_channels, 1, s])?, table))
    })
}

/// A learned vector for each position of the pass, to be added to the tokens': `[1, n_channels, 1, S]`. Declares
/// the table `NAME.weight` `[n_positions, n_channels]`.
///
/// # Errors
///
/// If the pass has more positions than the table, or the name is taken.
pub fn positions(
    g: &mut Graph,
    name: &str,
    pass: &Pass,
    n_positions: usize,
    n_channels: usize,
    init: Init,
) -> Result<Value> {
    g.layer(name, |g| {
        let needed = pass.n_positions();
        if needed > n_positions {
            let message = format!("has {n_positions} positions, the input {needed}: expected as many or more");
            return Err(Error::config(message));
        }
        let table = g.param(&format!("{name}.weight"), &[n_positions, n_channels], init)?;
        let (rows, n) = match pass.place {
            Place::First(n) => (g.slice(table, &[0, 0], &[n, n_channels])?, n),
            Place::At { position, .. } => (look_up(g, table, position)?, 1),
        };
        let rows = g.reshape(rows, &[n, n_channels])?;
        let columns = g.transpose(rows, &[1, 0])?;
        Ok(g.reshape(columns, &[1, n_channels, 1, n])?)
    })
}

/// The logits `[N, n_tokens, 1, S]` of `x` `[N, C, 1, S]`: its products with the vectors of the table
/// `[n_tokens, C]` that an [`embedding`] has declared.
///
/// # Errors
///
/// If the channels of `x` are not those of the table.
pub fn tied_classifier(g: &mut Graph, name: &str, x: Value, table: Value) -> Result<Value> {
    g.layer(name, |g| {
        let shape = g.shape(table)?;
        let [n_tokens, n_channels] = shape[..] else {
            return Err(Error::config(format!("table has shape {shape:?}, expected [n_tokens, C]")));
        };
        let weight = g.reshape(table, &[n_tokens, n_channels, 1, 1])?;
        linear::product(g, name, x, weight)
    })
}

/// The rows of `table` at `indices`.
pub(super) fn look_up(g: &mut Graph, table: Value, indices: Value) -> Result<Value> {
    Ok(g.call("gather").arg("x", table).arg("indices", indices).constant("axis", Tensor::i32(0)).finish()?)
}
