//! Bytes into tokens, one at a time; a token is a kind and a span, its text stays in the source.

use crate::ir::Span;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ident,
    /// Begins with a digit, a sign or a point; whether it is a number is found out when its type is known.
    Number,
    /// With its quotes.
    Str,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    OpenBrace,
    CloseBrace,
    Less,
    Greater,
    Comma,
    Semicolon,
    Equals,
    Question,
    Arrow,
    /// The end of the source.
    End,
    /// A string that its line does not end.
    OpenString,
    /// A character that begins no token.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// Yields the tokens of a source of at most `u32::MAX` bytes, then [`Kind::End`] for ever.
#[derive(Clone)]
pub(super) struct Lexer<'s> {
    source: &'s [u8],
    at: usize,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str) -> Lexer<'s> {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { source: source.as_bytes(), at }
    }

    /// Leaves nothing to read.
    pub(super) fn finish(&mut self) {
        self.at = self.source.len();
    }

    pub(super) fn next(&mut self) -> Token {
        self.skip_blank();
        let start = self.at;
        let kind = self.kind();
        Token { kind, span: Span { start: start as u32, end: self.at as u32 } }
    }

    fn skip_blank(&mut self) {
        loop {
            match self.source.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(b'/') if self.source.get(self.at + 1) == Some(&b'/') => {
                    self.skip_while(|b| b != b'\n');
                }
                _ => return,
            }
        }
    }

    fn skip_while(&mut self, of: impl Fn(u8) -> bool) {
        while self.source.get(self.at).is_some_and(|&b| of(b)) {
            self.at += 1;
        }
    }

    /// Reads one token, of which `self.at` is the first byte.
    fn kind(&mut self) -> Kind {
        let Some(&byte) = self.source.get(self.at) else { return Kind::End };
        self.at += 1;
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => {
                self.skip_while(is_ident);
                Kind::Ident
            }
            b'0'..=b'9' | b'.' => self.number(),
            b'-' => match self.source.get(self.at) {
                Some(b'>') => {
                    self.at += 1;
                    Kind::Arrow
                }
                Some(b'0'..=b'9' | b'.' | b'A'..=b'Z' | b'a'..=b'z') => self.number(),
                _ => Kind::Unknown,
            },
            b'"' => self.string(),
            b'(' => Kind::OpenParen,
            b')' => Kind::CloseParen,
            b'[' => Kind::OpenBracket,
            b']' => Kind::CloseBracket,
            b'{' => Kind::OpenBrace,
            b'}' => Kind::CloseBrace,
            b'<' => Kind::Less,
            b'>' => Kind::Greater,
            b',' => Kind::Comma,
            b';' => Kind::Semicolon,
            b'=' => Kind::Equals,
            b'?' => Kind::Question,
            _ => {
                // The rest of the character.
                self.skip_while(|b| b & 0xc0 == 0x80);
                Kind::Unknown
            }
        }
    }

    /// Everything that could be part of a number: the sign of an exponent too.
    fn number(&mut self) -> Kind {
        let hex = self.source[self.at - 1..].iter().take(3).any(|b| matches!(b, b'x' | b'X'));
        loop {
            self.skip_while(|b| is_ident(b) || b == b'.');
            let exponent = match self.source[self.at - 1] {
                b'p' | b'P' => hex,
                b'e' | b'E' => !hex,
                _ => false,
            };
            match self.source.get(self.at) {
                Some(b'+' | b'-') if exponent => self.at += 1,
                _ => return Kind::Number,
            }
        }
    }

    /// A string up to its closing quote. It ends on its line, so that a forgotten quote is found where it is.
    fn string(&mut self) -> Kind {
        loop {
            self.skip_while(|b| !matches!(b, b'"' | b'\\' | b'\n'));
            match self.source.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Kind::Str;
                }
                Some(b'\\') => {
                    self.at += 1;
                    if self.source.get(self.at).is_some_and(|&b| b != b'\n') {
                        self.at += 1;
                    }
                }
                _ => return Kind::OpenString,
            }
        }
    }
}

fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'@'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<(Kind, &str)> {
        let mut lexer = Lexer::new(source);
        std::iter::from_fn(|| {
            let token = lexer.next();
            let text = &source[token.span.start as usize..token.span.end as usize];
            (token.kind != Kind::End).then_some((token.kind, text))
        })
        .collect()
    }

    #[test]
    fn every_token_and_no_blank() {
        use Kind::*;
        assert_eq!(
            kinds("a_1@b //c\n-0x1.8p-3 1e-5->\r\n-inf \"a\\\"b\" .5[?]"),
            [
                (Ident, "a_1@b"),
                (Number, "-0x1.8p-3"),
                (Number, "1e-5"),
                (Arrow, "->"),
                (Number, "-inf"),
                (Str, "\"a\\\"b\""),
                (Number, ".5"),
                (OpenBracket, "["),
                (Question, "?"),
                (CloseBracket, "]"),
            ]
        );
    }

    #[test]
    fn what_is_no_token_is_one_piece() {
        use Kind::*;
        assert_eq!(kinds("é%"), [(Unknown, "é"), (Unknown, "%")]);
        assert_eq!(kinds("\"ab\n\""), [(OpenString, "\"ab"), (OpenString, "\"")]);
        assert_eq!(kinds("\"a\\"), [(OpenString, "\"a\\")]);
        assert_eq!(kinds("\"\\é\""), [(Str, "\"\\é\"")]);
        assert_eq!(kinds("\0-"), [(Unknown, "\0"), (Unknown, "-")]);
        // The sign belongs to an exponent only.
        assert_eq!(kinds("0x1e-5"), [(Number, "0x1e"), (Number, "-5")]);
    }
}
