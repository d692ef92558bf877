//! Convolutions and pooling over images.

use super::{Graph, linear};
use crate::error::{Error, Result};
use crate::params::Init;
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of a convolution: kernels and strides are the same down and across.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Channels of the output.
    pub n_out: usize,
    /// Height and width of a kernel.
    pub kernel: usize,
    /// Steps between the kernel's places.
    pub stride: usize,
    /// Rows and columns of zeros around the image.
    pub padding: usize,
    /// Parts into which the channels of input and output fall, each seeing its own alone.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// The first weights.
    pub init: Init,
}

impl Conv2d {
    /// One whose output is as large as its input, if the kernel is odd: stride 1, the kernel's half as padding, a
    /// bias.
    pub fn same(n_out: usize, kernel: usize) -> Conv2d {
        let init = Init::Uniform { bound: None };
        Conv2d { n_out, kernel, stride: 1, padding: kernel / 2, groups: 1, bias: true, init }
    }
}

/// The convolution of `x` `[N, I, H, W]`, giving `[N, n_out, H', W']`. Declares `NAME.weight`
/// `[n_out, I / groups, kernel, kernel]` and, with a bias, `NAME.bias` `[1, n_out, 1, 1]`.
///
/// # Errors
///
/// If `x` is no image, or kernel, stride and groups do not fit it.
pub fn conv2d(g: &mut Graph, name: &str, x: Value, conv: &Conv2d) -> Result<Value> {
    g.layer(name, |g| {
        let [_, n_in, ..] = g.channel_first(x)?;
        let Conv2d { n_out, kernel, stride, padding, groups, bias, init } = *conv;
        if [n_out, kernel, stride, groups].contains(&0) || !n_in.is_multiple_of(groups) || !n_out.is_multiple_of(groups) {
            return Err(Error::config(format!(
                "input has shape {:?}, and it has {n_out} channels, kernels of {kernel}, strides of {stride} and {groups} \
                 groups: expected 1 or more of each, and groups that divide the channels of input and output",
                g.shape(x)?
            )));
        }
        let weight = g.param(&format!("{name}.weight"), &[n_out, n_in / groups, kernel, kernel], init)?;
        let y = g
            .call("conv")
            .named(&name.replace('.', "_"))
            .arg("x", x)
            .arg("weight", weight)
            .constant("strides", sizes([stride; 2]))
            .constant("pad_type", Tensor::string("custom"))
            .constant("pad", sizes([padding; 4]))
            .constant("dilations", sizes([1; 2]))
            .constant("groups", Tensor::i32(int(groups)))
            .finish()?;
        if !bias {
            return Ok(y);
        }
        // The engine's convolution takes no bias; it is added.
        let b = g.channel_param(&format!("{name}.bias"), n_out, Init::Zeros)?;
        Ok(g.add(y, b)?)
    })
}

/// What a window of an image becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// The largest of its numbers.
    #[default]
    Max,
    /// Their mean; zeros of the padding do not count.
    Average,
}

/// Pooling: windows are the same down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// What a window becomes.
    pub kind: PoolKind,
    /// Height and width of a window.
    #[schemars(range(min = 1))]
    pub kernel: usize,
    /// Steps between windows; 0 for as many as a window is wide.
    pub stride: usize,
    /// Rows and columns around the image.
    pub padding: usize,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { kind: PoolKind::Max, kernel: 2, stride: 0, padding: 0 }
    }
}

/// The pooled image: `[N, C, H, W]` to `[N, C, H', W']`.
///
/// # Errors
///
/// If `x` is no image or a window does not fit it.
pub fn pool(g: &mut Graph, name: &str, x: Value, pool: &Pool) -> Result<Value> {
    g.layer(name, |g| {
        g.channel_first(x)?;
        let Pool { kind, kernel, stride, padding } = *pool;
        let stride = if stride == 0 { kernel } else { stride };
        let op = match kind {
            PoolKind::Max => "max_pool",
            PoolKind::Average => "avg_pool",
        };
        let call = g
            .call(op)
            .arg("x", x)
            .constant("kernel_sizes", sizes([kernel; 2]))
            .constant("strides", sizes([stride; 2]))
            .constant("pad_type", Tensor::string("custom"))
            .constant("pad", sizes([padding; 4]));
        Ok(match kind {
            PoolKind::Max => call,
            PoolKind::Average => call.constant("exclude_padding_from_average", Tensor::bool(true)),
        }
        .finish()?)
    })
}

/// Each channel of the image as one number: `[N, C, H, W]` to `[N, C, 1, 1]`.
///
/// # Errors
///
/// If `x` is no image.
pub fn global_pool(g: &mut Graph, name: &str, x: Value, kind: PoolKind) -> Result<Value> {
    g.layer(name, |g| {
        g.channel_first(x)?;
        let op = match kind {
            PoolKind::Max => "reduce_max",
            PoolKind::Average => "reduce_mean",
        };
        let axes = Tensor::i32s(&[2, 3]);
        Ok(g.call(op).arg("x", x).constant("axes", axes).constant("keep_dims", Tensor::bool(true)).finish()?)
    })
}

/// A linear layer on what is left of each image: `[N, C, H, W]` to logits `[N, n_out, 1, 1]`, by weights
/// `[n_out, C H W, 1, 1]` whose columns are in the order of the image.
pub(crate) fn classifier(g: &mut Graph, name: &str, x: Value, n_out: usize, init: Init) -> Result<Value> {
    let [n, c, h, w] = g.layer(name, |g| g.channel_first(x))?;
    // Images become columns, so that one product serves them all.
    let rows = g.reshape(x, &[n, c * h * w])?;
    let columns = g.transpose(rows, &[1, 0])?;
    let columns = g.reshape(columns, &[1, c * h * w, 1, n])?;
    let y = linear(g, name, columns, n_out, true, init)?;
    let columns = g.reshape(y, &[n_out, n])?;
    let rows = g.transpose(columns, &[1, 0])?;
    Ok(g.reshape(rows, &[n, n_out, 1, 1])?)
}

fn int(size: usize) -> i32 {
    // What an argument cannot hold fits no image there is.
    i32::try_from(size).unwrap_or(i32::MAX)
}

fn sizes<const N: usize>(sizes: [usize; N]) -> Tensor {
    Tensor::i32s(&sizes.map(int))
}
