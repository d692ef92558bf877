//! The one error of this crate, and the diagnostics it carries.

use crate::ir::Span;
use std::fmt;

/// What went wrong: one or more diagnostics, the first of them the cause.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Parse,
    Invalid,
    Refused,
    Weights,
    Package,
    Eval,
    Gradient,
}

/// One finding, with the places in the source it speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Whether it makes the program unusable.
    pub severity: Severity,
    /// A short name for tools, such as `unknown-op` or the name of a rule of the engine.
    pub code: &'static str,
    /// What was expected and what came: lower case, no full stop.
    pub message: String,
    /// The places it speaks of, the main one first; none where there is no source.
    pub labels: Vec<Label>,
    /// What else to know: the evidence for a rule, what to do.
    pub notes: Vec<String>,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but somewhere it may not.
    Warning,
    /// Does not work.
    Error,
}

/// A marked place in the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The bytes it marks.
    pub span: Span,
    /// What to say there; may be empty.
    pub text: String,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// With a marked place. Spans without source are left out.
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        if span.start != span.end {
            self.labels.push(Label { span, text: text.into() });
        }
        self
    }

    /// With something else to know.
    pub fn note(mut self, note: impl Into<String>) -> Diagnostic {
        self.notes.push(note.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}

impl Error {
    #[cold]
    fn new(kind: Kind, diagnostics: Vec<Diagnostic>) -> Error {
        Error(Box::new(Inner { kind, diagnostics }))
    }

    /// Text that is no MIL.
    pub(crate) fn parse(diagnostics: Vec<Diagnostic>) -> Error {
        Error::new(Kind::Parse, diagnostics)
    }

    /// A program that is none: unknown ops or names, types that do not fit.
    pub(crate) fn invalid(diagnostics: Vec<Diagnostic>) -> Error {
        Error::new(Kind::Invalid, diagnostics)
    }

    /// A program that is right but that the device in question does not take.
    pub(crate) fn refused(diagnostics: Vec<Diagnostic>) -> Error {
        Error::new(Kind::Refused, diagnostics)
    }

    /// A weights file that is none, or not the one meant.
    pub(crate) fn weights(message: impl Into<String>) -> Error {
        Error::new(Kind::Weights, vec![Diagnostic::error("weights", message)])
    }

    /// A Core ML model that is none, or no program.
    pub(crate) fn package(message: impl Into<String>) -> Error {
        Error::new(Kind::Package, vec![Diagnostic::error("package", message)])
    }

    /// A program that could not be run on these inputs.
    pub(crate) fn eval(message: impl Into<String>) -> Error {
        Error::new(Kind::Eval, vec![Diagnostic::error("evaluation", message)])
    }

    /// A program that has no gradient there.
    pub(crate) fn gradient(message: impl Into<String>) -> Error {
        Error::new(Kind::Gradient, vec![Diagnostic::error("gradient", message)])
    }

    /// All findings, errors and warnings.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.diagnostics
    }

    /// Whether the text could not be read as MIL.
    pub fn is_parse(&self) -> bool {
        self.0.kind == Kind::Parse
    }

    /// Whether the program is wrong on any device.
    pub fn is_invalid(&self) -> bool {
        self.0.kind == Kind::Invalid
    }

    /// Whether the program is right, but breaks a rule of the device it was checked for.
    pub fn is_refused(&self) -> bool {
        self.0.kind == Kind::Refused
    }

    /// Whether a weights file is at fault.
    pub fn is_weights(&self) -> bool {
        self.0.kind == Kind::Weights
    }

    /// Whether bytes could not be read as a Core ML model, or as one that is a program.
    pub fn is_package(&self) -> bool {
        self.0.kind == Kind::Package
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.0.diagnostics.iter().filter(|d| d.severity == Severity::Error);
        match errors.clone().next() {
            Some(first) => write!(f, "{first}")?,
            None => f.write_str("unknown error")?,
        }
        match errors.count() {
            0 | 1 => Ok(()),
            n => write!(f, " (and {} more)", n - 1),
        }
    }
}

impl std::error::Error for Error {}
