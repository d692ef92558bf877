//! Training in the engine's arithmetic against training in IEEE's.

mod support;

use anemone::Trainer;
use anemone::config::{Config, LossScale, Strategy};
use anemone::device::{self, Arithmetic, Device, Faults, Options, Select, SoftDevice};
use anemone::mil::Chip;
use anemone::train::Event;
use support::{Run, open, run, run_from, small, suite, tiny};

const OPERAND: (Strategy, bool) = (Strategy::Operand, false);

/// The preset `tiny` for 1000 steps; much later its learning rate makes the loss of any arithmetic rise for a
/// while.
fn run_tiny(arithmetic: Arithmetic, scale: f32) -> Run {
    let mut config = tiny(1000, OPERAND);
    config.device.arithmetic = arithmetic;
    config.train.loss_scale = LossScale::Fixed(scale);
    run(&config)
}

#[test]
fn tiny_loses_gradients_without_a_loss_scale_and_trains_with_one() {
    let ieee = run_tiny(Arithmetic::Ieee, 1.0);
    let bare = run_tiny(Arithmetic::Engine, 1.0);
    let scaled = run_tiny(Arithmetic::Engine, 1024.0);
    let at = |run: &Run, step: usize| run.steps[step].loss;
    // The first products of weights and gradients are below 2^-16: the loss stays where it began, while it falls
    // to a quarter otherwise.
    assert!(at(&bare, 150) > 0.99 * at(&bare, 0), "{}", at(&bare, 150));
    assert!(at(&ieee, 150) < 0.25 * at(&ieee, 0) && at(&scaled, 150) < 0.25 * at(&scaled, 0));
    // Later it gets going, and stalls: in the last 250 steps it falls by less than a twentieth.
    assert!(at(&bare, 999) > 0.95 * at(&bare, 749), "{} from {}", at(&bare, 999), at(&bare, 749));
    assert!(at(&bare, 999) > 3.0 * at(&ieee, 999), "{} of {}", at(&bare, 999), at(&ieee, 999));
    // With a loss scale it gets to the loss of IEEE's arithmetic, within a tenth.
    let factor = at(&scaled, 999) / at(&ieee, 999);
    assert!((0.9..1.1).contains(&factor), "{factor}");
}

#[test]
fn digits_are_told_apart_as_well_as_in_ieee() {
    let accuracy = |arithmetic| {
        let mut config = Config::preset("digits").unwrap();
        config.train.steps = 400;
        config.device.arithmetic = arithmetic;
        let run = run(&config);
        let losses = run.losses();
        (run.report.validation.unwrap().accuracy.unwrap(), losses[399])
    };
    let (ieee, engine) = (accuracy(Arithmetic::Ieee), accuracy(Arithmetic::Engine));
    assert!(engine.0 > ieee.0 - 0.01, "{engine:?}, {ieee:?}");
    assert!((engine.1 / ieee.1 - 1.0).abs() < 0.2, "{engine:?}, {ieee:?}");
}

#[test]
fn the_device_keeps_its_promises_in_this_arithmetic_too() {
    let open = || -> Box<dyn Device> {
        Box::new(SoftDevice::with_arithmetic(Chip::M4, Faults::default(), Arithmetic::Engine))
    };
    suite::run(&open, &suite::programs());
}

#[test]
fn runs_are_repeatable_and_resumed_ones_end_like_undisturbed_ones() {
    let mut config = small(60, OPERAND);
    config.device.arithmetic = Arithmetic::Engine;
    let undisturbed = run(&config);
    let resumed = run_from(&config, None, |t| t.n_steps() % 12 == 0).unwrap();
    assert!(resumed.report.stats.resumed_at.len() > 3);
    assert_eq!((resumed.loss_bits(), &resumed.weights), (undisturbed.loss_bits(), &undisturbed.weights));
    let baked = Config { weights: small(60, (Strategy::Baked, false)).weights, ..config.clone() };
    assert_eq!(run(&baked).loss_bits(), undisturbed.loss_bits(), "baked weights give the same");
    assert_ne!(run(&small(60, OPERAND)).loss_bits(), undisturbed.loss_bits(), "IEEE's arithmetic does not");
}

#[test]
fn a_checkpoint_of_one_arithmetic_is_refused_by_the_other() {
    let config = small(6, OPERAND);
    let mut trainer = Trainer::new(&config, open(&config)).unwrap();
    while let Event::Step(_) = trainer.step().unwrap() {}
    let checkpoint = trainer.checkpoint().unwrap();
    let mut other = config.clone();
    other.device.arithmetic = Arithmetic::Engine;
    let refused = Trainer::new(&other, open(&other)).unwrap().resume(checkpoint.clone()).unwrap_err();
    assert!(refused.to_string().contains("arithmetic"), "{refused}");
    assert!(Trainer::new(&config, open(&config)).unwrap().resume(checkpoint.clone()).is_ok());
}

#[test]
fn the_arithmetic_that_runs_is_named_and_the_neural_engine_has_none_to_choose() {
    let of = |chip, arithmetic| SoftDevice::with_arithmetic(chip, Faults::default(), arithmetic);
    let m4 = of(Chip::M4, Arithmetic::Engine);
    assert_eq!(m4.name(), "software engine (m4, engine)");
    assert!(m4.arithmetic().contains("fixed-point"));
    assert!(of(Chip::M1, Arithmetic::Engine).arithmetic().contains("as measured on M4, not that of this chip"));
    assert_eq!(of(Chip::M1, Arithmetic::Ieee).arithmetic(), "fp16 with f32 accumulation, nearest even");
    let options = Options { select: Select::Ane, arithmetic: Arithmetic::Engine, ..Options::default() };
    let message = device::open(&options).err().unwrap().to_string();
    assert!(message.contains("arithmetic `engine`") && message.contains("--device soft"), "{message}");
}
