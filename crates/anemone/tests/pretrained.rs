//! Models from elsewhere give the logits that they give there, and what is written for elsewhere is read there.

use anemone::config::{Config, DataConfig, DeviceConfig, ModelConfig, TextConfig};
use anemone::device::Select;
use anemone::generate::Generator;
use anemone::nn::Lora;
use anemone::pretrained::{Pretrained, load_weights};
use anemone::train::Event;
use anemone::weights_file::{NamedTensor, load_safetensors, save_safetensors};
use anemone::{Trainer, device};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The logits of what follows each of the tokens, one after the other.
fn logits(model: &Pretrained, tokens: &Value) -> Vec<Vec<f64>> {
    let tokens: Vec<u32> = serde_json::from_value(tokens.clone()).unwrap();
    let mut generator = Generator::new(&*model.decoder().unwrap(), &model.weights, tokens.len()).unwrap();
    let mut feed = |&token: &u32| generator.feed(token).unwrap().iter().map(|&x| f64::from(x)).collect();
    tokens.iter().map(&mut feed).collect()
}

/// The largest difference of logits, which must be of as many tokens and classes.
fn difference(found: &[Vec<f64>], expected: &Value) -> f64 {
    let expected: Vec<Vec<f64>> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(&expected).flat_map(|(f, e)| {
        assert_eq!(f.len(), e.len());
        f.iter().zip(e)
    });
    pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f64::max)
}

/// A folder with a copy of a fixture of Hugging Face's.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("hugging_face").join(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn models_of_hugging_face_s_give_their_logits() {
    for name in ["gpt2", "llama"] {
        let folder = fixture("hugging_face").join(name);
        let model = Pretrained::open(&folder).unwrap();
        let expected = read_json(&folder.join("logits.json"));
        let found = difference(&logits(&model, &expected["tokens"]), &expected["logits"]);
        assert!(found < 1e-5, "{name}: {found}");
    }
}

#[test]
fn models_of_llama2_c_give_their_logits() {
    let expected = read_json(&fixture("llama2c/logits.json"));
    for name in ["shared", "unshared"] {
        let model = Pretrained::open(&fixture("llama2c").join(format!("{name}.bin"))).unwrap();
        let ModelConfig::Llama(llama) = &model.model else { panic!("{:?}", model.model) };
        assert_eq!((llama.tied, llama.vocabulary, llama.context), (name == "shared", 17, 12));
        let found = difference(&logits(&model, &expected["tokens"]), &expected[name]);
        assert!(found < 1e-5, "{name}: {found}");
    }
}

#[test]
fn what_is_written_is_what_was_read() {
    for name in ["gpt2", "llama"] {
        let original = fixture("hugging_face").join(name);
        let mut model = Pretrained::open(&original).unwrap();
        model.tokenizer = Some(anemone::data::Tokenizer::bytes().to_json().unwrap());
        let folder = tempfile::tempdir().unwrap();
        model.to_hugging_face(folder.path()).unwrap();
        let sorted = |path: &Path| {
            let mut tensors = load_safetensors(&path.join("model.safetensors")).unwrap();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            tensors
        };
        assert_eq!(sorted(folder.path()), sorted(&original), "{name}");
        let again = Pretrained::open(folder.path()).unwrap();
        assert_eq!((&again.model, &again.weights), (&model.model, &model.weights), "{name}");
        assert_eq!(again.tokenizer, model.tokenizer, "{name}");
    }
}

