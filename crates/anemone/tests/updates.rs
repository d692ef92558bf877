//! From gradients to updates: loss scales, clipping, accumulation, schedules, validation, and all of it across
//! resumed runs.

mod support;

use anemone::checkpoint::Checkpoint;
use anemone::config::{
    Config, DynamicScale, LossScale, ModelConfig, NonFinite, ScheduleConfig, ScheduleKind, Strategy,
};
use anemone::data::{Data, Part};
use anemone::mil::ir::{DType, TensorType};
use anemone::nn::Lora;
use anemone::random::Random;
use anemone::train::{Evaluator, Event, StepReport};
use anemone::weights_file::NamedTensor;
use anemone::{Report, Result, Trainer};
use std::sync::{Arc, Mutex};
use support::{open, small};

const OPERAND: (Strategy, bool) = (Strategy::Operand, false);

/// Noise, another for each batch, whose targets are sums of neighbours: 8 channels to 6, as [`small`] has them.
#[derive(Clone)]
struct Noise {
    rows: usize,
    /// What targets are multiplied by.
    scale: f32,
    n_validation: u64,
    /// The batches asked for.
    asked: Arc<Mutex<Vec<(Part, u64)>>>,
}

impl Noise {
    fn new() -> Noise {
        Noise { rows: 4, scale: 1.0, n_validation: 5, asked: Arc::default() }
    }

    /// The input channels of a row; rows of the training part are numbered through all batches.
    fn row(part: Part, row: u64) -> Vec<f32> {
        let mut random = Random::new(row * 2 + u64::from(part == Part::Validation));
        (0..8).map(|_| (random.uniform() * 2.0 - 1.0) as f32).collect()
    }
}

impl Data for Noise {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, 8, 1, self.rows])
    }

    fn target(&self) -> TensorType {
        TensorType::new(DType::Fp32, &[1, 6, 1, self.rows])
    }

    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        self.asked.lock().unwrap().push((part, index));
        for t in 0..self.rows {
            let x = Noise::row(part, index * self.rows as u64 + t as u64);
            for c in 0..8 {
                input[c * self.rows + t] = x[c];
            }
            for c in 0..6 {
                target[c * self.rows + t] = self.scale * (x[c] + 0.5 * x[c + 2]);
            }
        }
        Ok(())
    }

    fn n_validation_batches(&self) -> u64 {
        self.n_validation
    }
}

fn trainer(config: &Config, data: &Noise) -> Trainer {
    let model = config.model.model(data).unwrap();
    Trainer::with_model(config, &*model, Box::new(data.clone()), open(config)).unwrap()
}

struct Run {
    steps: Vec<StepReport>,
    weights: Vec<NamedTensor>,
    report: Report,
    last: Checkpoint,
}

/// Trains to the end, with a new process wherever `cut` says so of the steps done.
fn run(config: &Config, data: &Noise, cut: impl Fn(u64) -> bool) -> Run {
    let mut steps = Vec::new();
    let mut now = trainer(config, data);
    loop {
        match now.step().unwrap() {
            Event::Step(step) => steps.push(step),
            Event::Restart(why) => panic!("{why}"),
            Event::Finished => break,
        }
        if now.at_boundary() && cut(now.n_steps()) {
            let checkpoint = through_a_file(&now.checkpoint().unwrap());
            now = trainer(config, data);
            now.resume(checkpoint.clone()).unwrap();
        }
    }
    let last = now.checkpoint().unwrap();
    Run { steps, weights: now.weights(), report: now.report().unwrap(), last }
}

fn through_a_file(checkpoint: &Checkpoint) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    checkpoint.save(&path).unwrap();
    Checkpoint::load(&path).unwrap()
}

/// A step's line in the metrics, without what a clock and a new process change. In JSON, no number that is not
/// finite differs from itself.
fn timeless(step: &StepReport) -> String {
    let step = StepReport {
        time_us: 0,
        device_us: 0.0,
        copy_us: 0.0,
        host_us: 0.0,
        compile_wait_us: 0.0,
        compiles: 0,
        compiled: Vec::new(),
        eval_us: step.eval_us.map(|_| 0.0),
        ..step.clone()
    };
    serde_json::to_string(&step).unwrap()
}

const OPTIMIZERS: [(&str, f32); 4] = [
    ("kind = \"sgd\"\nweight_decay = 0.01", 0.5),
    ("kind = \"sgd\"\nmomentum = 0.9\nnesterov = true", 0.1),
    ("kind = \"adamw\"\nweight_decay = 0.01", 0.05),
    ("kind = \"muon\"\nadamw = [\"fc2\"]\nadamw_lr = 1.0", 0.05),
];

