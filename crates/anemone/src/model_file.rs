//! Models in files: a program's text, a `.mlmodelc` or a `.mlpackage`, with the weights files it names.
//!
//! | path | the program | `@model_path` is |
//! | --- | --- | --- |
//! | `NAME.mil` | the text | its folder |
//! | `NAME.mlmodelc/` | the text `model.mil` in it | the folder itself |
//! | `NAME.mlpackage/` | the protobuf that `Manifest.json` names | the folder of that file |
//! | `NAME.mlmodel` | the protobuf | its folder |
//!
//! The protobuf of a package is `Data/com.apple.CoreML/model.mlmodel` by custom.
//!
//! Weights files are mapped into memory, never copied, and must not be changed while the model is in use.

use crate::error::{Error, Result};
use crate::map::map;
use anemone_mil::ir::{ArgValue, Block, Call, Constant, Literal, Program};
use anemone_mil::{Weights, line_column, package, text};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// What stands for the folder of the program in the paths of weights files.
const MODEL_PATH: &str = "@model_path";

/// A model as it lies on disk.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("half.mil");
/// # std::fs::write(&path, "program(1.3) { func main<ios18>(tensor<fp16, [2]> x) {
/// #     tensor<fp16, [2]> y = mul(x = x, y = fp16(0.5)); } -> (y); }").unwrap();
/// use anemone::model_file::{Format, ModelFile};
///
/// let model = ModelFile::open(&path)?;
/// assert_eq!(model.format(), Format::Text);
/// assert_eq!(model.program.functions[0].name, "main");
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The program.
    pub program: Program,
    /// The weights files that it names.
    pub weights: Weights,
    format: Format,
    /// What `@model_path` stands for.
    folder: PathBuf,
}

/// What kind of file a model lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// MIL text.
    Text,
    /// A `.mlmodelc`: what Apple's compiler makes of a package.
    Compiled,
    /// A `.mlpackage`, or the protobuf of one.
    Package,
}

/// `Manifest.json` of a package.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    root_model_identifier: String,
    item_info_entries: BTreeMap<String, Item>,
}

#[derive(Deserialize)]
struct Item {
    /// From the package's folder `Data`.
    path: String,
}

impl ModelFile {
    /// The model at `path`, with all weights files it names.
    ///
    /// # Errors
    ///
    /// If there is no model, it is no program, or a weights file is missing or none.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile> {
        let mut model = ModelFile::open_program(path)?;
        for name in weights_paths(&model.program).into_iter().map(str::to_string).collect::<Vec<_>>() {
            let path = model.weights_path(&name)?;
            let doing = || format!("weights file `{}`", path.display());
            model.weights.insert(name, map(&path)?).map_err(|e| Error::from(e).context(doing()))?;
        }
        Ok(model)
    }

    /// The model at `path` without its weights, for those who only look at the program.
    ///
    /// # Errors
    ///
    /// If there is no model, or it is no program.
    pub fn open_program(path: impl AsRef<Path>) -> Result<ModelFile> {
        let path = path.as_ref();
        let (file, format) = locate(path)?;
        let program = match format {
            Format::Package => {
                let bytes = map(&file)?;
                package::read(&bytes).map_err(|e| Error::from(e).context(format!("`{}`", file.display())))?
            }
            Format::Text | Format::Compiled => read_text(&file)?,
        };
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(ModelFile { program, weights: Weights::new(), format, folder })
    }

    /// What kind of file it came from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where the weights file lies that the program calls `name`.
    fn weights_path(&self, name: &str) -> Result<PathBuf> {
        let relative = name.strip_prefix(MODEL_PATH).map_or(name, |rest| rest.trim_start_matches('/'));
        within(&self.folder, relative).ok_or_else(|| {
            Error::config(format!(
                "the program names the weights file `{name}`, expected a path below `{MODEL_PATH}`"
            ))
        })
    }
}

