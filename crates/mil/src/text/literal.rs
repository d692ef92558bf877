//! The part of the parser that reads types and typed literals.

use super::lex::Kind;
use super::number::parse_float;
use super::parser::{Parse, Parser, is_type_constructor, quoted};
use crate::error::Diagnostic;
use crate::ir::{BlobRef, BufferType, Constant, DType, Dim, Literal, Span, TensorType, Type};
use crate::tensor::Tensor;

impl Parser<'_> {
    pub(super) fn ty(&mut self) -> Parse<Type> {
        let (word, span) = self.ident("a type")?;
        if let Some(dtype) = DType::from_name(word) {
            return Ok(Type::Tensor(TensorType::scalar(dtype)));
        }
        if !is_type_constructor(word) {
            return self.unknown_type(word, span);
        }
        self.expect(Kind::Less, "`<`")?;
        let ty = self.nested(|p| match word {
            "tensor" => Ok(Type::Tensor(p.tensor_type()?)),
            "list" => {
                let element = p.ty()?;
                p.expect(Kind::Comma, "`,` and the length")?;
                Ok(Type::List(Box::new(element), known(p.dim()?)))
            }
            "tuple" => {
                let mut items = vec![p.ty()?];
                while p.eat(Kind::Comma) {
                    items.push(p.ty()?);
                }
                Ok(Type::Tuple(items))
            }
            "dict" => {
                let key = p.ty()?;
                p.expect(Kind::Comma, "`,` and the type of the values")?;
                Ok(Type::Dict(Box::new(key), Box::new(p.ty()?)))
            }
            "state" => {
                let start = p.token.span;
                match p.ty()? {
                    Type::Tensor(t) => Ok(Type::State(t)),
                    other => {
                        let d = Diagnostic::error("type", format!("a state of type `{other}`"));
                        let span = p.span_from(start);
                        p.fail(d.at(span, "expected a tensor type"))
                    }
                }
            }
            _ => p.buffer_type().map(Type::Buffer),
        })?;
        self.expect(Kind::Greater, "`>`")?;
        Ok(ty)
    }

    fn unknown_type<T>(&mut self, word: &str, span: Span) -> Parse<T> {
        let d = Diagnostic::error("type", format!("unknown type {}", quoted(word)));
        let meant = match word {
            "float16" | "half" | "f16" => "fp16",
            "float32" | "float" | "f32" => "fp32",
            "float64" | "double" | "f64" => "fp64",
            "bfloat16" => "bf16",
            "int" | "i32" => "int32",
            "i64" => "int64",
            "str" => "string",
            "boolean" => "bool",
            _ => {
                let d = d.at(span, "expected a type");
                let d = d.note(
                    "types are tensor<...>, list<...>, tuple<...>, dict<...>, state<...> and tensor_buffer<...>",
                );
                return self
                    .fail(d.note(format!("element types are {}", DType::ALL.map(DType::as_str).join(", "))));
            }
        };
        self.fail(d.at(span, format!("in MIL this is `{meant}`")))
    }

    /// `dtype, shape`
    fn tensor_type(&mut self) -> Parse<TensorType> {
        let (word, span) = self.ident("an element type")?;
        let Some(dtype) = DType::from_name(word) else { return self.unknown_type(word, span) };
        self.expect(Kind::Comma, "`,` and the shape")?;
        Ok(TensorType { dtype, shape: self.shape()? })
    }

    /// `dtype, shape=..., strides=..., interleave_factors=...`
    fn buffer_type(&mut self) -> Parse<BufferType> {
        let (word, span) = self.ident("an element type")?;
        let Some(dtype) = DType::from_name(word) else { return self.unknown_type(word, span) };
        let mut field = |name: &'static str| {
            self.expect(Kind::Comma, "`,`")?;
            let (word, span) = self.ident(&format!("`{name}`"))?;
            if word != name {
                let d = Diagnostic::error("type", format!("expected `{name}`, found {}", quoted(word)));
                return self
                    .fail(d.at(span, "a tensor_buffer has shape, strides and interleave_factors, in that order"));
            }
            self.expect(Kind::Equals, "`=`")?;
            self.shape()
        };
        let shape = field("shape")?;
        let strides = field("strides")?;
        let interleave_factors = field("interleave_factors")?;
        Ok(BufferType { tensor: TensorType { dtype, shape }, strides, interleave_factors })
    }

    fn shape(&mut self) -> Parse<Vec<Dim>> {
        self.expect(Kind::OpenBracket, "`[` and the sizes")?;
        self.list(Kind::CloseBracket, "`]`", Self::dim)
    }

    fn dim(&mut self) -> Parse<Dim> {
        if self.eat(Kind::Question) {
            return Ok(Dim::Any);
        }
        let span = self.token.span;
        if !self.at(Kind::Number) {
            return self.unexpected("a size or `?`");
        }
        let text = self.text(span);
        match text.parse() {
            Ok(n) => {
                self.advance();
                Ok(Dim::Fixed(n))
            }
            Err(_) => {
                let d = Diagnostic::error("type", format!("expected a size, found {}", quoted(text)));
                self.fail(d.at(span, "expected an integer from 0 to 2^64 - 1, or `?`"))
            }
        }
    }

    /// `type(literal)` or `type(BLOBFILE(...))`
    pub(super) fn constant(&mut self) -> Parse<Constant> {
        let start = self.token.span;
        let ty = self.ty()?;
        let span = self.span_from(start);
        self.expect(Kind::OpenParen, "`(` and the value")?;
        let value = if self.at(Kind::Ident) && self.text(self.token.span) == "BLOBFILE" {
            self.blob(&ty)?
        } else {
            self.literal(&ty, span)?
        };
        self.expect(Kind::CloseParen, "`)`")?;
        Ok(Constant { ty, value })
    }

    /// `BLOBFILE(path = string, offset = uint64)`
    fn blob(&mut self, ty: &Type) -> Parse<Literal> {
        let start = self.token.span;
        if ty.as_tensor().is_none() {
            let d = Diagnostic::error("literal", format!("a weights file holds tensors, not `{ty}`"));
            return self.fail(d.at(start, "expected a literal"));
        }
        self.advance();
        self.expect(Kind::OpenParen, "`(`")?;
        let path = self.blob_field("path", DType::String)?;
        self.expect(Kind::Comma, "`,` and the offset")?;
        let offset = self.blob_field("offset", DType::UInt64)?;
        self.expect(Kind::CloseParen, "`)`")?;
        let path = path.strs().and_then(|s| s.first()).cloned().unwrap_or_default();
        let offset = offset.ints().and_then(|i| i.first()).map_or(0, |&i| i as u64);
        Ok(Literal::Blob(BlobRef { path, offset }))
    }

    /// `name = constant`, a scalar of type `dtype`.
    fn blob_field(&mut self, name: &str, dtype: DType) -> Parse<Tensor> {
        if !(self.at(Kind::Ident) && self.text(self.token.span) == name) {
            return self.unexpected(&format!("`{name}`"));
        }
        self.advance();
        self.expect(Kind::Equals, "`=`")?;
        let start = self.token.span;
        match self.nested(Self::constant)? {
            Constant { value: Literal::Tensor(t), .. } if t.dtype() == dtype && t.rank() == 0 => Ok(t),
            other => {
                let d = format!("`{name}` of a BLOBFILE is a literal of type `{dtype}`, not of `{}`", other.ty);
                let span = self.span_from(start);
                self.fail(Diagnostic::error("type", d).at(span, format!("expected a `{dtype}` literal")))
            }
        }
    }

    /// A literal of type `ty`, which stands at `declared`.
    fn literal(&mut self, ty: &Type, declared: Span) -> Parse<Literal> {
        let start = self.token.span;
        match ty {
            Type::Tensor(t) => Ok(Literal::Tensor(self.tensor(t, declared)?)),
            Type::List(element, length) => {
                self.expect(Kind::OpenBracket, "the `[` of a list")?;
                let items =
                    self.nested(|p| p.list(Kind::CloseBracket, "`]`", |p| p.literal(element, declared)))?;
                match length {
                    Some(n) if *n != items.len() as u64 => self.misfit(
                        format!("expected a list of {n}, found {}", items.len()),
                        self.span_from(start),
                        format!("expected {n}"),
                        declared,
                    ),
                    _ => Ok(Literal::List(items)),
                }
            }
            Type::Tuple(types) => {
                self.expect(Kind::OpenParen, "the `(` of a tuple")?;
                let mut n = 0;
                let items = self.nested(|p| {
                    p.list(Kind::CloseParen, "`)`", |p| {
                        let Some(ty) = types.get(n) else {
                            let (d, here) = (format!("expected a tuple of {n}, found more"), p.token.span);
                            return p.misfit(d, here, "one too many".to_string(), declared);
                        };
                        n += 1;
                        p.literal(ty, declared)
                    })
                })?;
                if items.len() < types.len() {
                    let d = format!("expected a tuple of {}, found {}", types.len(), items.len());
                    return self.misfit(d, self.span_from(start), format!("expected {}", types.len()), declared);
                }
                Ok(Literal::Tuple(items))
            }
            Type::Dict(key, value) => {
                self.expect(Kind::OpenBrace, "the `{` of a dict")?;
                let items = self.nested(|p| {
                    p.list(Kind::CloseBrace, "`}`", |p| {
                        p.expect(Kind::OpenBrace, "`{key, value}`")?;
                        let key = p.literal(key, declared)?;
                        p.expect(Kind::Comma, "`,` and the value")?;
                        let value = p.literal(value, declared)?;
                        p.expect(Kind::CloseBrace, "`}`")?;
                        Ok((key, value))
                    })
                })?;
                Ok(Literal::Dict(items))
            }
            Type::State(_) | Type::Buffer(_) => {
                let d = Diagnostic::error("literal", format!("there are no literals of type `{ty}`"));
                self.fail(d.at(declared, "expected a tensor, list, tuple or dict"))
            }
        }
    }

    /// Records that a literal does not fit its type.
    fn misfit<T>(&mut self, message: String, span: Span, text: String, declared: Span) -> Parse<T> {
        let d = Diagnostic::error("literal", message).at(span, text);
        self.fail(d.at(declared, "of this type"))
    }

    /// The elements of a tensor, nested to its rank.
    fn tensor(&mut self, ty: &TensorType, declared: Span) -> Parse<Tensor> {
        let mut elements = if ty.dtype == DType::String {
            Elements::Strings(Vec::new())
        } else if ty.dtype.is_float() {
            Elements::Floats(Vec::new())
        } else {
            Elements::Ints(Vec::new())
        };
        // What the type leaves open, the first list of each level decides.
        let mut sizes: Vec<Option<u64>> = ty.shape.iter().map(|&d| known(d)).collect();
        self.level(ty, declared, 0, &mut sizes, &mut elements)?;
        // A list of no elements leaves the sizes below it undecided; nothing was read of them.
        let shape: Option<Vec<usize>> = sizes.iter().map(|n| usize::try_from(n.unwrap_or(0)).ok()).collect();
        let Some(shape) = shape else {
            let d = format!("a tensor of shape {ty} does not fit in memory");
            return self.fail(Diagnostic::error("literal", d).at(declared, ""));
        };
        Ok(match elements {
            Elements::Floats(x) => Tensor::float(ty.dtype, &shape, x),
            Elements::Ints(x) => Tensor::int(ty.dtype, &shape, x),
            Elements::Strings(x) => Tensor::strings(&shape, x),
        })
    }

    /// What stands at dimension `level` of a tensor: a list, or below the last dimension an element.
    fn level(
        &mut self,
        ty: &TensorType,
        declared: Span,
        level: usize,
        sizes: &mut [Option<u64>],
        elements: &mut Elements,
    ) -> Parse<()> {
        if level == sizes.len() {
            return self.element(ty.dtype, level, elements);
        }
        let open = self.token.span;
        if !self.at(Kind::OpenBracket) {
            if !matches!(self.token.kind, Kind::Number | Kind::Ident | Kind::Str) {
                return self.unexpected("`[`");
            }
            let rank = sizes.len();
            let d = format!("the literal of a tensor of rank {rank} is nested {rank} deep, this one {level}");
            let d = Diagnostic::error("literal", d).at(open, "expected `[`").at(declared, "of this type");
            return self
                .fail(d.note("a literal is nested as its type says: `[[1, 2], [3, 4]]` for the shape [2, 2]"));
        }
        self.advance();
        let mut n = 0u64;
        self.nested(|p| {
            p.list(Kind::CloseBracket, "`]`", |p| {
                if sizes[level] == Some(n) {
                    let d =
                        format!("expected size {n} in dimension {level} of a tensor of type `{ty}`, found more");
                    return p.misfit(d, p.token.span, format!("expected `]` after {n}"), declared);
                }
                n += 1;
                p.level(ty, declared, level + 1, sizes, elements)
            })
            // The items of a tensor are in `elements`; these are units, which take no room.
            .map(|_: Vec<()>| ())
        })?;
        match sizes[level] {
            Some(expected) if expected != n => {
                let d =
                    format!("expected size {expected} in dimension {level} of a tensor of type `{ty}`, found {n}");
                self.misfit(d, self.span_from(open), format!("expected {expected}"), declared)
            }
            Some(_) => Ok(()),
            None => {
                sizes[level] = Some(n);
                Ok(())
            }
        }
    }

    fn element(&mut self, dtype: DType, rank: usize, elements: &mut Elements) -> Parse<()> {
        let span = self.token.span;
        if self.at(Kind::OpenBracket) {
            let d = match rank {
                0 => "the literal of a scalar stands without brackets".to_string(),
                _ => format!("the literal of a tensor of rank {rank} is nested {rank} deep, this one deeper"),
            };
            return self
                .fail(Diagnostic::error("literal", d).at(span, format!("expected an element of type `{dtype}`")));
        }
        let text = self.text(span);
        let is_text = matches!(self.token.kind, Kind::Number | Kind::Ident);
        match elements {
            Elements::Floats(xs) if is_text => match parse_float(text) {
                Some(x) => xs.push(x),
                None => return self.bad_element(dtype, "a number such as `0.5`, `0x1p-1`, `-inf` or `nan`"),
            },
            Elements::Ints(xs) if dtype == DType::Bool && is_text => match text {
                "true" => xs.push(1),
                "false" => xs.push(0),
                _ => return self.bad_element(dtype, "`true` or `false`"),
            },
            Elements::Ints(xs) if is_text => match parse_int(dtype, text) {
                Some(x) => xs.push(x),
                None => {
                    let (low, high) = dtype.int_range().unwrap_or_default();
                    return self.bad_element(dtype, &format!("an integer from {low} to {high}"));
                }
            },
            Elements::Strings(xs) if self.at(Kind::Str) => {
                let string = self.unescape(span)?;
                xs.push(string);
            }
            _ => return self.unexpected(&format!("an element of type `{dtype}`")),
        }
        self.advance();
        Ok(())
    }

    fn bad_element<T>(&mut self, dtype: DType, expected: &str) -> Parse<T> {
        let found = quoted(self.text(self.token.span));
        let d = Diagnostic::error("literal", format!("{found} is no `{dtype}`"));
        self.fail(d.at(self.token.span, format!("expected {expected}")))
    }

    /// The string that stands at `span` with its quotes.
    fn unescape(&mut self, span: Span) -> Parse<String> {
        let text = self.text(span);
        let mut rest = &text[1..text.len() - 1];
        let mut string = String::with_capacity(rest.len());
        while let Some(at) = rest.find(['\\', '\0']) {
            string.push_str(&rest[..at]);
            let here = span.start + 1 + (text.len() - 2 - rest.len() + at) as u32;
            let mut chars = rest[at..].chars();
            let (first, second) = (chars.next(), chars.next());
            string.push(match (first, second) {
                (Some('\\'), Some('"')) => '"',
                (Some('\\'), Some('\\')) => '\\',
                (Some('\\'), Some('n')) => '\n',
                (Some('\\'), Some('r')) => '\r',
                (Some('\\'), Some('t')) => '\t',
                (Some('\\'), Some('0')) => '\0',
                (Some('\\'), Some(c)) => {
                    let here = Span { start: here, end: here + 1 + c.len_utf8() as u32 };
                    let d = Diagnostic::error("syntax", format!("unknown escape {}", quoted(self.text(here))));
                    let known = "expected `\\\"`, `\\\\`, `\\n`, `\\r`, `\\t` or `\\0`";
                    return self.fail(d.at(here, known));
                }
                _ => {
                    let d = Diagnostic::error("syntax", "a NUL byte in a string");
                    return self.fail(d.at(Span { start: here, end: here + 1 }, "write it as `\\0`"));
                }
            });
            rest = chars.as_str();
        }
        string.push_str(rest);
        Ok(string)
    }
}

fn known(dim: Dim) -> Option<u64> {
    match dim {
        Dim::Fixed(n) => Some(n),
        Dim::Any => None,
    }
}

/// The elements of a tensor as they are read.
enum Elements {
    Floats(Vec<f64>),
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

/// The integer that `text` spells, if it is one of type `dtype`; `uint64` as its bit pattern.
fn parse_int(dtype: DType, text: &str) -> Option<i64> {
    let (low, high) = dtype.int_range()?;
    let x: i128 = match text.parse::<i64>() {
        Ok(x) => x.into(),
        Err(_) => text.parse::<u64>().ok()?.into(),
    };
    (low <= x && x <= high).then_some(x as i64)
}
