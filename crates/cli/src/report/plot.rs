//! Charts and timelines in the page: lines in an SVG that stretches to any width, words beside it that do not.

use super::chart::{Chart, Curve, Style};
use super::colour::Colour;
use super::number::{Unit, duration, grouped};
use super::page::data;
use super::scale::Scale;
use super::timeline::{Span, Timeline};
use maud::{Markup, PreEscaped, html};
use serde_json::json;
use std::fmt::Write;

/// The plane that lines are drawn in; what it is stretched to is the page's business.
const W: f64 = 4000.0;
const H: f64 = 2000.0;

/// Rows of the table behind a chart.
const N_ROWS: usize = 12;

/// A chart as a figure with its legend, its choice of scale, and its numbers.
pub(crate) fn chart(chart: &Chart, n_runs: usize) -> Markup {
    let x = chart.x();
    let log = chart.log();
    let id = chart.id;
    html! {
        figure.chart.small[chart.small] id=(id) {
            figcaption {
                h3 { (chart.title) }
                @if log.is_some() {
                    fieldset.scale {
                        legend.unseen { "Scale of " (chart.title) }
                        @for (name, value, on) in
                            [("linear", "lin", !chart.is_log_first()), ("log", "log", chart.is_log_first())]
                        {
                            label {
                                input type="radio" name={ (id) "-scale" } value=(value) checked[on];
                                span { (name) }
                            }
                        }
                    }
                }
            }
            ul.legend { @for (swatch, name) in legend(chart, n_runs) { li { (swatch) (name) } } }
            div.plot {
                div.ys {
                    (ys("lin", chart.linear(), chart.unit))
                    @if let Some(log) = log { (ys("log", log, chart.unit)) }
                }
                div.area tabindex="0" role="group" aria-label={ (chart.title) ": values at a step, by the arrow keys" } {
                    svg viewBox={ "0 0 " (W) " " (H) } preserveAspectRatio="none" role="img"
                        aria-labelledby={ (id) "-title " (id) "-desc" } {
                        title id={ (id) "-title" } { (chart.title) " over the steps" }
                        desc id={ (id) "-desc" } { (describe(chart)) }
                        (lines(chart, x, chart.linear(), "lin"))
                        @if let Some(log) = log { (lines(chart, x, log, "log")) }
                    }
                    @for (at, label) in &chart.marks {
                        i.mark style={ "left:" (percent(x.at(*at))) } title=(label) {}
                    }
                    div.cross hidden {}
                    div.read hidden role="status" {}
                }
                div.xs { @for (at, label) in x.ticks(Unit::Count) {
                    span class=(side(at)) style={ "left:" (percent(at)) } { (label) }
                } }
            }
            @if !chart.note.is_empty() { p.note { (chart.note) } }
            @if !chart.marks.is_empty() && !chart.small { p.note { "Dotted: " (marks(chart)) "." } }
            (missing(chart))
            details { summary { "Numbers" } (table(chart)) }
            (data(&values(chart)))
        }
    }
}

fn marks(chart: &Chart) -> String {
    let n = chart.marks.len();
    let shown: Vec<&str> = chart.marks.iter().take(3).map(|(_, label)| label.as_str()).collect();
    let more = if n > 3 { format!(", … ({n} in all)") } else { String::new() };
    shown.join(", ") + &more
}

/// What the curves are; of several runs, whose colours are known, only what the styles are.
fn legend(chart: &Chart, n_runs: usize) -> Vec<(Markup, String)> {
    if n_runs < 2 {
        let style = |c: &Curve| format!("color:{}", c.colour.var());
        return chart.curves.iter().map(|c| (swatch(c.style, &style(c)), c.name.clone())).collect();
    }
    let mut legend: Vec<(Style, &str)> = Vec::new();
    for curve in &chart.curves {
        // A run's name may have a comma too, what follows it has none.
        let what = curve.name.rsplit_once(", ").map_or(&curve.name[..], |(_, what)| what);
        if !legend.iter().any(|(style, _)| *style == curve.style) {
            legend.push((curve.style, what));
        }
    }
    legend.into_iter().map(|(style, what)| (swatch(style, ""), what.to_string())).collect()
}

