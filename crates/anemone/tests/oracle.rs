//! The `tiny` preset against the recorded run of the field's first program (`ANEMONE_SHARED/oracle`).
#![allow(clippy::print_stdout, clippy::print_stderr)] // What is skipped, and how near a run came.

use anemone::checkpoint::Checkpoint;
use anemone::config::Strategy;
use anemone::device::{self, Device, Kernel, SoftDevice, Usage};
use anemone::mil::{Chip, Limits, ValidProgram, Weights, text};
use anemone::train::Event;
use anemone::{Config, Trainer};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

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
                trainer.resume(checkpoint.clone()).unwrap();
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

/// A software engine that writes down what it is asked to compile, in order: MIL text and weights file.
struct Recorder {
    engine: SoftDevice,
    compiles: Mutex<Vec<(String, Option<Vec<u8>>)>>,
}

impl Device for Recorder {
    fn name(&self) -> String {
        self.engine.name()
    }

    fn limits(&self) -> &Limits {
        self.engine.limits()
    }

    fn compile(&self, program: &ValidProgram, weights: &Weights) -> anemone::Result<Box<dyn Kernel>> {
        let blob = weights.get("@model_path/weights/weight.bin").map(|file| file.bytes().to_vec());
        self.compiles.lock().unwrap().push((text::print(program.program()), blob));
        self.engine.compile(program, weights)
    }

    fn usage(&self) -> Usage {
        self.engine.usage()
    }
}

/// Everything that the processes of a run compile.
fn compiles(config: &Config, chip: Chip) -> Vec<(String, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut checkpoint: Option<Checkpoint> = None;
    loop {
        let engine = SoftDevice::new(chip, Default::default());
        let device = Arc::new(Recorder { engine, compiles: Mutex::default() });
        let mut trainer = Trainer::new(config, device.clone()).unwrap();
        if let Some(checkpoint) = &checkpoint {
            trainer.resume(checkpoint.clone()).unwrap();
        }
        let event = loop {
            match trainer.step().unwrap() {
                Event::Step(_) => {}
                event => break event,
            }
        };
        all.append(&mut device.compiles.lock().unwrap());
        match event {
            Event::Restart(_) => checkpoint = Some(trainer.checkpoint().unwrap()),
            _ => return all,
        }
    }
}

/// The tokens of a MIL text: blanks between them mean nothing, inside strings they do.
fn tokens(mil: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    for (i, part) in mil.split('"').enumerate() {
        if i % 2 == 1 {
            tokens.push(format!("\"{part}\""));
            continue;
        }
        let mut in_word = false;
        for c in part.chars() {
            let is_word = c.is_ascii_alphanumeric() || "_.@".contains(c);
            match tokens.last_mut() {
                Some(word) if is_word && in_word => word.push(c),
                _ if !c.is_whitespace() => tokens.push(c.to_string()),
                _ => {}
            }
            in_word = is_word;
        }
    }
    tokens
}

#[test]
fn the_trainer_compiles_the_recorded_texts_and_weights_in_the_recorded_order() {
    let Some(oracle) = oracle() else { return };
    let index = std::fs::read_to_string(oracle.join("programs/index.tsv")).unwrap();
    let field = |line: &str, name: &str| {
        line.split('\t').find_map(|f| f.strip_prefix(name)).expect("a line has all fields").to_string()
    };
    // By the size of its input, each folder has one text.
    let text_of = |folder: &str, input: &str| {
        let (channels, rows) = input.split_once('x').unwrap();
        let declared = format!(", [1, {channels}, 1, {rows}]> x)");
        let mut texts = std::fs::read_dir(oracle.join(folder))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "txt"))
            .map(|p| std::fs::read_to_string(p).unwrap())
            .filter(|t| t.contains(&declared));
        let text = texts.next().unwrap();
        assert!(texts.next().is_none(), "two texts in {folder} have an input of {input}");
        text
    };
    for (chip, folder) in [(Chip::M4, "programs"), (Chip::M1, "programs_fp16_io")] {
        let found = compiles(&Config::preset("tiny").unwrap(), chip);
        assert_eq!((found.len(), index.lines().count()), (420, 420));
        for (i, (line, (mil, blob))) in index.lines().zip(&found).enumerate() {
            let expected = text_of(folder, &field(line, "in="));
            if chip == Chip::M4 {
                let named = oracle.join(format!("programs/mil_{}.txt", field(line, "mil=")));
                assert_eq!(std::fs::read_to_string(named).unwrap(), expected, "compile {i}");
            }
            assert_eq!(tokens(mil), tokens(&expected), "{chip:?}, compile {i}");
            let blob = blob.as_ref().unwrap();
            assert_eq!(blob.len().to_string(), field(line, "bloblen="), "{chip:?}, compile {i}");
            if i < 8 {
                let expected = std::fs::read(oracle.join(format!("programs/blob_{i:04}.bin"))).unwrap();
                assert!(*blob == expected, "{chip:?}, blob {i} differs");
            }
        }
    }
}

#[test]
fn weights_passed_in_are_compiled_once_and_follow_the_recorded_run() {
    let Some(expected) = recorded("loss_off.tsv") else { return };
    let mut config = Config::preset("tiny").unwrap();
    config.weights.strategy = Strategy::Operand;
    config.train.steps = 500;
    let found = compiles(&config, Chip::M4);
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|(mil, blob)| blob.is_none() && !mil.contains("BLOBFILE")));
    // The first batch: no update yet, so no overlap either.
    assert!(largest_deviation(&run(&config).0, &expected, 10) < 1e-6);
}
