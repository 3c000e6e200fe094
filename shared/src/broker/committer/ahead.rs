//! The round behind the one that is being stored, when so many messages wait that it is full: the broker gets its messages while it
//! writes those before them to its disk.
//!
//! It gets all but the last, and without that it stores none. The last one is sent when the round before is settled, so whatever
//! becomes of that one changes no order.

use futures_util::future::join;
use tokio::time::Instant;

use super::{FEWEST, Rounds, meanwhile, round, round::Waiting};
use crate::broker::{
    Refusal, ToStore,
    batch::{Begun, MOST, Together},
};

/// A round that is sent ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) round: Vec<Waiting>,
    /// `None` if it could not be sent.
    pub(super) begun: Option<Begun>,
}

impl Rounds {
    /// Stores a part of a round as a batch, which may have begun, and begins with the next round.
    pub(super) async fn store(&mut self, part: &[Waiting], begun: Option<Begun>) -> Together {
        let begun = match begun.filter(|begun| self.state.broker.has_begun(begun)) {
            Some(begun) => begun,
            None => match self.begin(part).await {
                Ok(begun) => begun,
                Err(outcome) => return outcome,
            },
        };
        let Some(last) = part.last() else { return Together::Stored { last: 0 } };
        let next = self.full_round();
        let Self { state, settling, .. } = &mut *self;
        let ending = state.broker.end_together(&state.stream, begun, &last.commit.message);
        let beginning = async {
            let round = next?;
            let begun = if round.len() < FEWEST {
                None
            } else {
                state.broker.begin_together(first(&round), has_one_id(&round)).await.ok()
            };
            Some(Ahead { round, begun })
        };
        let (outcome, ahead) = meanwhile(settling, join(ending, beginning)).await;
        self.ahead = self.ahead.take().or(ahead);
        outcome
    }

    async fn begin(&mut self, part: &[Waiting]) -> Result<Begun, Together> {
        let Self { state, settling, .. } = &mut *self;
        meanwhile(settling, state.broker.begin_together(first(part), has_one_id(part))).await
    }

    /// The next round. Those that nobody waits for any more are told so.
    pub(super) fn next_round(&mut self) -> Vec<Waiting> {
        let max_payload = self.state.broker.client.max_payload();
        let (round, expired) = round::next_round(&mut self.held, Instant::now(), max_payload);
        for waiting in expired {
            self.state.sent(1);
            waiting.tell(Err(Refusal::Busy));
        }
        round
    }

    /// The next round, if it is as large as one can be, none is sent ahead yet, and it is not the one that is measured.
    fn full_round(&mut self) -> Option<Vec<Waiting>> {
        let (_, is_due) = self.state.gathers_by_itself();
        if self.ahead.is_some() || is_due {
            return None;
        }
        self.take();
        (self.held.len() >= MOST).then(|| self.next_round())
    }
}

/// All messages but the last.
fn first(part: &[Waiting]) -> impl ExactSizeIterator<Item = &ToStore> {
    let count = part.len().saturating_sub(1);
    part.iter().take(count).map(|waiting| &waiting.commit.message)
}

/// Whether the broker has to remember one id of these only.
pub(super) fn has_one_id(part: &[Waiting]) -> bool {
    part.iter().all(|waiting| waiting.commit.drawn)
}
