//! The report for a terminal of 80 columns: small curves of block characters, the figures, where the time went.

use super::chart::{Chart, Curve, Style, charts, names};
use super::compare;
use super::figures::{checks, compile_words, figures, parts, setup};
use super::number::{Unit, duration};
use super::scale::ends;
use anemone::Run;
use std::fmt::Write;

/// Columns and rows of a curve.
const N_COLUMNS: usize = 64;
const N_ROWS: usize = 5;

/// Columns of a label.
const N_LABEL: usize = 34;

/// Parts of a block, from none to all of it.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The summary of some runs.
pub(crate) fn text(runs: &[Run]) -> String {
    let mut out = String::new();
    match runs {
        [run] => one(run, &mut out),
        _ => several(runs, &mut out),
    }
    plain(&out)
}

/// Without what a terminal would obey, narrow spaces, which not all of its fonts have, and spaces at the ends of
/// lines.
fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\u{202f}' => None,
        c if c.is_control() => Some('\u{fffd}'),
        c => Some(c),
    };
    let line = |line: &str| line.chars().filter_map(shown).collect::<String>().trim_end().to_string() + "\n";
    text.split('\n').map(line).collect::<String>().trim_end().to_string() + "\n"
}

// Writing to a string does not fail, here and below.
fn one(run: &Run, out: &mut String) {
    let _ = writeln!(out, "{}: {}\n", run.name(), run.state());
    for (label, value) in setup(run) {
        let _ = writeln!(out, "{label:<N_LABEL$} {value}");
    }
    curves(&charts(std::slice::from_ref(run)), out);
    let _ = writeln!(out);
    for figure in figures(run) {
        let _ = writeln!(out, "{:<N_LABEL$}{:>12} {}", figure.label, figure.show(), figure.aside);
    }
    time(run, out);
    let _ = writeln!(out, "\nChecks");
    for (good, text) in checks(run) {
        let _ = writeln!(out, "{} {text}", if good { "✓" } else { "!" });
    }
}

fn several(runs: &[Run], out: &mut String) {
    let names = names(runs);
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).max(16) + 2;
    let _ = write!(out, "{:<N_LABEL$}", "");
    for name in &names {
        let _ = write!(out, "{name:>width$}");
    }
    let _ = write!(out, "\n{:<N_LABEL$}", "State");
    for run in runs {
        let _ = write!(out, "{:>width$}", run.state().name());
    }
    let _ = writeln!(out);
    for row in compare::rows(runs) {
        let _ = write!(out, "{:<N_LABEL$}", if row.is_part { format!("  {}", row.label) } else { row.label });
        for cell in &row.cells {
            let _ = write!(out, "{:>width$}", format!("{}{}", if cell.is_best { "* " } else { "" }, cell.text));
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "\n* the best of its row\n\nConfigurations differ in");
    let rows = compare::configurations(runs);
    for row in rows.iter().filter(|r| r.differs) {
        let _ = write!(out, "{:<N_LABEL$}", row.key);
        for value in &row.values {
            let _ = write!(out, "{:>width$}", value.as_deref().unwrap_or("–"));
        }
        let _ = writeln!(out);
    }
    if rows.iter().all(|r| !r.differs) {
        let _ = writeln!(out, "nothing");
    }
    for (run, name) in runs.iter().zip(&names) {
        let _ = write!(out, "\n{name}");
        curves(&charts(std::slice::from_ref(run))[..].iter().take(1).collect::<Vec<_>>(), out);
    }
}

/// The main curve of each chart.
fn curves<C: std::borrow::Borrow<Chart>>(charts: &[C], out: &mut String) {
    for chart in charts.iter().map(C::borrow) {
        if let Some(value) = chart.constant() {
            let _ = writeln!(out, "\n{}: {} throughout", chart.title, chart.unit.show(value));
            continue;
        }
        // Validation beside training, each its own.
        for curve in chart
            .curves
            .iter()
            .filter(|c| c.style == Style::Faint || (c.style != Style::Line || chart.curves.len() == 1))
        {
            draw(chart, curve, out);
        }
    }
}