fn swatch(style: Style, colour: &str) -> Markup {
    let class = match style {
        Style::Faint => "faint",
        Style::Line => "line",
        Style::Dots => "dots",
    };
    html! { i.swatch.(class) style=(colour) {} }
}

/// What of the values is not in the lines.
fn missing(chart: &Chart) -> Markup {
    let n: usize =
        chart.curves.iter().filter(|c| c.style != Style::Line).flat_map(|c| &c.line.missing).map(|m| m.n).sum();
    html! { @if n > 0 {
        p.note.bad { "Not finite: " (grouped(n as f64)) (if n == 1 { " value" } else { " values" }) ", marked at the upper edge." }
    } }
}

/// Which side of a mark its label is on: those at the ends stay inside.
fn side(at: f64) -> &'static str {
    match at {
        a if a < 0.03 => "first",
        a if a > 0.95 => "last",
        _ => "",
    }
}

fn ys(class: &str, scale: Scale, unit: Unit) -> Markup {
    let ticks = scale.ticks(unit);
    // One of them, unseen, holds the place.
    let widest = ticks.iter().map(|(_, label)| label).max_by_key(|label| label.chars().count());
    html! { div class=(class) {
        @if let Some(widest) = widest { b aria-hidden="true" { (widest) } }
        @for (at, label) in &ticks { span style={ "top:" (percent(1.0 - at)) } { (label) } }
    } }
}

fn percent(at: f64) -> String {
    format!("{:.2}%", 100.0 * at)
}

fn lines(chart: &Chart, x: Scale, y: Scale, class: &str) -> Markup {
    html! { g class=(class) {
        @for (at, _) in y.ticks(chart.unit) {
            @let v = ((1.0 - at) * H).round();
            path.rule d={ "M0 " (v) "H" (W) } {}
        }
        @for curve in &chart.curves {
            @let d = path(&curve.line.points, x, y);
            @let dash = if curve.colour.is_dashed() { ";stroke-dasharray:7 5" } else { "" };
            @let colour = format!("stroke:{}{dash}", curve.colour.var());
            path class=(match curve.style { Style::Faint => "faint", Style::Line => "line", Style::Dots => "thin" })
                 style=(colour) d=(d) {}
            @if curve.style == Style::Dots {
                path.dots style=(colour) d=(dots(curve.line.points.iter().copied(), x, y)) {}
            } @else {
                path.dots style=(colour) d=(dots(curve.line.lone(), x, y)) {}
            }
        }
        @for curve in chart.curves.iter().filter(|c| !c.line.missing.is_empty() && c.style != Style::Line) {
            @let at = curve.line.missing.iter().map(|m| (m.first, f64::MAX));
            path.missing d=(dots(at, x, y)) {}
        }
    } }
}

/// A line through points, each by its distance to the one before, broken where y is NaN.
fn path(points: &[(f64, f64)], x: Scale, y: Scale) -> String {
    let mut d = String::new();
    let mut last: Option<(i64, i64)> = None;
    for &(px, py) in points {
        let (u, v) = (x.at(px) * W, (1.0 - y.at(py)) * H);
        if !v.is_finite() {
            last = None;
            continue;
        }
        let (u, v) = (u.round() as i64, v.round() as i64);
        // Writing to a string does not fail.
        let _ = match last {
            None => write!(d, "M{u} {v}l0 0"),
            Some((a, b)) => write!(d, " {} {}", u - a, v - b),
        };
        last = Some((u, v));
    }
    d
}

/// A dot at each point: a line without length with round ends, which no stretching makes an ellipse.
fn dots(points: impl Iterator<Item = (f64, f64)>, x: Scale, y: Scale) -> String {
    points
        .map(|(px, py)| (x.at(px) * W, (1.0 - y.at(py)) * H))
        .filter(|(_, v)| v.is_finite())
        .map(|(u, v)| format!("M{} {}h0", u.round(), v.round()))
        .collect()
}

