//! The command run in a folder of its own.
#![allow(dead_code)] // Each test file uses a part of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `anemone` with these arguments, run in the folder.
    pub(crate) fn anemone(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
        command.current_dir(self.0.path()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// `anemone train` with these arguments, about to run in the folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
        command.current_dir(self.0.path()).arg("train").args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn train(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a run that must fail, without a panic, says.
    pub(crate) fn error(&self, args: &[&str]) -> String {
        let out = self.train(args);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("error: ") && !stderr.contains("panicked"), "{args:?}: {stderr}");
        stderr
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The files of a folder with what is in them.
    pub(crate) fn snapshot(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let file =
            |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        fs::read_dir(self.path(name)).unwrap().map(|entry| file(entry.unwrap())).collect()
    }
}

/// The losses in a run folder's metrics, which must have each step once and in order.
pub(crate) fn steps_and_losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .enumerate()
        .map(|(i, line)| {
            assert_eq!(line["step"], i, "line {}", i + 1);
            for key in ["update", "staleness", "compiles", "device_us", "host_us", "compile_wait_us"] {
                assert!(line[key].is_number(), "line {} has no `{key}`", i + 1);
            }
            line["loss"].as_f64().unwrap()
        })
        .collect()
}