/// Everything that has a memory at once: optimizers, a loss scale that goes up and down, a schedule, the best so
/// far.
#[test]
fn a_run_resumed_after_every_update_is_the_undisturbed_one_bit_for_bit() {
    for (optimizer, lr) in OPTIMIZERS {
        for strategy in [OPERAND, (Strategy::Baked, false)] {
            let mut config = small(60, strategy);
            config.optimizer = toml::from_str(optimizer).unwrap();
            config.train.lr = lr;
            config.train.clip = 0.5;
            // Too large at first, and again whenever it has been doubled.
            let scale = DynamicScale { start: 16_777_216.0, double_after: 4, ..DynamicScale::default() };
            config.train.loss_scale = LossScale::Dynamic(scale);
            config.train.schedule =
                ScheduleConfig { kind: ScheduleKind::Cosine, warmup: 12, floor: 0.1, steps: 0 };
            config.eval.every = 7;
            let data = Noise::new();
            let whole = run(&config, &data, |_| false);
            let cut = run(&config, &data, |_| true);
            let what = format!("{optimizer} {strategy:?}");
            assert_eq!((whole.steps.len(), cut.steps.len()), (60, 60), "{what}");
            for (whole, cut) in whole.steps.iter().zip(&cut.steps) {
                assert_eq!(timeless(whole), timeless(cut), "{what}");
            }
            assert!(whole.last.tensors == cut.last.tensors, "{what}");
            for key in ["step", "update", "precision", "best", "last_loss"] {
                assert!(whole.last.state[key] == cut.last.state[key] && !cut.last.state[key].is_null(), "{key}");
            }
            assert_eq!(cut.report.stats.resumed_at.len(), 20, "{what}");
            // What was to be remembered was there.
            let r = &whole.report;
            assert!(r.stats.n_skipped > 2 && r.updates > 8 && r.updates + r.stats.n_skipped == 20, "{what}: {r}");
            let grown = whole.steps.windows(2).any(|s| s[1].loss_scale > s[0].loss_scale);
            assert!(grown && whole.steps[59].lr < 0.2 * config.train.lr, "{what}");
            let first = whole.steps.iter().find_map(|s| s.validation.clone()).unwrap();
            let last = whole.report.validation.unwrap();
            assert!(last.loss < 0.95 * first.loss, "{what}: {} to {}", first.loss, last.loss);
        }
    }
}

/// With adapters, the parameters they stand beside are frozen.
#[test]
fn frozen_parameters_stay_and_have_no_place_in_the_optimizer() {
    for accumulate in [1, 3] {
        let mut config = small(30, OPERAND);
        let ModelConfig::Mlp(mlp) = &mut config.model else { panic!("expected an MLP") };
        mlp.lora = Some(Lora { rank: 2, ..Lora::default() });
        config.optimizer = toml::from_str("kind = \"adamw\"\nweight_decay = 0.1").unwrap();
        (config.train.lr, config.train.accumulate) = (0.02, accumulate);
        // The gradient of the input, which comes after the others, is nobody's.
        config.train.input_gradient = true;
        let data = Noise::new();
        let before = trainer(&config, &data).weights();
        let found = run(&config, &data, |_| false);
        let is_adapter = |name: &str| name.contains("lora");
        for (before, after) in before.iter().zip(&found.weights) {
            assert_eq!(before.data != after.data, is_adapter(&after.name), "{}", after.name);
        }
        assert_eq!(found.weights.iter().filter(|t| is_adapter(&t.name)).count(), 4);
        let state: Vec<&str> = found.last.tensors[before.len()..].iter().map(|t| t.name.as_str()).collect();
        assert!(state.len() == 8 && state.iter().all(|name| is_adapter(name)), "{state:?}");
        assert!(run(&config, &data, |step| step == 15).last.tensors == found.last.tensors);
    }
}

#[test]
fn every_step_asks_for_the_next_batch_and_an_update_that_failed_for_the_same_again() {
    let mut config = small(9, OPERAND);
    config.eval.every = 0;
    config.train.loss_scale = 1e12.into();
    let data = Noise { n_validation: 0, ..Noise::new() };
    let mut failing = trainer(&config, &data);
    assert!((0..3).map(|_| failing.step()).any(|step| step.is_err()));
    let state = failing.checkpoint().unwrap().state;
    assert!(state["last_loss"].is_null() && state["step"] == 0, "nothing of that update: {state}");
    assert!(failing.step().is_ok());
    assert_eq!(*data.asked.lock().unwrap(), [0, 1, 2, 0].map(|i| (Part::Train, i)));
    config.train.loss_scale = 1.0.into();
    let data = Noise { n_validation: 0, ..Noise::new() };
    let mut trained = trainer(&config, &data);
    while let Event::Step(_) = trained.step().unwrap() {}
    assert_eq!(*data.asked.lock().unwrap(), (0..9).map(|i| (Part::Train, i)).collect::<Vec<_>>());
}

