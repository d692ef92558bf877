//! Activation functions.

use super::{Graph, linear};
use crate::error::Result;
use crate::params::Init;
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An activation function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// GELU with a hyperbolic tangent in place of the error function, as GPT-2 has it.
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x`.
    None,
}

impl Activation {
    /// Applies it.
    ///
    /// # Errors
    ///
    /// If `x` is no tensor of floating-point numbers.
    pub fn apply(self, g: &mut Graph, x: Value) -> Result<Value> {
        let (op, mode) = match self {
            Activation::Relu => ("relu", None),
            Activation::Sigmoid => ("sigmoid", None),
            Activation::Tanh => ("tanh", None),
            Activation::Gelu => ("gelu", Some("EXACT")),
            Activation::GeluTanh => ("gelu", Some("TANH_APPROXIMATION")),
            Activation::Silu => ("silu", None),
            Activation::None => return Ok(x),
        };
        let call = g.call(op).arg("x", x);
        Ok(match mode {
            Some(mode) => call.constant("mode", Tensor::string(mode)),
            None => call,
        }
        .finish()?)
    }
}

/// `W_down (silu(W_gate x) * W_up x)` (Shazeer: GLU variants improve transformer, 2020) over the channels of `x`
/// `[N, C, 1, S]`, giving the same shape. Declares the linear layers `NAME.gate_proj` and `NAME.up_proj` to
/// `n_hidden` channels, and `NAME.down_proj`, which begins with the weights `out`.
///
/// # Errors
///
/// As [`linear`].
pub fn swiglu(g: &mut Graph, name: &str, x: Value, n_hidden: usize, init: Init, out: Init) -> Result<Value> {
    let n_channels = g.layer(name, |g| Ok(g.channel_first(x)?[1]))?;
    let gate = linear(g, &format!("{name}.gate_proj"), x, n_hidden, false, init)?;
    let gate = Activation::Silu.apply(g, gate)?;
    let up = linear(g, &format!("{name}.up_proj"), x, n_hidden, false, init)?;
    let hidden = g.mul(gate, up)?;
    linear(g, &format!("{name}.down_proj"), hidden, n_channels, false, out)
}