fn describe(chart: &Chart) -> String {
    let of = |curve: &Curve| {
        let finite: Vec<f64> = curve.line.points.iter().map(|p| p.1).filter(|y| y.is_finite()).collect();
        let (first, last) = (finite.first()?, finite.last()?);
        let show = |y: f64| chart.unit.show(y);
        let (lo, hi) = super::scale::ends(finite.iter().copied())?;
        Some(format!(
            "{}: from {} to {}, lowest {}, highest {}.",
            curve.name,
            show(*first),
            show(*last),
            show(lo),
            show(hi)
        ))
    };
    chart.curves.iter().filter_map(of).collect::<Vec<_>>().join(" ")
}

/// Some of the numbers, for who does not see the lines: each curve but the pale ones at some steps.
fn table(chart: &Chart) -> Markup {
    let mut curves: Vec<&Curve> = chart.curves.iter().filter(|c| c.style != Style::Faint).collect();
    if curves.is_empty() {
        curves = chart.curves.iter().collect();
    }
    // The steps of the curve that has most of them.
    let steps: Vec<f64> = curves
        .iter()
        .max_by_key(|c| c.line.points.len())
        .map_or_else(Vec::new, |c| c.line.points.iter().map(|p| p.0).collect());
    let every = steps.len().div_ceil(N_ROWS).max(1);
    let is_row = |i: usize| i.is_multiple_of(every) || i + 1 == steps.len();
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Numbers of " (chart.title) } {
            table.numbers {
                thead { tr {
                    th scope="col" { "Step" }
                    @for curve in &curves { th scope="col" { (curve.name) } }
                } }
                tbody { @for (_, step) in steps.iter().enumerate().filter(|(i, _)| is_row(*i)) { tr {
                    th scope="row" { (grouped(*step)) }
                    @for curve in &curves { td { (nearest(curve, *step).map_or_else(|| "–".into(), |y| chart.unit.show(y))) } }
                } } }
            }
        }
    }
}

/// The value of the point that is nearest to a step; `None` beyond the ends of the curve.
fn nearest(curve: &Curve, step: f64) -> Option<f64> {
    curve.line.span.filter(|(first, end)| (*first..=*end).contains(&step))?;
    let distance = |p: &&(f64, f64)| (p.0 - step).abs();
    curve.line.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|p| p.1)
}

/// What the script reads out.
fn values(chart: &Chart) -> serde_json::Value {
    let x = chart.x();
    // Six digits are more than are shown.
    let short = |v: f64| format!("{v:.5e}").parse::<f64>().ok().filter(|v| v.is_finite());
    let curves = chart.curves.iter().map(|c| {
        json!({
            "name": c.name,
            "colour": c.colour.var(),
            "span": c.line.span,
            "x": c.line.points.iter().map(|p| p.0.round() as i64).collect::<Vec<_>>(),
            "y": c.line.points.iter().map(|p| short(p.1)).collect::<Vec<_>>(),
        })
    });
    let unit = match chart.unit {
        Unit::Plain => "",
        Unit::Count => "count",
        Unit::Micros => "us",
        Unit::Share => "share",
    };
    let (lo, hi) = x.ends();
    json!({ "unit": unit, "ends": [lo, hi], "curves": curves.collect::<Vec<_>>() })
}

