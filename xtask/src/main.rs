//! The chores of the project: `cargo xtask --help` lists them.

// This program talks to the developer who runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod conformance;
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
    /// Run op cases with known outputs on the reference interpreter
    Conformance(conformance::Options),
}

fn main() -> Result<ExitCode> {
    match Chore::parse() {
        Chore::Tidy => tidy(),
        Chore::Conformance(options) => conformance(&options),
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

fn conformance(options: &conformance::Options) -> Result<ExitCode> {
    // A case that panics is one line among others; where it happened is worth more than the way there.
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let report = conformance::run(options)?;
    println!("{report}");
    Ok(if report.n_failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The root of the repository: the folder above this package's.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in a folder of the repository")
}
