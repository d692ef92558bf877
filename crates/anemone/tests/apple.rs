//! The driver of the Neural Engine on stand-ins for Apple's classes that compute any program: whole jobs in each
//! strategy, every failure that is known, and that nothing is left over.
//!
//! Where there is no macOS, `ANEMONE_FOUNDATION` names the library with Foundation's classes.
#![allow(clippy::print_stderr)] // Says why it is skipped.

mod support;

use anemone::config::Strategy;
use anemone::device::apple::stand_in::{Counts, Fault, Says, StandIns};
use anemone::device::apple::{Options, ProgramInputs, ProgramIo};
use anemone::device::{AppleDevice, Device, SoftDevice, self_test};
use anemone::mil::ir::{DType, TensorType, Version};
use anemone::mil::{Builder, Chip, Limits, Weights, validate};
use anemone::train::Event;
use anemone::{Config, Error, Trainer};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use support::suite;

/// Surfaces and locks are counted for the whole process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn foundation() -> Option<(PathBuf, MutexGuard<'static, ()>)> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    if cfg!(target_os = "macos") {
        return Some(("/System/Library/Frameworks/Foundation.framework/Foundation".into(), guard));
    }
    let Some(library) = std::env::var_os("ANEMONE_FOUNDATION") else {
        eprintln!("skipped: ANEMONE_FOUNDATION is not set, there is no Foundation");
        return None;
    };
    Some((library.into(), guard))
}

/// What is left when all is dropped. Compiles and evaluations have been.
fn left(counts: Counts) -> (i64, i64, i64, i64) {
    (counts.n_objects, counts.n_loaded, counts.n_surfaces, counts.n_locks)
}

/// Runs a program of two outputs on five numbers.
fn run(device: &dyn Device) -> Result<(), Error> {
    let mut kernel = device.compile(&suite::two_outputs(5).program, &Weights::new())?;
    let (mut x, mut z, mut y) = (kernel.input_buffer(0)?, kernel.output_buffer(0)?, kernel.output_buffer(1)?);
    x.write(&[-2.0, -0.0, 0.25, 1.0, 1000.0])?;
    kernel.run(&[&*x], &mut [&mut *z, &mut *y])?;
    let (mut twice, mut sum) = ([0.0; 5], [0.0; 5]);
    z.read(&mut twice)?;
    y.read(&mut sum)?;
    assert_eq!(sum, [1.0, 1.0, 1.25, 2.0, 1001.0]);
    assert_eq!(twice, [-4.0, 0.0, 0.5, 2.0, 2000.0]);
    Ok(())
}

#[test]
fn a_program_of_any_shape_runs_and_leaves_nothing() {
    let Some((foundation, _guard)) = foundation() else { return };
    let stand_ins = StandIns::new(foundation, Chip::M4, None).unwrap();
    let device = stand_ins.open(&Options::default()).unwrap();
    run(&device).unwrap();
    assert_eq!(device.version(), Some(Version::V1_3), "the newer version is tried first");
    assert_eq!((device.n_folders(), device.failures()), (0, vec![]));
    assert_eq!((stand_ins.counts().n_compiles, stand_ins.counts().n_evaluations), (1, 1));
    drop(device);
    assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0));
}

#[test]
fn every_failure_has_its_name() {
    use Fault::*;
    let Some((foundation, _guard)) = foundation() else { return };
    for (fault, words) in [
        (NilDescriptor, &["`modelWithMILText:weights:optionsPlist:` said: nil"][..]),
        (NilModel, &["`inMemoryModelWithDescriptor:` said: nil"]),
        (CompileNo, &["`compileWithQoS:options:error:`", "CompilationFailure", "domain `com.apple", "code 2"]),
        (CompileSilentNo, &["`compileWithQoS:options:error:`", "NO, and no NSError"]),
        (CompileRaises, &["`compileWithQoS:options:error:` raised", "NSInvalidArgumentException", "was nil"]),
        (LoadNo, &["`loadWithQoS:options:error:`", "0x50004"]),
        (EvaluateNo, &["`evaluateWithQoS:options:request:error:`", "status=0x1d", "code 8"]),
        (EvaluateRaises, &["raised", "getUUID"]),
        (EvaluateWritesNothing, &["said YES, but has not written output"]),
        (NilSurfaceObject, &["`objectWithIOSurface:` said: nil"]),
        (NilRequest, &["`requestWithInputs:", "said: nil"]),
    ] {
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, Some((fault, 1))).unwrap();
        // One form of programs, so that there is no other to recover with.
        let device = stand_ins.open(&Options { version: Some(Version::V1_0), ..Options::default() }).unwrap();
        let e = run(&device).unwrap_err();
        assert!(e.is_device(), "{fault:?}: {e:?}");
        for word in words {
            assert!(e.to_string().contains(word), "{fault:?}: {word}: {e}");
        }
        run(&device).unwrap_or_else(|e| panic!("{fault:?}: does not recover: {e}"));
        assert_eq!((device.usage().n_live, device.n_folders()), (0, 0), "{fault:?}");
        drop(device);
        assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0), "{fault:?}");
    }
}

