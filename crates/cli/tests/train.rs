//! `anemone train` as a process: folders, files, messages, restarts. What kills and breaks it is in
//! `disturbed.rs`.

mod support;

use anemone::weights_file::load_safetensors;
use std::fs;
use support::{Folder, steps_and_losses};

#[test]
fn the_same_command_works_twice_and_leaves_everything_in_the_run_folder() {
    let folder = Folder::new();
    for run in ["runs/tiny", "runs/tiny-2"] {
        let out = folder.train(&["--steps", "20"]);
        assert!(out.status.success(), "{out:?}");
        let stdout = String::from_utf8(out.stdout).unwrap();
        assert!(
            stdout.contains("Loss of the last step") && stdout.contains(&format!("Written to {run}:")),
            "{stdout}"
        );

        let read = |name: &str| fs::read_to_string(folder.path(run).join(name)).unwrap();
        let config = anemone::Config::from_toml(&read("config.toml")).unwrap();
        assert_eq!(config.train.steps, 20);
        let report: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
        assert_eq!((&report["steps"], &report["stats"]["n_compiles"]), (&20.into(), &8.into()));
        assert_eq!(steps_and_losses(&folder.path(run)).len(), 20);
        let weights = load_safetensors(&folder.path(run).join("weights.safetensors")).unwrap();
        let names: Vec<_> = weights.iter().map(|t| (t.name.as_str(), &t.shape[..])).collect();
        assert_eq!(names, [("fc1.weight", &[128, 64, 1, 1][..]), ("fc2.weight", &[64, 128, 1, 1])]);
        let checkpoint = folder.path(run).join("checkpoint.anemone");
        assert_eq!(anemone::checkpoint::Checkpoint::load(&checkpoint).unwrap().tensors, weights);
    }
    assert_eq!(folder.bytes("runs/tiny/weights.safetensors"), folder.bytes("runs/tiny-2/weights.safetensors"));
}

#[test]
fn a_run_folder_that_exists_is_refused_with_advice_and_stays() {
    let folder = Folder::new();
    assert!(folder.train(&["--steps", "10", "--run-dir", "mine"]).status.success());
    let before = folder.snapshot("mine");
    let e = folder.error(&["--steps", "20", "--run-dir", "mine"]);
    assert!(e.contains("`mine` exists") && e.contains("anemone train --resume --run-dir mine"), "{e}");
    assert_eq!(folder.snapshot("mine"), before);
}

#[test]
fn a_run_goes_on_where_it_was_saved() {
    let folder = Folder::new();
    let flags = ["--weights", "operand"];
    assert!(folder.train(&[&flags[..], &["--steps", "30", "--run-dir", "whole"]].concat()).status.success());
    assert!(folder.train(&[&flags[..], &["--steps", "10"]].concat()).status.success());
    // Without a preset or file, the run's own configuration holds.
    let out = folder.train(&["--resume", "--steps", "30"]);
    assert!(out.status.success(), "{out:?}");
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("run folder runs/tiny\n") && stderr.contains("resumed at step 10"), "{stderr}");
    assert_eq!(folder.bytes("runs/tiny/weights.safetensors"), folder.bytes("whole/weights.safetensors"));
    assert_eq!(steps_and_losses(&folder.path("runs/tiny")), steps_and_losses(&folder.path("whole")));
    // And once more at its end: nothing is left to do but the report.
    assert!(folder.train(&["--resume"]).status.success());
    assert_eq!(folder.bytes("runs/tiny/weights.safetensors"), folder.bytes("whole/weights.safetensors"));
    assert_eq!(steps_and_losses(&folder.path("runs/tiny")).len(), 30);
}

