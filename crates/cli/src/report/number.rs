//! Numbers for people: few digits, units, groups of three.

/// What a number counts, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A number as such.
    Plain,
    /// A whole number.
    Count,
    /// Microseconds.
    Micros,
    /// A share, of 1.
    Share,
}

impl Unit {
    /// The number with its unit. What is not finite is said in words.
    pub(crate) fn show(self, x: f64) -> String {
        match self {
            _ if !x.is_finite() => "not finite".into(),
            Unit::Plain => significant(x, 4),
            Unit::Count => grouped(x),
            Unit::Micros => duration(x),
            Unit::Share => format!("{:.1} %", 100.0 * x),
        }
    }
}

/// `n` significant digits, with an exponent where zeros would be many.
pub(crate) fn significant(x: f64, n: usize) -> String {
    if x == 0.0 {
        return "0".into();
    }
    let scientific = format!("{x:.*e}", n.saturating_sub(1));
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = (n as i32 - 1 - exponent).max(0) as usize;
        format!("{x:.decimals$}")
    } else {
        scientific
    }
}

/// The same without zeros at the end, for axes.
pub(crate) fn short(x: f64) -> String {
    let text = significant(x, 6);
    let (digits, exponent) = match text.split_once('e') {
        Some((digits, exponent)) => (digits, format!("e{exponent}")),
        None => (&text[..], String::new()),
    };
    match digits.contains('.') {
        true => format!("{}{exponent}", digits.trim_end_matches('0').trim_end_matches('.')),
        false => format!("{digits}{exponent}"),
    }
}

/// A whole number in groups of three digits.
pub(crate) fn grouped(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}'); // A narrow space at which no line breaks.
        }
        text.push(digit);
    }
    if x < 0.0 && digits != "0" { format!("−{text}") } else { text }
}

/// Microseconds, in the unit that gives few digits.
pub(crate) fn duration(us: f64) -> String {
    let a = us.abs();
    match a {
        _ if a == 0.0 => "0 s".into(),
        _ if a < 999.5 => format!("{} µs", significant(us, 3)),
        _ if a < 999.5e3 => format!("{} ms", significant(us / 1e3, 3)),
        _ if a < 120e6 => format!("{} s", significant(us / 1e6, 3)),
        _ if a < 7200e6 => format!("{} min", significant(us / 60e6, 3)),
        _ => format!("{} h", significant(us / 3600e6, 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, expected) in [
            (0.0, "0"),
            (0.00012345, "0.0001234"),
            (0.00001, "1.000e-5"),
            (12.0, "12.00"),
            (123456.0, "123456"),
            (1e9, "1.000e9"),
            (-2.5, "-2.500"),
        ] {
            assert_eq!(significant(x, 4), expected);
        }
        assert_eq!([short(2.5), short(1e-7), short(0.1), short(65536.0)], ["2.5", "1e-7", "0.1", "65536"]);
        assert_eq!(
            [grouped(1234567.0), grouped(999.0), grouped(-1000.0)],
            ["1\u{202f}234\u{202f}567", "999", "−1\u{202f}000"]
        );
        assert_eq!(
            [duration(12.34), duration(1234.0), duration(2e6), duration(3600e6), duration(0.0)],
            ["12.3 µs", "1.23 ms", "2.00 s", "60.0 min", "0 s"]
        );
        assert_eq!(Unit::Share.show(0.5), "50.0 %");
        assert_eq!(Unit::Plain.show(f64::NAN), "not finite");
    }
}
