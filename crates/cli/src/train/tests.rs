//! Runs that stop by two errors at a time.
#![cfg(target_os = "linux")] // Of the devices that are full.

use super::*;
use crate::args::{Args, Command};
use anemone::run::METRICS;
use clap::Parser;
use serde_json::json;
use std::os::unix::fs::symlink;

#[test]
fn what_stopped_training_is_said_though_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let Command::Train(args) = Args::try_parse_from(["anemone", "train", "tiny", "--quiet"]).unwrap().command
    else {
        panic!("expected `train`");
    };
    let mut config = configuration(&args, None).unwrap();
    config.device.inject = "evaluate@1+".into();
    let trainer = Trainer::new(&config, device::open(&config.device.options().unwrap()).unwrap()).unwrap();
    let dir = RunDir::create(Some(&path), "tiny").unwrap();
    symlink("/dev/full", path.join(METRICS)).unwrap();
    let mut run = Run::start(config, trainer, dir, Progress::new(true), &args).unwrap();
    // A line that waits: whether it is tried at once goes by the clock.
    let _ = run.metrics.append(&json!({ "step": 0 }));
    let Err(e) = run.train() else { panic!("expected an error") };
    let e = format!("{e:#}");
    assert!(e.contains("evaluate `fc1`: failed 3 times") && e.contains("write the metrics log"), "{e}");
}
