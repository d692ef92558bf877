//! Runs that stop in unlikely moments.

use super::*;

#[cfg(target_os = "linux")] // For a device that is full.
#[test]
fn what_stopped_training_is_said_though_the_disk_is_full() {
    use crate::args::{Args, Command};
    use anemone::run::METRICS;
    use clap::Parser;
    use serde_json::json;

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
    std::os::unix::fs::symlink("/dev/full", path.join(METRICS)).unwrap();
    let mut run = Run::start(config, trainer, dir, Progress::new(true), &args).unwrap();
    // A line that waits: whether it is tried at once goes by the clock.
    let _ = run.metrics.append(&json!({ "step": 0 }));
    let Err(e) = run.train() else { panic!("expected an error") };
    let e = format!("{e:#}");
    assert!(e.contains("evaluate `fc1`: failed 3 times") && e.contains("write the metrics log"), "{e}");
}

#[test]
fn an_interrupt_at_a_restart_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let restart = Happened::Restart { why: "spent".into() };
    Journal::open(folder.path()).unwrap().record(20, restart).unwrap();
    INTERRUPTED.store(true, Ordering::Relaxed);
    let e = replace_process(folder.path(), 20, false).to_string();
    INTERRUPTED.store(false, Ordering::Relaxed);
    assert!(e.contains("interrupted at step 20; go on with `anemone train --resume --run-dir "), "{e}");
    assert_eq!(anemone::Run::open(folder.path()).unwrap().state(), &anemone::run::State::Interrupted);
}