/// `transformers` loads what is written here, with all weights in their places, and computes the same.
#[test]
#[allow(clippy::print_stdout)] // Why it is skipped, and how close it is.
fn what_is_written_is_read_there() {
    let Some(python) = std::env::var_os("ANEMONE_PYTHON") else {
        println!("skipped: ANEMONE_PYTHON names no Python with transformers and torch");
        return;
    };
    let shared = Pretrained::open(&fixture("llama2c/shared.bin")).unwrap();
    let mut plain = Pretrained::open(&fixture("hugging_face/gpt2")).unwrap();
    let ModelConfig::Gpt(gpt) = &mut plain.model else { panic!("{:?}", plain.model) };
    gpt.bias = false;
    let models = [
        ("gpt2", Pretrained::open(&fixture("hugging_face/gpt2")).unwrap()),
        ("gpt2 without biases", plain),
        ("gpt2 with adapters", fine_tuned(&Lora::default()).0),
        ("llama", Pretrained::open(&fixture("hugging_face/llama")).unwrap()),
        ("llama of llama2.c", shared),
    ];
    for (name, model) in models {
        let folder = tempfile::tempdir().unwrap();
        model.to_hugging_face(folder.path()).unwrap();
        let script = fixture("hugging_face.py");
        let out = Command::new(&python).arg(script).arg("logits").arg(folder.path()).output().unwrap();
        assert!(out.status.success(), "{name}: {out:?}");
        let there: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(there["wrong"], json!({}), "{name}");
        let found = difference(&logits(&model, &there["tokens"]), &there["logits"]);
        println!("{name}: {} differs by {found:.1e}", there["class"]);
        assert!(found < 1e-5, "{name}: {found}");
    }
}

/// Writes tensors in the two files that an index names.
fn shard(folder: &Path) {
    let one = folder.join("model.safetensors");
    let tensors = load_safetensors(&one).unwrap();
    fs::remove_file(one).unwrap();
    let mut map = BTreeMap::new();
    let halves = tensors.split_at(tensors.len() / 2);
    for (i, part) in [halves.0, halves.1].into_iter().enumerate() {
        let file = format!("model-{i}.safetensors");
        save_safetensors(&folder.join(&file), part, &BTreeMap::new()).unwrap();
        map.extend(part.iter().map(|t| (t.name.clone(), file.clone())));
    }
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn weights_in_several_files_and_names_of_the_base_model_are_read() {
    let whole = Pretrained::open(&fixture("hugging_face/gpt2")).unwrap();
    let folder = copy("gpt2");
    shard(folder.path());
    assert_eq!(Pretrained::open(folder.path()).unwrap().weights, whole.weights);

    // As GPT-2 itself was published: names without `transformer.`, and masks among the tensors.
    let folder = copy("gpt2");
    let path = folder.path().join("model.safetensors");
    let mut tensors = load_safetensors(&path).unwrap();
    tensors.iter_mut().for_each(|t| t.name = t.name.trim_start_matches("transformer.").to_string());
    tensors.push(NamedTensor { name: "h.0.attn.bias".into(), shape: vec![1, 1, 1, 1], data: vec![1.0] });
    save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    assert_eq!(Pretrained::open(folder.path()).unwrap().weights, whole.weights);
}

#[test]
fn half_precision_is_widened() {
    let folder = copy("llama");
    let path = folder.path().join("model.safetensors");
    let exact = load_safetensors(&path).unwrap();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = exact
        .iter()
        .map(|t| {
            let data = t.data.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
            (t.name.clone(), t.shape.clone(), data)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), data).unwrap())
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let model = Pretrained::open(folder.path()).unwrap();
    for tensor in &model.weights {
        let original = exact.iter().find(|t| t.name == tensor.name).unwrap();
        let rounded: Vec<f32> = original.data.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        assert_eq!(tensor.data, rounded, "{}", tensor.name);
    }
}

