//! Every rule of the engine finds the program that breaks it: `rules/NAME.mil` breaks the rule NAME and no other
//! that is an error.
#![allow(clippy::print_stdout)] // Says which cases were skipped, and why.

use anemone_mil::error::Severity;
use anemone_mil::limits::{Effect, Rule};
use anemone_mil::{Chip, Diagnostic, Limits, ops, text, valid};
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

/// What the rules of `chip` say of a program that is right by those of the language. `None` if it calls an op that
/// the table does not have.
fn findings(name: &str, chip: Chip) -> Option<Vec<Diagnostic>> {
    let source = case(name);
    let program = text::parse(&source).unwrap_or_else(|e| panic!("{name}: {}", e.render(name, &source)));
    let missing =
        program.functions[0].body.calls.iter().find(|c| c.op != "const" && ops::nearest(&c.op) != Some(&c.op));
    if let Some(call) = missing {
        println!("skipped: {name}: the table has no op `{}` yet", call.op);
        return None;
    }
    let (valid, findings) = valid::check(program, &Limits::of(chip));
    assert!(valid.is_some(), "{name}: {findings:#?}");
    Some(findings)
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
        let Some(found) = findings(rule.name, chip) else { continue };
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
            let found = findings(rule.name, chip).unwrap_or_default();
            assert!(found.iter().all(|d| d.code != rule.name), "{} on {chip}", rule.name);
        }
    }
}

#[test]
fn a_sound_program_breaks_no_rule() {
    for chip in Chip::ALL {
        assert_eq!(findings("sound", chip), Some(Vec::new()), "{chip}");
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
