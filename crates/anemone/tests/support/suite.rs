//! What every device must do: one suite for the software engine, the Neural Engine and what stands in for it.
//!
//! All numbers are exact in fp16 and in any order of summation, so that every device has to give the same.

use super::n_elements;
use anemone::device::{Buffer, Device, Kernel};
use anemone::mil::builder::Value;
use anemone::mil::ir::{BlobRef, DType, TensorType, Version};
use anemone::mil::weights::WeightsWriter;
use anemone::mil::{Builder, Interpreter, Limits, Tensor, ValidProgram, Weights, validate};

/// A program with its constants.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) program: ValidProgram,
    pub(crate) weights: Weights,
}

impl Case {
    fn new(name: impl Into<String>, weights: Weights, build: impl FnOnce(&mut Builder) -> Vec<Value>) -> Case {
        let mut b = Builder::new(Version::V1_0);
        let outputs = build(&mut b);
        let program = validate(b.finish(&outputs).unwrap(), &Limits::none()).unwrap();
        Case { name: name.into(), program, weights }
    }

    /// The inputs and outputs.
    fn types(&self) -> [Vec<(String, TensorType)>; 2] {
        let f = self.program.main();
        [&f.inputs, &f.outputs].map(|ids| {
            let port = |&id| (f.value(id).name.clone(), f.value(id).ty.as_tensor().unwrap().clone());
            ids.iter().map(port).collect()
        })
    }

    /// What the reference interpreter makes of those inputs.
    fn expected(&self, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let [types, _] = self.types();
        let tensor = |((_, ty), x): (&(String, TensorType), &Vec<f32>)| {
            Tensor::float(ty.dtype, &ty.fixed_shape().unwrap(), x.iter().map(|&x| x.into()).collect())
        };
        let inputs: Vec<Tensor> = types.iter().zip(inputs).map(tensor).collect();
        let outputs = Interpreter::new(&self.program, &self.weights).unwrap().run(&inputs).unwrap();
        outputs.iter().map(|t| t.floats().unwrap().iter().map(|&x| x as f32).collect()).collect()
    }

    /// Numbers for each input, others for each seed.
    fn numbers(&self, seed: usize) -> Vec<Vec<f32>> {
        let [types, _] = self.types();
        let numbers = |(i, (_, ty)): (usize, &(String, TensorType))| {
            (0..n_elements(ty)).map(|k| ((k * 7 + k / 13 + 3 * i + seed) % 4) as f32 - 1.0).collect()
        };
        types.iter().enumerate().map(numbers).collect()
    }
}

fn fp16(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Fp16, shape)
}

/// A linear layer of `n_in` to `n_out` channels on `width` columns, its weights in a file.
pub(crate) fn layer(io: DType, [n_in, n_out, width]: [usize; 3]) -> Case {
    const PATH: &str = "@model_path/weights/weight.bin";
    let mut writer = WeightsWriter::new();
    let elements: Vec<f32> = (0..n_in * n_out).map(|i| ((i + i / 7) % 5) as f32 / 2.0 - 1.0).collect();
    let offset = writer.add_f32_as(DType::Fp16, &elements).unwrap();
    let mut weights = Weights::new();
    weights.insert(PATH, writer.finish()).unwrap();
    Case::new(format!("a layer of {n_in} to {n_out} on {width} columns in {io:?}"), weights, |b| {
        let x = b.input("x", TensorType::new(io, &[1, n_in, 1, width])).unwrap();
        let x16 = if io == DType::Fp32 { b.cast(x, DType::Fp16).unwrap() } else { x };
        let w = b.blob("w", fp16(&[n_out, n_in, 1, 1]), BlobRef { path: PATH.into(), offset });
        let y16 = b.pointwise(x16, w).unwrap();
        vec![if io == DType::Fp32 { b.cast(y16, DType::Fp32).unwrap() } else { y16 }]
    })
}

/// Linear layers with constant weights, which even those stand-ins compute that compute nothing else.
pub(crate) fn layers() -> Vec<Case> {
    let sizes = [[64, 128, 16], [8, 4, 32], [3, 5, 7]];
    [DType::Fp32, DType::Fp16].into_iter().flat_map(|io| sizes.map(|s| layer(io, s))).collect()
}

