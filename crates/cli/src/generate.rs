//! `anemone generate`: text from a model, shown as it comes.

use crate::{Outcome, args, source};
use anemone::data::Tokenizer;
use anemone::generate::{Generator, Sampler, Sampling, TextStream};
use anyhow::{Context, bail};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

pub(crate) fn run(args: &args::Generate, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let (pretrained, weights) = source::open(&args.path, args.weights.as_deref())?;
    let model = pretrained.decoder()?;
    let words = Words::new(match &args.tokenizer {
        Some(path) => {
            let json = std::fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
            Some(Tokenizer::from_json(&json).with_context(|| format!("read `{}`", path.display()))?)
        }
        None => pretrained.tokenizer()?,
    });
    let prompt = words.encode(args.prompt.as_deref())?;
    let n_positions = prompt.len().saturating_add(args.tokens).max(1);
    let n_positions = match pretrained.context() {
        0 => n_positions,
        context => n_positions.min(context),
    };
    let mut sampler = Sampler::new(Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        n_tokens: words.n_tokens(),
        seed: args.seed,
    })?;
    let mut generator = Generator::new(&*model, &pretrained.weights, n_positions)
        .with_context(|| format!("weights `{}`", weights.display()))?;
    // What is computed with lies in the generator.
    drop(pretrained);

    let start = Instant::now();
    let mut stream = words.stream(&prompt);
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut written = Ok(());
    if !args.json {
        write(out, &words.decode(&prompt)?)?;
    }
    generator.generate(&prompt, args.tokens, &mut sampler, |token| {
        tokens.push(token);
        let piece = stream.push(token)?;
        if args.json {
            text += &piece;
        } else {
            written = write(out, &piece);
        }
        Ok(if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    written?;
    let rest = stream.finish()?;
    let per_second = (prompt.len() + tokens.len()) as f64 / start.elapsed().as_secs_f64();
    if args.json {
        let report = serde_json::json!({
            "weights": weights,
            "n_prompt_tokens": prompt.len(),
            "text": text + &rest,
            "tokens": tokens,
            "seed": args.seed,
            "tokens_per_second": per_second,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(Outcome::Clean);
    }
    write(out, &(rest + "\n"))?;
    if !args.quiet {
        let (n, seen) = (tokens.len(), prompt.len());
        anstream::eprintln!("{n} tokens after {seen} of the prompt, {per_second:.0} tokens/s");
        if seen + n > n_positions {
            anstream::eprintln!(
                "the model sees {n_positions} tokens: each time they were full, the later half stayed"
            );
        }
    }
    Ok(Outcome::Clean)
}

fn write(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What stands for tokens: text, or where there is no tokenizer their numbers.
struct Words(Option<Tokenizer>);

impl Words {
    fn new(tokenizer: Option<Tokenizer>) -> Words {
        Words(tokenizer)
    }

    fn encode(&self, prompt: Option<&str>) -> anyhow::Result<Vec<u32>> {
        let tokens = match (&self.0, prompt) {
            (Some(tokenizer), prompt) => tokenizer.encode(prompt.unwrap_or("\n")).context("the prompt")?,
            (None, Some(prompt)) => {
                let number = |word: &str| {
                    word.parse().with_context(|| {
                        format!(
                            "`{word}` in the prompt: there is no tokenizer, so that numbers of tokens are expected; name one with --tokenizer"
                        )
                    })
                };
                prompt.split_whitespace().map(number).collect::<anyhow::Result<_>>()?
            }
            (None, None) => bail!("there is no tokenizer: give tokens as numbers, for instance `--prompt 1`"),
        };
        if tokens.is_empty() {
            bail!("the prompt is empty, expected one token or more: give some with --prompt");
        }
        Ok(tokens)
    }

    fn decode(&self, tokens: &[u32]) -> anyhow::Result<String> {
        Ok(match &self.0 {
            Some(tokenizer) => tokenizer.decode(tokens)?,
            None => tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        })
    }

    /// How many tokens have a text; 0 for any number.
    fn n_tokens(&self) -> usize {
        self.0.as_ref().map_or(0, Tokenizer::n_tokens)
    }

    fn stream(&self, prompt: &[u32]) -> Stream<'_> {
        Stream(self.0.as_ref().map(|tokenizer| TextStream::new(tokenizer, prompt)))
    }
}

/// The text of tokens as they come, or their numbers.
struct Stream<'a>(Option<TextStream<'a>>);

impl Stream<'_> {
    fn push(&mut self, token: u32) -> anemone::Result<String> {
        match &mut self.0 {
            Some(stream) => stream.push(token),
            None => Ok(format!(" {token}")),
        }
    }

    fn finish(self) -> anemone::Result<String> {
        self.0.map_or(Ok(String::new()), TextStream::finish)
    }
}
