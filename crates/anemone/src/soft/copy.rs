//! Elements moved: transposition, slices, concatenation, tiles and padding are all strided copies.

use super::threads;

/// One copy of a box of elements.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// Sizes of the box, outermost first.
    sizes: Vec<usize>,
    /// From one element to the next along each axis, in the source and in the result.
    from_steps: Vec<isize>,
    to_steps: Vec<usize>,
    from: usize,
    to: usize,
}

impl Copy {
    /// The box of `sizes`, its first element at `from` in the source and `to` in the result. Axes that can be
    /// walked as one are joined.
    pub(super) fn new(
        sizes: &[usize],
        (from, from_steps): (usize, &[isize]),
        (to, to_steps): (usize, &[usize]),
    ) -> Copy {
        let mut copy = Copy { sizes: vec![], from_steps: vec![], to_steps: vec![], from, to };
        for ((&n, &f), &t) in sizes.iter().zip(from_steps).zip(to_steps) {
            if n == 1 {
                continue;
            }
            match (copy.sizes.last_mut(), copy.from_steps.last_mut(), copy.to_steps.last_mut()) {
                (Some(size), Some(last_f), Some(last_t)) if *last_f == f * n as isize && *last_t == t * n => {
                    (*size, *last_f, *last_t) = (*size * n, f, t);
                }
                _ => {
                    copy.sizes.push(n);
                    copy.from_steps.push(f);
                    copy.to_steps.push(t);
                }
            }
        }
        copy
    }

    /// Whether it takes a run of elements as they lie, and where from.
    pub(super) fn run_of(&self) -> Option<usize> {
        let is_run =
            self.sizes.is_empty() || (self.sizes.len() == 1 && self.from_steps == [1] && self.to_steps == [1]);
        is_run.then_some(self.from)
    }

    /// Copies.
    pub(super) fn run<T: std::marker::Copy>(&self, x: &[T], out: &mut [T]) {
        self.run_places(0, self.n(0), x, out);
    }

    /// Copies `n` places of the outermost axis from number `first` on, to where the first lie in the result.
    fn run_places<T: std::marker::Copy>(&self, first: usize, n: usize, x: &[T], out: &mut [T]) {
        if !self.sizes.contains(&0) {
            let skipped = first as isize * self.from_steps.first().unwrap_or(&0);
            self.axis(0, n, x, self.from as isize + skipped, out, self.to);
        }
    }

    /// The equal parts, more than one, that a result of `n_out` elements has, if each place of the outermost axis
    /// is copied to one of them.
    fn n_parts(&self, n_out: usize) -> Option<usize> {
        let (&n, &step) = (self.sizes.first()?, self.to_steps.first()?);
        let inner = self.sizes.iter().zip(&self.to_steps).skip(1).map(|(d, s)| d.saturating_sub(1) * s);
        (n > 1 && n * step == n_out && self.to + inner.sum::<usize>() < step).then_some(n)
    }

    /// The size of an axis.
    fn n(&self, axis: usize) -> usize {
        self.sizes.get(axis).copied().unwrap_or(1)
    }

    /// The first `n` places of an axis.
    fn axis<T: std::marker::Copy>(&self, axis: usize, n: usize, x: &[T], from: isize, out: &mut [T], to: usize) {
        let Some((_, rest)) = self.sizes[axis..].split_first() else {
            out[to] = x[from as usize];
            return;
        };
        let (f, t) = (self.from_steps[axis], self.to_steps[axis]);
        match *rest {
            [] if f == 1 && t == 1 => out[to..to + n].copy_from_slice(&x[from as usize..][..n]),
            [] if f == 0 && t == 1 => out[to..to + n].fill(x[from as usize]),
            [] => {
                for (i, out) in out[to..].iter_mut().step_by(t).take(n).enumerate() {
                    *out = x[(from + i as isize * f) as usize];
                }
            }
            [m] if self.to_steps[axis + 1] == 1 && f == 1 && self.from_steps[axis + 1] > 1 => {
                turn(x, from as usize, self.from_steps[axis + 1] as usize, out, to, t, (n, m));
            }
            _ => {
                for i in 0..n {
                    self.axis(axis + 1, self.n(axis + 1), x, from + i as isize * f, out, to + i * t);
                }
            }
        }
    }
}

/// Makes a result of copies, and of a number where none of them comes, over threads if all cut it into the same
/// parts.
pub(super) fn run_all<'a>(
    copies: &[Copy],
    fill: Option<f32>,
    x: impl Fn(usize) -> &'a [f32] + Sync,
    out: &mut [f32],
) {
    let n_out = out.len();
    let n_parts = copies.first().and_then(|c| c.n_parts(n_out));
    let n_parts = n_parts.filter(|_| copies.iter().all(|c| c.n_parts(n_out) == n_parts));
    let unit = n_out / n_parts.unwrap_or(1);
    // A moved element takes as long as some operations.
    threads::over_units(4 * n_out, out, unit, |first, out| {
        if let Some(value) = fill {
            out.fill(value);
        }
        for (i, copy) in copies.iter().enumerate() {
            let n = if n_parts.is_some() { out.len() / unit } else { copy.n(0) };
            copy.run_places(first, n, x(i), out);
        }
    });
}

/// `out[i to_step + j] = x[j from_step + i]`, in blocks that stay near.
fn turn<T: std::marker::Copy>(
    x: &[T],
    from: usize,
    from_step: usize,
    out: &mut [T],
    to: usize,
    to_step: usize,
    (n, m): (usize, usize),
) {
    const BLOCK: usize = 16;
    for i in (0..n).step_by(BLOCK) {
        for j in (0..m).step_by(BLOCK) {
            let (rows, columns) = (BLOCK.min(n - i), BLOCK.min(m - j));
            for r in i..i + rows {
                let out = &mut out[to + r * to_step + j..][..columns];
                let x = &x[from + j * from_step + r..];
                for (out, x) in out.iter_mut().zip(x.iter().step_by(from_step)) {
                    *out = *x;
                }
            }
        }
    }
}

/// How far apart neighbours along each axis of a dense tensor lie.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// Steps as a copy takes them from its source, which it may also walk backwards.
pub(super) fn signed(steps: Vec<usize>) -> Vec<isize> {
    steps.into_iter().map(|s| s as isize).collect()
}

/// Where the matrices of `size` elements lie of an operand whose batch, of shape `own`, is broadcast to `batch`:
/// the offset for each of the latter.
pub(super) fn batch_offsets(own: &[usize], batch: &[usize], size: usize) -> Vec<usize> {
    let steps = broadcast(own, batch);
    let at = |mut i: usize| {
        let mut at = 0;
        for (&d, step) in batch.iter().zip(&steps).rev() {
            at += i % d * step * size;
            i /= d;
        }
        at
    };
    (0..batch.iter().product()).map(at).collect()
}

/// The steps of a dense tensor of shape `own` along the axes of `shape`, to which it is broadcast.
pub(super) fn broadcast(own: &[usize], shape: &[usize]) -> Vec<usize> {
    let lead = shape.len() - own.len();
    let mut steps = vec![0; shape.len()];
    for (i, s) in strides(own).into_iter().enumerate() {
        steps[lead + i] = if own[i] == 1 { 0 } else { s };
    }
    steps
}
