//! How an answer reaches its client. The answer to a request with a key or to a "later" request is stored first; then its live
//! copy goes to every gateway that waits. The answer to a plain request is handed over: see `hand_over`.

use std::time::Duration;

use async_nats::HeaderMap;
use tidegate_shared::{
    channel::Channel,
    dead::is_death_before,
    envelope::{self, AnswerWay, Outcome},
};

use super::Settlement;
use crate::{
    metrics::Ending,
    store::{self, Rejected, Stored},
};

impl Settlement {
    /// Brings an answer to its client. Returns when the request may be acknowledged.
    pub(super) async fn answer(&self, outcome: Outcome) -> Result<(), Rejected> {
        self.bring(self.answer_of(outcome)).await
    }

    /// This worker's answer with this outcome.
    pub(super) fn answer_of(&self, outcome: Outcome) -> envelope::Answer {
        let answer = envelope::Answer::to(&self.request, self.attempts, &self.engine.name, outcome);
        envelope::Answer { redriven: self.delivery.redriven(), ..answer }
    }

    /// As [`Self::answer`], with the answer already made.
    pub(super) async fn bring(&self, answer: envelope::Answer) -> Result<(), Rejected> {
        match self.request.answer_way() {
            AnswerWay::Stored => self.keep(answer).await,
            AnswerWay::HandedOver => self.hand_over(answer, false).await,
            AnswerWay::Nobody => Ok(()),
        }
    }

    /// Settles the request if its answer is stored.
    pub(super) async fn answered_already(&self) -> Option<Ending> {
        let stored = self.engine.look_ups.answer(&self.engine.subjects, &self.request.id).await?;
        Some(self.answered_before(stored).await)
    }

    /// Settles the request, whose answer an earlier delivery has stored. It may have ended before the answer was brought.
    pub(super) async fn answered_before(&self, stored: envelope::Answer) -> Ending {
        if let Some(letter) = self.delivery.redriven().filter(|letter| is_death_before(&stored, *letter)) {
            return self
                .bury_again(&format!("letter {letter} was redriven before its error was stored"))
                .await;
        }
        if self.request.answer_way() == AnswerWay::HandedOver {
            // What is stored has fitted before.
            let _ = self.hand_over(stored, true).await;
        } else {
            self.announce(&stored).await;
        }
        self.acknowledge(Ending::AlreadyAnswered).await
    }

    /// Stores an answer unless the request has one: the first stored answer counts. Then brings that one.
    async fn keep(&self, answer: envelope::Answer) -> Result<(), Rejected> {
        let limit = self.engine.config.streams.answer_max_bytes;
        let bytes = answer.body().len();
        if bytes as u64 > limit {
            return Err(Rejected::TooLong { bytes, limit });
        }
        let headers = answer.headers();
        let (stored, announced) = match self.try_to_keep(&answer, &headers).await? {
            Some(stored) => (stored, false),
            None => (self.keep_when_there_is_room(&answer, &headers).await?, true),
        };
        if stored == Stored::Already
            && let Some(first) = store::answer(&self.engine.broker, &self.engine.subjects, &answer.re).await
            && first != answer
        {
            self.announce(&first).await;
        } else if announced {
            // The personal channel has it.
            self.send_live_copy(&answer, headers).await;
        } else {
            self.announce_with(&answer, headers).await;
        }
        Ok(())
    }

    /// Waits until the result cache has room. Those who wait for the answer now get it at once.
    async fn keep_when_there_is_room(
        &self,
        answer: &envelope::Answer,
        headers: &HeaderMap,
    ) -> Result<Stored, Rejected> {
        self.stop_working(answer);
        let stalled = self.engine.stall.begin();
        self.announce_with(answer, headers.clone()).await;
        loop {
            let again = async { self.try_to_keep(answer, headers).await.transpose() };
            if let Some(stored) = stalled.try_again(again).await {
                return stored;
            }
        }
    }

    /// Stores an answer with these headers, its own. `None` if there is no room.
    pub(super) async fn try_to_keep(
        &self,
        answer: &envelope::Answer,
        headers: &HeaderMap,
    ) -> Result<Option<Stored>, Rejected> {
        let subject = self.engine.subjects.reply(&answer.re);
        self.engine.committers.answer(subject, headers, answer.body()).await
    }

    /// Gives the place in which the handler has run to the next request, if not too many answers are on their way: their number in
    /// the route, and their bytes in the worker.
    pub(super) fn let_next_begin(&self, said: usize) {
        let bytes = self.request.body.len().saturating_add(said);
        self.permit.move_to(&self.route.answering, &self.engine.room, bytes);
    }

    /// Gives the request's place in its route back: what follows is only waiting.
    pub(super) fn stop_working(&self, answer: &envelope::Answer) {
        let bytes = self.request.body.len().saturating_add(answer.body().len());
        self.permit.give_back(&self.engine.room, bytes);
    }

    /// Brings a stored answer to everybody who should have it.
    async fn announce(&self, answer: &envelope::Answer) {
        self.announce_with(answer, answer.headers()).await;
    }

    /// As [`Self::announce`]. Headers are made once for each answer: it is what costs most about a small one.
    async fn announce_with(&self, answer: &envelope::Answer, headers: HeaderMap) {
        self.send_live_copy(answer, headers).await;
        if self.request.later {
            self.publish_on_personal_channel(answer).await;
        }
    }

    /// Sends the answer to a keyed request to the gateways that wait for it. One that misses it finds it in the store.
    async fn send_live_copy(&self, answer: &envelope::Answer, headers: HeaderMap) {
        if !self.request.id.is_keyed() {
            return;
        }
        let subject = self.engine.subjects.answer(&answer.re);
        let sent = self.engine.broker.client().publish_with_headers(subject, headers, answer.body()).await;
        if let Err(error) = sent {
            tracing::debug!(request.id = %answer.re, trace.id = %self.trace, %error, "the live copy of an answer was not sent");
        }
    }

    /// Publishes an answer on the personal channel of the request's user, if it has one.
    pub(super) async fn publish_on_personal_channel(&self, answer: &envelope::Answer) {
        let Some(user) = self.request.user.as_deref() else { return };
        let channel = Channel::personal(user);
        let subject = self.engine.subjects.channel(&channel);
        let (headers, body) = (answer.later_headers(), answer.later_body());
        let stored = self.engine.committers.publish(&channel, subject, &headers, body).await;
        if let Err(error) = stored {
            tracing::error!(request.id = %answer.re, trace.id = %self.trace, %error, "the answer cannot be published on the user's personal channel");
        }
    }

    /// How long the caller still waits for its answer, by the gateway's clock and the broker's. Never longer than a call may
    /// wait, whatever the clocks say.
    pub(super) fn caller_waits(&self) -> Duration {
        self.engine.config.gateway.answer_timeout.saturating_sub(self.waited())
    }
}
