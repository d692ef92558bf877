//! Faults on purpose: device calls that fail at a chosen time, to see what becomes of a run.

use crate::error::{Error, Result};
use crate::random::Random;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

/// A call of a device that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Translating a program.
    Compile,
    /// Loading what was compiled.
    Load,
    /// Running a kernel.
    Evaluate,
}

impl Call {
    const NAMES: [(&'static str, Call); 3] =
        [("compile", Call::Compile), ("load", Call::Load), ("evaluate", Call::Evaluate)];

    fn as_str(self) -> &'static str {
        Call::NAMES[self as usize].0
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// The n-th call, counted from 1.
    At(u64),
    /// The n-th call and all after it.
    From(u64),
    /// Each call with this probability.
    Randomly(f64),
}

/// What is to go wrong, and how long compiles take.
///
/// Written as items with commas between them: `compile@3` (the third compile fails), `load@2+` (the second load
/// and all later ones), `evaluate%0.01` (one evaluation in a hundred, at random), `seed=7` (of those), `delay=20`
/// (each compile takes 20 ms longer).
///
/// ```
/// use anemone::device::Faults;
///
/// let faults: Faults = "compile@3,delay=20".parse()?;
/// assert_eq!(faults.to_string(), "compile@3,delay=20");
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    rules: Vec<(Call, When)>,
    seed: u64,
    delay: Duration,
}

impl FromStr for Faults {
    type Err = Error;

    fn from_str(text: &str) -> Result<Faults> {
        let mut faults = Faults::default();
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let wrong = || {
                Error::config(format!(
                    "fault `{item}` is not understood, expected compile@N, load@N, evaluate@N (from 1; `N+` for all from there), \
                     compile%P, load%P, evaluate%P, seed=N or delay=MS"
                ))
            };
            let number = |s: &str| s.parse::<u64>().map_err(|_| wrong());
            if let Some(n) = item.strip_prefix("seed=") {
                faults.seed = number(n)?;
            } else if let Some(n) = item.strip_prefix("delay=") {
                faults.delay = Duration::from_millis(number(n)?);
            } else {
                let at = item.find(['@', '%']).ok_or_else(wrong)?;
                let call = Call::NAMES.iter().find(|(n, _)| *n == &item[..at]).ok_or_else(wrong)?.1;
                let value = &item[at + 1..];
                let when = if item.as_bytes()[at] == b'%' {
                    let p = value.parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p));
                    When::Randomly(p.ok_or_else(wrong)?)
                } else {
                    let n = number(value.strip_suffix('+').unwrap_or(value))?;
                    match value.ends_with('+') {
                        _ if n == 0 => return Err(wrong()),
                        true => When::From(n),
                        false => When::At(n),
                    }
                };
                faults.rules.push((call, when));
            }
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items: Vec<String> = self
            .rules
            .iter()
            .map(|(call, when)| match when {
                When::At(n) => format!("{}@{n}", call.as_str()),
                When::From(n) => format!("{}@{n}+", call.as_str()),
                When::Randomly(p) => format!("{}%{p}", call.as_str()),
            })
            .collect();
        if self.seed != 0 {
            items.push(format!("seed={}", self.seed));
        }
        if !self.delay.is_zero() {
            items.push(format!("delay={}", self.delay.as_millis()));
        }
        f.write_str(&items.join(","))
    }
}

/// Counts calls and makes them fail when it is their turn.
#[derive(Debug)]
pub(crate) struct Injector {
    faults: Faults,
    state: Mutex<([u64; 3], Random)>,
}

impl Injector {
    pub(crate) fn new(faults: Faults) -> Injector {
        let random = Random::new(faults.seed);
        Injector { faults, state: Mutex::new(([0; 3], random)) }
    }

    /// Notes a call, waits where compiles are to be slow, and fails if it is to fail.
    pub(crate) fn call(&self, call: Call) -> Result<()> {
        if call == Call::Compile && !self.faults.delay.is_zero() {
            std::thread::sleep(self.faults.delay);
        }
        if self.faults.rules.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let (counts, random) = &mut *state;
        counts[call as usize] += 1;
        let n = counts[call as usize];
        for (_, when) in self.faults.rules.iter().filter(|(c, _)| *c == call) {
            let fails = match *when {
                When::At(at) => n == at,
                When::From(from) => n >= from,
                When::Randomly(p) => random.uniform() < p,
            };
            if fails {
                return Err(Error::device(format!("injected fault: {} {n} of this process fails", call.as_str())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_when_they_are_due() {
        let injector = Injector::new("compile@2,evaluate@3+".parse().unwrap());
        let fails = |call| injector.call(call).is_err();
        assert_eq!([(); 4].map(|()| fails(Call::Compile)), [false, true, false, false]);
        assert_eq!([(); 4].map(|()| fails(Call::Evaluate)), [false, false, true, true]);
        assert!(!fails(Call::Load));
    }

    #[test]
    fn random_faults_repeat_with_their_seed() {
        let run = |text: &str| {
            let injector = Injector::new(text.parse().unwrap());
            (0..1000).map(|_| injector.call(Call::Load).is_err()).collect::<Vec<_>>()
        };
        let a = run("load%0.1,seed=1");
        assert_eq!(a, run("load%0.1,seed=1"));
        assert_ne!(a, run("load%0.1,seed=2"));
        let n = a.iter().filter(|f| **f).count();
        assert!((60..140).contains(&n), "{n} of 1000 at 0.1");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for text in ["compile", "compile@x", "compile@0", "load@0+", "explode@1", "load%2", "delay=-1", "seed="] {
            let e = text.parse::<Faults>().unwrap_err();
            assert!(e.to_string().contains(text), "{e}");
        }
    }
}
