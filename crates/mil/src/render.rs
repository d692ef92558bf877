//! Diagnostics as text for people, in the style of rustc.

use crate::error::{Diagnostic, Error, Label, Severity};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

impl Diagnostic {
    /// The diagnostic with the lines of `source` it speaks of, without colour and without a final line break.
    /// `file` is the name to show; `source` is the text that was parsed.
    pub fn render(&self, file: &str, source: &str) -> String {
        self.render_with(&Renderer::plain(), file, source)
    }

    /// The same as [`Diagnostic::render`] with escape sequences for the colours of a terminal.
    pub fn render_colored(&self, file: &str, source: &str) -> String {
        self.render_with(&Renderer::styled(), file, source)
    }

    fn render_with(&self, renderer: &Renderer, file: &str, source: &str) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let mut group = if self.labels.is_empty() {
            Group::with_title(title)
        } else {
            title.element(snippet(&self.labels, file, source))
        };
        for note in &self.notes {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        renderer.render(&[group])
    }
}

impl Error {
    /// All diagnostics as [`Diagnostic::render`] gives them, with an empty line between.
    pub fn render(&self, file: &str, source: &str) -> String {
        let all: Vec<String> = self.diagnostics().iter().map(|d| d.render(file, source)).collect();
        all.join("\n\n")
    }
}

/// The lines of `source` from the first to the last label.
fn snippet<'a>(
    labels: &'a [Label],
    file: &'a str,
    source: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let clamped = |offset: u32| source.floor_char_boundary(offset as usize);
    let spans = || labels.iter().map(|l| (clamped(l.span.start), clamped(l.span.end)));
    let first = spans().map(|(start, _)| start).min().unwrap_or(0);
    let last = spans().map(|(_, end)| end).max().unwrap_or(0).max(first);
    let begin = source[..first].rfind('\n').map_or(0, |at| at + 1);
    let end = source[last..].find('\n').map_or(source.len(), |at| last + at);
    let annotations = spans().zip(labels).enumerate().map(|(i, ((start, end), label))| {
        let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let annotation = kind.span(start - begin..end.max(start) - begin);
        if label.text.is_empty() { annotation } else { annotation.label(label.text.as_str()) }
    });
    Snippet::source(&source[begin..end])
        .line_start(line_column(source, first as u32).0)
        .path(file)
        .annotations(annotations)
}

/// Line and column of a byte of `source`, both counted from 1, columns in characters.
pub fn line_column(source: &str, offset: u32) -> (usize, usize) {
    let before = &source[..source.floor_char_boundary(offset as usize)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Span;
    use expect_test::expect;

    fn span(source: &str, text: &str) -> Span {
        let start = source.find(text).unwrap();
        Span { start: start as u32, end: (start + text.len()) as u32 }
    }

    #[test]
    fn labels_on_lines_apart_are_shown_without_the_lines_between() {
        let source: String = (1..=20).map(|i| format!("line {i}: é\n")).collect();
        let diagnostic = Diagnostic::warning("unused", "`x` is never used")
            .at(span(&source, "16"), "here")
            .at(span(&source, "3: é"), "")
            .note("remove it");
        expect![[r#"
            warning[unused]: `x` is never used
              --> a.mil:16:6
               |
             3 | line 3: é
               |      ----
            ...
            16 | line 16: é
               |      ^^ here
               |
               = note: remove it"#]]
        .assert_eq(&diagnostic.render("a.mil", &source));
    }

    #[test]
    fn colour_is_only_there_on_demand() {
        let diagnostic = Diagnostic::error("c", "m").at(Span { start: 0, end: 1 }, "l");
        assert!(diagnostic.render_colored("f", "s").contains("\u{1b}["));
        assert!(!diagnostic.render("f", "s").contains('\u{1b}'));
        assert_eq!(Diagnostic::error("c", "m").render("f", "s"), "error[c]: m");
    }

    #[test]
    fn spans_that_are_not_of_the_source_do_no_harm() {
        for source in ["", "é", "a\nb"] {
            for (start, end) in [(0, 9), (1, 2), (7, 9), (2, 1), (u32::MAX, u32::MAX - 1)] {
                let diagnostic = Diagnostic::error("c", "message").at(Span { start, end }, "label");
                assert!(diagnostic.render("f", source).contains("message"));
            }
        }
    }
}
