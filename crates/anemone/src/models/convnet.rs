//! A stack of convolutions and a classifier.

use crate::error::{Error, Result};
use crate::nn::conv::classifier;
use crate::nn::{
    Activation, Conv2d, Graph, Lora, Model, Outputs, Pool, PoolKind, conv2d, cross_entropy, global_pool, pool,
};
use crate::params::Init;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Blocks of convolution, activation and pooling, then a linear classifier; trained by cross-entropy.
///
/// The layers are called `conv1`, `conv2`, ... and `fc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Convnet {
    /// The blocks, one after the other.
    pub blocks: Vec<ConvBlock>,
    /// What the classifier sees of the last block's output.
    pub reduction: Reduction,
    /// Classes there are; 0 for as many as the data has.
    pub classes: usize,
    /// Trains adapters of the linear layer alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConvBlock {
    /// Channels of its output.
    #[schemars(range(min = 1))]
    pub channels: usize,
    /// Height and width of a kernel.
    #[schemars(range(min = 1))]
    pub kernel: usize,
    /// Steps between the kernel's places.
    #[schemars(range(min = 1))]
    pub stride: usize,
    /// Rows and columns of zeros around the image; left out, half the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<usize>,
    /// Groups of channels that see each other alone.
    #[schemars(range(min = 1))]
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// What follows the convolution.
    pub activation: Activation,
    /// What follows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
}

/// What the classifier sees of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// All of it.
    #[default]
    Flatten,
    /// The mean of each channel.
    Average,
    /// The largest number of each channel.
    Max,
}

impl Default for Convnet {
    fn default() -> Convnet {
        let block = |channels| ConvBlock { channels, pool: Some(Pool::default()), ..ConvBlock::default() };
        Convnet { blocks: vec![block(16), block(32)], reduction: Reduction::Flatten, classes: 0, lora: None }
    }
}

impl Default for ConvBlock {
    fn default() -> ConvBlock {
        ConvBlock {
            channels: 16,
            kernel: 3,
            stride: 1,
            padding: None,
            groups: 1,
            bias: true,
            activation: Activation::Relu,
            pool: None,
        }
    }
}

impl Model for Convnet {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        if self.classes == 0 {
            return Err(Error::config("`model.classes` is 0, expected 1 or more"));
        }
        if let Some(lora) = &self.lora {
            g.adapt(lora);
        }
        let mut y = x;
        for (i, block) in self.blocks.iter().enumerate() {
            let conv = Conv2d {
                n_out: block.channels,
                kernel: block.kernel,
                stride: block.stride,
                padding: block.padding.unwrap_or(block.kernel / 2),
                groups: block.groups,
                bias: block.bias,
                init: Init::Uniform { bound: None },
            };
            y = conv2d(g, &format!("conv{}", i + 1), y, &conv)?;
            y = block.activation.apply(g, y)?;
            if let Some(shape) = &block.pool {
                y = pool(g, &format!("pool{}", i + 1), y, shape)?;
            }
        }
        y = match self.reduction {
            Reduction::Flatten => y,
            Reduction::Average => global_pool(g, "pool", y, PoolKind::Average)?,
            Reduction::Max => global_pool(g, "pool", y, PoolKind::Max)?,
        };
        let prediction = classifier(g, "fc", y, self.classes, Init::Uniform { bound: None })?;
        Ok(Outputs { loss: cross_entropy(g, prediction, target)?, prediction })
    }
}
