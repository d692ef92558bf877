//! Linear layers over channels, and low-rank adapters of them.

use super::Graph;
use crate::error::{Error, Result};
use crate::params::{Init, ParamSpec};
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `y = W x (+ b)` over the channels of `x` `[N, I, 1, S]`, giving `[N, n_out, 1, S]`. Declares `NAME.weight`
/// `[n_out, I, 1, 1]` and, with a bias, `NAME.bias` `[1, n_out, 1, 1]`; where the graph is
/// [adapted](Graph::adapt), the adapter's as well.
///
/// # Errors
///
/// If `x` is not of rank 4 or the name is taken.
pub fn linear(g: &mut Graph, name: &str, x: Value, n_out: usize, bias: bool, init: Init) -> Result<Value> {
    g.layer(name, |g| {
        let [_, n_in, ..] = g.channel_first(x)?;
        if n_out == 0 {
            return Err(Error::config("has 0 output channels, expected 1 or more"));
        }
        let weight = g.param(&format!("{name}.weight"), &[n_out, n_in, 1, 1], init)?;
        let mut y = product(g, name, x, weight)?;
        if let Some(lora) = g.lora.clone().filter(|lora| lora.means(name)) {
            let change = lora.change(g, name, x, n_out)?;
            y = g.add(y, change)?;
        }
        if bias {
            // The engine's convolution takes no bias; it is added.
            let b = g.channel_param(&format!("{name}.bias"), n_out, Init::Zeros)?;
            y = g.add(y, b)?;
        }
        Ok(y)
    })
}

/// The product of `weight` `[O, I, 1, 1]` with the channels of `x`. The call is named after its layer, and so are
/// the programs cut from the graph.
pub(super) fn product(g: &mut Graph, name: &str, x: Value, weight: Value) -> Result<Value> {
    Ok(g.call("conv")
        .named(&name.replace('.', "_"))
        .arg("x", x)
        .arg("weight", weight)
        .constant("strides", Tensor::i32s(&[1, 1]))
        .constant("pad", Tensor::i32s(&[0; 4]))
        .constant("dilations", Tensor::i32s(&[1, 1]))
        .finish()?)
}

/// Low-rank adapters (Hu and others: LoRA, 2021): linear layers compute `W x + (alpha / rank) B A x` with `W`
/// frozen.
///
/// A layer `NAME` declares `NAME.lora_A.weight` `[rank, I, 1, 1]`, at first uniform as of any linear layer, and
/// `NAME.lora_B.weight` `[O, rank, 1, 1]`, at first 0, so that training begins with what the frozen weights
/// compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rows of `A`.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// What the change is multiplied by, before it is divided by the rank.
    pub alpha: f32,
    /// The ends of the names of the layers that are adapted, such as `q_proj`; none for all linear layers.
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Lora {
        Lora { rank: 8, alpha: 16.0, targets: Vec::new() }
    }
}

impl Lora {
    fn means(&self, name: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|end| name.ends_with(end))
    }

    /// `(alpha / rank) B A x`.
    fn change(&self, g: &mut Graph, name: &str, x: Value, n_out: usize) -> Result<Value> {
        if self.rank == 0 {
            return Err(Error::config("has an adapter of rank 0, expected 1 or more"));
        }
        let [_, n_in, ..] = g.channel_first(x)?;
        let mut y = x;
        for (part, shape, init) in [
            ("lora_A", [self.rank, n_in, 1, 1], Init::Uniform { bound: None }),
            ("lora_B", [n_out, self.rank, 1, 1], Init::Zeros),
        ] {
            let name = format!("{name}.{part}");
            let weight = g.declare(ParamSpec::new(&format!("{name}.weight"), &shape, init))?;
            y = product(g, &name, y, weight)?;
        }
        Ok(g.scale(y, f64::from(self.alpha) / self.rank as f64)?)
    }
}
