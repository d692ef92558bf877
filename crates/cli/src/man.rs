//! `anemone man` and `anemone completions`: what clap knows of the command line, in the forms of manuals and
//! shells.

use crate::Outcome;
use crate::args::{self, Args};
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::fs;
use std::io::{self, Write};

pub(crate) fn run(args: &args::Man, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    // `anemone help` is `--help` once more.
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.out else {
        page(command, out)?;
        return Ok(Outcome::Clean);
    };
    fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
    let subcommands: Vec<Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let n_pages = subcommands.len() + 1;
    for command in subcommands.into_iter().chain([command]) {
        let path = folder.join(Man::new(command.clone()).get_filename());
        let mut text = Vec::new();
        page(command, &mut text)?;
        fs::write(&path, text).with_context(|| format!("write `{}`", path.display()))?;
    }
    writeln!(out, "{n_pages} pages written to {}", folder.display())?;
    Ok(Outcome::Clean)
}

/// The page of a command. What its help says below the flags gets sections of their own.
fn page(command: Command, out: &mut dyn Write) -> io::Result<()> {
    let notes = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command).manual("anemone").source(concat!("anemone ", env!("CARGO_PKG_VERSION")));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if has_subcommands {
        man.render_subcommands_section(out)?;
    }
    let mut roff = Roff::new();
    let mut paragraph: Vec<&str> = Vec::new();
    for line in notes.lines().chain([""]) {
        if !line.is_empty() {
            paragraph.push(line);
            continue;
        }
        let text = match paragraph.split_first() {
            Some((heading, rest)) if heading.ends_with(':') && !rest.is_empty() => {
                let heading = heading.trim_end_matches(':').to_uppercase();
                // What manuals call it.
                let heading = if heading == "EXIT CODES" { "EXIT STATUS".into() } else { heading };
                roff.control("SH", [heading.as_str()]);
                rest
            }
            _ => &paragraph[..],
        };
        // As it stands: the columns are part of it.
        if !text.is_empty() {
            roff.control("nf", []);
            for line in text {
                roff.text([roman(*line)]);
            }
            roff.control("fi", []);
        }
        paragraph.clear();
    }
    roff.to_writer(out)
}

pub(crate) fn completions(args: &args::Completions, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    clap_complete::generate(args.shell, &mut Args::command(), "anemone", out);
    Ok(Outcome::Clean)
}
