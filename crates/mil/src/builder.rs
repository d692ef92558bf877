//! Typed construction of programs: every call is checked against the op's type rule as it is made.
//!
//! The engine's text path knows no default arguments and takes most arguments only as named constants, so the
//! builder writes out every argument, left-out ones with their default, as a `const` of its own.

use crate::error::{Diagnostic, Error, Result};
use crate::ir::*;
use crate::ops::{self, Args, Bound, OpDef, OpError, Operand, Presence};
use crate::tensor::Tensor;
use std::collections::{HashMap, HashSet};

/// A value of a program under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(usize);

impl Value {
    /// A number that is unique in its builder, counting from 0 in the order of definition.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Builds the `main` function of a program, call by call.
///
/// ```
/// use anemone_mil::{Builder, ir::{DType, TensorType, Version}};
///
/// let mut b = Builder::new(Version::V1_3);
/// let x = b.input("x", TensorType::new(DType::Fp16, &[1, 64, 1, 16]))?;
/// let y = b.relu(x)?;
/// let program = b.finish(&[y])?;
/// assert_eq!(program.functions[0].body.calls.len(), 1);
/// # Ok::<(), anemone_mil::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    version: Version,
    opset: Opset,
    params: Vec<Param>,
    calls: Vec<Call>,
    made: Vec<Made>,
    values: Vec<Info>,
    /// The names that are taken, with the last number up to which those that begin so are too.
    names: HashMap<String, usize>,
}

/// A call as it was made: what gradients are taken of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) def: &'static OpDef,
    /// What each parameter was bound to.
    pub(crate) args: Vec<Option<Vec<Value>>>,
    pub(crate) outputs: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Info {
    name: String,
    ty: Type,
    constant: Option<ops::Value>,
    is_constant: bool,
}

impl Builder {
    /// An empty function in the version's usual op set.
    pub fn new(version: Version) -> Builder {
        Builder {
            version,
            opset: version.default_opset(),
            params: Vec::new(),
            calls: Vec::new(),
            made: Vec::new(),
            values: Vec::new(),
            names: HashMap::new(),
        }
    }

