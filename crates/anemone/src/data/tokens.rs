//! Files of tokens, read window by window: as llm.c and llama2.c write them, or plain; and tokens in memory.

use super::{MAX_CLASSES, Tokenizer, update};
use crate::error::{Error, Result};
use crate::file::read_exact_at;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// How tokens stand in a file; all little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenFormat {
    /// llm.c's (`dev/data/data_common.py`): 256 int32, of which the first are 20240520, 1 and the number of
    /// tokens, then tokens of 16 bits; or 20240801, 7 and the number, then tokens of 32 bits.
    #[default]
    #[serde(rename = "llm.c")]
    LlmC,
    /// Only tokens, of 16 bits: what llama2.c's `tinystories.py` writes, and nanoGPT's `prepare.py`.
    #[serde(rename = "u16")]
    U16,
    /// Only tokens, of 32 bits.
    #[serde(rename = "u32")]
    U32,
    /// Any file: its bytes are the tokens.
    #[serde(rename = "bytes")]
    Bytes,
}

/// A run of tokens.
pub struct Tokens {
    /// What it is called in messages.
    name: String,
    storage: Storage,
    n_tokens: usize,
    vocabulary: usize,
}

enum Storage {
    /// Of a file, from an offset on, tokens of that many bytes. A map would be faster by nothing that a step
    /// notices, and would end the process should the file become shorter meanwhile.
    File { file: File, offset: usize, width: usize },
    /// In memory.
    Held(Vec<u32>),
}

/// Bytes in the header of llm.c's files.
const HEADER: usize = 1024;
/// Of long runs of tokens so many pieces of so many tokens go into a checksum.
const N_SAMPLES: usize = 64;
const SAMPLE: usize = 1 << 14;

impl Tokens {
    /// Opens the file at `path`, whose tokens are to be below `vocabulary`; each is checked when it is read.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is not in that format or not of the size its header says.
    pub fn open(path: &str, format: TokenFormat, vocabulary: usize) -> Result<Tokens> {
        let wrong = |what: String| Error::config(what).context(format!("open tokens `{path}`"));
        if !(1..=MAX_CLASSES).contains(&vocabulary) {
            return Err(wrong(format!("the vocabulary is {vocabulary}, expected 1 to {MAX_CLASSES}")));
        }
        let failed = |e| Error::io("read", Path::new(path), e);
        let file = File::open(path).map_err(|e| Error::io("open", Path::new(path), e))?;
        let n_bytes = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
        let (offset, width) = match format {
            TokenFormat::LlmC => {
                let mut header = Vec::new();
                (&file).take(HEADER as u64).read_to_end(&mut header).map_err(failed)?;
                (HEADER, llm_c_width(&header, n_bytes).map_err(wrong)?)
            }
            TokenFormat::U16 => (0, 2),
            TokenFormat::U32 => (0, 4),
            TokenFormat::Bytes => (0, 1),
        };
        let n_bytes = n_bytes.saturating_sub(offset);
        if n_bytes % width != 0 {
            return Err(wrong(format!("{n_bytes} bytes, expected a multiple of {width}")));
        }
        Ok(Tokens {
            name: path.into(),
            storage: Storage::File { file, offset, width },
            n_tokens: n_bytes / width,
            vocabulary,
        })
    }

