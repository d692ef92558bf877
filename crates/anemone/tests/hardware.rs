//! The Neural Engine itself. Skipped, with the reason, on a machine that has none.
//!
//! All tests of this file together stay below the 119 compiles that a process of the engine is reported to have.
#![allow(clippy::print_stderr)] // Says why it is skipped.

mod support;

use anemone::config::Strategy;
use anemone::device::{AppleDevice, Device, apple, self_test};
use support::suite;

/// The options, if there is an engine to test.
fn engine() -> Option<apple::Options> {
    let options = apple::Options::default();
    match AppleDevice::open(&options) {
        Ok(device) if device.is_virtual() == Some(true) => {
            eprintln!("skipped: this machine is a virtual one");
            None
        }
        Ok(device) => {
            eprintln!("testing {}", device.name());
            Some(options)
        }
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

#[test]
fn the_engine_computes_known_answers_and_trains_as_the_software_engine_does() {
    let Some(options) = engine() else { return };
    let verdict = self_test::examine_ane(&options);
    assert!(verdict.is_usable(), "{verdict:#?}");
    assert!(verdict.strategies.contains(&Strategy::Baked), "{verdict:#?}");
}

#[test]
fn the_device_suite() {
    let Some(options) = engine() else { return };
    let open = |options: &apple::Options| Box::new(AppleDevice::open(options).unwrap());
    suite::run(&|| open(&options), &suite::programs());
    let few = apple::Options { max_compiles: Some(4), max_live_programs: Some(2), ..options };
    suite::keeps_budgets(&*open(&few), &suite::two_outputs(32), 4, 2);
}

#[test]
fn the_device_suite_with_packed_inputs() {
    let Some(options) = engine() else { return };
    let packed = apple::Options { inputs: apple::ProgramInputs::Packed, ..options };
    suite::run(&|| Box::new(AppleDevice::open(&packed).unwrap()), &suite::programs_of_several_inputs());
}

#[test]
fn what_was_compiled_is_unloaded_and_removed() {
    let Some(options) = engine() else { return };
    let device = AppleDevice::open(&options).unwrap();
    let (program, weights) = self_test::known_program().unwrap();
    for i in 0..5 {
        drop(device.compile(&program, &weights).unwrap());
        assert_eq!((device.usage().n_live, device.n_folders()), (0, 0), "after {} compiles", i + 1);
    }
    assert!(device.failures().iter().all(|f| !f.call.starts_with("unload")), "{:?}", device.failures());
}
