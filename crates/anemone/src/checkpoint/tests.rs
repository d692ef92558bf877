//! Tests of the checkpoint: what comes back, and what is refused with which words.

use super::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct State {
    step: u64,
    seed: u64,
    position: i64,
    losses: Vec<f64>,
}

fn small() -> Checkpoint {
    let state = State {
        step: 12,
        seed: u64::MAX,
        position: i64::MIN,
        // Numbers whose last bit a sloppy reader of decimals gets wrong, and the ends of the range.
        losses: vec![0.1, 1.0 / 3.0, -0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, 51.248178830100046, 1e23],
    };
    let odd = [0x7fa1_2345, 0xffc0_0001, 0x8000_0000, 1, 0x7f80_0000, 0x3f80_0000].map(f32::from_bits);
    let tensor = |name: &str, shape: &[usize], data: &[f32]| NamedTensor {
        name: name.into(),
        shape: shape.to_vec(),
        data: data.to_vec(),
    };
    Checkpoint {
        config: "seed = 7\n\n[optimizer]\nname = \"adamw\"\nlr = 0.1\n".into(),
        state: serde_json::to_value(state).unwrap(),
        tensors: vec![tensor("fc1.weight", &[3, 2], &odd), tensor("adamw.m.fc1.weight", &[], &[0.1])],
    }
}

/// A folder with a small checkpoint, its path and its bytes.
fn saved() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    small().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

/// Why `bytes` are no checkpoint; the file must stay as it is.
fn refusal(path: &Path, bytes: &[u8]) -> String {
    fs::write(path, bytes).unwrap();
    let e = Checkpoint::load(path).expect_err("bytes that are no checkpoint");
    assert!(e.is_checkpoint(), "{e:?}");
    assert_eq!(fs::read(path).unwrap(), bytes);
    let e = e.to_string();
    e.strip_prefix(&format!("checkpoint `{}` ", path.display())).unwrap_or_else(|| panic!("{e}")).to_owned()
}

