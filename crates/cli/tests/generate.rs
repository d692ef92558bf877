//! `anemone generate`, `import` and `export` as a user meets them.

mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::Folder;

const CONFIG: &str = "\
[model]
kind = \"gpt\"
n_layers = 1
n_heads = 2
width = 16
[data]
kind = \"text\"
path = \"text\"
tokenizer = \"characters\"
length = 16
batch = 4
validation = 0.1
[train]
steps = 30
lr = 0.01
[eval]
every = 10
[optimizer]
kind = \"adamw\"
[weights]
strategy = \"operand\"
";

fn anemone(folder: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
    command.current_dir(folder.path("")).args(args).output().unwrap()
}

fn succeeds(folder: &Folder, args: &[&str]) -> String {
    let out = anemone(folder, args);
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn fails(folder: &Folder, args: &[&str], code: i32, words: &[&str]) {
    let out = anemone(folder, args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(words.iter().all(|w| stderr.contains(w)) && !stderr.contains("panicked"), "{args:?}: {stderr}");
}

fn json(folder: &Folder, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(folder, &[args, &["--json"]].concat())).unwrap()
}

/// A folder with a short run, whose text is gone afterwards.
fn trained() -> Folder {
    let folder = Folder::new();
    fs::write(folder.path("my.toml"), CONFIG).unwrap();
    fs::write(folder.path("text"), "to be, or not to be: that is the question\n".repeat(40)).unwrap();
    let out = folder.train(&["my.toml", "--run-dir", "run", "--quiet"]);
    assert!(out.status.success(), "{out:?}");
    fs::remove_file(folder.path("text")).unwrap();
    folder
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../anemone/tests/fixtures").join(name)
}

#[test]
fn a_run_s_folder_is_all_it_takes_to_generate() {
    let folder = trained();
    let out = anemone(&folder, &["generate", "run", "--prompt", "to ", "--tokens", "40"]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.starts_with("to ") && text.chars().count() == 3 + 40 + 1, "{text:?}");
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("40 tokens after 3 of the prompt") && stderr.contains("tokens/s"), "{stderr}");
    assert!(stderr.contains("the model sees 16 tokens"), "{stderr}");

    // The same seed, the same text; another, another. `--quiet` says nothing else.
    let again = anemone(&folder, &["generate", "run", "--prompt", "to ", "--tokens", "40", "--quiet"]);
    assert!(again.stdout == text.as_bytes() && again.stderr.is_empty(), "{again:?}");
    assert_ne!(succeeds(&folder, &["generate", "run", "--prompt", "to ", "--tokens", "40", "--seed", "1"]), text);

    let found = json(&folder, &["generate", "run", "--prompt", "to ", "--tokens", "40"]);
    assert_eq!((&found["weights"], &found["n_prompt_tokens"]), (&"run/best.safetensors".into(), &3.into()));
    assert_eq!(format!("to {}\n", found["text"].as_str().unwrap()), text);
    assert_eq!(found["tokens"].as_array().unwrap().len(), 40);

    // The likeliest, however one asks for it.
    let likeliest = json(&folder, &["generate", "run", "--tokens", "20", "--temperature", "0"])["text"].clone();
    for more in [&["--top-k", "1"][..], &["--top-p", "1e-6"], &["--temperature", "0", "--seed", "5"]] {
        let found = json(&folder, &[&["generate", "run", "--tokens", "20"], more].concat());
        assert_eq!(found["text"], likeliest, "{more:?}");
    }

    // Other weights of the run: the final ones where there are no best, the checkpoint where there are no others.
    for (gone, expected) in
        [("best.safetensors", "weights.safetensors"), ("weights.safetensors", "checkpoint.anemone")]
    {
        let named = format!("run/{expected}");
        let by_name = json(&folder, &["generate", "run", "--weights", &named]);
        assert_eq!(by_name["text"], json(&folder, &["generate", &named])["text"]);
        fs::remove_file(folder.path("run").join(gone)).unwrap();
        assert_eq!(json(&folder, &["generate", "run"])["text"], by_name["text"]);
        assert_eq!(json(&folder, &["generate", "run"])["weights"], *named);
    }
}

