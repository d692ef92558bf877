//! What all peers in Rust share: the job's first values, and the conversation with `run`, as `job.py` has them.
//!
//! A peer is called as `PEER MODE D H S THREADS`, says its version, and answers one line with one line until its
//! input ends: `check LR STEPS` trains a fresh job and tells the loss of the last step, `time SECONDS` tells the
//! median time of a step, in microseconds.

use serde_json::json;
use std::error::Error;
use std::fmt::Display;
use std::hint::black_box;
use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

/// Steps whose gradients make one update.
pub const ACCUMULATE: usize = 10;
/// The learning rate while time is taken: small, so that the numbers stay what they are.
const LR: f32 = 0.01;
/// Batches before time is taken.
const N_WARM_UP: usize = 3;

/// A failure of whatever kind.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Trains the steps of one update and returns the loss of the last of them.
pub type Batch = Box<dyn FnMut() -> Result<f32>>;

/// What the command line asks for.
pub struct Job {
    /// How the peer does it.
    pub mode: String,
    /// Channels of input and output.
    pub d: usize,
    /// Hidden channels.
    pub h: usize,
    /// Rows.
    pub s: usize,
    /// Threads it may use.
    pub n_threads: usize,
}

impl Job {
    /// The first weights of the layer `D` to `H`, `[H, D]`.
    pub fn w1(&self) -> Vec<f32> {
        (0..self.h * self.d).map(|i| 0.01 * f64::from(i as f32 * 1.3 + 0.7).sin() as f32).collect()
    }

    /// The first weights of the layer `H` to `D`, `[D, H]`.
    pub fn w2(&self) -> Vec<f32> {
        (0..self.h * self.d).map(|i| 0.01 * f64::from(i as f32 * 0.9 + 1.1).cos() as f32).collect()
    }

    /// The input `[S, D]`, which is the target too.
    pub fn x(&self) -> Vec<f32> {
        (0..self.s * self.d).map(|i| f64::from(i as f32 * 0.1).sin() as f32).collect()
    }

    /// What the gradient of the loss by the prediction is, over the difference of prediction and target.
    pub fn dy_over_difference(&self) -> f32 {
        2.0 / (self.s * self.d) as f32
    }

    fn from_args() -> Result<Job> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [mode, d, h, s, n_threads] = &args[..] else {
            return Err(format!("{} arguments, expected MODE D H S THREADS", args.len()).into());
        };
        Ok(Job { mode: mode.clone(), d: d.parse()?, h: h.parse()?, s: s.parse()?, n_threads: n_threads.parse()? })
    }
}

/// Talks with `run`; `start(job, lr)` makes a fresh job at that learning rate.
///
/// # Errors
///
/// If a line is not understood or the peer fails.
pub fn serve(version: impl Display, start: impl Fn(&Job, f32) -> Result<Batch>) -> Result<()> {
    let job = Job::from_args()?;
    println!("{}", json!({ "version": version.to_string() }));
    let mut timed = None;
    for line in stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["check", lr, steps] => {
                let mut batch = start(&job, lr.parse()?)?;
                let mut loss = f32::NAN;
                for _ in 0..steps.parse::<usize>()? / ACCUMULATE {
                    loss = batch()?;
                }
                println!("{}", json!({ "loss": loss }));
            }
            ["time", seconds] => {
                let batch = match &mut timed {
                    Some(batch) => batch,
                    none => {
                        let batch = none.insert(start(&job, LR)?);
                        for _ in 0..N_WARM_UP {
                            batch()?;
                        }
                        batch
                    }
                };
                let (us, n_batches) = time(batch, Duration::from_secs_f64(seconds.parse()?))?;
                println!("{}", json!({ "us": us, "batches": n_batches }));
            }
            _ => return Err(format!("`{line}`, expected `check LR STEPS` or `time SECONDS`").into()),
        }
    }
    Ok(())
}

/// The median time of a step in microseconds, and the number of batches it was taken of.
fn time(batch: &mut Batch, limit: Duration) -> Result<(f64, usize)> {
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < limit {
        let begin = Instant::now();
        black_box(batch()?);
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    Ok((median * 1e6 / ACCUMULATE as f64, times.len()))
}
