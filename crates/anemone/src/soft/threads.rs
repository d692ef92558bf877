//! Work over threads. It is cut by outputs, never by terms of a sum, so that results do not depend on their
//! number.

use super::floats::Floats;
use super::gemm;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::prelude::{IntoParallelIterator, ParallelSliceMut};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::Cell;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Elementary operations, a tenth of a nanosecond's worth each or more, below which another thread is not
/// worth waking.
const LEAST_WORK: usize = 1 << 19;
/// As many below which one that is awake is not worth telling.
const LEAST_WORK_AWAKE: usize = 1 << 14;

/// How many tasks there are for whose duration threads are awake.
static AWAKE: AtomicUsize = AtomicUsize::new(0);
static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// How many threads the software engine may use from now on, in this process; as many as there are cores unless
/// said otherwise. Results are the same for every number.
pub fn set_n_threads(n: usize) {
    LIMIT.store(n.max(1), Ordering::Relaxed);
}

fn n_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

/// Into how many parts to cut `work` elementary operations.
pub(super) fn n_parts(work: usize) -> usize {
    let least = if AWAKE.load(Ordering::Relaxed) > 0 { LEAST_WORK_AWAKE } else { LEAST_WORK };
    (work / least).clamp(1, n_cores().min(LIMIT.load(Ordering::Relaxed)))
}

/// The threads, or none where they cannot be had.
pub(super) fn pool() -> Option<&'static ThreadPool> {
    POOL.get_or_init(|| ThreadPoolBuilder::new().num_threads(n_cores()).build().ok()).as_ref()
}

/// Runs `f`, of about as many elementary operations, with the threads awake until it is done: waking one for each
/// product takes as long as a small product itself.
///
/// The thread that runs `f` must never take one of the jobs that keep others awake, in a `join`: it would wait for
/// itself. It never does, as threads take their own newest job first, and of others the oldest: when another has
/// taken a job of `f`'s, all of those, which are older, have been taken too. `spawn_fifo` in `f`, or a pool built
/// with `breadth_first`, would break that.
pub(crate) fn together<R: Send>(work: usize, f: impl FnOnce() -> R + Send) -> R {
    let n = n_parts(work);
    let (true, Some(pool)) = (n > 1, pool()) else {
        gemm::stay_awake();
        return f();
    };
    pool.install(|| {
        let done = Done(AtomicBool::new(false));
        AWAKE.fetch_add(1, Ordering::Relaxed);
        rayon::scope(|scope| {
            for _ in 1..n {
                scope.spawn(|_| done.wait());
            }
            // Also if it panics.
            let _end = End(&done);
            f()
        })
    })
}

struct Done(AtomicBool);

impl Done {
    /// Does whatever work there is until it is set.
    fn wait(&self) {
        while !self.0.load(Ordering::Acquire) {
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::hint::spin_loop();
            }
        }
    }
}

struct End<'a>(&'a Done);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
        AWAKE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls `f` for each of the pieces of `work` elementary operations in all, in any order.
pub(crate) fn each<T: Send>(work: usize, pieces: Vec<T>, f: impl Fn(T) + Sync + Send) {
    match (pool(), n_parts(work)) {
        (Some(pool), n) if n > 1 => share(pool, n, pieces, f),
        _ => pieces.into_iter().for_each(f),
    }
}

/// Calls `f` for each of the pieces, on as many threads of the pool at most.
fn share<T: Send>(pool: &ThreadPool, n: usize, pieces: Vec<T>, f: impl Fn(T) + Sync + Send) {
    let pieces = Mutex::new(pieces.into_iter());
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    pool.install(|| {
        (0..n).into_par_iter().for_each(|_| {
            while let Some(piece) = next() {
                f(piece);
            }
        });
    });
}

/// Calls `f(first, units)` for runs of units of `unit` elements of `out`, `first` being the number of the first
/// unit of the run.
pub(super) fn over_units(work: usize, out: &mut [f32], unit: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let n_units = out.len() / unit.max(1);
    let parts = n_parts(work).min(n_units.max(1));
    if let (true, Some(pool)) = (parts > 1, pool()) {
        let units = n_units.div_ceil(parts);
        pool.install(|| {
            out.par_chunks_mut(units * unit).enumerate().for_each(|(i, out)| f(i * units, out));
        });
    } else {
        f(0, out);
    }
}

/// As [`over_units`], with room for `n_scratch` numbers to work in.
pub(super) fn over_units_with(
    work: usize,
    out: &mut [f32],
    unit: usize,
    n_scratch: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    over_units(work, out, unit, |first, out| with_scratch(n_scratch, |scratch| f(first, out, scratch)));
}

thread_local! {
    static SCRATCH: Cell<Floats> = Cell::default();
}

/// Calls `f` with room for as many numbers to work in, whatever is in it. All work of a thread has the same, so
/// that it stays in the caches.
pub(super) fn with_scratch(n: usize, f: impl FnOnce(&mut [f32])) {
    let mut scratch = SCRATCH.take();
    if scratch.len() < n {
        scratch = Floats::zeros(n);
    }
    f(&mut scratch[..n]);
    SCRATCH.set(scratch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn pieces_are_shared_by_no_more_threads_than_asked_for() {
        let pool = ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        let seen = Mutex::new((HashSet::new(), 0));
        share(&pool, 2, (1..=60).collect(), |piece: usize| {
            // Long enough for the others to wake.
            std::thread::sleep(Duration::from_millis(1));
            let mut seen = seen.lock().unwrap();
            seen.0.insert(rayon::current_thread_index());
            seen.1 += piece;
        });
        let (threads, sum) = seen.into_inner().unwrap();
        assert!(threads.len() <= 2, "{threads:?}");
        assert_eq!(sum, 1830);
    }
}
