//! A configuration as a text that explains itself: each key under a line that says what it is, its values, its
//! default. The lines are the comments of the types.

use super::Config;
use super::schema::Node;
use serde_json::Value as Json;
use std::fmt::Write;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

impl Config {
    /// The configuration as TOML, complete, each key under a comment: what it is, its values, its default. Keys
    /// that may be left out, and are, stand in comments themselves.
    ///
    /// ```
    /// # use anemone::Config;
    /// let text = Config::default().to_commented_toml();
    /// assert!(text.contains("averaged into one update [1 or more; default 1]\naccumulate = 1\n"));
    /// assert_eq!(Config::from_toml(&text)?, Config::default());
    /// # Ok::<(), anemone::Error>(())
    /// ```
    pub fn to_commented_toml(&self) -> String {
        let text = self.to_toml();
        let mut out = String::new();
        // What was written as TOML can be read as TOML.
        if let Ok(table) = DeTable::parse(&text) {
            section(&mut out, &text, "", table.get_ref(), Node::root());
        }
        out.trim_start().to_string()
    }
}

/// The keys of a table of this text, and below them its tables.
fn section(out: &mut String, text: &str, path: &str, table: &DeTable<'_>, node: Node) {
    let kind = table.get("kind").and_then(|kind| kind.get_ref().as_str());
    let Some(form) = node.table(kind) else { return };
    let left_out = |is_table: bool| {
        form.properties().filter(move |(key, node)| !table.contains_key(*key) && node.is_table() == is_table)
    };
    for (key, value) in table {
        let key = key.get_ref();
        let Some(property) = form.property(key) else { continue };
        if tables(value).is_empty() {
            let is_kind = key == "kind" && property.description().is_empty();
            let comment = if is_kind { kind_comment(form, node) } else { comment(property) };
            let _ = writeln!(out, "# {comment}\n{key} = {}", &text[value.span()]);
        }
    }
    for (key, node) in left_out(false) {
        let _ = writeln!(out, "# {}\n# {key} = ...", comment(node));
    }
    for (key, value) in table {
        let key = key.get_ref();
        let Some(node) = form.property(key) else { continue };
        let (path, is_array) = (format!("{path}{key}"), value.get_ref().is_array());
        for table in tables(value) {
            let header = if is_array { format!("[[{path}]]") } else { format!("[{path}]") };
            // A table that may be a number as well says so.
            let comment = if node.range().is_some() { comment(node) } else { node.description() };
            let _ = writeln!(out, "\n# {comment}\n{header}");
            let node = if is_array { node.items().unwrap_or(node) } else { node };
            section(out, text, &format!("{path}."), table, node);
        }
    }
    for (key, node) in left_out(true) {
        let _ = writeln!(out, "\n# {} [left out by default]\n# [{path}{key}]", node.description());
    }
}

/// The tables that stand under headers of their own: one, or those of an array.
fn tables<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Vec<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => vec![table],
        DeValue::Array(items) => items.iter().filter_map(|item| item.get_ref().as_table()).collect(),
        _ => Vec::new(),
    }
}

/// What a key means, its values and its default.
fn comment(node: Node) -> String {
    let words = quoted(&node.words());
    let mut values: Vec<String> = node.range().into_iter().collect();
    values.extend(Some(words).filter(|words| !words.is_empty()));
    values.extend(node.is_bool().then(|| "true, false".into()));
    let mut notes: Vec<String> = Some(values.join(", ")).filter(|values| !values.is_empty()).into_iter().collect();
    match node.default().and_then(written) {
        Some(default) => notes.push(format!("default {default}")),
        None if node.is_optional() => notes.push("left out by default".into()),
        None => {}
    }
    match notes.is_empty() {
        true => node.description(),
        false => format!("{} [{}]", node.description(), notes.join("; ")),
    }
}

/// What the kind of a table means, and the others there are.
fn kind_comment(form: Node, node: Node) -> String {
    format!("{} [{}]", form.description(), quoted(&node.words()))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// A default as TOML has it; none where it is long.
fn written(default: &Json) -> Option<String> {
    match default {
        // Most are f32, of which f64 has more digits than were written.
        Json::Number(x) if x.is_f64() => {
            let x = x.as_f64()?;
            let short = x as f32;
            Some(if f64::from(short) == x { format!("{short:?}") } else { format!("{x:?}") })
        }
        Json::Array(items) if items.iter().any(Json::is_object) => None,
        Json::Object(_) | Json::Null => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, DynamicScale, LossScale, ModelConfig, PRESETS};
    use crate::models::{Gpt, Llama};
    use crate::nn::Lora;

    #[test]
    fn a_commented_configuration_is_the_same_configuration() {
        let mut configs: Vec<Config> = PRESETS.iter().map(|name| Config::preset(name).unwrap()).collect();
        let mut odd = Config::default();
        odd.train.lr = 1e-9;
        odd.train.seed = u64::MAX;
        odd.train.loss_scale = LossScale::Dynamic(DynamicScale { start: 4.0, ..DynamicScale::default() });
        odd.train.init_weights = Some("a \"b\"\\c.safetensors".into());
        odd.model = ModelConfig::Llama(Llama { lora: Some(Lora::default()), ..Llama::default() });
        configs.extend([Config::default(), odd]);
        configs.push(Config { model: ModelConfig::Gpt(Gpt::default()), ..Config::default() });
        for optimizer in ["sgd", "adamw", "muon"] {
            configs.push(Config::from_toml(&format!("[optimizer]\nkind = \"{optimizer}\"")).unwrap());
        }
        for data in [
            "kind = \"tensors\"\ninputs = \"a\"\ntargets = \"b\"\nimage = [1, 2, 3]",
            "kind = \"text\"\npath = \"a\"",
            "kind = \"tokens\"\npath = \"a\"\nseed = 3",
        ] {
            configs.push(Config::from_toml(&format!("[data]\n{data}")).unwrap());
        }
        for config in configs {
            let text = config.to_commented_toml();
            assert_eq!(Config::from_toml(&text).unwrap(), config, "{text}");
            let mut before = "";
            for line in text.lines() {
                let is_key = !line.is_empty() && !line.starts_with('#');
                assert!(
                    !is_key || before.len() > 9 && before.starts_with("# "),
                    "no comment above `{line}`: {text}"
                );
                assert!(!line.contains("]("), "a link in `{line}`");
                before = line;
            }
        }
    }

    #[test]
    fn a_comment_says_meaning_values_and_default() {
        let config = Config { data: DataConfig::Digits(Default::default()), ..Config::default() };
        let text = config.to_commented_toml();
        for line in [
            "# The learning rate [a number above 0; default 0.1]",
            "# Where the gradients of weights are computed: products of two activations, summed over the batch \
             [\"host\", \"device\"; default \"host\"]",
            "# Linear layers with an activation between them [\"mlp\", \"convnet\", \"gpt\", \"llama\"]",
            "# The seed of the order; where there is none, `train.seed` [0 or more; left out by default]\n# seed = ...",
            "# The chip whose rules the software engine follows [\"m1\", \"m2\", \"m3\", \"m4\", \"m5\"; default \"m4\"]",
            "# [model.lora]",
        ] {
            assert!(text.contains(&format!("{line}\n")), "no `{line}` in\n{text}");
        }
    }
}
