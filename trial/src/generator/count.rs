//! Where clients count what they see. Pure.

use super::tally::Tally;

/// What the clients share while something is counted.
#[derive(Debug)]
pub(super) struct Count<'a> {
    pub(super) tally: &'a mut Tally,
    pub(super) now: u64,
    /// What was intended before does not count; in a closed loop, what comes before or later.
    pub(super) from: u64,
    pub(super) until: u64,
    /// All deliveries and answers, counted or not.
    pub(super) delivered: &'a mut u64,
    pub(super) answered: &'a mut Vec<usize>,
    /// Clients that are up since now.
    pub(super) joined: &'a mut Vec<usize>,
}

impl Count<'_> {
    /// Whether what was intended at this time counts now. In a closed loop all counts that comes within the time: what is under way
    /// when it begins makes up for what is when it ends.
    pub(super) fn counts(&self, intended: u64) -> bool {
        if self.until == u64::MAX {
            return intended >= self.from;
        }
        (self.from..=self.until).contains(&self.now)
    }
}
