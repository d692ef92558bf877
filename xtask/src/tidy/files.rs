//! The files that tidy reads: what git tracks or would track, or the whole tree where there is no git.

use super::{Finding, Rule};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};
use std::process::Command;

/// A text file of the repository.
pub(super) struct File {
    /// From the root of the repository, with `/` between the parts.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> File {
        File { path: path.into(), text: text.into() }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A finding in this file; `line` counts from 1.
    pub(super) fn finding(&self, rule: Rule, line: usize, what: impl Into<String>, remedy: &str) -> Finding {
        Finding { rule, path: self.path.clone(), line, what: what.into(), remedy: remedy.to_string() }
    }
}

/// The text files below `root`, by path, and the way they were found.
///
/// Files that are not text are left out, and so is `Cargo.lock`, which Cargo writes.
pub(super) fn collect(root: &Path) -> Result<(Vec<File>, &'static str)> {
    let (mut paths, listed_by) = match list_by_git(root)? {
        Some(paths) => (paths, "git"),
        None => (list_by_walking(root)?, "walking the tree"),
    };
    paths.sort();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        if path.rsplit('/').next() == Some("Cargo.lock") {
            continue;
        }
        if let Some(text) = read_text(&root.join(&path))? {
            files.push(File::new(path, text));
        }
    }
    Ok((files, listed_by))
}

/// What git tracks, and what is new but not ignored, so that a file is checked before it is added.
///
/// None if `root` is not a checkout (a source archive is not, even when unpacked inside another repository), or if
/// git is missing or declines.
fn list_by_git(root: &Path) -> Result<Option<Vec<String>>> {
    if !root.join(".git").exists() {
        return Ok(None);
    }
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let Some(listing) = listing.ok().filter(|listing| listing.status.success()) else {
        return Ok(None);
    };
    let names = String::from_utf8(listing.stdout).context("file names of the repository: expected UTF-8")?;
    Ok(Some(names.split_terminator('\0').map(str::to_string).collect()))
}

/// Every file below `root` that `.gitignore` does not exclude.
fn list_by_walking(root: &Path) -> Result<Vec<String>> {
    let mut walk = ignore::WalkBuilder::new(root);
    walk.hidden(false).require_git(false).parents(false).git_global(false);
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut paths = Vec::new();
    for entry in walk.build() {
        let entry = entry.context("walk the tree")?;
        if entry.file_type().is_some_and(|t| t.is_file()) {
            paths.push(relative(root, entry.path())?);
        }
    }
    Ok(paths)
}

fn relative(root: &Path, path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.strip_prefix(root)?.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().context("file name: expected UTF-8")?),
            other => bail!("{}: expected a plain path, found {other:?}", path.display()),
        }
    }
    Ok(parts.join("/"))
}

/// The text of a file; None if it is a link, a folder (a submodule), deleted but still tracked, or not text.
fn read_text(path: &Path) -> Result<Option<String>> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    if !kind.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    if bytes.contains(&0) {
        return Ok(None);
    }
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let files: [(&str, &[u8]); 7] = [
            (".gitignore", b"/target\n"),
            (".ci/run", b"true\n"),
            ("Cargo.lock", b"version = 4\n"),
            ("src/lib.rs", b"//! One.\n"),
            ("src/data.bin", b"\0\x01"),
            ("src/latin1.txt", b"caf\xe9\n"),
            ("target/out.rs", b"fn f() {}\n"),
        ];
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn paths(root: &Path) -> (Vec<String>, &'static str) {
        let (files, listed_by) = collect(root).unwrap();
        (files.into_iter().map(|f| f.path).collect(), listed_by)
    }

    #[test]
    fn a_source_archive_is_walked_without_what_is_ignored() {
        let tree = tree();
        let (found, listed_by) = paths(tree.path());
        assert_eq!(found, [".ci/run", ".gitignore", "src/lib.rs"]);
        assert_eq!(listed_by, "walking the tree");
    }

    #[test]
    fn a_checkout_is_listed_by_git_with_new_files_and_without_deleted_ones() {
        let tree = tree();
        let git = |args: &[&str]| Command::new("git").args(args).current_dir(tree.path()).output();
        let Ok(init) = git(&["init", "--quiet"]) else {
            println!("skipped: git is not installed");
            return;
        };
        assert!(init.status.success());
        assert!(git(&["add", ".ci/run", "src/lib.rs"]).unwrap().status.success());
        fs::remove_file(tree.path().join(".ci/run")).unwrap();
        let (found, listed_by) = paths(tree.path());
        assert_eq!(found, [".gitignore", "src/lib.rs"]);
        assert_eq!(listed_by, "git");
    }
}
