//! Pictures as lists of shapes with sizes of their own, written as SVG or, by [`raster`](super::raster), as PNG.

use super::chart::{Chart, Style, charts, names};
use super::colour::Colour;
use super::figures::{self, compile_words, parts};
use super::number::{Unit, duration};
use super::plot::meaning;
use super::raster;
use super::timeline::{Span, Timeline};
use anemone::Run;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The colours of paper and ink; pictures are light.
const PAPER: &str = "#ffffff";
const INK: &str = "#1c2227";
const SOFT: &str = "#5d676f";
const RULE: &str = "#e6e9ea";

/// A shape. Sizes are pixels.
pub(crate) enum Shape {
    Rect {
        x: f64,
        y: f64,
        w: f64,
        h: f64,
        colour: &'static str,
    },
    /// A line, broken where a coordinate is not finite.
    Line {
        points: Vec<(f64, f64)>,
        width: f64,
        opacity: f64,
        dashed: bool,
        colour: &'static str,
    },
    Dot {
        x: f64,
        y: f64,
        r: f64,
        colour: &'static str,
    },
    Text {
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        colour: &'static str,
        text: String,
    },
}

/// Which point of a text is where it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture.
pub(crate) struct Scene {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// What it shows, for who does not see it.
    pub(crate) title: String,
    pub(crate) shapes: Vec<Shape>,
}

/// A rectangle to draw in.
#[derive(Clone, Copy)]
struct Frame {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// The pictures of some runs, each with the name of its file.
pub(crate) fn pictures(runs: &[Run]) -> Vec<(String, Scene)> {
    let charts = charts(runs);
    let mut pictures = vec![("overview".to_string(), overview(runs, &charts))];
    for chart in charts.iter().filter(|c| c.constant().is_none()) {
        let mut scene = Scene::new(960.0, 540.0, format!("{} of {}", chart.title, names(runs).join(", ")));
        scene.chart(chart, Frame { x: 32.0, y: 24.0, w: 896.0, h: 492.0 });
        pictures.push((chart.id.to_string(), scene));
    }
    if let [run] = runs
        && let Some(timeline) = Timeline::new(run)
    {
        let mut scene = Scene::new(960.0, 360.0, format!("Compiles of {} beside its training", run.name()));
        scene.timeline(run, &timeline, Frame { x: 32.0, y: 24.0, w: 896.0, h: 312.0 });
        pictures.push(("compiles".into(), scene));
    }
    pictures
}

/// A run, or some, in one picture.
fn overview(runs: &[Run], charts: &[Chart]) -> Scene {
    let names = names(runs);
    let drawn: Vec<&Chart> = charts.iter().filter(|c| c.constant().is_none()).take(5).collect();
    let n_rows = drawn.len().saturating_sub(1).div_ceil(2) as f64;
    let (top, large, small) = (112.0, 380.0, 260.0);
    let timeline = match runs {
        [run] => Timeline::new(run).map(|timeline| (run, timeline)),
        _ => None,
    };
    let below = if timeline.is_some() { 330.0 } else { 0.0 };
    let large = if drawn.is_empty() { 0.0 } else { large };
    let mut scene = Scene::new(1200.0, top + large + n_rows * small + below + 16.0, names.join(", "));
    scene.text(40.0, 56.0, 26.0, Anchor::Start, INK, &names.join(", "));
    if let [run] = runs {
        let what: Vec<String> = figures::setup(run).into_iter().take(2).map(|(_, value)| value).rev().collect();
        scene.text(40.0, 84.0, 14.0, Anchor::Start, SOFT, &what.join(" · "));
    }
    for (i, chart) in drawn.iter().enumerate() {
        let frame = match i {
            0 => Frame { x: 40.0, y: top, w: 1120.0, h: large - 32.0 },
            i => Frame {
                x: if i % 2 == 1 { 40.0 } else { 620.0 },
                y: top + large + ((i - 1) / 2) as f64 * small,
                w: if i + 1 == drawn.len() && i % 2 == 1 { 1120.0 } else { 540.0 },
                h: small - 32.0,
            },
        };
        scene.chart(chart, frame);
    }
    if let Some((run, timeline)) = timeline {
        let y = top + large + n_rows * small;
        scene.timeline(run, &timeline, Frame { x: 40.0, y, w: 1120.0, h: 300.0 });
    }
    scene
}

impl Scene {
    fn new(width: f64, height: f64, title: String) -> Scene {
        let paper = Shape::Rect { x: 0.0, y: 0.0, w: width, h: height, colour: PAPER };
        Scene { width, height, title, shapes: vec![paper] }
    }

    fn text(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, colour: &'static str, text: &str) {
        self.shapes.push(Shape::Text { x, y, size, anchor, colour, text: text.into() });
    }

    fn line(&mut self, points: Vec<(f64, f64)>, width: f64, opacity: f64, colour: &'static str) {
        self.shapes.push(Shape::Line { points, width, opacity, dashed: false, colour });
    }

