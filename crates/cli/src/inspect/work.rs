//! How many floating-point operations a call takes, by the types alone.

use anemone_mil::Tensor;
use anemone_mil::ir::{ArgValue, Call, Constant, Type};
use std::collections::HashMap;

/// A call with what is known of its arguments.
pub(super) struct Operands<'a> {
    pub(super) call: &'a Call,
    pub(super) types: &'a HashMap<&'a str, &'a Type>,
    pub(super) constants: &'a HashMap<&'a str, &'a Constant>,
}

impl Operands<'_> {
    /// The operations of convolutions, matrix products, attention and recurrent ops, two for a multiplication with
    /// its addition; 0 for other ops. `None` if a size is known only at run time.
    pub(super) fn flops(&self) -> Option<u64> {
        let n_products = match &*self.call.op {
            // Each output is a sum over the input channels of its group and over the kernel.
            "conv" => {
                let weight = self.shape("weight")?;
                product(&self.output()?)?.checked_mul(product(weight.get(1..)?)?)?
            }
            // Each input is spread over the output channels of its group and over the kernel.
            "conv_transpose" => {
                product(&self.shape("x")?)?.checked_mul(product(self.shape("weight")?.get(1..)?)?)?
            }
            "linear" => product(&self.output()?)?.checked_mul(*self.shape("x")?.last()?)?,
            "matmul" => {
                let x = self.shape("x")?;
                let back = if self.flag("transpose_x") { 2 } else { 1 };
                // A vector has no other dimension.
                let summed = x.len().checked_sub(back).or(x.len().checked_sub(1))?;
                product(&self.output()?)?.checked_mul(x[summed])?
            }
            // Scores: one product of length E for each query and key; then values weighted by them.
            "scaled_dot_product_attention" => {
                let (query, key, value) = (self.shape("query")?, self.shape("key")?, self.shape("value")?);
                let n_scores = product(query.get(..query.len().checked_sub(1)?)?)?
                    .checked_mul(*key.get(key.len().checked_sub(2)?)?)?;
                n_scores.checked_mul(query.last()?.checked_add(*value.last()?)?)?
            }
            // Each weight is used once a step and sequence; `x` is [steps, sequences, features].
            "lstm" | "gru" | "rnn" => {
                let mut n_weights = 0u64;
                for name in ["weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"] {
                    if self.call.arg(name).is_some() {
                        n_weights = n_weights.checked_add(product(&self.shape(name)?)?)?;
                    }
                }
                product(self.shape("x")?.get(..2)?)?.checked_mul(n_weights)?
            }
            _ => 0,
        };
        n_products.checked_mul(2)
    }

    fn output(&self) -> Option<Vec<u64>> {
        shape(&self.call.outputs.first()?.ty)
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        match self.call.arg(name)? {
            ArgValue::Name(value) => shape(self.types.get(&**value)?),
            ArgValue::Constant(constant) => shape(&constant.ty),
            ArgValue::Tuple(_) => None,
        }
    }

    /// Whether a boolean argument is given and true.
    fn flag(&self, name: &str) -> bool {
        let constant = match self.call.arg(name) {
            Some(ArgValue::Name(value)) => self.constants.get(&**value).copied(),
            Some(ArgValue::Constant(constant)) => Some(constant),
            _ => None,
        };
        constant.and_then(Constant::as_tensor).and_then(Tensor::ints).is_some_and(|x| x == [1])
    }
}

fn shape(ty: &Type) -> Option<Vec<u64>> {
    Some(ty.as_tensor()?.fixed_shape()?.into_iter().map(|d| d as u64).collect())
}

fn product(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}
