//! The messages that wait for a committer, and which of them are the next round. Pure; time is an argument.

use std::collections::{HashSet, VecDeque};

use tokio::{sync::oneshot, time::Instant};

use super::room::{Bytes, Place};
use crate::broker::{
    Refusal, Stored, ToStore,
    batch::{HEADERS, MOST},
    headers_len,
};

/// The most bytes of a batch, its last message not counted.
const BATCH_BYTES: usize = 4 << 20;
/// A longer message is stored alone.
const LONGEST: usize = 256 << 10;
/// As are longer headers: those of a batch have to fit too.
const LONGEST_HEADERS: usize = 32 << 10;
/// A message for a stream, and what its committer has to know of it.
#[derive(Debug)]
pub struct ToCommit {
    /// The message.
    pub message: ToStore,
    /// Whether the stream keeps one message on its subject.
    pub once: bool,
    /// Whether its id was drawn for it and is known to nobody else. Of a batch of such messages the broker has to remember
    /// one: it tells whether all are stored.
    pub drawn: bool,
    /// When nobody waits for it any more. It is not sent later.
    pub deadline: Option<Instant>,
}

/// A message that waits for its round.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) commit: ToCommit,
    pub(super) held: Held,
    /// Where its sender hears of it.
    pub(super) told: oneshot::Sender<Result<Stored, Refusal>>,
}

/// What a message takes of the room of its process.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    pub(super) _place: Place,
}

impl Waiting {
    pub(super) fn tell(self, stored: Result<Stored, Refusal>) {
        // Whoever hears of it may have the next message at once.
        drop(self.held);
        // Whoever waited may have gone.
        let _ = self.told.send(stored);
    }
}

impl ToCommit {
    /// Whether nobody waits for it any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

/// The messages of the next round, which may be stored as one batch, and those that nobody waits for any more.
/// A message that would be longer than `max_payload` with the headers of a batch is stored alone.
pub(super) fn next_round(
    held: &mut VecDeque<Waiting>,
    now: Instant,
    max_payload: usize,
) -> (Vec<Waiting>, Vec<Waiting>) {
    let longest = LONGEST.min(max_payload.saturating_sub(HEADERS));
    let mut round: Vec<Waiting> = Vec::with_capacity(held.len().min(MOST));
    let (mut expired, mut subjects, mut bytes) = (Vec::new(), HashSet::new(), 0);
    while round.len() < MOST
        && bytes < BATCH_BYTES
        && let Some(waiting) = held.front()
    {
        if waiting.commit.is_over(now) {
            expired.extend(held.pop_front());
            continue;
        }
        let (subject, headers, _) = &waiting.commit.message;
        let alone = waiting.held.bytes.count() > longest || headers_len(headers) > LONGEST_HEADERS;
        if alone && !round.is_empty() || waiting.commit.once && !subjects.insert(subject.clone()) {
            break;
        }
        bytes += waiting.held.bytes.count();
        round.extend(held.pop_front());
        if alone {
            break;
        }
    }
    (round, expired)
}

#[cfg(test)]
mod tests {
    use super::{super::room::Room, *};

    #[tokio::test]
    async fn a_message_that_fits_only_without_the_headers_of_a_batch_is_stored_alone() {
        let room = Room::new(10, false);
        let mut held = VecDeque::new();
        for size in [10, 1000 - HEADERS, 1001 - HEADERS, 1000, 10] {
            let message = ("tide.ch.a.b".to_owned(), async_nats::HeaderMap::new(), vec![b'x'; size].into());
            let commit = ToCommit { message, once: false, drawn: false, deadline: None };
            let taken = Held { bytes: room.bytes(size).unwrap(), _place: room.place().await.unwrap() };
            held.push_back(Waiting { commit, held: taken, told: oneshot::channel().0 });
        }
        let rounds: Vec<_> = std::iter::from_fn(|| {
            let (round, _) = next_round(&mut held, Instant::now(), 1000);
            (!round.is_empty()).then_some(round.len())
        })
        .collect();
        assert_eq!(rounds, [2, 1, 1, 1]);
    }
}