    /// Names of colours in a row, or in rows where one is too short. Returns what is below.
    fn legend(&mut self, entries: &[(Colour, String)], frame: Frame, y: f64) -> f64 {
        let (mut x, mut y) = (frame.x, y);
        for (colour, name) in entries {
            let width = 22.0 + raster::width(name, 13.0);
            if x > frame.x && x + width > frame.x + frame.w {
                (x, y) = (frame.x, y + 20.0);
            }
            self.shapes.push(Shape::Rect { x, y: y - 9.0, w: 10.0, h: 10.0, colour: colour.hex() });
            self.text(x + 16.0, y, 13.0, Anchor::Start, SOFT, name);
            x += width + 16.0;
        }
        y
    }

    fn chart(&mut self, chart: &Chart, frame: Frame) {
        let (x, log) = (chart.x(), chart.log().filter(|_| chart.is_log_first()));
        let y = log.unwrap_or(chart.linear());
        let axis = if log.is_some() { ", logarithmic" } else { "" };
        self.text(frame.x, frame.y + 14.0, 16.0, Anchor::Start, INK, &format!("{}{axis}", chart.title));
        let entries: Vec<(Colour, String)> = chart
            .curves
            .iter()
            .filter(|c| c.style != Style::Faint || chart.curves.len() == 1)
            .map(|c| (c.colour, c.name.clone()))
            .collect();
        let below = self.legend(&entries, frame, frame.y + 38.0);
        let ticks = y.ticks(chart.unit);
        let left = 10.0 + ticks.iter().map(|(_, label)| raster::width(label, 12.0)).fold(0.0, f64::max);
        let top = below + 16.0;
        let area = Frame { x: frame.x + left, y: top, w: frame.w - left, h: frame.y + frame.h - top - 24.0 };
        for (at, label) in &ticks {
            let v = (area.y + (1.0 - at) * area.h).round() + 0.5;
            self.line(vec![(area.x, v), (area.x + area.w, v)], 1.0, 1.0, RULE);
            self.text(area.x - 8.0, v + 4.0, 12.0, Anchor::End, SOFT, label);
        }
        for (at, label) in x.ticks(Unit::Count) {
            let anchor = match at {
                a if a < 0.02 => Anchor::Start,
                a if a > 0.97 => Anchor::End,
                _ => Anchor::Middle,
            };
            self.text(area.x + at * area.w, area.y + area.h + 18.0, 12.0, anchor, SOFT, &label);
        }
        // Marks on one pixel are one.
        let marks: BTreeSet<i64> =
            chart.marks.iter().map(|(step, _)| (area.x + x.at(*step) * area.w).floor() as i64).collect();
        for u in marks.into_iter().map(|u| u as f64 + 0.5) {
            let mut points = Vec::new();
            let mut v = area.y;
            while v < area.y + area.h {
                points.extend([(u, v), (u, v + 1.5), (u, f64::NAN)]);
                v += 5.0;
            }
            self.line(points, 1.0, 0.7, SOFT);
        }
        for curve in &chart.curves {
            let place = |&(px, py): &(f64, f64)| (area.x + x.at(px) * area.w, area.y + (1.0 - y.at(py)) * area.h);
            let points: Vec<(f64, f64)> = curve.line.points.iter().map(place).collect();
            let dots: Vec<(f64, f64)> = match curve.style {
                Style::Dots => points.clone(),
                _ => curve.line.lone().map(|p| place(&p)).collect(),
            };
            for (x, y) in dots.into_iter().filter(|p| p.1.is_finite()) {
                self.shapes.push(Shape::Dot { x, y, r: 3.0, colour: curve.colour.hex() });
            }
            let (width, opacity) = match curve.style {
                Style::Faint => (1.0, 0.38),
                Style::Line => (2.0, 1.0),
                Style::Dots => (1.25, 0.8),
            };
            let (colour, dashed) = (curve.colour.hex(), curve.colour.is_dashed());
            self.shapes.push(Shape::Line { points, width, opacity, dashed, colour });
        }
        for curve in chart.curves.iter().filter(|c| c.style != Style::Line) {
            for missing in &curve.line.missing {
                let u = area.x + x.at(missing.first) * area.w;
                self.shapes.push(Shape::Dot { x: u, y: area.y, r: 3.5, colour: Colour::Bad.hex() });
            }
        }
    }

