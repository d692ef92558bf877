//! Training as a whole: strategies against each other, resumed runs against undisturbed ones, and edges.

mod support;

use anemone::checkpoint::Checkpoint;
use anemone::config::{Config, Io, ModelConfig, NonFinite, Strategy};
use anemone::data::{Data, Part, Sine};
use anemone::mil::ir::TensorType;
use anemone::models::Mlp;
use anemone::nn::Activation;
use anemone::random::Random;
use anemone::train::Event;
use anemone::{Result, Trainer};
use support::{Run, STRATEGIES, open, run, run_from, small, tiny};

const OPERAND: (Strategy, bool) = (Strategy::Operand, false);
const BAKED: (Strategy, bool) = (Strategy::Baked, false);
const OVERLAP: (Strategy, bool) = (Strategy::Baked, true);

/// The software engine sums a convolution's and a matrix product's terms in the order of the input channels, both
/// from the same weights rounded to fp16 once. So the two strategies differ in nothing that could show, bit for
/// bit.
#[test]
fn operand_and_baked_weights_give_the_same_bits() {
    let (operand, baked) = (run(&tiny(500, OPERAND)), run(&tiny(500, BAKED)));
    assert_eq!(operand.steps.len(), 500);
    assert_eq!(operand.loss_bits(), baked.loss_bits());
    assert_eq!(operand.weights, baked.weights);
    assert_eq!(operand.report.stats.n_compiles, 4);
    assert_eq!(operand.report.stats.restarted_at, [0; 0]);
    // 100 compiles are 25 sets of 4 programs, one set for each 10 steps.
    assert_eq!((baked.report.stats.n_compiles, &baked.report.stats.restarted_at[..]), (200, &[250][..]));
    assert!(operand.losses()[499] < 0.01 * operand.losses()[0]);
}

/// Cut at random boundaries, through files, into as many processes.
fn cut_at_random(config: &Config, seed: u64) -> (Run, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut random = Random::new(seed);
    let mut n_cuts = 0;
    let run = run_from(config, None, |trainer| {
        let cut = random.uniform() < 0.3;
        if cut {
            n_cuts += 1;
            trainer.checkpoint().unwrap().save(&path).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap().tensors, trainer.weights());
        }
        cut
    });
    (run.unwrap(), n_cuts)
}

#[test]
fn runs_resumed_at_random_boundaries_end_bit_for_bit_like_undisturbed_ones() {
    for strategy in [OPERAND, BAKED] {
        for activation in [Activation::Relu, Activation::Tanh] {
            let mut config = small(100, strategy);
            let ModelConfig::Mlp(mlp) = &mut config.model else { unreachable!() };
            mlp.activation = activation;
            let undisturbed = run(&config);
            for seed in 0..5 {
                let (resumed, n_cuts) = cut_at_random(&config, seed);
                assert!(n_cuts > 2, "{n_cuts} cuts");
                assert_eq!(resumed.loss_bits(), undisturbed.loss_bits(), "{strategy:?}, seed {seed}");
                assert_eq!(resumed.weights, undisturbed.weights, "{strategy:?}, seed {seed}");
                assert_eq!(resumed.report.stats.resumed_at.len() as u64, n_cuts);
            }
        }
    }
}

/// With overlap, a process begins with kernels of the newest weights, which an undisturbed run never has. So being
/// cut at a step is the same as a restart planned there, and not the same as none.
#[test]
fn with_overlap_a_run_cut_at_a_step_is_one_that_planned_its_restart_there() {
    let mut planned = tiny(100, OVERLAP);
    // The first 4 programs, and twice 4 in the background, each for 20 steps.
    planned.weights.compile_budget = 12;
    let planned = run(&planned);
    assert_eq!(planned.report.stats.restarted_at, [40, 80]);
    let config = tiny(100, OVERLAP);
    let cut = run_from(&config, None, |t| [40, 80].contains(&t.n_steps())).unwrap();
    assert_eq!(cut.loss_bits(), planned.loss_bits());
    assert_eq!(cut.weights, planned.weights);
    assert_ne!(run(&config).weights, planned.weights);
}

