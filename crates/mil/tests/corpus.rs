//! Real MIL texts are read and come back: files of coremlc's byte for byte, others token for token.
//!
//! The texts are not part of the project. `ANEMONE_SHARED` names the folder that has them; without it these tests
//! say so and check nothing.
#![allow(clippy::print_stderr)]

use anemone_mil::ir::{Program, Version};
use anemone_mil::text::{parse, print};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The folder of that name among the shared data.
fn shared(folder: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("ANEMONE_SHARED") else {
        eprintln!("skipped: ANEMONE_SHARED does not name a folder with `{folder}`");
        return None;
    };
    let path = Path::new(&root).join(folder);
    assert!(path.exists(), "ANEMONE_SHARED has no `{folder}`");
    Some(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below `folder` that `wanted` takes, in order.
fn files(folder: &Path, wanted: &impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[track_caller]
fn parsed(source: &str, name: &str) -> Program {
    parse(source).unwrap_or_else(|e| panic!("{name}: {}", e.render(name, source)))
}

/// What holds of every program: its text is read back as the same program, in its own version and in the other.
#[track_caller]
fn check_round_trip(program: &Program, name: &str) -> [bool; 2] {
    [Version::V1_0, Version::V1_3].map(|version| match program.to_version(version) {
        Ok(converted) => {
            assert_eq!(converted.version, version);
            let text = print(&converted);
            assert!(parsed(&text, name) == converted, "{name} in {}: another program\n{text}", version.as_str());
            true
        }
        Err(e) => {
            assert_ne!(program.version, version, "{name}: {e}");
            false
        }
    })
}

#[track_caller]
fn assert_same_text(printed: &str, source: &str, name: &str) {
    if printed != source {
        let (line, (ours, theirs)) =
            printed.lines().zip(source.lines()).enumerate().find(|(_, (a, b))| a != b).unwrap();
        panic!("{name}:{}: printed differently\n  {ours}\n  {theirs}", line + 1);
    }
}

#[test]
fn corpus() {
    let Some(folder) = shared("corpus") else { return };
    let sources = read(&folder.join("SOURCES.tsv"));
    let mut lines = sources.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let (local, written_by) = (column("local"), column("written_by"));
    let writers: HashMap<_, _> = lines.map(|l| (folder.join(l[local]), l[written_by].to_string())).collect();

    let (mut n_exact, mut n_converted) = (0, 0);
    let files = files(&folder, &|p| p.extension().is_some_and(|e| e == "mil"));
    assert!(files.len() >= 91, "{} files", files.len());
    for path in &files {
        let (name, source) = (path.display().to_string(), read(path));
        let program = parsed(&source, &name);
        if writers[path] == "apple-coremlc" {
            n_exact += 1;
            assert_same_text(&print(&program), source.trim_end_matches('\n'), &name);
            let mut normal = program.clone();
            normal.normalize();
            assert!(normal == program, "{name}: a file of coremlc's is in its order");
        }
        n_converted += usize::from(check_round_trip(&program, &name) == [true, true]);
    }
    assert!(n_exact >= 58 && n_converted >= 90, "{n_exact} exact, {n_converted} converted");
}

#[test]
fn op_tests() {
    let Some(path) = shared("conformance/op_tests.jsonl") else { return };
    let (cases, mut n_converted) = (read(&path), 0);
    assert!(cases.lines().count() >= 1248);
    for line in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let (name, source) = (case["id"].as_str().unwrap(), case["mil"].as_str().unwrap());
        let program = parsed(source, name);
        assert_same_text(&print(&program), source, name);
        n_converted += usize::from(check_round_trip(&program, name) == [true, true]);
    }
    assert!(n_converted >= 1100, "{n_converted} converted");
}

#[test]
fn models() {
    let Some(folder) = shared("conformance/models") else { return };
    let files = files(&folder, &|p| p.extension().is_some_and(|e| e == "mil"));
    assert!(!files.is_empty());
    for path in files {
        let (name, source) = (path.display().to_string(), read(&path));
        let program = parsed(&source, &name);
        assert_same_text(&print(&program), source.trim_end(), &name);
        check_round_trip(&program, &name);
    }
}

#[test]
fn texts_of_the_seed() {
    let Some(folder) = shared("oracle") else { return };
    let wanted = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("mil_"));
    let files = files(&folder, &wanted);
    assert!(files.len() >= 4, "{} texts", files.len());
    for path in files {
        let (name, source) = (path.display().to_string(), read(&path));
        let program = parsed(&source, &name);
        assert_eq!(words(&print(&program)), words(&source), "{name}");
        assert_eq!(check_round_trip(&program, &name), [true, true]);
    }
}

/// The text without the blanks between its tokens; no token of these texts needs a blank beside it but words.
fn words(source: &str) -> Vec<&str> {
    source.split_whitespace().collect()
}
