//! Data from configurations.

use super::*;
use crate::config::{Config, ModelConfig};
use crate::data::{Data, Part, Tokenizer, shakespeare};
use crate::models::Mlp;

fn parse(data: &str) -> Result<Config> {
    Config::from_toml(&format!("[data]\n{data}"))
}

/// A configuration of this data and a perceptron of these sizes.
fn with_mlp(data: DataConfig, inputs: usize, outputs: usize) -> Config {
    let model = ModelConfig::Mlp(Mlp { inputs, outputs, ..Mlp::default() });
    Config { data, model, ..Config::default() }
}

#[test]
fn every_kind_is_read_back_as_it_was_written() {
    for text in [
        "kind = \"digits\"",
        "kind = \"digits\"\nbatch = 64\nvalidation = 0\nsplit = \"tail\"\nseed = 3",
        "kind = \"tensors\"\ninputs = \"a.npz#x\"\ntargets = \"a.npz#y\"\nclasses = 10\nscale = 0.0625",
        "kind = \"tensors\"\ninputs = \"a.csv\"\ntarget_column = \"y\"\nheader = false\nstandardize = true",
        "kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nimage = [1, 28, 28]\nvalidation_inputs = \"u\"\nvalidation_targets = \"v\"",
        "kind = \"shakespeare\"\nlength = 32",
        "kind = \"text\"\npath = \"a.txt\"\ntokenizer = \"bytes\"",
        "kind = \"tokens\"\npath = \"a.bin\"\nformat = \"u16\"\nvocabulary = 32000\nvalidation_path = \"b.bin\"",
        "kind = \"tokens\"\npath = \"a.bin\"\nformat = \"llm.c\"",
    ] {
        let config = parse(text).unwrap();
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config, "{text}");
        let other = Config { data: DataConfig::Sine { rows: 3 }, ..config.clone() };
        assert_ne!(config.identity(), other.identity());
    }
}

#[test]
fn what_is_wrong_is_named_by_its_key() {
    for (text, named) in [
        ("kind = \"mnist\"", "mnist"),
        ("kind = \"digits\"\nrows = 3", "rows"),
        ("kind = \"digits\"\nbatch = 0", "`data.batch` is 0"),
        ("kind = \"digits\"\nvalidation = 1.0", "`data.validation` is 1"),
        ("kind = \"digits\"\nvalidation = nan", "`data.validation` is NaN"),
        ("kind = \"digits\"\nsplit = \"head\"", "head"),
        ("kind = \"shakespeare\"\nlength = 0", "`data.length` is 0"),
        ("kind = \"text\"", "`data.path` is not said"),
        ("kind = \"text\"\npath = \"a\"\ntokenizer = \"\"", "`data.tokenizer`"),
        ("kind = \"tokens\"\npath = \"a\"\nvocabulary = 0", "`data.vocabulary` is 0"),
        ("kind = \"tokens\"\npath = \"a\"\nformat = \"u8\"", "u8"),
        ("kind = \"tensors\"\ntargets = \"y\"", "`data.inputs` is not said"),
        ("kind = \"tensors\"\ninputs = \"x\"", "`data.targets` is not said"),
        ("kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\ntarget_column = \"z\"", "`data.targets` is said"),
        ("kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nvalidation_inputs = \"u\"", "validation_targets"),
        ("kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nvalidation_targets = \"u\"", "validation_targets"),
        ("kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nclasses = 0", "`data.classes` is 0"),
        ("kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nscale = 0", "`data.scale` is 0"),
        (
            "kind = \"tensors\"\ninputs = \"x\"\ntargets = \"y\"\nscale = 2\nstandardize = true",
            "`data.scale` is 2",
        ),
    ] {
        let e = parse(text).unwrap_err().to_string();
        assert!(e.contains(named), "{text}: {e}");
    }
}

#[test]
fn digits_suit_a_perceptron_of_their_size() {
    let digits = DataConfig::Digits(DigitsConfig::default());
    let mut data = with_mlp(digits.clone(), 64, 10).data().unwrap();
    assert_eq!(data.n_classes(), Some(10));
    assert_eq!(data.n_validation_batches(), 359u64.div_ceil(32));
    let (mut x, mut y) = (vec![0.0; 64 * 32], vec![0.0; 32]);
    data.batch(Part::Train, 0, &mut x, &mut y).unwrap();
    assert_eq!(x.iter().copied().fold(0.0, f32::max), 1.0);
    for (inputs, outputs, named) in
        [(32, 10, "`model.inputs` is 32, expected 64"), (64, 9, "`model.outputs` is 9, expected 10")]
    {
        let e = with_mlp(digits.clone(), inputs, outputs).data().err().unwrap().to_string();
        assert!(e.contains(named) && e.contains("`digits`"), "{e}");
    }
    let e = with_mlp(DataConfig::Shakespeare(ShakespeareConfig::default()), 64, 64).data().err().unwrap();
    assert!(e.to_string().contains("the model takes columns"), "{e}");
}

