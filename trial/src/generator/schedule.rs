//! When requests are meant to be sent: at a fixed rate, however slow the answers are. Pure.
//!
//! Latency counts from the intended time. A generator that is late sends what is due at once, and the lateness counts.

/// An even schedule.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    start: u64,
    end: u64,
    rate: u64,
    sent: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Schedule {
    /// A schedule of `rate` a second from `start` to `end`, both in nanoseconds.
    pub(super) fn new(start: u64, end: u64, rate: u32) -> Self {
        Self { start, end, rate: u64::from(rate).max(1), sent: 0 }
    }

    /// The time of the next one; `None` when the schedule is over.
    pub(super) fn next(&self) -> Option<u64> {
        let offset = u128::from(self.sent) * u128::from(SECOND) / u128::from(self.rate);
        let due = self.start.saturating_add(u64::try_from(offset).ok()?);
        (due < self.end).then_some(due)
    }

    /// Takes the next one if it is due, and returns the time it was due.
    pub(super) fn take(&mut self, now: u64) -> Option<u64> {
        let due = self.next().filter(|due| *due <= now)?;
        self.sent += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_was_due_at_even_times_however_late_it_is_taken() {
        let mut schedule = Schedule::new(SECOND, 2 * SECOND, 4);
        assert_eq!(schedule.take(SECOND - 1), None);
        assert_eq!(schedule.take(SECOND), Some(SECOND));
        assert_eq!(schedule.take(SECOND), None);
        let late: Vec<_> = std::iter::from_fn(|| schedule.take(9 * SECOND)).collect();
        assert_eq!(late, [SECOND + SECOND / 4, SECOND + SECOND / 2, SECOND + 3 * SECOND / 4]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let mut schedule = Schedule::new(0, 10 * SECOND, 3);
        let all: Vec<_> = std::iter::from_fn(|| schedule.take(u64::MAX)).collect();
        assert_eq!(all.len(), 30);
        assert_eq!(all.last(), Some(&(29 * SECOND / 3)));
    }
}
