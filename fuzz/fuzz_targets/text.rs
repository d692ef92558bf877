//! Any text: what parses prints and parses again to the same program, in either version of the language, and
//! neither validation nor the rules of the engine panic on it.
#![no_main]

use anemone_mil::ir::{Program, Version};
use anemone_mil::{Chip, Limits, text, valid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let program = match text::parse(source) {
        Ok(program) => program,
        Err(e) => {
            e.render("input.mil", source);
            return;
        }
    };
    round_trip(&program);
    for version in [Version::V1_0, Version::V1_3] {
        if let Ok(converted) = program.to_version(version) {
            assert_eq!(converted.version, version);
            round_trip(&converted);
        }
    }
    let mut sorted = program.clone();
    sorted.normalize();
    round_trip(&sorted);
    for limits in [Limits::none(), Limits::of(Chip::M1), Limits::of(Chip::M3), Limits::of(Chip::M5)] {
        for finding in valid::check(program.clone(), &limits).1 {
            finding.render("input.mil", source);
        }
    }
});

fn round_trip(program: &Program) {
    let printed = text::print(program);
    match text::parse(&printed) {
        Ok(again) => assert!(again == *program, "another program came back:\n{printed}"),
        Err(e) => panic!("what was printed does not parse:\n{}", e.render("printed.mil", &printed)),
    }
}
