//! Padding the last axis: which programs compute each column of it by itself.

use super::WIDTH_MULTIPLE;
use crate::error::{Error, Result};
use anemone_mil::ir::{ArgValue, Call, Constant, Dim, Param, Program, Span, TensorType, Type};
use anemone_mil::ops::Value;
use anemone_mil::valid::{ArgIds, ValidCall, ValidFunction, ValueId};
use anemone_mil::{Limits, Tensor, validate};
use std::collections::HashSet;

/// How an op treats the columns of a tensor, that is the positions along its last axis.
///
/// A program may be padded if every value that depends on a padded input has its columns computed each by itself,
/// so that what lies in the padding never reaches a column that is read. That is so for the ops listed by
/// [`Columns::of`]; a program with another op after a padded input is refused rather than sliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Works element by element; other operands have one column or none.
    Elementwise,
    /// A convolution with a kernel of one element, without strides and padding.
    Pointwise,
    /// A matrix product `x y` whose `y` is padded and not transposed: its columns are those of the result.
    RightOfProduct,
    /// Moves elements, but leaves the last axis alone.
    KeepsLastAxis,
}

/// Ops of one or two operands that work element by element.
const ELEMENTWISE: [&str; 40] = [
    "abs",
    "acos",
    "add",
    "asin",
    "atan",
    "atanh",
    "cast",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "elu",
    "erf",
    "exp",
    "exp2",
    "floor",
    "gelu",
    "identity",
    "inverse",
    "leaky_relu",
    "log",
    "maximum",
    "minimum",
    "mul",
    "pow",
    "real_div",
    "relu",
    "relu6",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "sub",
    "tanh",
];

impl Columns {
    /// How a call treats the columns of `padded`, of which there are `width`; `None` if it mixes them or it is not
    /// known.
    pub fn of(f: &ValidFunction, call: &ValidCall, padded: &HashSet<ValueId>, width: usize) -> Option<Columns> {
        let arg = |name: &str| match call.args[call.op.param(name)?.0].as_ref()? {
            ArgIds::One(v) => Some(*v),
            ArgIds::Many(_) => None,
        };
        let shape = |v: ValueId| f.value(v).ty.as_tensor()?.fixed_shape();
        let last = |v: ValueId| shape(v).map(|s| s.last().copied().unwrap_or(1));
        let is_padded = |v: ValueId| padded.contains(&v);
        let output = *call.outputs.first()?;
        if call.outputs.len() != 1 || last(output) != Some(width) {
            return None;
        }
        match call.op.name {
            op if ELEMENTWISE.contains(&op) => {
                let mut ids = call.args.iter().flatten().flat_map(|a| a.ids());
                let fits = |v: &ValueId| match f.value(*v).ty.as_tensor() {
                    _ if is_padded(*v) => true,
                    Some(t) => t.dtype == anemone_mil::ir::DType::String || last(*v) == Some(1),
                    None => false,
                };
                ids.all(fits).then_some(Columns::Elementwise)
            }
            "conv" => {
                let weight = arg("weight")?;
                let ones =
                    |name: &str, of: i64| ints(f, arg(name)).is_none_or(|values| values.iter().all(|&v| v == of));
                let valid = arg("pad_type").is_none_or(|v| match f.value(v).constant() {
                    Some(Value::Tensor(t)) => t.strs().is_some_and(|s| s[0] == "valid"),
                    _ => false,
                });
                let kernel = shape(weight)?.get(2..)?.iter().all(|&k| k == 1);
                let bias = arg("bias").is_none_or(|b| !is_padded(b));
                (kernel && valid && bias && !is_padded(weight) && ones("strides", 1) && ones("pad", 0))
                    .then_some(Columns::Pointwise)
            }
            "matmul" => {
                let transposed = arg("transpose_y").is_some_and(|v| match f.value(v).constant() {
                    Some(Value::Tensor(t)) => t.ints().is_none_or(|i| i[0] != 0),
                    _ => true,
                });
                let (x, y) = (arg("x")?, arg("y")?);
                // A vector's only axis is the one that is summed over.
                let matrices = shape(x)?.len() >= 2 && shape(y)?.len() >= 2;
                (matrices && is_padded(y) && !is_padded(x) && !transposed).then_some(Columns::RightOfProduct)
            }
            // With the last axis as it was, the others may be cut as one likes.
            "reshape" => (last(arg("x")?) == Some(width)).then_some(Columns::KeepsLastAxis),
            "transpose" => {
                let perm = ints(f, arg("perm"))?;
                let rank = perm.len() as i64;
                perm.last().is_some_and(|&p| p == rank - 1 || p == -1).then_some(Columns::KeepsLastAxis)
            }
            _ => None,
        }
    }
}

