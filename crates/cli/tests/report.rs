//! `anemone report` as a process, on runs that were trained and on folders as killed, broken and hostile ones
//! leave them. What a browser makes of the page is in `.ci/checks/report.sh`.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output, Stdio};
use support::Folder;

fn report(folder: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemone"));
    command.current_dir(folder.path("")).arg("report").args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a successful report prints.
fn printed(folder: &Folder, args: &[&str]) -> String {
    let out = report(folder, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The page about runs.
fn page(folder: &Folder, runs: &[&str]) -> String {
    assert_eq!(printed(folder, &[runs, &["--out", "page.html"]].concat()), "page.html\n");
    fs::read_to_string(folder.path("page.html")).unwrap()
}

/// A run's folder with these lines as its metrics.
fn make(folder: &Folder, name: &str, lines: impl Iterator<Item = Value>) {
    fs::create_dir_all(folder.path(name)).unwrap();
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(folder.path(name).join("metrics.jsonl"), text).unwrap();
    fs::write(folder.path(name).join("config.toml"), "[train]\nsteps = 100\n").unwrap();
}

fn line(step: u64, loss: Option<f64>) -> Value {
    json!({
        "step": step, "loss": loss, "lr": 0.5, "loss_scale": 1024.0, "gradient_norm": 0.25, "update": step + 1,
        "device_us": 60.0, "host_us": 40.0, "compile_wait_us": 0.0, "compiles": 4,
    })
}

/// The curves of a chart, as the script of the page gets them.
fn curves(page: &str, chart: &str) -> Vec<Value> {
    let figure = page.split("<figure").find(|f| f.contains(&format!(" id=\"{chart}\""))).unwrap();
    let data =
        figure.split("<script type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    data["curves"].as_array().unwrap().clone()
}

#[test]
fn the_page_has_the_numbers_of_the_run_and_needs_nothing_else() {
    let folder = Folder::new();
    assert!(folder.train(&["digits", "--steps", "60", "--eval-every", "20"]).status.success());
    let page = page(&folder, &["runs/digits"]);
    let report: Value = serde_json::from_slice(&folder.bytes("runs/digits/report.json")).unwrap();
    let losses = curves(&page, "loss");
    assert_eq!(losses[0]["x"].as_array().unwrap().len(), 60);
    let last = losses[0]["y"][59].as_f64().unwrap();
    assert!((last / report["last_loss"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{last}");
    assert_eq!(losses[2]["name"], "validation loss");
    assert_eq!(losses[2]["x"], json!([20, 40, 60]));
    for text in [
        report["device"].as_str().unwrap(),
        report["arithmetic"].as_str().unwrap(),
        "operand: passed in, compiled once",
        "5 compiles took",
        "Every step's loss was finite",
        "train.steps",
        "prefers-color-scheme",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    let percent = format!("{:.1} %", 100.0 * report["validation"]["accuracy"].as_f64().unwrap());
    assert!(page.contains(&percent), "{percent}");
    for load in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(load), "the page has `{load}`");
    }
    let json: Value = serde_json::from_str(&printed(&folder, &["runs/digits", "--json"])).unwrap();
    assert_eq!(
        json["runs"][0]["last_loss"],
        losses[0]["y"][59].as_f64().map(|_| report["last_loss"].clone()).unwrap()
    );
    assert_eq!((&json["runs"][0]["state"], &json["runs"][0]["n_steps"]), (&json!("finished"), &json!(60.0)));
}

#[test]
fn the_smoothed_loss_is_the_end_of_the_smoothed_curve() {
    let folder = Folder::new();
    make(&folder, "run", (0..60).map(|s| line(s, Some(if s % 10 == 9 { 2.0 } else { 1.0 }))));
    fs::write(folder.path("run/config.toml"), "[train]\nsteps = 60\naccumulate = 10\n").unwrap();
    let curve = curves(&page(&folder, &["run"]), "loss").remove(1);
    assert_eq!(curve["name"], "smoothed training loss");
    let json: Value = serde_json::from_str(&printed(&folder, &["run", "--json"])).unwrap();
    let (drawn, told) = (curve["y"][59].as_f64().unwrap(), json["runs"][0]["smoothed_loss"].as_f64().unwrap());
    assert!((drawn / told - 1.0).abs() < 1e-5, "{drawn} is drawn, {told} is told");
}

#[test]
fn pictures_lie_beside_the_page() {
    let folder = Folder::new();
    assert!(folder.train(&["--steps", "20"]).status.success());
    assert_eq!(printed(&folder, &["runs/tiny"]), "runs/tiny/report/report.html\n");
    for name in ["overview", "loss", "compiles"] {
        let png = folder.bytes(&format!("runs/tiny/report/{name}.png"));
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 5000, "{name}: {} bytes", png.len());
        let svg = String::from_utf8(folder.bytes(&format!("runs/tiny/report/{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg ") && svg.matches("#0f6cb0").count() > 0 && svg.contains("tiny"), "{name}");
    }
    // Once more, and elsewhere.
    assert_eq!(printed(&folder, &["runs/tiny", "--out", "a/b"]), "a/b/report.html\n");
    assert_eq!(printed(&folder, &["runs/tiny", "--out", "c/mine.HTML"]), "c/mine.HTML\n");
    assert!(!folder.path("c/overview.png").exists());
}

#[test]
fn what_comes_from_a_run_is_never_markup() {
    let folder = Folder::new();
    let name = "<script>alert(1) & \"x\"";
    make(&folder, name, (0..5).map(|s| line(s, Some(1.0))));
    let evil = "</script><script>alert(2)</script><img src=x onerror=alert(3)>";
    let config = format!("[train]\nsteps = 5\ninit_weights = '{evil}'\n");
    fs::write(folder.path(name).join("config.toml"), config).unwrap();
    let warning = json!({ "time_us": 1, "step": 2, "event": "warning", "message": evil });
    fs::write(folder.path(name).join("events.jsonl"), format!("{warning}\n")).unwrap();
    make(&folder, "other", (0..5).map(|s| line(s, Some(1.0))));
    for runs in [&[name][..], &[name, "other"]] {
        let page = page(&folder, runs);
        assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&lt;img src=x"), "it is shown as text");
        for markup in ["<script>alert", "<img"] {
            assert!(!page.contains(markup), "`{markup}` is in the page");
        }
        // Data of each chart, and the one script.
        assert_eq!(page.matches("<script").count(), page.matches("figure class=\"chart").count() + 1);
        assert_eq!(page.matches("</script>").count(), page.matches("<script").count());
    }
    printed(&folder, &[name, "--out", "pictures"]);
    let svg = String::from_utf8(folder.bytes("pictures/overview.svg")).unwrap();
    assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"));
}

#[test]
fn a_hundred_thousand_steps_make_a_small_page_that_hides_no_spike() {
    let folder = Folder::new();
    let loss = |step: u64| match step {
        31_234 => Some(50.0),
        70_001 => Some(0.001),
        50_000 => None,
        s => Some(1.0 + (s * 7919 % 101) as f64 / 101.0),
    };
    make(&folder, "long", (0..100_000).map(|s| line(s, loss(s))));
    let page = page(&folder, &["long"]);
    assert!(page.len() < 500_000, "{} bytes", page.len());
    let curve = &curves(&page, "loss")[0];
    let at = |step: u64| {
        let i = curve["x"].as_array().unwrap().iter().position(|x| *x == step).unwrap();
        curve["y"][i].as_f64().unwrap()
    };
    assert_eq!((at(31_234), at(70_001)), (50.0, 0.001));
    assert!(page.contains("Not finite: 1 value"));
    let text = printed(&folder, &["long", "--text"]);
    assert!(text.contains("highest 50.00 at step 31234") && text.contains("not finite: 1"), "{text}");
    assert!(
        text.contains("The loss of 1 steps was not finite") || text.contains("The loss of 1 step was"),
        "{text}"
    );
}

#[test]
fn runs_of_every_kind_have_a_report() {
    let folder = Folder::new();
    make(&folder, "empty", (0..0).map(|s| line(s, None)));
    make(&folder, "one", (0..1).map(|s| line(s, Some(0.75))));
    make(&folder, "nan", (0..50).map(|s| line(s, None)));
    make(&folder, "huge", (0..50).map(|s| line(s, Some(if s % 2 == 0 { 3e38 } else { -3e38 }))));
    make(&folder, "zero", (0..50).map(|s| line(s, Some(0.0))));
    make(&folder, "gap", (0..50).filter(|s| !(10..20).contains(s)).map(|s| line(s, Some(0.5))));
    make(&folder, "below zero", (0..50).map(|s| json!({ "step": s, "loss": 0.5, "host_us": -1 })));
    make(&folder, "most", [json!({ "step": 0 }), json!({ "step": u64::MAX, "loss": 1 })].into_iter());
    make(&folder, "changed", (0..50).map(|s| line(s, Some(0.5))));
    let stats = json!({ "wall_s": 1, "host_s": -1, "gradients_s": 1 });
    let stats = json!({ "steps": 50, "stats": stats });
    fs::write(folder.path("changed/report.json"), stats.to_string()).unwrap();
    fs::create_dir(folder.path("torn")).unwrap();
    fs::write(folder.path("torn/metrics.jsonl"), "{\"step\":0,\"loss\":1.5}\n{\"step\":1,\"lo").unwrap();
    let kinds = [
        ("empty", "No step has been made yet"),
        ("one", "0.7500"),
        ("nan", "Not finite: 50 values"),
        ("huge", "3.000e38"),
        ("zero", "figure class=\"chart\""),
        ("gap", "The metrics lack 10 steps"),
        ("torn", "1.500"),
        ("below zero", "No step has been made yet"),
        ("most", "1 of 100 steps"),
        ("changed", "0.5000"),
    ];
    for (name, expected) in kinds {
        let page = page(&folder, &[name]);
        assert!(page.contains(expected), "{name}: `{expected}` is missing");
        assert!(!page.contains("NaN") && !page.contains("inf%"), "{name}");
        printed(&folder, &[name, "--text"]);
        let json: Value = serde_json::from_str(&printed(&folder, &[name, "--json"])).unwrap();
        assert_eq!(json["runs"][0]["name"], name);
        assert!(folder.anemone(&["runs", name]).status.success(), "{name}");
    }
    let names = kinds.map(|(name, _)| name);
    let page = page(&folder, &names);
    assert!(page.contains("10 runs compared"));
    printed(&folder, &[&names[..], &["--text"]].concat());
    printed(&folder, &[&names[..3], &["--out", "pictures"]].concat());
}

#[test]
fn a_run_that_was_restarted_and_resumed_says_so() {
    let folder = Folder::new();
    assert!(folder.train(&["--steps", "60", "--compile-budget", "12"]).status.success());
    assert!(folder.train(&["--resume", "--steps", "100"]).status.success());
    let page = page(&folder, &["runs/tiny"]);
    assert!(page.contains("Restarted for more compiles") && page.contains("class=\"mark\""));
    assert!(page.contains("compile behind training") && page.contains("Closely: step"));
    assert_eq!(curves(&page, "loss")[0]["x"].as_array().unwrap().len(), 100);
}

#[test]
fn runs_are_compared_with_the_first() {
    let folder = Folder::new();
    make(&folder, "a/run", (0..50).map(|s| line(s, Some(2.0))));
    make(&folder, "b/run", (0..50).map(|s| line(s, Some(1.5))));
    fs::write(folder.path("b/run/config.toml"), "[train]\nsteps = 100\nlr = 0.125\n").unwrap();
    let page = page(&folder, &["a/run", "b/run"]);
    assert!(page.contains("2 runs compared") && page.contains("−25.0 %"));
    // Runs of one name are told apart by their paths.
    let names: Vec<_> = curves(&page, "loss").iter().map(|c| c["name"].as_str().unwrap().to_string()).collect();
    assert!(names.iter().any(|n| n.starts_with("a/run, ")) && names.iter().any(|n| n.starts_with("b/run, ")));
    assert!(page.contains("train.lr") && page.contains("0.125"));
    let text = printed(&folder, &["a/run", "b/run", "--text"]);
    assert!(text.contains("train.lr") && text.contains("* 1.500"), "{text}");
}

#[test]
fn totals_of_unlike_numbers_of_steps_have_no_best_and_short_runs_no_values_of_later_steps() {
    let folder = Folder::new();
    make(&folder, "short", (0..20).map(|s| line(s, Some(2.0))));
    make(&folder, "long", (0..60).map(|s| line(s, Some(1.5))));
    let row = |runs: [&str; 2], label: &str| -> String {
        let text = printed(&folder, &[&runs[..], &["--text"]].concat());
        text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no {label}: {text}")).into()
    };
    assert!(!row(["short", "long"], "Time in all").contains('*'));
    assert!(row(["short", "long"], "Training loss, last step").contains("* 1.500"));
    make(&folder, "slow", (0..20).map(|s| json!({ "step": s, "loss": 2.0, "device_us": 1e6 })));
    assert!(row(["short", "slow"], "Time in all").contains('*'), "as many steps");

    let page = page(&folder, &["short", "long"]);
    let spans: Vec<Value> = curves(&page, "loss").iter().map(|c| c["span"].clone()).collect();
    assert_eq!(spans, [json!([0.0, 20.0]), json!([0.0, 60.0]), json!([0.0, 20.0]), json!([0.0, 60.0])]);
    let figure = page.split("<figure").find(|f| f.contains(" id=\"loss\"")).unwrap();
    let row = figure.split("<tr>").find(|row| row.contains(">45<")).unwrap();
    assert!(row.contains("<td>–</td><td>1.500</td>"), "{row}");
}

#[test]
fn a_folder_that_is_no_run_is_refused_with_advice() {
    let folder = Folder::new();
    fs::create_dir(folder.path("nothing")).unwrap();
    for name in ["nothing", "missing"] {
        let out = report(&folder, &[name]);
        assert_eq!(out.status.code(), Some(1));
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(stderr.contains(&format!("`{name}` is no folder of a run")), "{stderr}");
        assert!(!folder.path(name).join("report").exists());
    }
    assert_eq!(report(&folder, &[]).status.code(), Some(2));
    assert_eq!(report(&folder, &["a", "--text", "--open"]).status.code(), Some(2));
}
