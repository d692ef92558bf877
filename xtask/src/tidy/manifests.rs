//! The rules of the manifests: every member takes its edition, licence and lints from the workspace.

use super::{File, Finding, Rule};
use toml::{Table, Value};

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") else {
        return findings;
    };
    let members = match root.text.parse::<Table>() {
        Ok(root) => members(&root),
        Err(error) => return vec![not_toml(root, &error)],
    };
    for file in files.iter().filter(|file| members.iter().any(|member| is_manifest_of(&file.path, member))) {
        match file.text.parse::<Table>() {
            Ok(manifest) => findings.extend(check_member(file, &manifest)),
            Err(error) => findings.push(not_toml(file, &error)),
        }
    }
    findings
}

/// The patterns in `workspace.members`.
fn members(root: &Table) -> Vec<String> {
    let members = root.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
    members.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect()
}

/// Whether `path` is the manifest of a folder that `member` names, which may end in `/*`.
fn is_manifest_of(path: &str, member: &str) -> bool {
    let Some(folder) = path.strip_suffix("/Cargo.toml") else { return false };
    match member.strip_suffix("/*") {
        Some(parent) => folder.rsplit_once('/').is_some_and(|(p, _)| p == parent),
        None => folder == member,
    }
}

fn check_member(file: &File, manifest: &Table) -> Vec<Finding> {
    let package = manifest.get("package");
    [
        ("edition", package.and_then(|p| p.get("edition")), "write `edition.workspace = true`"),
        ("license", package.and_then(|p| p.get("license")), "write `license.workspace = true`"),
        ("lints", manifest.get("lints"), "write `workspace = true` under `[lints]`"),
    ]
    .into_iter()
    .filter(|(_, value, _)| value.and_then(|v| v.get("workspace")) != Some(&Value::Boolean(true)))
    .map(|(key, _, remedy)| {
        let is_of_key = |line: &str| line.trim_start_matches('[').starts_with(key);
        let line = file.text.lines().position(is_of_key).map_or(1, |index| index + 1);
        file.finding(Rule::Manifest, line, format!("`{key}` is not the workspace's"), remedy)
    })
    .collect()
}

fn not_toml(file: &File, error: &toml::de::Error) -> Finding {
    let line = error.span().map_or(1, |span| file.text[..span.start].matches('\n').count() + 1);
    file.finding(Rule::Manifest, line, format!("this is not TOML: {}", error.message()), "mend it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\nedition.workspace = true\nlicense.workspace = true\n\n[lints]\nworkspace = true\n";

    /// The findings in the manifests of `crates/x` and of what is no member.
    fn found(manifest: &str) -> Vec<(String, usize)> {
        let files = [
            File::new("Cargo.toml", "[workspace]\nmembers = [\"crates/*\", \"xtask\"]\n"),
            File::new("crates/x/Cargo.toml", manifest),
            File::new("crates/x/deeper/Cargo.toml", "[package]\n"),
            File::new("fuzz/Cargo.toml", "[package]\n"),
            File::new("xtask/Cargo.toml", GOOD),
        ];
        check(&files).into_iter().map(|f| (f.path, f.line)).collect()
    }

    #[test]
    fn members_take_from_the_workspace() {
        assert_eq!(found(GOOD), []);
        for (from, to, line) in [
            ("edition.workspace = true", "edition = \"2021\"", 3),
            ("license.workspace = true", "license = \"MIT\"", 4),
            ("license.workspace = true\n", "", 1),
            ("workspace = true\n", "workspace = false\n", 3),
            ("[lints]\nworkspace = true\n", "", 1),
            ("[lints]\nworkspace = true\n", "[lints.rust]\nmissing_docs = \"allow\"\n", 6),
        ] {
            let manifest = GOOD.replacen(from, to, 1);
            assert_ne!(manifest, GOOD);
            assert_eq!(found(&manifest), [("crates/x/Cargo.toml".to_string(), line)], "{manifest}");
        }
    }

    #[test]
    fn text_that_is_not_toml_is_found() {
        assert_eq!(found("[package]\nname = \n"), [("crates/x/Cargo.toml".to_string(), 2)]);
        let root = [File::new("Cargo.toml", "[workspace\n")];
        assert_eq!(check(&root).len(), 1);
    }
}
