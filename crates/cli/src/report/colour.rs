//! The palette: each colour has a meaning, a light form and a dark one.
//!
//! The hues are those of Okabe and Ito, told apart with any common colour vision, in lightness fit to the
//! background.

/// A colour by what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// The curves of one kind, or of one run among several.
    Series(usize),
    /// Work of the device.
    Device,
    /// Copies to and from the device.
    Copy,
    /// Work of the host.
    Host,
    /// The part of it that gives gradients alone.
    Gradients,
    /// Training that stands still for a compile.
    Wait,
    /// A compile behind training.
    Compile,
    /// A look at the validation data.
    Eval,
    /// What is none of these.
    Other,
    /// What is not as it should be.
    Bad,
}

/// Light and dark form.
const SERIES: [[&str; 2]; 7] = [
    ["#0f6cb0", "#6cb4f0"],
    ["#c2570c", "#f59a56"],
    ["#0b8465", "#4cc9a4"],
    ["#a8478f", "#e59ace"],
    ["#8f6f00", "#e0c040"],
    ["#3f8fb5", "#9bd8f5"],
    ["#5b6670", "#aab6c0"],
];

const NAMED: [(Colour, &str, [&str; 2]); 9] = [
    (Colour::Device, "device", ["#0f6cb0", "#5aa5e6"]),
    (Colour::Copy, "copy", ["#7db6df", "#b3d9f7"]),
    (Colour::Host, "host", ["#d99a2b", "#e0b356"]),
    (Colour::Gradients, "gradients", ["#efc987", "#f2d9a3"]),
    (Colour::Wait, "wait", ["#c7401a", "#f5794f"]),
    (Colour::Compile, "compile", ["#0b8465", "#4cc9a4"]),
    (Colour::Eval, "eval", ["#a8478f", "#e59ace"]),
    (Colour::Other, "other", ["#c3c9ce", "#4d565f"]),
    (Colour::Bad, "bad", ["#b3261e", "#ff8a80"]),
];

impl Colour {
    /// Its name in style sheets.
    pub(crate) fn name(self) -> String {
        match self {
            Colour::Series(i) => format!("series-{}", i % SERIES.len()),
            _ => NAMED.iter().find(|(c, ..)| *c == self).map_or("other", |(_, name, _)| name).to_string(),
        }
    }

    /// Whether its lines are dashed, because another series has the same colour.
    pub(crate) fn is_dashed(self) -> bool {
        matches!(self, Colour::Series(i) if i >= SERIES.len())
    }

    /// The light form, as `#rrggbb`; pictures have it.
    pub(crate) fn hex(self) -> &'static str {
        match self {
            Colour::Series(i) => SERIES[i % SERIES.len()][0],
            _ => NAMED.iter().find(|(c, ..)| *c == self).map_or("#000000", |(.., hex)| hex[0]),
        }
    }

    /// A value of a style that refers to it.
    pub(crate) fn var(self) -> String {
        format!("var(--{})", self.name())
    }
}

/// The palette as properties of a style sheet, of the dark form or the light.
pub(crate) fn properties(dark: bool) -> String {
    let series = SERIES.iter().enumerate().map(|(i, hex)| (Colour::Series(i).name(), hex));
    let named = NAMED.iter().map(|(_, name, hex)| (name.to_string(), hex));
    series.chain(named).map(|(name, hex)| format!("--{name}:{};", hex[usize::from(dark)])).collect()
}
