//! The software engine as a device: the suite of all devices, its faults, and what it refuses.

mod support;

use anemone::config::Strategy;
use anemone::device::{Device, Faults, Kernel, SoftDevice, Usage};
use anemone::mil::{Chip, Limits, ValidProgram, Weights};
use anemone::train::Event;
use anemone::{Config, Instructions, Result, Trainer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::suite;

fn soft(chip: Chip, faults: &str) -> SoftDevice {
    SoftDevice::new(chip, faults.parse::<Faults>().unwrap())
}

#[test]
fn the_device_suite() {
    for chip in [Chip::M3, Chip::M4, Chip::M5] {
        suite::run(&|| Box::new(soft(chip, "")), &suite::programs());
    }
}

/// The losses of some steps, bit by bit.
fn losses(config: &Config) -> Vec<u32> {
    let mut trainer = Trainer::new(config, Arc::new(soft(Chip::M4, ""))).unwrap();
    let mut losses = Vec::new();
    while let Event::Step(step) = trainer.step().unwrap() {
        losses.push(step.loss.to_bits());
    }
    losses
}

#[test]
fn results_are_the_same_with_all_instructions_of_this_cpu() {
    let here: Vec<Instructions> = Instructions::ALL.into_iter().filter(|i| i.are_here()).collect();
    assert!(here.contains(&Instructions::Portable));
    let runs = [("tiny", 30), ("digits", 5), ("digits-convnet", 2)].map(|(preset, steps)| {
        let mut config = Config::preset(preset).unwrap();
        config.train.steps = steps;
        config
    });
    anemone::set_instructions(Instructions::Portable).unwrap();
    let expected = runs.each_ref().map(losses);
    for &instructions in &here {
        anemone::set_instructions(instructions).unwrap();
        suite::run(&|| Box::new(soft(Chip::M4, "")), &suite::programs());
        let found = runs.each_ref().map(losses);
        let has_unit = match instructions {
            Instructions::Widest => here.contains(&Instructions::Amx),
            _ => instructions == Instructions::Amx,
        };
        if has_unit {
            // Its sums come in another order: the last bits differ, and the fp16 numbers that they decide.
            for (x, y) in found.iter().flatten().zip(expected.iter().flatten()) {
                let (x, y) = (f32::from_bits(*x), f32::from_bits(*y));
                assert!((x - y).abs() <= 1e-3 * y, "{instructions:?}: {x}, expected {y}");
            }
        } else {
            assert_eq!(found, expected, "{instructions:?}");
        }
    }
    anemone::set_instructions(Instructions::Widest).unwrap();
    if !Instructions::Neon.are_here() {
        assert!(anemone::set_instructions(Instructions::Neon).unwrap_err().is_config());
    }
}

#[test]
fn compiles_and_live_programs_are_counted_and_limited() {
    let device = soft(Chip::M4, "");
    let (max_compiles, max_live) = (device.limits().max_compiles(), device.limits().max_live_programs());
    suite::keeps_budgets(&device, &suite::two_outputs(2), max_compiles.unwrap(), max_live.unwrap());
}

#[test]
fn faults_come_out_as_device_errors_at_their_call() {
    let program = suite::two_outputs(2).program;
    for (faults, stage) in [("compile@2", "compile"), ("load@2", "load")] {
        let device = soft(Chip::M4, faults);
        let _first = device.compile(&program, &Weights::new()).unwrap();
        let e = device.compile(&program, &Weights::new()).err().unwrap();
        assert!(e.is_device() && e.to_string().contains(stage), "{e}");
        assert_eq!(device.usage().n_live, 1, "what failed to load holds no place");
    }
    let device = soft(Chip::M4, "evaluate@2");
    let mut kernel = device.compile(&program, &Weights::new()).unwrap();
    let x = kernel.input_buffer(0).unwrap();
    let (mut z, mut y) = (kernel.output_buffer(0).unwrap(), kernel.output_buffer(1).unwrap());
    let mut run = || kernel.run(&[&*x], &mut [&mut *z, &mut *y]);
    run().unwrap();
    assert!(run().unwrap_err().is_device());
    run().unwrap();
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

/// A device that tells what it uses: a joule more whenever it is asked.
struct Metered(SoftDevice, AtomicU32);

impl Device for Metered {
    fn name(&self) -> String {
        self.0.name()
    }

    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>> {
        self.0.compile(program, weights)
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn engine_energy_j(&self) -> Option<f64> {
        Some(self.1.fetch_add(1, Ordering::Relaxed).into())
    }
}

#[test]
fn energy_is_counted_over_processes_and_only_where_it_was_used() {
    let config = support::small(4, (Strategy::Operand, false));
    let metered = || Arc::new(Metered(soft(Chip::M4, ""), AtomicU32::new(5)));
    let mut trainer = Trainer::new(&config, metered()).unwrap();
    // The device is asked when the trainer is made, and for each report.
    assert_eq!(trainer.report().unwrap().stats.engine_energy_j, Some(1.0));
    let report = trainer.report().unwrap();
    assert_eq!(report.stats.engine_energy_j, Some(2.0));
    assert!(report.to_string().contains("Neural Engine's energy       2.000 J"), "{report}");
    let checkpoint = trainer.checkpoint().unwrap();

    let mut resumed = Trainer::new(&config, metered()).unwrap();
    resumed.resume(checkpoint.clone()).unwrap();
    assert_eq!(resumed.report().unwrap().stats.engine_energy_j, Some(4.0), "three before, and one");

    let mut elsewhere = Trainer::new(&config, Arc::new(soft(Chip::M4, ""))).unwrap();
    elsewhere.resume(checkpoint.clone()).unwrap();
    let report = elsewhere.report().unwrap();
    let json = serde_json::to_string(&report).unwrap();
    assert!(report.stats.engine_energy_j.is_none() && !json.contains("energy"), "{json}");
    assert!(!report.to_string().contains("Neural Engine"), "{report}");
}
