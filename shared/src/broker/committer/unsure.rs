//! What is done about a batch of which nobody knows whether it is stored, and whose last message alone has its id in the stream.
//!
//! The whole batch is sent again. It is stored now; or the broker knows the id, and so all of it is stored: it is refused as a whole.
//! So is the first try, if it comes late. It is the last message because no other one of the batch can take its place in its channel:
//! a broker that starts again remembers the ids of the messages that it has.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{RECONNECT_LIMIT, Rounds, Waiting, meanwhile};
use crate::broker::{Refusal, Stored, batch::Together};

/// Pause before the batch is sent again.
const PAUSE: Duration = Duration::from_millis(100);

impl Rounds {
    /// Sends a batch again, until its outcome is known or nobody waits for it. Tells all senders.
    pub(super) async fn again(&mut self, part: Vec<Waiting>) {
        let limit = Instant::now() + RECONNECT_LIMIT;
        let until =
            part.iter().map(|waiting| waiting.commit.deadline.unwrap_or(limit)).max().unwrap_or(limit);
        while Instant::now() < until {
            self.reconnected(&part).await;
            let messages = part.iter().map(|waiting| &waiting.commit.message);
            let Self { state, settling, .. } = &mut *self;
            let stored = state.broker.store_together(&state.stream, messages, true);
            match meanwhile(settling, stored).await {
                Together::Stored { last } => return self.all_stored(part, last),
                Together::Known => {
                    return match self.place(&part).await {
                        Some(last) => self.all_stored(part, last),
                        None => self.tell_all(part, &Ok(Stored { seq: 0, duplicate: true })),
                    };
                }
                // Nobody else uses these subjects.
                Together::Refused(Refusal::Taken) => return self.tell_all(part, &Err(Refusal::Taken)),
                Together::Unknown => {}
                Together::Refused(refusal) if refusal.may_pass() => {}
                Together::Refused(_) => break,
            }
            meanwhile(&mut self.settling, sleep(PAUSE)).await;
        }
        // Nor can anybody find out alone: without their ids in the stream they would be stored twice.
        self.tell_all(part, &Err(Refusal::Unconfirmed));
    }

    /// Waits until the connection is back, or nobody waits for the round any more.
    pub(super) async fn reconnected(&mut self, round: &[Waiting]) {
        let limit = Instant::now() + RECONNECT_LIMIT;
        let last = round.iter().map(|waiting| waiting.commit.deadline.unwrap_or(limit)).max();
        let mut link = self.state.broker.link();
        let up = timeout_at(last.unwrap_or(limit), link.wait_for(|link| link.up));
        let _ = meanwhile(&mut self.settling, up).await;
    }

    /// The sequence of the last one of a batch that is stored: the broker tells it of a message that it knows.
    async fn place(&mut self, part: &[Waiting]) -> Option<u64> {
        let (subject, headers, body) = part.last()?.commit.message.clone();
        let sent = self.publish(subject, headers, body).await.ok()?;
        let stored = meanwhile(&mut self.settling, sent.stored()).await.ok()?;
        stored.duplicate.then_some(stored.seq)
    }

    /// These are stored, one behind the other, the last one under this sequence.
    pub(super) fn all_stored(&self, round: Vec<Waiting>, last: u64) {
        self.state.sent(round.len());
        let first = (last + 1).saturating_sub(round.len() as u64);
        for (seq, waiting) in (first..).zip(round) {
            waiting.tell(Ok(Stored { seq, duplicate: false }));
        }
    }

    fn tell_all(&self, part: Vec<Waiting>, told: &Result<Stored, Refusal>) {
        self.state.sent(part.len());
        for waiting in part {
            waiting.tell(told.clone());
        }
    }
}
