//! Layers over the program builder, and the graph that collects what they declare.
//!
//! Activations are channel-first: `[N, C, 1, S]` for `N` runs of `S` tokens, `[1, C, 1, N]` for `N` columns,
//! `[N, C, H, W]` for images.

mod activation;
mod attention;
pub(crate) mod conv;
mod decoder;
mod embedding;
mod linear;
mod loss;
mod norm;

pub use activation::{Activation, swiglu};
pub use attention::{Heads, Pass, attention, rope};
pub use conv::{Conv2d, Pool, PoolKind, conv2d, global_pool, pool};
pub use decoder::{BuiltDecoder, CacheShape, Decoder, POSITION, TOKEN};
pub use embedding::{embedding, positions, tied_classifier};
pub use linear::{Lora, linear};
pub use loss::{Loss, cross_entropy, mse};
pub use norm::{layer_norm, rms_norm};

use crate::error::{Error, Result};
use crate::params::{Init, ParamSpec};
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{DType, Program, TensorType, Version};
use std::ops::{Deref, DerefMut};

/// A training computation under construction: a program builder that also knows which inputs are parameters,
/// which are data, and which outputs are the loss and the prediction. Everything in it is fp32; what runs in fp16
/// is decided when it is cut into programs for a device.
pub struct Graph {
    builder: Builder,
    params: Vec<(ParamSpec, Value)>,
    lora: Option<Lora>,
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

/// The most elements of a parameter: as many as a program of the software engine has room for.
const MOST_ELEMENTS: usize = u32::MAX as usize;

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
    /// From [`INPUT`], [`TARGET`] and the parameters to loss and prediction, in this order; all of it fp32 but for
    /// an input of tokens and a target of classes, which are int32.
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
        let mut g = Graph::new();
        let x = g.input(INPUT, x)?;
        let target = g.input(TARGET, target)?;
        let out = model.forward(&mut g, x, target)?;
        g.check_adapters()?;
        let loss = g.name(out.loss).to_string();
        let params = g.named_params();
        Ok(Built { program: g.builder.finish(&[out.loss, out.prediction])?, params, loss })
    }

    fn new() -> Graph {
        Graph { builder: Builder::new(Version::V1_3), params: Vec::new(), lora: None }
    }

    fn named_params(&self) -> Vec<(ParamSpec, String)> {
        self.params.iter().map(|(spec, v)| (spec.clone(), self.builder.name(*v).to_string())).collect()
    }

    /// Declares a parameter that weight decay acts on: a matrix, a kernel, a table.
    ///
    /// # Errors
    ///
    /// If the name is taken or is none: names are letters, digits, `_` and `.`.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Value> {
        let trainable = self.lora.is_none();
        self.declare(ParamSpec { trainable, ..ParamSpec::new(name, shape, init) })
    }

    /// Declares a parameter of one number a channel `[1, n_channels, 1, 1]`, which weight decay leaves alone: a
    /// bias, the scale of a norm.
    ///
    /// # Errors
    ///
    /// As [`Graph::param`].
    pub fn channel_param(&mut self, name: &str, n_channels: usize, init: Init) -> Result<Value> {
        let trainable = self.lora.is_none();
        let spec = ParamSpec::new(name, &[1, n_channels, 1, 1], init);
        self.declare(ParamSpec { trainable, decay: false, ..spec })
    }

    fn declare(&mut self, spec: ParamSpec) -> Result<Value> {
        let name = &spec.name;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c)) {
            return Err(Error::config(format!("parameter `{name}`: expected letters, digits, `_` and `.`")));
        }
        let n_elements = spec.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if n_elements.is_none_or(|n| n > MOST_ELEMENTS) {
            return Err(Error::config(format!(
                "parameter `{name}` has shape {:?}, expected at most {MOST_ELEMENTS} elements",
                spec.shape
            )));
        }
        // A program's names have no dots.
        let value = self.builder.input(&name.replace('.', "_"), TensorType::new(DType::Fp32, &spec.shape))?;
        self.params.push((spec, value));
        Ok(value)
    }

    /// Every layer that is to be adapted is there.
    fn check_adapters(&self) -> Result<()> {
        let adapted = |target: &String| {
            let layers = self.params.iter().filter_map(|(spec, _)| spec.name.strip_suffix(".lora_A.weight"));
            layers.into_iter().any(|layer| layer.ends_with(target.as_str()))
        };
        match self.lora.iter().flat_map(|lora| &lora.targets).find(|target| !adapted(target)) {
            None => Ok(()),
            Some(target) => Err(Error::config(format!(
                "`lora.targets`: no linear layer's name ends with `{target}`; names are those of the weights without \
                 `.weight`"
            ))),
        }
    }

    /// Gives every linear layer that is made from here on and that `lora` means an adapter, and freezes all other
    /// parameters declared from here on.
    pub fn adapt(&mut self, lora: &Lora) {
        self.lora = Some(lora.clone());
    }

    /// What `f` makes, its errors under the name of a layer.
    fn layer<T>(&mut self, name: &str, f: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        f(self).map_err(|e| e.context(format!("layer `{name}`")))
    }

    /// The sizes of channel-first activations.
    fn channel_first(&self, x: Value) -> Result<[usize; 4]> {
        let shape = self.shape(x)?;
        <[usize; 4]>::try_from(&shape[..]).map_err(|_| {
            Error::config(format!("input has shape {shape:?}, expected [N, C, 1, S] or [N, C, H, W]"))
        })
    }

    /// The sizes `[N, S]` of a tensor of tokens or classes.
    fn whole_numbers(&self, x: Value, what: &str) -> Result<[usize; 2]> {
        let ty = self.tensor_ty(x)?;
        match (ty.dtype, ty.fixed_shape().as_deref()) {
            (DType::Int32, Some(&[n, s])) => Ok([n, s]),
            _ => Err(Error::config(format!("{what} is {ty}, expected int32 [N, S]"))),
        }
    }
}