/// The file with the program, and what it is.
fn locate(path: &Path) -> Result<(PathBuf, Format)> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    match extension {
        "mlpackage" => Ok((in_package(path)?, Format::Package)),
        "mlmodelc" => Ok((in_compiled(path)?, Format::Compiled)),
        "mlmodel" => Ok((path.to_path_buf(), Format::Package)),
        "mil" => Ok((path.to_path_buf(), Format::Text)),
        _ => Err(Error::config(format!(
            "`{}` is no model, expected a `.mil`, `.mlmodelc`, `.mlpackage` or `.mlmodel`",
            path.display()
        ))),
    }
}

fn in_package(package: &Path) -> Result<PathBuf> {
    let path = package.join("Manifest.json");
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let bad = |what: String| Error::config(format!("`{}`: {what}", path.display()));
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    let id = &manifest.root_model_identifier;
    let item =
        manifest.item_info_entries.get(id).ok_or_else(|| bad(format!("it has no item `{id}`, its root model")))?;
    within(&package.join("Data"), &item.path)
        .ok_or_else(|| bad(format!("the root model is said to be at `{}`, outside of the package", item.path)))
}

fn in_compiled(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("model.mil");
    if program.exists() || !folder.exists() {
        return Ok(program);
    }
    let what = if folder.join("model.espresso.net").exists() {
        "a neural network"
    } else if folder.join("model0").exists() {
        "a pipeline"
    } else {
        "a model of another kind"
    };
    Err(Error::config(format!("`{}` has no `model.mil`: it is {what}, expected an ML program", folder.display())))
}

fn read_text(path: &Path) -> Result<Program> {
    let source = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    text::parse(&source).map_err(|e| {
        let place =
            e.diagnostics().first().and_then(|d| d.labels.first()).map(|l| line_column(&source, l.span.start));
        let place = place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        Error::from(e).context(format!("{}{place}", path.display()))
    })
}

/// `relative` below `folder`; `None` if it leads elsewhere.
fn within(folder: &Path, relative: &str) -> Option<PathBuf> {
    let relative = Path::new(relative);
    let stays = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    (stays && relative.file_name().is_some()).then(|| folder.join(relative))
}

/// The weights files that a program names.
pub fn weights_paths(program: &Program) -> BTreeSet<&str> {
    let mut paths = BTreeSet::new();
    for (_, constant) in &program.attributes {
        literal(&constant.value, &mut paths);
    }
    for function in &program.functions {
        for (_, constant) in &function.attributes {
            literal(&constant.value, &mut paths);
        }
        block(&function.body, &mut paths);
    }
    paths
}

fn block<'a>(b: &'a Block, paths: &mut BTreeSet<&'a str>) {
    for Call { args, attributes, blocks, .. } in &b.calls {
        args.iter().for_each(|a| arg(&a.value, paths));
        attributes.iter().for_each(|(_, Constant { value, .. })| literal(value, paths));
        blocks.iter().for_each(|b| block(b, paths));
    }
}

fn arg<'a>(value: &'a ArgValue, paths: &mut BTreeSet<&'a str>) {
    match value {
        ArgValue::Name(_) => {}
        ArgValue::Constant(constant) => literal(&constant.value, paths),
        ArgValue::Tuple(values) => values.iter().for_each(|v| arg(v, paths)),
    }
}

