//! How fast MIL is read, checked and printed.
//!
//! `cargo bench --bench text` takes a generated program; with `MIL=model.mil` in the environment it takes that
//! file.

use anemone_mil::ir::{DType, TensorType, Version};
use anemone_mil::{Builder, Limits, Tensor, text, validate};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// 600 layers, about the size of a speech encoder.
fn generated() -> String {
    let mut b = Builder::new(Version::V1_0);
    let mut x = b.input("x", TensorType::new(DType::Fp16, &[1, 64, 1, 32])).expect("a new name");
    let weight = Tensor::float(DType::Fp16, &[64, 64, 1, 1], vec![0.125; 64 * 64]);
    let weight = b.named_constant("weight", weight);
    for _ in 0..600 {
        let y = b.pointwise(x, weight).expect("shapes fit");
        x = b.relu(y).expect("shapes fit");
    }
    text::print(&b.finish(&[x]).expect("one output"))
}

fn source() -> String {
    match std::env::var("MIL") {
        Ok(path) => std::fs::read_to_string(&path).expect("MIL names a file of text"),
        Err(_) => generated(),
    }
}

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let source = source();
    bencher.counter(BytesCount::of_str(&source)).bench_local(|| text::parse(black_box(&source)));
}

#[divan::bench]
fn validate_parsed(bencher: Bencher<'_, '_>) {
    let source = source();
    let program = text::parse(&source).expect("valid MIL");
    bencher
        .counter(BytesCount::of_str(&source))
        .with_inputs(|| program.clone())
        .bench_local_values(|program| validate(program, &Limits::none()));
}

#[divan::bench]
fn print(bencher: Bencher<'_, '_>) {
    let source = source();
    let program = text::parse(&source).expect("valid MIL");
    bencher.counter(BytesCount::of_str(&source)).bench_local(|| text::print(black_box(&program)));
}