#[test]
fn as_many_small_batches_are_one_large_batch() {
    let train = |accumulate: u64, rows: usize| {
        let mut config = small(12 * accumulate, OPERAND);
        config.train.accumulate = accumulate;
        run(&config, &Noise { rows, ..Noise::new() }, |_| false)
    };
    let (parts, large) = (train(6, 4), train(1, 24));
    assert_eq!((parts.report.updates, large.report.updates), (12, 12));
    let none = run(&small(0, OPERAND), &Noise::new(), |_| false);
    let distance = |a: &Run, b: &Run| -> f64 {
        let pairs = a.weights.iter().zip(&b.weights).flat_map(|(a, b)| a.data.iter().zip(&b.data));
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    // fp16 rounds by up to 2^-11 of a number, and the gradients of a mean over 24 rows otherwise than those of 6
    // means over 4.
    let (apart, moved) = (distance(&parts, &large), distance(&large, &none));
    assert!(apart < moved / 2048.0, "{apart} apart after {moved}");
    for (update, step) in large.steps.iter().enumerate() {
        let losses = &parts.steps[6 * update..][..6];
        let mean = losses.iter().map(|s| s.loss).sum::<f32>() / 6.0;
        assert!((mean / step.loss - 1.0).abs() < 1e-3, "{mean} and {}", step.loss);
        let (a, b) = (losses[5].gradient_norm.unwrap(), step.gradient_norm.unwrap());
        assert!((a / b - 1.0).abs() < 1e-3, "norms {a} and {b}");
        assert!(losses[..5].iter().all(|s| s.gradient_norm.is_none()));
    }
    let [before, after] = [none, large].map(|r| r.report.validation.unwrap().loss);
    assert!(after < 0.9 * before, "{before} to {after}");
}

/// The gradient of `fc1.weight` of a network whose targets are tiny, so that what flows back through the device
/// lies below the smallest number of fp16, 6e-8: as a step of plain descent at the learning rate 1 shows it.
fn first_layer_step(loss_scale: LossScale) -> Vec<f32> {
    let mut config = small(1, OPERAND);
    config.train.lr = 1.0;
    config.train.accumulate = 1;
    config.train.loss_scale = loss_scale;
    let mut trainer = trainer(&config, &Noise { scale: 1e-6, ..Noise::new() });
    let mut checkpoint = trainer.checkpoint().unwrap();
    for tensor in &mut checkpoint.tensors {
        // fc2 is 0.01 everywhere, but what reaches it is tiny: so is the prediction.
        let mut random = Random::new(3);
        let scale = if tensor.name == "fc1.weight" { 1e-4 } else { 0.0 };
        let base = if tensor.name == "fc2.weight" { 1e-2 } else { 0.0 };
        tensor.data.iter_mut().for_each(|x| *x = base + scale * (random.uniform() as f32 - 0.5));
    }
    trainer.resume(checkpoint.clone()).unwrap();
    let Event::Step(step) = trainer.step().unwrap() else { panic!("expected a step") };
    assert!(step.loss.is_finite() && !step.update_skipped);
    let name = |t: &&NamedTensor| t.name == "fc1.weight";
    let (before, after) = (checkpoint.tensors, trainer.weights());
    let (before, after) = (before.iter().find(name).unwrap(), after.iter().find(name).unwrap());
    before.data.iter().zip(&after.data).map(|(b, a)| b - a).collect()
}

#[test]
fn small_gradients_vanish_in_fp16_without_a_loss_scale_and_do_not_with_one() {
    assert!(first_layer_step(1.0.into()).iter().all(|&g| g == 0.0), "all 0 in fp16");
    let scaled = first_layer_step(LossScale::Dynamic(DynamicScale::default()));
    let more = first_layer_step((65536.0 * 16.0).into());
    let n = scaled.iter().filter(|&&g| g != 0.0).count();
    assert!(n > scaled.len() / 4, "{n} of {} are not 0", scaled.len());
    // They are gradients, not noise: a scale larger still, which rounds less, gives the same.
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let difference: Vec<f32> = scaled.iter().zip(&more).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) < 0.02 * norm(&more), "{} of {}", norm(&difference), norm(&more));
}