/// Two outputs, in an order that is not that of their making: `2 x` and `relu(x) + 1`.
pub(crate) fn two_outputs(n: usize) -> Case {
    Case::new(format!("two outputs of {n}"), Weights::new(), |b| {
        let x = b.input("x", fp16(&[1, n])).unwrap();
        let r = b.relu(x).unwrap();
        let one = b.constant(Tensor::float(DType::Fp16, &[], vec![1.0]));
        let y = b.add(r, one).unwrap();
        vec![b.scale(x, 2.0).unwrap(), y]
    })
}

/// Weights as an input.
pub(crate) fn product(n_in: usize, n_out: usize, width: usize) -> Case {
    Case::new(format!("a product of {n_out} {n_in} and {n_in} {width}"), Weights::new(), |b| {
        let w = b.input("w", fp16(&[1, 1, n_out, n_in])).unwrap();
        let x = b.input("x", fp16(&[1, n_in, 1, width])).unwrap();
        let columns = b.reshape(x, &[1, 1, n_in, width]).unwrap();
        let product = b.matmul(w, columns, false, false).unwrap();
        vec![b.reshape(product, &[1, n_out, 1, width]).unwrap()]
    })
}

/// Those with several inputs.
pub(crate) fn programs_of_several_inputs() -> Vec<Case> {
    programs().into_iter().filter(|case| case.types()[0].len() > 1).collect()
}

/// Programs of all kinds.
pub(crate) fn programs() -> Vec<Case> {
    let mut cases = layers();
    cases.push(two_outputs(5));
    cases.extend([product(64, 128, 16), product(32, 8, 64)]);
    cases.push(Case::new("inputs that are not in the order of their names", Weights::new(), |b| {
        let [c, a, d] = ["c", "a", "b"].map(|name| b.input(name, fp16(&[1, 4, 1, 32])).unwrap());
        let difference = b.sub(c, a).unwrap();
        vec![b.mul(difference, d).unwrap(), difference]
    }));
    cases.push(Case::new("batches of channels of rows", Weights::new(), |b| {
        let x = b.input("x", fp16(&[2, 3, 4, 5])).unwrap();
        let y = b.input("y", fp16(&[2, 3, 4, 5])).unwrap();
        let sum = b.add(x, y).unwrap();
        vec![b.relu(sum).unwrap()]
    }));
    cases
}

/// The suite: opens a device for each of its parts. It takes few compiles, as a process of the engine has only so
/// many.
pub(crate) fn run(open: &dyn Fn() -> Box<dyn Device>, cases: &[Case]) {
    let device = open();
    let other = compile(&*device, &layer(DType::Fp16, [2, 3, 64]));
    for case in cases {
        let (mut kernel, twin) = (compile(&*device, case), compile(&*device, case));
        computes_the_programs_function(&mut *kernel, case);
        takes_buffers_of_another_kernel(&mut *kernel, &*twin, case);
        refuses_buffers_that_do_not_fit(&mut *kernel, &*other, case);
    }
    drop(other);
    assert_eq!(device.usage().n_live, 0, "what is dropped is unloaded");
    assert!(device.engine_energy_j().is_none_or(|joules| joules >= 0.0));
    counts_what_is_compiled_and_loaded(&*open(), &cases[0]);
    compiles_and_runs_side_by_side(&*open(), &cases[0]);
}

/// The buffers of a kernel's inputs and outputs.
struct Buffers {
    inputs: Vec<Box<dyn Buffer>>,
    outputs: Vec<Box<dyn Buffer>>,
}

impl Buffers {
    fn of(kernel: &dyn Kernel) -> Buffers {
        let s = kernel.signature();
        Buffers {
            inputs: (0..s.inputs.len()).map(|i| kernel.input_buffer(i).unwrap()).collect(),
            outputs: (0..s.outputs.len()).map(|i| kernel.output_buffer(i).unwrap()).collect(),
        }
    }