#[test]
fn the_last_run_is_that_of_the_highest_number() {
    let folder = Folder::new();
    for _ in 0..3 {
        assert!(folder.train(&["--steps", "10", "--quiet"]).status.success());
    }
    fs::remove_dir_all(folder.path("runs/tiny")).unwrap();
    // Runs of other names.
    for name in ["tiny-007", "tiny-x", "tiny-9x", "tiny9"] {
        fs::create_dir(folder.path("runs").join(name)).unwrap();
    }
    let out = folder.train(&["--resume", "--steps", "20"]);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("run folder runs/tiny-3\n") && stderr.contains("resumed at step 10"), "{stderr}");
    // A new run is the last one then.
    assert!(folder.train(&["--steps", "10", "--quiet"]).status.success());
    assert!(folder.path("runs/tiny-4/weights.safetensors").exists() && !folder.path("runs/tiny").exists());
}

#[test]
fn resuming_without_a_checkpoint_starts_at_the_beginning_and_says_so() {
    let folder = Folder::new();
    fs::create_dir(folder.path("empty")).unwrap();
    // What a process killed early leaves: metrics, but no checkpoint.
    fs::write(folder.path("empty/metrics.jsonl"), "{\"step\":0,\"loss\":1}\n{\"st").unwrap();
    let out = folder.train(&["--resume", "--run-dir", "empty", "--steps", "10"]);
    assert!(out.status.success(), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("no checkpoint yet, starting at the beginning"),
        "{out:?}"
    );
    assert_eq!(steps_and_losses(&folder.path("empty")).len(), 10);
}

#[test]
fn resuming_what_is_not_there_begins_only_what_is_named_and_overwrites_no_results() {
    let folder = Folder::new();
    let e = folder.error(&["--resume", "--run-dir", "typo"]);
    assert!(e.contains("no run folder `typo`") && !folder.path("typo").exists(), "{e}");
    assert!(folder.train(&["tiny", "--steps", "10", "--resume", "--run-dir", "a"]).status.success());

    fs::remove_file(folder.path("a/checkpoint.anemone")).unwrap();
    let before = folder.snapshot("a");
    for flags in [&["--resume", "--run-dir", "a"][..], &["tiny", "--resume", "--run-dir", "a", "--steps", "20"]] {
        let e = folder.error(flags);
        assert!(e.contains("weights.safetensors but no checkpoint.anemone"), "{e}");
        assert_eq!(folder.snapshot("a"), before);
    }
}

#[test]
fn other_data_than_a_run_was_trained_on_are_refused() {
    let folder = Folder::new();
    let text = "the sea anemone waves \u{e9} ".repeat(40);
    fs::write(folder.path("text.txt"), &text).unwrap();
    let config = "[model]\nkind = \"gpt\"\nn_layers = 1\nn_heads = 1\nwidth = 8\n\
                  [data]\nkind = \"text\"\npath = \"text.txt\"\ntokenizer = \"characters\"\nbatch = 2\nlength = 8\n\
                  [train]\nsteps = 5\n";
    fs::write(folder.path("a.toml"), config).unwrap();
    assert!(folder.train(&["a.toml", "--run-dir", "a", "--quiet"]).status.success());
    let before = folder.snapshot("a");
    // As many characters, in another order of the alphabet.
    fs::write(folder.path("text.txt"), text.replace('\u{e9}', "A")).unwrap();
    let resume = ["--resume", "--run-dir", "a", "--steps", "6", "--quiet"];
    let e = folder.error(&resume);
    assert!(e.contains("a/checkpoint.anemone") && e.contains("the data have changed"), "{e}");
    assert_eq!(folder.snapshot("a"), before);
    fs::write(folder.path("text.txt"), text).unwrap();
    assert!(folder.train(&resume).status.success());
}

