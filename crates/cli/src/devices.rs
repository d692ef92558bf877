//! `anemone devices`: what this machine can train on, and what was checked of it.

use crate::{Outcome, args};
use anemone::device::{self, Arithmetic, Device, Faults, SoftDevice};
use anemone_mil::ir::{DType, TensorType, Version};
use anemone_mil::{Builder, Chip, Limits, Tensor, Weights, validate};
use anyhow::ensure;
use serde::Serialize;
use std::io::Write;
use std::thread;

#[derive(Serialize)]
struct Machine {
    devices: Vec<Row>,
    os: &'static str,
    architecture: &'static str,
    n_cores: usize,
    cpu_features: Vec<&'static str>,
}

#[derive(Serialize)]
struct Row {
    /// As `--device` takes it.
    name: &'static str,
    title: &'static str,
    usable: bool,
    /// Why it is usable, or why not.
    checked: String,
    /// The chips whose rules it follows.
    chips: Vec<&'static str>,
    /// How it can round, as `--arithmetic` takes it.
    arithmetics: Vec<&'static str>,
}

pub(crate) fn run(args: &args::Devices, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let machine = look();
    let usable = machine.devices.iter().any(|d| d.usable);
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&machine)?)?;
    } else {
        print(&machine, out)?;
    }
    Ok(if usable { Outcome::Clean } else { Outcome::Found })
}

fn look() -> Machine {
    let (usable, why) = device::ane_status();
    let soft = check_soft();
    let devices = vec![
        Row {
            name: "ane",
            title: "Neural Engine",
            usable,
            checked: why,
            chips: Vec::new(),
            arithmetics: Vec::new(),
        },
        Row {
            name: "soft",
            title: "software engine",
            usable: soft.is_ok(),
            checked: soft.unwrap_or_else(|e| format!("the check failed: {e:#}")),
            chips: Chip::ALL.map(Chip::as_str).to_vec(),
            arithmetics: Arithmetic::ALL.map(Arithmetic::as_str).to_vec(),
        },
    ];
    Machine {
        devices,
        os: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        n_cores: thread::available_parallelism().map_or(1, |n| n.get()),
        cpu_features: cpu_features(),
    }
}

/// A linear layer whose answer is known, compiled and run by the rules of each chip.
fn check_soft() -> anyhow::Result<String> {
    const N_IN: usize = 64;
    const N_OUT: usize = 32;
    const N_COLUMNS: usize = 32;
    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp16, &[1, N_IN, 1, N_COLUMNS]))?;
    // Row o of the weights is o / 32 throughout, so that output o is o / 32 times the sum of a column.
    let weight = (0..N_OUT * N_IN).map(|i| (i / N_IN) as f64 / 32.0).collect();
    let w = b.constant(Tensor::float(DType::Fp16, &[N_OUT, N_IN, 1, 1], weight));
    let y = b.pointwise(x, w)?;
    let program = b.finish(&[y])?;
    let input: Vec<f32> = (0..N_IN * N_COLUMNS).map(|i| ((i % N_COLUMNS) % 4) as f32).collect();
    for (chip, arithmetic) in Chip::ALL.into_iter().flat_map(|c| Arithmetic::ALL.map(|a| (c, a))) {
        let device = SoftDevice::with_arithmetic(chip, Faults::default(), arithmetic);
        let valid = validate(program.clone(), &Limits::of(chip))?;
        let mut kernel = device.compile(&valid, &Weights::default())?;
        let (mut x, mut y) = (kernel.input_buffer(0)?, kernel.output_buffer(0)?);
        x.write(&input)?;
        kernel.run(&[&*x], &mut [&mut *y])?;
        let mut output = vec![0.0; N_OUT * N_COLUMNS];
        y.read(&mut output)?;
        let n_wrong = (0..N_OUT * N_COLUMNS)
            .filter(|i| output[*i] != (i / N_COLUMNS) as f32 / 32.0 * N_IN as f32 * ((i % N_COLUMNS) % 4) as f32)
            .count();
        ensure!(
            n_wrong == 0,
            "{chip}, {arithmetic}: {n_wrong} of {} numbers of a linear layer are wrong",
            output.len()
        );
    }
    Ok(format!(
        "a {N_IN} to {N_OUT} linear layer was compiled and run by the rules of each chip in each arithmetic, all numbers right"
    ))
}

fn print(machine: &Machine, out: &mut dyn Write) -> anyhow::Result<()> {
    for d in &machine.devices {
        writeln!(out, "{:<5} {}: {}", d.name, d.title, if d.usable { "usable" } else { "not usable" })?;
        writeln!(out, "      {}", d.checked)?;
        if !d.chips.is_empty() {
            writeln!(out, "      follows the rules of {}", d.chips.join(", "))?;
            writeln!(out, "      computes in the arithmetic {}", d.arithmetics.join(" or "))?;
        }
    }
    let features = match machine.cpu_features.join(" ") {
        none if none.is_empty() => "none of those looked for".into(),
        some => some,
    };
    writeln!(out, "cpu   {} {}, {} cores; {features}", machine.os, machine.architecture, machine.n_cores)?;
    Ok(())
}

/// The features that matter for arithmetic in fp16 and fp32.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let all = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512fp16", std::arch::is_x86_feature_detected!("avx512fp16")),
    ];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// The features that matter for arithmetic in fp16 and fp32.
#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("fhm", std::arch::is_aarch64_feature_detected!("fhm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// The features that matter for arithmetic in fp16 and fp32.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_software_engine_is_checked_and_usable() {
        assert_eq!(check_soft().unwrap().split(':').count(), 1);
        let machine = look();
        assert!(machine.n_cores > 0);
        assert!(machine.devices.iter().any(|d| d.name == "soft" && d.usable));
    }
}
