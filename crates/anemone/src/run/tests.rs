//! Runs read while they are written.

use super::*;
use crate::metrics::MetricsLog;
use serde_json::json;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(CONFIG), "[train]\nsteps = 9\n").unwrap();
    folder
}

fn line(step: u64, loss: f64) -> serde_json::Value {
    json!({ "step": step, "time_us": now_us(), "loss": loss })
}

fn started() -> Happened {
    Happened::Started(Box::default())
}

#[test]
fn the_state_goes_by_the_lock_and_the_last_words() {
    let folder = folder();
    let path = folder.path();
    let mut run = Run::open(path).unwrap();
    assert_eq!(run.state(), &State::Untrained);
    let mut state = |expected: State| {
        run.refresh().unwrap();
        assert_eq!(run.state(), &expected);
    };

    let lock = File::create(path.join(LOCK)).unwrap();
    state(State::Untrained);
    lock.lock().unwrap();
    state(State::Starting);
    let mut journal = Journal::open(path).unwrap();
    journal.record(0, started()).unwrap();
    state(State::Starting);
    let mut metrics = MetricsLog::create(&path.join(METRICS)).unwrap();
    metrics.append(&line(0, 1.0)).unwrap();
    metrics.flush().unwrap();
    journal.record(1, Happened::Warning { message: "no fp32".into() }).unwrap();
    state(State::Running);
    lock.unlock().unwrap();
    state(State::Killed);

    lock.lock().unwrap();
    journal.record(1, started()).unwrap();
    state(State::Starting);
    journal.record(1, Happened::Restart { why: "spent".into() }).unwrap();
    state(State::Restarting("spent".into()));
    lock.unlock().unwrap();
    state(State::Restarting("spent".into()));
    for (event, expected) in [
        (Happened::Failed { error: "no".into() }, State::Failed("no".into())),
        (Happened::Interrupted, State::Interrupted),
        (Happened::Finished { converged: false }, State::Finished),
    ] {
        lock.lock().unwrap();
        journal.record(1, started()).unwrap();
        journal.record(1, event).unwrap();
        // The process may hold the lock for a moment longer.
        state(expected.clone());
        lock.unlock().unwrap();
        state(expected);
    }
}

/// An event of long ago in the journal at `path`.
fn long_ago(path: &Path, event: Happened) {
    let record = Record { time_us: now_us() - 60_000_000, step: 1, event };
    fs::write(path.join(EVENTS), serde_json::to_string(&record).unwrap() + "\n").unwrap();
}

#[test]
fn what_was_said_long_ago_does_not_hold_for_ever() {
    let folder = folder();
    let path = folder.path();
    let lock = File::create(path.join(LOCK)).unwrap();
    long_ago(path, Happened::Restart { why: "spent".into() });
    assert_eq!(Run::open(path).unwrap().state(), &State::Killed, "the new process never came");
    lock.lock().unwrap();
    assert_eq!(Run::open(path).unwrap().state(), &State::Restarting("spent".into()));
    long_ago(path, Happened::Finished { converged: true });
    assert_eq!(Run::open(path).unwrap().state(), &State::Starting, "somebody goes on with it");
    lock.unlock().unwrap();
    assert_eq!(Run::open(path).unwrap().state(), &State::Finished);

    // A clock that has been set back makes no process live.
    let record = Record { time_us: now_us() + 60_000_000, step: 1, event: started() };
    fs::write(path.join(EVENTS), serde_json::to_string(&record).unwrap() + "\n").unwrap();
    assert_eq!(Run::open(path).unwrap().state(), &State::Killed);
}

#[test]
fn steps_come_once_and_again_after_a_resumption() {
    let folder = folder();
    let path = folder.path().join(METRICS);
    let mut metrics = MetricsLog::create(&path).unwrap();
    let mut run = Run::open(folder.path()).unwrap();
    for step in 0..6 {
        metrics.append(&line(step, step as f64)).unwrap();
        metrics.flush().unwrap();
        run.refresh().unwrap();
        assert_eq!(run.steps().len() as u64, step + 1);
    }
    drop(metrics);
    // A killed process has torn its last line, and the next one goes on at step 4.
    fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"step\":6,\"lo").unwrap();
    run.refresh().unwrap();
    assert_eq!(run.steps().len(), 6);
    let mut metrics = MetricsLog::resume(&path, 4).unwrap().log;
    for step in 4..9 {
        metrics.append(&line(step, 10.0)).unwrap();
    }
    metrics.flush().unwrap();
    run.refresh().unwrap();
    assert_eq!(run.steps().loss, [0.0, 1.0, 2.0, 3.0, 10.0, 10.0, 10.0, 10.0, 10.0]);
    assert_eq!(run.steps().step, (0..9).collect::<Vec<_>>());
}