#[test]
fn what_is_wrong_is_named_with_what_was_expected_and_leaves_no_folder() {
    let folder = Folder::new();
    for (name, text) in [
        ("key.toml", "[train]\nlearning_rate = 1.0"),
        ("model.toml", "[model]\nkind = \"mlp\"\nwidth = 3"),
        ("value.toml", "[weights]\nstrategy = \"cooked\""),
        ("toml.toml", "[train"),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    for (args, code, words) in [
        (&["huge"][..], 1, &["no preset `huge`", "tiny", ".toml"][..]),
        (&["absent.toml"], 1, &["absent.toml", "No such file", "check the path"]),
        (&["key.toml"], 1, &["key.toml", "learning_rate", "expected", "`lr`"]),
        (&["model.toml"], 1, &["model.toml", "width", "expected", "`hidden`"]),
        (&["value.toml"], 1, &["value.toml", "cooked", "`baked`", "`operand`"]),
        (&["toml.toml"], 1, &["toml.toml", "line 1"]),
        (&["--lr", "-1"], 1, &["`train.lr` is -1, expected a number above 0"]),
        (&["--lr=nan"], 1, &["`train.lr` is NaN"]),
        (&["--steps", "many"], 2, &["many", "--steps"]),
        (&["--weights", "raw"], 2, &["raw", "baked", "operand"]),
        (&["--chip", "m9"], 2, &["m9", "m1", "m4"]),
        (&["--device", "gpu"], 2, &["gpu", "auto", "ane", "soft"]),
        (&["--inject", "explode@1"], 2, &["explode@1", "compile@N"]),
        (&["--inject", "compile@0"], 2, &["compile@0", "from 1"]),
        (&["--stepz", "1"], 2, &["--stepz", "--steps"]),
        (&["--weights", "operand", "--overlap"], 1, &["--overlap", "--weights baked"]),
        (&["--compile-budget", "7"], 1, &["budget of 7", "one update takes 8", "`weights.compile_budget`"]),
        (&["--device", "ane"], 1, &["Neural Engine", "`--device soft`"]),
    ] {
        let out = folder.train(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(out.stdout.is_empty() && words.iter().all(|w| stderr.contains(w)), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
    assert!(!folder.path("runs").exists(), "nothing was trained");
}

/// 100 compiles a process: 4 at first, then 4 every 20 steps.
#[test]
fn tiny_restarts_when_its_compiles_are_spent() {
    let folder = Folder::new();
    let out = folder.train(&["--json"]);
    assert!(out.status.success(), "{out:?}");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON and nothing else");
    assert_eq!(report["stats"]["restarted_at"], serde_json::json!([480, 960, 1440, 1920]));
    assert_eq!(report["stats"]["resumed_at"], report["stats"]["restarted_at"]);
    assert_eq!(report["stats"]["n_compiles"], 420);
    assert_eq!((&report["io"], &report["stats"]["n_io_fallbacks"]), (&"fp32".into(), &0.into()));
    let losses = steps_and_losses(&folder.path("runs/tiny"));
    assert_eq!(losses.len(), 2000);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("restart at step 480: the budget of compiles is spent"), "{stderr}");
    assert!(stderr.contains("resumed at step 1920"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path("runs")).unwrap().count(), 1, "all processes use one folder");

    // The rules of an older chip: the host converts instead of the program, which changes no number.
    let out = folder.train(&["--json", "--quiet", "--chip", "m1"]);
    assert!(out.status.success(), "{out:?}");
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr.matches("refuses fp32 inputs and outputs").count(), 1, "{stderr}");
    let older: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&older["io"], &older["stats"]["n_io_fallbacks"]), (&"fp16".into(), &1.into()));
    assert_eq!(older["stats"]["n_compiles"], 420);
    assert_eq!(steps_and_losses(&folder.path("runs/tiny-2")), losses);
}

