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
        let after = match format(&before, args.dialect) {
            Ok(after) => after,
            Err(e) => {
                // The other files are none the worse for it.
                anstream::eprintln!("{}", e.render(&input::display(path), &before));
                n_failed += 1;
                continue;
            }
        };
        if args.check {
            if before != after {
                n_changed += 1;
                writeln!(out, "{}", input::display(path))?;
            }
        } else if args.stdout || input::is_stdin(path) {
            out.write_all(after.as_bytes())?;
        } else if before != after {
            replace(path, &after)?;
        }
    }
    if n_failed > 0 {
        bail!("{n_failed} of {} files are no MIL and were left as they are", args.paths.len());
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
