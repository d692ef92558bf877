//! `anemone init`: writes a configuration to start from.

use crate::Outcome;
use crate::args::{self, Family};
use anemone::config::{Config, ModelConfig};
use anemone::file::write_atomically;
use anemone::models::Llama;
use anyhow::{Context, bail};
use std::io::Write;
use std::path::{Path, PathBuf};

const DIGITS: &str = "\
# On handwritten digits, which are built in. For data of your own, put a section like one of these in place of `[data]`:
#
#   [data]
#   kind = \"tensors\"
#   inputs = \"inputs.npy\"       # an example a row; also .npz (\"file.npz#array\"), IDX and CSV, as they are or by gzip
#   targets = \"targets.npy\"     # the class of each, from 0
#   classes = 10
#
";

/// What only linear layers take.
const NUMBERS: &str = "\
#   [data]
#   kind = \"tensors\"
#   inputs = \"houses.csv\"
#   target_column = \"price\"    # a number to predict, with `loss = \"mse\"` in `[model]`
#   standardize = true
#
";

const IMAGES: &str = "\
#   [data]
#   kind = \"tensors\"
#   inputs = \"pixels.csv\"      # an image a row
#   target_column = \"label\"
#   classes = 10
#   image = [1, 28, 28]        # channels, height, width
#   scale = 0.00392156862745098
#
";

const TEXT: &str = "\
# On the characters of plays of Shakespeare, which are built in. For data of your own, put a section like one of these in
# place of `[data]`:
#
#   [data]
#   kind = \"text\"
#   path = \"book.txt\"
#   tokenizer = \"characters\"   # or \"bytes\", or the path of a tokenizer.json
#   length = 64
#   batch = 12
#
#   [data]
#   kind = \"tokens\"            # as llama2.c and nanoGPT write them; \"llm.c\" for that one's
#   path = \"train.bin\"
#   format = \"u16\"
#   vocabulary = 50257
#   length = 64
#   batch = 12
#
";

pub(crate) fn run(args: &args::Init, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let text = text(args.family)?;
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.toml", args.family.as_str())));
    if path == Path::new("-") {
        out.write_all(text.as_bytes())?;
        return Ok(Outcome::Clean);
    }
    if !args.force && path.symlink_metadata().is_ok() {
        bail!("`{}` exists: name another file with --out, or overwrite it with --force", path.display());
    }
    write_atomically(&path, text.as_bytes())?;
    let name = path.display();
    if path.to_str().is_some_and(|path| path.ends_with(".toml")) {
        writeln!(out, "Written to {name}; train it with `anemone train {name}`")?;
    } else {
        // Without that ending, `anemone train` looks for a preset.
        writeln!(
            out,
            "Written to {name}; rename it to {name}.toml and train it with `anemone train {name}.toml`"
        )?;
    }
    Ok(Outcome::Clean)
}

/// A configuration of the family that trains as it is.
fn text(family: Family) -> anyhow::Result<String> {
    let (preset, what, data) = match family {
        Family::Mlp => ("digits", "A classifier of linear layers.", [DIGITS, NUMBERS]),
        Family::Convnet => ("digits-convnet", "A classifier of images by convolutions.", [DIGITS, IMAGES]),
        Family::Gpt => ("shakespeare", "A small transformer as GPT-2's.", [TEXT, ""]),
        Family::Llama => ("shakespeare", "A small transformer as Llama's.", [TEXT, ""]),
    };
    let mut config = Config::preset(preset).context("a preset is missing: please report this")?;
    if family == Family::Llama {
        let llama = Llama { n_layers: 4, n_heads: 4, n_kv_heads: 2, width: 128, ..Llama::default() };
        config.model = ModelConfig::Llama(llama);
    }
    let [first, second] = data;
    Ok(format!(
        "# {what}\n{first}{second}# `anemone train FILE --plan` says what a step would do where.\n\n{}",
        config.to_commented_toml()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_in_comments_are_right() {
        for (name, family) in Family::ALL {
            let text = text(family).unwrap();
            assert!(text.contains(&format!("kind = \"{name}\"")), "{text}");
            let sections: Vec<String> = text
                .lines()
                .take_while(|line| line.starts_with('#'))
                .filter_map(|line| line.strip_prefix("#   "))
                .fold(Vec::new(), |mut sections: Vec<String>, line| {
                    if line.starts_with('[') {
                        sections.push(String::new());
                    }
                    sections.last_mut().unwrap().push_str(&format!("{line}\n"));
                    sections
                });
            assert_eq!(sections.len(), 2, "{text}");
            for section in sections {
                assert!(Config::from_toml(&section).is_ok(), "{section}: {:?}", Config::from_toml(&section));
            }
        }
    }
}
