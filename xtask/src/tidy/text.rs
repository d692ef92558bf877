//! The rules of every text file: white space, length, markers, and what belongs to one machine only.

use super::{File, Finding, Rule};
use regex::Regex;
use std::sync::LazyLock;

/// A file above this many lines is two files.
const MAX_LINES: usize = 800;

/// A pattern that no line may match. Patterns are put together from pieces, so that this file does not hold what
/// it looks for.
struct Ban {
    rule: Rule,
    pattern: Regex,
    what: &'static str,
    remedy: &'static str,
}

static BANS: LazyLock<Vec<Ban>> = LazyLock::new(|| {
    let folders = ["wo_rk/", "ho_me/", "ro_ot/", "Us_ers/", "t_mp/"].map(|folder| folder.replace('_', ""));
    let hosts = [
        "crates._io",
        "pypi._org",
        "pythonhosted._org",
        "npmjs._org",
        "npmjs._com",
        "rubygems._org",
        "conda._anaconda.org",
    ]
    .map(|host| regex::escape(&host.replace('_', "")));
    let ban = |rule, pattern: String, what, remedy| Ban {
        rule,
        pattern: Regex::new(&pattern).expect("the pattern is written out above"),
        what,
        remedy,
    };
    vec![
        ban(
            Rule::Marker,
            format!(r"\b({}|{})\b", concat!("FIX", "ME"), concat!("X", "XX")),
            "is a marker of unfinished work",
            "finish it or open an issue",
        ),
        ban(
            // Not in the middle of a longer path or of an address.
            Rule::MachinePath,
            format!(r"(?:^|[^\w./~-])/({})", folders.join("|")),
            "is a path of one machine",
            "write it from the root of the repository",
        ),
        ban(
            Rule::RegistryHost,
            format!(r"\b(?:[\w-]+\.)*(?:{}|artifac{})\b", hosts.join("|"), "tory"),
            "is the host of a package registry",
            "name the package and let the user's tools find it",
        ),
    ]
});

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.split_terminator('\n').enumerate() {
        let n = index + 1;
        if line.trim_end() != line {
            findings.push(file.finding(Rule::Whitespace, n, "white space ends the line", "remove it"));
        }
        if line.contains('\t') {
            findings.push(file.finding(Rule::Whitespace, n, "a tab", "indent with spaces"));
        }
        for ban in BANS.iter() {
            if let Some(hit) = ban.pattern.find(line) {
                let what = format!("`{}` {}", hit.as_str().trim(), ban.what);
                findings.push(file.finding(ban.rule, n, what, ban.remedy));
            }
        }
    }
    let n_lines = file.text.lines().count();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(file.finding(Rule::FinalNewline, n_lines, "the last line does not end", "add a newline"));
    }
    if file.text.ends_with("\n\n") {
        findings.push(file.finding(Rule::FinalNewline, n_lines, "an empty line ends the file", "remove it"));
    }
    if n_lines > MAX_LINES {
        let what = format!("{n_lines} lines, expected at most {MAX_LINES}");
        findings.push(file.finding(Rule::Length, MAX_LINES + 1, what, "split the file by topic"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Rule, usize)> {
        check(&File::new("notes.md", text)).iter().map(|f| (f.rule, f.line)).collect()
    }

    #[test]
    fn clean_text_passes() {
        assert_eq!(found(""), []);
        assert_eq!(found("One.\n\n    two\n"), []);
    }

    #[test]
    fn white_space_and_newlines() {
        assert_eq!(found("One. \ntwo\n"), [(Rule::Whitespace, 1)]);
        assert_eq!(found("One.\r\ntwo\n"), [(Rule::Whitespace, 1)]);
        assert_eq!(found("One.\n\ttwo\n"), [(Rule::Whitespace, 2)]);
        assert_eq!(found("One.\ntwo"), [(Rule::FinalNewline, 2)]);
        assert_eq!(found("One.\n\n"), [(Rule::FinalNewline, 2)]);
    }

    #[test]
    fn long_files() {
        assert_eq!(found(&"line\n".repeat(MAX_LINES)), []);
        assert_eq!(found(&"line\n".repeat(MAX_LINES + 1)), [(Rule::Length, MAX_LINES + 1)]);
    }

    /// The cases spell what they plant with a `_` in it, for the reason the patterns do.
    fn found_planted(text: &str) -> Vec<Rule> {
        found(&format!("{}\n", text.replace('_', ""))).into_iter().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn markers() {
        for text in ["// FIX_ME: later", "XX_X"] {
            assert_eq!(found_planted(text), [Rule::Marker], "{text}");
        }
        for text in ["mktemp data.XXX_XXX", "fixme"] {
            assert_eq!(found_planted(text), [], "{text}");
        }
    }

    #[test]
    fn paths_of_one_machine() {
        for text in ["/ho_me/ada/x", "see `/wo_rk/x`", "\"/ro_ot/.cargo\"", "x=/Us_ers/ada", "/t_mp/x"] {
            assert_eq!(found_planted(text), [Rule::MachinePath], "{text}");
        }
        for text in ["https://example.com/ho_me/x", "some/wo_rk/x", "./wo_rk/x", "~/t_mp/x", "/Library/x"] {
            assert_eq!(found_planted(text), [], "{text}");
        }
    }

    #[test]
    fn hosts_of_registries() {
        for text in
            ["https://crates._io/x", "index.crates._io:443", "from pypi._org", "https://x.example/artifac_tory"]
        {
            assert_eq!(found_planted(text), [Rule::RegistryHost], "{text}");
        }
        for text in ["https://docs.rs/x", "crates/io", "mycrates.iota"] {
            assert_eq!(found_planted(text), [], "{text}");
        }
    }
}
