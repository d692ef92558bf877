//! `anemone doctor`: tries what this machine's engine can do, prints it, and keeps it for `--device auto`.

use crate::engine::{self, Cached, Machine};
use crate::{Outcome, args};
use anemone::config::Strategy;
use anemone::device::Options;
use anemone::device::apple::ProgramInputs;
use anemone::device::self_test::{self, Verdict};
use serde::Serialize;
use std::io::Write;

#[derive(Serialize)]
struct Findings {
    machine: Machine,
    /// Whether what was tried were stand-ins for Apple's classes, as in tests.
    stand_ins: bool,
    neural_engine: Verdict,
    software_engine: Verdict,
    /// What `--device auto` takes from now on.
    auto: &'static str,
    /// Where the verdict about the Neural Engine is kept.
    kept: Option<String>,
}

pub(crate) fn run(args: &args::Doctor, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let options = Options::default();
    let apple = engine::apple_options(options.chip);
    let stand_ins = apple.stand_ins.is_some();
    let mut findings = Findings {
        machine: Machine::this(),
        stand_ins,
        neural_engine: self_test::examine_ane(&apple),
        software_engine: self_test::examine_soft(&options),
        auto: "soft",
        kept: None,
    };
    let usable = findings.neural_engine.is_usable();
    // A verdict about stand-ins says nothing about this machine, and elsewhere there is none to keep.
    if cfg!(target_os = "macos") && !stand_ins {
        let cached = Cached { machine: findings.machine.clone(), verdict: findings.neural_engine.clone() };
        findings.kept = Some(engine::keep(&cached)?.display().to_string());
        if usable {
            findings.auto = "ane";
        }
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        print(&findings, out)?;
    }
    Ok(if usable || findings.software_engine.is_usable() { Outcome::Clean } else { Outcome::Found })
}

fn print(findings: &Findings, out: &mut dyn Write) -> anyhow::Result<()> {
    let m = &findings.machine;
    writeln!(out, "anemone {}, {m}", m.anemone)?;
    let title = if findings.stand_ins { "Stand-ins for the Neural Engine's classes" } else { "Neural Engine" };
    print_verdict(title, &findings.neural_engine, out)?;
    print_verdict("Software engine", &findings.software_engine, out)?;
    let auto = if findings.auto == "ane" { "the Neural Engine" } else { "the software engine" };
    writeln!(out, "\n`--device auto` takes {auto}")?;
    if let Some(kept) = &findings.kept {
        writeln!(out, "This is kept in {kept} until chip, system or anemone change")?;
    }
    Ok(())
}

fn print_verdict(title: &str, verdict: &Verdict, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "\n{title}: {}", if verdict.is_usable() { "trains" } else { "does not train here" })?;
    for check in &verdict.checks {
        writeln!(out, "  {} {}", if check.passed { "ok    " } else { "FAILED" }, check.what)?;
        writeln!(out, "         {}", check.found)?;
    }
    if !verdict.strategies.is_empty() {
        let names: Vec<&str> = verdict
            .strategies
            .iter()
            .map(|s| match s {
                Strategy::Baked => "baked",
                Strategy::Operand => "operand",
            })
            .collect();
        writeln!(out, "  weights can be {}", names.join(", "))?;
    }
    if let Some(inputs) = verdict.inputs.first() {
        let how = match inputs {
            ProgramInputs::Separate => "in surfaces of their own",
            ProgramInputs::Packed => "packed into one, as separate ones do not work here",
        };
        writeln!(out, "  programs with several inputs get them {how}")?;
    }
    if !verdict.failures.is_empty() {
        writeln!(out, "  what the system said about refusals:")?;
        for failure in &verdict.failures {
            writeln!(out, "    {failure}")?;
        }
    }
    Ok(())
}