#[test]
fn a_checkpoint_written_by_each_strategy_carries_every_counter_on() {
    for strategy in STRATEGIES {
        let config = small(30, strategy);
        let cut = run_from(&config, None, |t| t.n_steps() == 12).unwrap();
        let r = &cut.report;
        assert_eq!((r.steps, r.updates, r.converged), (30, 10, false), "{strategy:?}");
        assert_eq!(r.stats.resumed_at, [12]);
        assert_eq!(cut.steps.iter().map(|s| s.step).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
        let compiles: Vec<u64> = cut.steps.iter().map(|s| s.compiles).collect();
        assert!(compiles.is_sorted(), "{compiles:?}");
        assert_eq!(r.stats.n_compiles, *compiles.last().unwrap());
        // 3 programs: two layers forward, one backward. Operand weights compile them once a process.
        let expected = match strategy {
            OPERAND => 3 * 2,
            BAKED => 3 * 10,
            // In each process once at first, then behind every second of its batches: 2 of 4, then 3 of 6.
            _ => 3 * (1 + 2) + 3 * (1 + 3),
        };
        assert_eq!(r.stats.n_compiles, expected, "{strategy:?}");
    }
}

#[test]
fn compiles_of_others_on_the_same_device_are_not_counted() {
    let config = small(6, OPERAND);
    let device = open(&config);
    for _ in 0..2 {
        let mut trainer = Trainer::new(&config, device.clone()).unwrap();
        while let Event::Step(_) = trainer.step().unwrap() {}
        assert_eq!(trainer.report().unwrap().stats.n_compiles, 3);
    }
}

#[test]
fn a_checkpoint_of_another_configuration_is_refused_and_the_trainer_is_as_before() {
    let config = small(12, OPERAND);
    let mut other = config.clone();
    other.train.lr = 0.25;
    let checkpoint = Trainer::new(&other, open(&other)).unwrap().checkpoint().unwrap();
    let mut trainer = Trainer::new(&config, open(&config)).unwrap();
    while trainer.n_steps() < 6 {
        trainer.step().unwrap();
    }
    let e = trainer.resume(checkpoint.clone()).unwrap_err();
    assert!(e.is_checkpoint() && e.to_string().contains("lr = 0.25"), "{e}");
    while let Event::Step(_) = trainer.step().unwrap() {}
    assert_eq!(trainer.weights(), run(&config).weights);
}

#[test]
fn fp32_inputs_that_are_refused_only_where_the_run_goes_on_are_reported() {
    let mut config = tiny(20, OPERAND);
    let mut trainer = Trainer::new(&config, open(&config)).unwrap();
    while trainer.n_steps() < 10 {
        trainer.step().unwrap();
    }
    assert!(!trainer.io_fell_back());
    let checkpoint = trainer.checkpoint().unwrap();
    config.device.chip = "m1".into();
    let resumed = run_from(&config, Some(checkpoint), |_| false).unwrap();
    assert_eq!((resumed.report.io, resumed.report.stats.n_io_fallbacks), (Io::Fp16, 1));
    assert_eq!(resumed.weights, run(&tiny(20, OPERAND)).weights, "the element type at the edge changes no number");
}

#[test]
fn every_shape_of_network_learns_and_all_strategies_agree() {
    for activation in [Activation::Relu, Activation::Tanh, Activation::Sigmoid, Activation::None] {
        for hidden in [vec![], vec![12], vec![12, 10, 9]] {
            for bias in [false, true] {
                let mut losses = Vec::new();
                for strategy in [OPERAND, BAKED] {
                    let mut config = small(90, strategy);
                    let ModelConfig::Mlp(mlp) = &mut config.model else { unreachable!() };
                    *mlp = Mlp { hidden: hidden.clone(), activation, bias, ..mlp.clone() };
                    losses.push(run(&config).losses());
                }
                let what = format!("{activation:?}, {hidden:?}, bias {bias}");
                assert_eq!(losses[0], losses[1], "{what}");
                assert!(losses[0][89] < 0.98 * losses[0][0], "{what}: {} to {}", losses[0][0], losses[0][89]);
            }
        }
    }
}

#[test]
fn a_last_batch_that_is_shorter_averages_over_its_own_steps() {
    for strategy in STRATEGIES {
        let mut config = small(25, strategy);
        config.train.accumulate = 10;
        let found = run(&config);
        assert_eq!((found.steps.len(), found.report.updates), (25, 3), "{strategy:?}");
    }
    // A batch that ends early is an update like that of a batch of this length.
    let (mut long, mut short) = (small(4, OPERAND), small(4, OPERAND));
    (long.train.accumulate, short.train.accumulate) = (10, 4);
    assert_eq!(run(&long).weights, run(&short).weights);
    assert_ne!(run(&long).weights, run(&small(0, OPERAND)).weights);
}

#[test]
fn no_step_and_one_step() {
    for strategy in STRATEGIES {
        let none = run(&small(0, strategy));
        assert_eq!((none.steps.len(), none.report.updates, none.report.stats.n_compiles), (0, 0, 0));
        assert_eq!(none.report.last_loss, None);
        assert!(none.report.evaluation.loss > 0.0);
        assert!(none.report.to_string().contains("Loss of the last step   none"));
        let one = run(&small(1, strategy));
        assert_eq!((one.steps.len(), one.report.updates, one.report.stats.n_compiles), (1, 1, 3));
        assert_eq!(one.report.last_loss, Some(one.steps[0].loss));
        assert_ne!(one.weights, none.weights);
        // The loss is that of the weights before the update: those the run without steps has evaluated.
        let (found, expected) = (one.steps[0].loss, none.report.evaluation.loss);
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} on the device, {expected} on the host");
        assert!(one.report.evaluation.loss < none.report.evaluation.loss);
    }
}

