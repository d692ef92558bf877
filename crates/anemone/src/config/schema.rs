//! What a configuration may say, derived from its types and their comments: keys, what they mean, which values
//! they take. Texts are held against it, so that a message can name the line and the nearest key.

use super::Config;
use serde_json::Value;
use std::ops::Range;
use std::sync::LazyLock;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A part of the schema: of the whole configuration, a table, a value.
#[derive(Clone, Copy)]
pub(super) struct Node(&'static Value);

impl Node {
    /// That of the whole configuration.
    pub(super) fn root() -> Node {
        static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(Config).to_value());
        Node(&SCHEMA)
    }

    /// The forms that the value may have, each a type of its own.
    fn forms(self) -> Vec<Node> {
        if let Some(place) = self.0["$ref"].as_str() {
            let target = Node::root().0.pointer(place.trim_start_matches('#'));
            return target.map_or(Vec::new(), |target| Node(target).forms());
        }
        match self.0["oneOf"].as_array().or(self.0["anyOf"].as_array()) {
            Some(forms) => forms.iter().flat_map(|form| Node(form).forms()).collect(),
            None => vec![self],
        }
    }

    /// Whether it is of this type of JSON Schema's, or left out.
    fn is(self, ty: &str) -> bool {
        match &self.0["type"] {
            Value::Array(types) => types.iter().any(|t| t == ty),
            one => one == ty,
        }
    }

    /// Whether it may be a table.
    pub(super) fn is_table(self) -> bool {
        self.forms().into_iter().any(|form| form.is("object"))
    }

    /// The `kind` that a table of this form has.
    fn kind(self) -> Option<&'static str> {
        self.0.pointer("/properties/kind/const")?.as_str()
    }

    /// The form that a table has which says this `kind`, where there are several.
    pub(super) fn table(self, kind: Option<&str>) -> Option<Node> {
        let mut tables = self.forms().into_iter().filter(|form| form.is("object"));
        tables.find(|form| form.kind().is_none() || form.kind() == kind)
    }

    /// What a table may have, by name.
    pub(super) fn properties(self) -> impl Iterator<Item = (&'static str, Node)> {
        let properties = self.0["properties"].as_object();
        properties.into_iter().flatten().map(|(key, value)| (key.as_str(), Node(value)))
    }

    /// What a table must have.
    fn required(self) -> impl Iterator<Item = &'static str> {
        self.0["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    pub(super) fn property(self, key: &str) -> Option<Node> {
        self.0.get("properties")?.get(key).map(Node)
    }

    /// What an array has.
    pub(super) fn items(self) -> Option<Node> {
        self.forms().into_iter().find_map(|form| form.0.get("items")).map(Node)
    }

    /// What it means, on one line; the first paragraph of the comment.
    pub(super) fn description(self) -> String {
        let text = self.0["description"].as_str().unwrap_or_default();
        let first = text.split("\n\n").next().unwrap_or_default();
        first.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
    }

    /// The words that it may be; or the kinds, where it is a table of one of several.
    pub(super) fn words(self) -> Vec<&'static str> {
        let word = |form: Node| match (form.kind(), form.0.get("enum").and_then(Value::as_array)) {
            (Some(kind), _) => vec![kind],
            (None, Some(words)) => words.iter().filter_map(Value::as_str).collect(),
            (None, None) => form.0["const"].as_str().into_iter().collect(),
        };
        self.forms().into_iter().flat_map(word).collect()
    }

    /// The numbers that it may be, in words.
    pub(super) fn range(self) -> Option<String> {
        let form = self.forms().into_iter().find(|form| form.is("number") || form.is("integer"))?;
        let bound = |key: &str| form.0.get(key).filter(|bound| !bound.is_null());
        Some(match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum"), bound("exclusiveMaximum")) {
            (Some(least), _, Some(most), _) => format!("{least} to {most}"),
            (Some(least), _, _, Some(end)) => format!("{least} or more and below {end}"),
            (Some(least), ..) => format!("{least} or more"),
            (None, Some(start), ..) => format!("a number above {start}"),
            _ => "a finite number".into(),
        })
    }

    /// Whether it may be this number.
    fn takes(self, x: f64) -> bool {
        let within = |form: Node| {
            let holds = |key: &str, holds: fn(&f64, &f64) -> bool| {
                form.0[key].as_f64().is_none_or(|bound| holds(&x, &bound))
            };
            holds("minimum", f64::ge)
                && holds("maximum", f64::le)
                && holds("exclusiveMinimum", f64::gt)
                && holds("exclusiveMaximum", f64::lt)
        };
        let mut numbers = self.forms().into_iter().filter(|form| form.is("number") || form.is("integer"));
        x.is_finite() && numbers.next().is_none_or(within)
    }

    /// Whether it is true or false.
    pub(super) fn is_bool(self) -> bool {
        self.forms().into_iter().any(|form| form.is("boolean"))
    }

    /// Whether it may be left out without having a default.
    pub(super) fn is_optional(self) -> bool {
        self.forms().into_iter().any(|form| form.is("null"))
    }

    /// What it is where it is left out.
    pub(super) fn default(self) -> Option<&'static Value> {
        self.0.get("default")
    }
}

