//! How long failed requests wait for their next attempt, and how long failed calls to the broker pause.

use std::time::Duration;

use tidegate_shared::config::Backoff;

use crate::failure::MAX_WAIT;

/// Returns how long a request waits that failed `failures` times before this failure: `base`, doubled each time, at most
/// `cap` and [`MAX_WAIT`], then a random share of at least half of that. `jitter` is that random number, from 0 to 1: requests that failed
/// together do not come back together.
pub(crate) fn delay(backoff: Backoff, failures: u32, jitter: f64) -> Duration {
    let doubled = doubled(backoff.base, failures).min(backoff.cap).min(MAX_WAIT);
    doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// The longest pause between two calls to the broker.
const PAUSE_CAP: Duration = Duration::from_secs(1);

/// Pauses between repeated calls to the broker: the first one, doubled after each failure, at most a second.
#[derive(Debug)]
pub(crate) struct Pauses {
    first: Duration,
    failures: u32,
}

impl Pauses {
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, failures: 0 }
    }

    /// How many calls have failed since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the pause after it.
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = doubled(self.first, self.failures).min(PAUSE_CAP);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// A call succeeded: the next pause is the first one again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(10) };

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let waits: Vec<_> = [0, 1, 4, 9, 10, 100].map(|n| delay(BACKOFF, n, 1.0).as_secs()).into();
        assert_eq!(waits, [1, 2, 16, 512, 600, 600]);
    }

    #[test]
    fn no_configured_duration_is_too_long() {
        let longest = Backoff { base: Duration::MAX, cap: Duration::MAX };
        for failures in [0, 1, u32::MAX] {
            assert_eq!(delay(longest, failures, 1.0), MAX_WAIT);
        }
    }

    #[test]
    fn jitter_shortens_the_wait_by_at_most_half() {
        assert_eq!(delay(BACKOFF, 3, 0.0), Duration::from_secs(4));
        assert_eq!(delay(BACKOFF, 3, 0.5), Duration::from_secs(6));
        for _ in 0..100 {
            let wait = delay(BACKOFF, 3, rand::random());
            assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_second_and_start_over_after_a_success() {
        let mut pauses = Pauses::new(Duration::from_millis(100));
        let seen: Vec<_> = (0..6).map(|_| pauses.failed().as_millis()).collect();
        assert_eq!(seen, [100, 200, 400, 800, 1000, 1000]);
        pauses.succeeded();
        assert_eq!(pauses.failed(), Duration::from_millis(100));
    }
}
