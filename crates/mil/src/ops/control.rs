//! Constants, control flow, lists and states.
//!
//! What has blocks or writes a state is run by the interpreter itself; its types come from its blocks, which
//! validation looks at.

use super::shape::vector;
use super::*;
use crate::ir::{Dim, TensorType, shapes_agree};

/// The most elements a list may grow to.
const MAX_LENGTH: usize = 1 << 16;

const LIST: Param = Param::new("ls", ANY).group(' ');

pub(super) const OPS: &[OpDef] = &[
    OpDef {
        name: "const",
        since: Opset::Ios13,
        params: &[Param::constant("val", ANY)],
        infer: |args| Ok(vec![args.bound("val")?.ty.clone()]),
        eval: Eval::By(|args| Ok(vec![args.tensor("val")?.clone().into()])),
        vjp: None,
    },
    OpDef {
        name: "cond",
        since: Opset::Ios13,
        params: &[Param::new("pred", BOOL)],
        infer: |args| scalar(args, "pred").map(|()| Vec::new()),
        eval: Eval::Interpreter,
        vjp: None,
    },
    OpDef {
        name: "while_loop",
        since: Opset::Ios13,
        params: &[Param::new("loop_vars", ANY).group(' ').variadic()],
        infer: |_| Ok(Vec::new()),
        eval: Eval::Interpreter,
        vjp: None,
    },
    OpDef {
        name: "make_list",
        since: Opset::Ios13,
        params: &[
            Param::new("init_length", INT32).group(' ').or(Const::Int(1)),
            Param::constant("dynamic_length", BOOL).or(Const::Bool(true)),
            Param::constant("elem_shape", &[DType::Int32, DType::String]).variadic(),
            Param::constant("dtype", STRING).or(Const::Str("fp32")),
        ],
        infer: |args| {
            let (element, n) = new_list(args)?;
            Ok(vec![Type::List(Box::new(element.into()), n.map(|n| n as u64))])
        },
        eval: Eval::By(|args| {
            let (element, n) = new_list(args)?;
            // A size that is not known yet is 0 until the element is written.
            let shape: Vec<usize> = element.shape.iter().map(|d| d.fixed().unwrap_or(0)).collect();
            let zeros = || Tensor::zeros(element.dtype, &shape);
            Ok(vec![Value::List(n.map_or_else(Vec::new, |n| vec![zeros(); n]))])
        }),
        vjp: None,
    },
    OpDef {
        name: "list_length",
        since: Opset::Ios13,
        params: &[LIST],
        infer: |args| list_type(args).map(|_| vec![TensorType::scalar(DType::Int32).into()]),
        eval: Eval::By(|args| Ok(vec![Tensor::i32(items(args)?.len() as i32).into()])),
        vjp: None,
    },
    OpDef {
        name: "list_read",
        since: Opset::Ios13,
        params: &[LIST, Param::new("index", INT32).group(' ')],
        infer: |args| {
            scalar(args, "index")?;
            Ok(vec![list_type(args)?.clone().into()])
        },
        eval: Eval::By(|args| {
            let items = items(args)?;
            let at = indices(args, "index", items.len())?[0];
            Ok(vec![items[at].clone().into()])
        }),
        vjp: None,
    },
    OpDef {
        name: "list_gather",
        since: Opset::Ios13,
        params: &[LIST, Param::new("indices", INT32).group(' ')],
        infer: |args| {
            let element = list_type(args)?;
            let shape = [&[vector(args, "indices")?], &element.shape[..]].concat();
            Ok(vec![TensorType { dtype: element.dtype, shape }.into()])
        },
        eval: Eval::By(list_gather),
        vjp: None,
    },
    OpDef {
        name: "list_write",
        since: Opset::Ios13,
        params: &[LIST, Param::new("index", INT32).group(' '), Param::new("value", NUMBER_OR_BOOL)],
        infer: |args| {
            scalar(args, "index")?;
            holds(args, args.ty("value")?)
        },
        eval: Eval::By(|args| {
            let mut items = items(args)?.to_vec();
            put(&mut items, indices(args, "index", MAX_LENGTH)?[0], args.tensor("value")?.clone());
            Ok(vec![Value::List(items)])
        }),
        vjp: None,
    },
    OpDef {
        name: "list_scatter",
        since: Opset::Ios13,
        params: &[LIST, Param::new("indices", INT32).group(' '), Param::new("value", NUMBER_OR_BOOL)],
        infer: |args| {
            let value = args.ty("value")?;
            let n = vector(args, "indices")?;
            match value.shape.split_first() {
                Some((&rows, rest)) if rows.agrees(n) => {
                    holds(args, &TensorType { dtype: value.dtype, shape: rest.to_vec() })
                }
                _ => Err(OpError::arg(
                    "value",
                    format!("has type {value}, expected one row for each of {n} indices"),
                )),
            }
        },
        eval: Eval::By(|args| {
            let (mut items, value) = (items(args)?.to_vec(), args.tensor("value")?);
            let shape = &value.shape()[1..];
            let size: usize = shape.iter().product();
            for (row, at) in indices(args, "indices", MAX_LENGTH)?.into_iter().enumerate() {
                put(&mut items, at, value.picked(shape, |i| row * size + i));
            }
            Ok(vec![Value::List(items)])
        }),
        vjp: None,
    },
    OpDef {
        name: "read_state",
        since: Opset::Ios18,
        params: &[Param::new("input", ANY)],
        infer: |args| Ok(vec![state_type(args, "input")?.clone().into()]),
        eval: Eval::By(|args| Ok(vec![args.tensor("input")?.clone().into()])),
        vjp: None,
    },
    OpDef {
        name: "write_state",
        since: Opset::Ios18,
        params: &[Param::new("input", ANY), Param::new("data", ANY)],
        infer: |args| written(args, "input", "data").map(|_| Vec::new()),
        eval: Eval::Interpreter,
        vjp: None,
    },
    OpDef {
        name: "coreml_update_state",
        since: Opset::Ios18,
        params: &[Param::new("state", ANY), Param::new("value", ANY)],
        infer: |args| Ok(vec![written(args, "state", "value")?]),
        eval: Eval::Interpreter,
        vjp: None,
    },
];

