//! The driver of the Neural Engine against stand-ins for Apple's classes that were written apart from it, through
//! real message sends on GNUstep. `ANEMONE_STAND_INS` is the path of their library.
//!
//! They compute one kind of program only: one input, a cast, a 1x1 convolution, one output, `program(1.0)`.
#![allow(clippy::print_stderr)] // Says why it is skipped.

use anemone::device::apple::{Options, ProgramIo};
use anemone::device::{AppleDevice, Device, SoftDevice};
use anemone::mil::ir::{BlobRef, DType, TensorType, Version};
use anemone::mil::weights::WeightsWriter;
use anemone::mil::{Builder, Chip, Limits, ValidProgram, Weights, validate};
use std::path::PathBuf;

const PATH: &str = "@model_path/weights/weight.bin";

fn options(of: Options) -> Option<Options> {
    let Some(library) = std::env::var_os("ANEMONE_STAND_INS") else {
        eprintln!("skipped: ANEMONE_STAND_INS is not set, there are no stand-ins for Apple's classes");
        return None;
    };
    Some(Options { stand_ins: Some(vec![PathBuf::from(library)]), ..of })
}

/// A linear layer of `n_in` to `n_out` channels on `width` columns, with inputs and outputs in fp32 or fp16.
fn layer(io: DType, [n_in, n_out, width]: [usize; 3]) -> (ValidProgram, Weights) {
    let mut writer = WeightsWriter::new();
    let elements: Vec<f32> = (0..n_in * n_out).map(|i| (i as f32 * 0.37).sin()).collect();
    let offset = writer.add_f32_as(DType::Fp16, &elements).unwrap();
    let mut weights = Weights::new();
    weights.insert(PATH, writer.finish()).unwrap();
    let mut b = Builder::new(Version::V1_0);
    let x = b.input("x", TensorType::new(io, &[1, n_in, 1, width])).unwrap();
    let x16 = if io == DType::Fp32 { b.cast(x, DType::Fp16).unwrap() } else { x };
    let blob = BlobRef { path: PATH.into(), offset };
    let w = b.blob("w", TensorType::new(DType::Fp16, &[n_out, n_in, 1, 1]), blob);
    let y16 = b.pointwise(x16, w).unwrap();
    let y = if io == DType::Fp32 { b.cast(y16, DType::Fp32).unwrap() } else { y16 };
    (validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap(), weights)
}

/// What a device makes of a wave.
fn run(device: &dyn Device, program: &ValidProgram, weights: &Weights) -> Vec<f32> {
    let mut kernel = device.compile(program, weights).unwrap();
    let (mut x, mut y) = (kernel.input_buffer(0).unwrap(), kernel.output_buffer(0).unwrap());
    let n = |ty: &TensorType| ty.n_elements().unwrap();
    let wave: Vec<f32> = (0..n(x.ty())).map(|i| (i as f32 * 0.11).cos()).collect();
    x.write(&wave).unwrap();
    let mut found = vec![0.0; n(y.ty())];
    for _ in 0..2 {
        kernel.run(&[&*x], &mut [&mut *y]).unwrap();
        y.read(&mut found).unwrap();
    }
    found
}

#[test]
fn every_form_computes_what_the_software_engine_does() {
    let soft = SoftDevice::new(Chip::M4, Default::default());
    for io in [DType::Fp32, DType::Fp16] {
        for sizes in [[64, 128, 16], [8, 4, 32], [3, 5, 7]] {
            let (program, weights) = layer(io, sizes);
            let expected = run(&soft, &program, &weights);
            let written = Options { io: ProgramIo::AsWritten, ..Options::default() };
            for form in [Options::default(), Options::plain(), written] {
                let Some(options) = options(form) else { return };
                let device = AppleDevice::open(&options).unwrap();
                let found = run(&device, &program, &weights);
                assert!(expected.iter().any(|&x| x != 0.0));
                assert_eq!(found, expected, "{} {io} {sizes:?}", device.name());
                assert_eq!(device.usage().n_live, 0, "what is dropped is unloaded");
                assert_eq!(device.n_folders(), 0);
                // The ladder starts at 1.3, which these stand-ins refuse.
                let n_refused = usize::from(options.version.is_none());
                assert_eq!(device.failures().len(), n_refused, "{:?}", device.failures());
                assert_eq!((device.usage().n_compiles, device.version()), (1, Some(Version::V1_0)));
            }
        }
    }
}

#[test]
fn one_content_shares_its_folder_and_both_can_run() {
    let Some(options) = options(Options::default()) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let (program, weights) = layer(DType::Fp16, [4, 4, 32]);
    let a = device.compile(&program, &weights).unwrap();
    let b = device.compile(&program, &weights).unwrap();
    assert_eq!((device.n_folders(), device.usage().n_live), (1, 2));
    drop(a);
    assert_eq!((device.n_folders(), device.usage().n_live), (1, 1));
    drop(b);
    assert_eq!((device.n_folders(), device.usage().n_live), (0, 0));
}

#[test]
fn buffers_of_another_kernel_are_taken_too() {
    let Some(options) = options(Options { min_surface_bytes: 0, ..Options::default() }) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let (program, weights) = layer(DType::Fp16, [4, 8, 16]);
    let expected = run(&device, &program, &weights);
    let mut kernel = device.compile(&program, &weights).unwrap();
    let unpadded = AppleDevice::open(&Options { pad: false, ..options }).unwrap();
    let other = unpadded.compile(&program, &weights).unwrap();
    let (mut x, mut y) = (other.input_buffer(0).unwrap(), other.output_buffer(0).unwrap());
    let wave: Vec<f32> = (0..64).map(|i| (i as f32 * 0.11).cos()).collect();
    x.write(&wave).unwrap();
    kernel.run(&[&*x], &mut [&mut *y]).unwrap();
    let mut found = vec![0.0; 128];
    y.read(&mut found).unwrap();
    assert_eq!(found, expected);
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

#[test]
fn threads_compile_and_run_side_by_side() {
    let Some(options) = options(Options::default()) else { return };
    let device = AppleDevice::open(&options).unwrap();
    let (program, weights) = layer(DType::Fp16, [16, 16, 32]);
    let expected = run(&device, &program, &weights);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..3).for_each(|_| assert_eq!(run(&device, &program, &weights), expected)));
        }
    });
    assert_eq!((device.usage().n_live, device.n_folders()), (0, 0));
}
