//! When a route is looked at and what is purged then. Pure.

use std::time::{Duration, Instant};

/// A purge occupies its stream: the pause after it is this many times its duration.
const REST: u32 = 20;
/// The longest pause of a quiet route, in intervals.
const QUIET: u32 = 10;
/// How often a purge is repeated although the floor has not moved: a broker that crashed may have lost the purge and have the
/// requests again, and another purge of nothing costs it nothing.
const REPEAT: Duration = Duration::from_secs(10);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The schedule of one route.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    pause: Duration,
    next: Instant,
    last: Option<Last>,
}

/// The last purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    floor: u64,
    at: Instant,
}

impl Schedule {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, pause: interval, next: now, last: None }
    }

    /// When to look at the route next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// The route's floor is known: returns the first sequence that must stay, if there is something to purge.
    pub(crate) fn floor(&mut self, floor: u64, now: Instant) -> Option<u64> {
        let moved = self.last.is_none_or(|last| last.floor != floor);
        let repeats = self.last.is_none_or(|last| now.saturating_duration_since(last.at) >= REPEAT);
        if floor > 0 && (moved || repeats) {
            return Some(floor.saturating_add(1));
        }
        self.pause = (self.pause * 2).min(self.interval * QUIET);
        self.next = now + self.pause;
        None
    }

    /// The purge up to this floor is done and took this long.
    pub(crate) fn purged(&mut self, floor: u64, took: Duration, now: Instant) {
        self.last = Some(Last { floor, at: now });
        self.pause = self.interval;
        self.next = now + self.interval.max(took * REST);
    }

    /// The floor is known, and nothing may be purged now.
    pub(crate) fn held(&mut self, now: Instant) {
        self.pause = self.interval;
        self.next = now + self.interval;
    }

    /// The broker did not answer, or refused. Nothing is known about the last purge any more.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.last = None;
        self.pause = (self.pause * 2).max(self.interval).min(LONGEST_PAUSE);
        self.next = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn a_floor_is_purged_once_and_again_after_a_while() {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, start);
        assert_eq!(schedule.floor(0, start), None, "nothing is acknowledged");
        assert_eq!(schedule.floor(7, start), Some(8));
        schedule.purged(7, Duration::ZERO, start);
        assert_eq!(schedule.floor(7, start + INTERVAL), None);
        assert_eq!(schedule.floor(7, start + REPEAT), Some(8), "the broker may have lost the purge");
        assert_eq!(schedule.floor(9, start + INTERVAL), Some(10));
        assert_eq!(schedule.floor(3, start + INTERVAL), Some(4), "the stream was made anew");
    }

    #[test]
    fn after_a_failure_the_same_floor_is_purged_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, start);
        schedule.purged(7, Duration::ZERO, start);
        schedule.failed(start);
        assert_eq!(schedule.floor(7, start), Some(8));
    }

    #[test]
    fn a_slow_purge_is_followed_by_a_long_pause() {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, start);
        schedule.purged(7, Duration::from_millis(50), start);
        assert_eq!(schedule.next(), start + Duration::from_secs(1));
        schedule.purged(8, Duration::from_millis(1), start);
        assert_eq!(schedule.next(), start + INTERVAL);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Requests arrive.
        Arrive(u64),
        /// One of the pending requests is acknowledged.
        Acknowledge(u64),
        /// The purger looks, and its purge succeeds, fails before it reaches the broker, or after that.
        Look(Purge),
        /// The broker restarts: it has lost the newest purges.
        Restart,
    }

    #[derive(Debug, Clone, Copy)]
    enum Purge {
        Done,
        NotSent,
        NoAnswer,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..5_u64).prop_map(Step::Arrive),
            (0..100_u64).prop_map(Step::Acknowledge),
            prop_oneof![Just(Purge::Done), Just(Purge::NotSent), Just(Purge::NoAnswer)].prop_map(Step::Look),
            Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn only_acknowledged_requests_are_removed_and_in_the_end_all_of_them(
            steps in proptest::collection::vec(step(), 1..200)
        ) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(INTERVAL, now);
            let (mut last, mut first) = (0_u64, 1_u64);
            let mut acknowledged = std::collections::BTreeSet::new();
            let floor = |acknowledged: &std::collections::BTreeSet<u64>, last: u64| {
                (1..=last).take_while(|seq| acknowledged.contains(seq)).last().unwrap_or(0)
            };
            for step in steps {
                match step {
                    Step::Arrive(count) => last += count,
                    Step::Acknowledge(which) if last > 0 => {
                        acknowledged.insert(1 + which % last);
                    }
                    Step::Acknowledge(_) => {}
                    Step::Look(purge) => {
                        now = schedule.next().max(now);
                        let floor = floor(&acknowledged, last);
                        let Some(keep) = schedule.floor(floor, now) else { continue };
                        prop_assert!((1..keep).all(|seq| acknowledged.contains(&seq)), "{} was not acknowledged", keep);
                        if !matches!(purge, Purge::NotSent) {
                            first = first.max(keep);
                        }
                        match purge {
                            Purge::Done => schedule.purged(floor, Duration::ZERO, now),
                            Purge::NotSent | Purge::NoAnswer => schedule.failed(now),
                        }
                    }
                    Step::Restart => first = 1,
                }
                prop_assert!(schedule.next() <= now + LONGEST_PAUSE);
            }
            // Nothing happens any more, and the purger goes on for a while.
            let floor = floor(&acknowledged, last);
            let end = now + REPEAT + LONGEST_PAUSE;
            while now < end {
                now = schedule.next();
                if let Some(keep) = schedule.floor(floor, now) {
                    first = keep;
                    schedule.purged(floor, Duration::ZERO, now);
                }
            }
            prop_assert_eq!(first, floor + 1);
        }
    }
}