#[test]
fn what_is_no_such_model_is_refused_with_the_key_that_says_so() {
    for (name, key, value, words) in [
        ("gpt2", "model_type", json!("mistral"), &["`model_type` is \"mistral\"", "gpt2 or llama"][..]),
        ("gpt2", "architectures", json!(["GPT2ForSequenceClassification"]), &["architectures", "GPT2LMHeadModel"]),
        ("gpt2", "n_inner", json!(32), &["`n_inner` is 32", "null or 64"]),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), &["scale_attn_by_inverse_layer_idx"]),
        ("gpt2", "activation_function", json!("mish"), &["mish", "gelu_new"]),
        ("gpt2", "n_embd", json!(0), &["`n_embd` is 0"]),
        ("gpt2", "n_layer", json!(1e12), &["`n_layer`"]),
        ("gpt2", "n_layer", json!(3), &["no tensor `transformer.h.2.ln_1.weight`"]),
        ("gpt2", "n_layer", json!(1), &["a tensor `transformer.h.1.", "does not have"]),
        ("gpt2", "n_positions", json!(13), &["`transformer.wpe.weight` has shape [12, 16], expected [13, 16]"]),
        ("gpt2", "tie_word_embeddings", json!(false), &["no tensor `lm_head.weight`"]),
        ("gpt2", "layer_norm_epsilon", json!("small"), &["layer_norm_epsilon"]),
        ("llama", "rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1.0}), &["rope_type", "llama3"]),
        ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 2.0}), &[]),
        ("llama", "attention_bias", json!(true), &["`attention_bias` is true"]),
        ("llama", "hidden_act", json!("gelu"), &["hidden_act"]),
        ("llama", "head_dim", json!(8), &["`head_dim` is 8, expected null or 4"]),
        ("llama", "num_key_value_heads", json!(4), &["k_proj.weight` has shape [8, 16], expected [16, 16]"]),
        ("llama", "num_key_value_heads", json!(3), &["heads"]),
    ] {
        let folder = copy(name);
        let path = folder.path().join("config.json");
        let mut config = read_json(&path);
        config[key] = value;
        if key == "rope_scaling" {
            // Where the newer key is there, the older one does not count.
            fs::write(&path, config.to_string()).unwrap();
            assert!(Pretrained::open(folder.path()).is_ok());
            config.as_object_mut().unwrap().remove("rope_parameters");
        }
        fs::write(&path, config.to_string()).unwrap();
        let e = Pretrained::open(folder.path()).unwrap_err().to_string();
        assert!(words.iter().all(|w| e.contains(w)), "{key}: {e}");
    }
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let error = |prepare: &dyn Fn(&Path)| {
        let folder = copy("gpt2");
        prepare(folder.path());
        Pretrained::open(folder.path()).unwrap_err().to_string()
    };
    let e = error(&|f| fs::remove_file(f.join("config.json")).unwrap());
    assert!(e.contains("config.json"), "{e}");
    let e = error(&|f| fs::write(f.join("config.json"), "{").unwrap());
    assert!(e.contains("`config.json` is no JSON"), "{e}");
    let e = error(&|f| fs::rename(f.join("model.safetensors"), f.join("pytorch_model.bin")).unwrap());
    assert!(e.contains("neither `model.safetensors` nor") && e.contains("`pytorch_model.bin` is not read"), "{e}");
    let e = error(&|f| {
        shard(f);
        fs::remove_file(f.join("model-1.safetensors")).unwrap();
    });
    assert!(e.contains("model-1.safetensors"), "{e}");
    for (from, to, words) in [
        ("model-1.safetensors", "../model-1.safetensors", "expected the name of a file"),
        ("model-1.safetensors", "model-0.safetensors", "is not in `model-0.safetensors`"),
        ("weight_map", "map", "has no `weight_map`"),
    ] {
        let e = error(&|f| {
            shard(f);
            let index = f.join("model.safetensors.index.json");
            fs::write(&index, fs::read_to_string(&index).unwrap().replace(from, to)).unwrap();
        });
        assert!(e.contains(words), "{to}: {e}");
    }
}

