//! Tokens to text while they come.

use crate::data::Tokenizer;
use crate::error::Result;

/// How many tokens may wait for the rest of a character; more are no UTF-8.
const MOST_WAITING: usize = 8;

/// Gives the text of tokens as they come, whole characters only.
///
/// ```
/// use anemone::data::Tokenizer;
/// use anemone::generate::TextStream;
///
/// let tokenizer = Tokenizer::bytes();
/// let mut text = TextStream::new(&tokenizer, &[]);
/// assert_eq!(text.push(0xc3)?, "");
/// assert_eq!(text.push(0xa9)?, "é");
/// # Ok::<(), anemone::Error>(())
/// ```
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Those whose text came last, on which the text of the next may depend, and those whose text is still to
    /// come.
    tokens: Vec<u32>,
    /// How many the former are.
    n_given: usize,
}

impl<'a> TextStream<'a> {
    /// The text of what follows the tokens `before`.
    pub fn new(tokenizer: &'a Tokenizer, before: &[u32]) -> TextStream<'a> {
        TextStream { tokenizer, tokens: before.to_vec(), n_given: before.len() }
    }

    /// The text that a token completes; none if it is a part of a character.
    ///
    /// # Errors
    ///
    /// If there is no such token.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        self.text(self.tokens.len() - self.n_given < MOST_WAITING)
    }

    /// What still waits for more, U+FFFD standing for what is no character.
    ///
    /// # Errors
    ///
    /// As [`push`](TextStream::push).
    pub fn finish(mut self) -> Result<String> {
        self.text(false)
    }

    fn text(&mut self, may_wait: bool) -> Result<String> {
        let all = self.tokenizer.decode(&self.tokens)?;
        if may_wait && all.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        // Some tokenizers put no space before the first token, so that the difference is taken.
        let given = self.tokenizer.decode(&self.tokens[..self.n_given])?;
        // What was no character when it could wait no longer may be one now.
        let mut pairs = all.char_indices().zip(given.chars());
        let same = pairs.find(|((_, new), old)| new != old).map_or(given.len(), |((at, _), _)| at);
        let new = all.get(same..).unwrap_or_default().to_string();
        self.tokens.drain(..self.n_given);
        self.n_given = self.tokens.len();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer, &[]);
        let mut pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = Tokenizer::bytes();
        let tokens = tokenizer.encode("a🙂é").unwrap();
        assert_eq!(pieces(&tokenizer, &tokens), ["a", "", "", "", "🙂", "", "é", ""]);
        let tokenizer = Tokenizer::characters("aé🙂");
        assert_eq!(pieces(&tokenizer, &[2, 0, 1]), ["🙂", "a", "é", ""]);
    }

    #[test]
    fn what_is_no_utf8_does_not_wait_for_ever() {
        let tokenizer = Tokenizer::bytes();
        assert_eq!(pieces(&tokenizer, &[0x61, 0xc3]), ["a", "", "\u{fffd}"]);
        assert_eq!(pieces(&tokenizer, &[0xc3, 0x61]), ["", "\u{fffd}a", ""]);
        let found = pieces(&tokenizer, &[0xff; 20]);
        assert_eq!(found.concat().chars().count(), 20);
        assert_ne!(found[MOST_WAITING - 1], "");
        // What could wait no longer turns out to be the beginning of a character.
        let begun = [&[0xff; MOST_WAITING - 1][..], &[0xc3, 0xa9]].concat();
        assert_eq!(pieces(&tokenizer, &begun).last_chunk(), Some(&["é".to_string(), String::new()]));
    }

    #[test]
    fn a_token_that_there_is_not_is_an_error() {
        let e = TextStream::new(&Tokenizer::bytes(), &[]).push(256).unwrap_err();
        assert!(e.to_string().contains("there is no token 256"), "{e}");
    }
}