fn literal<'a>(value: &'a Literal, paths: &mut BTreeSet<&'a str>) {
    match value {
        Literal::Tensor(_) => {}
        Literal::Blob(blob) => {
            paths.insert(&blob.path);
        }
        Literal::List(items) | Literal::Tuple(items) => items.iter().for_each(|i| literal(i, paths)),
        Literal::Dict(items) => items.iter().for_each(|(k, v)| [k, v].into_iter().for_each(|l| literal(l, paths))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anemone_mil::ir::DType;
    use anemone_mil::weights::WeightsWriter;
    use anemone_mil::{Interpreter, Limits, Tensor, validate};

    /// A program with one weight in each of two files.
    fn source(first: &str, second: &str) -> String {
        let weight = |name: &str, path: &str| {
            format!(
                "tensor<fp32, [2]> {name} = const()[val = tensor<fp32, [2]>(BLOBFILE(path = string(\"{path}\"), \
                 offset = uint64(64)))];"
            )
        };
        let (a, b) = (weight("a", first), weight("b", second));
        format!(
            "program(1.3) {{ func main<ios18>(tensor<fp32, [2]> x) {{ {a} {b}
                tensor<fp32, [2]> y = mul(x = x, y = a); tensor<fp32, [2]> z = add(x = y, y = b); }} -> (z); }}"
        )
    }

    fn weights(x: [f32; 2]) -> Vec<u8> {
        let mut writer = WeightsWriter::new();
        writer.add_f32_as(DType::Fp32, &x).unwrap();
        writer.finish()
    }

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    #[track_caller]
    fn error(path: &Path) -> String {
        ModelFile::open(path).unwrap_err().to_string()
    }

    #[test]
    fn a_text_finds_its_weights_and_runs() {
        let text = source("@model_path/weights/a.bin", "weights/b.bin");
        let folder = folder_with(&[
            ("m.mil", text.as_bytes()),
            ("c.mlmodelc/model.mil", text.as_bytes()),
            ("weights/a.bin", &weights([2.0, 3.0])),
            ("weights/b.bin", &weights([10.0, 20.0])),
            ("c.mlmodelc/weights/a.bin", &weights([2.0, 3.0])),
            ("c.mlmodelc/weights/b.bin", &weights([10.0, 20.0])),
        ]);
        for (path, format) in [("m.mil", Format::Text), ("c.mlmodelc", Format::Compiled)] {
            let model = ModelFile::open(folder.path().join(path)).unwrap();
            assert_eq!((model.format(), model.weights.n_files()), (format, 2));
            let program = validate(model.program, &Limits::none()).unwrap();
            let x = Tensor::float(DType::Fp32, &[2], vec![1.0, -1.0]);
            let z = Interpreter::new(&program, &model.weights).unwrap().run(&[x]).unwrap();
            assert_eq!(z[0].floats(), Some(&[12.0, 17.0][..]));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = source("@model_path/a.bin", "@model_path/a.bin");
        let manifest = |path: &str| {
            format!(r#"{{"rootModelIdentifier": "R", "itemInfoEntries": {{"R": {{"path": "{path}"}}}}}}"#)
        };
        let folder = folder_with(&[
            ("m.mil", text.as_bytes()),
            ("bad.mil", b"program(1.3)\n{ func }"),
            ("short/m.mil", text.as_bytes()),
            ("short/a.bin", b"short"),
            ("out.mil", source("@model_path/../secret", "@model_path/a.bin").as_bytes()),
            ("root.mil", source("/etc/passwd", "@model_path/a.bin").as_bytes()),
            ("nn.mlmodelc/model.espresso.net", b""),
            ("out.mlpackage/Manifest.json", manifest("../../m.mil").as_bytes()),
            ("gone.mlpackage/Manifest.json", manifest("m.mlmodel").as_bytes()),
            ("none.mlpackage/Manifest.json", br#"{"rootModelIdentifier": "R", "itemInfoEntries": {}}"#),
            ("odd.mlmodel", b"no protobuf"),
        ]);
        let path = |name: &str| folder.path().join(name);
        assert!(ModelFile::open_program(path("m.mil")).is_ok());
        for (name, what) in [
            ("m.mil", "a.bin`: No such file"),
            ("bad.mil", "bad.mil:2:8: "),
            ("short/m.mil", "5 bytes, expected a header of 64"),
            ("out.mil", "names the weights file `@model_path/../secret`, expected a path below `@model_path`"),
            ("root.mil", "names the weights file `/etc/passwd`"),
            ("nn.mlmodelc", "it is a neural network, expected an ML program"),
            ("not_there.mlmodelc", "No such file"),
            ("out.mlpackage", "said to be at `../../m.mil`, outside of the package"),
            ("gone.mlpackage", "m.mlmodel`: No such file"),
            ("none.mlpackage", "it has no item `R`, its root model"),
            ("odd.mlmodel", "this is no Core ML model"),
            ("model.onnx", "expected a `.mil`, `.mlmodelc`, `.mlpackage` or `.mlmodel`"),
        ] {
            let e = error(&path(name));
            assert!(e.contains(what), "{name}: {e}");
        }
    }
}
