//! The program: functions of calls of ops on named, typed values.
//!
//! This is the text as data, no more: names are not yet resolved and ops not yet looked up, so a program that
//! the parser accepts may still be wrong. [`validate`](crate::validate) turns it into a
//! [`ValidProgram`](crate::ValidProgram), which is what gradients, the interpreter and devices take.

use crate::tensor::Tensor;
use std::fmt;

/// A MIL program: `program(1.3) [attributes] { functions }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The version in the header, which also fixes the dialect that the program prints in.
    pub version: Version,
    /// `buildInfo` and others.
    pub attributes: Attributes,
    /// The functions, `main` first by custom.
    pub functions: Vec<Function>,
}

/// The version of the language in a program's header. It decides how scalars are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `program(1.0)`: scalars are spelled `tensor<int32, []>(1)`. Written for specifications below 9 (iOS 15 to
    /// 17).
    V1_0,
    /// `program(1.3)`: scalars are spelled `int32(1)`. Written for specification 9 (iOS 18).
    V1_3,
}

/// The version of the op set that a function or a call refers to, `<ios17>` in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opset {
    /// iOS 13. Only as the first version of an op; no program says it.
    Ios13,
    /// iOS 14. Only as the first version of an op; no program says it.
    Ios14,
    /// iOS 15, macOS 12 (`CoreML5`).
    Ios15,
    /// iOS 16, macOS 13 (`CoreML6`).
    Ios16,
    /// iOS 17, macOS 14 (`CoreML7`).
    Ios17,
    /// iOS 18, macOS 15 (`CoreML8`).
    Ios18,
}

/// Named constants attached to a program, a function or a call, in the order of the text.
pub type Attributes = Vec<(String, Constant)>;

/// `func name<opset>(params) [attributes] { body } -> (outputs);`
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// The function's name, `main` for the one a device runs.
    pub name: String,
    /// The op set that its calls mean unless they name another.
    pub opset: Opset,
    /// The inputs. coremlc writes them sorted by name.
    pub params: Vec<Param>,
    /// `FlexibleShapeInformation` and others.
    pub attributes: Attributes,
    /// What it computes.
    pub body: Block,
    /// Where its name stands.
    pub span: Span,
}

/// A declared name: an input of a function or block, or an output of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// The name of the value.
    pub name: String,
    /// Its full type.
    pub ty: Type,
    /// Where the name stands.
    pub span: Span,
}

/// Calls in order, and the names of the values they leave: a function's body or a nested block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// What a nested block (`while_loop`) takes; empty for a function's body, whose inputs are the function's.
    pub params: Vec<Param>,
    /// The calls. A value is defined before it is used.
    pub calls: Vec<Call>,
    /// The names it returns.
    pub outputs: Vec<Reference>,
}

/// The use of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// `type out, ... = op<opset>(arguments) [attributes] blocks;`
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What it defines, each with its full type; empty for `write_state`.
    pub outputs: Vec<Param>,
    /// The op's name, as coremltools has it.
    pub op: String,
    /// The op set, where the call names one of its own.
    pub opset: Option<Opset>,
    /// The arguments in the order of the text. coremlc writes them sorted by name.
    pub args: Vec<Arg>,
    /// `name`, for `const` also `val`, for `constexpr_*` of `program(1.0)` the parameters.
    pub attributes: Attributes,
    /// The nested blocks of `cond` and `while_loop`.
    pub blocks: Vec<Block>,
    /// Where the op's name stands.
    pub span: Span,
}

/// One argument of a call, `name = value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// The parameter's name.
    pub name: String,
    /// What is passed.
    pub value: ArgValue,
    /// Where the argument stands, name and value.
    pub span: Span,
}

/// What an argument is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgValue {
    /// A value defined before.
    Name(String),
    /// A constant written in place, as `program(1.3)` allows.
    Constant(Constant),
    /// Several, as in `concat(values = (a, b))`.
    Tuple(Vec<ArgValue>),
}

/// A typed literal, `tensor<int32, [2]>([1, 1])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The declared type.
    pub ty: Type,
    /// The value, of that type.
    pub value: Literal,
}

