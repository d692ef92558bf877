//! The one error of this crate: what failed, while doing what, and predicates for who must react to it.

use std::fmt;
use std::path::Path;

/// Why something failed, with what was being done at the time.
pub struct Error(Box<Inner>);

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A configuration or call that asks for something impossible.
    Config,
    /// A device, or what it was asked to do, does not exist here.
    Unavailable,
    /// A program the device does not take.
    Refused,
    /// The process has used up its compiles or its places for loaded programs.
    Budget,
    /// A device call failed that may succeed when repeated.
    Device,
    /// Numbers that are no longer finite.
    NonFinite,
    /// A checkpoint that cannot be used.
    Checkpoint,
    /// The operating system said no.
    Io,
    /// Only a context around another error.
    Context,
}

impl Error {
    #[cold]
    fn new(kind: Kind, message: String) -> Error {
        Error(Box::new(Inner { kind, message, source: None }))
    }

    /// A configuration or a call that asks for something impossible.
    pub fn config(message: impl Into<String>) -> Error {
        Error::new(Kind::Config, message.into())
    }

    /// A device, or a feature of it, that is not to be had here.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message.into())
    }

    /// The compile or load that would exceed what a process gets.
    pub fn budget(message: impl Into<String>) -> Error {
        Error::new(Kind::Budget, message.into())
    }

    /// A program that a device does not take.
    pub fn refused(message: impl Into<String>) -> Error {
        Error::new(Kind::Refused, message.into())
    }

    /// A compile, load or evaluation that failed.
    pub fn device(message: impl Into<String>) -> Error {
        Error::new(Kind::Device, message.into())
    }

    pub(crate) fn non_finite(message: impl Into<String>) -> Error {
        Error::new(Kind::NonFinite, message.into())
    }

    pub(crate) fn checkpoint(message: impl Into<String>) -> Error {
        Error::new(Kind::Checkpoint, message.into())
    }

    /// A file operation that failed: `doing` what (`write`, `open`) to which path.
    pub(crate) fn io(doing: &str, path: &Path, source: std::io::Error) -> Error {
        let mut e = Error::new(Kind::Io, format!("{doing} `{}`", path.display()));
        e.0.source = Some(Box::new(source));
        e
    }

    /// This error, with what was being done when it happened.
    pub fn context(self, doing: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind: Kind::Context, message: doing.into(), source: Some(Box::new(self)) }))
    }

    /// The kind of the error under its contexts.
    fn kind(&self) -> Kind {
        match &self.0.source {
            Some(inner) if self.0.kind == Kind::Context => match inner.downcast_ref::<Error>() {
                Some(inner) => inner.kind(),
                None => self.0.kind,
            },
            _ => self.0.kind,
        }
    }

    /// What the operating system said, if it was at fault.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let source = self.0.source.as_ref()?;
        let inner = source.downcast_ref::<Error>().and_then(Error::io_kind);
        inner.or_else(|| source.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
    }

    /// Whether a configuration or call was at fault.
    pub fn is_config(&self) -> bool {
        self.kind() == Kind::Config
    }

    /// Whether a device is not to be had here.
    pub fn is_unavailable(&self) -> bool {
        self.kind() == Kind::Unavailable
    }

    /// Whether the device does not take the program, so that only another program may help.
    pub fn is_refused(&self) -> bool {
        self.kind() == Kind::Refused
    }

    /// Whether the process has used up its compiles or live programs, so that only a new process helps.
    pub fn is_budget(&self) -> bool {
        self.kind() == Kind::Budget
    }

    /// Whether a device call failed that may succeed when repeated.
    pub fn is_device(&self) -> bool {
        self.kind() == Kind::Device
    }

    /// Whether numbers are no longer finite.
    pub fn is_non_finite(&self) -> bool {
        self.kind() == Kind::NonFinite
    }

    /// Whether a checkpoint cannot be used.
    pub fn is_checkpoint(&self) -> bool {
        self.kind() == Kind::Checkpoint
    }
}

impl From<anemone_mil::Error> for Error {
    fn from(e: anemone_mil::Error) -> Error {
        let kind = if e.is_refused() { Kind::Refused } else { Kind::Config };
        Error(Box::new(Inner { kind, message: e.to_string(), source: None }))
    }
}

impl fmt::Display for Error {
    /// The whole chain, outermost first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.kind())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_adds_words_and_keeps_the_kind() {
        let e = Error::budget("119 compiles are used up").context("compile `fc1`");
        assert_eq!(e.to_string(), "compile `fc1`: 119 compiles are used up");
        assert!(e.is_budget() && !e.is_device());
        assert_eq!(e.io_kind(), None);
        let missing = Error::io("open", Path::new("a"), std::io::ErrorKind::NotFound.into()).context("resume");
        assert_eq!(missing.io_kind(), Some(std::io::ErrorKind::NotFound));
    }
}
