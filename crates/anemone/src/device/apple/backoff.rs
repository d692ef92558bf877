//! How long the next compile waits after some have failed.

use std::time::{Duration, Instant};

/// After a compile that failed the next one waits, twice as long each time: compiles that fail one after the other
/// upset the system's compile service (ANEForge waits 15 s).
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Failures since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    n_failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// What is left to wait.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Notes how a compile has ended.
    pub(super) fn note(&mut self, failed: bool, now: Instant) {
        if failed {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.n_failures.min(16)).min(LONGEST_PAUSE);
            *self = Backoff { n_failures: self.n_failures.saturating_add(1), until: Some(now + pause) };
        } else {
            *self = Backoff::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.rest(now), Duration::ZERO);
        for ms in [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000] {
            backoff.note(true, now);
            assert_eq!(backoff.rest(now), Duration::from_millis(ms));
        }
        assert_eq!(backoff.rest(now + Duration::from_secs(14)), Duration::from_secs(1));
        assert_eq!(backoff.rest(now + Duration::from_secs(16)), Duration::ZERO);
        backoff.note(false, now);
        assert_eq!(backoff.rest(now), Duration::ZERO);
        backoff.note(true, now);
        assert_eq!(backoff.rest(now), FIRST_PAUSE, "it begins anew");
    }
}
