//! `anemone report`: a page, pictures or text about one run or several.

mod chart;
mod colour;
mod compare;
mod decimate;
mod figures;
mod number;
mod page;
mod plot;
mod raster;
mod scale;
mod scene;
mod text;
mod timeline;

use crate::{Outcome, args};
use anemone::Run;
use anemone::file::write_atomically;
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The page's name in a folder.
const PAGE: &str = "report.html";

/// The folder for page and pictures.
const FOLDER: &str = "report";

pub(crate) fn run(args: &args::Report, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let runs: Vec<Run> = args.runs.iter().map(|path| Run::open(path)).collect::<Result<_, _>>()?;
    if args.text {
        write!(out, "{}", text::text(&runs))?;
        return Ok(Outcome::Clean);
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&to_json(&runs))?)?;
        return Ok(Outcome::Clean);
    }
    let page = match &args.out {
        Some(file) if is_page(file) => {
            if let Some(folder) = file.parent() {
                create(folder)?;
            }
            file.clone()
        }
        folder => {
            let folder = folder.clone().unwrap_or_else(|| match &runs[..] {
                [run] => run.path().join(FOLDER),
                _ => PathBuf::from(FOLDER),
            });
            create(&folder)?;
            for (name, scene) in scene::pictures(&runs) {
                write(&folder.join(format!("{name}.svg")), scene.to_svg().as_bytes())?;
                write(&folder.join(format!("{name}.png")), &raster::to_png(&scene)?)?;
            }
            folder.join(PAGE)
        }
    };
    write(&page, page::page(&runs).as_bytes())?;
    writeln!(out, "{}", page.display())?;
    if args.open {
        open::that_detached(&page).with_context(|| {
            format!("show `{}` in the browser: open it by hand, or use --text", page.display())
        })?;
    }
    Ok(Outcome::Clean)
}

/// Whether a path is one of a page rather than of a folder.
fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm"))
}

fn create(folder: &Path) -> anyhow::Result<()> {
    // The folder of a file without one is here.
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("create the folder `{}`", folder.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomically(path, bytes).with_context(|| format!("write `{}`", path.display()))
}

/// The figures of the runs. What is not finite is null.
fn to_json(runs: &[Run]) -> Value {
    let one = |(run, name): (&Run, String)| {
        let mut object = Map::new();
        object.insert("name".into(), name.into());
        object.insert("folder".into(), run.path().display().to_string().into());
        object.insert("state".into(), run.state().name().into());
        for figure in figures::figures(run) {
            object.insert(figure.key.into(), json!(figure.value));
        }
        let setup = figures::setup(run).into_iter().map(|(label, value)| (label.to_lowercase(), value.into()));
        object.insert("setup".into(), Value::Object(setup.collect()));
        let parts = figures::parts(run).into_iter().map(|p| (p.colour.name(), json!(p.us)));
        object.insert("time_us".into(), Value::Object(parts.collect()));
        let checks = figures::checks(run);
        let checks = checks.into_iter().map(|(good, text)| json!({ "good": good, "text": text }));
        object.insert("checks".into(), checks.collect());
        Value::Object(object)
    };
    json!({ "runs": runs.iter().zip(chart::names(runs)).map(one).collect::<Vec<_>>() })
}