    fn write(&mut self, inputs: &[Vec<f32>]) {
        self.inputs.iter_mut().zip(inputs).for_each(|(b, x)| b.write(x).unwrap());
    }

    fn run(&mut self, kernel: &mut dyn Kernel) -> Vec<Vec<f32>> {
        let inputs: Vec<&dyn Buffer> = self.inputs.iter().map(|b| &**b).collect();
        let mut outputs: Vec<&mut dyn Buffer> = self.outputs.iter_mut().map(|b| &mut **b).collect();
        kernel.run(&inputs, &mut outputs).unwrap();
        let read = |b: &dyn Buffer| {
            let mut elements = vec![f32::NAN; n_elements(b.ty())];
            b.read(&mut elements).unwrap();
            elements
        };
        self.outputs.iter().map(|b| read(&**b)).collect()
    }
}

/// Names the first number that differs, as all of them would fill pages.
fn assert_numbers(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: output {i}");
        if let Some(k) = (0..found.len()).find(|&k| found[k] != expected[k]) {
            panic!("{what}: output {i}, number {k}: {} instead of {}", found[k], expected[k]);
        }
    }
}

/// Compiles a case.
pub(crate) fn compile(device: &dyn Device, case: &Case) -> Box<dyn Kernel> {
    let kernel = device.compile(&case.program, &case.weights);
    kernel.unwrap_or_else(|e| panic!("{}: {}: {e}", device.name(), case.name))
}

fn computes_the_programs_function(kernel: &mut dyn Kernel, case: &Case) {
    let [inputs, outputs] = case.types();
    assert_eq!((&kernel.signature().inputs, &kernel.signature().outputs), (&inputs, &outputs), "{}", case.name);
    let expected: Vec<_> = (0..2).map(|seed| case.expected(&case.numbers(seed))).collect();
    assert!(expected[0] != expected[1], "{}: nothing to tell stale numbers by", case.name);
    // More sets of buffers than a device may keep requests for, then the first again, with its old numbers and
    // new.
    let mut sets: Vec<Buffers> = (0..6).map(|_| Buffers::of(kernel)).collect();
    for (i, set) in sets.iter_mut().enumerate() {
        set.write(&case.numbers(i % 2));
        assert_numbers(&set.run(kernel), &expected[i % 2], &format!("{}: set {i}", case.name));
    }
    assert_numbers(&sets[0].run(kernel), &expected[0], &format!("{}: again", case.name));
    sets[0].write(&case.numbers(1));
    assert_numbers(&sets[0].run(kernel), &expected[1], &format!("{}: rewritten", case.name));
    // One input alone is new, as when weights stay.
    let mut mixed = case.numbers(1);
    *mixed.last_mut().unwrap() = case.numbers(0).pop().unwrap();
    sets[0].inputs.last_mut().unwrap().write(mixed.last().unwrap()).unwrap();
    assert_numbers(&sets[0].run(kernel), &case.expected(&mixed), &format!("{}: mixed", case.name));
}

/// Runs a kernel with the buffers of another of the same program, which may lie otherwise.
pub(crate) fn takes_buffers_of_another_kernel(kernel: &mut dyn Kernel, other: &dyn Kernel, case: &Case) {
    let mut buffers = Buffers::of(other);
    buffers.write(&case.numbers(0));
    assert_numbers(&buffers.run(kernel), &case.expected(&case.numbers(0)), &case.name);
}

