//! Reading what the command line names: files, compiled models, or standard input for `-`.

use anyhow::Context;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Whether the path stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What messages call the path.
pub(crate) fn display(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".into() } else { path.display().to_string() }
}

/// The file with the program's text: for a compiled model, a folder, the one in it.
pub(crate) fn program(path: &Path) -> PathBuf {
    if has_extension(path, &["mlmodelc"]) { path.join("model.mil") } else { path.to_path_buf() }
}

/// Whether the path ends in one of these extensions.
pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
}

/// The text of a file, or of standard input.
///
/// # Errors
///
/// If it cannot be read or is not UTF-8.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if is_stdin(path) {
        io::stdin().lock().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))
}
