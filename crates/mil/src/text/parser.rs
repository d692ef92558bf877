//! The parser's hands: two tokens of lookahead, errors, and how it goes on after one.
//!
//! An error is recorded and the parser goes on behind the statement, so that one run finds several mistakes.

use super::lex::{Kind, Lexer, Token};
use crate::error::Diagnostic;
use crate::ir::{DType, Span};

/// Diagnostics after which parsing ends.
const MAX_DIAGNOSTICS: usize = 20;

/// How deep types, literals, tuples and blocks may nest, all together: far deeper than any program needs, and
/// shallow enough for a stack of half a megabyte.
const MAX_DEPTH: u32 = 64;

/// A diagnostic has been recorded.
pub(super) struct Failed;

pub(super) type Parse<T> = std::result::Result<T, Failed>;

pub(super) struct Parser<'s> {
    pub(super) source: &'s str,
    lexer: Lexer<'s>,
    /// The token before `token`.
    pub(super) previous: Token,
    pub(super) token: Token,
    pub(super) next: Token,
    depth: u32,
    /// The end of the file came too early, and that was said.
    pub(super) cut_short: bool,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl<'s> Parser<'s> {
    pub(super) fn new(source: &'s str) -> Parser<'s> {
        let mut lexer = Lexer::new(source);
        let (token, next) = (lexer.next(), lexer.next());
        let previous = Token { kind: Kind::End, span: Span::NONE };
        Parser { source, lexer, previous, token, next, depth: 0, cut_short: false, diagnostics: Vec::new() }
    }

    // Tokens.

    pub(super) fn advance(&mut self) {
        self.previous = self.token;
        self.token = self.next;
        self.next = self.lexer.next();
    }

    /// The token behind `next`.
    pub(super) fn peek_after_next(&self) -> Span {
        self.lexer.clone().next().span
    }

    pub(super) fn text(&self, span: Span) -> &'s str {
        &self.source[span.start as usize..span.end as usize]
    }

    /// From `start` to the end of the last token read.
    pub(super) fn span_from(&self, start: Span) -> Span {
        Span { start: start.start, end: self.previous.span.end }
    }

    pub(super) fn at(&self, kind: Kind) -> bool {
        self.token.kind == kind
    }

    pub(super) fn eat(&mut self, kind: Kind) -> bool {
        let found = self.at(kind);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a token of that kind; `what` names it in the error.
    pub(super) fn expect(&mut self, kind: Kind, what: &str) -> Parse<Span> {
        if self.at(kind) {
            self.advance();
            Ok(self.previous.span)
        } else {
            self.unexpected(what)
        }
    }

    pub(super) fn ident(&mut self, what: &str) -> Parse<(&'s str, Span)> {
        let span = self.expect(Kind::Ident, what)?;
        if self.at(Kind::Unknown) && self.token.span.start == span.end {
            return self.unexpected("a name of letters from a to z, digits, `_` and `@`");
        }
        Ok((self.text(span), span))
    }

    pub(super) fn at_word(&self, word: &str) -> bool {
        self.at(Kind::Ident) && self.text(self.token.span) == word
    }

    /// Items separated by commas up to `close`, which is taken; none if it stands there at once.
    pub(super) fn list<T>(
        &mut self,
        close: Kind,
        closing: &str,
        mut item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(close) {
                return Ok(items);
            }
            if !self.eat(Kind::Comma) {
                return self.unexpected(&format!("`,` or {closing}"));
            }
        }
    }

    /// Runs `f` one level deeper, if there is one.
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.depth == MAX_DEPTH {
            let d = Diagnostic::error("nesting", format!("nested deeper than {MAX_DEPTH} levels"));
            return self.fail(d.at(self.token.span, "the first level too deep"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    // Errors.

    pub(super) fn fail<T>(&mut self, diagnostic: Diagnostic) -> Parse<T> {
        if self.diagnostics.len() < MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        }
        if self.diagnostics.len() == MAX_DIAGNOSTICS {
            self.lexer.finish();
            let end = self.lexer.next();
            (self.token, self.next) = (end, end);
        }
        Err(Failed)
    }

    /// Records that `expected` does not stand here.
    pub(super) fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let span = self.token.span;
        let text = self.text(span);
        let d = |message: String| Diagnostic::error("syntax", message);
        let d = match self.token.kind {
            Kind::OpenString => d("string without a closing quote".to_string())
                .at(span, "begins here")
                .note("a string ends on its line; write a quote inside it as `\\\"` and a line break as `\\n`"),
            Kind::Unknown => {
                let d = d(format!(
                    "expected {expected}, found the character {:?}",
                    text.chars().next().unwrap_or(' ')
                ))
                .at(span, "no part of MIL outside strings and comments");
                match text {
                    "#" | "/" => d.note("a comment begins with `//` and ends with its line"),
                    "'" => d.note("a string stands between double quotes"),
                    _ => d,
                }
            }
            Kind::End => {
                self.cut_short = true;
                // The end itself is no place to point at; the last token is.
                d(format!("expected {expected}, found the end of the file"))
                    .at(self.previous.span, format!("expected {expected} after this"))
            }
            _ => {
                d(format!("expected {expected}, found {}", quoted(text))).at(span, format!("expected {expected}"))
            }
        };
        self.fail(d)
    }

    /// Goes behind the statement in which an error was found, or to the end of its block. Braces count only
    /// where they are those of a block: a dict's follow neither `)` nor `]`, and no `->` follows them. A type
    /// behind one of these begins another statement, so the `;` between them is missing.
    pub(super) fn recover(&mut self) {
        let mut open = 0usize;
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Semicolon if open == 0 => return self.advance(),
                Kind::OpenBrace if is_before_block(self.previous.kind) => open += 1,
                Kind::CloseBrace if self.next.kind == Kind::Arrow && open == 0 => return,
                Kind::CloseBrace if self.next.kind == Kind::Arrow => open -= 1,
                Kind::Ident if self.at_function() => return,
                Kind::Ident if open == 0 && is_before_block(self.previous.kind) && self.at_type() => return,
                _ => {}
            }
            self.advance();
        }
    }

    /// Goes to the body of a function whose head was wrong.
    pub(super) fn recover_head(&mut self) {
        let at_body = |p: &Self| p.at(Kind::OpenBrace) && is_before_block(p.previous.kind);
        while !self.at(Kind::End) && !self.at_function() && !at_body(self) {
            self.advance();
        }
    }

    /// Goes to the next function, or the end.
    pub(super) fn recover_function(&mut self) {
        while !self.at(Kind::End) && !self.at_function() {
            self.advance();
        }
    }

    fn at_type(&self) -> bool {
        let word = self.text(self.token.span);
        is_type_constructor(word) || DType::from_name(word).is_some()
    }

    pub(super) fn at_function(&self) -> bool {
        self.at_word("func") && self.next.kind == Kind::Ident
    }
}

/// Whether a brace behind a token of that kind is that of a block.
fn is_before_block(kind: Kind) -> bool {
    matches!(kind, Kind::CloseParen | Kind::CloseBracket)
}

pub(super) fn is_type_constructor(word: &str) -> bool {
    matches!(word, "tensor" | "list" | "tuple" | "dict" | "state" | "tensor_buffer")
}

/// `text` in quotes for a message: one line, not too long, nothing that a terminal would act on.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let mut short = String::new();
    for c in chars.by_ref().take(40) {
        if c.is_control() { short.extend(c.escape_debug()) } else { short.push(c) }
    }
    if chars.next().is_some() {
        short.push_str("...");
    }
    format!("`{short}`")
}
