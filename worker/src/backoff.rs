//! How long a failed request waits.

use std::time::Duration;

use tidegate_shared::config::Backoff;

/// Returns the wait after `failures` failures before this one: `base`, doubled each time, at most `cap`, then somewhere in
/// the upper half of that. `jitter` is drawn from 0 to 1, so that requests that failed together do not come back together.
pub(crate) fn delay(backoff: Backoff, failures: u32, jitter: f64) -> Duration {
    let doubled = backoff.base.saturating_mul(2_u32.saturating_pow(failures)).min(backoff.cap);
    doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
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
    fn the_wait_is_never_less_than_half() {
        assert_eq!(delay(BACKOFF, 3, 0.0), Duration::from_secs(4));
        assert_eq!(delay(BACKOFF, 3, 0.5), Duration::from_secs(6));
        for _ in 0..100 {
            let wait = delay(BACKOFF, 3, rand::random());
            assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&wait), "{wait:?}");
        }
    }
}