#[test]
fn every_truncation_and_every_lying_header_of_llama2_c_is_refused() {
    let whole = fs::read(fixture("llama2c/unshared.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Pretrained::open(&path).unwrap_err().to_string()
    };
    for n in (0..whole.len()).step_by(97).chain([1, 27, 28, 29, whole.len() - 1]) {
        let e = error(&whole[..n]);
        assert!(e.contains("model.bin"), "{n} bytes: {e}");
    }
    let e = error(&[&whole[..], &[0; 4]].concat());
    assert!(e.contains("the file has 16544 bytes, its header says 16540"), "{e}");
    for (field, name) in
        ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"].iter().enumerate()
    {
        for lie in [0, -1, i32::MIN, i32::MAX, 3] {
            let mut bytes = whole.clone();
            bytes[4 * field..][..4].copy_from_slice(&i32::to_le_bytes(lie));
            let e = error(&bytes);
            let known = [&format!("`{name}` is {lie}"), "its header says", "heads", "`vocab_size` is 0"];
            assert!(known.iter().any(|words| e.contains(*words)), "{name} = {lie}: {e}");
        }
    }
    let e = error(&[&b"24ka"[..], &whole[4..]].concat());
    assert!(e.contains("later version") && e.contains("--version 0"), "{e}");
}

/// The GPT-2 of the fixture, trained further for some steps with adapters, and its weights as they were.
fn fine_tuned(lora: &Lora) -> (Pretrained, Vec<NamedTensor>) {
    let folder = tempfile::tempdir().unwrap();
    let original = Pretrained::open(&fixture("hugging_face/gpt2")).unwrap();
    let path = folder.path().join("weights.safetensors");
    save_safetensors(&path, &original.weights, &BTreeMap::new()).unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "the quick brown fox and the lazy dog\n".repeat(20).replace(['q', 'x', 'z', 'w'], ""))
        .unwrap();
    let ModelConfig::Gpt(gpt) = original.model.clone() else { panic!("{:?}", original.model) };
    let mut config = Config {
        model: ModelConfig::Gpt(anemone::models::Gpt { lora: Some(lora.clone()), vocabulary: 0, ..gpt }),
        data: DataConfig::Text(TextConfig {
            path: text.to_str().unwrap().into(),
            tokenizer: "characters".into(),
            length: 8,
            batch: 4,
            ..TextConfig::default()
        }),
        device: DeviceConfig { select: Select::Soft, ..DeviceConfig::default() },
        ..Config::default()
    };
    (config.train.steps, config.train.lr) = (6, 0.1);
    config.train.init_weights = Some(path.clone());
    let device = device::open(&config.device.options().unwrap()).unwrap();
    let mut trainer = Trainer::new(&config, device).unwrap();
    while let Event::Step(_) = trainer.step().unwrap() {}
    let model = trainer.config().model.clone();
    (Pretrained { model, weights: trainer.weights(), tokenizer: None }, load_weights(&path).unwrap())
}

#[test]
fn adapters_learn_while_the_rest_stays_and_merging_changes_nothing() {
    let lora = Lora { rank: 3, alpha: 6.0, targets: vec!["c_attn".into(), "mlp.c_proj".into()] };
    let (tuned, original) = fine_tuned(&lora);
    let (mut n_frozen, mut n_adapters) = (0, 0);
    for tensor in &tuned.weights {
        match original.iter().find(|t| t.name == tensor.name) {
            Some(before) => {
                assert_eq!(tensor, before, "frozen, bit for bit");
                n_frozen += 1;
            }
            None => {
                assert!(tensor.name.contains(".lora_"), "{}", tensor.name);
                assert!(tensor.data.iter().any(|&x| x != 0.0), "{} has learned", tensor.name);
                n_adapters += 1;
            }
        }
    }
    // Two matrices for each of two layers in two blocks.
    assert_eq!((n_frozen, n_adapters), (original.len(), 8));

    let tokens = json!([3, 1, 4, 1, 5, 9]);
    let merged = tuned.merged().unwrap();
    assert_eq!(merged.weights.len(), original.len());
    let found = logits(&tuned, &tokens);
    assert!(difference(&logits(&merged, &tokens), &json!(found)) < 1e-5);
    let frozen = Pretrained { weights: original, ..merged };
    assert!(difference(&logits(&frozen, &tokens), &json!(found)) > 1e-3, "the adapters make a difference");
}

#[test]
fn weights_to_begin_with_must_be_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut config = Config::preset("tiny").unwrap();
    config.train.init_weights = Some(path.clone());
    let error = || {
        let device = device::open(&config.device.options().unwrap()).unwrap();
        Trainer::new(&config, device).err().unwrap().to_string()
    };
    assert!(error().contains("w.safetensors"), "{}", error());
    let tensor = |name: &str, shape: &[usize]| NamedTensor {
        name: name.into(),
        shape: shape.to_vec(),
        data: vec![0.5; shape.iter().product()],
    };
    save_safetensors(&path, &[tensor("fc1.weight", &[128, 64, 1, 1])], &BTreeMap::new()).unwrap();
    let e = error();
    assert!(e.contains("`train.init_weights`") && e.contains("have no `fc2.weight`"), "{e}");
    let both = [tensor("fc1.weight", &[128, 64, 1, 1]), tensor("fc2.weight", &[64, 128, 1, 1])];
    save_safetensors(&path, &both, &BTreeMap::new()).unwrap();
    let device = device::open(&config.device.options().unwrap()).unwrap();
    assert_eq!(Trainer::new(&config, device).unwrap().weights(), both);
}
