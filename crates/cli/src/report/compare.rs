//! Runs side by side: numbers with their differences, keys of configurations.

use super::figures::{Better, configuration, figures, n_steps};
use super::number::{Unit, significant};
use anemone::Run;

/// A number of all runs.
pub(crate) struct Row {
    pub(crate) label: String,
    /// Whether it is part of the row before.
    pub(crate) is_part: bool,
    pub(crate) cells: Vec<Cell>,
}

/// The number of one run.
pub(crate) struct Cell {
    pub(crate) text: String,
    /// By how much it differs from that of the first run.
    pub(crate) difference: Option<String>,
    /// Whether it is the best of its row.
    pub(crate) is_best: bool,
}

/// The numbers that one of the runs has.
pub(crate) fn rows(runs: &[Run]) -> Vec<Row> {
    let all: Vec<_> = runs.iter().map(figures).collect();
    let same_steps = runs.windows(2).all(|pair| n_steps(&pair[0]) == n_steps(&pair[1]));
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for figure in all.iter().flatten() {
        if !keys.iter().any(|(key, _)| *key == figure.key) {
            keys.push((figure.key, figure.label));
        }
    }
    let row = |(key, label): &(&str, &str)| {
        let of: Vec<_> = all.iter().map(|figures| figures.iter().find(|f| f.key == *key)).collect();
        let values: Vec<Option<f64>> = of.iter().map(|f| f.and_then(|f| f.value)).collect();
        let better = of.iter().flatten().map(|f| f.better).next().unwrap_or(Better::Neither);
        let better = if better == Better::LessInAll && !same_steps { Better::Neither } else { better };
        let best = best(&values, better);
        let cells = of.iter().zip(&values).enumerate();
        let cells = cells.map(|(i, (figure, value))| Cell {
            text: figure.map_or_else(|| "–".into(), |f| f.show()),
            difference: match (i, values[0], value) {
                (0, ..) => None,
                (_, Some(a), Some(b)) => difference(a, *b, figure.map_or(Unit::Plain, |f| f.unit)),
                _ => None,
            },
            is_best: best.is_some() && *value == best,
        });
        Row { label: label.trim().to_string(), is_part: label.starts_with(' '), cells: cells.collect() }
    };
    keys.iter().map(row).collect()
}

/// The best of some values, if they are not all the same.
fn best(values: &[Option<f64>], better: Better) -> Option<f64> {
    let finite = || values.iter().flatten().copied().filter(|v| v.is_finite());
    let (least, greatest) = (finite().min_by(f64::total_cmp)?, finite().max_by(f64::total_cmp)?);
    match better {
        _ if least == greatest => None,
        Better::Less | Better::LessInAll => Some(least),
        Better::More => Some(greatest),
        Better::Neither => None,
    }
}

/// `b` against `a`, in percent or as a factor; of shares, in hundredths of the whole.
fn difference(a: f64, b: f64, unit: Unit) -> Option<String> {
    let sign = |d: f64| if d < 0.0 { "−" } else { "+" };
    if unit == Unit::Share && a.is_finite() && b.is_finite() && a != b {
        return Some(format!("{}{:.1} points", sign(b - a), 100.0 * (b - a).abs()));
    }
    if !a.is_finite() || !b.is_finite() || a == b || a == 0.0 || (a < 0.0) != (b < 0.0) {
        return None;
    }
    let ratio = b / a;
    Some(match ratio {
        r if !(0.2..5.0).contains(&r) => format!("×{}", significant(r, 3)),
        r => format!("{}{:.1} %", sign(r - 1.0), 100.0 * (r - 1.0).abs()),
    })
}

/// A key of the runs' configurations.
pub(crate) struct Key {
    pub(crate) key: String,
    /// The values, `None` where a run has none.
    pub(crate) values: Vec<Option<String>>,
    /// Whether they are not all the same.
    pub(crate) differs: bool,
}

/// The keys that one of the runs has, in the order in which they come.
pub(crate) fn configurations(runs: &[Run]) -> Vec<Key> {
    let all: Vec<_> = runs.iter().map(configuration).collect();
    let mut keys: Vec<Key> = Vec::new();
    for (key, _) in all.iter().flatten() {
        if keys.iter().any(|k| k.key == *key) {
            continue;
        }
        let of = |run: &Vec<(String, String)>| run.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let values: Vec<Option<String>> = all.iter().map(of).collect();
        let differs = values.iter().any(|v| *v != values[0]);
        keys.push(Key { key: key.clone(), values, differs });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_percents_or_factors() {
        assert_eq!(difference(2.0, 1.0, Unit::Plain).unwrap(), "−50.0 %");
        assert_eq!(difference(2.0, 3.0, Unit::Micros).unwrap(), "+50.0 %");
        assert_eq!(difference(1.0, 20.0, Unit::Plain).unwrap(), "×20.0");
        assert_eq!(difference(0.5, 0.375, Unit::Share).unwrap(), "−12.5 points");
        for (a, b) in [(0.0, 1.0), (1.0, 1.0), (1.0, f64::NAN), (-1.0, 1.0)] {
            assert_eq!(difference(a, b, Unit::Plain), None);
        }
    }

    #[test]
    fn the_best_is_told_where_there_is_one() {
        let values = [Some(2.0), None, Some(f64::NAN), Some(1.0)];
        assert_eq!(best(&values, Better::Less), Some(1.0));
        assert_eq!(best(&values, Better::More), Some(2.0));
        assert_eq!(best(&values, Better::Neither), None);
        assert_eq!(best(&[Some(1.0), Some(1.0)], Better::Less), None);
    }
}