    /// The tokens of a text.
    ///
    /// # Errors
    ///
    /// If the tokenizer has no token for a part of it.
    pub fn of_text(name: &str, text: &str, tokenizer: &Tokenizer) -> Result<Tokens> {
        let tokens = tokenizer.encode(text).map_err(|e| e.context(format!("tokens of `{name}`")))?;
        let (n_tokens, vocabulary) = (tokens.len(), tokenizer.n_tokens());
        Ok(Tokens { name: name.into(), storage: Storage::Held(tokens), n_tokens, vocabulary })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many there are.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// How many different ones there can be.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Writes the tokens from `start` on as whole numbers.
    ///
    /// # Errors
    ///
    /// If there are not so many, or one is not in the vocabulary.
    pub fn read(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let Some(end) = start.checked_add(out.len()).filter(|&end| end <= self.n_tokens) else {
            let what = format!("{} tokens at {start}, but there are {}", out.len(), self.n_tokens);
            return Err(Error::config(format!("`{}`: {what}", self.name)));
        };
        match &self.storage {
            Storage::Held(tokens) => self.put(start, tokens[start..end].iter().copied(), out),
            Storage::File { file, offset, width } => {
                let mut bytes = vec![0; out.len() * width];
                read_exact_at(file, &mut bytes, (offset + start * width) as u64).map_err(|e| match e.kind() {
                    ErrorKind::UnexpectedEof => {
                        Error::config(format!("`{}` has become shorter than it was when it was opened", self.name))
                    }
                    _ => Error::io("read", Path::new(&self.name), e),
                })?;
                match width {
                    1 => self.put(start, bytes.iter().map(|&b| u32::from(b)), out),
                    2 => self.put(start, bytes.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b).into()), out),
                    _ => self.put(start, bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)), out),
                }
            }
        }
    }

    /// A checksum of their number, and of all of them or, where there are many, of pieces spread over them.
    ///
    /// # Errors
    ///
    /// As [`Tokens::read`].
    pub(super) fn checksum(&self) -> Result<u32> {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&(self.n_tokens as u64).to_le_bytes());
        let mut piece = vec![0.0; SAMPLE.min(self.n_tokens)];
        let last = self.n_tokens - piece.len();
        let n_samples = self.n_tokens.div_ceil(SAMPLE).min(N_SAMPLES);
        for i in 0..n_samples {
            let start = (last as u128 * i as u128 / (n_samples - 1).max(1) as u128) as usize;
            self.read(start, &mut piece)?;
            update(&mut sum, &piece);
        }
        Ok(sum.finalize())
    }

    fn put(&self, start: usize, tokens: impl Iterator<Item = u32>, out: &mut [f32]) -> Result<()> {
        for (i, (to, token)) in out.iter_mut().zip(tokens).enumerate() {
            if token as usize >= self.vocabulary {
                let what = format!("token {} is {token}, expected below the vocabulary of", start + i);
                return Err(Error::config(format!("`{}`: {what} {}", self.name, self.vocabulary)));
            }
            *to = token as f32;
        }
        Ok(())
    }
}

