//! One frame of the view of a run.

mod charts;
mod events;

use super::figures::{Figures, count, long, micros, short};
use anemone::run::{Run, State};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use std::time::Duration;

/// The least size for curves; below it there are figures alone.
const FULL: (u16, u16) = (60, 18);
/// The least size for figures.
const SMALL: (u16, u16) = (24, 5);

/// What the keys have set.
#[derive(Default)]
pub(super) struct View {
    /// The loss on a logarithmic scale.
    pub(super) log: bool,
    pub(super) help: bool,
    /// Whether Ctrl-C ends training and not the view.
    pub(super) keys_of_training: bool,
    /// Why the folder cannot be read now.
    pub(super) trouble: Option<String>,
}

/// Draws the run as it is at `now_us`.
pub(super) fn draw(frame: &mut Frame, run: &Run, view: &View, now_us: u64) {
    let area = frame.area();
    let figures = Figures::of(run);
    if area.width < SMALL.0 || area.height < SMALL.1 {
        let text = format!("{}x{}: too small", area.width, area.height);
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    }
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    header(frame, head, run, &figures, now_us);
    if area.width < FULL.0 || area.height < FULL.1 {
        small(frame, body, run, &figures);
    } else {
        full(frame, body, run, &figures, view, now_us);
    }
    footer(frame, foot, view, area);
    if view.help {
        help(frame, area, view);
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Modifier::BOLD)
}

fn state_color(state: &State) -> Color {
    match state {
        State::Running | State::Finished => Color::Green,
        State::Starting | State::Restarting(_) | State::Interrupted => Color::Yellow,
        State::Failed(_) | State::Killed => Color::Red,
        State::Untrained => Color::Reset,
    }
}

/// Name, state and progress; below it how fast it goes and on what.
fn header(frame: &mut Frame, area: Rect, run: &Run, figures: &Figures, now_us: u64) {
    let state = run.state();
    let state_style = Style::new().fg(state_color(state)).add_modifier(Modifier::BOLD);
    let mut first = vec![
        Span::raw(" "),
        bold(run.name()),
        Span::raw("  "),
        Span::styled(state.name().to_string(), state_style),
        Span::raw(format!("  step {}", count(figures.done))),
    ];
    if let Some(n) = figures.n_steps.filter(|&n| n > 0) {
        let percent = 100.0 * figures.done as f64 / n as f64;
        first.push(Span::raw(format!(" of {}  {percent:.0} %", count(n))));
    }
    if let Some(left) = figures.left {
        first.push(Span::raw(format!("  {} left", long(left))));
    }
    let ago = |us: u64| Duration::from_micros(now_us.saturating_sub(us));
    let silent = run.heard_us().map(ago);
    match (state, silent) {
        // A process that lives but has not got on for a while may wait for a compile, or hang.
        (state, Some(silent)) if state.is_alive() && silent >= Duration::from_secs(5) => {
            first.push(Span::styled(format!("  silent for {}", long(silent)), Color::Yellow));
        }
        (state, Some(silent)) if !state.is_alive() => {
            first.push(Span::styled(format!("  {} ago", long(silent)), dim()));
        }
        _ => {}
    }
    let mut second = match state {
        State::Failed(why) | State::Restarting(why) => vec![why.lines().next().unwrap_or_default().to_string()],
        State::Killed => vec!["the process is gone and has not said why: killed or crashed".to_string()],
        _ => Vec::new(),
    };
    if second.is_empty() {
        second.extend(figures.examples_per_s.as_ref().map(|(n, what)| format!("{} {what}/s", short(*n))));
        second.extend(figures.steps_per_s.map(|n| format!("{} steps/s", short(n))));
        second.extend(run.process().map(|p| p.device.clone()).filter(|d| !d.is_empty()));
    }
    let second = Line::styled(format!(" {}", second.join("  ")), dim());
    frame.render_widget(Paragraph::new(vec![Line::from(first), second]), area);
}

fn footer(frame: &mut Frame, area: Rect, view: &View, whole: Rect) {
    let text = match &view.trouble {
        Some(trouble) => Line::styled(format!(" {trouble}"), Color::Red),
        None if whole.width < FULL.0 || whole.height < FULL.1 => {
            let text = format!(" curves from {}x{} on; this is {}x{}", FULL.0, FULL.1, whole.width, whole.height);
            Line::styled(text, dim())
        }
        None => {
            let log = if view.log { "linear" } else { "logarithmic" };
            Line::styled(format!(" q quit  l {log}  ? help"), dim())
        }
    };
    frame.render_widget(Paragraph::new(text), area);
}

