//! Text to tokens and back.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What turns text into tokens and tokens into text.
///
/// It is kept as JSON beside the weights that were trained with it:
///
/// ```
/// use anemone::data::Tokenizer;
///
/// let tokenizer = Tokenizer::characters("hello");
/// assert_eq!(tokenizer.encode("hole")?, [1, 3, 2, 0]);
/// let again = Tokenizer::from_json(&tokenizer.to_json()?)?;
/// assert_eq!(again.decode(&[1, 3, 2, 0])?, "hole");
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Plain(Plain),
    #[cfg(feature = "tokenizers")]
    File(Box<tokenizers::Tokenizer>),
}

/// What is built in, and how it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Plain {
    /// The bytes of UTF-8.
    Bytes,
    /// Characters; a token is a place in this text, whose characters go up.
    Characters { characters: String },
}

impl Tokenizer {
    /// Bytes: 256 tokens.
    pub fn bytes() -> Tokenizer {
        Tokenizer(Kind::Plain(Plain::Bytes))
    }

    /// The different characters of a text, in the order of their numbers in Unicode.
    pub fn characters(text: &str) -> Tokenizer {
        let characters: BTreeSet<char> = text.chars().collect();
        Tokenizer(Kind::Plain(Plain::Characters { characters: characters.into_iter().collect() }))
    }

    /// Reads what [`to_json`](Tokenizer::to_json) wrote, or, with the feature `tokenizers`, a `tokenizer.json` of
    /// Hugging Face's.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn from_json(json: &str) -> Result<Tokenizer> {
        let value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
        if value.get("model").is_some() {
            return Tokenizer::from_file_json(json);
        }
        let plain: Plain = serde_json::from_value(value).map_err(wrong)?;
        if let Plain::Characters { characters } = &plain {
            let next = || characters.chars().skip(1);
            if characters.is_empty() || characters.chars().zip(next()).any(|(a, b)| a >= b) {
                return Err(wrong(format!("`characters` is {characters:?}, expected characters that go up")));
            }
        }
        Ok(Tokenizer(Kind::Plain(plain)))
    }

    #[cfg(feature = "tokenizers")]
    fn from_file_json(json: &str) -> Result<Tokenizer> {
        let tokenizer = json.parse().map_err(wrong)?;
        Ok(Tokenizer(Kind::File(Box::new(tokenizer))))
    }

    #[cfg(not(feature = "tokenizers"))]
    fn from_file_json(_: &str) -> Result<Tokenizer> {
        let what = "tokenizer: a `tokenizer.json` needs a build with the feature `tokenizers`";
        Err(Error::unavailable(what))
    }

    /// The tokenizer as JSON, complete.
    ///
    /// # Errors
    ///
    /// If a tokenizer from a file cannot be written.
    pub fn to_json(&self) -> Result<String> {
        match &self.0 {
            Kind::Plain(plain) => serde_json::to_string(plain).map_err(wrong),
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => tokenizer.to_string(false).map_err(wrong),
        }
    }

    /// How many tokens there are; all are below this.
    pub fn n_tokens(&self) -> usize {
        match &self.0 {
            Kind::Plain(Plain::Bytes) => 256,
            Kind::Plain(Plain::Characters { characters }) => characters.chars().count(),
            // Some files leave numbers out.
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => tokenizer.get_vocab(true).values().max().map_or(0, |&last| last as usize + 1),
        }
    }

    /// The tokens of a text, with no marks of beginning or end added.
    ///
    /// # Errors
    ///
    /// If it has a character that is none of the tokenizer's.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0 {
            Kind::Plain(Plain::Bytes) => Ok(text.bytes().map(u32::from).collect()),
            Kind::Plain(Plain::Characters { characters }) => {
                let characters: Vec<char> = characters.chars().collect();
                let token = |(at, c): (usize, char)| match characters.binary_search(&c) {
                    Ok(token) => Ok(token as u32),
                    Err(_) => {
                        let all: String = characters.iter().collect();
                        Err(wrong(format!("character {at} is {c:?}, expected one of {all:?}")))
                    }
                };
                text.chars().enumerate().map(token).collect()
            }
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => Ok(tokenizer.encode_fast(text, false).map_err(wrong)?.get_ids().to_vec()),
        }
    }

    /// The text of tokens. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// If there is no such token.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let n = self.n_tokens();
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= n) {
            return Err(wrong(format!("there is no token {token}, expected below {n}")));
        }
        match &self.0 {
            Kind::Plain(Plain::Bytes) => {
                let bytes: Vec<u8> = tokens.iter().map(|&token| token as u8).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::Plain(Plain::Characters { characters }) => {
                let characters: Vec<char> = characters.chars().collect();
                Ok(tokens.iter().map(|&token| characters[token as usize]).collect())
            }
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => tokenizer.decode(tokens, false).map_err(wrong),
        }
    }
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::config(format!("tokenizer: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back() {
        let text = "Über\n“so” 🙂 was";
        for tokenizer in [Tokenizer::bytes(), Tokenizer::characters(text)] {
            let tokenizer = Tokenizer::from_json(&tokenizer.to_json().unwrap()).unwrap();
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
            assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.n_tokens()));
            let e = tokenizer.decode(&[0, tokenizer.n_tokens() as u32]).unwrap_err().to_string();
            assert!(e.contains("there is no token"), "{e}");
        }
    }

    #[test]
    fn characters_are_numbered_in_order() {
        let tokenizer = Tokenizer::characters("banana\n");
        assert_eq!(tokenizer.to_json().unwrap(), r#"{"kind":"characters","characters":"\nabn"}"#);
        assert_eq!(tokenizer.encode("nab\n").unwrap(), [3, 1, 2, 0]);
        let e = tokenizer.encode("bat").unwrap_err().to_string();
        assert!(e.contains(r#"character 2 is 't', expected one of "\nabn""#), "{e}");
    }

    #[test]
    fn half_a_character_is_replaced() {
        assert_eq!(Tokenizer::bytes().decode(&[0x61, 0xc3]).unwrap(), "a\u{fffd}");
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"kind":"words"}"#,
            r#"{"kind":"characters","characters":""}"#,
            r#"{"kind":"characters","characters":"ba"}"#,
            r#"{"kind":"characters","characters":"aa"}"#,
            r#"{"model":{}}"#,
        ] {
            let e = Tokenizer::from_json(json).unwrap_err().to_string();
            assert!(e.starts_with("tokenizer: "), "{json}: {e}");
        }
    }

    /// A byte-level BPE of four tokens and one merge, written by hand.
    #[cfg(feature = "tokenizers")]
    #[test]
    fn a_file_of_merges_is_read() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
            "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,
            "use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
            "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
            "vocab":{"a":0,"b":1,"ab":5,"Ġ":3},"merges":[["a","b"]]}}"#;
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let again = Tokenizer::from_json(&tokenizer.to_json().unwrap()).unwrap();
        for tokenizer in [tokenizer, again] {
            assert_eq!(tokenizer.n_tokens(), 6);
            assert_eq!(tokenizer.encode("abb a").unwrap(), [5, 1, 3, 0]);
            assert_eq!(tokenizer.decode(&[5, 1, 3, 0]).unwrap(), "abb a");
        }
    }
}
