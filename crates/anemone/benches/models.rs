//! Steps of the presets with data, and of a transformer of 12 layers 768 wide: steps a second, and where the time
//! goes.
//!
//! `cargo bench --bench models`; with names after `--`, those alone. Each model is warmed up, then timed for some
//! seconds.
#![allow(clippy::print_stdout)] // It prints a table.

use anemone::train::Event;
use anemone::{Config, Trainer, device};
use std::time::{Duration, Instant};

/// The transformer of the "Stories 110M" checkpoints: on a short run of characters, a batch of one.
const LLAMA: &str = r#"
[model]
kind = "llama"
vocabulary = 32000
n_layers = 12
n_heads = 12
n_kv_heads = 12
width = 768
hidden = 2048

[data]
kind = "shakespeare"
length = 64
batch = 1

[train]
lr = 1e-4
loss_scale = "dynamic"

[optimizer]
kind = "adamw"
"#;

const WARM_UP: u64 = 3;
const TIMED: Duration = Duration::from_secs(5);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let preset = |name| Config::preset(name).expect("the preset is there");
    let models = [
        ("digits", preset("digits")),
        ("digits-convnet", preset("digits-convnet")),
        ("shakespeare", preset("shakespeare")),
        ("llama-12x768", Config::from_toml(LLAMA).expect("a valid configuration")),
    ];
    println!("{:<16}{:>12}{:>12}   share of", "", "steps/s", "ms a step");
    println!(
        "{:<16}{:>12}{:>12}{:>10}{:>10}{:>12}{:>10}",
        "", "(median)", "(median)", "device", "copies", "gradients", "rest"
    );
    for (name, config) in models {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            bench(name, config);
        }
    }
}

/// Trains for a while and prints the model's row.
fn bench(name: &str, mut config: Config) {
    config.train.steps = u64::MAX;
    config.train.schedule = Default::default();
    config.eval.every = 0;
    let device = device::open(&config.device.options().expect("valid options")).expect("there is a device");
    let mut trainer = Trainer::new(&config, device).expect("a valid configuration");
    let mut step = || match trainer.step() {
        Ok(Event::Step(_)) => {}
        other => panic!("expected a step, got {other:?}"),
    };
    (0..WARM_UP).for_each(|_| step());
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIMED || times.len() < 3 {
        let start = Instant::now();
        step();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let stats = trainer.stats();
    let all = stats.device_s + stats.host_s;
    let shown = stats.gradients_s - stats.gradients_hidden_s;
    let shares = [stats.device_s - stats.copy_s, stats.copy_s, shown, stats.host_s - shown];
    let [device, copies, gradients, rest] = shares.map(|s| 100.0 * s / all);
    println!(
        "{name:<16}{:>12.1}{:>12.2}{device:>8.0} %{copies:>8.0} %{gradients:>10.0} %{rest:>8.0} %",
        1.0 / median,
        1e3 * median
    );
}
