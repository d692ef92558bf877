//! `anemone fmt`: MIL text in coremlc's layout, in place, and from one version of the language to the other.

use crate::{Outcome, args, input};
use anemone_mil::ir::Version;
use anemone_mil::text;
use anyhow::{Context, bail};
use std::fs;
use std::io::Write;
use std::path::Path;

pub(crate) fn run(args: &args::Fmt, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut n_changed = 0;
    let mut n_failed = 0;
    for path in &args.paths {
        let before = input::read(path)?;
        let name = input::display(path);
        let after = match format(&before, args.dialect) {
            Ok(after) => after,
            // The other files are none the worse for it.
            Err(e) => {
                anstream::eprintln!("{}", e.render(&name, &before));
                n_failed += 1;
                continue;
            }
        };
        if args.check {
            if before != after {
                n_changed += 1;
                writeln!(out, "{name}")?;
            }
        } else if args.stdout || input::is_stdin(path) {
            out.write_all(after.as_bytes())?;
        } else if before != after {
            if has_comments(&before) && !args.drop_comments {
                anstream::eprintln!(
                    "error: `{name}` has comments, which would be lost; give --drop-comments or --stdout"
                );
                n_failed += 1;
                continue;
            }
            replace(path, &after)?;
        }
    }
    if n_failed > 0 {
        bail!("{n_failed} of {} files were left as they are: mend what is named above", args.paths.len());
    }
    Ok(if n_changed > 0 { Outcome::Found } else { Outcome::Clean })
}

/// The text in coremlc's layout. It ends as coremlc's files do, without a line break, unless it had one before.
fn format(before: &str, dialect: Option<Version>) -> anemone_mil::Result<String> {
    let mut program = text::parse(before)?;
    if let Some(version) = dialect {
        program = program.to_version(version)?;
    }
    let mut after = text::print(&program);
    if before.ends_with('\n') && !after.ends_with('\n') {
        after.push('\n');
    }
    Ok(after)
}

/// Whether text that parses has a `//` outside of strings.
fn has_comments(source: &str) -> bool {
    let (mut in_string, mut escaped, mut before) = (false, false, ' ');
    for c in source.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '/' if before == '/' && !in_string => return true,
            _ => {}
        }
        before = c;
    }
    false
}

/// Replaces the file as a whole or not at all: a new one is written beside it and takes its name.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    // Through a symbolic link the file it leads to is replaced, not the link.
    let path = fs::canonicalize(path).with_context(|| format!("find `{}`", path.display()))?;
    let folder = path.parent().context("a file has a folder")?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(fs::metadata(&path)?.permissions())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().with_context(|| format!("write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_told_from_strings() {
        for with in ["// a", "x / // y", r#"string("a\\") // b"#, r#""a" //"#] {
            assert!(has_comments(with), "{with}");
        }
        for without in ["", "/ /", r#""http://x""#, r#""a\"// b""#] {
            assert!(!has_comments(without), "{without}");
        }
    }
}