/// That an argument is a single value, written with or without an axis.
fn scalar(args: &Args<'_>, name: &'static str) -> OpResult<()> {
    match args.shape(name)? {
        [] | [Dim::Any | Dim::Fixed(1)] => Ok(()),
        _ => Err(OpError::arg(name, format!("has type {}, expected a scalar", args.ty(name)?))),
    }
}

/// Element type and length, where known, of a list that `make_list` makes.
fn new_list(args: &Args<'_>) -> OpResult<(TensorType, Option<usize>)> {
    let name = args.str("dtype")?;
    let dtype = DType::from_name(name)
        .filter(|d| NUMBER_OR_BOOL.contains(d))
        .ok_or_else(|| OpError::arg("dtype", format!("is `{name}`, expected bool, fp16, fp32 or int32")))?;
    let size = |b: &Bound<'_>| match b.tensor() {
        Some(t) if t.len() == 1 && t.dtype() == DType::String => Ok(Dim::Any),
        Some(t) if t.len() == 1 => shape::dim("elem_shape", t.ints().unwrap_or_default()[0]),
        _ => Err(OpError::arg("elem_shape", "must hold constants, each a size or the name of one")),
    };
    let shape = args.many("elem_shape").iter().map(size).collect::<OpResult<Vec<_>>>()?;
    scalar_or_default(args)?;
    let n = match args.get("init_length") {
        Some(b) if b.tensor().is_none() => None,
        _ => Some(args.int("init_length")?),
    };
    let n = n.map(|n| {
        usize::try_from(n)
            .ok()
            .filter(|&n| n <= MAX_LENGTH)
            .ok_or_else(|| OpError::arg("init_length", format!("is {n}, expected 0 to {MAX_LENGTH}")))
    });
    let element = TensorType { dtype, shape };
    match element.n_elements() {
        Some(n) if n > crate::eval::MAX_ELEMENTS => {
            Err(OpError::arg("elem_shape", format!("gives elements of type {element}, which are too large")))
        }
        _ => Ok((element, n.transpose()?)),
    }
}