/// A run's compiles beside its training, as a whole and a part of it closely.
pub(crate) fn timeline(timeline: &Timeline, name: &str) -> Markup {
    let (training, compiles) = timeline.pieces();
    let scale = Scale::linear([0.0, timeline.end].into_iter(), 0.0);
    let is_used = |c: &Colour| timeline.training.iter().chain(&timeline.compiles).any(|span| span.colour == *c);
    let all = [Colour::Device, Colour::Eval, Colour::Wait, Colour::Compile, Colour::Bad];
    let used: Vec<Colour> = all.into_iter().filter(is_used).collect();
    html! {
        figure.timeline {
            ul.legend { @for colour in used { li { i.key style={ "background:" (colour.var()) } {} (meaning(colour)) } } }
            h4 { "The whole run" }
            (lanes(&heights(&training), &heights(&compiles), &format!("Time of {name}: training above, compiles below")))
            div.xs.pad { @for (at, label) in scale.ticks(Unit::Micros) {
                span class=(side(at)) style={ "left:" (percent(at)) } { (label) }
            } }
            @if let Some(close) = timeline.close() {
                @let scale = Scale::linear([0.0, close.end - close.begin].into_iter(), 0.0);
                h4 { "Closely: " (close.name()) ", " (duration(close.end - close.begin)) }
                (lanes(&rects(&close.training, close.begin, close.end), &rects(&close.compiles, close.begin, close.end),
                       "The same for a few steps: every block a step, a wait or a compile"))
                div.xs.pad { @for (at, label) in scale.ticks(Unit::Micros) {
                    span class=(side(at)) style={ "left:" (percent(at)) } { (label) }
                } }
            }
        }
    }
}

/// What a colour of a timeline means.
pub(crate) fn meaning(colour: Colour) -> &'static str {
    match colour {
        Colour::Device => "training steps",
        Colour::Wait => "standing still for a compile",
        Colour::Compile => "compile behind training",
        Colour::Eval => "validation",
        Colour::Bad => "compile that failed",
        _ => "other",
    }
}

fn lanes(training: &str, compiles: &str, what: &str) -> Markup {
    html! {
        div.lanes {
            span { "training" }
            svg viewBox={ "0 0 " (W) " 100" } preserveAspectRatio="none" role="img" aria-label=(what) { (PreEscaped(training)) }
            span { "compiles" }
            svg viewBox={ "0 0 " (W) " 100" } preserveAspectRatio="none" aria-hidden="true" { (PreEscaped(compiles)) }
        }
    }
}

/// The shares of pieces as stacks, a path a colour.
fn heights(pieces: &[Vec<(Colour, f64)>]) -> String {
    let width = W / pieces.len() as f64;
    let mut paths: Vec<(Colour, String)> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let mut top = 100.0;
        for &(colour, share) in piece {
            let height = (100.0 * share).min(top);
            if !paths.iter().any(|(c, _)| *c == colour) {
                paths.push((colour, String::new()));
            }
            let Some((_, d)) = paths.iter_mut().find(|(c, _)| *c == colour) else { continue };
            let (left, right) = ((i as f64 * width).round(), ((i + 1) as f64 * width).round());
            let _ = write!(d, "M{left} {:.1}V{:.1}H{right}V{:.1}z", top, top - height, top);
            top -= height;
        }
    }
    paths.iter().map(|(colour, d)| format!("<path style=\"fill:{}\" d=\"{d}\"></path>", colour.var())).collect()
}

/// Spans as blocks with a thin gap between them.
fn rects(spans: &[Span], begin: f64, end: f64) -> String {
    let place = |t: f64| (t - begin) / (end - begin) * W;
    let rect = |s: &Span| {
        let (left, right) = (place(s.begin), place(s.end));
        let width = if right - left > 12.0 { right - left - 4.0 } else { (right - left).max(2.0) };
        format!(
            "<rect style=\"fill:{}\" x=\"{left:.1}\" y=\"0\" width=\"{width:.1}\" height=\"100\"></rect>",
            s.colour.var()
        )
    };
    spans.iter().map(rect).collect()
}

#[cfg(test)]
mod tests {
    use super::super::decimate::means;
    use super::*;

    #[test]
    fn a_curve_says_nothing_beyond_its_ends() {
        let points: Vec<_> = (10..20).map(|i| (f64::from(i), f64::from(i))).collect();
        let line = means(&points, 2);
        let curve = Curve { name: String::new(), colour: Colour::Host, style: Style::Line, line };
        let found = [9.0, 10.0, 14.0, 15.0, 20.0, 21.0].map(|step| nearest(&curve, step));
        assert_eq!(found, [None, Some(12.0), Some(12.0), Some(17.0), Some(17.0), None]);
        let curve = Curve { line: means(&[], 2), ..curve };
        assert_eq!(nearest(&curve, 0.0), None);
    }
}
