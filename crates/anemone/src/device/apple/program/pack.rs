//! Several inputs in one: side by side in its columns, taken apart again by the program.
//!
//! Some machines refuse requests with more than one input or read them wrongly, while one input whose width holds
//! everything works on M1 to M5 (maderix/ANE `training_dynamic`, rustane, lil-bro, autoresearch-go-ane).

use super::columns::int_constant;
use super::{Packing, Port};
use crate::error::{Error, Result};
use anemone_mil::Tensor;
use anemone_mil::ir::{Arg, ArgValue, Call, Constant, Function, Param, Span, TensorType, Type};

/// What the one input is called until all values are renamed.
const NAME: &str = "packed_inputs";

/// Replaces the inputs of a function by one, if there are several: `[1, rows, 1, columns]`, in which each of them
/// is a block of as many rows and columns as it has, from row 0.
///
/// # Errors
///
/// [`Error::is_refused`] if they have different element types, or one has no columns.
pub(super) fn pack(f: &mut Function) -> Result<Option<Packing>> {
    if f.params.len() < 2 {
        return Ok(None);
    }
    let mut blocks: Vec<(String, TensorType, Vec<usize>)> = Vec::new();
    for Param { name, ty, .. } in &f.params {
        let ty = ty.as_tensor();
        let Some((ty, shape)) = ty.and_then(|t| Some((t, t.fixed_shape()?))).filter(|(_, s)| !s.contains(&0))
        else {
            return Err(Error::refused(format!("input `{name}` cannot be packed: it has no fixed shape")));
        };
        blocks.push((name.clone(), ty.clone(), shape));
    }
    let dtype = blocks[0].1.dtype;
    if let Some((name, ty, _)) = blocks.iter().find(|b| b.1.dtype != dtype) {
        return Err(Error::refused(format!(
            "inputs cannot be packed into one: `{name}` is {ty}, `{}` is {}",
            blocks[0].0, blocks[0].1
        )));
    }
    let size = |shape: &[usize]| {
        let width = shape.last().copied().unwrap_or(1);
        (shape.iter().product::<usize>() / width, width)
    };
    let mut n_rows = 0;
    let mut n_columns = 0;
    let mut columns = Vec::new();
    let mut calls = Vec::new();
    for (name, ty, shape) in &blocks {
        let (rows, width) = size(shape);
        let block = format!("{name}_block");
        let begin = int_constant(format!("{name}_begin"), &[0, 0, 0, n_columns]);
        let extent = int_constant(format!("{name}_size"), &[1, rows, 1, width]);
        let of_shape = int_constant(format!("{name}_shape"), shape);
        let args = [("x", NAME), ("begin", &begin.outputs[0].name), ("size", &extent.outputs[0].name)];
        let slice = call("slice_by_size", &block, TensorType::new(dtype, &[1, rows, 1, width]), &args);
        let reshape = call("reshape", name, ty.clone(), &[("x", &block), ("shape", &of_shape.outputs[0].name)]);
        calls.extend([begin, extent, slice, of_shape, reshape]);
        columns.push(n_columns);
        n_rows = n_rows.max(rows);
        n_columns += width;
    }
    let ty = TensorType::new(dtype, &[1, n_rows, 1, n_columns]);
    f.params = vec![Param { name: NAME.into(), ty: ty.clone().into(), span: Span::NONE }];
    f.body.calls.splice(0..0, calls);
    let port = Port { name: NAME.into(), host: ty.clone(), symbol: NAME.into(), engine: ty };
    Ok(Some(Packing { port, columns }))
}

fn call(op: &str, name: &str, ty: TensorType, args: &[(&str, &str)]) -> Call {
    let arg = |(name, value): &(&str, &str)| Arg {
        name: (*name).into(),
        value: ArgValue::Name((*value).into()),
        span: Span::NONE,
    };
    Call {
        outputs: vec![Param { name: name.into(), ty: Type::Tensor(ty), span: Span::NONE }],
        op: op.into(),
        opset: None,
        args: args.iter().map(arg).collect(),
        attributes: vec![("name".into(), Constant::tensor(Tensor::string(name.to_string())))],
        blocks: Vec::new(),
        span: Span::NONE,
    }
}
