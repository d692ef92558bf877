//! Training on data from files, from the configuration to the weights.

mod support;

use anemone::config::{Config, DataConfig, ModelConfig, Strategy, TensorsConfig};
use anemone::models::Mlp;
use support::{run, run_from, small};

/// `z = 2 u - v / 2` at 50 points, of which 10 are held back; so small a batch that epochs end within batches.
fn plane(folder: &std::path::Path) -> Config {
    let path = folder.join("plane.csv");
    let row = |i: u32| {
        let (u, v) = (f64::from(i % 7) / 7.0 - 0.5, f64::from(i % 11) / 11.0 - 0.5);
        format!("{u},{},{v}\n", 2.0 * u - 0.5 * v)
    };
    std::fs::write(&path, (0..50).map(row).fold("u,z,v\n".to_string(), |text, row| text + &row)).unwrap();
    let mut config = small(300, (Strategy::Operand, false));
    config.model =
        ModelConfig::Mlp(Mlp { inputs: 2, hidden: Vec::new(), outputs: 1, bias: true, ..Mlp::default() });
    config.data = DataConfig::Tensors(TensorsConfig {
        inputs: path.to_str().unwrap().into(),
        target_column: Some("z".into()),
        validation: 0.2,
        batch: 7,
        ..TensorsConfig::default()
    });
    config
}

#[test]
fn a_plane_in_a_table_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(&plane(folder.path()));
    let weight = run.weights.iter().find(|tensor| tensor.name == "fc1.weight").unwrap();
    for (found, expected) in weight.data.iter().zip([2.0, -0.5]) {
        assert!((found - expected).abs() < 0.02, "{:?}", weight.data);
    }
    assert!(run.losses().last().is_some_and(|&loss| loss < 1e-5), "{:?}", run.losses().last());
}

#[test]
fn a_resumed_run_goes_on_at_the_next_batch() {
    let folder = tempfile::tempdir().unwrap();
    let config = plane(folder.path());
    let undisturbed = run(&config);
    let resumed = run_from(&config, None, |trainer| trainer.n_steps() % 33 == 0).unwrap();
    assert!(!resumed.report.stats.resumed_at.is_empty());
    assert_eq!(resumed.loss_bits(), undisturbed.loss_bits());
    assert_eq!(resumed.weights, undisturbed.weights);
}
