//! What every device must do, tried on the software engine.

use anemone::device::{Device, Faults, SoftDevice};
use anemone::mil::ir::{DType, TensorType, Version};
use anemone::mil::{Builder, Chip, Interpreter, Limits, Tensor, ValidProgram, Weights, validate};

fn soft(chip: Chip, faults: &str) -> SoftDevice {
    SoftDevice::new(chip, faults.parse::<Faults>().unwrap())
}

/// `y = relu(x) + 1` on a vector.
fn program(n: usize) -> ValidProgram {
    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp16, &[1, n])).unwrap();
    let r = b.relu(x).unwrap();
    let one = b.constant(Tensor::float(DType::Fp16, &[], vec![1.0]));
    let y = b.add(r, one).unwrap();
    validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap()
}

#[test]
fn a_kernel_computes_what_the_interpreter_does() {
    let program = program(5);
    let xs = [-2.0f32, -0.0, 0.25, 1.0, 1000.6];
    let mut kernel = soft(Chip::M4, "").compile(&program, &Weights::new()).unwrap();
    let (mut x, mut y) = (kernel.input_buffer(0).unwrap(), kernel.output_buffer(0).unwrap());
    x.write(&xs).unwrap();
    kernel.run(&[&*x], &mut [&mut *y]).unwrap();
    let mut found = [0.0; 5];
    y.read(&mut found).unwrap();
    let input = Tensor::float(DType::Fp16, &[1, 5], xs.iter().map(|&x| x.into()).collect());
    let expected = Interpreter::new(&program, &Weights::new()).unwrap().run(&[input]).unwrap();
    let expected: Vec<f32> = expected[0].floats().unwrap().iter().map(|&x| x as f32).collect();
    assert_eq!(found[..], expected[..]);
}

#[test]
fn compiles_and_live_programs_are_counted_and_limited() {
    let device = soft(Chip::M4, "");
    let program = program(2);
    let mut kept = Vec::new();
    for i in 0..119 {
        assert_eq!(device.usage().n_compiles, i);
        kept.push(device.compile(&program, &Weights::new()).unwrap());
    }
    assert_eq!(device.usage().n_live, 119);
    let e = device.compile(&program, &Weights::new()).err().unwrap();
    assert!(e.is_budget(), "{e:?}");
    drop(kept);
    assert_eq!(device.usage().n_live, 0);
    assert!(
        device.compile(&program, &Weights::new()).err().unwrap().is_budget(),
        "places are free again, compiles are not"
    );
}

#[test]
fn faults_come_out_as_device_errors_at_their_call() {
    let program = program(2);
    for (faults, stage) in [("compile@2", "compile"), ("load@2", "load")] {
        let device = soft(Chip::M4, faults);
        let _first = device.compile(&program, &Weights::new()).unwrap();
        let e = device.compile(&program, &Weights::new()).err().unwrap();
        assert!(e.is_device() && e.to_string().contains(stage), "{e}");
        assert_eq!(device.usage().n_live, 1, "what failed to load holds no place");
    }
    let device = soft(Chip::M4, "evaluate@2");
    let mut kernel = device.compile(&program, &Weights::new()).unwrap();
    let (mut x, mut y) = (kernel.input_buffer(0).unwrap(), kernel.output_buffer(0).unwrap());
    x.write(&[1.0, 2.0]).unwrap();
    kernel.run(&[&*x], &mut [&mut *y]).unwrap();
    assert!(kernel.run(&[&*x], &mut [&mut *y]).unwrap_err().is_device());
    kernel.run(&[&*x], &mut [&mut *y]).unwrap();
}

#[test]
fn text_that_is_wrong_or_refused_is_told_apart() {
    let weights = Weights::new();
    let wrong = soft(Chip::M4, "").compile_text("program(1.3) { nonsense", &weights).err().unwrap();
    assert!(wrong.is_config(), "{wrong:?}");
    let fp32 = "program(1.0)\n[buildInfo = dict<tensor<string, []>, tensor<string, []>>({})]\n{\n\
                func main<ios16>(tensor<fp32, [1, 4]> x) {\n\
                tensor<fp32, [1, 4]> y = relu(x = x)[name = tensor<string, []>(\"y\")];\n} -> (y);\n}";
    assert!(soft(Chip::M4, "").compile_text(fp32, &weights).is_ok());
    let refused = soft(Chip::M1, "").compile_text(fp32, &weights).err().unwrap();
    assert!(refused.is_refused() && refused.to_string().contains("fp32"), "{refused:?}");
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let device = soft(Chip::M4, "");
    let mut kernel = device.compile(&program(2), &Weights::new()).unwrap();
    let other = device.compile(&program(3), &Weights::new()).unwrap();
    let (x, mut y) = (other.input_buffer(0).unwrap(), kernel.output_buffer(0).unwrap());
    assert!(kernel.run(&[&*x], &mut [&mut *y]).unwrap_err().is_config());
    assert!(kernel.run(&[], &mut [&mut *y]).unwrap_err().is_config());
    let mut x = kernel.input_buffer(0).unwrap();
    assert!(x.write(&[1.0]).is_err() && kernel.input_buffer(1).is_err());
}

#[test]
fn a_kernel_sees_what_was_written_last() {
    let mut kernel = soft(Chip::M4, "").compile(&program(1), &Weights::new()).unwrap();
    let (mut a, mut b) = (kernel.input_buffer(0).unwrap(), kernel.input_buffer(0).unwrap());
    let mut y = kernel.output_buffer(0).unwrap();
    let mut result = |x: &dyn anemone::device::Buffer| {
        kernel.run(&[x], &mut [&mut *y]).unwrap();
        let mut found = [0.0];
        y.read(&mut found).unwrap();
        found[0]
    };
    a.write(&[1.0]).unwrap();
    b.write(&[5.0]).unwrap();
    assert_eq!([result(&*a), result(&*a), result(&*b), result(&*a)], [2.0, 2.0, 6.0, 2.0]);
    a.write(&[7.0]).unwrap();
    assert_eq!(result(&*a), 8.0);
}
