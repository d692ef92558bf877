//! Curves with few points that look as those with all of them: nothing that sticks out is lost.

/// A curve to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// Points in the order of x; a y that is NaN breaks the line there.
    pub(crate) points: Vec<(f64, f64)>,
    /// Where values were not finite.
    pub(crate) missing: Vec<Missing>,
    /// How many values at most one place stands for.
    pub(crate) n_taken_together: usize,
    /// From the first of the steps it stands for to the end of the last; beyond them it says nothing.
    pub(crate) span: Option<(f64, f64)>,
}

impl Line {
    /// The points without one beside them, of which a line shows nothing.
    pub(crate) fn lone(&self) -> impl Iterator<Item = (f64, f64)> {
        let is_there = |i: Option<usize>| i.and_then(|i| self.points.get(i)).is_some_and(|p| p.1.is_finite());
        let is_lone = move |i: usize| is_there(Some(i)) && !is_there(i.checked_sub(1)) && !is_there(Some(i + 1));
        self.points.iter().enumerate().filter(move |(i, _)| is_lone(*i)).map(|(_, p)| *p)
    }
}

/// What a line through `points` spans: a step ends where the next one begins.
fn span(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    Some((points.first()?.0, points.last()?.0 + 1.0))
}

/// Neighbouring values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Missing {
    /// Where the first is.
    pub(crate) first: f64,
    /// Where the last is.
    pub(crate) last: f64,
    /// How many there are.
    pub(crate) n: usize,
}

/// The curve through `points`, in order of x, by the least and the greatest value of each of `n_buckets` groups of
/// neighbours, in the order in which they come; through all of them where they are few.
pub(crate) fn envelope(points: &[(f64, f64)], n_buckets: usize) -> Line {
    let size = if points.len() <= 2 * n_buckets { 1 } else { points.len().div_ceil(n_buckets.max(1)) };
    let mut line = Line { n_taken_together: size, span: span(points), ..Line::default() };
    for bucket in points.chunks(size) {
        let finite = || bucket.iter().copied().enumerate().filter(|(_, (_, y))| y.is_finite());
        let least = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let greatest = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let missing = || bucket.iter().filter(|(_, y)| !y.is_finite());
        if let (Some(first), Some(last)) = (missing().next(), missing().next_back()) {
            line.missing.push(Missing { first: first.0, last: last.0, n: missing().count() });
        }
        match (least, greatest) {
            (Some((i, a)), Some((j, b))) if i < j => line.points.extend([a, b]),
            (Some((i, a)), Some((j, b))) if i > j => line.points.extend([b, a]),
            (Some((_, a)), _) => line.points.push(a),
            _ => line.points.push((bucket[0].0, f64::NAN)),
        }
    }
    line
}

/// The mean of each group of neighbours, those that are not finite left out.
pub(crate) fn means(points: &[(f64, f64)], n_buckets: usize) -> Line {
    let size = points.len().div_ceil(n_buckets.max(1)).max(1);
    let mut line = Line { n_taken_together: size, span: span(points), ..Line::default() };
    for bucket in points.chunks(size) {
        let finite = || bucket.iter().filter(|(_, y)| y.is_finite());
        let n = finite().count() as f64;
        let x = bucket.iter().map(|p| p.0).sum::<f64>() / bucket.len() as f64;
        // NaN where there is none.
        line.points.push((x, finite().map(|p| p.1).sum::<f64>() / n));
    }
    line
}

