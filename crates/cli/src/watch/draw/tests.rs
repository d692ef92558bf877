//! Frames as they come on a terminal of some size, in `tests/snapshots`.

use super::*;
use anemone::run::{CONFIG, EVENTS, LOCK, METRICS};
use expect_test::{ExpectFile, expect_file};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

const BEGIN_US: u64 = 1_700_000_000_000_000;
const STEP_US: u64 = 10_000;
const N_STEPS: u64 = 600;
/// The step at which the process was replaced.
const RESTART: u64 = 400;

/// A run of 600 of 1000 steps, which has restarted once and validated each 100 steps.
fn write_run(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join(CONFIG), "[train]\nsteps = 1000\n").unwrap();
    let time = |step: u64| BEGIN_US + step * STEP_US;
    let mut metrics = String::new();
    for step in 0..N_STEPS {
        let loss = 4.0 * (-(step as f64) / 150.0).exp() + 0.02;
        let skipped = step == 250;
        let compiles = 4 + step / 10 * 4;
        write!(
            metrics,
            r#"{{"step":{step},"time_us":{},"loss":{},"update":{},"staleness":1,"skipped":{skipped},"lr":0.5,"loss_scale":{},"device_us":4200.0,"copy_us":200.0,"host_us":3000.0,"compile_wait_us":1500.0,"compiles":{compiles}"#,
            time(step + 1),
            if skipped { "null".to_string() } else { loss.to_string() },
            step / 10,
            if step < 300 { 1024.0 } else { 2048.0 },
        )
        .unwrap();
        if step % 10 == 9 {
            let (begin, end) = (time(step - 3), time(step));
            write!(
                metrics,
                r#","gradient_norm":{},"compiled":[{{"begin_us":{begin},"end_us":{end},"background":true}}]"#,
                1.0 + loss
            )
            .unwrap();
        }
        if step % 100 == 99 {
            write!(
                metrics,
                r#","eval_us":20000.0,"validation":{{"loss":{},"accuracy":0.5,"best":true}}"#,
                loss + 0.3
            )
            .unwrap();
        }
        metrics += "}\n";
    }
    fs::write(folder.join(METRICS), metrics).unwrap();
    let started = |resumed: bool, compiles: u64| {
        format!(
            r#""event":"started","resumed":{resumed},"restarted":{resumed},"n_steps":1000,"device":"software engine (m4, ieee)","arithmetic":"fp16 with f32 accumulation, nearest even","strategy":"baked","overlap":true,"n_params":16384,"examples":16,"examples_are":"rows","device_flops_per_step":1048576,"compiles":{compiles},"compile_budget":119"#
        )
    };
    let events = [
        (BEGIN_US, 0, started(false, 0)),
        (time(RESTART), RESTART, r#""event":"restart","why":"the budget of compiles is spent""#.to_string()),
        (time(RESTART), RESTART, started(true, 160)),
        (time(RESTART), RESTART, r#""event":"warning","message":"the device refuses fp32""#.to_string()),
    ];
    let events = events.map(|(time, step, event)| format!("{{\"time_us\":{time},\"step\":{step},{event}}}\n"));
    fs::write(folder.join(EVENTS), events.concat()).unwrap();
}

/// What a terminal of that size shows 2 s after the last step.
fn screen(run: &Run, view: &View, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = BEGIN_US + N_STEPS * STEP_US + 2_000_000;
    let frame = terminal.draw(|frame| draw(frame, run, view, now)).unwrap();
    let mut text = String::new();
    for row in frame.buffer.content.chunks(usize::from(width)) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text += "\n";
    }
    text
}

fn check(run: &Run, view: &View, size: (u16, u16), expected: ExpectFile) {
    expected.assert_eq(&screen(run, view, size));
}

#[test]
fn a_run_under_way_at_several_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo");
    write_run(&path);
    let lock = File::create(path.join(LOCK)).unwrap();
    lock.lock().unwrap();
    let run = Run::open(&path).unwrap();
    let (plain, log) = (View::default(), View { log: true, ..View::default() });
    let help = View { help: true, keys_of_training: true, ..View::default() };
    check(&run, &plain, (80, 24), expect_file!["../../../tests/snapshots/watch-80x24.txt"]);
    check(&run, &log, (200, 50), expect_file!["../../../tests/snapshots/watch-200x50-log.txt"]);
    check(&run, &plain, (40, 10), expect_file!["../../../tests/snapshots/watch-40x10.txt"]);
    check(&run, &help, (80, 24), expect_file!["../../../tests/snapshots/watch-80x24-help.txt"]);
    assert_eq!(screen(&run, &plain, (16, 3)).trim(), "16x3: too small");
}

#[test]
fn no_size_is_too_small_to_draw() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo");
    write_run(&path);
    let run = Run::open(&path).unwrap();
    let view = View { log: true, help: true, ..View::default() };
    for width in 1..100 {
        for height in [1, 2, 3, 4, 5, 6, 9, 17, 18, 19, 23] {
            screen(&run, &view, (width, height));
        }
    }
}

#[test]
fn a_run_that_ended_says_how() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo");
    write_run(&path);
    let head = |run: &Run| screen(run, &View::default(), (80, 24)).lines().take(2).collect::<Vec<_>>().join("\n");
    let killed = head(&Run::open(&path).unwrap());
    assert!(killed.contains("demo  killed  step 600 of 1,000  60 %  2 s ago"), "{killed}");
    assert!(killed.contains("has not said why"), "{killed}");
    let events = fs::read_to_string(path.join(EVENTS)).unwrap();
    let failed = "{\"time_us\":1700000006000000,\"step\":600,\"event\":\"failed\",\"error\":\"no luck\"}\n";
    fs::write(path.join(EVENTS), events + failed).unwrap();
    let failed = head(&Run::open(&path).unwrap());
    assert!(failed.contains("demo  failed") && failed.contains("no luck"), "{failed}");
}

#[test]
fn a_run_without_steps_is_drawn_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    fs::create_dir(&path).unwrap();
    fs::write(path.join(CONFIG), "").unwrap();
    let text = screen(&Run::open(&path).unwrap(), &View::default(), (80, 24));
    assert!(text.contains("new  untrained") && text.contains("no steps yet"), "{text}");
}

#[test]
fn a_loss_that_is_not_finite_is_told_from_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(METRICS), "{\"step\":0,\"loss\":null}\n").unwrap();
    let run = Run::open(folder.path()).unwrap();
    for (size, expected) in [((80, 24), "loss not finite"), ((40, 10), "loss        not finite")] {
        let text = screen(&run, &View::default(), size);
        assert!(text.contains(expected) && !text.contains("no steps yet"), "{text}");
    }
}
