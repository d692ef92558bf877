//! `anemone check`: what is wrong with a program, by the rules of the language and of a chip's Neural Engine.

use crate::{Outcome, args, input};
use anemone::model_file::ModelFile;
use anemone_mil::error::Severity;
use anemone_mil::limits::Rule;
use anemone_mil::{Diagnostic, Limits, ValidProgram, line_column, text, valid};
use serde::Serialize;
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

pub(crate) fn run(args: &args::Check, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let limits = args.chip.map_or_else(Limits::none, Limits::of);
    let (mut n_errors, mut n_warnings) = (0, 0);
    // What stands behind a rule is said once, not once a finding.
    let mut explained = HashSet::new();
    for path in &args.paths {
        let checked = check(path, &limits);
        for mut d in checked.findings {
            match d.severity {
                Severity::Error => n_errors += 1,
                Severity::Warning => n_warnings += 1,
            }
            if args.json {
                // Not written in place: an error of the output is to be seen as one.
                writeln!(out, "{}", serde_json::to_string(&Finding::new(&d, &checked.file, &checked.source))?)?;
                continue;
            }
            if !explained.insert(d.code) && Rule::of_name(d.code).is_some() {
                d.notes.clear();
            }
            // A finding about a program as a whole has no place, and would not say which program.
            let about = if d.labels.is_empty() { format!("{}: ", checked.file) } else { String::new() };
            d.message.insert_str(0, &about);
            writeln!(out, "{}\n", d.render_colored(&checked.file, &checked.source))?;
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

struct Checked {
    /// The file with the text.
    file: String,
    source: String,
    findings: Vec<Diagnostic>,
}

fn check(path: &Path, limits: &Limits) -> Checked {
    let is_package = input::has_extension(path, &["mlpackage", "mlmodel"]);
    let text_path = if is_package { path.to_path_buf() } else { input::program(path) };
    let mut checked = Checked { file: input::display(&text_path), source: String::new(), findings: Vec::new() };
    let unreadable = |e: String| vec![Diagnostic::error("unreadable", e)];
    let program = if is_package {
        match ModelFile::open_program(path) {
            Ok(model) => model.program,
            Err(e) => return Checked { findings: unreadable(e.to_string()), ..checked },
        }
    } else {
        match input::read(&text_path) {
            Ok(source) => checked.source = source,
            Err(e) => return Checked { findings: unreadable(format!("{:#}", e.root_cause())), ..checked },
        }
        match text::parse(&checked.source) {
            Ok(program) => program,
            Err(e) => return Checked { findings: e.diagnostics().to_vec(), ..checked },
        }
    };
    let (valid, findings) = valid::check(program, limits);
    checked.findings = findings;
    if let Some(valid) = valid {
        checked.findings.extend(check_weights(path, &valid));
    }
    checked
}

/// What is wrong with the weights files of a model: records that are not where the program says, or other ones.
fn check_weights(path: &Path, program: &ValidProgram) -> Vec<Diagnostic> {
    let has_files = input::has_extension(path, &["mil", "mlmodelc", "mlpackage", "mlmodel"]);
    if !has_files || program.functions().iter().all(|f| f.blobs().next().is_none()) {
        return Vec::new();
    }
    let weights = match ModelFile::open(path) {
        Ok(model) => model.weights,
        Err(e) => {
            let d = Diagnostic::warning("weights", format!("the weights were not checked: {e}"));
            return vec![d.note("keep weights files where the program names them, `@model_path` is its folder")];
        }
    };
    let mut findings: Vec<Diagnostic> = weights.files().flat_map(|(_, file)| file.diagnostics()).collect();
    for f in program.functions() {
        findings.extend(f.blobs().filter_map(|(id, blob)| {
            let v = f.value(id);
            let ty = v.ty.as_tensor()?;
            let e = weights.record(blob).and_then(|record| record.bytes_as(ty)).err()?;
            Some(Diagnostic::error("weights", format!("constant `{}`: {e}", v.name)).at(v.span, ""))
        }));
    }
    findings
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A diagnostic as tools read it. Lines and columns are counted from 1, columns in characters, the end is one past
/// the last character; there are none for what is about a file as a whole.
#[derive(Serialize)]
struct Finding<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    end_line: Option<usize>,
    end_column: Option<usize>,
    code: &'a str,
    severity: &'static str,
    message: &'a str,
    notes: &'a [String],
    /// The rule of the engine, where it is one that is broken.
    rule: Option<Evidence>,
}

/// What stands behind a rule.
#[derive(Serialize)]
struct Evidence {
    name: &'static str,
    effect: &'static str,
    symptom: &'static str,
    grade: &'static str,
    source: &'static str,
    /// The interface to the engine and the system it was seen on.
    api: &'static str,
    os: &'static str,
    /// The chips it applies to; none for all.
    chips: Vec<&'static str>,
    help: &'static str,
}

impl<'a> Finding<'a> {
    fn new(d: &'a Diagnostic, file: &'a str, source: &str) -> Finding<'a> {
        let span = d.labels.first().map(|l| l.span);
        let (start, end) = (span.map(|s| line_column(source, s.start)), span.map(|s| line_column(source, s.end)));
        let rule = Rule::of_name(d.code);
        Finding {
            file,
            line: start.map(|p| p.0),
            column: start.map(|p| p.1),
            end_line: end.map(|p| p.0),
            end_column: end.map(|p| p.1),
            code: d.code,
            severity: match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &d.message,
            notes: &d.notes,
            rule: rule.map(|r| Evidence {
                name: r.name,
                effect: r.effect.as_str(),
                symptom: r.symptom,
                grade: r.grade.as_str(),
                source: r.source,
                api: r.api.as_str(),
                os: r.os,
                chips: r.chips.iter().map(|c| c.as_str()).collect(),
                help: r.help,
            }),
        }
    }
}
