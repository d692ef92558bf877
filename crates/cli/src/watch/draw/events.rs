//! What happened last.

use super::{dim, long, validation_text};
use crate::watch::figures::{count, micros};
use anemone::Run;
use anemone::run::{Happened, Record};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use std::time::Duration;

/// Something worth a line.
struct Entry {
    time_us: u64,
    step: u64,
    text: String,
    color: Color,
}

/// The last events, the newest at the bottom.
pub(super) fn events(frame: &mut Frame, area: Rect, run: &Run, now_us: u64) {
    let n = usize::from(area.height.saturating_sub(2));
    let mut entries = of_steps(run, n);
    let events = run.events();
    entries.extend(events[events.len().saturating_sub(n)..].iter().map(of_journal));
    entries.sort_by_key(|e| (e.time_us, e.step));
    let lines: Vec<Line> = entries[entries.len().saturating_sub(n)..]
        .iter()
        .map(|e| {
            let ago = long(Duration::from_micros(now_us.saturating_sub(e.time_us)));
            // Runs of before times were kept have none.
            let ago = if e.time_us > 0 { format!("{ago} ago") } else { String::new() };
            Line::from(vec![
                Span::styled(format!("{ago:>16}  step {:<9} ", count(e.step)), dim()),
                Span::styled(e.text.clone(), e.color),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" events ")), area);
}

fn of_journal(record: &Record) -> Entry {
    let (text, color) = match &record.event {
        Happened::Started(p) if p.restarted => ("goes on in a new process".to_string(), Color::Reset),
        Happened::Started(p) if p.resumed => ("resumed".to_string(), Color::Reset),
        Happened::Started(_) => ("started".to_string(), Color::Reset),
        Happened::Warning { message } => (format!("warning: {message}"), Color::Yellow),
        Happened::Restart { why } => (format!("restart: {why}"), Color::Yellow),
        Happened::Finished { converged: true } => ("finished: the loss is low enough".to_string(), Color::Green),
        Happened::Finished { .. } => ("finished".to_string(), Color::Green),
        Happened::Interrupted => ("interrupted, saved".to_string(), Color::Yellow),
        Happened::Failed { error } => (format!("failed: {}", error.replace('\n', " ")), Color::Red),
        Happened::Other => ("something that this version does not know".to_string(), Color::Reset),
    };
    Entry { time_us: record.time_us, step: record.step, text, color }
}

/// The last `n` of each kind that the metrics tell.
fn of_steps(run: &Run, n: usize) -> Vec<Entry> {
    let steps = run.steps();
    let mut entries = Vec::new();
    // `step` is how many steps were done by then.
    let mut add = |step: u64, text: String, color| {
        let i = steps.step.partition_point(|&s| s + 1 < step);
        entries.push(Entry { time_us: steps.time_us.get(i).copied().unwrap_or(0), step, text, color });
    };
    for &step in steps.skipped.iter().rev().take(n) {
        add(step + 1, "left out: the loss is not finite".into(), Color::Yellow);
    }
    for &step in steps.updates_skipped.iter().rev().take(n) {
        add(step + 1, "update left out: a gradient is not finite".into(), Color::Yellow);
    }
    for &(step, n_calls) in steps.retries.iter().rev().take(n) {
        add(step + 1, format!("{n_calls} device calls failed and were repeated"), Color::Yellow);
    }
    for v in steps.validations.iter().rev().take(n) {
        let best = if v.best { ", the best so far" } else { "" };
        add(v.step, format!("validation {}{best}", validation_text(v.loss, v.accuracy)), Color::Reset);
    }
    let failed = steps.compiled.iter().rev().filter_map(|c| Some((c, c.error.as_ref()?)));
    for (c, error) in failed.take(n) {
        let i = steps.time_us.partition_point(|&t| t < c.end_us);
        let took = micros(c.end_us.saturating_sub(c.begin_us) as f64);
        entries.push(Entry {
            time_us: c.end_us,
            step: steps.step.get(i).copied().unwrap_or(0),
            text: format!("a compile failed after {took} and is made up for: {}", error.replace('\n', " ")),
            color: Color::Yellow,
        });
    }
    entries
}
