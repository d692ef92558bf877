//! Any protobuf: what reads as a program prints, parses again, and can be checked.
#![no_main]

use anemone_mil::{Chip, Limits, package, text, valid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(program) = package::read(bytes) else { return };
    let printed = text::print(&program);
    match text::parse(&printed) {
        Ok(again) => assert!(again == program, "another program came back:\n{printed}"),
        Err(e) => panic!("what was printed does not parse:\n{}", e.render("printed.mil", &printed)),
    }
    valid::check(program, &Limits::of(Chip::M1));
});
