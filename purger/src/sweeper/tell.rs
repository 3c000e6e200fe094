//! Telling the client of a dead letter, in the way that workers bring answers: the answer to a request with a key or to a "later"
//! request is stored; the answer to a plain request is handed to the gateway that waits, and stored if that one does not confirm it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, RequestErrorKind};
use tidegate_shared::{
    broker::Refusal,
    channel::Channel,
    confirmation::Confirmation,
    envelope::{Answer, AnswerWay, Request},
};
use tokio::time::{Instant, sleep};

use super::Sweeper;

/// How long a gateway may take for its word.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// The pause before the gateway is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// How much later than the caller's deadline the gateway is asked for the last time.
const MARGIN: Duration = Duration::from_millis(500);

impl Sweeper {
    /// Brings an answer to its client. Each step may be repeated.
    pub(super) async fn tell(&self, request: &Request, answer: &Answer) -> Result<(), Refusal> {
        match request.answer_way() {
            AnswerWay::Nobody => Ok(()),
            AnswerWay::HandedOver => self.hand_over(request, answer).await,
            AnswerWay::Stored => match self.keep(answer).await {
                Ok(()) => self.announce(request, answer).await,
                Err(Refusal::Taken) => {
                    let first = self.stored_answer(request).await?;
                    self.announce(request, first.as_ref().unwrap_or(answer)).await
                }
                Err(refusal) => {
                    // Those who wait now need not wait until there is room.
                    self.send_live_copy(answer).await;
                    Err(refusal)
                }
            },
        }
    }

    /// As [`Self::tell`], with the answer that is stored: whoever stored it may have ended before it was brought.
    pub(super) async fn tell_again(&self, request: &Request, stored: &Answer) -> Result<(), Refusal> {
        match request.answer_way() {
            AnswerWay::Nobody => Ok(()),
            AnswerWay::HandedOver => self.hand_over(request, stored).await,
            AnswerWay::Stored => self.announce(request, stored).await,
        }
    }

    async fn keep(&self, answer: &Answer) -> Result<(), Refusal> {
        self.broker.store(self.subjects.reply(&answer.re), answer.headers(), answer.body()).await.map(drop)
    }

    async fn announce(&self, request: &Request, answer: &Answer) -> Result<(), Refusal> {
        self.send_live_copy(answer).await;
        if request.later { self.publish_to_user(request, answer).await } else { Ok(()) }
    }

    /// Sends the answer to a keyed request to the gateways that wait for it. One that misses it finds it in the store.
    async fn send_live_copy(&self, answer: &Answer) {
        if answer.re.is_keyed() {
            let subject = self.subjects.answer(&answer.re);
            let sent =
                self.broker.client().publish_with_headers(subject, answer.headers(), answer.body()).await;
            if let Err(error) = sent {
                tracing::debug!(request.id = %answer.re, %error, "the live copy of an answer was not sent");
            }
        }
    }

    /// Publishes an answer on the personal channel of the request's user, if it has one.
    async fn publish_to_user(&self, request: &Request, answer: &Answer) -> Result<(), Refusal> {
        let Some(user) = request.user.as_deref() else { return Ok(()) };
        let subject = self.subjects.channel(&Channel::personal(user));
        self.broker.store(subject, answer.later_headers(), answer.later_body()).await.map(drop)
    }

    /// Hands the answer to a plain request over, and returns when it is certain where it went.
    async fn hand_over(&self, request: &Request, answer: &Answer) -> Result<(), Refusal> {
        let headers = answer.headers();
        let over = Instant::now() + self.caller_waits(request) + MARGIN;
        let mut kept = false;
        for asked in 1.. {
            match self.ask(answer, &headers).await {
                Some(Confirmation::Taken | Confirmation::Known) => return Ok(()),
                Some(Confirmation::Late) => break,
                // The first silence is never the last word: a gateway may be cut off for a moment.
                None if asked > 1 && Instant::now() >= over => break,
                None => {}
            }
            // A gateway that is back finds it there. If it cannot be stored, the gateway is asked again all the same.
            kept = kept || matches!(self.keep(answer).await, Ok(()) | Err(Refusal::Taken));
            sleep(PAUSE).await;
        }
        self.publish_to_user(request, answer).await
    }

    async fn ask(&self, answer: &Answer, headers: &HeaderMap) -> Option<Confirmation> {
        // While disconnected the library would keep the question.
        if !self.broker.is_connected() {
            return None;
        }
        let question = async_nats::Request::new().headers(headers.clone()).payload(answer.body());
        let subject = self.subjects.answer(&answer.re);
        match self.broker.client().send_request(subject, question.timeout(Some(ASK_LIMIT))).await {
            Ok(reply) => Confirmation::read(&reply.payload),
            Err(error) => {
                if error.kind() != RequestErrorKind::NoResponders {
                    tracing::debug!(request.id = %answer.re, %error, "no gateway has confirmed an answer");
                }
                None
            }
        }
    }

    /// How long the caller still waits, by the gateway's clock and this one. Never longer than a call may wait.
    fn caller_waits(&self, request: &Request) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let waited = now.saturating_sub(Duration::from_millis(request.accepted_at));
        self.answer_timeout.saturating_sub(waited)
    }
}
