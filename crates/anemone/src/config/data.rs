//! The data section of a configuration: what a model is trained on.

mod build;

use crate::data::{MAX_CLASSES, Split, TokenFormat};
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a model is trained on. Paths are relative to the current folder.
///
/// ```
/// # use anemone::Config;
/// # for text in [
/// # r#"
/// [data]                              # 1797 digits of 8x8 pixels, built in
/// kind = "digits"
/// batch = 64
/// # "#, r#"
/// [data]                              # MNIST
/// kind = "tensors"
/// inputs = "train-images-idx3-ubyte.gz"
/// targets = "train-labels-idx1-ubyte.gz"
/// validation_inputs = "t10k-images-idx3-ubyte.gz"
/// validation_targets = "t10k-labels-idx1-ubyte.gz"
/// classes = 10
/// scale = 0.00392156862745098
/// # "#, r#"
/// [data]                              # a table of numbers, one of which is to be predicted
/// kind = "tensors"
/// inputs = "houses.csv"
/// target_column = "price"
/// standardize = true
/// # "#, r#"
/// [data]                              # nine plays, built in
/// kind = "shakespeare"
/// length = 64
/// batch = 12
/// # "#, r#"
/// [data]                              # any text; "bytes" or a tokenizer.json instead of "characters"
/// kind = "text"
/// path = "book.txt"
/// tokenizer = "characters"
/// # "#, r#"
/// [data]                              # tokens as llama2.c writes them
/// kind = "tokens"
/// path = "TinyStories_all_data/data00.bin"
/// format = "u16"
/// vocabulary = 32000
/// length = 256
/// # "#] {
/// #     Config::from_toml(text)?;
/// # }
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DataConfig {
    /// One batch of a sine, whose target is itself.
    Sine {
        /// Rows in a batch.
        #[schemars(range(min = 1))]
        rows: usize,
    },
    /// Handwritten digits, 1797 of 8x8 pixels, which are built in.
    Digits(DigitsConfig),
    /// Arrays from files.
    Tensors(TensorsConfig),
    /// Plays of Shakespeare in characters, which are built in.
    Shakespeare(ShakespeareConfig),
    /// A text file.
    Text(TextConfig),
    /// A file of tokens.
    Tokens(TokensConfig),
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig::Sine { rows: 16 }
    }
}

/// Handwritten digits; values are divided by 16, so that they are 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DigitsConfig {
    /// Examples in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// The fraction held back for validation.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub validation: f64,
    /// Which ones that takes.
    pub split: Split,
    /// The seed of the order; where there is none, `train.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for DigitsConfig {
    fn default() -> DigitsConfig {
        DigitsConfig { batch: 32, validation: 0.2, split: Split::default(), seed: None }
    }
}

/// Arrays from files: `.npy`, `.npz` (`file.npz#array`), IDX or CSV, also compressed by gzip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TensorsConfig {
    /// The file of inputs, a row an example.
    pub inputs: String,
    /// The file of targets; or none, and `target_column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// The column of the inputs that is the target, by its name or its number from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_column: Option<String>,
    /// Whether the first row of a CSV file names its columns.
    pub header: bool,
    /// How many classes there are, which targets then are, from 0; if not said, targets are numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_CLASSES))]
    pub classes: Option<usize>,
    /// Channels, height and width of an image, where the shape of the inputs does not say them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<[usize; 3]>,
    /// What inputs are multiplied by.
    pub scale: f32,
    /// Whether inputs are shifted and scaled to a mean of 0 and a variance of 1 over the training part, instead.
    pub standardize: bool,
    /// The fraction held back for validation, where it has no file.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub validation: f64,
    /// Which examples that takes.
    pub split: Split,
    /// The file of inputs for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_inputs: Option<String>,
    /// The file of targets for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_targets: Option<String>,
    /// Examples in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// The seed of the order; where there is none, `train.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for TensorsConfig {
    fn default() -> TensorsConfig {
        TensorsConfig {
            inputs: String::new(),
            targets: None,
            target_column: None,
            header: true,
            classes: None,
            image: None,
            scale: 1.0,
            standardize: false,
            validation: 0.1,
            split: Split::default(),
            validation_inputs: None,
            validation_targets: None,
            batch: 32,
            seed: None,
        }
    }
}

