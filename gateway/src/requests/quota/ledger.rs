//! Who has how many unfinished requests in the stream of one route. Pure.
//!
//! A request counts from the moment it is sent to the broker until it is answered, or until it has left the stream: the stream's
//! oldest message is behind it. The ledger keeps no entry for each request. Stored requests are gathered in batches; when the
//! newest sequence of the stream is read, the open batch is closed, and all of it is at or before that sequence.

use std::collections::{HashMap, VecDeque};

/// The most batches. More are joined in pairs, which releases their requests a little later.
const MOST_BATCHES: usize = 64;

/// Whom a request is counted for: a user, by a hash with a secret of this process, or all anonymous clients together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    User(u64),
    Anonymous,
}

/// What one holder may have unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

/// The number of a batch.
pub(crate) type BatchNumber = u64;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    bytes: u64,
    requests: u64,
}

/// Requests that were stored between two looks at the stream.
#[derive(Debug)]
struct Batch {
    /// The numbers of the batches that were joined in this one.
    first: BatchNumber,
    last: BatchNumber,
    /// Its requests are at or before this sequence. `None` until that is known.
    until: Option<u64>,
    held: HashMap<Holder, Held>,
}

/// The unfinished requests of one route that this gateway has stored.
#[derive(Debug)]
pub(crate) struct Ledger {
    user: Limit,
    anonymous: Limit,
    accounts: HashMap<Holder, Held>,
    /// The number of the batch that requests are added to.
    open: BatchNumber,
    /// Oldest first. The open batch is the last one, if it has requests.
    batches: VecDeque<Batch>,
    newest: u64,
}

impl Ledger {
    pub(crate) fn new(user: Limit, anonymous: Limit) -> Self {
        Self { user, anonymous, accounts: HashMap::new(), open: 0, batches: VecDeque::new(), newest: 0 }
    }

    /// Counts a request that is about to be sent. Refuses it if its holder has reached a limit; a holder without unfinished
    /// requests may always send one.
    pub(crate) fn send(&mut self, holder: Holder, bytes: u64) -> Result<(), Limit> {
        let limit = match holder {
            Holder::User(_) => self.user,
            Holder::Anonymous => self.anonymous,
        };
        let held = self.accounts.entry(holder).or_default();
        let full = held.requests >= limit.requests || held.bytes.saturating_add(bytes) > limit.bytes;
        if held.requests > 0 && full {
            return Err(limit);
        }
        held.add(Held::one(bytes));
        Ok(())
    }

    /// A request that was sent is not stored, or is answered: it counts no more.
    pub(crate) fn release(&mut self, holder: Holder, bytes: u64) {
        take(&mut self.accounts, holder, Held::one(bytes));
    }

    /// A request that was sent is stored, or may be. Returns the batch it is in.
    pub(crate) fn store(&mut self, holder: Holder, bytes: u64) -> BatchNumber {
        let number = self.open;
        if self.batches.back().is_none_or(|batch| batch.last != number) {
            self.join_pairs();
            self.batches.push_back(Batch { first: number, last: number, until: None, held: HashMap::new() });
        }
        if let Some(open) = self.batches.back_mut() {
            open.held.entry(holder).or_default().add(Held::one(bytes));
        }
        number
    }

    /// A stored request is answered. It counts no more, unless it has left the stream before.
    pub(crate) fn answer(&mut self, holder: Holder, bytes: u64, number: BatchNumber) {
        let place = self.batches.partition_point(|batch| batch.last < number);
        let Some(batch) = self.batches.get_mut(place).filter(|batch| batch.first <= number) else { return };
        if take(&mut batch.held, holder, Held::one(bytes)) {
            take(&mut self.accounts, holder, Held::one(bytes));
        }
    }

    /// Closes the open batch: the stream is about to be looked at. Returns its number.
    pub(crate) fn close(&mut self) -> BatchNumber {
        let closed = self.open;
        self.open += 1;
        closed
    }

    /// The stream was looked at after this batch was closed: releases what has left the stream.
    pub(crate) fn look(&mut self, closed: BatchNumber, first_seq: u64, last_seq: u64) {
        let anew = last_seq < self.newest;
        self.newest = last_seq;
        for batch in self.batches.iter_mut().filter(|batch| batch.last <= closed) {
            batch.until.get_or_insert(last_seq);
        }
        // In a stream that was made anew, none of the requests is left.
        let gone = |batch: &Batch| batch.until.is_some_and(|until| until < first_seq || anew);
        while self.batches.front().is_some_and(gone) {
            for (holder, held) in self.batches.pop_front().into_iter().flat_map(|batch| batch.held) {
                take(&mut self.accounts, holder, held);
            }
        }
    }