/// The average of the points around each, whose weights fall to 1/e over `n_steps` points on both sides, so that
/// it neither leads nor lags; what is not finite adds nothing to it, and stays so.
pub(crate) fn smoothed(points: &[(f64, f64)], n_steps: f64) -> Vec<(f64, f64)> {
    let keep = (-1.0 / n_steps.max(1e-9)).exp();
    // Sum and weight of each point and all on one side of it.
    let sweep = |state: &mut (f64, f64), y: f64| {
        let (y, one) = if y.is_finite() { (y, 1.0) } else { (0.0, 0.0) };
        *state = (keep * state.0 + y, keep * state.1 + one);
        Some((state.0, state.1))
    };
    let before: Vec<_> = points.iter().map(|p| p.1).scan((0.0, 0.0), sweep).collect();
    let mut after: Vec<_> = points.iter().rev().map(|p| p.1).scan((0.0, 0.0), sweep).collect();
    after.reverse();
    let both = before.iter().zip(&after).zip(points);
    both.map(|((b, a), &(x, y))| {
        // The point itself is in both sums.
        (x, if y.is_finite() { (b.0 + a.0 - y) / (b.1 + a.1 - 1.0) } else { f64::NAN })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<(f64, f64)> {
        (0..n).map(|i| (i as f64, i as f64 / n as f64)).collect()
    }

    #[test]
    fn one_spike_and_one_dip_among_many_steps_are_kept_exactly() {
        let mut points = ramp(100_000);
        points[70_001].1 = 1e6;
        points[31_234].1 = -3.0;
        let line = envelope(&points, 600);
        assert!(line.points.len() <= 1200, "{}", line.points.len());
        assert!(line.points.contains(&(70_001.0, 1e6)) && line.points.contains(&(31_234.0, -3.0)));
        assert!(line.points.is_sorted_by(|a, b| a.0 < b.0), "in order of x");
        assert_eq!((line.points[0].0, line.points.last().unwrap().0), (0.0, 99_999.0));
        // The mean alone would hide the dip.
        assert!(means(&points, 600).points.iter().all(|p| p.1 > -1.0));
    }

    #[test]
    fn what_is_not_finite_is_told_and_breaks_the_line_only_where_nothing_else_is() {
        let mut points = ramp(10_000);
        points[5000].1 = f64::NAN;
        for p in &mut points[7000..7200] {
            p.1 = f64::INFINITY;
        }
        let line = envelope(&points, 100);
        assert_eq!(line.missing.iter().map(|m| m.n).sum::<usize>(), 201);
        assert_eq!(line.missing[0], Missing { first: 5000.0, last: 5000.0, n: 1 });
        assert_eq!(line.points.iter().filter(|p| p.1.is_nan()).count(), 2);
        // Few points stay as they are, gaps too.
        let few = envelope(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)], 100);
        assert_eq!((few.points.len(), few.missing.len(), few.n_taken_together), (3, 1, 1));
        assert!(few.points[1].1.is_nan());
        assert!(few.lone().eq([(0.0, 1.0), (2.0, 3.0)]));
        assert_eq!(envelope(&ramp(3), 100).lone().count(), 0);
    }

    #[test]
    fn no_points_and_one_are_curves_too() {
        assert_eq!(envelope(&[], 10).points, []);
        assert_eq!(envelope(&[(3.0, 4.0)], 10).points, [(3.0, 4.0)]);
        assert_eq!(means(&[], 10).points, []);
        assert_eq!(smoothed(&[(3.0, 4.0)], 10.0), [(3.0, 4.0)]);
    }

    #[test]
    fn smoothing_does_not_lag_and_passes_over_gaps() {
        let constant: Vec<_> = (0..50).map(|i| (i as f64, if i == 7 { f64::NAN } else { 2.5 })).collect();
        let smooth = smoothed(&constant, 10.0);
        assert!(smooth.iter().all(|p| if p.0 == 7.0 { p.1.is_nan() } else { (p.1 - 2.5).abs() < 1e-12 }));
        let step = smoothed(&[(0.0, 0.0), (1.0, 1.0)], 1.0);
        assert!((step[1].1 - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
        // A ramp stays where it is, far from its ends.
        assert!((smoothed(&ramp(1001), 20.0)[500].1 - 500.0 / 1001.0).abs() < 1e-9);
        assert!(smoothed(&[(0.0, f64::NAN)], 1.0)[0].1.is_nan());
    }
}
