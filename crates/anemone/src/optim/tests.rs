//! Optimizers and schedules against figures of optax, and their state through tensors and back.

use super::*;
use crate::config::{ScheduleConfig, ScheduleKind, TrainConfig};
use crate::params::Init;
use serde_json::Value;
use std::collections::BTreeMap;

/// What `tests/fixtures/optimizers.py` calculated with optax in f64.
#[derive(Deserialize)]
struct Fixture {
    lr: f32,
    shapes: BTreeMap<String, Vec<usize>>,
    params: BTreeMap<String, Vec<f64>>,
    gradients: Vec<BTreeMap<String, Vec<f64>>>,
    optimizers: Vec<Case>,
    schedules: BTreeMap<ScheduleKind, Vec<f64>>,
}

#[derive(Deserialize)]
struct Case {
    config: Value,
    params: BTreeMap<String, Vec<f64>>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../tests/fixtures/optimizers.json")).unwrap()
}

fn f32s(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

impl Fixture {
    /// The parameters in the shapes that layers give them.
    fn specs(&self) -> Vec<ParamSpec> {
        let spec = |(name, shape): (&String, &Vec<usize>)| {
            let shape = match shape[..] {
                [n] => vec![1, n, 1, 1],
                [o, i] => vec![o, i, 1, 1],
                _ => panic!("{shape:?}"),
            };
            ParamSpec {
                decay: shape.iter().filter(|&&n| n > 1).count() > 1,
                ..ParamSpec::new(name, &shape, Init::Zeros)
            }
        };
        self.shapes.iter().map(spec).collect()
    }

    /// Makes the updates of that range, with gradients that are too large by a factor, which is said.
    fn train(&self, optimizer: &mut dyn Optimizer, params: &mut [Vec<f32>], updates: std::ops::Range<usize>) {
        for index in updates {
            let gradients: Vec<Vec<f32>> =
                self.gradients[index].values().map(|g| g.iter().map(|&g| g as f32 * 4.0).collect()).collect();
            let gradients: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
            let mut params: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
            optimizer.step(&mut params, &gradients, Update { index: index as u64, scale: 0.25, lr: self.lr });
        }
    }
}

#[test]
fn every_optimizer_goes_where_optax_goes_in_f64() {
    let fixture = fixture();
    let specs = fixture.specs();
    for case in &fixture.optimizers {
        let config: OptimizerConfig = serde_json::from_value(case.config.clone()).unwrap();
        let mut params: Vec<Vec<f32>> = fixture.params.values().map(|p| f32s(p)).collect();
        let mut optimizer = config.optimizer(&specs);
        fixture.train(&mut *optimizer, &mut params, 0..fixture.gradients.len());
        for (found, (name, expected)) in params.iter().zip(&case.params) {
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                // Numbers about 1, a few roundings in f32 each.
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 2e-6, "{config:?}: {name} {i} is {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn every_schedule_is_optax_s() {
    let fixture = fixture();
    assert_eq!(fixture.schedules.len(), 3);
    for (&kind, expected) in &fixture.schedules {
        let schedule = ScheduleConfig { kind, warmup: 5, floor: 0.1, steps: 0 };
        let train = TrainConfig { steps: 20, lr: fixture.lr, schedule, ..TrainConfig::default() };
        for (step, expected) in expected.iter().enumerate() {
            let found = f64::from(train.lr_at(step as u64));
            assert!((found / expected - 1.0).abs() < 1e-6, "{kind:?} {step}: {found}, expected {expected}");
        }
    }
}

#[test]
fn an_optimizer_restored_from_tensors_goes_on_bit_for_bit() {
    let fixture = fixture();
    let specs = fixture.specs();
    for case in &fixture.optimizers {
        let config: OptimizerConfig = serde_json::from_value(case.config.clone()).unwrap();
        let mut params: Vec<Vec<f32>> = fixture.params.values().map(|p| f32s(p)).collect();
        let mut whole = config.optimizer(&specs);
        fixture.train(&mut *whole, &mut params, 0..3);
        let tensors: Vec<NamedTensor> = to_tensors(&*whole, &specs).into_iter().map(NamedTensor::from).collect();
        let n_expected = match &config {
            OptimizerConfig::Sgd { momentum: 0.0, .. } => 0,
            OptimizerConfig::Sgd { .. } => 5,
            OptimizerConfig::AdamW { .. } => 10,
            // One list for the two hidden matrices, two for the rest.
            OptimizerConfig::Muon { .. } => 2 + 6,
        };
        assert_eq!(tensors.len(), n_expected, "{config:?}");
        let mut resumed = config.optimizer(&specs);
        restore(&mut *resumed, &mut tensors.clone(), &specs).unwrap();
        let mut other = params.clone();
        fixture.train(&mut *whole, &mut params, 3..6);
        fixture.train(&mut *resumed, &mut other, 3..6);
        assert_eq!(params, other, "{config:?}");
        if let Some((last, rest)) = tensors.split_last() {
            let e = restore(&mut *config.optimizer(&specs), &mut rest.to_vec(), &specs).unwrap_err();
            assert!(e.is_checkpoint() && e.to_string().contains(&last.name), "{e}");
        }
    }
}

#[test]
fn weight_decay_is_for_the_parameters_that_the_model_says() {
    let spec = |shape: &[usize], decay| ParamSpec { decay, ..ParamSpec::new("w", shape, Init::Zeros) };
    // A matrix, which Muon moves, and a vector, which it leaves to AdamW, each with decay and without.
    let specs = [(&[4, 3, 1, 1], true), (&[4, 3, 1, 1], false), (&[1, 4, 1, 1], true), (&[1, 4, 1, 1], false)]
        .map(|(shape, decay)| spec(shape, decay));
    for kind in ["sgd", "adamw", "muon"] {
        let config: OptimizerConfig = toml::from_str(&format!("kind = \"{kind}\"\nweight_decay = 0.5")).unwrap();
        let mut params: Vec<Vec<f32>> = specs.iter().map(|s| vec![1.0; s.n_elements()]).collect();
        let gradients: Vec<Vec<f32>> = specs.iter().map(|s| vec![0.0; s.n_elements()]).collect();
        let gradients: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
        let mut moved: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
        config.optimizer(&specs).step(&mut moved, &gradients, Update { index: 0, scale: 1.0, lr: 0.1 });
        let shrunk: Vec<bool> = params.iter().map(|p| p.iter().all(|&p| p < 1.0)).collect();
        assert_eq!(shrunk, [true, false, true, false], "{kind}");
    }
}

#[test]
fn muon_takes_singular_values_near_one_and_a_gradient_of_zero_to_no_step() {
    let specs = [ParamSpec::new("fc1.weight", &[2, 2, 1, 1], Init::Zeros)];
    let config: OptimizerConfig = toml::from_str("kind = \"muon\"").unwrap();
    let direction = |g: [f32; 4]| {
        let mut p = vec![0.0; 4];
        config.optimizer(&specs).step(&mut [&mut p], &[&g], Update { index: 0, scale: 1.0, lr: 1.0 });
        p
    };
    assert_eq!(direction([0.0; 4]), [0.0; 4]);
    // Diagonal: the values are seen.
    let p = direction([300.0, 0.0, 0.0, -5.0]);
    assert!((0.6..1.3).contains(&-p[0]) && (0.6..1.3).contains(&p[3]) && p[1] == 0.0 && p[2] == 0.0, "{p:?}");
}

#[test]
fn the_sum_of_squares_shows_every_number_that_is_not_finite_and_no_other() {
    for n in [0, 1, 15, 16, 17, 40] {
        let x = vec![f32::MAX; n];
        let expected = n as f64 * f64::from(f32::MAX).powi(2);
        assert!((sum_of_squares(&x) - expected).abs() <= 1e-12 * expected, "{n}");
        for i in 0..n {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = x.clone();
                x[i] = bad;
                assert!(!sum_of_squares(&x).is_finite(), "{n} {i}");
            }
        }
    }
}
