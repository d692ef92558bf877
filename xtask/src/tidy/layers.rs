//! The walls between the crates: `mil` is pure, and the library `anemone` neither talks nor looks around.

use super::tokens::{Token, macros, paths};
use super::{File, Finding, Rule};

const MIL: &str = "crates/mil/src/";
const ANEMONE: &str = "crates/anemone/src/";

/// Modules of `std` that do I/O, start threads or read the environment.
const IMPURE: [&str; 5] = ["fs", "net", "env", "thread", "process"];

/// Functions of `std` that end or replace the process, or read or change its environment and arguments.
const NOT_FOR_A_LIBRARY: [[&str; 2]; 11] = [
    ["process", "exit"],
    ["process", "abort"],
    ["process", "CommandExt"],
    ["env", "var"],
    ["env", "var_os"],
    ["env", "vars"],
    ["env", "vars_os"],
    ["env", "args"],
    ["env", "args_os"],
    ["env", "set_var"],
    ["env", "remove_var"],
];

const PRINTS: [&str; 4] = ["println", "eprintln", "print", "eprint"];

pub(super) fn check(file: &File, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path == format!("{MIL}lib.rs") && !forbids_unsafe(tokens) {
        findings.push(file.finding(
            Rule::ForbidUnsafe,
            1,
            "the crate does not forbid unsafe code",
            "write `#![forbid(unsafe_code)]` below the opening sentences",
        ));
    }
    let used = || paths(tokens).into_iter().filter(|path| !path.test);
    if file.path.starts_with(MIL) {
        for path in used() {
            if let [first, module, ..] = path.words.as_slice()
                && first == "std"
                && IMPURE.contains(&module.as_str())
            {
                let what = format!("`std::{module}` in `mil`, which does no I/O and has no threads");
                findings.push(file.finding(
                    Rule::MilIsPure,
                    path.line,
                    what,
                    "do it in the crate that calls `mil`",
                ));
            }
        }
    }
    if file.path.starts_with(ANEMONE) {
        for path in used() {
            if let Some([module, name]) = NOT_FOR_A_LIBRARY.iter().find(|words| path.contains(*words)) {
                let what = format!("`{module}::{name}` in the library");
                let remedy = "return an error, or take what you need as an argument";
                findings.push(file.finding(Rule::LibraryIsQuiet, path.line, what, remedy));
            }
        }
        for (name, token) in macros(tokens).filter(|(name, token)| PRINTS.contains(name) && !token.test) {
            let what = format!("`{name}!` in the library");
            let remedy = "return or report it, and let the program print";
            findings.push(file.finding(Rule::LibraryIsQuiet, token.line, what, remedy));
        }
    }
    findings
}

fn forbids_unsafe(tokens: &[Token]) -> bool {
    tokens
        .windows(6)
        .any(|t| t[0].is_mark('#') && t[1].is_mark('!') && t[3].is_word("forbid") && t[5].is_word("unsafe_code"))
}

#[cfg(test)]
mod tests {
    use super::super::tokens;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<Rule> {
        let file = File::new(path, text);
        let tokens = tokens::read(&file).unwrap();
        check(&file, &tokens).iter().map(|f| f.rule).collect()
    }

    #[test]
    fn mil_forbids_unsafe_code() {
        assert_eq!(found("crates/mil/src/lib.rs", "#![forbid(unsafe_code)]"), []);
        assert_eq!(found("crates/mil/src/lib.rs", "#![deny(unsafe_code)]"), [Rule::ForbidUnsafe]);
        assert_eq!(found("crates/mil/src/lib.rs", "// #![forbid(unsafe_code)]"), [Rule::ForbidUnsafe]);
        assert_eq!(found("crates/mil/src/ir.rs", ""), []);
    }

    #[test]
    fn mil_is_pure() {
        let path = "crates/mil/src/ops/conv.rs";
        for module in IMPURE {
            assert_eq!(found(path, &format!("use std::{module};")), [Rule::MilIsPure], "{module}");
            assert_eq!(found(path, &format!("use std::{{fmt, {module}::x}};")), [Rule::MilIsPure], "{module}");
            assert_eq!(found(path, &format!("fn f() {{ ::std::{module}::x() }}")), [Rule::MilIsPure], "{module}");
            assert_eq!(found(path, &format!("#[cfg(test)] mod tests {{ use std::{module}; }}")), [], "{module}");
            assert_eq!(found("crates/anemone/src/data.rs", &format!("use std::{module};")), [], "{module}");
        }
        assert_eq!(found(path, "use std::fmt; fn f() { crate::fs::x() }"), []);
    }

    #[test]
    fn the_library_is_quiet() {
        let path = "crates/anemone/src/train.rs";
        for [module, name] in NOT_FOR_A_LIBRARY {
            for code in [
                format!("fn f() {{ std::{module}::{name}() }}"),
                format!("use std::{module}; fn f() {{ {module}::{name}() }}"),
                format!("use std::{module}::{{x, {name}}};"),
            ] {
                assert_eq!(found(path, &code), [Rule::LibraryIsQuiet], "{code}");
                assert_eq!(found("crates/cli/src/main.rs", &code), [], "{code}");
            }
        }
        for name in PRINTS {
            assert_eq!(found(path, &format!("fn f() {{ {name}!(\"x\") }}")), [Rule::LibraryIsQuiet], "{name}");
            assert_eq!(found(path, &format!("#[test] fn f() {{ {name}!(\"x\") }}")), [], "{name}");
        }
        assert_eq!(found(path, "use std::env::temp_dir; fn f() { env!(\"X\"); variables::var() }"), []);
    }
}