#[test]
fn a_line_of_the_trainer_comes_back_whole() {
    let compiled = crate::train::Compiled { begin_us: 5, end_us: 7, background: true, error: Some("no".into()) };
    let report = crate::train::StepReport {
        step: 3,
        time_us: 9,
        loss: 0.5,
        update: 2,
        staleness: 1,
        skipped: true,
        update_skipped: true,
        lr: 0.25,
        loss_scale: 8.0,
        gradient_norm: Some(f64::INFINITY),
        device_us: 20.0,
        copy_us: 4.0,
        host_us: 30.0,
        compile_wait_us: 40.0,
        compiles: 12,
        compiled: vec![compiled.clone()],
        retries: 2,
        eval_us: Some(70.0),
        validation: Some(crate::report::Validation {
            loss: 1.5,
            accuracy: Some(0.75),
            n_targets: 1,
            n_batches: 1,
            best: true,
        }),
    };
    let folder = folder();
    let mut metrics = MetricsLog::create(&folder.path().join(METRICS)).unwrap();
    metrics.append(&report).unwrap();
    drop(metrics);
    let run = Run::open(folder.path()).unwrap();
    let s = run.steps();
    assert_eq!((s.step[0], s.time_us[0], s.compiles[0], s.update[0], s.staleness[0]), (3, 9, 12, 2, 1));
    assert_eq!((s.loss[0], s.lr[0], s.loss_scale[0]), (0.5, 0.25, 8.0));
    assert!(s.gradient_norm[0].is_nan());
    assert_eq!((s.device_us[0], s.copy_us[0], s.host_us[0], s.compile_wait_us[0]), (20.0, 4.0, 30.0, 40.0));
    assert_eq!((&s.skipped[..], &s.updates_skipped[..], &s.retries[..]), (&[3][..], &[3][..], &[(3, 2)][..]));
    assert_eq!(s.compiled, [compiled]);
    let validated = Validated { step: 4, loss: 1.5, accuracy: Some(0.75), best: true, eval_us: 70.0 };
    assert_eq!(s.validations, [validated]);
}

#[test]
fn events_come_back_and_torn_ones_spoil_no_other() {
    let folder = folder();
    let path = folder.path().join(EVENTS);
    Journal::open(folder.path()).unwrap().record(0, started()).unwrap();
    let torn =
        fs::read_to_string(&path).unwrap() + "{\"time_us\":1,\"step\":1,\"event\":\"hiccup\"}\n{\"time_us\":1,";
    fs::write(&path, torn).unwrap();
    Journal::open(folder.path()).unwrap().record(7, Happened::Failed { error: "`a`\nb".into() }).unwrap();
    let run = Run::open(folder.path()).unwrap();
    let events: Vec<_> = run.events().iter().map(|e| (e.step, &e.event)).collect();
    let failed = Happened::Failed { error: "`a`\nb".into() };
    assert_eq!(events, [(0, &started()), (1, &Happened::Other), (7, &failed)]);
    assert_eq!(run.process(), Some(&Process::default()));
}

#[cfg(unix)]
#[test]
fn an_event_that_a_full_disk_took_part_of_spoils_no_other() {
    use crate::file::tests::{child_file, run_with_small_files};
    let short = |step| (step, Happened::Interrupted);
    if let Some(path) = child_file() {
        let mut journal = Journal::open(&path).unwrap();
        let long = Happened::Failed { error: "x".repeat(1 << 20) };
        for (step, event) in [short(1), (2, long), short(3)] {
            assert_eq!(journal.record(step, event).is_ok(), step != 2);
        }
        return;
    }
    let folder = folder();
    run_with_small_files("run::tests::an_event_that_a_full_disk_took_part_of_spoils_no_other", folder.path());
    let run = Run::open(folder.path()).unwrap();
    assert_eq!(run.events().iter().map(|e| (e.step, e.event.clone())).collect::<Vec<_>>(), [short(1), short(3)]);
}