#[test]
fn a_run_ends_below_its_threshold() {
    let mut config = small(300, OPERAND);
    let all = run(&config);
    config.train.stop_below = all.steps[100].loss * 1.0001;
    let stopped = run(&config);
    let n = stopped.steps.len();
    assert!(stopped.report.converged && !all.report.converged && n < 300);
    // The loss is looked at when a batch ends.
    assert!(n.is_multiple_of(3) && stopped.steps[n - 1].loss < config.train.stop_below);
    assert!(stopped.steps[..n - 1].iter().skip(2).step_by(3).all(|s| s.loss >= config.train.stop_below));
}

#[test]
fn a_loss_scale_is_divided_out_again() {
    let plain = run(&tiny(200, OPERAND));
    let mut config = tiny(200, OPERAND);
    config.train.loss_scale = 1024.0.into();
    let scaled = run(&config);
    let deviation =
        |a: &Run, b: &Run| a.losses().iter().zip(b.losses()).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
    let found = deviation(&scaled, &plain);
    assert!(found < 2e-3, "{found}");
    assert_ne!(scaled.loss_bits(), plain.loss_bits(), "gradients in fp16 round less");
    // A power of two that pushes nothing out of fp16's range changes rounding alone; another lr would show.
    config.train.lr = 0.99;
    assert!(deviation(&run(&config), &plain) > 2e-3);
}

#[test]
fn numbers_that_are_not_finite_end_the_run_or_are_counted() {
    for strategy in STRATEGIES {
        let mut config = small(30, strategy);
        config.train.lr = 1e30;
        let mut trainer = Trainer::new(&config, open(&config)).unwrap();
        let e = loop {
            match trainer.step() {
                Ok(Event::Step(_)) => {}
                Ok(other) => panic!("{strategy:?}: {other:?}"),
                Err(e) => break e,
            }
        };
        assert!(e.is_non_finite() && e.to_string().contains("`train.lr`"), "{strategy:?}: {e:?}");

        config.train.non_finite = NonFinite::Skip;
        let skipped = run(&config);
        let n = skipped.steps.iter().filter(|s| s.skipped).count() as u64;
        assert_eq!(skipped.steps.len(), 30);
        assert!(n > 10 && skipped.report.stats.n_skipped >= n, "{strategy:?}: {n}");
        assert!(skipped.steps.iter().all(|s| s.skipped != s.loss.is_finite()));
        assert!(skipped.report.to_string().contains("left out: not finite"));
    }
}

/// The loss is finite, but not the gradients: scaled that high they do not fit into fp16.
#[test]
fn an_update_that_is_not_finite_changes_nothing() {
    for strategy in STRATEGIES {
        let mut config = small(12, strategy);
        config.train.loss_scale = 1e12.into();
        let initial = run(&small(0, strategy)).weights;
        let mut trainer = Trainer::new(&config, open(&config)).unwrap();
        let e = loop {
            match trainer.step() {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert!(e.is_non_finite() && e.to_string().contains("`train.loss_scale`"), "{strategy:?}: {e:?}");
        // What can be saved now is the state before the update that failed, not one that has left it out.
        assert!(trainer.at_boundary());
        assert_eq!((trainer.n_steps(), trainer.weights()), (0, initial.clone()));
        assert!(trainer.step().is_ok(), "the batch begins again");

        config.train.non_finite = NonFinite::Skip;
        let skipped = run(&config);
        assert_eq!((skipped.report.stats.n_skipped, skipped.weights), (4, initial), "{strategy:?}");
    }
}

/// A sine that is far too large for fp16 at every fifth step.
struct Gusts(Sine);

impl Data for Gusts {
    fn input(&self) -> TensorType {
        self.0.input()
    }

    fn target(&self) -> TensorType {
        self.0.target()
    }

    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        self.0.batch(part, index, input, target)?;
        if index % 5 == 3 {
            input.iter_mut().for_each(|x| *x *= 1e30);
        }
        Ok(())
    }
}

/// A sine whose third validation batch cannot be read until it is mended.
struct Broken {
    sine: Sine,
    is_mended: bool,
}

impl Data for Broken {
    fn input(&self) -> TensorType {
        self.sine.input()
    }

    fn target(&self) -> TensorType {
        self.sine.target()
    }

    fn n_validation_batches(&self) -> u64 {
        3
    }

    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        if part == Part::Validation && index == 2 && !self.is_mended {
            return Err(anemone::Error::config("this batch cannot be read"));
        }
        self.sine.batch(part, index, input, target)
    }
}