fn scalar_or_default(args: &Args<'_>) -> OpResult<()> {
    if args.has("init_length") { scalar(args, "init_length") } else { Ok(()) }
}

/// The type of a list's elements.
fn list_type<'a>(args: &Args<'a>) -> OpResult<&'a TensorType> {
    let b = args.bound("ls")?;
    match b.ty {
        Type::List(element, _) => element.as_tensor(),
        _ => None,
    }
    .ok_or_else(|| OpError::arg("ls", format!("has type {}, expected a list of tensors", b.ty)))
}

fn items<'a>(args: &Args<'a>) -> OpResult<&'a [Tensor]> {
    match args.bound("ls")?.value {
        Some(Value::List(items)) => Ok(items),
        _ => Err(OpError::arg("ls", "is no list")),
    }
}

/// The type of the list, if it may hold `value`.
fn holds(args: &Args<'_>, value: &TensorType) -> OpResult<Vec<Type>> {
    let element = list_type(args)?;
    match element.dtype == value.dtype && shapes_agree(&element.shape, &value.shape) {
        true => Ok(vec![args.bound("ls")?.ty.clone()]),
        false => Err(OpError::arg("value", format!("gives {value}, but the list holds {element}"))),
    }
}

/// Indices below `n`.
fn indices(args: &Args<'_>, name: &'static str, n: usize) -> OpResult<Vec<usize>> {
    let at = |&i: &i64| {
        usize::try_from(i)
            .ok()
            .filter(|&i| i < n)
            .ok_or_else(|| OpError::arg(name, format!("is {i}, expected an index below {n}")))
    };
    args.tensor(name)?.ints().unwrap_or_default().iter().map(at).collect()
}

/// Writes an element; a list too short for it grows by zeros of its shape.
fn put(items: &mut Vec<Tensor>, at: usize, value: Tensor) {
    if at >= items.len() {
        items.resize(at + 1, Tensor::zeros(value.dtype(), value.shape()));
    }
    items[at] = value;
}

fn list_gather(args: &Args<'_>) -> OpResult<Vec<Value>> {
    let (items, element) = (items(args)?, list_type(args)?);
    let rows: Vec<&Tensor> = indices(args, "indices", items.len())?.into_iter().map(|i| &items[i]).collect();
    let Some(first) = rows.first() else {
        let shape: Vec<usize> = element.shape.iter().map(|d| d.fixed().unwrap_or(0)).collect();
        return Ok(vec![Tensor::zeros(element.dtype, &[&[0], &shape[..]].concat()).into()]);
    };
    if let Some(other) = rows.iter().find(|t| t.ty() != first.ty()) {
        return Err(OpError::arg("ls", format!("holds {} and {}, which do not stack", first.ty(), other.ty())));
    }
    let shape = [&[rows.len()], first.shape()].concat();
    let stacked =
        first.joined(&rows[1..]).reshaped(&shape).ok_or_else(|| OpError::new("elements do not stack"))?;
    Ok(vec![stacked.into()])
}

fn state_type<'a>(args: &Args<'a>, name: &'static str) -> OpResult<&'a TensorType> {
    match args.bound(name)?.ty {
        Type::State(t) => Ok(t),
        other => Err(OpError::arg(name, format!("has type {other}, expected a state"))),
    }
}

/// The type of what is written to a state, which is the state's.
fn written(args: &Args<'_>, state: &'static str, value: &'static str) -> OpResult<Type> {
    let (state, value_ty) = (state_type(args, state)?, args.ty(value)?);
    match shapes_agree(&state.shape, &value_ty.shape) {
        true => Ok(state.clone().into()),
        false => Err(OpError::arg(value, format!("has type {value_ty}, but the state holds {state}"))),
    }
}