#[test]
fn curves_are_short_and_keep_extremes() {
    let folder = folder();
    let text: String =
        (0..1000).map(|step| format!("{}\n", line(step, if step == 777 { 1e6 } else { 1.0 }))).collect();
    fs::write(folder.path().join(METRICS), text).unwrap();
    let run = Run::open(folder.path()).unwrap();
    let steps = run.steps();
    let curve = steps.curve(&steps.loss, 64);
    assert!(curve.len() <= 64 && curve.len() > 32, "{}", curve.len());
    assert_eq!(curve.iter().map(|b| b.max).fold(0.0, f64::max), 1e6);
    assert!(curve.iter().all(|b| b.min == 1.0));
    assert_eq!(curve[0].step, 7.5);
    assert_eq!(steps.curve(&steps.lr, 64), [], "there are none");
    assert_eq!(steps.curve(&steps.loss, 5000).len(), 1000);
}

#[test]
fn lines_with_impossible_numbers_are_left_out() {
    let folder = folder();
    let huge = u64::MAX;
    let bad = [
        format!("{{\"step\":1,\"time_us\":{huge}}}"),
        "{\"step\":2,\"host_us\":-1}".into(),
        "{\"step\":3,\"device_us\":-0.5}".into(),
        "{\"step\":4,\"copy_us\":-1e300}".into(),
        "{\"step\":5,\"compile_wait_us\":-1}".into(),
        "{\"step\":6,\"eval_us\":-1,\"validation\":{\"loss\":1}}".into(),
        format!("{{\"step\":7,\"retries\":{huge}}}"),
        format!("{{\"step\":8,\"compiles\":{huge}}}"),
        format!("{{\"step\":{huge},\"validation\":{{\"loss\":1}}}}"),
    ];
    let text = format!("{{\"step\":0,\"host_us\":0}}\n{}\n{{\"step\":9,\"loss\":-1}}\n", bad.join("\n"));
    fs::write(folder.path().join(METRICS), text).unwrap();
    let run = Run::open(folder.path()).unwrap();
    assert_eq!((&run.steps().step[..], run.steps().validations.len()), (&[0, 9][..], 0));
}

#[test]
fn speed_is_that_of_the_last_process() {
    let folder = folder();
    let times = [1_000_000, 1_100_000, 9_000_000, 9_500_000, 10_000_000];
    let text: String =
        times.iter().enumerate().map(|(i, t)| format!("{{\"step\":{i},\"time_us\":{t},\"loss\":1}}\n")).collect();
    fs::write(folder.path().join(METRICS), text).unwrap();
    let rate = |since| {
        let record = Record { time_us: since, step: 0, event: started() };
        fs::write(folder.path().join(EVENTS), serde_json::to_string(&record).unwrap() + "\n").unwrap();
        Run::open(folder.path()).unwrap().steps_per_second()
    };
    assert_eq!(rate(8_000_000), Some(2.0));
    assert_eq!(rate(500_000), Some(4.0 / 9.0));
    assert_eq!(rate(9_900_000), None, "one step says nothing");
    assert_eq!(rate(11_000_000), None);
}

#[test]
fn other_folders_are_refused_and_old_runs_are_understood() {
    let empty = tempfile::tempdir().unwrap();
    let e = Run::open(empty.path()).unwrap_err().to_string();
    assert!(e.contains("is no folder of a run"), "{e}");
    assert!(Run::open(&empty.path().join("none")).is_err());

    let folder = folder();
    fs::write(folder.path().join(METRICS), "{\"step\":0,\"loss\":0.5}\n{\"step\":1,\"loss\":null}\nhello\n")
        .unwrap();
    let mut run = Run::open(folder.path()).unwrap();
    assert_eq!((run.state(), run.steps().len()), (&State::Killed, 2));
    assert!(run.steps().loss[1].is_nan() && run.steps_per_second().is_none() && run.heard_us().is_some());
    fs::write(folder.path().join(REPORT), "{\"steps\": 2}").unwrap();
    run.refresh().unwrap();
    assert_eq!((run.state(), run.report().unwrap()["steps"].as_u64()), (&State::Finished, Some(2)));
}
