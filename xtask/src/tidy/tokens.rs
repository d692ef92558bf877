//! Rust as a flat list of tokens: comments and strings can not be mistaken for code, and code of tests is marked.

use super::File;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::str::FromStr;

/// A token and where it stands.
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether it is compiled for tests only.
    pub(super) test: bool,
}

#[derive(PartialEq)]
pub(super) enum Kind {
    Word(String),
    Mark(char),
    /// Documentation is one of these too: it is an attribute with a string.
    Literal,
    Open(Delimiter),
    Close(Delimiter),
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(w) if w == word)
    }

    pub(super) fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// The tokens of a file, or the line where it stops being Rust.
pub(super) fn read(file: &File) -> Result<Vec<Token>, usize> {
    let stream = TokenStream::from_str(&file.text).map_err(|error| error.span().start().line)?;
    let mut tokens = Vec::new();
    flatten(stream, is_test_file(&file.path), &mut tokens);
    Ok(tokens)
}

/// Whether a file holds tests, examples or benchmarks by its place, as Cargo and `#[cfg(test)] mod tests;` have
/// it.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.split('/').any(|part| ["tests", "benches", "examples"].contains(&part))
}

fn flatten(stream: TokenStream, in_test: bool, tokens: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    // Set by an attribute for tests, until the end of the item under it.
    let mut item_is_test = false;
    for (i, tree) in trees.iter().enumerate() {
        if is_mark(tree, '#') && trees.get(i + 1).is_some_and(is_test_attribute) {
            item_is_test = true;
        }
        let test = in_test || item_is_test;
        let line = tree.span().start().line;
        match tree {
            TokenTree::Ident(word) => tokens.push(Token { kind: Kind::Word(word.to_string()), line, test }),
            TokenTree::Punct(mark) => tokens.push(Token { kind: Kind::Mark(mark.as_char()), line, test }),
            TokenTree::Literal(_) => tokens.push(Token { kind: Kind::Literal, line, test }),
            TokenTree::Group(group) => {
                tokens.push(Token { kind: Kind::Open(group.delimiter()), line, test });
                flatten(group.stream(), test, tokens);
                let line = group.span_close().start().line;
                tokens.push(Token { kind: Kind::Close(group.delimiter()), line, test });
            }
        }
        let ends_item =
            is_mark(tree, ';') || matches!(tree, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace);
        item_is_test &= !ends_item;
    }
}

fn is_mark(tree: &TokenTree, mark: char) -> bool {
    matches!(tree, TokenTree::Punct(p) if p.as_char() == mark)
}

/// Whether a tree is the bracket of `#[test]`, `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn is_test_attribute(tree: &TokenTree) -> bool {
    let TokenTree::Group(group) = tree else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    group.delimiter() == Delimiter::Bracket
        && (text == "test" || text == "cfg(test)" || text.starts_with("cfg(all(test,"))
}

/// A path such as `std::fs::File`, at its last word.
pub(super) struct Path {
    pub(super) words: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
}

impl Path {
    /// Whether `words` stand in the path one after the other.
    pub(super) fn contains(&self, words: &[&str]) -> bool {
        self.words.windows(words.len()).any(|w| w == words)
    }
}

/// All paths in the code, those of `use a::{b, c::d}` written out.
pub(super) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        i = match tokens[i].kind {
            Kind::Word(_) => read_path(tokens, i, &[], &mut found),
            _ => i + 1,
        };
    }
    found
}

/// Reads the path that begins at the word `tokens[i]` below `prefix`, and returns where it ends.
fn read_path(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let mut words = prefix.to_vec();
    while let Some(Token { kind: Kind::Word(word), line, test }) = tokens.get(i) {
        words.push(word.clone());
        i += 1;
        let goes_on =
            tokens.get(i).is_some_and(|t| t.is_mark(':')) && tokens.get(i + 1).is_some_and(|t| t.is_mark(':'));
        match tokens.get(i + 2).map(|t| &t.kind) {
            Some(Kind::Word(_)) if goes_on => i += 2,
            Some(Kind::Open(Delimiter::Brace)) if goes_on => {
                i += 3;
                while let Some(token) = tokens.get(i) {
                    i = match token.kind {
                        Kind::Word(_) => read_path(tokens, i, &words, found),
                        Kind::Close(_) => return i + 1,
                        _ => i + 1,
                    };
                }
                return i;
            }
            _ => {
                found.push(Path { words, line: *line, test: *test });
                return i;
            }
        }
    }
    i
}

/// The names of macros called, each with its token.
pub(super) fn macros(tokens: &[Token]) -> impl Iterator<Item = (&str, &Token)> {
    tokens.windows(3).filter_map(|t| match (&t[0].kind, &t[1].kind, &t[2].kind) {
        (Kind::Word(name), Kind::Mark('!'), Kind::Open(_)) => Some((name.as_str(), &t[0])),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(path: &str, text: &str) -> Vec<Token> {
        read(&File::new(path, text)).unwrap()
    }

    #[test]
    fn paths_are_written_out() {
        let text = "use std::{fs::{self, File}, io::*}; fn f(x: Vec<a::b>) { ::c::d::<E>(); g { h: i::J } }";
        let all: Vec<String> = paths(&tokens("a.rs", text)).iter().map(|p| p.words.join("::")).collect();
        for path in ["std::fs::self", "std::fs::File", "std::io", "a::b", "c::d", "i::J"] {
            assert!(all.iter().any(|p| p == path), "{path} is not in {all:?}");
        }
    }

    #[test]
    fn code_of_tests_is_marked() {
        let text = "
            fn used() {}
            #[cfg(test)] use a::tested_0;
            fn used() {}
            #[cfg(test)] #[allow(x)] mod m { fn tested_1() { { tested_2 } } }
            fn used() {}
            #[test] fn tested_3() {}
            #[cfg(all(test, unix))] fn tested_4() {}
            #[cfg(any(test, unix))] fn used() {}
            #[cfg(not(test))] fn used() {}
        ";
        let marks = |path| -> Vec<(bool, bool)> {
            let words = tokens(path, text).into_iter().filter_map(|t| match t.kind {
                Kind::Word(w) if w.starts_with("used") => Some((false, t.test)),
                Kind::Word(w) if w.starts_with("tested") => Some((true, t.test)),
                _ => None,
            });
            words.collect()
        };
        assert_eq!(marks("src/a.rs").len(), 10);
        assert!(marks("src/a.rs").iter().all(|(expected, marked)| expected == marked));
        for path in ["tests/a.rs", "src/a/tests.rs", "examples/a.rs"] {
            assert!(marks(path).iter().all(|(_, marked)| *marked), "{path}");
        }
    }

    #[test]
    fn macros_are_told_from_comparisons_comments_and_strings() {
        let text = "fn f() { a!(); b! { c != (d) } } // e!()\n/// g!()\nconst H: &str = \"i!()\";";
        let tokens = tokens("a.rs", text);
        assert_eq!(macros(&tokens).map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    }
}
