//! How long a route's acknowledgement floor has stood still, and what it holds back. Pure.
//!
//! One request that is not acknowledged holds the floor, and everything behind it stays in the stream. The route's `timeout`
//! bounds that: a request whose handler takes longer is parked, which acknowledges it.

use std::time::{Duration, Instant};

use tidegate_shared::broker::Progress;

/// A floor that stands still for a shorter time is not worth a warning.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the warning is repeated.
const AGAIN: Duration = Duration::from_mins(10);

/// Watches the floor of one route.
#[derive(Debug)]
pub(crate) struct Floor {
    patience: Duration,
    seen: Option<(u64, Instant)>,
    warned: Option<Instant>,
}

/// What a look at the floor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How long the floor has stood still while requests behind it are unfinished.
    pub(crate) age: Duration,
    /// Acknowledged requests that stay in the stream because an earlier one is not acknowledged.
    pub(crate) kept: u64,
    /// Whether the log should say so now.
    pub(crate) warn: bool,
}

impl Floor {
    /// `timeout` is how long one attempt at a request may take.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { patience: PATIENCE.max(timeout * 2), seen: None, warned: None }
    }

    pub(crate) fn look(&mut self, progress: &Progress, now: Instant) -> Standing {
        let finished = progress.unacknowledged == 0 && progress.waiting == 0;
        let since = match self.seen {
            Some((floor, since)) if floor == progress.floor && !finished => since,
            _ => {
                self.seen = Some((progress.floor, now));
                self.warned = None;
                now
            }
        };
        let age = now.saturating_duration_since(since);
        let behind = progress.delivered.saturating_sub(progress.floor);
        let kept = behind.saturating_sub(progress.unacknowledged);
        let due = self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= AGAIN);
        let warn = due && kept > 0 && age >= self.patience;
        if warn {
            self.warned = Some(now);
        }
        Standing { age, kept, warn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn progress(floor: u64, delivered: u64, unacknowledged: u64) -> Progress {
        Progress { floor, delivered, unacknowledged, waiting: 0, created: 1, paused_until: None }
    }

    #[test]
    fn a_held_floor_grows_old_and_is_warned_about_sparsely() {
        let start = Instant::now();
        let mut floor = Floor::new(TIMEOUT);
        let held = progress(4, 20, 1);
        assert_eq!(floor.look(&held, start), Standing { age: Duration::ZERO, kept: 15, warn: false });
        assert!(!floor.look(&held, start + Duration::from_secs(59)).warn);
        let said = floor.look(&held, start + PATIENCE);
        assert_eq!(said, Standing { age: PATIENCE, kept: 15, warn: true });
        assert!(!floor.look(&held, start + PATIENCE * 2).warn);
        assert!(floor.look(&held, start + PATIENCE + AGAIN).warn);
        let moved = floor.look(&progress(20, 21, 1), start + PATIENCE + AGAIN);
        assert_eq!(moved, Standing { age: Duration::ZERO, kept: 0, warn: false });
    }

    #[test]
    fn a_route_without_requests_has_no_age() {
        let start = Instant::now();
        let mut floor = Floor::new(TIMEOUT);
        floor.look(&progress(9, 9, 0), start);
        assert_eq!(floor.look(&progress(9, 9, 0), start + AGAIN).age, Duration::ZERO);
    }

    #[test]
    fn a_route_with_a_long_timeout_is_given_twice_its_time() {
        let start = Instant::now();
        let mut floor = Floor::new(Duration::from_hours(1));
        floor.look(&progress(4, 20, 1), start);
        assert!(!floor.look(&progress(4, 20, 1), start + Duration::from_hours(1)).warn);
        assert!(floor.look(&progress(4, 20, 1), start + Duration::from_hours(2)).warn);
    }
}