/// The value of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// Elements written in the text; a scalar is a tensor of rank 0.
    Tensor(Tensor),
    /// `BLOBFILE(path = ..., offset = ...)`: elements kept in a weights file.
    Blob(BlobRef),
    /// `[a, b]` of a `list` type.
    List(Vec<Literal>),
    /// `(a, b)` of a `tuple` type.
    Tuple(Vec<Literal>),
    /// `{{key, value}, ...}` of a `dict` type.
    Dict(Vec<(Literal, Literal)>),
}

/// Where a weights file keeps a constant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// The file, `@model_path/weights/weight.bin` by custom; `@model_path` is the folder of the program.
    pub path: String,
    /// The offset in bytes of the record (not of its data) in the file.
    pub offset: u64,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// `tensor<dtype, [dims]>`; a scalar is a tensor of rank 0.
    Tensor(TensorType),
    /// `list<element, length>`, of unknown length where `None`.
    List(Box<Type>, Option<u64>),
    /// `tuple<a, b>`.
    Tuple(Vec<Type>),
    /// `dict<key, value>`.
    Dict(Box<Type>, Box<Type>),
    /// `state<tensor<...>>`: a tensor that lives from one run to the next.
    State(TensorType),
    /// `tensor_buffer<...>`: a laid-out tensor in dumps of Apple's engine compiler.
    Buffer(BufferType),
}

/// Element type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The type of the elements.
    pub dtype: DType,
    /// The dimensions, outermost first.
    pub shape: Vec<Dim>,
}

/// `tensor_buffer<dtype, shape=..., strides=..., interleave_factors=...>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufferType {
    /// Element type and shape.
    pub tensor: TensorType,
    /// Stride of each dimension, in elements.
    pub strides: Vec<Dim>,
    /// Interleave factor of each dimension.
    pub interleave_factors: Vec<Dim>,
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A known size.
    Fixed(u64),
    /// `?`: known only when the program runs.
    Any,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary16.
    Fp16,
    /// IEEE 754 binary32.
    Fp32,
    /// IEEE 754 binary64.
    Fp64,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// 8-bit float, 4 exponent and 3 mantissa bits, finite (no infinities).
    Fp8E4M3Fn,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    Fp8E5M2,
    /// True or false.
    Bool,
    /// Text.
    String,
    /// Signed, 4 bits.
    Int4,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 1 bit.
    UInt1,
    /// Unsigned, 2 bits.
    UInt2,
    /// Unsigned, 3 bits.
    UInt3,
    /// Unsigned, 4 bits.
    UInt4,
    /// Unsigned, 6 bits.
    UInt6,
    /// Unsigned, 8 bits.
    UInt8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Unsigned, 64 bits.
    UInt64,
}

/// A range of bytes of the source text. Two spans always compare equal, so that programs compare by meaning.
#[derive(Clone, Copy, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last byte; equal to `start` where there is no source.
    pub end: u32,
}

impl PartialEq for Span {
    fn eq(&self, _: &Span) -> bool {
        true
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl Span {
    /// The span of what has no source.
    pub const NONE: Span = Span { start: 0, end: 0 };
}

impl Program {
    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }
}

impl Version {
    /// `1.0` or `1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1_0 => "1.0",
            Version::V1_3 => "1.3",
        }
    }

    /// The op set that programs of this version are written for: `ios16`, the oldest the engine's text path
    /// takes, for 1.0 and `ios18` for 1.3.
    pub fn default_opset(self) -> Opset {
        match self {
            Version::V1_0 => Opset::Ios16,
            Version::V1_3 => Opset::Ios18,
        }
    }
}

impl Opset {
    const NAMES: [(Opset, &'static str); 6] = [
        (Opset::Ios13, "ios13"),
        (Opset::Ios14, "ios14"),
        (Opset::Ios15, "ios15"),
        (Opset::Ios16, "ios16"),
        (Opset::Ios17, "ios17"),
        (Opset::Ios18, "ios18"),
    ];

    /// The spelling in the text, such as `ios17`.
    pub fn as_str(self) -> &'static str {
        Opset::NAMES[self as usize].1
    }