    /// Declares an input.
    ///
    /// # Errors
    ///
    /// If the name is taken.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Result<Value> {
        if self.names.contains_key(name) {
            return Err(invalid("duplicate-name", format!("input `{name}` is declared twice")));
        }
        let v = self.define(name.to_string(), ty.into(), None);
        self.params.push(self.declaration(v));
        Ok(v)
    }

    /// A constant written in the program's text.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        self.named_constant("const", tensor)
    }

    /// A constant written in the text, named `name` or, if that is taken, something like it.
    pub fn named_constant(&mut self, name: &str, tensor: Tensor) -> Value {
        let value = Constant::tensor(tensor.clone());
        self.push_const(name, value, Some(tensor.into()))
    }

    /// A constant kept in a weights file.
    pub fn blob(&mut self, name: &str, ty: TensorType, blob: BlobRef) -> Value {
        self.push_const(name, Constant::blob(ty, blob), None)
    }

    fn push_const(&mut self, name: &str, val: Constant, constant: Option<ops::Value>) -> Value {
        let name = self.fresh(name);
        let v = self.define(name.clone(), val.ty.clone(), constant);
        self.values[v.0].is_constant = true;
        let outputs = vec![self.declaration(v)];
        let attributes = vec![("name".into(), Constant::tensor(Tensor::string(name))), ("val".into(), val)];
        self.calls.push(Call {
            outputs,
            op: "const".into(),
            opset: None,
            args: Vec::new(),
            attributes,
            blocks: Vec::new(),
            span: Span::NONE,
        });
        v
    }

    /// Begins a call of `op`.
    pub fn call(&mut self, op: &'static str) -> CallBuilder<'_> {
        CallBuilder { builder: self, op, args: Vec::new(), names: Vec::new(), label: None }
    }

    /// The type of a value.
    pub fn ty(&self, v: Value) -> &Type {
        &self.values[v.0].ty
    }

    /// The tensor type of a value.
    ///
    /// # Errors
    ///
    /// If it is no tensor.
    pub fn tensor_ty(&self, v: Value) -> Result<&TensorType> {
        self.ty(v).as_tensor().ok_or_else(|| {
            invalid("type", format!("`{}` has type {}, expected a tensor", self.name(v), self.ty(v)))
        })
    }

    /// The shape of a tensor whose sizes are all known.
    ///
    /// # Errors
    ///
    /// If it is no such tensor.
    pub fn shape(&self, v: Value) -> Result<Vec<usize>> {
        let ty = self.tensor_ty(v)?;
        ty.fixed_shape()
            .ok_or_else(|| invalid("type", format!("`{}` has type {ty}, expected a fixed shape", self.name(v))))
    }

    /// The name of a value.
    pub fn name(&self, v: Value) -> &str {
        &self.values[v.0].name
    }

    /// What a value is, if it is a constant written in the text.
    pub fn value_of(&self, v: Value) -> Option<&Tensor> {
        match &self.values[v.0].constant {
            Some(ops::Value::Tensor(t)) => Some(t),
            _ => None,
        }
    }

    /// The calls but for constants, in their order.
    pub(crate) fn made(&self) -> &[Made] {
        &self.made
    }

    /// The number of values so far.
    pub(crate) fn n_values(&self) -> usize {
        self.values.len()
    }

    /// The arguments of a call, as its op's rules see them.
    pub(crate) fn bind(&self, def: &'static OpDef, args: &[Option<Vec<Value>>]) -> Args<'_> {
        let bind = |v: &Value| {
            let info = &self.values[v.0];
            Bound { ty: &info.ty, value: info.constant.as_ref(), constant: info.is_constant }
        };
        let operand = |(p, vs): (&ops::Param, &Option<Vec<Value>>)| {
            let vs = vs.as_ref()?;
            Some(if p.variadic {
                Operand::Many(vs.iter().map(bind).collect())
            } else {
                Operand::One(bind(vs.first()?))
            })
        };
        Args { def, operands: def.params.iter().zip(args).map(operand).collect() }
    }

    /// The program, with these values as its outputs.
    ///
    /// # Errors
    ///
    /// If an output is named twice.
    pub fn finish(self, outputs: &[Value]) -> Result<Program> {
        let mut seen = HashSet::new();
        if let Some(v) = outputs.iter().find(|v| !seen.insert(**v)) {
            return Err(invalid("duplicate-name", format!("output `{}` is returned twice", self.name(*v))));
        }
        let outputs =
            outputs.iter().map(|&v| Reference { name: self.name(v).to_string(), span: Span::NONE }).collect();
        let body = Block { params: Vec::new(), calls: self.calls, outputs };
        let main = Function {
            name: "main".into(),
            opset: self.opset,
            params: self.params,
            attributes: Vec::new(),
            body,
            span: Span::NONE,
        };
        Ok(Program { version: self.version, attributes: vec![build_info()], functions: vec![main] })
    }

    fn define(&mut self, name: String, ty: Type, constant: Option<ops::Value>) -> Value {
        self.names.entry(name.clone()).or_default();
        self.values.push(Info { name, ty, constant, is_constant: false });
        Value(self.values.len() - 1)
    }

    fn declaration(&self, v: Value) -> Param {
        Param { name: self.name(v).to_string(), ty: self.ty(v).clone(), span: Span::NONE }
    }

    /// `name`, or if that is taken `name_1`, `name_2`, ...
    fn fresh(&mut self, name: &str) -> String {
        let Some(&last) = self.names.get(name) else { return name.to_string() };
        let mut n = last + 1;
        while self.names.contains_key(&format!("{name}_{n}")) {
            n += 1;
        }
        self.names.insert(name.to_string(), n - 1);
        format!("{name}_{n}")
    }
}

/// `buildInfo`, without which Apple's compiler refuses a program. The version is one that its compiler has
/// written.
pub(crate) fn build_info() -> (String, Constant) {
    let string = || Box::new(Type::Tensor(TensorType::scalar(DType::String)));
    let pair = |k: &str, v: &str| (Literal::Tensor(Tensor::string(k)), Literal::Tensor(Tensor::string(v)));
    let value = Literal::Dict(vec![pair("coremlc-version", "3505.4.1")]);
    ("buildInfo".into(), Constant { ty: Type::Dict(string(), string()), value })
}

/// A call under construction: arguments, then [`finish`](CallBuilder::finish).
pub struct CallBuilder<'b> {
    builder: &'b mut Builder,
    op: &'static str,
    args: Vec<(&'static str, Passed)>,
    names: Vec<String>,
    label: Option<String>,
}

enum Passed {
    Value(Value),
    Values(Vec<Value>),
    Constant(Option<String>, Tensor),
}

impl CallBuilder<'_> {
    /// Passes a value.
    pub fn arg(mut self, param: &'static str, value: Value) -> Self {
        self.args.push((param, Passed::Value(value)));
        self
    }

    /// Passes a tuple of values.
    pub fn args(mut self, param: &'static str, values: &[Value]) -> Self {
        self.args.push((param, Passed::Values(values.to_vec())));
        self
    }

    /// Passes a constant, under a name made from the call's.
    pub fn constant(mut self, param: &'static str, value: Tensor) -> Self {
        self.args.push((param, Passed::Constant(None, value)));
        self
    }

    /// Passes a constant under the name `name`.
    pub fn constant_named(mut self, param: &'static str, name: &str, value: Tensor) -> Self {
        self.args.push((param, Passed::Constant(Some(name.to_string()), value)));
        self
    }

    /// Names the output; otherwise it is named after the op.
    pub fn named(self, name: &str) -> Self {
        self.named_each([name])
    }

    /// Names each of several outputs.
    pub fn named_each<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.names = names.into_iter().map(str::to_string).collect();
        self
    }

    /// Sets the call's `name` attribute; otherwise it is the output's name.
    pub fn labelled(mut self, label: &str) -> Self {
        self.label = Some(label.to_string());
        self
    }

    /// Makes the call, which has one output.
    ///
    /// # Errors
    ///
    /// If the arguments do not fit the op; the message names op, arguments and shapes.
    pub fn finish(self) -> Result<Value> {
        let op = self.op;
        match self.finish_many()?[..] {
            [v] => Ok(v),
            ref vs => Err(invalid("type", format!("op `{op}` has {} outputs here, expected one", vs.len()))),
        }
    }

    /// Makes the call, whatever the number of its outputs.
    ///
    /// # Errors
    ///
    /// As [`finish`](CallBuilder::finish).
    pub fn finish_many(mut self) -> Result<Vec<Value>> {
        let b = &mut *self.builder;
        let def = match ops::find(self.op, b.opset) {
            Some(Ok(def)) => def,
            _ => return Err(invalid("unknown-op", format!("op `{}` does not exist in {}", self.op, b.opset))),
        };
        let base = b.fresh(self.names.first().map_or(self.op, String::as_str));
        if let Some((stray, _)) = self.args.iter().find(|(n, _)| def.param(n).is_none()) {
            return Err(invalid("unknown-argument", format!("op `{}` has no parameter `{stray}`", self.op)));
        }
        let float = self
            .args
            .iter()
            .find_map(|(_, p)| match p {
                Passed::Value(v) => Some(*v),
                Passed::Values(vs) => vs.first().copied(),
                Passed::Constant(..) => None,
            })
            .and_then(|v| b.ty(v).as_tensor())
            .map_or(DType::Fp32, |t| if t.dtype.is_float() { t.dtype } else { DType::Fp32 });
        let given: Vec<&str> = self.args.iter().map(|(n, _)| *n).collect();
        for p in def.params.iter().filter(|p| !given.contains(&p.name)) {
            if let Presence::Default(c) = p.presence {
                self.args.push((p.name, Passed::Constant(None, c.to_tensor(float))));
            }
        }
        self.args.sort_by_key(|(n, _)| *n);
        let mut bound: HashMap<&str, Vec<Value>> = HashMap::new();
        let mut args = Vec::new();
        for (param, passed) in self.args {
            let values = match passed {
                Passed::Value(v) => vec![v],
                Passed::Values(vs) => vs,
                Passed::Constant(name, t) => {
                    let name = name.unwrap_or_else(|| format!("{base}_{param}"));
                    vec![b.named_constant(&name, t)]
                }
            };
            let name = |v: &Value| ArgValue::Name(b.name(*v).to_string());
            let value = match &values[..] {
                [v] => name(v),
                vs => ArgValue::Tuple(vs.iter().map(name).collect()),
            };
            args.push(Arg { name: param.to_string(), value, span: Span::NONE });
            bound.insert(param, values);
        }
        let made: Vec<Option<Vec<Value>>> = def.params.iter().map(|p| bound.get(p.name).cloned()).collect();
        let types = ops::infer(&b.bind(def, &made)).map_err(|e| {
            let shapes: Vec<String> = args.iter().filter_map(|a| describe(b, &bound, &a.name)).collect();
            call_error(self.op, &base, &e).note_if(!shapes.is_empty(), format!("arguments: {}", shapes.join(", ")))
        });
        let types = types.map_err(|d| Error::invalid(vec![d]))?;
        let single = types.len() == 1;
        let outputs: Vec<Value> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let name = match self.names.get(i) {
                    _ if single => base.clone(),
                    Some(name) => b.fresh(name),
                    None => b.fresh(&format!("{base}_{i}")),
                };
                b.define(name, ty, None)
            })
            .collect();
        let label = self.label.unwrap_or(base);
        let call = Call {
            outputs: outputs.iter().map(|&v| b.declaration(v)).collect(),
            op: self.op.to_string(),
            opset: None,
            args,
            attributes: vec![("name".into(), Constant::tensor(Tensor::string(label)))],
            blocks: Vec::new(),
            span: Span::NONE,
        };
        b.calls.push(call);
        b.made.push(Made { def, args: made, outputs: outputs.clone() });
        Ok(outputs)
    }
}

