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
/// `last` is the newest copy of the channel. If there is none, `oldest` is the oldest copy of all, read after it was looked for.
pub(super) fn is_quiet(since: u64, newest: Copied, last: Option<Copied>, oldest: Option<Copied>) -> bool {
    let known = match last {
        Some(last) => (last.origin <= since).then_some(last),
        // The copies of older messages may be gone.
        None => oldest.filter(|oldest| oldest.origin <= since.saturating_add(1)),
    };
    known.is_some_and(|known| known.skipped().is_some() && known.skipped() == newest.skipped())
}