#[test]
fn a_validation_that_fails_stops_behind_its_step_and_one_looked_at_again_is_still_the_best() {
    let mut config = small(12, OPERAND);
    config.train.accumulate = 1;
    config.eval.every = 8;
    let trainer = |is_mended| {
        let data = Box::new(Broken { sine: Sine::new(8, 6, 16).unwrap(), is_mended });
        let model = config.model.model(&*data).unwrap();
        Trainer::with_model(&config, &*model, data, open(&config)).unwrap()
    };
    let mut broken = trainer(false);
    let mut steps = Vec::new();
    let e = loop {
        match broken.step() {
            Ok(Event::Step(step)) => steps.push(step.step),
            Ok(event) => panic!("{event:?}"),
            Err(e) => break e,
        }
    };
    assert!(e.to_string().contains("this batch cannot be read"), "{e}");
    assert_eq!((steps, broken.n_steps()), ((0..8).collect(), 8), "the step itself was done, and is told");

    let mut mended = trainer(true);
    mended.resume(broken.checkpoint().unwrap()).unwrap();
    let mut last = None;
    while let Event::Step(step) = mended.step().unwrap() {
        last = step.validation;
    }
    assert!(last.is_some_and(|v| v.best));
    let mut again = trainer(true);
    again.resume(mended.checkpoint().unwrap()).unwrap();
    assert!(again.report().unwrap().validation.is_some_and(|v| v.best));
}

/// An optimizer's memory of the updates it made must not grow by those left out, when it is saved as little as
/// when it is not.
#[test]
fn updates_left_out_are_not_counted_and_resume_bit_for_bit() {
    for optimizer in ["kind = \"sgd\"\nmomentum = 0.9", "kind = \"adamw\""] {
        let mut config = Config { optimizer: toml::from_str(optimizer).unwrap(), ..small(40, OPERAND) };
        config.train.accumulate = 1;
        config.train.lr = 0.01;
        config.train.non_finite = NonFinite::Skip;
        let train = |cuts: &[u64]| {
            let mut checkpoint: Option<Checkpoint> = None;
            for &until in cuts {
                let data = Box::new(Gusts(Sine::new(8, 6, 16).unwrap()));
                let model = config.model.model(&*data).unwrap();
                let mut trainer = Trainer::with_model(&config, &*model, data, open(&config)).unwrap();
                if let Some(checkpoint) = &checkpoint {
                    trainer.resume(checkpoint.clone()).unwrap();
                }
                while trainer.n_steps() < until {
                    trainer.step().unwrap();
                }
                let report = trainer.report().unwrap();
                let n_skipped = (0..until).filter(|i| i % 5 == 3).count() as u64;
                assert_eq!((report.updates, report.stats.n_skipped), (until - n_skipped, n_skipped));
                checkpoint = Some(trainer.checkpoint().unwrap());
            }
            checkpoint.unwrap().tensors
        };
        assert_eq!(train(&[10, 24, 40]), train(&[40]), "{optimizer}");
    }
}

#[test]
fn staleness_is_how_many_updates_the_kernels_are_behind() {
    let staleness = |strategy| run(&small(24, strategy)).steps.iter().map(|s| s.staleness).collect::<Vec<_>>();
    assert_eq!(staleness(OPERAND), [0; 24]);
    assert_eq!(staleness(BAKED), [0; 24]);
    // Each new set of kernels lacks the update made while it was compiled, and serves for two batches of 3 steps.
    let batches = [0, 1, 1, 2, 1, 2, 1, 2];
    assert_eq!(staleness(OVERLAP), batches.map(|b| [b; 3]).concat());
}

#[test]
fn updates_from_stale_kernels_are_scaled() {
    let run_with = |scale: f32| {
        let mut config = small(6, OVERLAP);
        config.weights.stale_scale = scale;
        run(&config).weights
    };
    let (full, half, none) = (run_with(1.0), run_with(0.5), run_with(0.0));
    let fresh = run(&small(3, OVERLAP)).weights;
    assert_eq!(none, fresh, "the second batch counts for nothing");
    for ((full, half), fresh) in full.iter().zip(&half).zip(&fresh) {
        for ((&full, &half), &fresh) in full.data.iter().zip(&half.data).zip(&fresh.data) {
            assert!(((full - fresh) - 2.0 * (half - fresh)).abs() < 1e-6, "{full} {half} {fresh}");
        }
    }
    assert_ne!(full, fresh);
}
