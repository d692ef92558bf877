//! `anemone eval` as a user meets it, on what `anemone train` leaves.

mod support;

use serde_json::Value;
use std::fs;
use std::process::{Command, Output};
use support::Folder;

fn eval(folder: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
    command.current_dir(folder.path("")).arg("eval").args(args).output().unwrap()
}

fn json(folder: &Folder, args: &[&str]) -> Value {
    let out = eval(folder, &[args, &["--json"]].concat());
    assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn a_run_s_weights_have_the_loss_that_its_report_says() {
    let folder = Folder::new();
    assert!(folder.train(&["--weights", "operand", "--steps", "40", "--run-dir", "run"]).status.success());
    let report: Value = serde_json::from_slice(&folder.bytes("run/report.json")).unwrap();
    let expected = report["evaluation"]["loss"].as_f64().unwrap();
    let found = json(&folder, &["run"]);
    assert_eq!((&found["part"], &found["n_batches"]), (&"training".into(), &50.into()), "the sine has no other");
    assert_eq!(found["weights"], "run/weights.safetensors");
    assert_eq!(found["loss"].as_f64().unwrap() as f32, expected as f32);
    assert!(found["accuracy"].is_null(), "it has no classes");
    let out = eval(&folder, &["run", "--batches", "1"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.contains("training part, 1024 targets in 1 batches"), "{text}");
    assert!(text.contains(&format!("Loss      {expected:.9}")), "{text}, expected {expected}");

    // The same weights in a checkpoint, by name, and where there is nothing else yet.
    for args in [&["run", "--weights", "run/checkpoint.anemone"][..], &["run"]] {
        let again = json(&folder, args);
        assert_eq!(again["loss"], found["loss"], "{args:?}");
        fs::rename(folder.path("run/weights.safetensors"), folder.path("mine.safetensors")).ok();
    }
    assert_eq!(json(&folder, &["run"])["weights"], "run/checkpoint.anemone");

    // Other weights of the same model have another loss.
    assert!(folder.train(&["--weights", "operand", "--steps", "10", "--run-dir", "less"]).status.success());
    let less = json(&folder, &["run", "--weights", "less/weights.safetensors"]);
    assert!(less["loss"].as_f64() > found["loss"].as_f64(), "{less}");
}

#[test]
fn what_is_wrong_is_named() {
    let folder = Folder::new();
    assert!(folder.train(&["--steps", "10", "--run-dir", "run"]).status.success());
    fs::write(
        folder.path("other.toml"),
        "[model]\nkind = \"mlp\"\ninputs = 64\noutputs = 64\nhidden = [32]\n[train]\nsteps = 1",
    )
    .unwrap();
    assert!(folder.train(&["other.toml", "--run-dir", "other"]).status.success());
    fs::create_dir(folder.path("early")).unwrap();
    fs::copy(folder.path("run/config.toml"), folder.path("early/config.toml")).unwrap();
    fs::write(folder.path("torn.safetensors"), "no tensors").unwrap();
    for (args, code, words) in [
        (&["absent"][..], 1, &["`absent` is no folder of a run", "absent/config.toml"][..]),
        (&["early"], 1, &["`early` has neither weights.safetensors nor checkpoint.anemone", "--weights"]),
        (&["run", "--weights", "no.safetensors"], 1, &["no.safetensors", "No such file"]),
        (&["run", "--weights", "torn.safetensors"], 1, &["torn.safetensors"]),
        (
            &["run", "--weights", "other/weights.safetensors"],
            1,
            &["other/weights", "fc1.weight", "[128, 64, 1, 1]"],
        ),
        (&[], 2, &["RUN"]),
        (&["run", "--batches", "some"], 2, &["some", "--batches"]),
    ] {
        let out = eval(&folder, args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(out.stdout.is_empty() && words.iter().all(|w| stderr.contains(w)), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

/// Digits, with everything that remembers: resumed in the middle, it keeps the best of both halves.
#[test]
fn validation_of_classes_is_logged_and_its_best_weights_are_kept_across_a_resume() {
    let folder = Folder::new();
    let config = "[model]\nkind = \"mlp\"\nhidden = [32]\nbias = true\nloss = \"cross_entropy\"\n\
                  [data]\nkind = \"digits\"\n[optimizer]\nkind = \"adamw\"\nweight_decay = 0.01\n\
                  [train]\nsteps = 150\nlr = 0.02\nclip = 1.0\nloss_scale = \"dynamic\"\n\
                  [train.schedule]\nkind = \"cosine\"\nwarmup = 10\nsteps = 150\n[eval]\nevery = 50\nbatches = 0";
    fs::write(folder.path("digits.toml"), config).unwrap();
    let whole = folder.train(&["digits.toml", "--run-dir", "run"]);
    assert!(whole.status.success(), "{whole:?}");
    let [stdout, stderr] = [whole.stdout, whole.stderr].map(|s| String::from_utf8(s).unwrap());
    assert!(stdout.contains("Best validation") && stdout.contains("best.safetensors"), "{stdout}");
    assert!(!stdout.contains("prediction") && stdout.matches("accuracy").count() == 3, "{stdout}");
    assert!(stderr.contains("validation ") && stderr.contains(" %  lr "), "{stderr}");

    let report =
        |run: &str| -> Value { serde_json::from_slice(&folder.bytes(&format!("{run}/report.json"))).unwrap() };
    let r = report("run");
    assert!(r["validation"]["accuracy"].as_f64().unwrap() > 0.85, "{}", r["validation"]);
    let found = json(&folder, &["run"]);
    assert_eq!(found["part"], "validation");
    for key in ["loss", "accuracy", "n_targets", "n_batches"] {
        assert_eq!(found[key], r["validation"][key], "{key}");
    }
    let best = json(&folder, &["run", "--weights", "run/best.safetensors"]);
    assert_eq!((&best["loss"], &best["accuracy"]), (&r["best"]["loss"], &r["best"]["accuracy"]));
    // The last digits but for those held back fill no batch: what fills it up does not count.
    assert_eq!(found["n_targets"], 1797 / 5);

    let text = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let validated: Vec<u64> =
        lines.iter().filter(|l| l["validation"].is_object()).map(|l| l["step"].as_u64().unwrap() + 1).collect();
    assert_eq!((lines.len(), validated), (150, vec![50, 100, 150]));
    assert!(lines.iter().all(|l| l["gradient_norm"].is_number() && l["lr"].is_number()));

    let cut = ["digits.toml", "--run-dir", "cut", "--quiet"];
    assert!(folder.train(&[&cut[..], &["--steps", "70"]].concat()).status.success());
    let out = folder.train(&["--resume", "--run-dir", "cut", "--steps", "150", "--quiet"]);
    assert!(out.status.success(), "{out:?}");
    // The cut is one look more.
    assert_eq!(report("cut")["validation"]["loss"], r["validation"]["loss"]);
    assert!(report("cut")["best"]["loss"].as_f64() <= r["best"]["loss"].as_f64());
    assert!(folder.bytes("cut/weights.safetensors") == folder.bytes("run/weights.safetensors"));
}
