//! Warnings that outsiders can cause without end are logged rarely.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The pause between two lines of one warning. Metrics count everything.
const PAUSE: Duration = Duration::from_secs(10);

/// Says when one warning is due. Meant for a `static` beside it.
#[derive(Debug)]
pub struct Sparse(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    logged: Option<Instant>,
    skipped: u64,
}

impl Sparse {
    /// A warning that was never logged.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Counted { logged: None, skipped: 0 }))
    }

    /// Returns how many were left out since the last line if a line is due now.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock();
        if counted.logged.is_some_and(|logged| now < logged + PAUSE) {
            counted.skipped += 1;
            return None;
        }
        counted.logged = Some(now);
        Some(std::mem::take(&mut counted.skipped))
    }
}

impl Default for Sparse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_logged_at_once_and_then_rarely_with_the_number_left_out() {
        let (warning, start) = (Sparse::new(), Instant::now());
        assert_eq!(warning.due_at(start), Some(0));
        for second in 1..10 {
            assert_eq!(warning.due_at(start + Duration::from_secs(second)), None);
        }
        assert_eq!(warning.due_at(start + PAUSE), Some(9));
        assert_eq!(warning.due_at(start + 2 * PAUSE), Some(0));
    }
}
