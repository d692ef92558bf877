//! From the data section to the data.

use super::{DataConfig, DigitsConfig, ShakespeareConfig, TensorsConfig, TextConfig, TokensConfig, wrong};
use crate::config::{Config, ModelConfig};
use crate::data::{
    Array, Data, Examples, ExamplesOptions, Held, Layout, Pairs, Sine, Stream, StreamOptions, TokenFormat,
    Tokenizer, Tokens, digits, shakespeare,
};
use crate::error::{Error, Result};
use anemone_mil::ir::TensorType;
use std::path::Path;

impl TensorsConfig {
    fn pairs(&self, inputs: &str, targets: Option<&str>) -> Result<Pairs> {
        let inputs = Array::read(inputs, self.header)?;
        let (inputs, targets) = match (targets, &self.target_column) {
            (Some(targets), _) => (inputs, Array::read(targets, self.header)?),
            (None, column) => inputs.take_column(column.as_deref().unwrap_or_default())?,
        };
        Ok(Pairs { inputs, targets })
    }

    fn data(&self, layout: Layout, seed: u64) -> Result<Examples> {
        let pairs = self.pairs(&self.inputs, self.targets.as_deref())?;
        let held = match &self.validation_inputs {
            Some(inputs) => Held::Separate(self.pairs(inputs, self.validation_targets.as_deref())?),
            None => Held::Fraction(self.validation, self.split),
        };
        let options = ExamplesOptions {
            layout,
            n_classes: self.classes,
            image: self.image,
            scale: self.scale,
            standardize: self.standardize,
            batch: self.batch,
            seed: self.seed.unwrap_or(seed),
        };
        Examples::new(pairs, held, &options)
    }
}

impl DigitsConfig {
    fn data(&self, layout: Layout, seed: u64) -> Result<Examples> {
        let options = ExamplesOptions {
            layout,
            n_classes: Some(10),
            image: None,
            scale: 0.0625,
            standardize: false,
            batch: self.batch,
            seed: self.seed.unwrap_or(seed),
        };
        Examples::new(digits()?, Held::Fraction(self.validation, self.split), &options)
    }
}

impl ShakespeareConfig {
    pub(super) fn data(&self, seed: u64) -> Result<Stream> {
        let text = shakespeare()?;
        let tokenizer = Tokenizer::characters(&text);
        let tokens = Tokens::of_text("shakespeare", &text, &tokenizer)?;
        let ShakespeareConfig { validation, batch, length, .. } = *self;
        let options = StreamOptions { batch, length, validation, seed: self.seed.unwrap_or(seed) };
        Stream::new(tokens, None, Some(tokenizer), &options)
    }
}

impl TextConfig {
    pub(super) fn data(&self, seed: u64) -> Result<Stream> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(|e| Error::io("read", Path::new(path), e));
        let tokenizer = match self.tokenizer.as_str() {
            "bytes" => Tokenizer::bytes(),
            "characters" => {
                let validation = self.validation_path.as_deref().map(read).transpose()?;
                Tokenizer::characters(&(read(&self.path)? + &validation.unwrap_or_default()))
            }
            file => Tokenizer::from_json(&read(file)?)
                .map_err(|e| e.context(format!("`data.tokenizer`: read `{file}`")))?,
        };
        let open = |path: &String| match self.tokenizer.as_str() {
            "bytes" => Tokens::open(path, TokenFormat::Bytes, tokenizer.n_tokens()),
            _ => Tokens::of_text(path, &read(path)?, &tokenizer),
        };
        let (tokens, held) = (open(&self.path)?, self.validation_path.as_ref().map(open).transpose()?);
        let TextConfig { validation, batch, length, .. } = *self;
        let options = StreamOptions { batch, length, validation, seed: self.seed.unwrap_or(seed) };
        Stream::new(tokens, held, Some(tokenizer), &options)
    }
}

impl TokensConfig {
    pub(super) fn data(&self, seed: u64) -> Result<Stream> {
        let open = |path: &String| Tokens::open(path, self.format, self.vocabulary);
        let (tokens, held) = (open(&self.path)?, self.validation_path.as_ref().map(open).transpose()?);
        let TokensConfig { validation, batch, length, .. } = *self;
        let options = StreamOptions { batch, length, validation, seed: self.seed.unwrap_or(seed) };
        Stream::new(tokens, held, None, &options)
    }
}

impl Config {
    /// The data, as the model wants them.
    ///
    /// # Errors
    ///
    /// If they cannot be read or do not suit the model.
    pub fn data(&self) -> Result<Box<dyn Data>> {
        let (layout, seed) = (self.model.layout(), self.train.seed);
        // Channels of input and output, where the model says them.
        let columns = match &self.model {
            ModelConfig::Mlp(mlp) => Some((mlp.inputs, mlp.outputs)),
            ModelConfig::Convnet(_) | ModelConfig::Gpt(_) | ModelConfig::Llama(_) => None,
        };
        let stream = |stream: Result<Stream>| -> Result<Box<dyn Data>> {
            match layout {
                Layout::Tokens => Ok(Box::new(stream?)),
                Layout::Columns | Layout::Images => {
                    let message = format!("`data.kind` is one of tokens, but the model takes {layout:?}");
                    Err(Error::config(message.to_lowercase()))
                }
            }
        };
        let data: Box<dyn Data> = match (&self.data, columns) {
            (DataConfig::Sine { .. }, Some((inputs, outputs))) if inputs == 0 || outputs == 0 => {
                return Err(Error::config(
                    "`model.inputs` and `model.outputs` are left out: a sine has any number of channels, say which",
                ));
            }
            (DataConfig::Sine { rows }, Some((inputs, outputs))) => {
                Box::new(Sine::new(inputs, outputs, *rows).map_err(|e| e.context("`data.rows`"))?)
            }
            (DataConfig::Sine { .. }, None) => {
                return wrong("kind", "`sine`", "other data: only an mlp takes it");
            }
            (DataConfig::Digits(c), _) => Box::new(c.data(layout, seed)?),
            (DataConfig::Tensors(c), _) => Box::new(c.data(layout, seed)?),
            (DataConfig::Shakespeare(c), _) => stream(c.data(seed))?,
            (DataConfig::Text(c), _) => stream(c.data(seed))?,
            (DataConfig::Tokens(c), _) => stream(c.data(seed))?,
        };
        if let Some((inputs, outputs)) = columns {
            let channels = |ty: TensorType| ty.fixed_shape().and_then(|shape| shape.get(1).copied());
            let n_targets = data.n_classes().or_else(|| channels(data.target()));
            for (key, found, expected) in
                [("inputs", inputs, channels(data.input())), ("outputs", outputs, n_targets)]
            {
                if found != 0 && expected.is_some_and(|n| n != found) {
                    let (expected, what) = (expected.unwrap_or_default(), self.data.name());
                    let message = format!("`model.{key}` is {found}, expected {expected} for the data of {what}");
                    return Err(Error::config(message));
                }
            }
        }
        Ok(data)
    }
}