/// The types of the arguments that are not constants of the text: what a shape error is about.
fn describe(b: &Builder, bound: &HashMap<&str, Vec<Value>>, arg: &str) -> Option<String> {
    let vs = bound.get(arg)?;
    let shown: Vec<String> = vs
        .iter()
        .filter(|v| b.value_of(**v).is_none())
        .map(|v| format!("`{}` {}", b.name(*v), b.ty(*v)))
        .collect();
    (!shown.is_empty()).then(|| format!("{arg} = {}", shown.join(" and ")))
}

impl Diagnostic {
    fn note_if(self, condition: bool, note: String) -> Diagnostic {
        if condition { self.note(note) } else { self }
    }
}

/// What a call says of its op's error.
pub(crate) fn call_error(op: &str, output: &str, e: &OpError) -> Diagnostic {
    Diagnostic::error("type", format!("op `{op}` (`{output}`): {e}"))
}

/// Sizes as an argument; what `int32` cannot hold becomes its largest, which fits no tensor there is.
fn sizes(sizes: &[usize]) -> Tensor {
    let sizes: Vec<i32> = sizes.iter().map(|&d| i32::try_from(d).unwrap_or(i32::MAX)).collect();
    Tensor::i32s(&sizes)
}

fn invalid(code: &'static str, message: String) -> Error {
    Error::invalid(vec![Diagnostic::error(code, message)])
}