fn ints(f: &ValidFunction, id: Option<ValueId>) -> Option<Vec<i64>> {
    match f.value(id?).constant()? {
        Value::Tensor(t) => t.ints().map(<[i64]>::to_vec),
        Value::List(_) => None,
    }
}

/// Pads the last axis of inputs to a multiple of [`WIDTH_MULTIPLE`], and of what depends on them.
///
/// # Errors
///
/// [`Error::is_refused`] if that would change what is computed.
pub(super) fn pad(mut program: Program) -> Result<Program> {
    let valid = validate(program.clone(), &Limits::none())?;
    let f = valid.main();
    let last = |v: ValueId| {
        let shape = f.value(v).ty.as_tensor().and_then(TensorType::fixed_shape);
        shape.and_then(|s| s.last().copied()).unwrap_or(1)
    };
    let narrow = |v: &ValueId| !last(*v).is_multiple_of(WIDTH_MULTIPLE);
    let mut padded: HashSet<ValueId> = f.inputs.iter().copied().filter(narrow).collect();
    let refuse = |v: ValueId, why: String| {
        Error::refused(format!(
            "the last axis of `{}` has {} elements, no multiple of {WIDTH_MULTIPLE}, and cannot be padded: {why}; make \
             it a multiple of {WIDTH_MULTIPLE}",
            f.value(v).name,
            last(v)
        ))
    };
    let Some(&first) = padded.iter().min() else {
        return match f.outputs.iter().copied().find(|v| narrow(v)) {
            Some(v) => Err(refuse(v, "it does not come from the last axis of an input".into())),
            None => Ok(program),
        };
    };
    let width = last(first);
    if let Some(&other) = padded.iter().filter(|&&v| last(v) != width).min() {
        return Err(refuse(other, format!("another input, `{}`, has {width}", f.value(first).name)));
    }
    let mut reshaped = HashSet::new();
    for call in &f.body.calls {
        let uses =
            |blocks: &ValidCall| blocks.args.iter().flatten().flat_map(|a| a.ids()).any(|v| padded.contains(v));
        if !call.blocks.is_empty() {
            return Err(refuse(first, format!("op `{}` has nested blocks", call.op.name)));
        }
        if !uses(call) {
            continue;
        }
        if Columns::of(f, call, &padded, width).is_none() {
            return Err(refuse(first, format!("op `{}` (`{}`) may mix its columns", call.op.name, f.label(call))));
        }
        if call.op.name == "reshape" {
            reshaped.insert(f.value(call.outputs[0]).name.clone());
        }
        padded.extend(&call.outputs);
    }
    if let Some(&v) = f.outputs.iter().find(|&v| narrow(v) && !padded.contains(v)) {
        return Err(refuse(v, "it does not come from the last axis of an input".into()));
    }
    let names: HashSet<&str> = padded.iter().map(|&v| f.value(v).name.as_str()).collect();
    let wide = width.next_multiple_of(WIDTH_MULTIPLE);
    let function = &mut program.functions[0];
    let widen = |p: &mut Param| {
        if let (true, Type::Tensor(t)) = (names.contains(p.name.as_str()), &mut p.ty)
            && let Some(last) = t.shape.last_mut()
        {
            *last = Dim::Fixed(wide as u64);
        }
    };
    function.params.iter_mut().for_each(widen);
    let mut calls = Vec::with_capacity(function.body.calls.len());
    for mut call in std::mem::take(&mut function.body.calls) {
        call.outputs.iter_mut().for_each(widen);
        if let Some(output) = call.outputs.first().filter(|o| reshaped.contains(&o.name))
            && let Some(shape) = output.ty.as_tensor().and_then(TensorType::fixed_shape)
        {
            let constant = int_constant(format!("{}_padded_shape", output.name), &shape);
            if let Some(arg) = call.args.iter_mut().find(|a| a.name == "shape") {
                arg.value = ArgValue::Name(constant.outputs[0].name.clone());
            }
            calls.push(constant);
        }
        calls.push(call);
    }
    function.body.calls = calls;
    super::drop_unused_constants(&mut function.body);
    Ok(program)
}

/// A constant of int32 numbers, such as a shape.
pub(super) fn int_constant(name: String, numbers: &[usize]) -> Call {
    let sizes: Vec<i32> = numbers.iter().map(|&n| i32::try_from(n).unwrap_or(i32::MAX)).collect();
    let value = Constant::tensor(Tensor::i32s(&sizes));
    Call {
        outputs: vec![Param { name: name.clone(), ty: value.ty.clone(), span: Span::NONE }],
        op: "const".into(),
        opset: None,
        args: Vec::new(),
        attributes: vec![("name".into(), Constant::tensor(Tensor::string(name))), ("val".into(), value)],
        blocks: Vec::new(),
        span: Span::NONE,
    }
}
