//! Layers over the program builder, and the graph that collects what they declare.

use crate::error::{Error, Result};
use crate::params::{Init, ParamSpec};
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{DType, Program, TensorType, Version};
use serde::{Deserialize, Serialize};
use std::ops::{Deref, DerefMut};

/// A training computation under construction: a program builder that also knows which inputs are parameters,
/// which are data, and which outputs are the loss and the prediction. Everything in it is fp32; what runs in fp16
/// is decided when it is cut into programs for a device.
pub struct Graph {
    builder: Builder,
    params: Vec<(ParamSpec, Value)>,
}

impl Deref for Graph {
    type Target = Builder;
    fn deref(&self) -> &Builder {
        &self.builder
    }
}

impl DerefMut for Graph {
    fn deref_mut(&mut self) -> &mut Builder {
        &mut self.builder
    }
}

/// The name of the graph's data input.
pub const INPUT: &str = "x";
/// The name of the graph's target input.
pub const TARGET: &str = "target";

/// What a model gives back.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// A single number.
    pub loss: Value,
    /// What the model says: in the shape of the target, or for a target of classes the logits `[N, classes, ..]`.
    pub prediction: Value,
}

/// A finished graph.
#[derive(Clone, Debug)]
pub struct Built {
    /// From [`INPUT`], [`TARGET`] and the parameters to loss and prediction, in this order; all of it fp32 but for an
    /// input of tokens and a target of classes, which are int32.
    pub program: Program,
    /// The parameters with the names of their inputs.
    pub params: Vec<(ParamSpec, String)>,
    /// The name of the loss.
    pub loss: String,
}

/// A model: given its inputs, what it computes.
pub trait Model {
    /// Declares parameters and computes, for the inputs `x` and `target` that the batch declares.
    ///
    /// # Errors
    ///
    /// If shapes do not fit; the message names the layer.
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs>;
}

impl Graph {
    /// The graph of a model on batches of these types.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, or a name is taken.
    pub fn build(model: &dyn Model, x: TensorType, target: TensorType) -> Result<Built> {
        let mut g = Graph { builder: Builder::new(Version::V1_3), params: Vec::new() };
        let x = g.input(INPUT, x)?;
        let target = g.input(TARGET, target)?;
        let out = model.forward(&mut g, x, target)?;
        let loss = g.name(out.loss).to_string();
        let params = g.params.iter().map(|(spec, v)| (spec.clone(), g.builder.name(*v).to_string())).collect();
        Ok(Built { program: g.builder.finish(&[out.loss, out.prediction])?, params, loss })
    }

    /// Declares a parameter.
    ///
    /// # Errors
    ///
    /// If the name is taken or is none: names are letters, digits, `_` and `.`.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Value> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c)) {
            return Err(Error::config(format!("parameter `{name}`: expected letters, digits, `_` and `.`")));
        }
        // A program's names have no dots.
        let value = self.builder.input(&name.replace('.', "_"), TensorType::new(DType::Fp32, shape))?;
        self.params.push((ParamSpec::new(name, shape, init), value));
        Ok(value)
    }
}

/// `y = W x (+ b)` over the channels of `x` `[N, I, 1, S]`, giving `[N, n_out, 1, S]`. Declares `NAME.weight`
/// `[n_out, I, 1, 1]` and, with a bias, `NAME.bias` `[1, n_out, 1, 1]`.
///
/// # Errors
///
/// If `x` is not of rank 4 or the name is taken.
pub fn linear(g: &mut Graph, name: &str, x: Value, n_out: usize, bias: bool, init: Init) -> Result<Value> {
    let shape = g.shape(x)?;
    let [_, n_in, ..] = shape[..] else {
        return Err(Error::config(format!("layer `{name}`: input has shape {shape:?}, expected [N, C, 1, S]")));
    };
    let in_layer = |e: anemone_mil::Error| Error::from(e).context(format!("layer `{name}`"));
    let weight = g.param(&format!("{name}.weight"), &[n_out, n_in, 1, 1], init)?;
    // The call is named after its layer, and so are the programs cut from the graph.
    let n_spatial = shape.len() - 2;
    let ints = |x: i32, n: usize| anemone_mil::Tensor::i32s(&vec![x; n]);
    let y = g
        .call("conv")
        .named(&name.replace('.', "_"))
        .arg("x", x)
        .arg("weight", weight)
        .constant("strides", ints(1, n_spatial))
        .constant("pad", ints(0, 2 * n_spatial))
        .constant("dilations", ints(1, n_spatial))
        .finish()
        .map_err(in_layer)?;
    if !bias {
        return Ok(y);
    }
    // The engine's convolution takes no bias; it is added.
    let b = g.param(&format!("{name}.bias"), &[1, n_out, 1, 1], Init::Zeros)?;
    g.add(y, b).map_err(in_layer)
}

/// An activation function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
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
        let op = match self {
            Activation::Relu => "relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::None => return Ok(x),
        };
        Ok(g.call(op).arg("x", x).finish()?)
    }
}

/// A loss function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// The mean of the squared differences.
    #[default]
    Mse,
}

impl Loss {
    /// The loss of `y` against `target`, of the same shape: a single number.
    ///
    /// # Errors
    ///
    /// If the shapes differ.
    pub fn of(self, g: &mut Graph, y: Value, target: Value) -> Result<Value> {
        let (ys, ts) = (g.shape(y)?, g.shape(target)?);
        if ys != ts {
            return Err(Error::config(format!(
                "the prediction has shape {ys:?}, the target {ts:?}: expected the same"
            )));
        }
        match self {
            Loss::Mse => {
                let difference = g.sub(y, target)?;
                let squares = g.call("square").arg("x", difference).finish()?;
                let axes: Vec<i32> = (0..ys.len() as i32).collect();
                Ok(g.reduce_mean(squares, &axes, false)?)
            }
        }
    }
}