#[test]
fn a_restart_keeps_the_arguments_and_finds_its_folder() {
    let folder = Folder::new();
    let mut config = anemone::Config::preset("tiny").unwrap();
    config.train.steps = 60;
    config.weights.compile_budget = 8;
    fs::write(folder.path("mine.toml"), config.to_toml()).unwrap();
    // The lr of the flag, not of the file, must come through; and so must what stands behind `--`.
    for args in
        [&["--lr", "0.5", "--quiet", "--json", "--", "mine.toml"][..], &["mine.toml", "--lr=0.5", "-q", "--json"]]
    {
        let out = folder.train(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        assert_eq!(String::from_utf8_lossy(&out.stderr), "", "quiet");
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["stats"]["restarted_at"], serde_json::json!([20, 40]), "{args:?}");
    }
    let config = anemone::Config::from_toml(&fs::read_to_string(folder.path("runs/mine/config.toml")).unwrap());
    assert_eq!(config.unwrap().train.lr, 0.5);
    assert_eq!(steps_and_losses(&folder.path("runs/mine-2")), steps_and_losses(&folder.path("runs/mine")));
    assert_eq!(steps_and_losses(&folder.path("runs/mine")).len(), 60);
}

#[test]
fn faults_end_in_a_recovery_that_is_reported_or_in_an_error_that_says_what_is_saved() {
    let folder = Folder::new();
    let out = folder.train(&["--steps", "40", "--inject", "compile@5,evaluate@7", "--run-dir", "a"]);
    assert!(out.status.success(), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("Recovered               2 device calls repeated"));
    assert!(folder.train(&["--steps", "40", "--run-dir", "b"]).status.success());
    assert_eq!(folder.bytes("a/weights.safetensors"), folder.bytes("b/weights.safetensors"));

    let e = folder.error(&["--steps", "40", "--inject", "compile@1+", "--run-dir", "c"]);
    assert!(e.contains("training stopped at step 0") && e.contains("compile `fc1`: failed 3 times"), "{e}");
    // 4 evaluations a step: the first of step 30 and all later ones fail.
    let e = folder.error(&["--steps", "40", "--inject", "evaluate@121+", "--run-dir", "d", "--no-overlap"]);
    assert!(
        e.contains("evaluate `fc1`: failed 3 times")
            && e.contains("up to step 30 is saved, go on with `anemone train --resume --run-dir d`"),
        "{e}"
    );
    let out = folder.train(&["--resume", "--run-dir", "d", "--inject", ""]);
    assert!(out.status.success(), "{out:?}");
    assert!(folder.train(&["--steps", "40", "--no-overlap", "--run-dir", "e"]).status.success());
    assert_eq!(folder.bytes("d/weights.safetensors"), folder.bytes("e/weights.safetensors"));
    assert_eq!(steps_and_losses(&folder.path("d")), steps_and_losses(&folder.path("e")));
}

/// Compiles that fail in every process after some: each gets somewhere, says why it gives up, and none loops.
#[test]
fn a_device_that_fails_again_in_each_process_does_not_restart_for_ever() {
    let folder = Folder::new();
    let out = folder.train(&["--steps", "60", "--no-overlap", "--inject", "compile@9+", "--run-dir", "a"]);
    assert!(out.status.success(), "{out:?}");
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr.matches("failed 3 times: injected fault").count(), 2, "{stderr}");
    assert!(folder.train(&["--steps", "60", "--no-overlap", "--run-dir", "b"]).status.success());
    assert_eq!(folder.bytes("a/weights.safetensors"), folder.bytes("b/weights.safetensors"));
}

/// What the configuration file says by then belongs to the next run.
#[test]
fn a_restart_goes_on_with_the_configuration_the_run_began_with() {
    let folder = Folder::new();
    fs::write(folder.path("my.toml"), "[train]\nsteps = 20\nlr = 0.5").unwrap();
    let undisturbed = folder.train(&["my.toml", "--run-dir", "whole", "--quiet"]);
    assert!(undisturbed.status.success(), "{undisturbed:?}");
    let begun = folder.train(&["my.toml", "--run-dir", "run", "--steps", "10", "--quiet"]);
    assert!(begun.status.success(), "{begun:?}");
    fs::write(folder.path("my.toml"), "[train]\nsteps = 20\nlr = 0.1").unwrap();
    let resume = ["my.toml", "--run-dir", "run", "--steps", "20", "--resume"];
    assert!(folder.error(&resume).contains("lr"), "a person who changes it is told");
    let restarted = folder.train(&[&resume[..], &["--restarted"]].concat());
    assert!(restarted.status.success(), "{restarted:?}");
    assert!(folder.bytes("run/weights.safetensors") == folder.bytes("whole/weights.safetensors"));
}