/// Something wrong in a text.
#[derive(Debug)]
pub(super) struct Finding {
    /// Where, in bytes.
    at: Range<usize>,
    pub(super) message: String,
}

impl Finding {
    /// The message behind its line.
    pub(super) fn with_line(&self, text: &str) -> String {
        let n_before = text.bytes().take(self.at.start).filter(|&b| b == b'\n').count();
        format!("line {}: {}", n_before + 1, self.message)
    }
}

/// Looks for keys and values that there are not. What is no TOML, or of the wrong type, is left to whoever reads
/// it.
pub(super) fn check(text: &str) -> Result<(), Finding> {
    match DeTable::parse(text) {
        Ok(doc) => Check { doc: doc.get_ref() }.table(Node::root(), "", doc.get_ref(), doc.span()),
        Err(_) => Ok(()),
    }
}

struct Check<'a> {
    doc: &'a DeTable<'a>,
}

impl Check<'_> {
    fn value(&self, node: Node, path: &str, value: &Spanned<DeValue<'_>>) -> Result<(), Finding> {
        let number = |x: Option<f64>| match x {
            Some(x) if !node.takes(x) => {
                let expected = node.range().unwrap_or_default();
                Err(Finding { at: value.span(), message: format!("`{path}` is {x}, expected {expected}") })
            }
            _ => Ok(()),
        };
        match value.get_ref() {
            DeValue::Table(table) if node.is_table() => self.table(node, path, table, value.span()),
            DeValue::Array(items) => match node.items() {
                Some(node) => items.iter().try_for_each(|item| self.value(node, path, item)),
                None => Ok(()),
            },
            DeValue::Integer(n) => {
                let digits = n.as_str().replace('_', "");
                number(i128::from_str_radix(&digits, n.radix()).ok().map(|n| n as f64))
            }
            DeValue::Float(x) => number(x.as_str().replace('_', "").parse().ok()),
            DeValue::String(word) => {
                let words = node.words();
                let is_word = !words.is_empty() && !node.is_table();
                match is_word && !words.contains(&word.as_ref()) {
                    true => Err(unknown_word(path, word, &words, value.span())),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn table(&self, node: Node, path: &str, table: &DeTable<'_>, at: Range<usize>) -> Result<(), Finding> {
        let kind = table.get("kind");
        let Some(form) = node.table(kind.and_then(|kind| kind.get_ref().as_str())) else {
            let words = node.words();
            return match kind.map(|kind| (kind.get_ref().as_str(), kind.span())) {
                Some((Some(kind), at)) => Err(unknown_word(&join(path, "kind"), kind, &words, at)),
                Some((None, _)) => Ok(()),
                None => {
                    let message = format!("`{path}` says no `kind`, expected one of {}", quoted(&words));
                    Err(Finding { at, message })
                }
            };
        };
        for (key, value) in table {
            match form.property(key.get_ref()) {
                Some(node) => self.value(node, &join(path, key.get_ref()), value)?,
                None => return Err(self.unknown_key(form, path, key)),
            }
        }
        match form.required().find(|key| table.get(*key).is_none()) {
            Some(key) => {
                let expected = form.property(key).and_then(Node::range).unwrap_or("a value".into());
                Err(Finding { at, message: format!("`{path}` says no `{key}`, expected {expected}") })
            }
            None => Ok(()),
        }
    }

    fn unknown_key(&self, form: Node, path: &str, key: &Spanned<impl AsRef<str>>) -> Finding {
        let found = key.get_ref().as_ref();
        let keys: Vec<&str> = form.properties().map(|(key, _)| key).collect();
        // `learning_rate` for `lr`: what a key is called in the sentence that says what it means.
        let words = found.replace('_', " ");
        let called = |node: Node| node.description().to_lowercase().contains(&words);
        let by_meaning = || {
            let meant = form.properties().filter(|(_, node)| called(*node));
            meant.min_by_key(|(_, node)| node.description().len()).map(|(key, _)| key)
        };
        let mut places = Vec::new();
        self.places(Node::root(), "", Some(self.doc), found, &mut places);
        let hint = places
            .pop()
            .or_else(|| nearest(found, keys.iter().copied()).or_else(by_meaning).map(|key| join(path, key)));
        let hint = hint.map_or(String::new(), |key| format!("; did you mean `{key}`?"));
        let message = format!("there is no key `{}`, expected one of {}{hint}", join(path, found), quoted(&keys));
        Finding { at: key.span(), message }
    }

    /// The tables below `path` that may have this key, given what the document says of their kinds.
    fn places(&self, node: Node, path: &str, table: Option<&DeTable<'_>>, key: &str, found: &mut Vec<String>) {
        let default = node.default().and_then(|default| default["kind"].as_str());
        let kind = table.and_then(|table| table.get("kind")).map_or(default, |kind| kind.get_ref().as_str());
        let Some(form) = node.table(kind) else { return };
        for (name, node) in form.properties() {
            let path = join(path, name);
            if name == key {
                found.push(path.clone());
            }
            let table = table.and_then(|table| table.get(name)).and_then(|value| value.get_ref().as_table());
            self.places(node, &path, table, key, found);
        }
    }
}

fn unknown_word(path: &str, found: &str, words: &[&str], at: Range<usize>) -> Finding {
    let hint =
        nearest(found, words.iter().copied()).map_or(String::new(), |word| format!("; did you mean `{word}`?"));
    Finding { at, message: format!("`{path}` is `{found}`, expected one of {}{hint}", quoted(words)) }
}

/// The name that is most like the one that was given, if any is like it at all: for hints about misspelt names.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip of the fingers, or the measure of hints about flags and its threshold.
    let likeness = |name: &&str| match strsim::damerau_levenshtein(given, name) {
        ..=1 => 1.0,
        _ => strsim::jaro(given, name),
    };
    names.into_iter().filter(|name| likeness(name) > 0.7).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_not_is_named_with_its_line_and_the_nearest_there_is() {
        for (text, line, hint) in [
            ("[train]\nstep = 5", 2, "`train.steps`"),
            ("[train]\n\n# a comment\nlearning_rate = 1.0", 4, "`train.lr`"),
            ("[trian]\nlr = 1.0", 1, "`train`"),
            ("steps = 5", 1, "`train.steps`"),
            ("[train]\nsteps = 5\nbatch = 3\n[data]\nkind = \"digits\"", 3, "`data.batch`"),
            ("[train.schedule]\nwarm_up = 5", 2, "`train.schedule.warmup`"),
            ("[model]\nkind = \"convnet\"\nblocks = [\n  { chanels = 3 },\n]", 4, "`model.blocks.channels`"),
            ("[model]\nkind = \"gtp\"", 2, "`gpt`"),
            ("[optimizer]\nkind = \"adam\"", 2, "`adamw`"),
            ("[train]\nnon_finite = \"skipp\"", 2, "`skip`"),
            ("[device]\nchip = \"m44\"", 2, "`m4`"),
            ("[model]\nkind = \"mlp\"\ninit = [{ kind = \"zeroes\" }]", 3, "`zeros`"),
        ] {
            let message = check(text).unwrap_err().with_line(text);
            assert!(message.starts_with(&format!("line {line}: ")), "{text}: {message}");
            assert!(message.ends_with(&format!("; did you mean {hint}?")), "{text}: {message}");
        }
        let message = check("[data]\nbatch = 3").unwrap_err().message;
        assert!(message.starts_with("`data` says no `kind`, expected one of `sine`, `digits`"), "{message}");
        let message = check("[data]\nkind = \"sine\"").unwrap_err().with_line("");
        assert_eq!(message, "line 1: `data` says no `rows`, expected 1 or more");
        let message = check("[train]\nzzz = 3").unwrap_err().message;
        assert!(
            message.ends_with("`stop_below`") && message.contains("expected one of `accumulate`, "),
            "{message}"
        );
    }

    #[test]
    fn numbers_are_held_against_their_range() {
        for (text, expected) in [
            ("[train]\nlr = 0", "line 2: `train.lr` is 0, expected a number above 0"),
            ("[train]\nlr = nan", "line 2: `train.lr` is NaN, expected a number above 0"),
            ("[train]\nstop_below = inf", "line 2: `train.stop_below` is inf, expected 0 or more"),
            ("[train]\nsteps = -1", "line 2: `train.steps` is -1, expected 0 or more"),
            ("[train]\nloss_scale = -1", "line 2: `train.loss_scale` is -1, expected a number above 0"),
            ("[optimizer]\nkind = \"sgd\"\nmomentum = 1", "is 1, expected 0 or more and below 1"),
            ("[train.schedule]\nfloor = 1_000.0", "is 1000, expected 0 to 1"),
            ("[model]\nkind = \"mlp\"\nhidden = [8, -8]", "line 3: `model.hidden` is -8, expected 0 or more"),
        ] {
            let message = check(text).unwrap_err().with_line(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
        assert!(check("[train]\nlr = 1e-3\nsteps = 0x10\nloss_scale = \"dynamic\"").is_ok());
    }

    #[test]
    fn what_is_like_nothing_has_no_hint() {
        assert_eq!(nearest("digit", ["tiny", "digits"]), Some("digits"));
        assert_eq!(nearest("gtp", ["mlp", "gpt"]), Some("gpt"));
        assert_eq!(nearest("huge", ["tiny", "digits"]), None);
    }
}
