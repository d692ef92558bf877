//! Tidy: the rules of the house, each checked on every file of the repository.
//!
//! A rule is a function from a file to findings, in the module of its topic. What a file is excused from stands in
//! [`EXCEPTIONS`], with the reason, and an exception that excuses nothing is itself a finding.

mod files;
mod layers;
mod manifests;
mod rust;
mod text;
mod tokens;

use anyhow::{Result, ensure};
use files::File;
use std::fmt;
use std::path::Path;

/// The line of the table of exceptions, for findings about it.
const EXCEPTIONS_LINE: usize = line!() as usize + 2;
/// The one table of what is excused from which rule.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/map.rs",
        reason: "a memory map is unsafe to make, and weights files are too large to copy",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/soft/floats/region.rs",
        reason: "the parts of one allocation have different owners, which no safe type offers for a mapped one",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/soft/prefetch.rs",
        reason: "the instruction that fetches a line of the caches ahead has no safe name",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/soft/gemm/amx.rs",
        reason: "the instructions of the matrix unit have no names in stable Rust, safe or unsafe",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/device/apple/sys.rs",
        reason: "messages to Objective-C objects are unsafe to send",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/device/apple/stand_in.rs",
        reason: "test support: classes made at run time, whose methods get pointers",
    },
    Exception {
        rule: Rule::Unsafe,
        path: "crates/anemone/src/device/apple/stand_in/",
        reason: "test support: functions that get pointers",
    },
    Exception { rule: Rule::Length, path: "docs/api/", reason: "written by `.ci/checks/api.sh`, a file a crate" },
];

/// A file, or a folder, that may break a rule.
struct Exception {
    rule: Rule,
    /// Path from the root of the repository; one that ends in `/` is a folder and stands for all below it.
    path: &'static str,
    /// Why the rule does not fit here.
    reason: &'static str,
}

impl Exception {
    fn covers(&self, finding: &Finding) -> bool {
        let path_fits = match self.path.ends_with('/') {
            true => finding.path.starts_with(self.path),
            false => finding.path == self.path,
        };
        path_fits && finding.rule == self.rule
    }
}

/// The rules; an exception names one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    // Of every text file.
    Whitespace,
    FinalNewline,
    Length,
    Marker,
    MachinePath,
    RegistryHost,
    // Of Rust.
    Parses,
    OpeningSentence,
    CommentWidth,
    Placeholder,
    IgnoredTest,
    Unsafe,
    SafetyComment,
    // Of a package.
    Manifest,
    ForbidUnsafe,
    MilIsPure,
    LibraryIsQuiet,
    // Of this table.
    StaleException,
}

/// One broken rule at one place.
#[derive(Debug)]
struct Finding {
    rule: Rule,
    path: String,
    /// Counted from 1.
    line: usize,
    /// What is wrong.
    what: String,
    /// What to do about it.
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}, {}", self.path, self.line, self.what, self.remedy)
    }
}

/// What a run of tidy found.
pub(crate) struct Report {
    /// Each as `path:line: what, what to do`.
    pub(crate) findings: Vec<String>,
    /// How many text files were read.
    pub(crate) n_files: usize,
    /// How the files were found.
    pub(crate) listed_by: &'static str,
}

/// Checks every rule on the repository at `root`.
///
/// # Errors
///
/// If a file cannot be read or `root` is not the root of the repository.
pub(crate) fn check_tree(root: &Path) -> Result<Report> {
    let (files, listed_by) = files::collect(root)?;
    ensure!(
        files.iter().any(|f| f.path == "Cargo.toml") && files.iter().any(|f| f.is_rust()),
        "{}: expected the root of a Cargo workspace, found no manifest or no Rust below it",
        root.display()
    );
    let findings = excuse(check(&files), EXCEPTIONS).iter().map(Finding::to_string).collect();
    Ok(Report { findings, n_files: files.len(), listed_by })
}

/// All findings in `files`, excused or not, by path and line.
fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = manifests::check(files);
    for file in files {
        findings.extend(text::check(file));
        if file.is_rust() {
            match tokens::read(file) {
                Ok(tokens) => {
                    findings.extend(rust::check(file, &tokens));
                    findings.extend(layers::check(file, &tokens));
                }
                Err(line) => findings.push(file.finding(
                    Rule::Parses,
                    line,
                    "this is not Rust",
                    "mend it so that the rules can be checked",
                )),
            }
        }
    }
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings
}

/// The findings that no exception covers, and one for each exception that covers nothing.
fn excuse(mut findings: Vec<Finding>, exceptions: &[Exception]) -> Vec<Finding> {
    let stale: Vec<Finding> = exceptions
        .iter()
        .filter(|exception| !findings.iter().any(|f| exception.covers(f)))
        .map(|exception| Finding {
            rule: Rule::StaleException,
            path: "xtask/src/tidy.rs".to_string(),
            line: EXCEPTIONS_LINE,
            what: format!(
                "the exception for {} from {:?} (\"{}\") excuses nothing",
                exception.path, exception.rule, exception.reason
            ),
            remedy: "remove it".to_string(),
        })
        .collect();
    findings.retain(|f| !exceptions.iter().any(|exception| exception.covers(f)));
    findings.extend(stale);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let report = check_tree(crate::root()).unwrap();
        assert!(report.findings.is_empty(), "\n{}\n", report.findings.join("\n"));
    }

    #[test]
    fn an_empty_folder_is_not_tidy_but_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_tree(folder.path()).is_err());
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let files = [File::new("a.rs", "//! One.\nfn f() { todo!() }\n")];
        let lines: Vec<String> = check(&files).iter().map(Finding::to_string).collect();
        assert_eq!(lines, ["a.rs:2: `todo!` is a placeholder, write what it stands for or return an error"]);
    }

    #[test]
    fn text_that_is_not_rust_is_found_with_its_line() {
        let findings = check(&[File::new("a.rs", "//! One.\nfn f() {\n    (]\n}\n")]);
        assert_eq!(findings.iter().map(|f| (f.rule, f.line)).collect::<Vec<_>>(), [(Rule::Parses, 3)]);
    }

    #[test]
    fn an_exception_excuses_its_rule_in_its_file_or_folder_alone() {
        let files =
            ["a/x.rs", "a/y.rs", "b/x.rs"].map(|path| File::new(path, "//! One.\nunsafe fn f() { todo!() }\n"));
        let left = |path| {
            let exceptions = [Exception { rule: Rule::Unsafe, path, reason: "a test" }];
            let left = excuse(check(&files), &exceptions);
            left.iter().filter(|f| f.rule == Rule::Unsafe).map(|f| f.path.clone()).collect::<Vec<_>>()
        };
        assert_eq!(left("a/x.rs"), ["a/y.rs", "b/x.rs"]);
        assert_eq!(left("a/"), ["b/x.rs"]);
        let exceptions = [Exception { rule: Rule::Unsafe, path: "a/x.rs", reason: "a test" }];
        let left = excuse(check(&files), &exceptions);
        assert_eq!(left.iter().filter(|f| f.rule == Rule::Placeholder).count(), 3);
    }

    #[test]
    fn an_exception_that_excuses_nothing_is_a_finding() {
        let exceptions = [Exception { rule: Rule::Length, path: "gone.rs", reason: "it was long" }];
        let findings = excuse(Vec::new(), &exceptions);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].rule, Rule::StaleException);
        assert!(findings[0].to_string().contains("gone.rs"), "{}", findings[0]);
    }
}