/// Figures without curves.
fn small(frame: &mut Frame, area: Rect, run: &Run, figures: &Figures) {
    let mut lines = vec![format!("loss        {}", figures.loss.map_or("-".into(), short))];
    if let Some(v) = run.steps().validations.last() {
        lines.push(format!("validation  {}", validation_text(v.loss, v.accuracy)));
    }
    if figures.split.whole > 0.0 {
        lines.push(format!("a step      {}", micros(figures.split.whole)));
    }
    lines.push(format!("compiles    {}", compiles_text(figures)));
    lines.push(format!("restarts    {}", figures.n_restarts));
    let lines: Vec<Line> = lines.into_iter().map(|line| Line::raw(format!(" {line}"))).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn validation_text(loss: f64, accuracy: Option<f64>) -> String {
    let accuracy = accuracy.map_or(String::new(), |a| format!(", {:.1} %", 100.0 * a));
    short(loss) + &accuracy
}

fn compiles_text(figures: &Figures) -> String {
    let c = figures.compiles;
    match c.budget {
        Some(budget) => format!("{} of {budget}", c.of_process),
        None => count(c.of_process),
    }
}

fn full(frame: &mut Frame, area: Rect, run: &Run, figures: &Figures, view: &View, now_us: u64) {
    let n_events = (area.height / 5).clamp(3, 12);
    let [top, bottom] = Layout::vertical([Constraint::Fill(1), Constraint::Length(n_events + 2)]).areas(area);
    let side = if area.width >= 120 { 44 } else { 34 };
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(side)]).areas(top);
    let small = (top.height / 4).max(4);
    let [loss, more] = Layout::vertical([Constraint::Fill(1), Constraint::Length(small)]).areas(left);
    charts::loss(frame, loss, run, view.log);
    let [norm, scale] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(more);
    let steps = run.steps();
    charts::small(frame, norm, steps, "gradient norm", &steps.gradient_norm);
    if steps.loss_scale.iter().any(|&x| x.is_finite() && x != 1.0) {
        charts::small(frame, scale, steps, "loss scale", &steps.loss_scale);
    } else {
        charts::small(frame, scale, steps, "learning rate", &steps.lr);
    }
    let [split, counters] = Layout::vertical([Constraint::Length(8), Constraint::Fill(1)]).areas(right);
    where_time_goes(frame, split, figures);
    engine(frame, counters, run, figures);
    events::events(frame, bottom, run, now_us);
}

/// A bar for each part of a step.
fn where_time_goes(frame: &mut Frame, area: Rect, figures: &Figures) {
    let s = figures.split;
    let width = usize::from(area.width).saturating_sub(2 + 9 + 16);
    let parts = [
        ("device", s.device, Color::Green),
        ("copies", s.copies, Color::Cyan),
        ("host", s.host, Color::Blue),
        ("compiles", s.compiles, Color::Red),
        ("validate", s.validation, Color::Yellow),
        ("other", s.other(), Color::Reset),
    ];
    let lines: Vec<Line> = parts
        .into_iter()
        .map(|(name, us, color)| {
            let share = if s.whole > 0.0 { us / s.whole } else { 0.0 };
            let n = (share * width as f64).round() as usize;
            Line::from(vec![
                Span::raw(format!("{name:<9}")),
                Span::styled("█".repeat(n), color),
                Span::styled("·".repeat(width.saturating_sub(n)), dim()),
                Span::raw(format!("{:>10}{:>4.0} %", micros(us), 100.0 * share)),
            ])
        })
        .collect();
    let title = if s.whole > 0.0 { format!(" a step: {} ", micros(s.whole)) } else { " a step ".into() };
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
}

/// What the engine does, and what of its budget is used up.
fn engine(frame: &mut Frame, area: Rect, run: &Run, figures: &Figures) {
    let steps = run.steps();
    let c = figures.compiles;
    let s = figures.split;
    let mut rows: Vec<(&str, String)> = Vec::new();
    if s.whole > 0.0 {
        let gflops = figures.gflops.map_or(String::new(), |x| format!(", {} GFLOP/s", short(x)));
        rows.push(("in use", format!("{:.0} %{gflops}", 100.0 * s.device / s.whole)));
    }
    rows.push(("compiles", compiles_text(figures) + &of_run(c.of_run, c.of_process)));
    if let Some(us) = c.last_us {
        let last = steps.compiled.last();
        let how = if last.is_some_and(|c| c.background) { ", overlapped" } else { ", waited for" };
        rows.push(("the last", micros(us as f64) + how));
    }
    let resumed = if figures.n_resumed > 0 { format!(", resumed {}", figures.n_resumed) } else { String::new() };
    rows.push(("restarts", format!("{}{resumed}", figures.n_restarts)));
    let n_skipped = steps.skipped.len() + steps.updates_skipped.len();
    let n_retries: u64 = steps.retries.iter().map(|(_, n)| n).sum();
    rows.push(("recovered", format!("{n_skipped} left out, {n_retries} again")));
    if let Some(p) = run.process() {
        let weights = format!("{:?}", p.strategy).to_lowercase();
        let stale = steps.staleness.last().filter(|_| p.overlap);
        let overlap = stale.map_or(String::new(), |n| format!(", {n} behind"));
        rows.push(("weights", weights + &overlap));
    }
    rows.push(("rate", steps.lr.last().filter(|x| x.is_finite()).map_or("-".into(), |&x| short(x))));
    if let Some(p) = run.process() {
        rows.push(("size", format!("{} parameters", count(p.n_params as u64))));
        rows.push(("numbers", p.arithmetic.split(',').next().unwrap_or_default().to_string()));
    }
    let lines: Vec<Line> = rows.into_iter().map(|(name, value)| Line::raw(format!("{name:<10}{value}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" engine ")), area);
}

fn of_run(of_run: u64, of_process: u64) -> String {
    if of_run == of_process { String::new() } else { format!("; {} in all", count(of_run)) }
}

fn help(frame: &mut Frame, area: Rect, view: &View) {
    let quit = if view.keys_of_training {
        ["q       close the view; training goes on", "Ctrl-C  save and stop training"]
    } else {
        ["q       leave; the run is not touched", "Ctrl-C  the same"]
    };
    let lines = [
        quit[0],
        quit[1],
        "l       the loss on a logarithmic scale",
        "?       this",
        "",
        "in use  share of time the device computes",
        "compiles   of this process, of its budget",
        "recovered  steps and updates left out for",
        "        numbers that are not finite, and",
        "        device calls that were repeated",
    ];
    let width = 46.min(area.width);
    let height = (lines.len() as u16 + 2).min(area.height);
    let [row] = Layout::vertical([Constraint::Length(height)]).flex(ratatui::layout::Flex::Center).areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)]).flex(ratatui::layout::Flex::Center).areas(row);
    frame.render_widget(Clear, place);
    let lines: Vec<Line> = lines.into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), place);
}

#[cfg(test)]
mod tests;