#[test]
fn classes_that_differ_are_named_when_the_device_is_opened() {
    let Some((foundation, _guard)) = foundation() else { return };
    for (fault, words) in [
        (Fault::MissingClass, &["_Request`", "does not exist"][..]),
        (Fault::MissingMethod, &["_InMemoryModel`", "no method `-evaluateWithQoS:options:request:error:`"]),
        (Fault::OtherType, &["_InMemoryModel`", "`-loadWithQoS:options:error:`", "@:Q@^@`", "@:I@^@`"]),
    ] {
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, Some((fault, 1))).unwrap();
        let e = stand_ins.open(&Options::default()).err().unwrap();
        assert!(e.is_unavailable(), "{fault:?}: {e:?}");
        for word in words {
            assert!(e.to_string().contains(word), "{fault:?}: {word}: {e}");
        }
    }
}

#[test]
fn an_unload_that_fails_is_kept_and_holds_no_place() {
    let Some((foundation, _guard)) = foundation() else { return };
    let stand_ins = StandIns::new(foundation, Chip::M4, Some((Fault::UnloadNo, 1))).unwrap();
    let device = stand_ins.open(&Options::default()).unwrap();
    run(&device).unwrap();
    assert_eq!(device.failures().len(), 1);
    assert!(device.failures()[0].to_string().contains("`unloadWithQoS:error:` said: unload failed"));
    assert_eq!((device.usage().n_live, device.n_folders()), (0, 0));
}

#[test]
fn budgets_are_those_of_the_rules_and_the_options() {
    let Some((foundation, _guard)) = foundation() else { return };
    let limits = Limits::of(Chip::M4);
    let rules = (limits.max_compiles().unwrap(), limits.max_live_programs().unwrap());
    for (max_compiles, max_live) in [(Some(3), Some(2)), (Some(2), None), (None, None)] {
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, None).unwrap();
        let options = Options { max_compiles, max_live_programs: max_live, ..Options::default() };
        let device = stand_ins.open(&options).unwrap();
        let (n_compiles, n_live) = (max_compiles.unwrap_or(rules.0), max_live.unwrap_or(rules.1));
        suite::keeps_budgets(&device, &suite::two_outputs(32), n_compiles, n_live);
        assert_eq!(stand_ins.counts().n_compiles, n_compiles, "what is refused is not tried");
        drop(device);
        assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0));
    }
}

#[test]
fn the_device_suite_passes_however_inputs_and_outputs_lie() {
    let Some((foundation, _guard)) = foundation() else { return };
    for says in [Says::Nothing, Says::Unusual, Says::Wrong] {
        for inputs in [ProgramInputs::Separate, ProgramInputs::Packed] {
            for io in [ProgramIo::Fp16, ProgramIo::AsWritten] {
                let stand_ins = StandIns::saying(says, foundation.clone(), Chip::M4, None).unwrap();
                let options = Options { inputs, io, ..Options::default() };
                suite::run(&|| Box::new(stand_ins.open(&options).unwrap()), &suite::programs());
                assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0), "{says:?}, {inputs:?}, {io:?}");
            }
        }
    }
}

#[test]
fn a_description_that_cannot_be_is_kept_and_not_followed() {
    let Some((foundation, _guard)) = foundation() else { return };
    for (says, n_kept) in [(Says::Unusual, 0), (Says::Wrong, 3)] {
        let stand_ins = StandIns::saying(says, foundation.clone(), Chip::M4, None).unwrap();
        let device = stand_ins.open(&Options::default()).unwrap();
        run(&device).unwrap();
        let kept = device.failures();
        assert_eq!(kept.len(), n_kept, "{kept:?}");
        assert!(kept.iter().all(|f| f.call == "modelAttributes" && f.text.contains("Described")), "{kept:?}");
    }
}

