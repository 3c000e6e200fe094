//! The processor time of the measured processes, exactly while it counts: the warm-up and the last answers are left out.

use std::time::Duration;

use crate::process;

/// A meter of several processes.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) pids: Vec<u32>,
    begun: Option<Vec<Duration>>,
}

impl Meter {
    /// Forgets what it has read.
    pub(super) fn reset(&mut self) {
        self.begun = None;
    }

    /// Reads once, when what counts has begun.
    pub(super) fn look(&mut self, from: u64, now: u64) {
        if self.begun.is_none() && now >= from && !self.pids.is_empty() {
            self.begun = Some(self.read());
        }
    }

    /// The time used since then, in nanoseconds.
    pub(super) fn used(&self) -> Vec<u64> {
        let begun = self.begun.iter().flatten();
        let used = self.read().into_iter().zip(begun).map(|(now, then)| now.saturating_sub(*then));
        used.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect()
    }

    fn read(&self) -> Vec<Duration> {
        // One that has ended has no time that could be asked for.
        self.pids.iter().map(|pid| process::cpu(*pid).unwrap_or_default()).collect()
    }
}
