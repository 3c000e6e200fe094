//! Live messages, and the gaps they show: what waits while a gap is filled. Pure.

use std::{collections::VecDeque, time::SystemTime};

use tidegate_shared::protocol::Publication;

/// Live messages that may wait while a gap is filled. More of them are read from the stream.
pub(super) const MAX_QUEUED: usize = 1024;
/// How many bytes these messages may hold.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// A gap being filled.
pub(super) struct Healing {
    /// Tells it from earlier ones: their reads may still be under way.
    pub(super) round: u64,
    /// The channel has, or had, a message with this sequence.
    pub(super) known: u64,
    /// The connection to the broker over which the channel was received when the filling began.
    pub(super) connection: u64,
    pub(super) queue: VecDeque<Live>,
    pub(super) bytes: usize,
}

/// Messages behind `after` are missing. The caller reads them and calls `heal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) after: u64,
    pub(super) round: u64,
}

/// A live message: the broker's copy of a stored publication.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Live {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// The sequence of the message before it in the channel; 0 if that is not stored any more.
    pub(crate) previous: u64,
    /// `None` for a removal mark: everything before it was removed on purpose.
    pub(crate) publication: Option<Publication>,
    /// When the stream stored it, if known.
    pub(crate) stored_at: Option<SystemTime>,
}

impl Live {
    /// A message that was read from the stream. What came before it is applied already.
    pub(super) fn read(seq: u64, publication: Option<Publication>) -> Self {
        Self { seq, previous: 0, publication, stored_at: None }
    }

    /// Roughly how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.publication.as_ref().map_or(0, |publication| publication.data.len())
    }
}

impl Healing {
    pub(super) fn push(&mut self, live: Live) {
        let bytes = self.bytes + live.bytes();
        if self.queue.len() < MAX_QUEUED && bytes <= MAX_QUEUED_BYTES {
            self.bytes = bytes;
            self.queue.push_back(live);
        } else {
            self.known = self.known.max(live.seq);
        }
    }
}
