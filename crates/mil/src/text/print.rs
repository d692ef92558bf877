//! Programs into text, in the layout of coremlc.

use super::number::write_float;
use crate::ir::{
    ArgValue, Attributes, BlobRef, Block, Call, Constant, DType, Function, Literal, Param, Program, TensorType,
    Type, Version, fmt_shape,
};
use crate::tensor::{Data, Tensor};
use std::fmt::{self, Write};

/// Statements of a function's body begin in this column, those of a nested block four further right.
const BODY_INDENT: usize = 12;

/// The text of `program` as coremlc lays it out, in the dialect of [`Program::version`].
///
/// Nothing is sorted or otherwise changed: what [`parse`](super::parse) makes of the text is `program` again. See
/// [`Program::normalize`] for coremlc's order.
pub fn print(program: &Program) -> String {
    let mut printer = Printer { out: String::new(), version: program.version };
    // Writing to a string does not fail.
    let _ = printer.program(program);
    printer.out
}

impl fmt::Display for Program {
    /// The text that [`print()`] gives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

struct Printer {
    out: String,
    version: Version,
}

impl Printer {
    fn put(&mut self, text: &str) -> fmt::Result {
        self.out.push_str(text);
        Ok(())
    }

    fn separated<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T) -> fmt::Result) -> fmt::Result {
        for (i, x) in items.iter().enumerate() {
            if i > 0 {
                self.put(", ")?;
            }
            item(self, x)?;
        }
        Ok(())
    }

    fn program(&mut self, program: &Program) -> fmt::Result {
        writeln!(self.out, "program({})", program.version.as_str())?;
        if !program.attributes.is_empty() {
            self.attributes(&program.attributes)?;
            self.put("\n")?;
        }
        self.put("{\n")?;
        for function in &program.functions {
            self.function(function)?;
        }
        self.put("}")
    }

    fn function(&mut self, function: &Function) -> fmt::Result {
        write!(self.out, "    func {}<{}>(", function.name, function.opset)?;
        self.separated(&function.params, Self::param)?;
        self.put(")")?;
        if !function.attributes.is_empty() {
            self.put(" ")?;
            self.attributes(&function.attributes)?;
        }
        self.put(" ")?;
        self.block(&function.body, BODY_INDENT, 8)?;
        self.put(";\n")
    }

    fn param(&mut self, param: &Param) -> fmt::Result {
        self.ty(&param.ty)?;
        self.put(" ")?;
        self.put(&param.name)
    }

    /// Braces, statements in column `indent`, and the outputs behind the brace in column `close`.
    fn block(&mut self, block: &Block, indent: usize, close: usize) -> fmt::Result {
        self.put("{\n")?;
        for call in &block.calls {
            write!(self.out, "{:indent$}", "")?;
            self.call(call, indent)?;
        }
        write!(self.out, "{:close$}}} -> (", "")?;
        self.separated(&block.outputs, |p, output| p.put(&output.name))?;
        self.put(")")
    }

    fn call(&mut self, call: &Call, indent: usize) -> fmt::Result {
        if !call.outputs.is_empty() {
            self.separated(&call.outputs, Self::param)?;
            self.put(" = ")?;
        }
        self.put(&call.op)?;
        if let Some(opset) = call.opset {
            write!(self.out, "<{opset}>")?;
        }
        self.put("(")?;
        self.separated(&call.args, |p, arg| {
            p.put(&arg.name)?;
            p.put(" = ")?;
            p.arg_value(&arg.value)
        })?;
        self.put(")")?;
        if !call.attributes.is_empty() {
            self.attributes(&call.attributes)?;
        }
        for block in &call.blocks {
            self.put(" (")?;
            self.separated(&block.params, Self::param)?;
            self.put(") ")?;
            self.block(block, indent + 4, indent)?;
        }
        self.put(";\n")
    }

    fn arg_value(&mut self, value: &ArgValue) -> fmt::Result {
        match value {
            ArgValue::Name(name) => self.put(name),
            ArgValue::Constant(constant) => self.constant(constant),
            ArgValue::Tuple(values) => {
                self.put("(")?;
                self.separated(values, Self::arg_value)?;
                self.put(")")
            }
        }
    }

    fn attributes(&mut self, attributes: &Attributes) -> fmt::Result {
        self.put("[")?;
        self.separated(attributes, |p, (name, constant)| {
            p.put(name)?;
            p.put(" = ")?;
            p.constant(constant)
        })?;
        self.put("]")
    }

    fn constant(&mut self, constant: &Constant) -> fmt::Result {
        self.ty(&constant.ty)?;
        self.put("(")?;
        self.literal(&constant.value)?;
        self.put(")")
    }

    fn literal(&mut self, literal: &Literal) -> fmt::Result {
        match literal {
            Literal::Tensor(tensor) => self.elements(tensor, 0, 0, tensor.len()),
            Literal::Blob(BlobRef { path, offset }) => {
                self.put("BLOBFILE(path = ")?;
                self.tensor_type(&TensorType::scalar(DType::String))?;
                self.put("(")?;
                self.string(path)?;
                self.put("), offset = ")?;
                self.tensor_type(&TensorType::scalar(DType::UInt64))?;
                write!(self.out, "({offset}))")
            }
            Literal::List(items) => {
                self.put("[")?;
                self.separated(items, Self::literal)?;
                self.put("]")
            }
            Literal::Tuple(items) => {
                self.put("(")?;
                self.separated(items, Self::literal)?;
                self.put(")")
            }
            Literal::Dict(items) => {
                self.put("{")?;
                self.separated(items, |p, (key, value)| {
                    p.put("{")?;
                    p.literal(key)?;
                    p.put(", ")?;
                    p.literal(value)?;
                    p.put("}")
                })?;
                self.put("}")
            }
        }
    }

    /// The `n` elements from `start` on, which are those of one index of the dimensions before `level`.
    fn elements(&mut self, tensor: &Tensor, level: usize, start: usize, n: usize) -> fmt::Result {
        let Some(&size) = tensor.shape().get(level) else {
            return match tensor.data() {
                Data::Float(x) => write_float(&mut self.out, x[start]),
                Data::Str(x) => self.string(&x[start]),
                Data::Int(x) => match tensor.dtype() {
                    DType::Bool => self.put(if x[start] == 0 { "false" } else { "true" }),
                    DType::UInt64 => write!(self.out, "{}", x[start] as u64),
                    _ => write!(self.out, "{}", x[start]),
                },
            };
        };
        self.put("[")?;
        for i in 0..size {
            if i > 0 {
                self.put(", ")?;
            }
            self.elements(tensor, level + 1, start + i * (n / size), n / size)?;
        }
        self.put("]")
    }

    fn string(&mut self, text: &str) -> fmt::Result {
        self.put("\"")?;
        let mut rest = text;
        while let Some(at) = rest.find(['"', '\\', '\n', '\r', '\t', '\0']) {
            self.put(&rest[..at])?;
            self.put(match rest.as_bytes()[at] {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                _ => "\\0",
            })?;
            rest = &rest[at + 1..];
        }
        self.put(rest)?;
        self.put("\"")
    }

    fn ty(&mut self, ty: &Type) -> fmt::Result {
        match ty {
            Type::Tensor(t) => self.tensor_type(t),
            Type::List(element, length) => {
                self.put("list<")?;
                self.ty(element)?;
                match length {
                    Some(n) => write!(self.out, ", {n}>"),
                    None => self.put(", ?>"),
                }
            }
            Type::Tuple(types) => {
                self.put("tuple<")?;
                self.separated(types, Self::ty)?;
                self.put(">")
            }
            Type::Dict(key, value) => {
                self.put("dict<")?;
                self.ty(key)?;
                self.put(", ")?;
                self.ty(value)?;
                self.put(">")
            }
            Type::State(t) => {
                self.put("state<")?;
                self.tensor_type(t)?;
                self.put(">")
            }
            Type::Buffer(b) => {
                write!(self.out, "tensor_buffer<{}, shape=", b.tensor.dtype)?;
                fmt_shape(&mut self.out, &b.tensor.shape)?;
                self.put(", strides=")?;
                fmt_shape(&mut self.out, &b.strides)?;
                self.put(", interleave_factors=")?;
                fmt_shape(&mut self.out, &b.interleave_factors)?;
                self.put(">")
            }
        }
    }

    fn tensor_type(&mut self, t: &TensorType) -> fmt::Result {
        if t.shape.is_empty() && self.version == Version::V1_3 {
            return self.put(t.dtype.as_str());
        }
        write!(self.out, "tensor<{}, ", t.dtype)?;
        fmt_shape(&mut self.out, &t.shape)?;
        self.put(">")
    }
}
