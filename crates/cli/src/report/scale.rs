//! Axes: which place a value has between two ends, and where the marks stand.

use super::number::{Unit, grouped, short};

/// Marks a scale aims at.
const N_TICKS: f64 = 5.0;

/// Values that differ by less than this share of them are the same but for rounding.
const NOISE: f64 = 1e-6;

/// From values to places between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    lo: f64,
    hi: f64,
    log: bool,
}

impl Scale {
    /// A linear scale that has all finite values, with some air around them if asked for.
    pub(crate) fn linear(values: impl Iterator<Item = f64>, air: f64) -> Scale {
        let (lo, hi) = ends(values).unwrap_or((0.0, 1.0));
        let largest = lo.abs().max(hi.abs());
        let (lo, hi) = match hi / 2.0 - lo / 2.0 {
            _ if largest == 0.0 => (-1.0, 1.0),
            d if d <= NOISE * largest => (lo - largest / 2.0, hi + largest / 2.0),
            _ => (lo, hi),
        };
        // Halves first, that the span of the largest numbers is finite.
        let d = air * 2.0 * (hi / 2.0 - lo / 2.0);
        // Nothing is below zero that need not be.
        let lo_air = if lo >= 0.0 { (lo - d).max(0.0) } else { lo - d };
        Scale { lo: lo_air, hi: hi + d, log: false }
    }

    /// A logarithmic scale of the positive values; `None` if there is none.
    pub(crate) fn log(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (lo, hi) = ends(values.filter(|&v| v > 0.0))?;
        let (lo, hi) = (lo.log10(), hi.log10());
        let d = if hi - lo < 0.1 { 0.1 } else { 0.04 * (hi - lo) };
        Some(Scale { lo: lo - d, hi: hi + d, log: true })
    }

    /// The lower and the upper end; of a logarithmic scale, their logarithms.
    pub(crate) fn ends(self) -> (f64, f64) {
        (self.lo, self.hi)
    }

    /// Where a value stands, 0 at the lower end. On a logarithmic scale, what is not positive stands at the lower
    /// end.
    pub(crate) fn at(self, value: f64) -> f64 {
        let v = match self.log {
            true if value > 0.0 => value.log10(),
            true if !value.is_nan() => self.lo,
            _ => value,
        };
        // Halves, so that no difference is infinite.
        ((v / 2.0 - self.lo / 2.0) / (self.hi / 2.0 - self.lo / 2.0)).clamp(0.0, 1.0)
    }

    /// The marks: places and what is written there.
    pub(crate) fn ticks(self, unit: Unit) -> Vec<(f64, String)> {
        if self.log { self.log_ticks(unit) } else { self.linear_ticks(unit) }
    }

    fn linear_ticks(self, unit: Unit) -> Vec<(f64, String)> {
        let span = self.hi - self.lo;
        if !span.is_finite() || span <= 0.0 {
            return vec![(0.0, label(self.lo, unit)), (1.0, label(self.hi, unit))];
        }
        let mut step = nice(span / N_TICKS);
        if unit == Unit::Count {
            step = step.max(1.0);
        }
        let first = (self.lo / step).ceil();
        (0..12)
            .map(|i| (first + f64::from(i)) * step)
            .filter(|&v| v <= self.hi + 1e-9 * span)
            .map(|v| if v.abs() < 1e-9 * span { 0.0 } else { v })
            .map(|v| (self.at(v), label(v, unit)))
            .collect()
    }

