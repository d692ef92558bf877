//! What a run's folder says of runs that end in every way, and what shows it.
#![cfg(unix)]

mod support;

use anemone::Run;
use anemone::run::{Happened, Journal, State};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::Folder;

fn state(run: &Path) -> State {
    Run::open(run).unwrap().state().clone()
}

/// Waits until the run at `path` is in some state, and gives what was read.
fn wait_for(path: &Path, what: &str, is_it: impl Fn(&Run) -> bool) -> Run {
    let started = Instant::now();
    loop {
        if let Ok(run) = Run::open(path)
            && is_it(&run)
        {
            return run;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no {what} after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn spawn(folder: &Folder, args: &[&str]) -> Child {
    folder.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// `anemone` with these arguments: its exit code, what it printed and what it said.
fn anemone(folder: &Folder, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
    let out = command.current_dir(folder.path("")).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Weights passed in: steps are quick, and there is no restart.
const ENDLESS: [&str; 7] =
    ["--weights", "operand", "--steps", "100000000", "--checkpoint-every", "200", "--quiet"];

#[test]
fn a_run_that_is_killed_resumed_ended_and_finished_says_so_each_time() {
    let folder = Folder::new();
    let path = folder.path("a");
    let run_dir = ["--run-dir", "a"];
    let mut child = spawn(&folder, &[&ENDLESS[..], &run_dir].concat());
    wait_for(&path, "step", |run| run.state() == &State::Running && run.steps().len() > 400);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut run = Run::open(&path).unwrap();
    assert_eq!(run.state(), &State::Killed);
    let n_killed = run.steps().len();

    let mut child = spawn(&folder, &[&ENDLESS[..], &run_dir, &["--resume"]].concat());
    wait_for(&path, "resumption", |run| run.state() == &State::Running && run.process().unwrap().resumed);
    run.refresh().unwrap();
    // What was trained after the last checkpoint is trained again.
    assert_eq!(run.state(), &State::Running);
    assert!(run.steps().step.iter().copied().eq(0..run.steps().len() as u64));
    wait_for(&path, "more steps", |run| run.steps().len() > n_killed);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    run.refresh().unwrap();
    assert_eq!(run.state(), &State::Interrupted);
    let n_steps = run.steps().len();
    assert!(run.steps().step.iter().copied().eq(0..n_steps as u64));
    assert_eq!(run.events().last().unwrap().step, n_steps as u64, "it was saved there");

    let steps = (n_steps + 100).to_string();
    let finish = ["--resume", "--run-dir", "a", "--quiet", "--weights", "operand", "--steps", &steps];
    assert!(folder.train(&finish).status.success());
    run.refresh().unwrap();
    assert_eq!((run.state(), run.steps().len()), (&State::Finished, n_steps + 100));
    assert_eq!(run.report().unwrap()["steps"], n_steps + 100);
    let what: Vec<_> = run.events().iter().map(|e| std::mem::discriminant(&e.event)).collect();
    let of = std::mem::discriminant(&Happened::Started(Box::default()));
    assert_eq!((what.len(), what[0], what[1], what[3]), (5, of, of, of), "{:?}", run.events());
}

/// Whoever looks at a run all the time must not see it dead between its processes, nor keep the next one from its
/// lock.
#[test]
fn a_run_that_restarts_is_never_dead_to_who_watches() {
    let folder = Folder::new();
    let path = folder.path("a");
    // Ten updates a process.
    let flags = ["--no-overlap", "--compile-budget", "40", "--steps", "1000", "--quiet", "--run-dir", "a"];
    let mut child = spawn(&folder, &flags);
    wait_for(&path, "begin", |run| run.state().is_alive());
    let mut run = Run::open(&path).unwrap();
    let mut seen = Vec::new();
    while child.try_wait().unwrap().is_none() {
        run.refresh().unwrap();
        if seen.last() != Some(run.state()) {
            seen.push(run.state().clone());
        }
    }
    run.refresh().unwrap();
    assert!(child.wait().unwrap().success(), "{:?}", run.events().last());
    assert_eq!(run.state(), &State::Finished);
    let dead: Vec<_> = seen.iter().filter(|s| !s.is_alive() && **s != State::Finished).collect();
    assert!(dead.is_empty(), "{seen:?}");
    let n_restarts = run.events().iter().filter(|e| matches!(e.event, Happened::Restart { .. })).count();
    assert_eq!(n_restarts, 9);
    assert!(run.process().unwrap().restarted);
    // All steps have their compiles and times, over all processes.
    let steps = run.steps();
    assert_eq!((steps.len(), steps.compiled.len(), steps.compiles[999]), (1000, 100, 400));
    assert!(steps.time_us.is_sorted() && steps.compiled.iter().all(|c| c.begin_us < c.end_us));
}

#[test]
fn a_run_that_fails_says_why() {
    let folder = Folder::new();
    let flags = ["--weights", "operand", "--inject", "evaluate@100+", "--quiet", "--run-dir", "a"];
    let e = folder.error(&flags);
    let State::Failed(why) = state(&folder.path("a")) else { panic!("{:?}", state(&folder.path("a"))) };
    assert!(why.contains("evaluate") && e.contains(&why), "{why}\n{e}");

    // A process that took another's place and cannot go on: the run is not left as restarting.
    Journal::open(&folder.path("a")).unwrap().record(0, Happened::Restart { why: "spent".into() }).unwrap();
    assert_eq!(state(&folder.path("a")), State::Restarting("spent".into()));
    let e = folder.error(&["--restarted", "--resume", "--run-dir", "a", "--chip", "m1", "--inject", "compile@1+"]);
    let State::Failed(why) = state(&folder.path("a")) else { panic!("{:?}", state(&folder.path("a"))) };
    assert!(e.contains(&why), "{why}\n{e}");
}

#[test]
fn runs_lists_them_with_their_states() {
    let folder = Folder::new();
    let flags = ["--weights", "operand", "--steps", "50", "--quiet"];
    assert!(folder.train(&flags).status.success());
    assert!(folder.train(&flags).status.success());
    folder.error(&[&flags[..], &["--inject", "compile@1+", "--run-dir", "runs/bad"]].concat());
    fs::create_dir(folder.path("runs/notes")).unwrap();
    let (code, text, _) = anemone(&folder, &["runs"]);
    assert_eq!((code, text.lines().count()), (Some(0), 4), "{text}");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..5], ["tiny", "finished", "mlp", "16.4k", "50"]);
    assert_eq!(lines[2][..2], ["tiny-2", "finished"]);
    assert_eq!(lines[3][..2], ["bad", "failed"]);
    let (_, json, _) = anemone(&folder, &["runs", "runs", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&rows[0]["name"], &rows[0]["state"], &rows[0]["steps"]),
        (&"tiny".into(), &"finished".into(), &50.into())
    );
    assert!(
        rows[0]["loss"].is_number() && rows[0]["steps_per_second"].is_number() && rows[0]["heard"].is_number()
    );
    assert!(rows[2]["state"] == "failed" && rows[2]["why"].as_str().unwrap().contains("compile"), "{rows}");
    // A run's own folder is a list of one.
    let (_, json, _) = anemone(&folder, &["runs", "runs/bad", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&json).unwrap().len(), 1);
    let (code, _, e) = anemone(&folder, &["runs", "nowhere"]);
    assert!(code == Some(1) && e.contains("`nowhere`"), "{e}");
}

#[test]
fn views_without_a_terminal_are_refused_before_anything_is_done() {
    let folder = Folder::new();
    let e = folder.error(&["--tui", "--run-dir", "a"]);
    assert!(e.contains("`--tui` needs a terminal") && e.contains("anemone watch"), "{e}");
    assert!(!folder.path("a").exists());
    assert!(
        folder.train(&["--weights", "operand", "--steps", "20", "--quiet", "--run-dir", "a"]).status.success()
    );
    let (code, _, e) = anemone(&folder, &["watch", "a"]);
    assert!(code == Some(1) && e.contains("needs a terminal") && e.contains("anemone runs --json"), "{e}");
    let (code, _, e) = anemone(&folder, &["watch", "b"]);
    assert!(code == Some(1) && e.contains("`b` is no folder of a run"), "{e}");
}

#[test]
fn each_process_writes_an_event_file_for_tensorboard() {
    let folder = Folder::new();
    let flags = ["--no-overlap", "--compile-budget", "40", "--steps", "200", "--quiet", "--tensorboard", "board"];
    assert!(folder.train(&flags).status.success());
    let files: Vec<Vec<u8>> = folder.snapshot("board").into_values().collect();
    assert_eq!(files.len(), 2);
    let n_losses = |bytes: &[u8]| bytes.windows(10).filter(|w| w == b"loss/train").count();
    assert_eq!(files.iter().map(|f| n_losses(f)).collect::<Vec<_>>(), [100, 100]);
}
