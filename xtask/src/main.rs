//! The chores of the project: `cargo xtask --help` lists them.

// This program talks to the developer who runs it.
#![allow(clippy::print_stdout)]

mod tidy;

use anyhow::Result;
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;

/// The chores of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Check the rules of the house that neither rustfmt nor clippy knows
    Tidy,
}

fn main() -> Result<ExitCode> {
    match Chore::parse() {
        Chore::Tidy => tidy(),
    }
}

fn tidy() -> Result<ExitCode> {
    let report = tidy::check_tree(root())?;
    for finding in &report.findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} findings in {} files, listed by {}",
        report.findings.len(),
        report.n_files,
        report.listed_by
    );
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The root of the repository: the folder above this package's.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in a folder of the repository")
}
