//! How long the windows of channels stay open, by how much all of them hold. Pure but for a counter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long a window stays open: clients that were cut off at the same time come back within seconds and share it.
const TIME: Duration = Duration::from_secs(10);
/// The same while the windows hold more than the budget.
const SHORT_TIME: Duration = Duration::from_millis(100);
/// How many bytes of publications all windows may hold before they close sooner.
const BUDGET: usize = 64 << 20;

/// What the windows of all channels hold.
#[derive(Debug, Clone, Default)]
pub(super) struct WindowBudget {
    held: Arc<AtomicUsize>,
}

/// One window's part. Dropped with the window.
#[derive(Debug)]
pub(super) struct WindowShare {
    budget: WindowBudget,
    bytes: usize,
}

impl WindowBudget {
    /// Counts a window of this many bytes.
    pub(super) fn hold(&self, bytes: usize) -> WindowShare {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        WindowShare { budget: self.clone(), bytes }
    }
}

impl WindowShare {
    /// How long the window stays open from now on, unless a join needs it longer.
    pub(super) fn time(&self) -> Duration {
        if self.budget.held.load(Ordering::Relaxed) > BUDGET { SHORT_TIME } else { TIME }
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_beyond_the_budget_close_soon_until_others_have_closed() {
        let budget = WindowBudget::default();
        let first = budget.hold(BUDGET);
        assert_eq!(first.time(), TIME);
        let second = budget.hold(1);
        assert_eq!(second.time(), SHORT_TIME);
        drop(first);
        assert_eq!(second.time(), TIME);
    }
}