    fn timeline(&mut self, run: &Run, timeline: &Timeline, frame: Frame) {
        self.text(frame.x, frame.y + 14.0, 16.0, Anchor::Start, INK, "Compiles beside training");
        self.text(frame.x, frame.y + 36.0, 13.0, Anchor::Start, SOFT, &compile_words(run));
        let parts = parts(run);
        let total: f64 = parts.iter().map(|p| p.us).sum();
        let mut x = frame.x;
        for part in &parts {
            let w = part.us / total * frame.w;
            self.shapes.push(Shape::Rect {
                x,
                y: frame.y + 56.0,
                w: (w - 1.5).max(0.5),
                h: 22.0,
                colour: part.colour.hex(),
            });
            x += w;
        }
        let entries: Vec<(Colour, String)> =
            parts.iter().map(|p| (p.colour, format!("{} {}", p.label, Unit::Share.show(p.us / total)))).collect();
        let below = self.legend(&entries, frame, frame.y + 100.0);
        let Some(close) = timeline.close() else { return };
        let mut used: Vec<(Colour, String)> = Vec::new();
        for span in close.training.iter().chain(&close.compiles) {
            if !used.iter().any(|(colour, _)| *colour == span.colour) {
                used.push((span.colour, meaning(span.colour).into()));
            }
        }
        let heading = format!("Closely: {}, {}:", close.name(), duration(close.end - close.begin));
        self.text(frame.x, below + 36.0, 13.0, Anchor::Start, INK, &heading);
        let left = 16.0 + raster::width(&heading, 13.0);
        self.legend(&used, Frame { x: frame.x + left, w: frame.w - left, ..frame }, below + 36.0);
        let lanes = [("training", &close.training), ("compiles", &close.compiles)];
        for (i, (name, spans)) in lanes.into_iter().enumerate() {
            let y = below + 52.0 + 40.0 * i as f64;
            self.text(frame.x + 60.0, y + 21.0, 12.0, Anchor::End, SOFT, name);
            let lane = Frame { x: frame.x + 70.0, y, w: frame.w - 70.0, h: 34.0 };
            self.shapes.push(Shape::Rect { x: lane.x, y, w: lane.w, h: lane.h, colour: RULE });
            let place = |t: f64| lane.x + (t - close.begin) / (close.end - close.begin) * lane.w;
            for &Span { begin, end, colour } in spans {
                let (from, to) = (place(begin), place(end));
                let w = if to - from > 3.0 { to - from - 1.0 } else { (to - from).max(0.5) };
                self.shapes.push(Shape::Rect { x: from, y, w, h: lane.h, colour: colour.hex() });
            }
        }
    }

    /// The picture as an SVG file.
    pub(crate) fn to_svg(&self) -> String {
        let (w, h) = (self.width, self.height);
        let title = escape(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" \
             aria-label=\"{title}\" font-family=\"system-ui, 'Noto Sans', 'Liberation Sans', sans-serif\">\n\
             <title>{title}</title>\n"
        );
        for shape in &self.shapes {
            // Writing to a string does not fail.
            let _ = match shape {
                Shape::Rect { x, y, w, h, colour } => writeln!(
                    svg,
                    "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{colour}\"/>"
                ),
                Shape::Dot { x, y, r, colour } => {
                    writeln!(svg, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{r}\" fill=\"{colour}\"/>")
                }
                Shape::Line { points, width, opacity, dashed, colour } => writeln!(
                    svg,
                    "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" opacity=\"{opacity}\" \
                     stroke-linejoin=\"round\"{}/>",
                    path(points),
                    if *dashed { " stroke-dasharray=\"7 5\"" } else { "" }
                ),
                Shape::Text { x, y, size, anchor, colour, text } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    writeln!(
                        svg,
                        "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
                         fill=\"{colour}\">{}</text>",
                        escape(text)
                    )
                }
            };
        }
        svg + "</svg>\n"
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    let mut pen_is_down = false;
    for (x, y) in points {
        if x.is_finite() && y.is_finite() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if pen_is_down { "L" } else { "M" });
        }
        pen_is_down = x.is_finite() && y.is_finite();
    }
    d
}

/// Text as SVG takes it: markup as words, what XML has no place for left out.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_mark_is_one_shape_and_marks_on_one_pixel_are_one_mark() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = |step: u64| format!("{{\"step\":{step},\"loss\":{}}}\n", 1.0 / (step as f64 + 1.0));
        fs::write(folder.path().join("metrics.jsonl"), (0..100_000).map(metrics).collect::<String>()).unwrap();
        let n_lines = |resumed_at: &[u64]| {
            let event =
                |step: &u64| format!("{{\"time_us\":0,\"step\":{step},\"event\":\"started\",\"resumed\":true}}\n");
            fs::write(folder.path().join("events.jsonl"), resumed_at.iter().map(event).collect::<String>())
                .unwrap();
            let pictures = pictures(&[Run::open(folder.path()).unwrap()]);
            let (_, loss) = pictures.iter().find(|(name, _)| name == "loss").unwrap();
            loss.shapes.iter().filter(|shape| matches!(shape, Shape::Line { .. })).count()
        };
        let without = n_lines(&[]);
        assert_eq!(n_lines(&[50_000]), without + 1);
        assert_eq!(n_lines(&[50_000, 50_001, 50_002, 90_000]), without + 2);
    }
}
