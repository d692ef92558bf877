//! A stack of linear layers.

use crate::error::{Error, Result};
use crate::nn::{Activation, Graph, Lora, Loss, Model, Outputs, linear};
use crate::params::Init;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Linear layers with an activation between them: `y = W2 f(W1 x)` and deeper.
///
/// The layers are called `fc1`, `fc2`, ...
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mlp {
    /// Channels of the input; 0 for as many as the data has.
    pub inputs: usize,
    /// Channels of each hidden layer.
    pub hidden: Vec<usize>,
    /// Channels of the output; 0 for as many as the data's targets have, or for its number of classes.
    pub outputs: usize,
    /// What stands between the layers.
    pub activation: Activation,
    /// Whether layers add a bias.
    pub bias: bool,
    /// What is minimised.
    pub loss: Loss,
    /// The first weights: one entry for all layers, or one for each.
    pub init: Vec<Init>,
    /// Trains adapters of the layers alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

impl Default for Mlp {
    fn default() -> Mlp {
        Mlp {
            inputs: 0,
            hidden: vec![128],
            outputs: 0,
            activation: Activation::Relu,
            bias: false,
            loss: Loss::Mse,
            init: vec![Init::Uniform { bound: None }],
            lora: None,
        }
    }
}

impl Model for Mlp {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let sizes: Vec<usize> = self.hidden.iter().copied().chain([self.outputs]).collect();
        let shape = g.shape(x)?;
        if shape.get(1) != Some(&self.inputs) {
            let message = format!("`model.inputs` is {}, the input has shape {shape:?}", self.inputs);
            return Err(Error::config(message + ": expected its channels"));
        }
        if self.init.len() != 1 && self.init.len() != sizes.len() {
            let message = format!("`model.init` has {} entries, expected 1 or {}", self.init.len(), sizes.len());
            return Err(Error::config(message));
        }
        if let Some(lora) = &self.lora {
            g.adapt(lora);
        }
        let mut y = x;
        for (i, &size) in sizes.iter().enumerate() {
            let init = self.init.get(i).unwrap_or(&self.init[0]);
            y = linear(g, &format!("fc{}", i + 1), y, size, self.bias, *init)?;
            if i + 1 < sizes.len() {
                y = self.activation.apply(g, y)?;
            }
        }
        Ok(Outputs { loss: self.loss.of(g, y, target)?, prediction: y })
    }
}
