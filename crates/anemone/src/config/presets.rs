//! Whole configurations by name, kept as the files a user would write.

use super::Config;

/// Name and text of each.
const FILES: [(&str, &str); 4] = [
    ("tiny", include_str!("presets/tiny.toml")),
    ("digits", include_str!("presets/digits.toml")),
    ("digits-convnet", include_str!("presets/digits-convnet.toml")),
    ("shakespeare", include_str!("presets/shakespeare.toml")),
];

/// The names of the presets.
pub const PRESETS: &[&str] = &{
    let mut names = [""; FILES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = FILES[i].0;
        i += 1;
    }
    names
};

impl Config {
    /// The preset of that name.
    pub fn preset(name: &str) -> Option<Config> {
        // Each can be read, as a test makes sure.
        Config::from_toml(Config::preset_text(name)?).ok()
    }

    /// The preset of that name as it is written, with comments.
    pub fn preset_text(name: &str) -> Option<&'static str> {
        FILES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_can_be_read() {
        for (name, text) in FILES {
            assert!(Config::from_toml(text).is_ok(), "{name}: {:?}", Config::from_toml(text));
        }
    }
}
