//! The software engine refuses what the rules of its chip say the Neural Engine refuses, and nothing else of it.

use anemone::device::{Device, Faults, SoftDevice};
use anemone_mil::limits::{Effect, Rule};
use anemone_mil::{Chip, Weights};
use std::fs;
use std::path::Path;

/// The program that breaks the rule of that name and no other that is an error.
fn case(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mil/tests/rules");
    fs::read_to_string(folder.join(format!("{name}.mil"))).unwrap()
}

#[test]
fn what_a_rule_calls_an_error_is_refused() {
    for rule in Rule::all().filter(|r| !r.is_budget()) {
        let source = case(rule.name);
        for chip in Chip::ALL.into_iter().filter(|c| rule.chips.is_empty() || rule.chips.contains(c)) {
            // Other rules may come first on other chips than the one the program is made for.
            let is_first = chip == rule.chips.first().copied().unwrap_or(Chip::M4);
            let result = SoftDevice::new(chip, Faults::default()).compile_text(&source, &Weights::new());
            match (rule.effect, result) {
                (Effect::Refused, Ok(_)) => panic!("{chip} took what `{}` refuses", rule.name),
                (Effect::Refused, Err(e)) => {
                    assert!(e.is_refused(), "{}: {e}", rule.name);
                    assert!(!is_first || e.to_string().contains(&format!("rule `{}`", rule.name)), "{e}");
                }
                // It may fail for want of a weights file or of an op.
                (Effect::Wrong | Effect::Doubtful, Err(e)) => {
                    assert!(!is_first || !e.is_refused(), "{}: {e}", rule.name);
                }
                (Effect::Wrong | Effect::Doubtful, Ok(_)) => {}
            }
        }
    }
}

#[test]
fn a_sound_program_is_taken_by_every_chip() {
    for chip in Chip::ALL {
        let device = SoftDevice::new(chip, Faults::default());
        assert!(device.compile_text(&case("sound"), &Weights::new()).is_ok(), "{chip}");
    }
}

#[test]
fn the_budgets_of_a_process_are_kept() {
    for chip in Chip::ALL {
        let device = SoftDevice::new(chip, Faults::default());
        let (compiles, live) =
            (device.limits().max_compiles().unwrap(), device.limits().max_live_programs().unwrap());
        let source = case("sound");
        let mut kernels = Vec::new();
        let refused = (0..=compiles.max(live)).find_map(|_| match device.compile_text(&source, &Weights::new()) {
            Ok(kernel) => {
                kernels.push(kernel);
                None
            }
            Err(e) => Some(e),
        });
        let refused = refused.unwrap();
        assert!(refused.is_budget(), "{refused}");
        assert_eq!(kernels.len(), compiles.min(live), "{chip}");
    }
}