#[test]
fn flags_become_part_of_the_run_s_configuration_but_for_faults() {
    let folder = Folder::new();
    let flags = ["--lr", "0.25", "--accumulate", "5", "--clip", "2", "--seed", "7", "--eval-every", "3"];
    // 4 evaluations a step: the first of step 10 and all later ones fail.
    let faults = ["--steps", "20", "--no-overlap", "--inject", "evaluate@41+", "--run-dir", "run"];
    let e = folder.error(&[&flags[..], &faults].concat());
    assert!(e.contains("up to step 10 is saved"), "{e}");
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    assert!(!config.contains("inject"), "{config}");
    let config = anemone::Config::from_toml(&config).unwrap();
    assert_eq!((config.train.lr, config.train.accumulate, config.train.clip), (0.25, 5, 2.0));
    assert_eq!((config.train.seed, config.eval.every), (7, 3));
    let out = folder.train(&["--resume", "--run-dir", "run"]);
    assert!(out.status.success(), "the faults do not come back: {out:?}");
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("lr 0.25 ") && stderr.contains(" rows/s"), "{stderr}");
}

#[test]
fn a_resumed_run_says_that_fp32_is_refused_where_it_was_not_before() {
    let folder = Folder::new();
    let n_warnings = |args: &[&str]| {
        let out = folder.train(&[args, &["--run-dir", "run"]].concat());
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stderr).unwrap().matches("refuses fp32 inputs and outputs").count()
    };
    assert_eq!(n_warnings(&["--weights", "operand", "--steps", "10"]), 0);
    assert_eq!(n_warnings(&["--resume", "--steps", "20", "--chip", "m1"]), 1);
    assert_eq!(n_warnings(&["--resume", "--steps", "30", "--chip", "m1"]), 0);
}