/// Short forms of the usual ops.
impl Builder {
    /// `x` converted to elements of type `dtype`.
    ///
    /// # Errors
    ///
    /// As all of these, if the arguments do not fit the op.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Result<Value> {
        self.call("cast").arg("x", x).constant("dtype", Tensor::string(dtype.as_str())).finish()
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: Value) -> Result<Value> {
        self.call("relu").arg("x", x).finish()
    }

    /// `x + y`, broadcast.
    pub fn add(&mut self, x: Value, y: Value) -> Result<Value> {
        self.call("add").arg("x", x).arg("y", y).finish()
    }

    /// `x - y`, broadcast.
    pub fn sub(&mut self, x: Value, y: Value) -> Result<Value> {
        self.call("sub").arg("x", x).arg("y", y).finish()
    }

    /// `x * y`, broadcast.
    pub fn mul(&mut self, x: Value, y: Value) -> Result<Value> {
        self.call("mul").arg("x", x).arg("y", y).finish()
    }

    /// `x * factor`, the factor in `x`'s element type.
    pub fn scale(&mut self, x: Value, factor: f64) -> Result<Value> {
        let dtype = self.tensor_ty(x)?.dtype;
        let factor = match dtype.is_float() {
            true => Tensor::float(dtype, &[], vec![factor]),
            false => Tensor::int(dtype, &[], vec![factor as i64]),
        };
        self.call("mul").arg("x", x).constant("y", factor).finish()
    }

    /// The matrix product over the last two axes, either side transposed on request, the others broadcast.
    pub fn matmul(&mut self, x: Value, y: Value, transpose_x: bool, transpose_y: bool) -> Result<Value> {
        self.call("matmul")
            .arg("x", x)
            .arg("y", y)
            .constant("transpose_x", Tensor::bool(transpose_x))
            .constant("transpose_y", Tensor::bool(transpose_y))
            .finish()
    }

    /// The 1x1 convolution of `x` `[N, I, H, W]` with `weight` `[O, I, 1, 1]` (or with any other number of spatial
    /// axes): a linear layer over channels.
    pub fn pointwise(&mut self, x: Value, weight: Value) -> Result<Value> {
        self.pointwise_call(x, weight)?.finish()
    }

    /// The same, not made yet.
    pub(crate) fn pointwise_call(&mut self, x: Value, weight: Value) -> Result<CallBuilder<'_>> {
        let n = self.tensor_ty(x)?.shape.len().saturating_sub(2);
        Ok(self
            .call("conv")
            .arg("x", x)
            .arg("weight", weight)
            .constant("strides", Tensor::i32s(&vec![1; n]))
            .constant("pad", Tensor::i32s(&vec![0; 2 * n]))
            .constant("dilations", Tensor::i32s(&vec![1; n])))
    }

    /// The axes of `x` in the order `perm`.
    pub fn transpose(&mut self, x: Value, perm: &[i32]) -> Result<Value> {
        self.call("transpose").arg("x", x).constant("perm", Tensor::i32s(perm)).finish()
    }

    /// The elements of `x` in another shape.
    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Result<Value> {
        self.call("reshape").arg("x", x).constant("shape", sizes(shape)).finish()
    }

    /// `size` elements along each axis of `x`, from `begin` on.
    pub fn slice(&mut self, x: Value, begin: &[usize], size: &[usize]) -> Result<Value> {
        self.call("slice_by_size")
            .arg("x", x)
            .constant("begin", sizes(begin))
            .constant("size", sizes(size))
            .finish()
    }

    /// The tensors one after the other along `axis`.
    pub fn concat(&mut self, values: &[Value], axis: usize) -> Result<Value> {
        self.call("concat").args("values", values).constant("axis", Tensor::i32(axis as i32)).finish()
    }

    /// A tensor of that shape with `value` everywhere.
    pub fn filled(&mut self, dtype: DType, shape: &[usize], value: f64) -> Result<Value> {
        let value = Tensor::float(dtype, &[], vec![value]);
        self.call("fill").constant("shape", sizes(shape)).constant("value", value).finish()
    }

    /// The sum over `axes`, which stay as size 1 if `keep_dims`.
    pub fn reduce_sum(&mut self, x: Value, axes: &[i32], keep_dims: bool) -> Result<Value> {
        self.reduce("reduce_sum", x, axes, keep_dims)
    }

    /// The mean over `axes`, which stay as size 1 if `keep_dims`.
    pub fn reduce_mean(&mut self, x: Value, axes: &[i32], keep_dims: bool) -> Result<Value> {
        self.reduce("reduce_mean", x, axes, keep_dims)
    }

    /// A reduction `op` over `axes`, which stay as size 1 if `keep_dims`.
    pub(crate) fn reduce(&mut self, op: &'static str, x: Value, axes: &[i32], keep_dims: bool) -> Result<Value> {
        self.call(op)
            .arg("x", x)
            .constant("axes", Tensor::i32s(axes))
            .constant("keep_dims", Tensor::bool(keep_dims))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_written_out_as_a_named_constant() {
        let mut b = Builder::new(Version::V1_0);
        let x = b.input("x", TensorType::new(DType::Fp16, &[1, 4, 1, 8])).unwrap();
        let w = b.input("w", TensorType::new(DType::Fp16, &[2, 4, 1, 1])).unwrap();
        let y = b.pointwise(x, w).unwrap();
        assert_eq!(b.shape(y).unwrap(), [1, 2, 1, 8]);
        let program = b.finish(&[y]).unwrap();
        let conv = program.functions[0].body.calls.last().unwrap();
        let names: Vec<&str> = conv.args.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["dilations", "groups", "pad", "pad_type", "strides", "weight", "x"]);
    }

    #[test]
    fn a_misfit_names_the_op_and_the_shapes() {
        let mut b = Builder::new(Version::V1_3);
        let x = b.input("x", TensorType::new(DType::Fp16, &[1, 4, 1, 8])).unwrap();
        let w = b.input("w", TensorType::new(DType::Fp16, &[2, 3, 1, 1])).unwrap();
        let e = b.pointwise(x, w).unwrap_err().to_string();
        assert_eq!(
            e,
            "op `conv` (`conv`): argument `weight` has shape [2, 3, 1, 1], expected [*, 4, 1, 1] to match input `x` \
             [1, 4, 1, 8] in 1 groups; arguments: weight = `w` fp16 [2, 3, 1, 1], x = `x` fp16 [1, 4, 1, 8]"
        );
    }
}
