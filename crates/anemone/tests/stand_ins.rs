//! The driver of the Neural Engine against stand-ins for Apple's classes that were written apart from it, through
//! real message sends on GNUstep. `ANEMONE_STAND_INS` is the path of their library.
//!
//! They compute one kind of program only: one input, a cast, a 1x1 convolution, one output, `program(1.0)`. The
//! process of these tests needs more compiles than theirs has: `ANE_STANDIN_LIMIT=1000`.
#![allow(clippy::print_stderr)] // Says why it is skipped.

mod support;

use anemone::device::apple::{Options, ProgramInputs, ProgramIo};
use anemone::device::{AppleDevice, Device};
use anemone::mil::ir::{DType, TensorType, Version};
use anemone::mil::{Builder, Limits, Weights, validate};
use std::path::PathBuf;
use support::suite;

fn options(of: Options) -> Option<Options> {
    let Some(library) = std::env::var_os("ANEMONE_STAND_INS") else {
        eprintln!("skipped: ANEMONE_STAND_INS is not set, there are no stand-ins for Apple's classes");
        return None;
    };
    Some(Options { stand_ins: Some(vec![PathBuf::from(library)]), ..of })
}

#[test]
fn the_device_suite_passes_in_every_form() {
    let written = Options { io: ProgramIo::AsWritten, ..Options::default() };
    let packed = Options { inputs: ProgramInputs::Packed, ..Options::default() };
    // Tried and found not to work, as these stand-ins leave nothing that could be patched.
    let patched = Options { donor_patch: true, ..Options::default() };
    for form in [Options::default(), Options::plain(), written, packed, patched] {
        let Some(options) = options(form) else { return };
        suite::run(&|| Box::new(AppleDevice::open(&options).unwrap()), &suite::layers());
    }
}

#[test]
fn the_form_that_was_taken_is_kept_to() {
    for form in [Options::default(), Options::plain()] {
        let Some(options) = options(form) else { return };
        let device = AppleDevice::open(&options).unwrap();
        let case = suite::layer(DType::Fp16, [8, 4, 32]);
        for n in 1..4 {
            drop(device.compile(&case.program, &case.weights).unwrap());
            assert_eq!((device.usage().n_compiles, device.version()), (n, Some(Version::V1_0)));
            // The ladder starts at 1.3, which these stand-ins refuse; once.
            let n_refused = usize::from(options.version.is_none());
            assert_eq!(device.failures().len(), n_refused, "{:?}", device.failures());
        }
        assert_eq!(device.n_folders(), 0);
    }
}

#[test]
fn a_donor_patch_where_nothing_is_left_to_patch_is_refused_and_said() {
    let Some(options) = options(Options { donor_patch: true, ..Options::default() }) else { return };
    let device = AppleDevice::open(&options).unwrap();
    assert_eq!(device.donor_refusal().as_deref(), Some("compiles leave no `net.plist`"));
    assert!(device.name().contains("no donor patch as it was tried and does not work: compiles leave no"));
    assert_eq!((device.usage().n_live, device.n_folders()), (0, 0));
}

#[test]
fn packed_inputs_are_refused_by_what_cannot_take_them_apart() {
    let Some(options) = options(Options { inputs: ProgramInputs::Packed, ..Options::default() }) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let case = suite::product(32, 8, 64);
    let e = device.compile(&case.program, &case.weights).err().unwrap();
    assert!(e.is_device() && e.to_string().contains("unknown argument begin"), "{e:?}");
    assert_eq!((device.usage().n_live, device.n_folders()), (0, 0));
}

#[test]
fn one_content_shares_its_folder_and_both_can_run() {
    let Some(options) = options(Options::default()) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let case = suite::layer(DType::Fp16, [4, 4, 32]);
    let a = device.compile(&case.program, &case.weights).unwrap();
    let b = device.compile(&case.program, &case.weights).unwrap();
    assert_eq!((device.n_folders(), device.usage().n_live), (1, 2));
    drop(a);
    assert_eq!((device.n_folders(), device.usage().n_live), (1, 1));
    drop(b);
    assert_eq!((device.n_folders(), device.usage().n_live), (0, 0));
}

#[test]
fn buffers_that_lie_otherwise_are_taken_too() {
    let Some(options) = options(Options { min_surface_bytes: 0, ..Options::default() }) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let case = suite::layer(DType::Fp16, [4, 8, 16]);
    let unpadded = AppleDevice::open(&Options { pad: false, ..options }).unwrap();
    let (mut a, mut b) = (suite::compile(&device, &case), suite::compile(&unpadded, &case));
    suite::takes_buffers_of_another_kernel(&mut *a, &*b, &case);
    suite::takes_buffers_of_another_kernel(&mut *b, &*a, &case);
}

#[test]
fn a_program_that_is_not_taken_says_what_was_said() {
    let Some(options) = options(Options::default()) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp16, &[1, 1, 1, 32])).unwrap();
    let y = b.relu(x).unwrap();
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let e = device.compile(&program, &Weights::new()).err().unwrap();
    assert!(e.is_device(), "{e:?}");
    for part in ["compileWithQoS", "unknown op relu", "com.apple.appleneuralengine", "code -1", "program(1.0)"] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
    assert_eq!((device.usage().n_live, device.n_folders()), (0, 0));
    assert_eq!(device.failures().len(), 2);
}

#[test]
fn classes_that_are_missing_are_named() {
    let Some(options) = options(Options { class_prefix: "_XYZ".into(), ..Options::default() }) else { return };
    let e = AppleDevice::open(&options).err().unwrap();
    assert!(e.is_unavailable() && e.to_string().contains("`_XYZInMemoryModelDescriptor`"), "{e:?}");
    let nowhere = Options { stand_ins: Some(vec!["/nowhere.so".into()]), ..Options::default() };
    let e = AppleDevice::open(&nowhere).err().unwrap();
    assert!(e.is_unavailable() && e.to_string().contains("/nowhere.so"), "{e:?}");
}