#[test]
fn a_refused_last_axis_says_why() {
    let Some((foundation, _guard)) = foundation() else { return };
    let stand_ins = StandIns::new(foundation, Chip::M4, None).unwrap();
    let device = stand_ins.open(&Options::default()).unwrap();
    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp16, &[1, 5])).unwrap();
    let y = b.reduce_sum(x, &[1], true).unwrap();
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let e = device.compile(&program, &Weights::new()).err().unwrap();
    assert!(e.is_refused(), "{e:?}");
    for word in ["`x` has 5 elements", "`reduce_sum`", "multiple of 32"] {
        assert!(e.to_string().contains(word), "{word}: {e}");
    }
}

/// Trains, with a new device wherever a new process would begin.
fn train(config: &Config, mut open: impl FnMut() -> Arc<dyn Device>) -> (Vec<u32>, anemone::Report) {
    let mut trainer = Trainer::new(config, open()).unwrap();
    let mut losses = Vec::new();
    loop {
        match trainer.step().unwrap() {
            Event::Step(step) => losses.push(step.loss.to_bits()),
            Event::Finished => break,
            Event::Restart(_) => {
                let checkpoint = trainer.checkpoint().unwrap();
                drop(trainer);
                trainer = Trainer::new(config, open()).unwrap();
                trainer.resume(checkpoint.clone()).unwrap();
            }
        }
    }
    (losses, trainer.report().unwrap())
}

#[test]
fn tiny_is_the_software_engines_in_every_strategy_and_leaves_nothing() {
    let Some((foundation, _guard)) = foundation() else { return };
    use ProgramInputs::{Packed, Separate};
    for (n_steps, strategy, overlap, io, inputs, says) in [
        (2000, Strategy::Baked, true, ProgramIo::Fp16, Separate, Says::Nothing),
        (100, Strategy::Baked, true, ProgramIo::AsWritten, Separate, Says::Nothing),
        (2000, Strategy::Baked, false, ProgramIo::Fp16, Separate, Says::Nothing),
        (2000, Strategy::Operand, false, ProgramIo::Fp16, Separate, Says::Nothing),
        (2000, Strategy::Operand, false, ProgramIo::Fp16, Packed, Says::Nothing),
        (100, Strategy::Baked, true, ProgramIo::Fp16, Packed, Says::Unusual),
        (100, Strategy::Operand, false, ProgramIo::Fp16, Separate, Says::Unusual),
        (100, Strategy::Operand, false, ProgramIo::AsWritten, Separate, Says::Nothing),
        (100, Strategy::Operand, false, ProgramIo::AsWritten, Packed, Says::Unusual),
    ] {
        let mut config = Config::preset("tiny").unwrap();
        config.train.steps = n_steps;
        config.weights.strategy = strategy;
        config.weights.overlap = overlap;
        let (expected, _) = train(&config, || Arc::new(SoftDevice::new(Chip::M4, Default::default())));
        // Each process has classes of its own, as the real ones have budgets for each process.
        let mut processes = Vec::new();
        let (found, report) = train(&config, || {
            let stand_ins = StandIns::saying(says, foundation.clone(), Chip::M4, None).unwrap();
            let device = stand_ins.open(&Options { io, inputs, ..Options::default() }).unwrap();
            processes.push(stand_ins);
            Arc::new(device)
        });

        let what = format!("{strategy:?}, overlap {overlap}, {io:?}, {inputs:?}, {says:?}");
        assert_eq!(found.len() as u64, n_steps, "{what}");
        assert!(found == expected, "{what}: losses differ");
        let n_compiles: usize = processes.iter().map(|p| p.counts().n_compiles).sum();
        assert_eq!(n_compiles as u64, report.stats.n_compiles, "{what}");
        if overlap && n_steps == 2000 {
            assert_eq!((n_compiles, processes.len()), (420, 5), "{what}");
        }
        for process in &processes {
            assert_eq!(left(process.counts()), (0, 0, 0, 0), "{what}");
        }
    }
}

#[test]
fn faults_while_training_are_recovered_from_and_counted() {
    let Some((foundation, _guard)) = foundation() else { return };
    for fault in
        [Fault::CompileNo, Fault::CompileRaises, Fault::LoadNo, Fault::EvaluateNo, Fault::EvaluateWritesNothing]
    {
        let mut config = Config::preset("tiny").unwrap();
        config.train.steps = 60;
        config.weights.overlap = false;
        let (expected, _) = train(&config, || Arc::new(SoftDevice::new(Chip::M4, Default::default())));
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, Some((fault, 2))).unwrap();
        let options = Options { version: Some(Version::V1_3), ..Options::default() };
        let (found, report) = train(&config, || Arc::new(stand_ins.open(&options).unwrap()));
        assert!(found == expected, "{fault:?}: losses differ");
        assert_eq!(report.stats.n_retries, 1, "{fault:?}");
        assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0), "{fault:?}");
    }
}