#[test]
fn a_dynamic_scale_that_is_too_large_comes_down_leaves_updates_out_and_says_so() {
    let mut config = small(60, OPERAND);
    config.train.loss_scale = LossScale::Dynamic(DynamicScale { start: 16_777_216.0, ..DynamicScale::default() });
    assert_eq!(config.train.non_finite, NonFinite::Auto);
    let found = run(&config, &Noise::new(), |_| false);
    let ends: Vec<&StepReport> = found.steps.iter().skip(2).step_by(3).collect();
    let n = ends.iter().take_while(|s| s.update_skipped).count();
    assert!(n > 3 && ends[n..].iter().all(|s| !s.update_skipped), "{n}");
    assert!(found.steps.iter().all(|s| !s.skipped), "the losses are finite");
    for (i, end) in ends.iter().enumerate() {
        assert_eq!(end.loss_scale, 16_777_216.0 / 2f32.powi(i.min(n) as i32));
        assert_eq!(end.gradient_norm.unwrap().is_finite(), i >= n);
    }
    let r = &found.report;
    assert_eq!((r.stats.n_skipped, r.updates, r.loss_scale), (n as u64, 20 - n as u64, ends[n].loss_scale));
    assert!(r.to_string().contains(&format!("{n} steps or updates left out: not finite")), "{r}");
    let line = serde_json::to_value(ends[0]).unwrap();
    assert_eq!((&line["update_skipped"], &line["loss_scale"]), (&true.into(), &16_777_216.0.into()));
    assert_ne!(found.weights, trainer(&config, &Noise::new()).weights());

    // An update that is left out makes no kernels stale, and none are compiled again.
    config.train.steps = 3 * (n as u64 + 1);
    let after_one = run(&config, &Noise::new(), |_| false);
    for overlap in [false, true] {
        (config.weights.strategy, config.weights.overlap) = (Strategy::Baked, overlap);
        let baked = run(&config, &Noise::new(), |_| false);
        assert_eq!(baked.report.updates, 1);
        assert_eq!(baked.weights, after_one.weights, "overlap: {overlap}");
        assert_eq!(baked.report.stats.n_compiles, baked.steps[0].compiles, "overlap: {overlap}");
    }
}

