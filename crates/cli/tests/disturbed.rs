//! `anemone train` killed, interrupted, run twice at a time, on damaged checkpoints and full disks: what was saved
//! is never lost, and the run ends in the weights of one that nothing disturbed.
#![cfg(unix)]

mod support;

use anemone::checkpoint::Checkpoint;
use anemone::random::Random;
use anemone::train::Event;
use anemone::weights_file::{NamedTensor, load_safetensors};
use anemone::{Config, Trainer};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Folder, steps_and_losses};

/// How often a run is killed in one test. The whole number takes a minute where tests are not optimised; it is
/// that of release builds, and of those with the shared data at hand.
fn n_kills() -> usize {
    let whole = !cfg!(debug_assertions) || std::env::var_os("ANEMONE_SHARED").is_some();
    if whole { 50 } else { 12 }
}

fn killed_at_random_moments(flags: &[&str], seed: u64) {
    let folder = Folder::new();
    let flags = [&["tiny", "--checkpoint-every", "20", "--quiet"], flags].concat();
    let started = Instant::now();
    assert!(folder.train(&[&flags[..], &["--run-dir", "undisturbed"]].concat()).status.success());
    let whole = started.elapsed();
    let expected = steps_and_losses(&folder.path("undisturbed"));

    let mut random = Random::new(seed);
    let (mut n_kills_left, mut n_runs, mut n_resumed) = (n_kills(), 0, 0);
    while n_kills_left > 0 {
        n_runs += 1;
        let run = format!("killed-{n_runs}");
        let args = [&flags[..], &["--resume", "--run-dir", &run]].concat();
        loop {
            let mut child = folder.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            if n_kills_left > 0 {
                // From the first instant of the process to half of its work.
                std::thread::sleep(whole.mul_f64(random.uniform() * 0.5));
                child.kill().unwrap();
            }
            let out = child.wait_with_output().unwrap();
            if out.status.code().is_some() {
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                break;
            }
            n_kills_left -= 1;
        }
        assert_eq!(
            folder.bytes(&format!("{run}/weights.safetensors")),
            folder.bytes("undisturbed/weights.safetensors"),
            "run {n_runs} after {n_kills_left} kills"
        );
        assert_eq!(steps_and_losses(&folder.path(&run)), expected);
        let report: serde_json::Value =
            serde_json::from_slice(&folder.bytes(&format!("{run}/report.json"))).unwrap();
        assert_eq!(report["steps"], expected.len());
        let resumed_at = report["stats"]["resumed_at"].as_array().unwrap();
        let restarted_at = report["stats"]["restarted_at"].as_array().unwrap();
        n_resumed += resumed_at.len() - restarted_at.len();
        // What killed writers leave is cleaned up by the next.
        let names: Vec<String> = folder.snapshot(&run).into_keys().collect();
        let left: Vec<_> = names.iter().filter(|n| n.contains("checkpoint") && n.ends_with("-tmp")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(n_resumed > n_kills() / 4, "of {} kills, {n_resumed} came after a checkpoint", n_kills());
}

#[test]
fn killed_runs_with_weights_passed_in_end_bit_for_bit_like_undisturbed_ones() {
    killed_at_random_moments(&["--weights", "operand", "--steps", "1000"], 1);
}

#[test]
fn killed_runs_with_weights_compiled_in_end_bit_for_bit_like_undisturbed_ones() {
    // 40 updates of 4 compiles: the process replaces itself at step 250, which kills hit as well.
    killed_at_random_moments(&["--no-overlap", "--steps", "400", "--inject", "delay=1"], 2);
}

/// The weights of a run of the library that gets a new process, and so new kernels, at these steps.
fn planned(config: &Config, restarts: &[u64]) -> Vec<NamedTensor> {
    let mut checkpoint: Option<Checkpoint> = None;
    for until in restarts.iter().chain([&config.train.steps]) {
        let device = anemone::device::open(&config.device.options().unwrap()).unwrap();
        let mut trainer = Trainer::new(config, device).unwrap();
        if let Some(checkpoint) = &checkpoint {
            trainer.resume(checkpoint.clone()).unwrap();
        }
        while trainer.n_steps() < *until {
            let event = trainer.step().unwrap();
            assert!(matches!(event, Event::Step(_)), "{event:?} at step {}", trainer.n_steps());
        }
        checkpoint = Some(trainer.checkpoint().unwrap());
    }
    checkpoint.unwrap().tensors
}

/// With overlap a new process begins with kernels of the newest weights, which an undisturbed run never has.
#[test]
fn a_killed_run_with_overlap_is_one_that_planned_its_restarts_there() {
    let folder = Folder::new();
    let flags = [
        "tiny",
        "--steps",
        "1000",
        "--checkpoint-every",
        "20",
        "--quiet",
        "--inject",
        "delay=2",
        "--run-dir",
        "a",
    ];
    let mut random = Random::new(3);
    for n_steps in [40, 60, 150, 230] {
        let args = [&flags[..], &["--resume"]].concat();
        let mut child = Background(folder.command(&args).stdout(Stdio::null()).spawn().unwrap());
        let saved_at = || {
            let saved = Checkpoint::load(&folder.path("a/checkpoint.anemone")).ok()?;
            saved.state["step"].as_u64()
        };
        wait_for("checkpoint", || saved_at().is_some_and(|step| step >= n_steps));
        std::thread::sleep(Duration::from_millis(20).mul_f64(random.uniform()));
        child.0.kill().unwrap();
        assert!(child.0.wait().unwrap().code().is_none(), "it was killed, not finished");
    }
    assert!(folder.train(&[&flags[..], &["--resume"]].concat()).status.success());
    let report: serde_json::Value = serde_json::from_slice(&folder.bytes("a/report.json")).unwrap();
    let resumed_at: Vec<u64> = serde_json::from_value(report["stats"]["resumed_at"].clone()).unwrap();
    assert!(resumed_at.len() >= 4, "{resumed_at:?}");
    let config = Config::from_toml(&fs::read_to_string(folder.path("a/config.toml")).unwrap()).unwrap();
    let found = load_safetensors(&folder.path("a/weights.safetensors")).unwrap();
    assert_eq!(found, planned(&config, &resumed_at));
    // Those that its budget of compiles makes it have anyway.
    assert_ne!(found, planned(&config, &[480, 960]));
    assert_eq!(steps_and_losses(&folder.path("a")).len(), 1000);
}

/// A process that is killed when the test is over, whatever becomes of that.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < Duration::from_secs(60), "no {what} after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_second_process_in_the_same_folder_is_refused() {
    let folder = Folder::new();
    let slow = ["--steps", "400", "--inject", "delay=200", "--quiet", "--run-dir", "a"];
    let _first = Background(folder.command(&slow).stdout(Stdio::null()).spawn().unwrap());
    wait_for("configuration", || folder.path("a/config.toml").exists());
    let before = folder.snapshot("a");
    let e = folder.error(&["--resume", "--run-dir", "a"]);
    assert!(e.contains("another process is training in `a`"), "{e}");
    let e = folder.error(&["--run-dir", "a"]);
    assert!(e.contains("`a` exists"), "{e}");
    let after = folder.snapshot("a");
    assert!(before.iter().all(|(name, bytes)| name == "metrics.jsonl" || after.get(name) == Some(bytes)));
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_refused_by_name_and_left_untouched() {
    let folder = Folder::new();
    let args = ["--weights", "operand", "--run-dir", "a"];
    assert!(folder.train(&[&args[..], &["--steps", "20"]].concat()).status.success());
    let good = folder.bytes("a/checkpoint.anemone");
    let path = folder.path("a/checkpoint.anemone");
    let resume = [&args[..], &["--resume", "--steps", "40"]].concat();

    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let cases = [
        ("is truncated", good[..good.len() / 2].to_vec()),
        ("is truncated", good[..11].to_vec()),
        ("is truncated", Vec::new()),
        ("is not an anemone checkpoint", flipped(3)),
        ("has format version", flipped(8)),
        ("is damaged", flipped(good.len() / 2)),
        ("is damaged", flipped(good.len() - 1)),
        ("is damaged", [&good[..], b"more"].concat()),
    ];
    for (words, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        let before = folder.snapshot("a");
        let e = folder.error(&resume);
        assert!(e.contains("checkpoint `a/checkpoint.anemone`") && e.contains(words), "{words}: {e}");
        assert_eq!(folder.snapshot("a"), before, "{words}");
    }

    fs::write(&path, &good).unwrap();
    let before = folder.snapshot("a");
    for (flags, line) in [
        (&["--lr", "0.5"][..], "+ [train] lr = 0.5"),
        (&["--weights", "baked"], "+ [weights] strategy = \"baked\""),
    ] {
        let e = folder.error(&[&["--resume", "--run-dir", "a", "--steps", "40"], flags].concat());
        assert!(
            e.contains("a/checkpoint.anemone") && e.contains("another configuration") && e.contains(line),
            "{e}"
        );
        assert_eq!(folder.snapshot("a"), before);
    }
    let out = folder.train(&resume);
    assert!(out.status.success(), "the checkpoint itself is good: {out:?}");
}

/// `anemone` with a limit of `kib` KiB, or twice that, to the size of files, at which writing fails as on a full
/// disk.
fn with_small_files(folder: &Folder, kib: u32, args: &[&str]) -> std::process::Output {
    // Blocks have 512 bytes, in some shells 1024. With the signal ignored, the write itself fails.
    let n_blocks = 2 * kib;
    let script = format!("trap '' XFSZ; ulimit -f {n_blocks}; exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_anemone")]).args(args);
    command.current_dir(folder.path("")).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_full_disk_is_an_error_and_the_last_checkpoint_stays_good() {
    let folder = Folder::new();
    let flags = ["--weights", "operand", "--checkpoint-every", "20"];
    let train = |more: &[&str]| folder.train(&[&flags[..], more].concat());
    assert!(train(&["--steps", "60", "--run-dir", "whole"]).status.success());
    assert!(train(&["--steps", "20", "--run-dir", "a"]).status.success());
    let good = folder.bytes("a/checkpoint.anemone");

    // Room for the metrics, not for the 64 KiB of weights in a checkpoint.
    let args = [&flags[..], &["--steps", "60", "--resume", "--run-dir", "a"]].concat();
    let out = with_small_files(&folder, 24, &[&["train"], &args[..]].concat());
    let e = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{e}");
    assert!(e.contains("save checkpoint") && e.contains("a/checkpoint.anemone") && !e.contains("panicked"), "{e}");
    assert_eq!(folder.bytes("a/checkpoint.anemone"), good);
    assert!(folder.snapshot("a").keys().all(|name| !name.ends_with("-tmp")), "{:?}", folder.snapshot("a").keys());

    assert!(train(&["--steps", "60", "--resume", "--run-dir", "a"]).status.success());
    assert_eq!(folder.bytes("a/weights.safetensors"), folder.bytes("whole/weights.safetensors"));
    assert_eq!(steps_and_losses(&folder.path("a")), steps_and_losses(&folder.path("whole")));
}

#[test]
fn a_disk_that_fills_up_while_metrics_are_written_is_an_error_too() {
    let folder = Folder::new();
    let flags = ["--weights", "operand", "--steps", "1500", "--quiet"];
    assert!(folder.train(&[&flags[..], &["--run-dir", "whole"]].concat()).status.success());
    let out = with_small_files(&folder, 80, &[&["train"], &flags[..], &["--run-dir", "a"]].concat());
    let e = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{e}");
    assert!(e.contains("write the metrics log") && !e.contains("panicked"), "{e}");
    let saved = Checkpoint::load(&folder.path("a/checkpoint.anemone")).unwrap();
    assert!(saved.state["step"].as_u64().is_some_and(|step| step >= 200), "{}", saved.state);
    let out = folder.train(&["--resume", "--run-dir", "a"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(folder.bytes("a/weights.safetensors"), folder.bytes("whole/weights.safetensors"));
    assert_eq!(steps_and_losses(&folder.path("a")), steps_and_losses(&folder.path("whole")));
}

#[test]
fn a_configuration_that_a_full_disk_has_no_room_for_leaves_the_one_before() {
    let folder = Folder::new();
    fs::write(folder.path("mine.toml"), "mine").unwrap();
    let out = with_small_files(&folder, 1, &["init", "gpt", "--out", "mine.toml", "--force"]);
    let e = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && e.contains("write `mine.toml`"), "{e}");
    assert_eq!(folder.bytes("mine.toml"), b"mine");
    assert_eq!(folder.snapshot("").len(), 1, "nothing else is left");
}

#[test]
fn where_only_the_best_weights_cannot_be_written_the_rest_is_saved() {
    let folder = Folder::new();
    // No file can take the place of a folder.
    fs::create_dir_all(folder.path("a/best.safetensors")).unwrap();
    let flags = ["digits", "--steps", "30", "--eval-every", "10", "--quiet"];
    let e = folder.error(&[&flags[..], &["--resume", "--run-dir", "a"]].concat());
    assert!(e.contains("best.safetensors") && e.contains("training stopped at step 10"), "{e}");
    assert!(e.contains("up to step 10 is saved, go on with `anemone train --resume --run-dir a`"), "{e}");
    assert_eq!(Checkpoint::load(&folder.path("a/checkpoint.anemone")).unwrap().state["step"], 10);
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Whether the metrics of a run have come to the disk up to some step.
fn has_steps(run: &Path, n: usize) -> bool {
    fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() >= n)
}

#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let folder = Folder::new();
    // Updates of 80 ms and more, so that there is time to interrupt; the process has replaced itself at step 100.
    let flags = ["--steps", "200", "--no-overlap", "--inject", "delay=20"];
    let flags = [&flags[..], &["--checkpoint-every", "10", "--compile-budget", "40"]].concat();
    assert!(folder.train(&[&flags[..], &["--run-dir", "whole"]].concat()).status.success());
    let mut command = folder.command(&[&flags[..], &["--run-dir", "a"]].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("step 110", || has_steps(&folder.path("a"), 110));
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let e = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{e}");
    assert!(out.stdout.is_empty());
    assert!(e.contains("interrupted at step ") && e.contains("`anemone train --resume --run-dir a`"), "{e}");
    let step: u64 = e.split("interrupted at step ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    let saved = Checkpoint::load(&folder.path("a/checkpoint.anemone")).unwrap();
    assert_eq!(saved.state["step"], step);
    assert!((110..200).contains(&step));
    assert!(folder.train(&["--resume", "--run-dir", "a"]).status.success());
    assert_eq!(folder.bytes("a/weights.safetensors"), folder.bytes("whole/weights.safetensors"));
}

#[test]
fn a_second_interrupt_ends_the_process_at_once() {
    let folder = Folder::new();
    // The first compile alone would take longer than a test may.
    let slow = ["--no-overlap", "--inject", "delay=600000", "--run-dir", "a"];
    let mut command = folder.command(&slow);
    let mut child = Background(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("configuration", || folder.path("a/config.toml").exists());
    let mut code = None;
    wait_for("end", || {
        // Two that come at once may count as one.
        interrupt(&child.0);
        std::thread::sleep(Duration::from_millis(50));
        code = child.0.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    assert_eq!(code, Some(Some(130)));
}
