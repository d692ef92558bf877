//! Tokens into a program: the grammar from the outside in, down to types and literals.

use super::lex::Kind;
use super::parser::{Failed, Parse, Parser, is_type_constructor, quoted};
use crate::error::{Diagnostic, Error, Result};
use crate::ir::{
    Arg, ArgValue, Attributes, Block, Call, Function, Opset, Param, Program, Reference, Span, Version,
};

/// Reads MIL text.
///
/// # Errors
///
/// A parse error ([`Error::is_parse`]) with a diagnostic for each mistake, up to 20: a text that is no MIL, a
/// literal that does not fit its type, nesting deeper than 64.
pub fn parse(source: &str) -> Result<Program> {
    if u32::try_from(source.len()).is_err() {
        let d = Diagnostic::error("syntax", format!("a source of {} bytes is too long", source.len()));
        let d = d.note(format!("the limit is {} bytes; keep large constants in a weights file", u32::MAX));
        return Err(Error::parse(vec![d]));
    }
    let mut parser = Parser::new(source);
    match parser.program() {
        Ok(program) if parser.diagnostics.is_empty() => Ok(program),
        _ => Err(Error::parse(parser.diagnostics)),
    }
}

impl Parser<'_> {
    fn program(&mut self) -> Parse<Program> {
        self.refuse_other_languages()?;
        let header = self.header();
        if header.is_err() {
            self.recover_function();
        }
        let mut functions = Vec::new();
        while !self.at(Kind::CloseBrace) && !self.at(Kind::End) {
            match self.function() {
                Ok(function) => functions.push(function),
                Err(Failed) => self.recover_function(),
            }
        }
        if self.diagnostics.is_empty() {
            if functions.is_empty() {
                return self.unexpected("`func`");
            }
            self.expect(Kind::CloseBrace, "`func` or the `}` that ends the program")?;
            if !self.at(Kind::End) {
                return self.unexpected("the end of the file");
            }
        }
        let (version, attributes) = header?;
        Ok(Program { version, attributes, functions })
    }

    /// Refuses by name what goes under the same name, or nothing at all.
    fn refuse_other_languages(&mut self) -> Parse<()> {
        if self.at(Kind::End) {
            let d = Diagnostic::error("syntax", "expected `program`, found nothing");
            return self.fail(d.note("MIL text begins with `program(1.0)` or `program(1.3)`"));
        }
        let span = self.token.span;
        let rest = self.source[span.end as usize..].trim_start();
        let printed = rest.starts_with("[CoreML") || rest.starts_with("(%");
        if self.at(Kind::Ident) && printed {
            let d = Diagnostic::error(
                "coremltools-print",
                "this is what coremltools prints of a program, not MIL text",
            )
            .at(span, "expected `program`")
            .note("it lacks the types of constants, and often their values, so that it cannot be read back")
            .note("compile the model (`xcrun coremlcompiler compile model.mlpackage .`) and take `model.mil`");
            return self.fail(d);
        }
        Ok(())
    }

    fn header(&mut self) -> Parse<(Version, Attributes)> {
        if !self.at_word("program") {
            return self.unexpected("`program`");
        }
        self.advance();
        self.expect(Kind::OpenParen, "`(` and the version")?;
        let version = match self.text(self.token.span) {
            "1.0" => Version::V1_0,
            "1.3" => Version::V1_3,
            _ if self.at(Kind::Number) => {
                let d = format!("unknown version {} of MIL", quoted(self.text(self.token.span)));
                let d = Diagnostic::error("version", d).at(self.token.span, "expected `1.0` or `1.3`");
                let d = d.note("1.0 is written for iOS 15 to 17, 1.3 for iOS 18");
                // The rest can be read all the same.
                let _ = self.fail::<()>(d);
                Version::V1_3
            }
            _ => return self.unexpected("the version, `1.0` or `1.3`"),
        };
        self.advance();
        self.expect(Kind::CloseParen, "`)`")?;
        let attributes = self.attributes()?;
        self.expect(Kind::OpenBrace, "`{`")?;
        Ok((version, attributes))
    }

    fn function(&mut self) -> Parse<Function> {
        if !self.at_word("func") {
            return self.unexpected("`func` or the `}` that ends the program");
        }
        self.advance();
        let head = self.function_head();
        if head.is_err() {
            self.recover_head();
            if !self.at(Kind::OpenBrace) {
                return Err(Failed);
            }
        }
        let body = self.block(Vec::new())?;
        self.semicolon()?;
        Ok(Function { body, ..head? })
    }

    /// Everything before the body.
    fn function_head(&mut self) -> Parse<Function> {
        let (name, span) = self.ident("the name of the function")?;
        self.expect(Kind::Less, "`<` and the op set")?;
        let opset = self.opset()?;
        let (params, attributes) = (self.params()?, self.attributes()?);
        Ok(Function { name: name.to_string(), opset, params, attributes, body: Block::default(), span })
    }

    /// `ios17>`
    fn opset(&mut self) -> Parse<Opset> {
        let (name, span) = self.ident("an op set such as `ios17`")?;
        match Opset::from_name(name) {
            Some(opset) if opset >= Opset::Ios15 => {
                self.expect(Kind::Greater, "`>`")?;
                Ok(opset)
            }
            _ => {
                let d = Diagnostic::error("opset", format!("unknown op set {}", quoted(name)));
                self.fail(d.at(span, "expected `ios15`, `ios16`, `ios17` or `ios18`"))
            }
        }
    }

    fn params(&mut self) -> Parse<Vec<Param>> {
        self.expect(Kind::OpenParen, "`(`")?;
        self.list(Kind::CloseParen, "`)`", Self::param)
    }

    fn param(&mut self) -> Parse<Param> {
        let ty = self.ty()?;
        let (name, span) = self.ident("the name of the value")?;
        Ok(Param { name: name.to_string(), ty, span })
    }

    /// `[name = constant, ...]`, if it stands here.
    fn attributes(&mut self) -> Parse<Attributes> {
        if !self.eat(Kind::OpenBracket) {
            return Ok(Vec::new());
        }
        self.list(Kind::CloseBracket, "`]`", |p| {
            let (name, _) = p.ident("the name of an attribute")?;
            p.expect(Kind::Equals, "`=`")?;
            Ok((name.to_string(), p.constant()?))
        })
    }

    /// `{ calls } -> (names)`
    fn block(&mut self, params: Vec<Param>) -> Parse<Block> {
        let open = self.expect(Kind::OpenBrace, "`{`")?;
        let mut calls = Vec::new();
        loop {
            match self.token.kind {
                Kind::CloseBrace => break,
                Kind::End if self.cut_short => return Err(Failed),
                Kind::End => {
                    let d = Diagnostic::error("syntax", "block without its closing `}`").at(open, "begins here");
                    return self.fail(d.note("a block ends with `} -> (outputs)`"));
                }
                Kind::Ident if self.at_function() => {
                    return self.unexpected("`} -> (outputs);` before the next function");
                }
                _ => match self.call() {
                    Ok(call) => calls.push(call),
                    Err(Failed) => self.recover(),
                },
            }
        }
        self.advance();
        self.expect(Kind::Arrow, "`-> (outputs)`")?;
        self.expect(Kind::OpenParen, "`(`")?;
        let outputs = self.list(Kind::CloseParen, "`)`", |p| {
            let (name, span) = p.ident("the name of a value")?;
            Ok(Reference { name: name.to_string(), span })
        })?;
        Ok(Block { params, calls, outputs })
    }

    fn call(&mut self) -> Parse<Call> {
        let mut outputs = Vec::new();
        if self.at(Kind::OpenBracket) {
            let d = Diagnostic::error("syntax", "expected a type or an op, found `[`");
            return self.fail(d.at(self.token.span, "outputs stand without brackets: `type a, type b = op(...)`"));
        }
        if !self.at(Kind::Ident) {
            return self.unexpected("a type, an op or the `}` that ends the block");
        }
        if self.next.kind == Kind::Equals {
            let (name, span) = (self.text(self.token.span), self.token.span);
            let d = Diagnostic::error("syntax", format!("the output {} has no type", quoted(name)));
            return self
                .fail(d.at(span, format!("expected its type before it, as in `tensor<fp16, [1, 64]> {name}`")));
        }
        if self.at_declaration() {
            loop {
                outputs.push(self.param()?);
                if self.eat(Kind::Equals) {
                    break;
                }
                if !self.eat(Kind::Comma) {
                    return self.unexpected("`=`, or `,` and another output");
                }
            }
        }
        let (op, span) = self.ident("the name of an op")?;
        let opset = match self.eat(Kind::Less) {
            true => Some(self.opset()?),
            false => None,
        };
        self.expect(Kind::OpenParen, "`(` and the arguments")?;
        let args = self.list(Kind::CloseParen, "`)`", Self::arg)?;
        let attributes = self.attributes()?;
        let mut blocks = Vec::new();
        while matches!(self.token.kind, Kind::OpenParen | Kind::OpenBrace) {
            blocks.push(self.nested(|p| {
                let params = if p.at(Kind::OpenParen) { p.params()? } else { Vec::new() };
                p.block(params)
            })?);
        }
        self.semicolon()?;
        Ok(Call { outputs, op: op.to_string(), opset, args, attributes, blocks, span })
    }

    /// Whether the statement at hand begins with the type of an output.
    fn at_declaration(&self) -> bool {
        let word = self.text(self.token.span);
        match self.next.kind {
            Kind::OpenParen => false,
            // An op with an op set, unless the word is that of a type.
            Kind::Less => is_type_constructor(word) || !self.text(self.peek_after_next()).starts_with("ios"),
            _ => true,
        }
    }

    /// The `;` of a statement. Where it is missing at the end of a line, the parser goes on as if it were there.
    fn semicolon(&mut self) -> Parse<()> {
        if self.eat(Kind::Semicolon) {
            return Ok(());
        }
        let between = Span { start: self.previous.span.end, end: self.token.span.start };
        if self.text(between).contains('\n') && matches!(self.token.kind, Kind::Ident | Kind::CloseBrace) {
            let d = Diagnostic::error("syntax", "expected `;` at the end of the statement");
            let last = Span { start: self.previous.span.end - 1, end: self.previous.span.end };
            let _ = self.fail::<()>(d.at(last, "expected `;` after this"));
            return Ok(());
        }
        self.unexpected("`;`")
    }

    fn arg(&mut self) -> Parse<Arg> {
        let start = self.token.span;
        let (name, _) = self.ident("the name of an argument")?;
        self.expect(Kind::Equals, "`=`")?;
        let value = self.arg_value()?;
        Ok(Arg { name: name.to_string(), value, span: self.span_from(start) })
    }

    fn arg_value(&mut self) -> Parse<ArgValue> {
        match self.token.kind {
            Kind::OpenParen => {
                let open = self.token.span;
                self.advance();
                let values = self.nested(|p| p.list(Kind::CloseParen, "`)`", Self::arg_value))?;
                if values.is_empty() {
                    let d = Diagnostic::error("syntax", "a tuple of no values");
                    return self.fail(d.at(self.span_from(open), "expected at least one"));
                }
                Ok(ArgValue::Tuple(values))
            }
            Kind::Ident if matches!(self.next.kind, Kind::OpenParen | Kind::Less) => {
                Ok(ArgValue::Constant(self.constant()?))
            }
            Kind::Ident => {
                let name = self.text(self.token.span).to_string();
                self.advance();
                Ok(ArgValue::Name(name))
            }
            Kind::Number | Kind::Str => {
                let text = self.text(self.token.span);
                let d = Diagnostic::error("syntax", format!("expected a value, found {}", quoted(text)));
                let example = if self.at(Kind::Str) { "string(\"valid\")" } else { "int32(1)" };
                self.fail(d.at(self.token.span, format!("a literal needs its type, as in `{example}`")))
            }
            _ => self.unexpected("a value"),
        }
    }
}