    /// The op set of that spelling.
    pub fn from_name(name: &str) -> Option<Opset> {
        Opset::NAMES.iter().find(|(_, n)| *n == name).map(|(o, _)| *o)
    }
}

impl Call {
    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Constant> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, c)| c)
    }

    /// The argument of that name.
    pub fn arg(&self, name: &str) -> Option<&ArgValue> {
        self.args.iter().find(|a| a.name == name).map(|a| &a.value)
    }
}

impl Type {
    /// The tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type::Tensor(t)
    }
}

impl Constant {
    /// The constant that holds `tensor`.
    pub fn tensor(tensor: Tensor) -> Constant {
        Constant { ty: Type::Tensor(tensor.ty()), value: Literal::Tensor(tensor) }
    }

    /// The constant of type `ty` that a weights file keeps at `blob`.
    pub fn blob(ty: TensorType, blob: BlobRef) -> Constant {
        Constant { ty: ty.into(), value: Literal::Blob(blob) }
    }

    /// The elements, where they are written in the text.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match &self.value {
            Literal::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl TensorType {
    /// The type of elements `dtype` and a fixed shape.
    pub fn new(dtype: DType, shape: &[usize]) -> TensorType {
        TensorType { dtype, shape: shape.iter().map(|&d| Dim::Fixed(d as u64)).collect() }
    }

    /// The type of a scalar.
    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, shape: Vec::new() }
    }

    /// The sizes, if all are known and fit.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.fixed()).collect()
    }

    /// The number of elements, if the sizes are known and their product fits.
    pub fn n_elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(d.fixed()?))
    }

    /// Bytes of a dense buffer, elements narrower than a byte packed; `None` for strings, for unknown sizes and
    /// for those that do not fit.
    pub fn n_bytes(&self) -> Option<usize> {
        let bits = self.dtype.bits()?;
        Some(self.n_elements()?.checked_mul(bits as usize)?.div_ceil(8))
    }

    /// The same shape with other elements.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType { dtype, shape: self.shape.clone() }
    }
}

/// Whether two shapes can be those of one value: unknown sizes agree with any.
pub(crate) fn shapes_agree(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(*b))
}

impl Dim {
    /// Whether two sizes can be one: unknown ones agree with any.
    pub fn agrees(self, other: Dim) -> bool {
        self == other || self == Dim::Any || other == Dim::Any
    }

    /// The size, if it is known and fits.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => usize::try_from(n).ok(),
            Dim::Any => None,
        }
    }
}

impl DType {
    /// All, in the order of their declaration.
    pub const ALL: [DType; 22] = [
        DType::Fp16,
        DType::Fp32,
        DType::Fp64,
        DType::Bf16,
        DType::Fp8E4M3Fn,
        DType::Fp8E5M2,
        DType::Bool,
        DType::String,
        DType::Int4,
        DType::Int8,
        DType::Int16,
        DType::Int32,
        DType::Int64,
        DType::UInt1,
        DType::UInt2,
        DType::UInt3,
        DType::UInt4,
        DType::UInt6,
        DType::UInt8,
        DType::UInt16,
        DType::UInt32,
        DType::UInt64,
    ];