/// `bytes` with a checksum that fits.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let n = bytes.len() - N_CHECKSUM;
    let sum = crc32fast::hash(&bytes[..n]);
    bytes[n..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn comes_back_bit_for_bit() {
    let (_folder, path, bytes) = saved();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded, small());
    let before: State = serde_json::from_value(small().state).unwrap();
    let after: State = serde_json::from_value(loaded.state.clone()).unwrap();
    assert_eq!(after, before);
    assert!(after.losses[2].is_sign_negative(), "-0 keeps its sign");
    loaded.save(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn the_file_is_as_documented() {
    let (_folder, path, bytes) = saved();
    let n_payload = (bytes.len() - N_HEAD - N_CHECKSUM) as u64;
    assert_eq!(bytes[..12], *b"ANEMONE\0\x01\0\0\0");
    assert_eq!(bytes[12..20], n_payload.to_le_bytes());
    assert_eq!(resealed(bytes.clone()), bytes);
    fs::write(&path, &bytes[N_HEAD..bytes.len() - N_CHECKSUM]).unwrap();
    assert_eq!(weights_file::load_safetensors(&path).unwrap(), small().tensors);
}

#[test]
fn random_f64_and_u64_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    let mut x = 1u64;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        x ^ (x >> 29)
    };
    let integers: Vec<u64> = (0..20_000).map(|_| next()).collect();
    let floats: Vec<f64> = integers.iter().map(|&b| f64::from_bits(b)).filter(|x| x.is_finite()).collect();
    let state = serde_json::json!({ "integers": integers, "floats": floats });
    Checkpoint { config: String::new(), state, tensors: vec![] }.save(&path).unwrap();
    let state = Checkpoint::load(&path).unwrap().state;
    let read: Vec<f64> = serde_json::from_value(state["floats"].clone()).unwrap();
    assert!(read.iter().zip(&floats).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_eq!(serde_json::from_value::<Vec<u64>>(state["integers"].clone()).unwrap(), integers);
}

#[test]
fn every_truncation_is_refused_with_the_bytes_expected_and_found() {
    let (_folder, path, bytes) = saved();
    for n in 0..bytes.len() {
        let expected = if n < N_HEAD { "at least 24".to_owned() } else { bytes.len().to_string() };
        let why = refusal(&path, &bytes[..n]);
        assert!(why.starts_with(&format!("is truncated: expected {expected} bytes, found {n};")), "{n}: {why}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (_folder, path, bytes) = saved();
    for i in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[i / 8] ^= 1 << (i % 8);
        let why = refusal(&path, &flipped);
        let expected: &[&str] = match i / 8 {
            0..8 => &["is not an anemone checkpoint"],
            8..12 => &["has format version"],
            12..20 => &["is truncated", "is damaged: it has"],
            _ => &["is damaged: its checksum is"],
        };
        assert!(expected.iter().any(|e| why.starts_with(e)), "bit {i}: {why}");
    }
}

#[test]
fn a_missing_file_a_foreign_file_and_another_version_have_their_own_words() {
    let (folder, path, bytes) = saved();
    let missing = folder.path().join("none.ckpt");
    let e = Checkpoint::load(&missing).unwrap_err();
    assert!(e.is_checkpoint() && e.to_string().contains("none.ckpt` does not exist: give"), "{e}");
    let e = Checkpoint::load(folder.path()).unwrap_err();
    assert!(e.is_checkpoint() && e.to_string().contains("is not an anemone checkpoint: give"), "{e}");
    assert!(refusal(&path, b"{\"step\": 1}").starts_with("is not an anemone checkpoint: give"));

    let mut other = bytes.clone();
    other[8..12].copy_from_slice(&7u32.to_le_bytes());
    let why = refusal(&path, &resealed(other));
    assert_eq!(why, "has format version 7, but only 1 is supported: use the anemone that saved it");

    let mut more = bytes;
    more.push(0);
    assert!(refusal(&path, &more).starts_with("is damaged: it has"));
}

#[test]
fn lengths_that_lie_are_refused_even_under_a_checksum_that_fits() {
    let (_folder, path, bytes) = saved();
    for lie in [u64::MAX, u64::MAX - 24, 1 << 62, 1 << 40, bytes.len() as u64] {
        let mut lying = bytes.clone();
        lying[12..20].copy_from_slice(&lie.to_le_bytes());
        assert!(refusal(&path, &resealed(lying)).starts_with("is truncated"), "{lie}");
    }
    for lie in [u64::MAX, 1 << 40, 0] {
        let mut lying = bytes.clone();
        lying[N_HEAD..N_HEAD + 8].copy_from_slice(&lie.to_le_bytes());
        assert!(refusal(&path, &resealed(lying)).starts_with("is damaged: not a safetensors file"), "{lie}");
    }
}

#[test]
fn another_configuration_is_refused_with_the_lines_that_differ() {
    let checkpoint = small();
    checkpoint.check_config(&checkpoint.config).unwrap();
    checkpoint.check_config("seed = 7\r\n\r\n[optimizer]\r\nname = \"adamw\"\r\nlr = 0.1").unwrap();

    let now = "seed = 7\nsteps = 3\n[optimizer]\nname = \"adamw\"\nlr = 0.2\n";
    let e = checkpoint.check_config(now).unwrap_err();
    assert!(e.is_checkpoint());
    let (what, lines) = e.to_string().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(what.contains("another configuration") && what.contains("resume with the saved one"), "{what}");
    assert_eq!(lines, "- [optimizer] lr = 0.1\n+ steps = 3\n+ [optimizer] lr = 0.2");

    // The same line in another table is another setting.
    let e = checkpoint.check_config("seed = 7\nlr = 0.1\n[optimizer]\nname = \"adamw\"\n").unwrap_err();
    assert!(e.to_string().ends_with("- [optimizer] lr = 0.1\n+ lr = 0.1"), "{e}");
    let e = checkpoint.check_config("seed = 7\n\n[optimizer]\nlr = 0.1\nname = \"adamw\"\n").unwrap_err();
    assert!(e.to_string().ends_with("the same lines in another order"), "{e}");
}

#[test]
fn a_save_that_fails_leaves_the_old_checkpoint() {
    let (folder, path, bytes) = saved();
    let mut wrong = small();
    wrong.tensors[0].shape = vec![7];
    let e = wrong.save(&path).unwrap_err().to_string();
    assert!(e.contains("run.ckpt") && e.contains("tensor `fc1.weight` has shape [7] but 6 elements"), "{e}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let e = small().save(&folder.path().join("no/run.ckpt")).unwrap_err().to_string();
    assert!(e.contains("no/run.ckpt"), "{e}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_leaves_the_old_checkpoint() {
    if let Some(path) = file::tests::child_file() {
        let mut large = small();
        large.tensors[0] = NamedTensor { name: "large".into(), shape: vec![1 << 18], data: vec![1.0; 1 << 18] };
        let e = large.save(&path).unwrap_err();
        assert!(e.to_string().contains("run.ckpt"), "{e}");
        return;
    }
    let (_folder, path, bytes) = saved();
    let test = "checkpoint::tests::a_disk_that_takes_no_more_leaves_the_old_checkpoint";
    file::tests::run_with_small_files(test, &path);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