fn draw(chart: &Chart, curve: &Curve, out: &mut String) {
    let points = &curve.line.points;
    let scale = if chart.is_log_first() { chart.log() } else { None };
    let is_log = scale.is_some();
    let scale = scale.unwrap_or(chart.linear());
    let places = columns(chart, points).map(|y| if y == f64::NEG_INFINITY { y } else { scale.at(y) });
    let axis = if is_log { ", logarithmic" } else { "" };
    let _ = writeln!(out, "\n{}: {}{axis}", chart.title, curve.name);
    let (upper, lower) = (chart_label(chart, 1.0, is_log), chart_label(chart, 0.0, is_log));
    for row in (0..N_ROWS).rev() {
        let label = match row {
            0 => &lower[..],
            r if r == N_ROWS - 1 => &upper[..],
            _ => "",
        };
        let _ = write!(out, "{label:>11} │");
        for &at in &places {
            let eighths = at * (N_ROWS * 8) as f64 - (row * 8) as f64;
            // What is there is seen, be it at the lower end; what is not finite is marked there.
            let c = match at {
                f64::NEG_INFINITY => ' ',
                a if a.is_nan() => {
                    if row == 0 {
                        '×'
                    } else {
                        ' '
                    }
                }
                _ if row == 0 => BLOCKS[(eighths.round().max(1.0) as usize).min(8)],
                _ => BLOCKS[(eighths.round().max(0.0) as usize).min(8)],
            };
            out.push(c);
        }
        out.truncate(out.trim_end_matches(' ').len());
        let _ = writeln!(out);
    }
    let finite = || points.iter().filter(|p| p.1.is_finite());
    let least = finite().min_by(|a, b| a.1.total_cmp(&b.1));
    let greatest = finite().max_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some(least), Some(greatest)) = (least, greatest) {
        let say = |p: &(f64, f64)| format!("{} at step {}", chart.unit.show(p.1), Unit::Count.show(p.0));
        let _ = writeln!(out, "{:>13}lowest {}, highest {}", "", say(least), say(greatest));
    }
    let n: usize = curve.line.missing.iter().map(|m| m.n).sum();
    if n > 0 {
        let _ = writeln!(out, "{:>13}not finite: {n}", "");
    }
}

/// The mean of the values over each column; where no point is, the one before goes on.
fn columns(chart: &Chart, points: &[(f64, f64)]) -> [f64; N_COLUMNS] {
    let x = chart.x();
    let mut sums = [(0.0, 0usize, 0usize); N_COLUMNS];
    for &(px, py) in points {
        let sum = &mut sums[((x.at(px) * N_COLUMNS as f64) as usize).min(N_COLUMNS - 1)];
        sum.2 += 1;
        if py.is_finite() {
            *sum = (sum.0 + py, sum.1 + 1, sum.2);
        }
    }
    let mut last = None;
    sums.map(|(sum, n_finite, n)| {
        if n > 0 {
            last = Some(sum / n_finite as f64);
        }
        last.unwrap_or(f64::NEG_INFINITY)
    })
}

/// What stands at an end of the axis.
fn chart_label(chart: &Chart, at: f64, is_log: bool) -> String {
    let scale = if is_log { chart.log().unwrap_or(chart.linear()) } else { chart.linear() };
    let (lo, hi) = scale.ends();
    let value = lo + at * (hi - lo);
    chart.unit.show(if is_log { 10f64.powf(value) } else { value })
}

fn time(run: &Run, out: &mut String) {
    let parts = parts(run);
    let Some((_, most)) = ends(parts.iter().map(|p| p.us)) else { return };
    let total: f64 = parts.iter().map(|p| p.us).sum();
    let _ = writeln!(out, "\nWhere the time goes");
    for part in &parts {
        let n = (part.us / most * 24.0 * 8.0).round().max(1.0) as usize;
        // The same eighths, lying.
        let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][n % 8];
        let bar = "█".repeat(n / 8) + rest;
        let share = Unit::Share.show(part.us / total);
        let _ = writeln!(out, "{:<N_LABEL$}{:>9} {share:>8}  {bar}", part.label, duration(part.us));
    }
    let _ = writeln!(out, "\n{}", compile_words(run).replace(". ", ".\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(plain("a\u{1b}[31m\tb  \n1\u{202f}000\n"), "a\u{fffd}[31m\u{fffd}b\n1000\n");
    }

    #[test]
    fn a_curve_rises_with_its_values_and_marks_what_is_not_finite() {
        let folder = tempfile::tempdir().unwrap();
        let loss =
            |step: u64| if step == 640 { "null".into() } else { format!("{}", 0.125 + step as f64 / 1280.0) };
        let line = |step: u64| format!("{{\"step\":{step},\"loss\":{}}}\n", loss(step));
        let write = |lines: String| fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        write((0..1280).map(line).collect());
        let shown = text(&[Run::open(folder.path()).unwrap()]);
        let rows: Vec<&str> = shown.lines().filter_map(|l| Some(l.split_once('│')?.1)).collect();
        assert_eq!(rows.len(), N_ROWS, "{shown}");
        let filled: Vec<usize> = rows.iter().map(|row| row.chars().filter(|c| *c != ' ').count()).collect();
        assert!(filled.is_sorted() && filled[0] < 20 && filled[N_ROWS - 1] == N_COLUMNS, "{shown}");
        assert!(shown.contains("not finite: 1") && shown.contains("highest 1.124 at step 1279"), "{shown}");
        // Where nothing is finite, nothing is drawn but that.
        write((0..64).map(|step| format!("{{\"step\":{step},\"loss\":null}}\n")).collect());
        let shown = text(&[Run::open(folder.path()).unwrap()]);
        assert!(shown.contains(&"×".repeat(N_COLUMNS)), "{shown}");
    }
}