    fn log_ticks(self, unit: Unit) -> Vec<(f64, String)> {
        let span = self.hi - self.lo;
        // Full decades, every so many of them; or parts of one where less than two are seen.
        let every = (span / N_TICKS).ceil().max(1.0);
        let parts: &[f64] = match span {
            s if s > 2.0 => &[1.0],
            s if s > 0.9 => &[1.0, 2.0, 5.0],
            s if s > 0.4 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            _ => &[1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        };
        let first = (self.lo / every).floor() as i32;
        (first..first + 16)
            .map(|k| f64::from(k) * every)
            .flat_map(|k| parts.iter().map(move |part| k + part.log10()))
            .filter(|v| (self.lo..=self.hi).contains(v))
            .map(|v| ((v - self.lo) / span, label(10f64.powf(v), unit)))
            .collect()
    }
}

fn label(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Plain => short(value),
        Unit::Count => grouped(value),
        Unit::Share => format!("{} %", short(100.0 * value)),
        Unit::Micros => match value.abs() {
            0.0 => "0".into(),
            a if a < 1e3 => format!("{} µs", short(value)),
            a if a < 1e6 => format!("{} ms", short(value / 1e3)),
            a if a < 120e6 => format!("{} s", short(value / 1e6)),
            a if a < 7200e6 => format!("{} min", short(value / 60e6)),
            _ => format!("{} h", short(value / 3600e6)),
        },
    }
}

/// The least and greatest of the finite values.
pub(crate) fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |ends, v| match ends {
        None => Some((v, v)),
        Some((lo, hi)) => Some((v.min(lo), v.max(hi))),
    })
}

/// The number of the form 1, 2 or 5 times a power of ten that is not below `x`.
fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&s| s >= x * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, unit: Unit) -> Vec<String> {
        scale.ticks(unit).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn marks_are_round_and_inside() {
        let scale = Scale::linear([0.0, 1999.0].into_iter(), 0.0);
        assert_eq!(labels(scale, Unit::Count), ["0", "500", "1\u{202f}000", "1\u{202f}500"]);
        let scale = Scale::log([3e-5, 0.5].into_iter()).unwrap();
        assert_eq!(labels(scale, Unit::Plain), ["0.0001", "0.001", "0.01", "0.1"]);
        assert_eq!(labels(Scale::log([65536.0].into_iter()).unwrap(), Unit::Plain), ["60000", "70000", "80000"]);
        assert_eq!(
            labels(Scale::linear([0.0, 2500.0].into_iter(), 0.0), Unit::Micros),
            ["0", "500 µs", "1 ms", "1.5 ms", "2 ms", "2.5 ms"]
        );
        for (lo, hi) in [(0.0, 0.0), (5.0, 5.0), (-3.0, 8.0), (f64::MIN, f64::MAX), (1e-300, 2e-300)] {
            for scale in [Some(Scale::linear([lo, hi].into_iter(), 0.04)), Scale::log([lo, hi].into_iter())] {
                let Some(scale) = scale else { continue };
                let ticks = scale.ticks(Unit::Plain);
                assert!(!ticks.is_empty() && ticks.len() < 13, "{lo} {hi}: {ticks:?}");
                assert!(ticks.iter().all(|(at, _)| (0.0..=1.0).contains(at)), "{lo} {hi}: {ticks:?}");
            }
        }
    }

    #[test]
    fn rounding_is_not_magnified() {
        let scale = Scale::linear([2.5, 2.5 + 1e-9].into_iter(), 0.0);
        assert!((scale.at(2.5) - 0.5).abs() < 1e-6);
        assert_eq!(labels(scale, Unit::Plain), ["1.5", "2", "2.5", "3", "3.5"]);
    }

    #[test]
    fn places_are_between_the_ends() {
        let scale = Scale::linear([0.0, 10.0, f64::NAN, f64::INFINITY].into_iter(), 0.0);
        assert_eq!([scale.at(0.0), scale.at(5.0), scale.at(10.0), scale.at(99.0)], [0.0, 0.5, 1.0, 1.0]);
        assert!(scale.at(f64::NAN).is_nan());
        let log = Scale::log([1.0, 100.0, 0.0, -5.0].into_iter()).unwrap();
        assert!((log.at(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(log.at(0.0), 0.0);
        assert_eq!(Scale::log([0.0, f64::NAN].into_iter()), None);
    }
}