/// Bytes a token, by the header of a file of llm.c of so many bytes.
fn llm_c_width(header: &[u8], n_bytes: usize) -> std::result::Result<usize, String> {
    if header.len() < HEADER {
        return Err(format!("{} bytes, expected a header of {HEADER}", header.len()));
    }
    let word = |i: usize| i32::from_le_bytes([0, 1, 2, 3].map(|b| header[4 * i + b]));
    let (version, width) = match word(0) {
        20_240_520 => (1, 2),
        20_240_801 => (7, 4),
        magic => {
            let known = "20240520 (16 bits a token) or 20240801 (32 bits)";
            let remedy = "for a file without a header say `data.format = \"u16\"` or `\"u32\"`";
            return Err(format!("the header begins with {magic}, expected {known}; {remedy}"));
        }
    };
    if word(1) != version {
        return Err(format!("version {}, expected {version}", word(1)));
    }
    let found = n_bytes.saturating_sub(HEADER);
    match usize::try_from(word(2)).ok().and_then(|n| n.checked_mul(width)) {
        Some(expected) if expected == found => Ok(width),
        _ => Err(format!("{found} bytes of tokens, but the header says {} tokens of {width} bytes", word(2))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn llm_c(magic: i32, version: i32, n_tokens: i32, tokens: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [magic, version, n_tokens].iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.resize(HEADER, 0);
        bytes.extend(tokens);
        bytes
    }

    fn open(bytes: &[u8], format: TokenFormat, vocabulary: usize) -> Result<Tokens> {
        Tokens::open(file(bytes).path().to_str().unwrap(), format, vocabulary)
    }

    #[test]
    fn every_format_gives_its_tokens() {
        let (wide, narrow) = ([1, 0, 0, 0, 0, 1, 1, 0], [1, 0, 0, 1]);
        for (bytes, format, expected) in [
            (llm_c(20_240_520, 1, 2, &narrow), TokenFormat::LlmC, vec![1.0, 256.0]),
            (llm_c(20_240_801, 7, 2, &wide), TokenFormat::LlmC, vec![1.0, 65792.0]),
            (narrow.to_vec(), TokenFormat::U16, vec![1.0, 256.0]),
            (wide.to_vec(), TokenFormat::U32, vec![1.0, 65792.0]),
            (narrow.to_vec(), TokenFormat::Bytes, vec![1.0, 0.0, 0.0, 1.0]),
            (vec![], TokenFormat::U16, vec![]),
        ] {
            let tokens = open(&bytes, format, 70_000).unwrap();
            let mut found = vec![0.0; tokens.n_tokens()];
            tokens.read(0, &mut found).unwrap();
            assert_eq!(found, expected, "{format:?}");
            assert!(tokens.read(1, &mut found).is_err() || found.is_empty(), "{format:?}: behind the end");
        }
    }

    #[test]
    fn a_file_that_lies_is_refused() {
        for (bytes, format, named) in [
            (vec![], TokenFormat::LlmC, "0 bytes, expected a header of 1024"),
            (llm_c(20_240_520, 1, 0, &[])[..1023].to_vec(), TokenFormat::LlmC, "1023 bytes"),
            (llm_c(20_240_522, 1, 1, &[1, 0]), TokenFormat::LlmC, "begins with 20240522"),
            (llm_c(20_240_520, 7, 1, &[1, 0]), TokenFormat::LlmC, "version 7, expected 1"),
            (llm_c(20_240_801, 1, 1, &[1, 0, 0, 0]), TokenFormat::LlmC, "version 1, expected 7"),
            (llm_c(20_240_520, 1, 2, &[1, 0]), TokenFormat::LlmC, "2 bytes of tokens"),
            (llm_c(20_240_520, 1, 1, &[1, 0, 1]), TokenFormat::LlmC, "3 bytes of tokens"),
            (llm_c(20_240_520, 1, -1, &[1, 0]), TokenFormat::LlmC, "says -1 tokens"),
            (llm_c(20_240_520, 1, i32::MAX, &[1, 0]), TokenFormat::LlmC, "says 2147483647 tokens"),
            (vec![1, 0, 1], TokenFormat::U16, "3 bytes, expected a multiple of 2"),
            (vec![1, 0, 1, 0, 1, 0], TokenFormat::U32, "6 bytes, expected a multiple of 4"),
        ] {
            let e = open(&bytes, format, 10).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(e.contains(named) && e.contains("open tokens `"), "{named}: {e}");
        }
        for vocabulary in [0, MAX_CLASSES + 1] {
            assert!(open(&[1, 0], TokenFormat::U16, vocabulary).is_err());
        }
        assert!(Tokens::open("no such file", TokenFormat::U16, 10).is_err());
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error() {
        let file = file(&[1, 0, 2, 0]);
        let tokens = Tokens::open(file.path().to_str().unwrap(), TokenFormat::U16, 10).unwrap();
        std::fs::write(file.path(), [1, 0]).unwrap();
        let e = tokens.read(0, &mut [0.0; 2]).unwrap_err().to_string();
        assert!(e.contains("has become shorter"), "{e}");
    }

    #[test]
    fn a_checksum_is_of_what_was_read_wherever_it_lies() {
        let many = 3 * N_SAMPLES * SAMPLE + 5;
        let tokens: Vec<u8> = (0..many).flat_map(|i| ((i * i + i / 7) as u16).to_le_bytes()).collect();
        let sum = |bytes: &[u8]| open(bytes, TokenFormat::U16, 1 << 16).unwrap().checksum().unwrap();
        let of_all = sum(&tokens);
        assert_eq!(of_all, sum(&tokens));
        for changed in [0, many - 1] {
            let mut tokens = tokens.clone();
            tokens[2 * changed] ^= 1;
            assert_ne!(of_all, sum(&tokens), "token {changed}");
        }
        assert_ne!(of_all, sum(&tokens[..2 * (many - 1)]));
        assert_ne!(sum(&[]), sum(&[0, 0]));
        let text = Tokens::of_text("text", "\u{1}\u{2}", &Tokenizer::bytes()).unwrap();
        assert_eq!(text.checksum().unwrap(), sum(&[1, 0, 2, 0]));
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_named() {
        let tokens = open(&[1, 0, 2, 0, 10, 0], TokenFormat::U16, 10).unwrap();
        let mut out = [0.0; 2];
        tokens.read(0, &mut out).unwrap();
        let e = tokens.read(1, &mut out).unwrap_err().to_string();
        assert!(e.contains("token 2 is 10, expected below the vocabulary of 10"), "{e}");
    }
}