#[test]
fn too_many_updates_left_out_in_a_row_end_the_run_where_it_can_be_saved() {
    let mut config = small(60, OPERAND);
    config.train.loss_scale = 1e12.into();
    config.train.non_finite = NonFinite::Skip;
    config.train.max_skips = 5;
    let mut trainer = trainer(&config, &Noise::new());
    let e = loop {
        match trainer.step() {
            Ok(Event::Step(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(e) => break e,
        }
    };
    assert!(e.is_non_finite(), "{e:?}");
    for words in ["6 updates in a row", "loss scale of 1000000000000", "`train.max_skips`, 5"] {
        assert!(e.to_string().contains(words), "{e}");
    }
    assert!(trainer.at_boundary());
    assert_eq!(trainer.n_steps(), 15);
}

#[test]
fn a_gradient_longer_than_the_limit_is_shortened_to_it_and_a_shorter_one_stays() {
    let step = |clip: f32| {
        let mut config = small(3, OPERAND);
        (config.train.lr, config.train.clip) = (1.0, clip);
        let data = Noise::new();
        let before = trainer(&config, &data).weights();
        let found = run(&config, &data, |_| false);
        let differences = before.iter().zip(&found.weights).flat_map(|(b, a)| b.data.iter().zip(&a.data));
        let moved: Vec<f64> = differences.map(|(b, a)| f64::from(b - a)).collect();
        (found.steps[2].gradient_norm.unwrap(), moved)
    };
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (norm, free) = step(0.0);
    // The norm is the length of what plain descent at the learning rate 1 takes off.
    assert!((length(&free) / norm - 1.0).abs() < 1e-5, "{} and {norm}", length(&free));
    for factor in [1.05, 4.0] {
        let (unclipped_norm, clipped) = step((norm / factor) as f32);
        assert_eq!(unclipped_norm, norm);
        for (clipped, free) in clipped.iter().zip(&free) {
            assert!((factor * clipped - free).abs() < 1e-6, "{clipped} and {free}");
        }
    }
    assert_eq!(step((norm * 1.01) as f32).1, free);
}

#[test]
fn validation_is_at_its_intervals_on_its_own_data_and_the_best_is_kept() {
    let mut config = small(60, OPERAND);
    config.train.lr = 0.1;
    config.eval.every = 10;
    let data = Noise::new();
    let found = run(&config, &data, |_| false);
    // Updates end at every third step: the first at or after each multiple of 10.
    let at: Vec<u64> = found.steps.iter().filter(|s| s.validation.is_some()).map(|s| s.step + 1).collect();
    assert_eq!(at, [12, 21, 30, 42, 51, 60]);
    let asked: Vec<u64> =
        data.asked.lock().unwrap().iter().filter(|(part, _)| *part == Part::Validation).map(|(_, i)| *i).collect();
    assert_eq!(asked, (0..6).flat_map(|_| 0..5).collect::<Vec<_>>(), "all of the part, and not again at the end");

    let validations: Vec<_> = found.steps.iter().filter_map(|s| s.validation.as_ref()).collect();
    let mut lowest = f64::INFINITY;
    for v in &validations {
        assert_eq!(v.best, v.loss < lowest, "{v:?}");
        lowest = lowest.min(v.loss);
        assert_eq!((v.n_batches, v.n_targets, v.accuracy), (5, 5 * 24, None));
    }
    let best = found.report.best.as_ref().unwrap();
    assert_eq!(best.loss, lowest);
    assert_eq!(found.report.validation.as_ref(), validations.last().copied());
    let text = found.report.to_string();
    assert!(text.contains("validation ") && text.contains(&format!("after {} steps", best.step)), "{text}");

    // By itself, and by the formulas of the network in f64.
    let mut evaluator =
        Evaluator::with_model(&config, &*config.model.model(&data).unwrap(), Box::new(data.clone())).unwrap();
    assert_eq!(evaluator.part(), Part::Validation);
    assert_eq!(evaluator.run(&found.last.tensors).unwrap().loss, validations[5].loss);
    let exact = loss_in_f64(&found.weights, Part::Validation, 5 * 4);
    assert!((validations[5].loss / exact - 1.0).abs() < 1e-5, "{}, expected {exact}", validations[5].loss);

    let e = evaluator.run(&found.weights[1..]).unwrap_err();
    assert!(e.is_checkpoint() && e.to_string().contains("no `fc1.weight`"), "{e}");
    let mut other = found.weights.clone();
    other[0].shape.swap(0, 1);
    assert!(evaluator.run(&other).unwrap_err().to_string().contains("expected [12, 8, 1, 1]"));

    // At the end alone, early enough to be saved.
    config.eval.every = 0;
    let found = run(&config, &Noise::new(), |_| false);
    let at: Vec<u64> = found.steps.iter().filter(|s| s.validation.is_some()).map(|s| s.step + 1).collect();
    assert_eq!(at, [60]);
    assert_eq!(found.last.state["best"]["loss"].as_f64(), found.report.best.map(|best| best.loss));
}

/// The mean squared error of `W2 relu(W1 x + b1) + b2` over the rows of a part.
fn loss_in_f64(weights: &[NamedTensor], part: Part, n_rows: u64) -> f64 {
    let get = |name: &str| {
        let found = weights.iter().find(|t| t.name == name).unwrap();
        found.data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
    };
    let linear = |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
        let rows = w.chunks(x.len()).zip(b);
        rows.map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    };
    let mut sum = 0.0;
    for row in 0..n_rows {
        let x: Vec<f64> = Noise::row(part, row).into_iter().map(f64::from).collect();
        let h = linear(&x, &get("fc1.weight"), &get("fc1.bias"));
        let h: Vec<f64> = h.into_iter().map(|h| h.max(0.0)).collect();
        let y = linear(&h, &get("fc2.weight"), &get("fc2.bias"));
        sum += y.iter().enumerate().map(|(c, y)| (y - (x[c] + 0.5 * x[c + 2])).powi(2)).sum::<f64>();
    }
    sum / (6 * n_rows) as f64
}

#[test]
fn a_validation_that_must_be_short_is_spread_over_the_part_and_data_without_one_is_not_validated() {
    let mut config = small(3, OPERAND);
    (config.eval.every, config.eval.batches) = (1, 2);
    let data = Noise::new();
    let found = run(&config, &data, |_| false);
    let asked = data.asked.lock().unwrap().clone();
    assert!(asked.contains(&(Part::Validation, 0)) && asked.contains(&(Part::Validation, 2)), "{asked:?}");
    assert_eq!(found.report.validation.unwrap().n_batches, 2);
    let none = run(&config, &Noise { n_validation: 0, ..Noise::new() }, |_| false);
    assert_eq!((none.report.validation, none.report.best), (None, None));
    assert!(none.steps.iter().all(|s| s.validation.is_none()));
}
