//! The table of ops: arguments, type rule, evaluation and gradient of each.
//!
//! An op family is a file below `ops/`, an op a row of that file's table. Whoever needs to know something of an
//! op (validation, the interpreter, gradients, documentation) asks the table; nothing else matches on names,
//! except for what the interpreter itself provides (`const`, control flow, state).

mod activation;
mod args;
mod attention;
mod blocks;
mod constexpr;
mod control;
pub(crate) mod conv;
mod elementwise;
mod gather;
mod image;
mod join;
mod linear;
mod normalization;
mod pool;
mod random;
mod recurrent;
mod reduce;
mod shape;
mod slice;
mod tensor;
mod vjp;
mod window;

#[cfg(test)]
mod gradcheck;
#[cfg(test)]
mod values;

pub use args::{Args, Bound, Operand, infer};
pub use vjp::Vjp;

use crate::ir::{DType, Opset, Type};
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// One signature of an op: how it is called from one op set on, until a later row of the same name.
pub struct OpDef {
    /// The name, as coremltools has it.
    pub name: &'static str,
    /// The first op set with this signature.
    pub since: Opset,
    /// The parameters.
    pub params: &'static [Param],
    /// The type rule: the types of the outputs from those of the arguments (and from values, where known).
    pub infer: fn(&Args<'_>) -> OpResult<Vec<Type>>,
    /// What it computes.
    pub eval: Eval,
    /// The gradient, if there is one.
    pub vjp: Option<VjpFn>,
}

/// Evaluates a call whose arguments all have values.
pub type EvalFn = fn(&Args<'_>) -> OpResult<Vec<Value>>;

/// Emits the gradients of a call's arguments, given those of its outputs.
pub type VjpFn = fn(&mut Vjp<'_>) -> OpResult<()>;

/// How the reference interpreter runs an op.
#[derive(Clone, Copy)]
pub enum Eval {
    /// By this function.
    By(EvalFn),
    /// By itself, because the op is about blocks or state.
    Interpreter,
    /// Not at all, for this reason.
    No(&'static str),
}

/// What a value is at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A list of tensors.
    List(Vec<Tensor>),
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Value {
        Value::Tensor(t)
    }
}

/// One parameter of an op.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// The name, as coremltools has it.
    pub name: &'static str,
    /// The element types it takes.
    pub types: &'static [DType],
    /// Parameters with the same letter have the same element type; a blank binds nothing.
    pub group: char,
    /// Whether it may be left out, and what it then is.
    pub presence: Presence,
    /// Whether its value must be known when the program is compiled.
    pub constant: bool,
    /// Whether it takes a tuple of values.
    pub variadic: bool,
}

/// Whether an argument may be left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Presence {
    /// It may not.
    Required,
    /// It may, and the op then works without.
    Optional,
    /// It may, and is then this.
    Default(Const),
}

/// The value of an argument that was left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Const {
    /// A boolean.
    Bool(bool),
    /// An `int32` scalar.
    Int(i32),
    /// An `int32` vector.
    Ints(&'static [i32]),
    /// A float of the type of the parameter's group.
    Float(f64),
    /// A string.
    Str(&'static str),
}

/// Floating-point numbers. `fp64` is the reference interpreter's own; no device takes it.
pub const FLOAT: &[DType] = &[DType::Fp16, DType::Fp32, DType::Fp64];
/// Numbers.
pub const NUMBER: &[DType] = &[DType::Fp16, DType::Fp32, DType::Fp64, DType::Int32];
/// Numbers and booleans.
pub const NUMBER_OR_BOOL: &[DType] = &[DType::Fp16, DType::Fp32, DType::Fp64, DType::Int32, DType::Bool];
/// Numbers from iOS 17 on.
pub const NUMBER_17: &[DType] =
    &[DType::Fp16, DType::Fp32, DType::Fp64, DType::Int8, DType::Int16, DType::Int32, DType::UInt8, DType::UInt16];
/// Numbers and booleans from iOS 17 on.
pub const NUMBER_OR_BOOL_17: &[DType] = &[
    DType::Fp16,
    DType::Fp32,
    DType::Fp64,
    DType::Int8,
    DType::Int16,
    DType::Int32,
    DType::UInt8,
    DType::UInt16,
    DType::Bool,
];
/// Sizes and positions from iOS 17 on.
pub const SIZE_17: &[DType] = &[DType::Int8, DType::Int16, DType::Int32];
/// `int32`.
pub const INT32: &[DType] = &[DType::Int32];
/// `bool`.
pub const BOOL: &[DType] = &[DType::Bool];
/// `string`.
pub const STRING: &[DType] = &[DType::String];
/// Anything.
pub const ANY: &[DType] = &DType::ALL;

impl Param {
    /// A required parameter of the group `T`, the usual case.
    pub const fn new(name: &'static str, types: &'static [DType]) -> Param {
        Param { name, types, group: 'T', presence: Presence::Required, constant: false, variadic: false }
    }

    /// A required constant whose element type is bound to no other.
    pub const fn constant(name: &'static str, types: &'static [DType]) -> Param {
        Param { constant: true, group: ' ', ..Param::new(name, types) }
    }

    /// In another group.
    pub const fn group(self, group: char) -> Param {
        Param { group, ..self }
    }

    /// That may be left out.
    pub const fn optional(self) -> Param {
        Param { presence: Presence::Optional, ..self }
    }

    /// That may be left out and is then `value`.
    pub const fn or(self, value: Const) -> Param {
        Param { presence: Presence::Default(value), ..self }
    }

    /// That takes a tuple of values.
    pub const fn variadic(self) -> Param {
        Param { variadic: true, ..self }
    }
}

impl Const {
    /// The value as a tensor; floats have the type `float`.
    pub fn to_tensor(self, float: DType) -> Tensor {
        match self {
            Const::Bool(b) => Tensor::bool(b),
            Const::Int(i) => Tensor::i32(i),
            Const::Ints(i) => Tensor::i32s(i),
            Const::Float(x) => Tensor::float(float, &[], vec![x]),
            Const::Str(s) => Tensor::string(s),
        }
    }
}

impl OpDef {
    /// The parameter of that name, with its place.
    pub fn param(&self, name: &str) -> Option<(usize, &Param)> {
        self.params.iter().enumerate().find(|(_, p)| p.name == name)
    }
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}>", self.name, self.since)
    }
}

