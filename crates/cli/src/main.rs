//! The `anemone` command: reads the arguments, runs a subcommand, and turns what came of it into an exit code.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A command talks; everything else of anemone does not.

mod args;
mod check;
mod configuration;
mod devices;
mod doctor;
mod engine;
mod eval;
mod fmt;
mod generate;
mod import;
mod init;
mod input;
mod inspect;
mod man;
mod npy;
mod progress;
mod report;
mod run;
mod run_dir;
mod runs;
mod source;
mod tensorboard;
mod train;
mod watch;

use args::{Args, Command};
use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;

/// What a subcommand that could do its work has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Clean,
    /// It found what it looks for: errors in a program, a file that is not formatted.
    Found,
}

fn main() -> ExitCode {
    // Wrong usage ends here, with a hint and exit code 2.
    let args = Args::parse();
    // Strips colours where they would not be seen as such, and honours `NO_COLOR`.
    let mut out = io::BufWriter::new(anstream::stdout());
    let outcome = set_up(&args)
        .and_then(|()| run(&args.command, &mut out))
        .and_then(|outcome| Ok(out.flush().map(|()| outcome)?));
    match outcome {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::FAILURE,
        // Whoever reads the output, `head` for instance, has seen enough.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // What was printed before the error belongs above it.
            let _ = out.flush();
            anstream::eprintln!("error: {e:#}{}", advice(&e));
            ExitCode::FAILURE
        }
    }
}

/// Sets what holds for the whole process.
fn set_up(args: &Args) -> anyhow::Result<()> {
    args.threads.into_iter().for_each(|n| anemone::set_n_threads(n.into()));
    Ok(args.instructions.map_or(Ok(()), anemone::set_instructions)?)
}

fn run(command: &Command, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    match command {
        Command::Train(args) => train::run(args, out),
        Command::Init(args) => init::run(args, out),
        Command::Eval(args) => eval::run(args, out),
        Command::Generate(args) => generate::run(args, out),
        Command::Import(args) => import::run(args, out),
        Command::Export(args) => import::export(args, out),
        Command::Check(args) => check::run(args, out),
        Command::Fmt(args) => fmt::run(args, out),
        Command::Devices(args) => devices::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
        Command::Inspect(args) => inspect::run(args, out),
        Command::Run(args) => run::run(args, out),
        Command::Watch(args) => watch::run(args),
        Command::Runs(args) => runs::run(args, out),
        Command::Report(args) => report::run(args, out),
        Command::Completions(args) => man::completions(args, out),
        Command::Man(args) => man::run(args, out),
    }
}

/// What to do about an error of the system's, which does not say it.
fn advice(e: &anyhow::Error) -> &'static str {
    let system = |e: &(dyn std::error::Error + 'static)| {
        let own = e.downcast_ref::<anemone::Error>().and_then(anemone::Error::io_kind);
        own.or_else(|| e.downcast_ref::<io::Error>().map(io::Error::kind))
    };
    match e.chain().find_map(system) {
        Some(io::ErrorKind::NotFound) => ": check the path",
        Some(io::ErrorKind::PermissionDenied) => ": check who may read and write there",
        Some(io::ErrorKind::IsADirectory) => ": name a file",
        Some(io::ErrorKind::NotADirectory) => ": name a folder",
        Some(io::ErrorKind::InvalidData) => ": check that the file is what it is taken for",
        Some(io::ErrorKind::StorageFull) => ": make room",
        _ => "",
    }
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
