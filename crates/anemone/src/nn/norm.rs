//! Normalization over channels.

use super::Graph;
use crate::error::Result;
use crate::params::Init;
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use anemone_mil::ir::DType;

/// `w (x - mean) / sqrt(variance + epsilon) (+ b)`, mean and variance taken over the channels of `x`
/// `[N, C, 1, S]` at each position. Declares `NAME.weight` `[1, C, 1, 1]` and, with a bias, `NAME.bias`.
///
/// # Errors
///
/// If `x` is not of rank 4 or the name is taken.
pub fn layer_norm(g: &mut Graph, name: &str, x: Value, epsilon: f32, bias: bool) -> Result<Value> {
    g.layer(name, |g| {
        let [_, n_channels, ..] = g.channel_first(x)?;
        let weight = g.channel_param(&format!("{name}.weight"), n_channels, Init::Ones)?;
        // Scale and bias are parameters, which the op takes only as constants.
        let y = g
            .call("layer_norm")
            .arg("x", x)
            .constant("axes", Tensor::i32s(&[1]))
            .constant("epsilon", number(epsilon))
            .finish()?;
        let y = g.mul(y, weight)?;
        if !bias {
            return Ok(y);
        }
        let b = g.channel_param(&format!("{name}.bias"), n_channels, Init::Zeros)?;
        Ok(g.add(y, b)?)
    })
}

/// `w x / sqrt(mean(x^2) + epsilon)` (Zhang, Sennrich: Root mean square layer normalization, 2019), the mean taken
/// over the channels of `x` `[N, C, 1, S]` at each position. Declares `NAME.weight` `[1, C, 1, 1]`.
///
/// # Errors
///
/// If `x` is not of rank 4 or the name is taken.
pub fn rms_norm(g: &mut Graph, name: &str, x: Value, epsilon: f32) -> Result<Value> {
    g.layer(name, |g| {
        let [_, n_channels, ..] = g.channel_first(x)?;
        let weight = g.channel_param(&format!("{name}.weight"), n_channels, Init::Ones)?;
        let squares = g.call("square").arg("x", x).finish()?;
        let mean = g.reduce_mean(squares, &[1], true)?;
        let scale = g.call("rsqrt").arg("x", mean).constant("epsilon", number(epsilon)).finish()?;
        let y = g.mul(x, scale)?;
        Ok(g.mul(y, weight)?)
    })
}

fn number(x: f32) -> Tensor {
    Tensor::float(DType::Fp32, &[], vec![f64::from(x)])
}