/// What an op has to say of its arguments; whoever called it adds which call it was.
#[derive(Clone, Debug, PartialEq)]
pub struct OpError {
    /// The parameter it is about.
    pub param: Option<&'static str>,
    /// What was expected and what came.
    pub message: String,
}

/// A result of an op.
pub type OpResult<T> = Result<T, OpError>;

impl OpError {
    /// About the call as a whole.
    #[cold]
    pub fn new(message: impl Into<String>) -> OpError {
        OpError { param: None, message: message.into() }
    }

    /// About one argument.
    #[cold]
    pub fn arg(param: &'static str, message: impl Into<String>) -> OpError {
        OpError { param: Some(param), message: message.into() }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.param {
            Some(p) => write!(f, "argument `{p}` {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The families.
const FAMILIES: &[&[OpDef]] = &[
    activation::OPS,
    attention::OPS,
    blocks::OPS,
    constexpr::OPS,
    control::OPS,
    conv::OPS,
    elementwise::OPS,
    elementwise::binary::OPS,
    elementwise::unary::OPS,
    gather::OPS,
    image::OPS,
    image::sample::OPS,
    join::OPS,
    linear::OPS,
    normalization::OPS,
    pool::OPS,
    random::OPS,
    recurrent::OPS,
    reduce::OPS,
    shape::OPS,
    slice::OPS,
    tensor::OPS,
];

/// The signatures of each op, oldest first.
static TABLE: LazyLock<HashMap<&'static str, Vec<&'static OpDef>>> = LazyLock::new(|| {
    let mut table: HashMap<&str, Vec<&OpDef>> = HashMap::new();
    for def in all() {
        table.entry(def.name).or_default().push(def);
    }
    table.values_mut().for_each(|rows| rows.sort_by_key(|d| d.since));
    table
});

/// Every row of the table.
pub fn all() -> impl Iterator<Item = &'static OpDef> {
    FAMILIES.iter().copied().flatten()
}

/// The signature of `name` in `opset`; `Err` with the first op set that has it, if none so early does.
pub fn find(name: &str, opset: Opset) -> Option<Result<&'static OpDef, Opset>> {
    let rows = TABLE.get(name)?;
    Some(rows.iter().rev().find(|d| d.since <= opset).copied().ok_or(rows[0].since))
}

/// The name of an op that `name` may have been meant for.
pub fn nearest(name: &str) -> Option<&'static str> {
    TABLE
        .keys()
        .copied()
        .map(|k| (distance(name, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let best = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_found_by_op_set() {
        let old = find("cast", Opset::Ios15).unwrap().unwrap();
        let new = find("cast", Opset::Ios18).unwrap().unwrap();
        assert_eq!((old.since, new.since), (Opset::Ios13, Opset::Ios17));
        assert!(find("convolution", Opset::Ios18).is_none());
        assert_eq!(nearest("matmull"), Some("matmul"));
        assert_eq!(nearest("xxxxxxxxxx"), None);
    }

    #[test]
    fn rows_are_well_formed() {
        let mut seen = std::collections::HashSet::new();
        for def in all() {
            assert!(seen.insert((def.name, def.since)), "{def:?} stands twice");
            for p in def.params {
                assert!(!p.types.is_empty(), "{def:?} {}", p.name);
            }
        }
    }
}
