//! Models with a configuration.

mod convnet;
mod gpt;
mod llama;
mod mlp;

pub use convnet::{ConvBlock, Convnet, Reduction};
pub use gpt::Gpt;
pub use llama::Llama;
pub use mlp::Mlp;

use crate::error::{Error, Result};
use crate::nn::{Decoder, Graph, Outputs, Pass, cross_entropy};
use anemone_mil::builder::Value;

/// The most tokens in a run: a mask of so many by so many is 1 GiB.
const MOST_TOKENS: usize = 16384;

/// A decoder on whole runs of tokens `x` int32 `[N, S]`: its logits, and their loss.
fn train_decoder(model: &dyn Decoder, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
    let shape = g.shape(x)?;
    let [_, n_tokens] = shape[..] else {
        return Err(Error::config(format!("`model`: input has shape {shape:?}, expected tokens int32 [N, S]")));
    };
    if n_tokens > MOST_TOKENS {
        return Err(Error::config(format!(
            "`data.length` is {n_tokens}, expected at most {MOST_TOKENS}: attention has a mask of its square"
        )));
    }
    let mut pass = Pass::causal(g, n_tokens);
    let prediction = model.logits(g, x, &mut pass)?;
    Ok(Outputs { loss: cross_entropy(g, prediction, target)?, prediction })
}

/// Puts what the data says where the configuration says 0; what the configuration says must hold as much.
pub(crate) fn determine(size: &mut usize, key: &str, data: Option<usize>) -> Result<()> {
    match (*size, data) {
        (0, Some(n)) if n > 0 => *size = n,
        (0, _) => {
            return Err(Error::config(format!("`{key}` is 0, and the data does not say: expected 1 or more")));
        }
        (found, Some(n)) if found < n => {
            return Err(Error::config(format!("`{key}` is {found}, expected {n} or more as the data has, or 0")));
        }
        _ => {}
    }
    Ok(())
}