    /// The spelling in the text.
    pub fn as_str(self) -> &'static str {
        match self {
            DType::Fp16 => "fp16",
            DType::Fp32 => "fp32",
            DType::Fp64 => "fp64",
            DType::Bf16 => "bf16",
            DType::Fp8E4M3Fn => "fp8e4m3fn",
            DType::Fp8E5M2 => "fp8e5m2",
            DType::Bool => "bool",
            DType::String => "string",
            DType::Int4 => "int4",
            DType::Int8 => "int8",
            DType::Int16 => "int16",
            DType::Int32 => "int32",
            DType::Int64 => "int64",
            DType::UInt1 => "uint1",
            DType::UInt2 => "uint2",
            DType::UInt3 => "uint3",
            DType::UInt4 => "uint4",
            DType::UInt6 => "uint6",
            DType::UInt8 => "uint8",
            DType::UInt16 => "uint16",
            DType::UInt32 => "uint32",
            DType::UInt64 => "uint64",
        }
    }

    /// The element type of that spelling.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.as_str() == name)
    }

    /// Bits of an element; `None` for strings.
    pub fn bits(self) -> Option<u32> {
        Some(match self {
            DType::UInt1 => 1,
            DType::UInt2 => 2,
            DType::UInt3 => 3,
            DType::Int4 | DType::UInt4 => 4,
            DType::UInt6 => 6,
            DType::Fp8E4M3Fn | DType::Fp8E5M2 | DType::Bool | DType::Int8 | DType::UInt8 => 8,
            DType::Fp16 | DType::Bf16 | DType::Int16 | DType::UInt16 => 16,
            DType::Fp32 | DType::Int32 | DType::UInt32 => 32,
            DType::Fp64 | DType::Int64 | DType::UInt64 => 64,
            DType::String => return None,
        })
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        self <= DType::Fp8E5M2
    }

    /// Whether elements are integers; `bool` is none.
    pub fn is_int(self) -> bool {
        self >= DType::Int4
    }

    /// The smallest and the largest value of an integer type.
    pub fn int_range(self) -> Option<(i128, i128)> {
        if !self.is_int() {
            return None;
        }
        let bits = self.bits()?;
        Some(if self <= DType::Int64 {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Opset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Any => f.write_str("?"),
        }
    }
}

/// Writes `[1, 64, 1, ?]`.
pub(crate) fn fmt_shape(f: &mut impl fmt::Write, shape: &[Dim]) -> fmt::Result {
    f.write_char('[')?;
    for (i, d) in shape.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{d}")?;
    }
    f.write_char(']')
}

impl fmt::Display for TensorType {
    /// The short form used in messages, `fp16 [1, 64, 1, 16]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.dtype)?;
        fmt_shape(f, &self.shape)
    }
}

impl fmt::Display for Type {
    /// The short form used in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => t.fmt(f),
            Type::List(t, Some(n)) => write!(f, "list<{t}, {n}>"),
            Type::List(t, None) => write!(f, "list<{t}, ?>"),
            Type::Tuple(ts) => {
                f.write_str("tuple<")?;
                for (i, t) in ts.iter().enumerate() {
                    write!(f, "{}{t}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(">")
            }
            Type::Dict(k, v) => write!(f, "dict<{k}, {v}>"),
            Type::State(t) => write!(f, "state<{t}>"),
            Type::Buffer(b) => write!(f, "tensor_buffer<{}>", b.tensor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_and_op_sets_are_read_back() {
        for d in DType::ALL {
            assert_eq!(DType::from_name(d.as_str()), Some(d));
        }
        for (o, name) in Opset::NAMES {
            assert_eq!((Opset::from_name(name), o.as_str()), (Some(o), name));
        }
    }

    #[test]
    fn kinds_and_ranges_follow_the_order_of_declaration() {
        assert!(DType::Fp8E5M2.is_float() && !DType::Bool.is_float() && !DType::Bool.is_int());
        assert!(DType::Int4.is_int() && DType::UInt64.is_int() && !DType::String.is_int());
        assert_eq!(DType::Int4.int_range(), Some((-8, 7)));
        assert_eq!(DType::UInt6.int_range(), Some((0, 63)));
        assert_eq!(DType::Int64.int_range(), Some((i64::MIN as i128, i64::MAX as i128)));
        assert_eq!(DType::Fp16.int_range(), None);
    }

    #[test]
    fn sizes_that_do_not_fit_are_none() {
        let t = TensorType { dtype: DType::Fp16, shape: vec![Dim::Fixed(1 << 40), Dim::Fixed(1 << 40)] };
        assert_eq!(t.n_elements(), None);
        assert_eq!(TensorType::new(DType::UInt3, &[5]).n_bytes(), Some(2));
    }
}
