//! Whether a channel has been quiet since a position, by the stream of its namespace's last messages. Pure.
//!
//! That stream has a copy of the newest message of each channel. Copies are numbered one after the other, and each names the
//! sequence of its original. A message that was never copied, because it had expired before (after the broker was away, for
//! example) leaves its trace: from then on the distance between the two numbers is larger. So between two copies with the same
//! distance no message is missing.

/// A copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Its number among the copies.
    pub(super) seq: u64,
    /// The sequence of the original.
    pub(super) origin: u64,
}

impl Copied {
    /// How many messages before the original have no copy. `None` for numbers that cannot be.
    fn skipped(self) -> Option<u64> {
        self.origin.checked_sub(self.seq)
    }
}

/// Whether a channel has had no message between the position `since` and the original of `newest`, the newest copy of all.
/// `last` is the newest copy of the channel; `others` are copies of other messages, read after it was looked for.
pub(super) fn is_quiet(since: u64, newest: Copied, last: Option<Copied>, others: &[Copied]) -> bool {
    if last.is_some_and(|last| last.origin > since) {
        return false;
    }
    // A copy from before the position, since which every message was copied. It is still there, so no later copy is gone, except
    // that a channel's next one replaces it.
    last.iter()
        .chain(others)
        .filter(|copy| copy.origin <= since.saturating_add(1))
        .any(|copy| copy.skipped().is_some() && copy.skipped() == newest.skipped())
}
