//! Curves.

use super::{short, validation_text};
use anemone::Run;
use anemone::run::{Bucket, Steps};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::text::Span;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

/// Points of a curve in a column of the terminal: braille has two.
const PER_COLUMN: usize = 2;

/// The losses of steps and of validations.
pub(super) fn loss(frame: &mut Frame, area: Rect, run: &Run, log: bool) {
    let steps = run.steps();
    let scaled = |x: f64| if log { x.log10() } else { x };
    let points = |curve: Vec<Bucket>| points(&curve, scaled);
    let train = points(steps.curve(&steps.loss, usize::from(area.width) * PER_COLUMN));
    let validation: Vec<(f64, f64)> =
        steps.validations.iter().map(|v| (v.step as f64, scaled(v.loss))).filter(|(_, y)| y.is_finite()).collect();
    let mut title = vec![Span::raw(" loss ")];
    if let Some(&loss) = steps.loss.last() {
        title.push(Span::styled(format!("{} ", short(loss)), Color::Cyan));
    }
    if let Some(v) = steps.validations.last() {
        let text = format!(" validation {} ", validation_text(v.loss, v.accuracy));
        title.push(Span::styled(text, Color::Yellow));
    }
    if log {
        title.push(Span::raw(" log "));
    }
    let block = Block::bordered().title(title);
    let Some(y) = bounds(train.iter().chain(&validation).map(|p| p.1)) else {
        let why = if steps.is_empty() { "no steps yet" } else { "no loss that is finite" };
        return frame.render_widget(Paragraph::new(why).block(block), area);
    };
    let x = [steps.step[0] as f64, steps.step[steps.len() - 1].max(steps.step[0] + 1) as f64];
    let unscaled = |y: f64| if log { 10f64.powf(y) } else { y };
    let middle = |[a, b]: [f64; 2]| (a + b) / 2.0;
    let labels = |[a, b]: [f64; 2], of: &dyn Fn(f64) -> String| [of(a), of(middle([a, b])), of(b)];
    let dataset =
        |data, color, kind| Dataset::default().marker(Marker::Braille).graph_type(kind).style(color).data(data);
    let mut datasets = vec![dataset(&train, Color::Cyan, GraphType::Line)];
    datasets.push(dataset(&validation, Color::Yellow, GraphType::Line));
    let chart = Chart::new(datasets)
        .block(block)
        .x_axis(Axis::default().bounds(x).labels(labels(x, &|x| format!("{x:.0}"))))
        .y_axis(Axis::default().bounds(y).labels(labels(y, &|y| short(unscaled(y)))));
    frame.render_widget(chart, area);
}

/// A column of the metrics, with its last value and its range instead of axes.
pub(super) fn small(frame: &mut Frame, area: Rect, steps: &Steps, name: &str, column: &[f64]) {
    let data = points(&steps.curve(column, usize::from(area.width) * PER_COLUMN), |x| x);
    let last = column.iter().rev().find(|x| x.is_finite());
    let block = Block::bordered().title(format!(" {name} {} ", last.map_or("-".into(), |&x| short(x))));
    let Some(y) = bounds(data.iter().map(|p| p.1)) else {
        return frame.render_widget(block, area);
    };
    let x = [data[0].0, data[data.len() - 1].0.max(data[0].0 + 1.0)];
    let dataset =
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(Color::Magenta).data(&data);
    let chart = Chart::new(vec![dataset])
        .block(block)
        .x_axis(Axis::default().bounds(x))
        .y_axis(Axis::default().bounds(y).labels([short(y[0]), short(y[1])]));
    frame.render_widget(chart, area);
}

fn points(curve: &[Bucket], scaled: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    curve.iter().map(|b| (b.step, scaled(b.mean))).filter(|(_, y)| y.is_finite()).collect()
}

/// The range of values, never empty; `None` if there are none.
fn bounds(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        min = min.min(value);
        max = max.max(value);
    }
    if min > max {
        return None;
    }
    // A constant lies in the middle.
    let room = if max > min { 0.0 } else { (min.abs() * 0.1).max(1e-9) };
    Some([min - room, max + room])
}
