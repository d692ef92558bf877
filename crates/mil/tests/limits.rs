//! Every rule of the engine finds the program that breaks it: `rules/NAME.mil` breaks the rule NAME and no other
//! that is an error.

use anemone_mil::error::Severity;
use anemone_mil::limits::{Effect, Rule};
use anemone_mil::{Chip, Diagnostic, Limits, text, valid};
use std::fs;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

fn case(name: &str) -> String {
    let path = folder().join(format!("{name}.mil"));
    fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: a rule needs a program that breaks it", path.display()))
}

/// What the rules of `chip` say of the program that breaks a rule.
fn findings(name: &str, chip: Chip) -> Vec<Diagnostic> {
    findings_in(name, &case(name), chip)
}

/// What the rules of `chip` say of a program that is right by those of the language.
fn findings_in(name: &str, source: &str, chip: Chip) -> Vec<Diagnostic> {
    let program = text::parse(source).unwrap_or_else(|e| panic!("{name}: {}", e.render(name, source)));
    let (valid, findings) = valid::check(program, &Limits::of(chip));
    assert!(valid.is_some(), "{name}: {findings:#?}");
    findings
}

fn codes(findings: &[Diagnostic], severity: Severity) -> Vec<&str> {
    let mut codes: Vec<&str> = findings.iter().filter(|d| d.severity == severity).map(|d| d.code).collect();
    codes.dedup();
    codes
}

#[test]
fn every_rule_finds_what_breaks_it() {
    for rule in Rule::all().filter(|r| !r.is_budget()) {
        let chip = rule.chips.first().copied().unwrap_or(Chip::M4);
        let found = findings(rule.name, chip);
        let (errors, warnings) = (codes(&found, Severity::Error), codes(&found, Severity::Warning));
        match rule.effect {
            Effect::Refused => assert_eq!(errors, [rule.name]),
            Effect::Wrong | Effect::Doubtful => {
                assert_eq!(errors, [""; 0], "{}", rule.name);
                assert!(warnings.contains(&rule.name), "{}: {warnings:?}", rule.name);
            }
        }
        let of_rule = found.iter().find(|d| d.code == rule.name).unwrap();
        assert!(of_rule.notes.iter().any(|n| n.contains(rule.source)), "{of_rule:?}");
    }
}

#[test]
fn rules_of_other_chips_find_nothing() {
    for rule in Rule::all().filter(|r| !r.chips.is_empty() && !r.is_budget()) {
        for chip in Chip::ALL.into_iter().filter(|c| !rule.chips.contains(c)) {
            let found = findings(rule.name, chip);
            assert!(found.iter().all(|d| d.code != rule.name), "{} on {chip}", rule.name);
        }
    }
}

#[test]
fn a_sound_program_breaks_no_rule() {
    for chip in Chip::ALL {
        assert_eq!(findings("sound", chip), [], "{chip}");
    }
}

/// What to replace in a case by what, so that it just keeps the rule.
const MENDED: &[(&str, &[(&str, &str)])] = &[
    ("axis-size", &[("70016", "65536")]),
    ("batch-size", &[("4128", "4096")]),
    ("blob-alignment", &[("(100)", "(128)")]),
    ("blob-offset", &[("(0)", "(64)")]),
    ("build-info", &[("{\n    func", "[buildInfo = tensor<string, []>(\"\")]\n{\n    func")]),
    ("call-names", &[("relu(x = x)", "relu(x = x)[name = tensor<string, []>(\"y\")]")]),
    ("conv-kernel", &[("17", "16"), ("48", "49")]),
    ("conv-kernel-m1", &[("15]", "13]"), ("50", "52")]),
    ("conv-many-channels", &[("32000", "31999")]),
    ("fp32-io", &[("fp32", "fp16")]),
    ("io-order", &[("y2", "z2")]),
    ("io-sizes", &[("1024", "512")]),
    ("matmul-contraction", &[("32800", "32768")]),
    ("matmul-contraction-old", &[("16416", "16384")]),
    ("matmul-multiple", &[("33", "64")]),
    ("narrow-sums", &[("4096", "2048")]),
    ("output-used", &[("tanh(x = y)", "tanh(x = x)")]),
    ("packed-columns", &[("18432", "16384")]),
    ("padded-size", &[("9216", "7168"), ("11264", "9216")]),
    ("pool-size", &[("9, 9", "8, 8"), ("56", "57")]),
    ("rank", &[("2, 2, 2, 8", "2, 2, 16")]),
    ("row-bytes", &[("33", "32")]),
    ("slice-start", &[("4096", "4094")]),
    ("small-io", &[("1, 32", "1, 384")]),
    ("softmax-length", &[("480", "512")]),
    ("spatial-size", &[("16416", "16384")]),
    ("unused-value", &[("(y);", "(y, z);")]),
    ("weights-files", &[("/16.bin", "/0.bin")]),
    ("weights-size", &[("4294967232", "4294901760")]),
    ("weights-slots", &[("/14.bin", "/0.bin")]),
];

#[test]
fn what_just_keeps_a_rule_is_left_alone() {
    for (name, replacements) in MENDED {
        let rule = Rule::of_name(name).unwrap();
        let chip = rule.chips.first().copied().unwrap_or(Chip::M4);
        let mut source = case(name);
        for (from, to) in *replacements {
            assert!(source.contains(from), "{name}: {from}");
            source = source.replace(from, to);
        }
        let found = findings_in(name, &source, chip);
        assert!(found.iter().all(|d| d.code != *name), "{name}: {found:#?}");
    }
}

#[test]
fn every_case_has_its_rule() {
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".mil").unwrap();
        assert!(name == "sound" || Rule::of_name(name).is_some(), "{name}");
    }
}
