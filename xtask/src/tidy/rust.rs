//! The rules of every Rust file: the opening sentence, comments as wide as code, nothing unfinished, no test
//! asleep, `unsafe` explained.

use super::tokens::{Kind, Token, macros};
use super::{File, Finding, Rule};
use proc_macro2::Delimiter;

/// `max_width` in `rustfmt.toml`, which holds for code alone.
const MAX_WIDTH: usize = 115;

const PLACEHOLDERS: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub(super) fn check(file: &File, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(opening_sentence(file));
    findings.extend(wide_comments(file));
    for (name, token) in macros(tokens).filter(|(name, _)| PLACEHOLDERS.contains(name)) {
        let remedy = match name {
            "dbg" => "remove it",
            _ => "write what it stands for or return an error",
        };
        findings.push(file.finding(Rule::Placeholder, token.line, format!("`{name}!` is a placeholder"), remedy));
    }
    findings.extend(ignored_tests(file, tokens));
    findings.extend(unsafe_code(file, tokens));
    findings
}

/// The first paragraph of the file is `//!` lines that end as a sentence does.
fn opening_sentence(file: &File) -> Option<Finding> {
    let opening = file.text.lines().map_while(|line| line.strip_prefix("//! "));
    let ends_as_sentence = opening.last().is_some_and(|line| line.ends_with(['.', ':', '?', '!']));
    (!ends_as_sentence).then(|| {
        file.finding(
            Rule::OpeningSentence,
            1,
            "the file does not begin with a `//!` sentence",
            "say in one what the file is for",
        )
    })
}

/// Lines of comments, those of documentation too, that are wider than code may be.
fn wide_comments(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
        let width = line.chars().count();
        if width > MAX_WIDTH {
            let what = format!("a comment of {width} columns, expected at most {MAX_WIDTH}");
            findings.push(file.finding(Rule::CommentWidth, index + 1, what, "wrap it"));
        }
    }
    findings
}

/// `#[ignore]`, also with a reason or under `cfg_attr`.
fn ignored_tests(file: &File, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, pair) in tokens.windows(2).enumerate() {
        if !(pair[0].is_mark('#') && pair[1].kind == Kind::Open(Delimiter::Bracket)) {
            continue;
        }
        let mut attribute = tokens[i + 2..].iter().take_while(|t| t.kind != Kind::Close(Delimiter::Bracket));
        let first = attribute.next();
        let ignores = first.is_some_and(|t| t.is_word("ignore"))
            || first.is_some_and(|t| t.is_word("cfg_attr")) && attribute.any(|t| t.is_word("ignore"));
        if ignores {
            findings.push(file.finding(
                Rule::IgnoredTest,
                pair[0].line,
                "a test is ignored",
                "mend it, or let it print \"skipped: ...\" with the reason and return",
            ));
        }
    }
    findings
}

/// Any `unsafe`, and among them blocks and implementations without a `// SAFETY:` comment right above.
fn unsafe_code(file: &File, tokens: &[Token]) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| t.is_word("unsafe")) {
        findings.push(file.finding(
            Rule::Unsafe,
            token.line,
            "`unsafe` outside the files that may have it",
            "write it safely, or put it behind one of the files in the table of exceptions",
        ));
        let must_explain =
            tokens.get(i + 1).is_some_and(|t| t.kind == Kind::Open(Delimiter::Brace) || t.is_word("impl"));
        let above = lines[..token.line - 1].iter().rev().map(|line| line.trim_start());
        let explained =
            above.take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY: "));
        if must_explain && !explained {
            findings.push(file.finding(
                Rule::SafetyComment,
                token.line,
                "`unsafe` without a `// SAFETY:` comment right above",
                "say there why it is sound",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tokens;
    use super::*;

    fn found(text: &str) -> Vec<(Rule, usize)> {
        let file = File::new("a.rs", text);
        let tokens = tokens::read(&file).unwrap();
        check(&file, &tokens).iter().map(|f| (f.rule, f.line)).collect()
    }

    /// As `found`, for code under an opening sentence, which is line 1.
    fn found_below(code: &str) -> Vec<(Rule, usize)> {
        found(&format!("//! One.\n{code}\n"))
    }

    #[test]
    fn opening_sentences() {
        for text in ["//! One.\n", "//! One that goes\n//! on.\n", "//! Three:\n//!\n//! - a\n"] {
            assert_eq!(found(text), [], "{text}");
        }
        for text in ["", "fn f() {}\n", "\n//! One.\n", "/// One.\nfn f() {}\n", "//! one\n\nfn f() {}\n", "//!\n"]
        {
            assert_eq!(found(text), [(Rule::OpeningSentence, 1)], "{text}");
        }
    }

    #[test]
    fn comments_are_as_wide_as_code() {
        let comment = |mark: &str, width: usize| format!("{mark} {}", "\u{e9}".repeat(width - mark.len() - 1));
        for mark in ["//", "///", "//!", "    //"] {
            let found = |width| found_below(&format!("fn f() {{}}\n{}\nfn g() {{}}", comment(mark, width)));
            assert_eq!(found(MAX_WIDTH), [], "{mark}");
            assert_eq!(found(MAX_WIDTH + 1), [(Rule::CommentWidth, 3)], "{mark}");
        }
        assert_eq!(found_below(&format!("const X: &str = \"{}\";", "x".repeat(200))), []);
    }

    #[test]
    fn placeholders() {
        for code in ["fn f() { todo!() }", "fn f() { unimplemented!(\"x\") }", "fn f() { dbg![1]; }"] {
            assert_eq!(found_below(code), [(Rule::Placeholder, 2)], "{code}");
        }
        assert_eq!(found_below("// todo!()\nconst X: &str = \"dbg!(x)\";"), []);
    }

    #[test]
    fn tests_asleep() {
        for attribute in ["#[ignore]", "#[ignore = \"slow\"]", "#[cfg_attr(unix, ignore)]"] {
            assert_eq!(found_below(&format!("#[test]\n{attribute}\nfn f() {{}}")), [(Rule::IgnoredTest, 3)]);
        }
        assert_eq!(found_below("#[test]\nfn ignore() {}"), []);
    }

    #[test]
    fn unsafe_is_found_wherever_it_stands() {
        let file_rule = |line| (Rule::Unsafe, line);
        let comment_rule = |line| (Rule::SafetyComment, line);
        for (code, expected) in [
            ("fn f() {\n    // SAFETY: x is valid.\n    unsafe { g() }\n}", vec![file_rule(4)]),
            (
                "fn f() {\n    // SAFETY: x is valid,\n    // and so is y.\n    unsafe { g() }\n}",
                vec![file_rule(5)],
            ),
            ("fn f() {\n    unsafe { g() }\n}", vec![file_rule(3), comment_rule(3)]),
            ("fn f() {\n    // SAFETY: x.\n\n    unsafe { g() }\n}", vec![file_rule(5), comment_rule(5)]),
            ("fn f() {\n    // It is fine.\n    unsafe { g() }\n}", vec![file_rule(4), comment_rule(4)]),
            ("unsafe impl Send for X {}", vec![file_rule(2), comment_rule(2)]),
            ("unsafe fn f() {}", vec![file_rule(2)]),
            ("// unsafe { }\n#![deny(unsafe_code)]\nconst X: &str = \"unsafe { }\";", vec![]),
        ] {
            assert_eq!(found_below(code), expected, "{code}");
        }
    }
}