#[test]
fn the_seed_is_the_run_s_unless_it_is_said() {
    let first = |seed: Option<u64>, train: u64| {
        let mut config = with_mlp(DataConfig::Digits(DigitsConfig { seed, ..DigitsConfig::default() }), 64, 10);
        config.train.seed = train;
        let (mut x, mut y) = (vec![0.0; 64 * 32], vec![0.0; 32]);
        config.data().unwrap().batch(Part::Train, 0, &mut x, &mut y).unwrap();
        (x, y)
    };
    assert_eq!(first(Some(3), 0), first(None, 3));
    assert_ne!(first(Some(3), 0), first(None, 0));
}

#[test]
fn tensors_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let inputs = file("a.csv", "u,class,v\n1,0,2\n3,1,4\n5,1,6\n");
    let held = file("b.csv", "u,class,v\n7,0,8\n");
    let config = TensorsConfig {
        inputs: inputs.clone(),
        target_column: Some("class".into()),
        classes: Some(2),
        validation_inputs: Some(held),
        batch: 2,
        scale: 0.5,
        ..TensorsConfig::default()
    };
    let mut data = with_mlp(DataConfig::Tensors(config.clone()), 2, 2).data().unwrap();
    let (mut x, mut y) = (vec![0.0; 4], vec![0.0; 2]);
    data.batch(Part::Validation, 0, &mut x, &mut y).unwrap();
    assert_eq!((x, y), (vec![3.5, 0.0, 4.0, 0.0], vec![0.0, -1.0]));
    // Of two files; targets are numbers.
    let targets = file("y.csv", "1\n2\n3\n");
    let config = TensorsConfig { inputs: targets.clone(), targets: Some(targets), target_column: None, ..config };
    let config = TensorsConfig { header: false, classes: None, validation_inputs: None, ..config };
    let mut data = with_mlp(DataConfig::Tensors(config), 1, 1).data().unwrap();
    let (mut x, mut y) = (vec![0.0; 2], vec![0.0; 2]);
    data.batch(Part::Train, 0, &mut x, &mut y).unwrap();
    assert!(x.iter().zip(&y).all(|(x, y)| *x == y / 2.0), "{x:?} {y:?}");
    let none = TensorsConfig { inputs: "none.npy".into(), targets: Some("y".into()), ..TensorsConfig::default() };
    let e = with_mlp(DataConfig::Tensors(none), 1, 1).data().err().unwrap().to_string();
    assert!(e.contains("open `none.npy`"), "{e}");
}

#[test]
fn text_becomes_tokens_and_keeps_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (path, other) = (file("a.txt", b"abcabcabc"), file("b.txt", b"cab!"));
    let (latin1, json) = (file("latin1.txt", b"caf\xe9 au lait"), file("t.json", br#"{"kind":"bytes"}"#));
    let text = |path: &str, tokenizer: &str, validation: Option<&String>| TextConfig {
        path: path.into(),
        tokenizer: tokenizer.into(),
        validation_path: validation.cloned(),
        batch: 1,
        length: 4,
        validation: 0.0,
        seed: None,
    };
    for (config, vocabulary, n_batches) in [
        (text(&path, "characters", None), 3, 0),
        (text(&path, "characters", Some(&other)), 4, 1),
        (text(&path, "bytes", Some(&other)), 256, 1),
        (text(&path, &json, None), 256, 0),
        (text(&latin1, "bytes", None), 256, 0),
    ] {
        let mut data = config.data(0).unwrap();
        assert_eq!((data.n_classes(), data.n_validation_batches()), (Some(vocabulary), n_batches));
        assert_eq!(data.tokenizer().map(Tokenizer::n_tokens), Some(vocabulary));
        if n_batches == 1 {
            let (mut x, mut y) = ([0.0; 4], [0.0; 4]);
            data.batch(Part::Validation, 0, &mut x, &mut y).unwrap();
            let decoded =
                |t: &[f32]| data.tokenizer().unwrap().decode(&t.iter().map(|&t| t as u32).collect::<Vec<_>>());
            assert_eq!((decoded(&x[..3]).unwrap(), decoded(&y[..3]).unwrap()), ("cab".into(), "ab!".into()));
            assert_eq!(y[3], -1.0);
        }
    }
    for (config, named) in [
        (text(&latin1, "characters", None), "latin1.txt`"),
        (text(&path, "none.json", None), "none.json"),
        (text(&path, &path, None), "`data.tokenizer`"),
    ] {
        let e = config.data(0).err().unwrap().to_string();
        assert!(e.contains(named), "{named}: {e}");
    }
}

#[test]
fn shakespeare_is_split_as_usual() {
    let mut data = ShakespeareConfig::default().data(1337).unwrap();
    let (mut x, mut y) = (vec![0.0; 12 * 64], vec![0.0; 12 * 64]);
    data.batch(Part::Train, 0, &mut x, &mut y).unwrap();
    assert_eq!(x[1..64], y[..63]);
    let text = shakespeare().unwrap();
    let window: Vec<u32> = x[..64].iter().map(|&t| t as u32).collect();
    let window = data.tokenizer().unwrap().decode(&window).unwrap();
    assert!(text[..text.len() * 9 / 10].contains(&window), "{window}");
    assert_eq!(data.n_classes(), Some(63));
    let n_windows = (text.len() / 10 - 1).div_ceil(64) as u64;
    assert_eq!(data.n_validation_batches(), n_windows.div_ceil(12));
}