#[test]
fn a_plan_is_printed_and_nothing_trained() {
    let folder = Folder::new();
    let out = folder.train(&["digits-convnet", "--plan"]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    // Two convolutions and a classifier forward, the latter two backward.
    assert!(text.contains("A step: 5 dispatches of 5 programs") && text.contains("On the host"), "{text}");
    let estimates = text.split("Estimate of the device's part on an M4").nth(1).expect("estimates").lines();
    let names = ["baked ", "baked, overlap ", "operand ", "dispatch ", "restart "].map(|name| format!("  {name}"));
    assert!(names.iter().all(|name| estimates.clone().any(|line| line.starts_with(name))), "{text}");
    let plan = |flags: &[&str]| -> serde_json::Value {
        let out = folder.train(&[&["shakespeare", "--plan", "--json"], flags].concat());
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let calls = |plan: &serde_json::Value| -> u64 {
        plan["host"].as_array().unwrap().iter().map(|op| op["calls"].as_u64().unwrap()).sum()
    };
    let usual = plan(&[]);
    // Four linear layers in each of four blocks and the classifier, forward and backward; two blocks share
    // programs.
    assert_eq!((&usual["dispatches"], &usual["compiles"]), (&34.into(), &10.into()));
    assert!(calls(&plan(&["--recompute"])) > calls(&usual));
    let on_m1 = plan(&["--chip", "m1", "--steps", "100"]);
    let estimates = on_m1["estimates"].as_array().unwrap();
    assert_eq!(estimates.len(), 3);
    for e in estimates {
        assert_eq!((&e["chip"], &e["counts"]["steps"]), (&"m1".into(), &100.into()));
        assert!(e["figures"].as_array().unwrap().iter().any(|figure| figure["assumed"] == true), "{e}");
    }
    let on_device = plan(&["--weight-gradients", "device"]);
    assert!(
        on_device["dispatches"].as_u64() > Some(50)
            && on_device["host_flops"].as_u64() < usual["host_flops"].as_u64()
    );
    // Gradients of weights stay on the host where weights are compiled in.
    assert_eq!(on_device["impossible"].as_array().unwrap().len(), 2);
    assert!(!folder.path("runs").exists());
}

#[test]
fn the_arithmetic_is_chosen_reported_and_kept_and_is_the_software_engines_alone() {
    let folder = Folder::new();
    let out = folder.train(&["--steps", "20", "--weights", "operand", "--arithmetic", "engine"]);
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && stdout.contains("software engine (m4, engine)"), "{stdout}");
    assert!(stdout.contains("Arithmetic              the engine's: fixed-point sums"), "{stdout}");
    let e = folder.error(&["--resume", "--arithmetic", "ieee"]);
    assert!(e.contains("arithmetic"), "{e}");
    let e = folder.error(&["--run-dir", "ane", "--device", "ane", "--arithmetic", "engine"]);
    assert!(e.contains("arithmetic `engine` is the software engine's"), "{e}");
}

#[test]
fn a_loss_that_is_not_finite_inside_an_update_leaves_the_update_before_to_be_saved() {
    let folder = Folder::new();
    // Beyond the range of fp16 in one of the examples, which come in the order of the seed.
    let row = |i: i32| format!("{},{i}\n", if i == 7 { 1e30 } else { 0.01 * f64::from(i) });
    fs::write(folder.path("data.csv"), "a,b\n".to_string() + &(0..32).map(row).collect::<String>()).unwrap();
    let config = "[model]\nkind = \"mlp\"\nhidden = [8]\n\
                  [data]\nkind = \"tensors\"\ninputs = \"data.csv\"\ntarget_column = \"b\"\nbatch = 1\n\
                  [train]\nsteps = 32\naccumulate = 4\nlr = 1e-4\nnon_finite = \"fail\"\n";
    fs::write(folder.path("a.toml"), config).unwrap();
    let after = |e: &str, what: &str| -> u64 {
        let digits = e.split(what).nth(1).unwrap_or_else(|| panic!("no `{what}` in {e}"));
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let e = folder.error(&["a.toml", "--weights", "operand"]);
    let failed = after(&e, "the loss of step ");
    let saved = after(&e, "progress up to step ");
    assert!(!failed.is_multiple_of(4) && saved == failed / 4 * 4, "{e}");
    let checkpoint = folder.path("runs/a/checkpoint.anemone");
    let saved_at = |path| anemone::checkpoint::Checkpoint::load(path).unwrap().state["step"].as_u64().unwrap();
    assert_eq!(saved_at(&checkpoint), saved);

    // What was saved before may be better than what led there, and is kept.
    let flags = ["--weights", "operand", "--accumulate", "1", "--checkpoint-every", "2", "--run-dir", "b"];
    let e = folder.error(&[&["a.toml"], &flags[..]].concat());
    let (failed, saved) = (after(&e, "the loss of step "), after(&e, "progress up to step "));
    assert!(!failed.is_multiple_of(2) && saved == failed - 1, "{e}");
    assert_eq!(saved_at(&folder.path("b/checkpoint.anemone")), saved);
    // The advice can be followed.
    assert!(e.contains("train.non_finite = \"skip\""), "{e}");
    let config = fs::read_to_string(folder.path("b/config.toml")).unwrap();
    assert!(config.contains("non_finite = \"fail\""), "{config}");
    fs::write(folder.path("b/config.toml"), config.replace("\"fail\"", "\"skip\"")).unwrap();
    let out = folder.train(&["--resume", "--run-dir", "b"]);
    assert!(out.status.success(), "{out:?}");
}