#[test]
fn a_run_goes_to_hugging_face_s_form_and_back_and_is_trained_further() {
    let folder = trained();
    let said =
        |path: &str| json(&folder, &["generate", path, "--prompt", "be", "--temperature", "0"])["text"].clone();
    succeeds(&folder, &["export", "run", "out/hf"]);
    let imported = succeeds(&folder, &["import", "out/hf"]);
    assert!(
        imported.contains("written to runs/hf: config.toml, weights.safetensors, tokenizer.json"),
        "{imported}"
    );
    let expected = said("run");
    for path in ["out/hf", "runs/hf", "runs/hf/weights.safetensors"] {
        assert_eq!(said(path), expected, "{path}");
    }

    // Its configuration and data: no step changes nothing, and steps do.
    fs::write(folder.path("text"), "to be, or not to be: that is the question\n".repeat(40)).unwrap();
    let data = &CONFIG[CONFIG.find("[data]").unwrap()..CONFIG.find("[train]").unwrap()];
    let config = fs::read_to_string(folder.path("runs/hf/config.toml")).unwrap();
    assert!(config.starts_with("# Imported from out/hf.\n"), "{config}");
    fs::write(folder.path("more.toml"), config + "\n" + data).unwrap();
    let weights = |run: &str| {
        let path = folder.path(run).join("weights.safetensors");
        let mut weights = anemone::weights_file::load_safetensors(&path).unwrap();
        weights.sort_by(|a, b| a.name.cmp(&b.name));
        weights
    };
    for steps in ["0", "5"] {
        let out = folder.train(&["more.toml", "--steps", steps, "--run-dir", steps, "--lr", "0.1"]);
        assert!(out.status.success(), "{out:?}");
        assert_eq!(weights(steps) == weights("runs/hf"), steps == "0");
    }
    // By a flag, too, which holds no more once there is a checkpoint.
    let flag = ["my.toml", "--run-dir", "flag", "--init-weights", "run/weights.safetensors"];
    assert!(folder.train(&[&flag[..], &["--steps", "0"]].concat()).status.success());
    assert_eq!(weights("flag"), weights("run"));
    assert!(folder.train(&["--resume", "--run-dir", "5", "--steps", "6"]).status.success());
    assert_ne!(weights("5"), weights("runs/hf"));
    let config = fs::read_to_string(folder.path("5/config.toml")).unwrap();
    let began_with = anemone::Config::from_toml(&config).unwrap().train.init_weights;
    assert_eq!(began_with.as_deref(), Some(Path::new("runs/hf/weights.safetensors")), "{config}");
}

#[test]
fn models_without_a_tokenizer_are_asked_and_answer_in_numbers() {
    let folder = Folder::new();
    let model = fixture("llama2c/shared.bin");
    let text =
        succeeds(&folder, &["generate", model.to_str().unwrap(), "--prompt", "1 16", "--tokens", "30", "--quiet"]);
    let tokens: Vec<u32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(tokens.len() == 32 && tokens[..2] == [1, 16] && tokens.iter().all(|&t| t < 17), "{text}");
    succeeds(&folder, &["import", model.to_str().unwrap()]);
    let again = succeeds(&folder, &["generate", "runs/shared", "--prompt", "1 16", "--tokens", "30", "--quiet"]);
    assert_eq!(again, text);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = trained();
    assert!(folder.train(&["--steps", "10", "--run-dir", "tiny"]).status.success());
    fs::create_dir(folder.path("early")).unwrap();
    fs::copy(folder.path("run/config.toml"), folder.path("early/config.toml")).unwrap();
    let numbers = fixture("llama2c/shared.bin");
    let numbers = numbers.to_str().unwrap();
    for (args, code, words) in [
        (
            &["generate", "run", "--prompt", "to be?!"][..],
            1,
            &["the prompt", "character 5 is '?'", "expected one of"][..],
        ),
        (&["generate", "run", "--prompt", ""], 1, &["the prompt is empty"]),
        (&["generate", "run", "--temperature", "-1"], 1, &["temperature is -1"]),
        (&["generate", "run", "--top-p", "0"], 1, &["top-p is 0"]),
        (&["generate", "run", "--top-k", "few"], 2, &["few", "--top-k"]),
        (&["generate", "tiny"], 1, &["predicts no tokens", "gpt or llama"]),
        (
            &["generate", "early"],
            1,
            &["early", "neither best.safetensors nor weights.safetensors nor checkpoint.anemone"],
        ),
        (&["generate", "run", "--weights", "tiny/weights.safetensors"], 1, &["have no `transformer.wte.weight`"]),
        (&["generate", "absent"], 1, &["absent"]),
        (&["generate", numbers], 1, &["no tokenizer", "--prompt 1"]),
        (&["generate", numbers, "--prompt", "one"], 1, &["`one` in the prompt", "numbers of tokens"]),
        (&["generate", numbers, "--prompt", "17"], 1, &["no token 17, the model has 17"]),
        (&["generate", numbers, "--prompt", "1", "--weights", "x"], 1, &["--weights x", "is for a run's folder"]),
        (&["import", "run"], 1, &["config.json"]),
        (&["import", "my.toml"], 1, &["llama2.c", "my.toml"]),
        (&["import", numbers, "--run-dir", "run"], 1, &["the run folder `run` exists"]),
        (&["export", "tiny", "out"], 1, &["predicts no tokens"]),
        (&["export", "run", "tiny"], 1, &["`tiny` is not empty"]),
        (&["train", "--init-weights", "absent.safetensors"], 1, &["absent.safetensors"]),
    ] {
        fails(&folder, args, code, words);
    }
    assert!(!folder.path("out").exists());
}
