//! `anemone train` through the driver of the Neural Engine, against stand-ins for Apple's classes that were
//! written apart from it. `ANEMONE_STAND_INS` is the path of their library.
#![allow(clippy::print_stderr)] // Says why it is skipped.

use anemone::Instructions;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `anemone train` in a folder of its own, with these environment variables.
fn train(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
    command.arg("train").args(args).arg("--run-dir").arg(folder).arg("--json").arg("--quiet");
    // The stand-ins sum in order, as all instructions do but those of a matrix unit.
    let in_order = |i: &Instructions| !matches!(i, Instructions::Widest | Instructions::Amx) && i.are_here();
    command.args(Instructions::ALL.into_iter().find(in_order).iter().flat_map(|i| ["--instructions", i.name()]));
    // The names under which GNUstep looks for the folder for temporary files.
    let temporary = folder.parent().unwrap();
    command.env("TMPDIR", temporary).env("TMP", temporary).env("TEMP", temporary);
    command.env("ANE_STANDIN_STATS", "1").env("ANE_STANDIN_LIMIT", "119").envs(env.iter().copied());
    command.output().unwrap()
}

/// The bits of each step's loss, and at which steps the process was replaced.
fn losses(folder: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        (step["loss"].as_f64().unwrap() as f32).to_bits()
    };
    text.lines().map(loss).collect()
}

/// The folders with models that are still in the folder for temporary files, which GNUstep makes one of its own
/// in.
fn left_behind(temporary: &Path) -> Vec<String> {
    let entries = |path: &Path| -> Vec<_> { std::fs::read_dir(path).unwrap().map(|e| e.unwrap()).collect() };
    let own: Vec<_> = entries(temporary)
        .into_iter()
        .filter(|e| e.file_name().to_string_lossy().starts_with("GNUstep"))
        .collect();
    assert_eq!(own.len(), 1, "the models were written elsewhere, this proves nothing");
    entries(&own[0].path()).iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn report(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("report.json")).unwrap()).unwrap()
}

fn stand_ins() -> bool {
    let there = std::env::var_os("ANEMONE_STAND_INS").is_some();
    if !there {
        eprintln!("skipped: ANEMONE_STAND_INS is not set, there are no stand-ins for Apple's classes");
    }
    there
}

#[test]
fn tiny_comes_out_as_on_the_software_engine_bit_for_bit() {
    if !stand_ins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let soft = folder.path().join("soft");
    assert!(train(&soft, &["tiny", "--device", "soft"], &[]).status.success());
    let expected = losses(&soft);
    assert_eq!(expected.len(), 2000);
    let plain = ("ANEMONE_STAND_INS_PLAIN", "1");
    for (name, env, device) in [
        ("plain", &[plain][..], "inputs and outputs as written"),
        ("no-cast", &[plain, ("ANE_STANDIN_NO_CAST", "1")], "fp16 inputs and outputs, as fp32 was refused"),
        ("usual", &[], "program(1.0), fp16 inputs and outputs"),
    ] {
        let found = folder.path().join(name);
        let output = train(&found, &["tiny", "--device", "ane"], env);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
        let report = report(&found);
        let said = report["device"].as_str().unwrap();
        assert!(said.starts_with("stand-in classes") && said.contains(device), "{said}");
        assert!(report["machine"].is_string() && report["stats"].get("engine_energy_j").is_none(), "{report}");
        assert!(losses(&found) == expected, "{name}: losses differ");
        assert_eq!(report["stats"]["n_compiles"], 420, "{name}");
        assert_eq!(report["stats"]["restarted_at"].as_array().unwrap().len(), 4, "{name}");
        // Said by the last process alone, as those before it were replaced.
        assert!(text.contains("still loaded=0"), "{name}: {text}");
    }
    assert_eq!(left_behind(folder.path()), [""; 0], "models are left behind");
}

#[test]
fn compiles_that_are_refused_lead_to_a_restart_and_no_wrong_numbers() {
    if !stand_ins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join("limit");
    let env = [("ANEMONE_STAND_INS_PLAIN", "1"), ("ANE_STANDIN_LIMIT", "50")];
    let output = train(&found, &["tiny", "--device", "ane", "--no-overlap", "--steps", "600"], &env);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let soft = folder.path().join("soft");
    assert!(train(&soft, &["tiny", "--device", "soft", "--no-overlap", "--steps", "600"], &[]).status.success());
    // Without overlap nothing depends on when the process was replaced.
    assert!(losses(&found) == losses(&soft));
    let report = report(&found);
    assert!(report["stats"]["restarted_at"].as_array().unwrap().len() >= 4, "{report}");
}

#[test]
fn a_donor_patch_that_does_not_work_is_reported_and_changes_nothing() {
    if !stand_ins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [soft, found, wrong] = ["soft", "found", "wrong"].map(|name| folder.path().join(name));
    let args = ["tiny", "--no-overlap", "--steps", "100"];
    assert!(train(&soft, &[&args[..], &["--device", "soft"]].concat(), &[]).status.success());
    let output = train(&found, &[&args[..], &["--device", "ane", "--donor-patch"]].concat(), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(losses(&found) == losses(&soft));
    let report = report(&found);
    assert!(report["device"].as_str().unwrap().contains("no donor patch as it was tried"), "{report}");
    let output = train(&wrong, &[&args[..], &["--device", "soft", "--donor-patch"]].concat(), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("the donor patch is for the Neural Engine"), "{text}");
}

#[test]
fn the_doctor_says_what_works() {
    if !stand_ins() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_anemone")).args(["doctor", "--json"]).output().unwrap();
    assert!(output.status.success());
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings["stand_ins"], true);
    assert_eq!(findings["auto"], "soft", "stand-ins are no engine to train on");
    let verdict = &findings["neural_engine"];
    assert_eq!(verdict["form"]["is_1_3"], false);
    assert_eq!(verdict["form"]["fp32_io"], true);
    // They compute no matrix product of two inputs.
    assert_eq!(verdict["strategies"], serde_json::json!(["baked"]));
    assert_eq!((&verdict["inputs"], &verdict["donor_patch"]), (&serde_json::json!([]), &false.into()));
}
