//! The arguments of the subcommands that help to begin: configurations, completions, manual pages.

use super::named;
use clap::builder::TypedValueParser;
use std::path::PathBuf;

/// Write a configuration to start from, for a family of models, with a comment for each key
///
/// It trains as it is, on data that are built in, and says how to put one's own in their place.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone init                         a classifier of linear layers, in mlp.toml
  anemone init gpt --out mine.toml     a small GPT, in mine.toml
  anemone train mine.toml              train it
  anemone init llama --out - | less    look at it

Exit codes:
  0  written
  1  failed: the file exists already, or could not be written
  2  the command line is wrong")]
pub(crate) struct Init {
    /// The family of the model
    #[arg(value_parser = family(), default_value = "mlp")]
    pub(crate) family: Family,

    /// The file to write, or `-` for standard output; by default FAMILY.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Overwrite the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// What is told apart by the kind of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Linear layers.
    Mlp,
    /// Convolutions.
    Convnet,
    /// GPT-2's transformer.
    Gpt,
    /// Llama's.
    Llama,
}

impl Family {
    /// The families by name.
    pub(crate) const ALL: [(&str, Family); 4] =
        [("mlp", Family::Mlp), ("convnet", Family::Convnet), ("gpt", Family::Gpt), ("llama", Family::Llama)];

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        Family::ALL[self as usize].0
    }
}

fn family() -> impl TypedValueParser<Value = Family> {
    named(&Family::ALL)
}

/// Print completions of commands and flags for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone completions bash > ~/.local/share/bash-completion/completions/anemone
  anemone completions zsh > ~/.zfunc/_anemone          with `fpath+=~/.zfunc` before `compinit` in .zshrc
  anemone completions fish > ~/.config/fish/completions/anemone.fish

Exit codes:
  0  printed
  2  the command line is wrong")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page of anemone, or write those of all its commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone man | man -l -                         read that of anemone
  anemone man --out ~/.local/share/man/man1      all of them, for `man anemone-train` and the like

Exit codes:
  0  printed or written
  1  failed: a file could not be written
  2  the command line is wrong")]
pub(crate) struct Man {
    /// The folder for the pages; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}