#[test]
fn a_donor_patch_that_works_takes_the_place_of_compiles() {
    let Some((foundation, _guard)) = foundation() else { return };
    let mut config = Config::preset("tiny").unwrap();
    config.weights.overlap = false;
    let (expected, plain) = train(&config, || Arc::new(SoftDevice::new(Chip::M4, Default::default())));
    let stand_ins = StandIns::new(foundation, Chip::M4, None).unwrap();
    let options = Options { donor_patch: true, ..Options::default() };
    let mut patched = None;
    let (found, report) = train(&config, || {
        let device = Arc::new(stand_ins.open(&options).unwrap());
        assert_eq!((device.n_patches(), device.donor_refusal()), (1, None), "it was tried");
        assert!(patched.replace(device.clone()).is_none(), "one process is enough");
        device
    });
    let device = patched.unwrap();
    assert!(found == expected, "losses differ");
    // One compile of each of the two texts that the four layers have, and the one that was tried.
    assert_eq!((report.stats.n_compiles, stand_ins.counts().n_compiles), (2, 3));
    assert_eq!(device.n_patches() as u64, 1 + plain.stats.n_compiles - 2);
    assert!(report.device.contains("new weights by donor patch"), "{}", report.device);
    drop(device);
    assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0));
}

#[test]
fn a_donor_patch_that_does_nothing_is_found_out_and_not_used() {
    let Some((foundation, _guard)) = foundation() else { return };
    for (fault, at, word) in [
        (Fault::PatchIgnored, 1, "numbers are wrong with weights 1"),
        (Fault::PatchNo, 1, "`loadWithQoS:options:error:` said: a net that was not made here"),
        // Found to work, and then not.
        (Fault::PatchNo, 5, "`loadWithQoS:options:error:` said: a net that was not made here"),
    ] {
        let mut config = Config::preset("tiny").unwrap();
        config.train.steps = 60;
        config.weights.overlap = false;
        let (expected, plain) = train(&config, || Arc::new(SoftDevice::new(Chip::M4, Default::default())));
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, Some((fault, at))).unwrap();
        let options = Options { donor_patch: true, ..Options::default() };
        let (found, report) = train(&config, || Arc::new(stand_ins.open(&options).unwrap()));
        assert!(found == expected, "{fault:?} {at}: losses differ");
        assert!(report.device.contains("no donor patch as it was tried"), "{fault:?} {at}: {}", report.device);
        assert!(report.device.contains(word), "{fault:?} {at}: {}", report.device);
        if at == 1 {
            assert_eq!(report.stats.n_compiles, plain.stats.n_compiles, "{fault:?}: every update is compiled");
        }
        assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0), "{fault:?} {at}");
    }
}

#[test]
fn the_self_test_chooses_what_works() {
    use ProgramInputs::{Packed, Separate};
    let Some((foundation, _guard)) = foundation() else { return };
    for (fault, inputs, donor_patch, failed) in [
        (None, &[Separate, Packed][..], true, None),
        (Some(Fault::EvaluateSeveralNo), &[Packed], true, Some(("inputs separate", "status=0x1d"))),
        (Some(Fault::PatchIgnored), &[Separate, Packed], false, Some(("donor patch", "numbers are wrong"))),
    ] {
        let stand_ins = StandIns::new(foundation.clone(), Chip::M4, fault.map(|f| (f, 1))).unwrap();
        let verdict = self_test::examine_ane_opened_by(&|options| stand_ins.open(options), &Options::default());
        assert_eq!(verdict.strategies, [Strategy::Baked, Strategy::Operand], "{verdict:#?}");
        assert_eq!((&verdict.inputs[..], verdict.donor_patch), (inputs, donor_patch), "{verdict:#?}");
        let failures: Vec<_> = verdict.checks.iter().filter(|c| !c.passed).collect();
        match failed {
            None => assert_eq!(failures.len(), 0, "{verdict:#?}"),
            Some((what, found)) => {
                assert_eq!(failures.len(), 1, "{verdict:#?}");
                assert!(failures[0].what.contains(what) && failures[0].found.contains(found), "{verdict:#?}");
            }
        }
        let mut options = Options::default();
        verdict.apply(&mut options);
        assert_eq!((options.inputs, options.donor_patch), (inputs[0], false), "a patch is only for who asks");
        assert_eq!(left(stand_ins.counts()), (0, 0, 0, 0));
    }
}

#[test]
fn the_devices_are_send_and_sync() {
    fn is<T: Send + Sync>() {}
    is::<AppleDevice>();
}
