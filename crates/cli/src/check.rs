//! `anemone check`: what is wrong with a program, by the rules of the language and of a chip's Neural Engine.

use crate::{Outcome, args, input};
use anemone_mil::error::Severity;
use anemone_mil::limits::Rule;
use anemone_mil::{Diagnostic, Limits, line_column, text, valid};
use serde::Serialize;
use std::io::Write;

pub(crate) fn run(args: &args::Check, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let limits = args.chip.map_or_else(Limits::none, Limits::of);
    let (mut n_errors, mut n_warnings) = (0, 0);
    for path in &args.paths {
        let source = input::read(path)?;
        let file = input::display(path);
        let findings = match text::parse(&source) {
            Ok(program) => valid::check(program, &limits).1,
            Err(e) => e.diagnostics().to_vec(),
        };
        for d in &findings {
            match d.severity {
                Severity::Error => n_errors += 1,
                Severity::Warning => n_warnings += 1,
            }
            if args.json {
                // Not written in place: an error of the output is to be seen as one.
                writeln!(out, "{}", serde_json::to_string(&Finding::new(d, &file, &source))?)?;
            } else {
                writeln!(out, "{}\n", d.render_colored(&file, &source))?;
            }
        }
    }
    if !args.json {
        let by = args.chip.map_or("the language".into(), |chip| format!("the language and of {chip}"));
        let n_files = count(args.paths.len(), "file");
        let found = format!("{}, {}", count(n_errors, "error"), count(n_warnings, "warning"));
        writeln!(out, "{n_files} checked by the rules of {by}: {found}")?;
    }
    Ok(if n_errors > 0 { Outcome::Found } else { Outcome::Clean })
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A diagnostic as tools read it. Lines and columns are counted from 1, columns in characters.
#[derive(Serialize)]
struct Finding<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    code: &'a str,
    severity: &'static str,
    message: &'a str,
    notes: &'a [String],
    /// The rule of the engine, where it is one that is broken.
    rule: Option<RuleOf>,
}

#[derive(Serialize)]
struct RuleOf {
    name: &'static str,
    symptom: &'static str,
    grade: &'static str,
    source: &'static str,
    help: &'static str,
}

impl<'a> Finding<'a> {
    fn new(d: &'a Diagnostic, file: &'a str, source: &str) -> Finding<'a> {
        let place = d.labels.first().map(|l| line_column(source, l.span.start));
        let rule = Rule::of_name(d.code);
        Finding {
            file,
            line: place.map(|p| p.0),
            column: place.map(|p| p.1),
            code: d.code,
            severity: match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &d.message,
            notes: &d.notes,
            rule: rule.map(|r| RuleOf {
                name: r.name,
                symptom: r.symptom,
                grade: r.grade.as_str(),
                source: r.source,
                help: r.help,
            }),
        }
    }
}