/// Plays of Shakespeare, a character a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShakespeareConfig {
    /// The fraction held back for validation, from the end.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub validation: f64,
    /// Windows in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Tokens in a window.
    #[schemars(range(min = 1))]
    pub length: usize,
    /// The seed of the windows; where there is none, `train.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for ShakespeareConfig {
    fn default() -> ShakespeareConfig {
        ShakespeareConfig { validation: 0.1, batch: 12, length: 64, seed: None }
    }
}

/// A text file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// The file.
    pub path: String,
    /// The file for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_path: Option<String>,
    /// `characters`, those of the files; `bytes`, of any file; or the path of a `tokenizer.json`.
    pub tokenizer: String,
    /// The fraction held back for validation, from the end, where it has no file.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub validation: f64,
    /// Windows in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Tokens in a window.
    #[schemars(range(min = 1))]
    pub length: usize,
    /// The seed of the windows; where there is none, `train.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for TextConfig {
    fn default() -> TextConfig {
        let ShakespeareConfig { validation, batch, length, seed } = ShakespeareConfig::default();
        let (path, tokenizer) = (String::new(), "characters".into());
        TextConfig { path, validation_path: None, tokenizer, validation, batch, length, seed }
    }
}

/// A file of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// The file.
    pub path: String,
    /// The file for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_path: Option<String>,
    /// How tokens stand in the files.
    pub format: TokenFormat,
    /// How many different tokens there can be; the default is GPT-2's.
    #[schemars(range(min = 1))]
    pub vocabulary: usize,
    /// The fraction held back for validation, from the end, where it has no file.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub validation: f64,
    /// Windows in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Tokens in a window.
    #[schemars(range(min = 1))]
    pub length: usize,
    /// The seed of the windows; where there is none, `train.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for TokensConfig {
    fn default() -> TokensConfig {
        let ShakespeareConfig { validation, batch, length, seed } = ShakespeareConfig::default();
        let (path, format) = (String::new(), TokenFormat::default());
        TokensConfig { path, validation_path: None, format, vocabulary: 50_257, validation, batch, length, seed }
    }
}

/// An error about a key.
fn wrong<T>(key: &str, found: impl fmt::Display, expected: &str) -> Result<T> {
    Err(Error::config(format!("`data.{key}` is {found}, expected {expected}")))
}

impl DataConfig {
    /// Checks what one value alone cannot say; files are not looked at.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            DataConfig::Sine { .. } | DataConfig::Digits(_) | DataConfig::Shakespeare(_) => Ok(()),
            DataConfig::Tensors(tensors) => tensors.check(),
            DataConfig::Text(t) => {
                path("path", &t.path)?;
                path("tokenizer", &t.tokenizer)
            }
            DataConfig::Tokens(t) => path("path", &t.path),
        }
    }

    /// What the data are called in messages.
    fn name(&self) -> String {
        match self {
            DataConfig::Sine { .. } => "`sine`".into(),
            DataConfig::Digits(_) => "`digits`".into(),
            DataConfig::Shakespeare(_) => "`shakespeare`".into(),
            DataConfig::Tensors(c) => format!("`{}`", c.inputs),
            DataConfig::Text(c) => format!("`{}`", c.path),
            DataConfig::Tokens(c) => format!("`{}`", c.path),
        }
    }
}

fn path(key: &str, path: &str) -> Result<()> {
    if path.is_empty() { wrong(key, "not said", "a file") } else { Ok(()) }
}

impl TensorsConfig {
    fn check(&self) -> Result<()> {
        path("inputs", &self.inputs)?;
        if self.targets.is_some() == self.target_column.is_some() {
            let found = if self.targets.is_some() { "said" } else { "not said" };
            return wrong("targets", format!("{found}, and so is `data.target_column`"), "one of the two");
        }
        let needs_targets = self.validation_inputs.is_some() && self.targets.is_some();
        if self.validation_targets.is_some() != needs_targets {
            let found = if needs_targets { "not said" } else { "said" };
            return wrong(
                "validation_targets",
                found,
                "it with both `validation_inputs` and `targets`, or not at all",
            );
        }
        if self.scale == 0.0 {
            return wrong("scale", self.scale, "any number but 0");
        }
        if self.standardize && self.scale != 1.0 {
            return wrong("scale", self.scale, "1 where `data.standardize` is set, which scales instead");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