    /// Makes room for another batch: joins neighbours. All batches are closed.
    fn join_pairs(&mut self) {
        if self.batches.len() < MOST_BATCHES {
            return;
        }
        let mut joined: VecDeque<Batch> = VecDeque::with_capacity(MOST_BATCHES);
        for (place, batch) in self.batches.drain(..).enumerate() {
            if place.is_multiple_of(2) {
                joined.push_back(batch);
            } else if let Some(before) = joined.back_mut() {
                before.last = batch.last;
                // Unknown if either is: the next look tells.
                before.until = before.until.zip(batch.until).map(|(before, this)| before.max(this));
                for (holder, held) in batch.held {
                    before.held.entry(holder).or_default().add(held);
                }
            }
        }
        self.batches = joined;
    }
}

impl Held {
    fn one(bytes: u64) -> Self {
        Self { bytes, requests: 1 }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.requests += other.requests;
    }
}

/// Takes from what a holder has. Returns false if it does not have that much.
fn take(all: &mut HashMap<Holder, Held>, holder: Holder, part: Held) -> bool {
    let Some(held) = all.get_mut(&holder) else { return false };
    let (Some(bytes), Some(requests)) =
        (held.bytes.checked_sub(part.bytes), held.requests.checked_sub(part.requests))
    else {
        return false;
    };
    *held = Held { bytes, requests };
    if requests == 0 {
        all.remove(&holder);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANN: Holder = Holder::User(1);
    const BEN: Holder = Holder::User(2);

    fn ledger() -> Ledger {
        Ledger::new(Limit { bytes: 100, requests: 3 }, Limit { bytes: 500, requests: 50 })
    }

    #[test]
    fn a_holder_at_its_limit_is_refused_and_others_are_not() {
        let mut ledger = ledger();
        for _ in 0..3 {
            ledger.send(ANN, 10).unwrap();
        }
        assert!(ledger.send(ANN, 10).is_err(), "three requests");
        ledger.send(BEN, 90).unwrap();
        assert!(ledger.send(BEN, 11).is_err(), "a hundred bytes");
        ledger.send(BEN, 10).unwrap();
        ledger.send(Holder::Anonymous, 400).unwrap();
        ledger.send(Holder::User(3), 1000).expect("one request is always possible");
        ledger.release(ANN, 10);
        ledger.send(ANN, 10).unwrap();
    }

    #[test]
    fn stored_requests_are_released_by_their_answers_or_when_they_have_left_the_stream() {
        let mut ledger = ledger();
        for _ in 0..3 {
            ledger.send(ANN, 10).unwrap();
        }
        let batch = ledger.store(ANN, 10);
        ledger.answer(ANN, 10, batch);
        assert_eq!(ledger.accounts[&ANN], Held { bytes: 20, requests: 2 });
        let batch = ledger.store(ANN, 10);
        let closed = ledger.close();
        let later = ledger.store(ANN, 10);
        ledger.look(closed, 7, 7);
        assert_eq!(ledger.accounts[&ANN].requests, 2, "the oldest message may be the request");
        let closed = ledger.close();
        ledger.look(closed, 8, 9);
        assert_eq!(ledger.accounts[&ANN].requests, 1);
        ledger.answer(ANN, 10, batch);
        assert_eq!(ledger.accounts[&ANN].requests, 1, "it has left before");
        ledger.answer(ANN, 10, later);
        assert!(ledger.accounts.is_empty());
    }

    #[test]
    fn a_stream_that_was_made_anew_holds_none_of_the_requests() {
        let mut ledger = ledger();
        ledger.send(ANN, 10).unwrap();
        ledger.store(ANN, 10);
        let closed = ledger.close();
        ledger.look(closed, 1, 9);
        let closed = ledger.close();
        ledger.look(closed, 1, 0);
        assert!(ledger.accounts.is_empty() && ledger.batches.is_empty());
    }

    #[test]
    fn hours_without_a_worker_leave_a_bounded_number_of_batches() {
        let limit = Limit { bytes: u64::MAX, requests: u64::MAX };
        let mut ledger = Ledger::new(limit, limit);
        let batches: Vec<_> = (1..=10_000)
            .map(|seq| {
                ledger.send(ANN, 1).unwrap();
                let batch = ledger.store(ANN, 1);
                let closed = ledger.close();
                ledger.look(closed, 1, seq);
                assert!(ledger.batches.len() <= MOST_BATCHES);
                if seq % 3 == 0 {
                    // The broker does not always say how full the stream is.
                    ledger.close();
                }
                batch
            })
            .collect();
        for batch in &batches[..5000] {
            ledger.answer(ANN, 1, *batch);
        }
        assert_eq!(ledger.accounts[&ANN].requests, 5000);
        let closed = ledger.close();
        ledger.look(closed, 10_001, 10_000);
        assert!(ledger.accounts.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send {
            user: u64,
            bytes: u64,
        },
        /// What becomes of one of the requests that were sent.
        Fail(usize),
        Store(usize),
        /// One of the stored requests is answered.
        Answer(usize),
        /// Requests leave the stream, and the gateway looks at it.
        Look {
            leave: u64,
        },
        /// Like this, but stored while the gateway looks.
        Begin,
        Anew,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u64, 1..60_u64).prop_map(|(user, bytes)| Step::Send { user, bytes }),
            1 => (0..9_usize).prop_map(Step::Fail),
            4 => (0..9_usize).prop_map(Step::Store),
            2 => (0..99_usize).prop_map(Step::Answer),
            2 => (0..9_u64).prop_map(|leave| Step::Look { leave }),
            1 => Just(Step::Begin),
            1 => Just(Step::Anew),
        ]
    }

    fn holder(user: u64) -> Holder {
        if user == 0 { Holder::Anonymous } else { Holder::User(user) }
    }

    proptest! {
        #[test]
        fn what_is_released_is_what_was_added(steps in proptest::collection::vec(step(), 1..400)) {
            let mut ledger = ledger();
            let (mut first, mut last) = (1_u64, 0_u64);
            let mut sent: Vec<(Holder, u64)> = Vec::new();
            let mut stored: Vec<(Holder, u64, BatchNumber)> = Vec::new();
            let mut looking = None;
            for step in steps {
                match step {
                    Step::Send { user, bytes } => {
                        if ledger.send(holder(user), bytes).is_ok() {
                            sent.push((holder(user), bytes));
                        }
                    }
                    Step::Fail(which) if which < sent.len() => {
                        let (holder, bytes) = sent.remove(which);
                        ledger.release(holder, bytes);
                    }
                    Step::Store(which) if which < sent.len() => {
                        let (holder, bytes) = sent.remove(which);
                        last += 1;
                        stored.push((holder, bytes, ledger.store(holder, bytes)));
                    }
                    Step::Answer(which) if which < stored.len() => {
                        let (holder, bytes, batch) = stored.remove(which);
                        ledger.answer(holder, bytes, batch);
                    }
                    Step::Fail(_) | Step::Store(_) | Step::Answer(_) => {}
                    Step::Look { leave } => {
                        first = (first + leave).min(last + 1);
                        let closed = looking.take().unwrap_or_else(|| ledger.close());
                        ledger.look(closed, first, last);
                    }
                    Step::Begin => looking = Some(ledger.close()),
                    Step::Anew => (first, last) = (1, 0),
                }
                // The accounts are what is under way and what is in the batches, no more and no less.
                let mut expected: HashMap<Holder, Held> = HashMap::new();
                for (holder, bytes) in &sent {
                    expected.entry(*holder).or_default().add(Held::one(*bytes));
                }
                for (holder, held) in ledger.batches.iter().flat_map(|batch| &batch.held) {
                    expected.entry(*holder).or_default().add(*held);
                }
                prop_assert_eq!(&ledger.accounts, &expected);
                prop_assert!(ledger.batches.len() <= MOST_BATCHES);
            }
            for (holder, bytes) in sent.drain(..) {
                ledger.release(holder, bytes);
            }
            // Everything leaves the stream in the end.
            for _ in 0..2 {
                last += 1;
                let closed = ledger.close();
                ledger.look(closed, last + 1, last);
            }
            prop_assert!(ledger.accounts.is_empty() && ledger.batches.is_empty(), "{:?}", ledger);
        }
    }
}
