//! The `tiny` preset against the recorded run of the field's first program (`ANEMONE_SHARED/oracle`).

use anemone::device::{self, SoftDevice};
use anemone::train::Event;
use anemone::{Config, Trainer};
use std::path::PathBuf;

fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ANEMONE_SHARED") {
        Some(shared) => Some(PathBuf::from(shared).join("oracle")),
        None => {
            eprintln!("skipped: ANEMONE_SHARED is not set, the recorded run is not here");
            None
        }
    }
}

/// Steps, losses and where the process would have been replaced.
fn run(config: &Config) -> (Vec<f32>, anemone::Report) {
    let open = || device::open(&config.device.options().unwrap()).unwrap();
    let mut trainer = Trainer::new(config, open()).unwrap();
    let mut losses = Vec::new();
    loop {
        match trainer.step().unwrap() {
            Event::Step(step) => losses.push(step.loss),
            Event::Finished => break,
            Event::Restart(_) => {
                let checkpoint = trainer.checkpoint().unwrap();
                // A new device stands for a new process: its budgets are fresh.
                trainer = Trainer::new(config, open()).unwrap();
                trainer.resume(&checkpoint).unwrap();
            }
        }
    }
    (losses, trainer.report().unwrap())
}

fn recorded(file: &str) -> Option<Vec<f32>> {
    let text = std::fs::read_to_string(oracle()?.join(file)).unwrap();
    let bits = |line: &str| f32::from_bits(u32::from_str_radix(line.split('\t').nth(2).unwrap(), 16).unwrap());
    Some(text.lines().map(bits).collect())
}

fn largest_deviation(found: &[f32], expected: &[f32], n: usize) -> f32 {
    found.iter().zip(expected).take(n).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f32::max)
}

#[test]
fn tiny_is_the_recorded_run() {
    let Some(expected) = recorded("loss_off.tsv") else { return };
    for chip in ["m4", "m1"] {
        let mut config = Config::preset("tiny").unwrap();
        config.device.chip = chip.into();
        let (losses, report) = run(&config);
        assert_eq!(losses.len(), 2000);
        let worst = largest_deviation(&losses, &expected, 200);
        assert!(worst < 1e-3, "{chip}: losses of steps 0-199 deviate by {worst}");
        println!("{chip}: deviation {worst:e}, last loss {:e}", losses[1999]);
        assert!((3e-5..2e-4).contains(&losses[1999]), "{chip}: final loss {}", losses[1999]);
        assert_eq!(report.stats.restarted_at, [480, 960, 1440, 1920], "{chip}");
        assert_eq!(report.stats.n_compiles, 420, "{chip}");
        assert_eq!(report.stats.n_io_fallbacks, u64::from(chip == "m1"));
    }
}

#[test]
fn recorded_surfaces_come_out_byte_for_byte() {
    let Some(oracle) = oracle() else { return };
    let folder = oracle.join("programs");
    let read = |name: String| std::fs::read(folder.join(name)).unwrap();
    let device = SoftDevice::new(anemone::mil::Chip::M4, Default::default());
    let index = std::fs::read_to_string(folder.join("index.tsv")).unwrap();
    for (i, line) in index.lines().take(8).enumerate() {
        let field = |name: &str| line.split('\t').find_map(|f| f.strip_prefix(name)).unwrap().to_string();
        let text = String::from_utf8(read(format!("mil_{}.txt", field("mil=")))).unwrap();
        let mut weights = anemone::mil::Weights::new();
        // The first two steps run the kernels of the first four blobs.
        weights.insert("@model_path/weights/weight.bin", read(format!("blob_{:04}.bin", i % 4))).unwrap();
        let mut kernel = device.compile_text(&text, &weights).unwrap();
        let floats =
            |bytes: Vec<u8>| -> Vec<f32> { bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect() };
        let input = floats(read(format!("eval_{i:04}_in{}.bin", field("in="))));
        let expected = floats(read(format!("eval_{i:04}_out{}.bin", field("out="))));
        let (mut x, mut y) = (kernel.input_buffer(0).unwrap(), kernel.output_buffer(0).unwrap());
        x.write(&input).unwrap();
        kernel.run(&[&*x], &mut [&mut *y]).unwrap();
        let mut found = vec![0.0; expected.len()];
        y.read(&mut found).unwrap();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&found) == bits(&expected), "evaluation {i} differs");
    }
}