fn refuses_buffers_that_do_not_fit(kernel: &mut dyn Kernel, other: &dyn Kernel, case: &Case) {
    let [inputs, outputs] = case.types();
    let mut buffers = Buffers::of(kernel);
    let mut xs: Vec<&dyn Buffer> = buffers.inputs.iter().map(|b| &**b).collect();
    xs.pop();
    let mut ys: Vec<&mut dyn Buffer> = buffers.outputs.iter_mut().map(|b| &mut **b).collect();
    let e = kernel.run(&xs, &mut ys).unwrap_err();
    let counts = format!("takes {} inputs and {} outputs, got {}", inputs.len(), outputs.len(), xs.len());
    assert!(e.is_config() && e.to_string().contains(&counts), "{e:?}");

    let (x, mut y) = (other.input_buffer(0).unwrap(), other.output_buffer(0).unwrap());
    let mut xs: Vec<&dyn Buffer> = buffers.inputs.iter().map(|b| &**b).collect();
    xs[0] = &*x;
    let mut ys: Vec<&mut dyn Buffer> = buffers.outputs.iter_mut().map(|b| &mut **b).collect();
    let e = kernel.run(&xs, &mut ys).unwrap_err();
    assert!(
        e.is_config() && e.to_string().contains(&format!("`{}` holds fp16 [1, 2, 1, 64]", inputs[0].0)),
        "{e:?}"
    );
    let mut buffers = Buffers::of(kernel);
    let xs: Vec<&dyn Buffer> = buffers.inputs.iter().map(|b| &**b).collect();
    let mut ys: Vec<&mut dyn Buffer> = buffers.outputs.iter_mut().map(|b| &mut **b).collect();
    ys[0] = &mut *y;
    let e = kernel.run(&xs, &mut ys).unwrap_err();
    assert!(e.is_config() && e.to_string().contains(&format!("`{}` holds", outputs[0].0)), "{e:?}");

    assert!(kernel.input_buffer(inputs.len()).err().is_some_and(|e| e.is_config()));
    assert!(kernel.output_buffer(outputs.len()).err().is_some_and(|e| e.is_config()));
    let mut x = kernel.input_buffer(0).unwrap();
    let n = n_elements(x.ty());
    assert!(x.write(&vec![0.0; n + 1]).is_err_and(|e| e.is_config()));
    assert!(x.read(&mut vec![0.0; n - 1]).is_err_and(|e| e.is_config()));
}

fn counts_what_is_compiled_and_loaded(device: &dyn Device, case: &Case) {
    let before = device.usage();
    assert_eq!(before.n_live, 0);
    let (a, b) = (compile(device, case), compile(device, case));
    assert_eq!(device.usage().n_live, 2);
    drop(a);
    assert_eq!(device.usage().n_live, 1);
    drop(b);
    assert_eq!((device.usage().n_compiles, device.usage().n_live), (before.n_compiles + 2, 0));
}

fn compiles_and_runs_side_by_side(device: &dyn Device, case: &Case) {
    let expected = case.expected(&case.numbers(0));
    let work = || {
        for _ in 0..2 {
            let mut kernel = compile(device, case);
            let mut buffers = Buffers::of(&*kernel);
            buffers.write(&case.numbers(0));
            assert_numbers(&buffers.run(&mut *kernel), &expected, &case.name);
        }
    };
    std::thread::scope(|s| (0..4).for_each(|_| drop(s.spawn(work))));
    assert_eq!(device.usage().n_live, 0);
}

/// Compiles until either budget is spent, which must be after so many.
pub(crate) fn keeps_budgets(device: &dyn Device, case: &Case, max_compiles: usize, max_live: usize) {
    let mut kept = Vec::new();
    let refused = loop {
        assert!(kept.len() <= max_compiles.min(max_live), "more than the budget");
        match device.compile(&case.program, &case.weights) {
            Ok(kernel) => kept.push(kernel),
            Err(e) => break e,
        }
        assert_eq!((device.usage().n_compiles, device.usage().n_live), (kept.len(), kept.len()));
    };
    assert_eq!(kept.len(), max_compiles.min(max_live));
    let rule = if max_live < max_compiles { "live-programs" } else { "compile-budget" };
    assert!(refused.is_budget() && refused.to_string().contains(rule), "{refused:?}");
    // What is unloaded gives its place back, and its compile never.
    kept.clear();
    assert_eq!(device.usage().n_live, 0);
    for _ in max_live..max_compiles {
        drop(compile(device, case));
    }
    let refused = device.compile(&case.program, &case.weights).err().expect("all compiles are spent");
    assert!(refused.is_budget() && refused.to_string().contains("compile-budget"), "{refused:?}");
    assert_eq!((device.usage().n_compiles, device.usage().n_live), (max_compiles, 0));
}
