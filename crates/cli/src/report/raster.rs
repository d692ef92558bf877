//! Pictures as PNG, twice as fine as they are large, with a font that the program has in itself: the machine need
//! have none.

use super::scene::{Anchor, Scene, Shape};
use anyhow::{Context, anyhow};
use std::sync::LazyLock;
use tiny_skia::{Color, FillRule, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, StrokeDash, Transform};
use ttf_parser::{Face, OutlineBuilder};

/// Pixels of the file to a pixel of the picture.
const SCALE: f32 = 2.0;

/// Ubuntu Light, whose digits are all of one width.
static FONT: LazyLock<Option<Face<'static>>> =
    LazyLock::new(|| Face::parse(epaint_default_fonts::UBUNTU_LIGHT, 0).ok());

/// What a glyph that the font lacks takes, in its height.
const MISSING_WIDTH: f64 = 0.5;

/// How wide a text is.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| advance(c, size)).sum()
}

fn advance(c: char, size: f64) -> f64 {
    let of = |face: &Face<'static>| {
        let advance = face.glyph_hor_advance(face.glyph_index(glyph_of(c))?)?;
        Some(f64::from(advance) / f64::from(face.units_per_em()) * size)
    };
    FONT.as_ref().and_then(of).unwrap_or(MISSING_WIDTH * size)
}

/// The character whose glyph is shown for `c`: the font has no narrow space.
fn glyph_of(c: char) -> char {
    if c == '\u{202f}' { ' ' } else { c }
}

/// The outline of a glyph on its way into a path: from the font's units, upwards, to pixels, downwards.
struct Pen<'a> {
    path: &'a mut PathBuilder,
    x: f32,
    y: f32,
    scale: f32,
}

impl Pen<'_> {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.scale, self.y - y * self.scale)
    }
}

impl OutlineBuilder for Pen<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

/// The picture as a PNG file.
pub(crate) fn to_png(scene: &Scene) -> anyhow::Result<Vec<u8>> {
    let size = |n: f64| (n as f32 * SCALE).ceil() as u32;
    let mut pixels = Pixmap::new(size(scene.width), size(scene.height))
        .ok_or_else(|| anyhow!("a picture of {} by {} pixels cannot be drawn", scene.width, scene.height))?;
    for shape in &scene.shapes {
        draw(&mut pixels, shape);
    }
    pixels.encode_png().context("encode a picture")
}

fn paint(colour: &str, opacity: f64) -> Paint<'static> {
    let part = |i: usize| colour.get(i..i + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let mut paint = Paint::default();
    paint.set_color(Color::from_rgba8(part(1), part(3), part(5), (255.0 * opacity) as u8));
    paint
}

fn draw(pixels: &mut Pixmap, shape: &Shape) {
    let transform = Transform::from_scale(SCALE, SCALE);
    match shape {
        Shape::Rect { x, y, w, h, colour } => {
            if let Some(rect) = Rect::from_xywh(*x as f32, *y as f32, *w as f32, *h as f32) {
                pixels.fill_rect(rect, &paint(colour, 1.0), transform, None);
            }
        }
        Shape::Dot { x, y, r, colour } => {
            if let Some(path) = PathBuilder::from_circle(*x as f32, *y as f32, *r as f32) {
                pixels.fill_path(&path, &paint(colour, 1.0), FillRule::Winding, transform, None);
            }
        }
        Shape::Line { points, width, opacity, dashed, colour } => {
            let mut path = PathBuilder::new();
            let mut pen_is_down = false;
            for &(x, y) in points {
                let is_finite = x.is_finite() && y.is_finite();
                match (is_finite, pen_is_down) {
                    (true, true) => path.line_to(x as f32, y as f32),
                    (true, false) => path.move_to(x as f32, y as f32),
                    (false, _) => {}
                }
                pen_is_down = is_finite;
            }
            if let Some(path) = path.finish() {
                let dash = if *dashed { StrokeDash::new(vec![7.0, 5.0], 0.0) } else { None };
                let stroke =
                    Stroke { width: *width as f32, line_join: LineJoin::Round, dash, ..Stroke::default() };
                pixels.stroke_path(&path, &paint(colour, *opacity), &stroke, transform, None);
            }
        }
        Shape::Text { x, y, size, anchor, colour, text } => {
            let Some(face) = FONT.as_ref() else { return };
            let begin = match anchor {
                Anchor::Start => *x,
                Anchor::Middle => x - width(text, *size) / 2.0,
                Anchor::End => x - width(text, *size),
            };
            let mut path = PathBuilder::new();
            let mut at = begin;
            for c in text.chars() {
                let scale = *size as f32 / f32::from(face.units_per_em());
                if let Some(glyph) = face.glyph_index(glyph_of(c)) {
                    face.outline_glyph(glyph, &mut Pen { path: &mut path, x: at as f32, y: *y as f32, scale });
                }
                at += advance(c, *size);
            }
            if let Some(path) = path.finish() {
                pixels.fill_path(&path, &paint(colour, 1.0), FillRule::Winding, transform, None);
            }
        }
    }
}
