//! Configurations from the command line: printed, begun, misspelt; and what helps at the prompt.

mod support;

use anemone::Config;
use anemone::config::PRESETS;
use std::fs;
use std::process::Output;
use support::Folder;

/// What a command that must succeed prints.
fn printed(out: &Output) -> &str {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::str::from_utf8(&out.stdout).unwrap()
}

#[test]
fn a_printed_configuration_is_the_one_that_is_trained() {
    let folder = Folder::new();
    for name in PRESETS {
        let out = folder.train(&[name, "--seed", "7", "--lr", "3e-4", "--print-config"]);
        let text = printed(&out);
        let mut expected = Config::preset(name).unwrap();
        expected.train.seed = 7;
        expected.train.lr = 3e-4;
        assert_eq!(Config::from_toml(text).unwrap(), expected, "{name}: {text}");
        assert!(text.contains("# The learning rate [a number above 0; default 0.1]\nlr = 0.0003\n"), "{text}");
        // Written to a file and given back, it is the same.
        fs::write(folder.path("my.toml"), text).unwrap();
        assert_eq!(printed(&folder.train(&["my.toml", "--print-config"])), text);
    }
    let out = folder.train(&["digits", "--print-config", "--json"]);
    let json: serde_json::Value = serde_json::from_str(printed(&out)).unwrap();
    assert_eq!((&json["data"]["kind"], &json["train"]["steps"]), (&"digits".into(), &1000.into()));
    assert!(!folder.path("runs").exists(), "nothing was trained");

    // Of a run that is resumed, its own.
    assert!(folder.train(&["--steps", "10", "--seed", "5"]).status.success());
    let out = folder.train(&["--resume", "--steps", "20", "--print-config"]);
    let config = Config::from_toml(printed(&out)).unwrap();
    assert_eq!((config.train.seed, config.train.steps), (5, 20));
}

#[test]
fn what_is_misspelt_is_named_with_file_line_and_what_was_meant() {
    let folder = Folder::new();
    for (text, words) in [
        (
            "[train]\nsteps = 5\nlearning_rate = 1.0",
            ["line 3: ", "no key `train.learning_rate`", "did you mean `train.lr`?"],
        ),
        (
            "[data]\nkind = \"digits\"\nbatchsize = 3",
            ["line 3: ", "no key `data.batchsize`", "did you mean `data.batch`?"],
        ),
        ("[model]\nkind = \"lama\"", ["line 2: ", "`model.kind` is `lama`", "did you mean `llama`?"]),
        (
            "[weights]\nstrategy = \"bake\"",
            ["line 2: ", "expected one of `baked`, `operand`", "did you mean `baked`?"],
        ),
        ("[train]\nlr = 0", ["line 2: ", "`train.lr` is 0", "expected a number above 0"]),
    ] {
        fs::write(folder.path("my.toml"), text).unwrap();
        let e = folder.error(&["my.toml"]);
        assert!(e.contains("`my.toml`") && words.iter().all(|word| e.contains(word)), "{text}: {e}");
    }
    let e = folder.error(&["digit"]);
    assert!(e.contains("there is no preset `digit`") && e.contains("did you mean `digits`?"), "{e}");
    assert!(!folder.path("runs").exists(), "nothing was trained");
}

#[test]
fn what_init_writes_trains() {
    let folder = Folder::new();
    for family in ["mlp", "convnet", "gpt", "llama"] {
        let out = folder.anemone(&["init", family]);
        let file = format!("{family}.toml");
        assert_eq!(printed(&out), format!("Written to {file}; train it with `anemone train {file}`\n"));
        let text = fs::read_to_string(folder.path(&file)).unwrap();
        assert!(text.contains(&format!("kind = \"{family}\"\n")) && text.contains("\n# Steps in all; "), "{text}");
        let out = folder.train(&[&file, "--steps", "3", "--json"]);
        let report: serde_json::Value = serde_json::from_str(printed(&out)).unwrap();
        assert_eq!(report["steps"], 3, "{family}");
    }
}

#[test]
fn init_overwrites_nothing_unless_told_to() {
    let folder = Folder::new();
    fs::write(folder.path("mine.toml"), "mine").unwrap();
    let out = folder.anemone(&["init", "gpt", "--out", "mine.toml"]);
    let e = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(e.contains("`mine.toml` exists") && e.contains("--out") && e.contains("--force"), "{e}");
    assert_eq!(folder.bytes("mine.toml"), b"mine");
    printed(&folder.anemone(&["init", "gpt", "--out", "mine.toml", "--force"]));
    let shown = folder.anemone(&["init", "gpt", "--out", "-"]);
    assert_eq!(folder.bytes("mine.toml"), printed(&shown).as_bytes());
    assert!(!folder.path("gpt.toml").exists() && !folder.path("-").exists());
    let out = folder.anemone(&["init", "mlp", "--out", "my"]);
    assert!(printed(&out).contains("rename it to my.toml and train it with `anemone train my.toml`"), "{out:?}");
    let out = folder.anemone(&["init", "gtp"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn completions_and_manuals_know_the_commands() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = folder.anemone(&["completions", shell]);
        let text = printed(&out);
        assert!(["print-config", "checkpoint-every", "doctor"].iter().all(|word| text.contains(word)), "{shell}");
    }
    let out = folder.anemone(&["man"]);
    let page = printed(&out);
    assert!(page.contains(".TH anemone 1") && page.contains(".SH \"EXIT STATUS\"\n"), "{page}");
    assert!(page.contains("anemone\\-train(1)"), "{page}");

    let out = folder.anemone(&["man", "--out", "man/man1"]);
    let pages = folder.snapshot("man/man1");
    assert!(printed(&out).starts_with(&format!("{} pages written", pages.len())));
    // Of each command that help lists, but `help` itself.
    let help = folder.anemone(&["--help"]);
    let commands = printed(&help).lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut names: Vec<String> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next()
        })
        .filter(|name| *name != "help")
        .map(|name| format!("anemone-{name}.1"))
        .collect();
    names.push("anemone.1".into());
    names.sort();
    assert_eq!(pages.keys().cloned().collect::<Vec<_>>(), names);
    for (name, page) in pages {
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains(".SH EXAMPLES\n") && page.contains(".SH \"EXIT STATUS\"\n"), "{name}: {page}");
        assert!(page.contains(".SH SYNOPSIS\n") && !page.contains(".SH EXTRA"), "{name}: {page}");
    }
}
