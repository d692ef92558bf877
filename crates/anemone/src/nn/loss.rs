//! Loss functions.

use super::Graph;
use crate::error::{Error, Result};
use anemone_mil::Tensor;
use anemone_mil::builder::Value;
use anemone_mil::ir::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A loss function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// [`mse`].
    #[default]
    Mse,
    /// [`cross_entropy`].
    CrossEntropy,
}

impl Loss {
    /// The loss of `y` against `target`: a single number.
    ///
    /// # Errors
    ///
    /// As the functions.
    pub fn of(self, g: &mut Graph, y: Value, target: Value) -> Result<Value> {
        match self {
            Loss::Mse => mse(g, y, target),
            Loss::CrossEntropy => cross_entropy(g, y, target),
        }
    }
}

/// The mean of the squared differences of `y` and `target`, which are of the same type.
///
/// # Errors
///
/// If they are not.
pub fn mse(g: &mut Graph, y: Value, target: Value) -> Result<Value> {
    let (yt, tt) = (g.tensor_ty(y)?, g.tensor_ty(target)?);
    if yt != tt {
        let message = format!("loss `mse`: the prediction is {yt}, the target {tt}: expected the same");
        return Err(Error::config(message));
    }
    let axes: Vec<i32> = (0..yt.shape.len() as i32).collect();
    let difference = g.sub(y, target)?;
    let squares = g.call("square").arg("x", difference).finish()?;
    Ok(g.reduce_mean(squares, &axes, false)?)
}

/// The mean of `-log softmax(logits)[target]`, the softmax taken over the channels of `logits`
/// `[N, classes, 1, S]` or `[N, classes, S, 1]`, for `target` int32 `[N, S]`. Targets below 0, as
/// [`IGNORE`](crate::data::IGNORE) is, do not count; where none counts, the loss is 0.
///
/// # Errors
///
/// If the target is no tensor of classes, or one for other positions than the logits have.
pub fn cross_entropy(g: &mut Graph, logits: Value, target: Value) -> Result<Value> {
    let shape = g.shape(logits)?;
    let fits = |[n, s]: [usize; 2]| shape.len() == 4 && shape[0] == n && shape[2] * shape[3] == s;
    let classes = g.whole_numbers(target, "the target").ok().filter(|&sizes| fits(sizes));
    let Some([n, s]) = classes else {
        return Err(Error::config(format!(
            "loss `cross_entropy`: the logits have shape {shape:?}, the target is {}: expected [N, classes, 1, S] and \
             int32 [N, S]",
            g.tensor_ty(target)?
        )));
    };
    let logits = g.reshape(logits, &[n, shape[1], 1, s])?;
    let target = g.reshape(target, &[n, 1, 1, s])?;
    // A negative index would count from the end.
    let ignored = g.call("less").arg("x", target).constant("y", Tensor::i32(0)).finish()?;
    let zero = g.constant(Tensor::i32(0));
    // Some class there is, whose number is then multiplied by 0.
    let class = g.call("select").arg("cond", ignored).arg("a", zero).arg("b", target).finish()?;
    let picked = g.call("gather_along_axis").arg("x", logits).arg("indices", class);
    let picked = picked.constant("axis", Tensor::i32(1)).finish()?;
    let total = g.call("reduce_log_sum_exp").arg("x", logits).constant("axes", Tensor::i32s(&[1]));
    let total = total.constant("keep_dims", Tensor::bool(true)).finish()?;
    let counted = g.call("logical_not").arg("x", ignored).finish()?;
    let counted = g.cast(counted, DType::Fp32)?;
    let each = g.sub(total, picked)?;
    let each = g.mul(each, counted)?;
    let sum = g.reduce_sum(each, &[0, 1, 2, 3], false)?;
    let n_counted = g.reduce_sum(counted, &[0, 1, 2, 3], false)?;
    let one = Tensor::float(DType::Fp32, &[], vec![1.0]);
    let n_counted = g.call("maximum").arg("x", n_counted).constant("y", one).finish()?;
    Ok(g.call("real_div").arg("x", sum).arg("y", n_counted).finish()?)
}
