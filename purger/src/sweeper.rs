//! The sweeper: makes dead letters of requests that a worker in another language terminated, or that were delivered as often as an
//! operator allows.
//!
//! The broker says so with an advisory, which waits in `TIDE_ADV` until it is acknowledged. Everything that is stored for one has an
//! id that is made of the message's place, so a sweeper that ends in the middle is followed by another. `letters` finds and stores
//! the letter, `tell` tells the client.

mod letters;
mod tell;

use std::{sync::Arc, time::Duration};

use crate::metrics::Metrics;
use async_nats::{HeaderMap, Message, jetstream};
use bytes::Bytes;
use tidegate_shared::{
    advisory::Advisory,
    broker::{Attended, Broker, NotDone, Puller, Refusal, attend, broker_header, header_number, retry_pause},
    config::Config,
    dead::{Reason, is_death_before},
    envelope::{Answer, Outcome, Request, get},
    header,
    lifecycle::Lifecycle,
    protocol::codes,
    subject::Subjects,
    topology::{ADVISORIES, PARK, REPLY, SWEEPER},
};

/// Advisories that this sweeper is busy with at a time.
const AT_A_TIME: usize = 16;
/// The name on the answers of the sweeper.
const NAME: &str = "sweeper";

/// Makes dead letters of advisories.
#[derive(Debug)]
pub(crate) struct Sweeper {
    broker: Broker,
    subjects: Subjects,
    metrics: Arc<Metrics>,
    /// The service in the letters' subjects.
    service: String,
    answer_timeout: Duration,
    /// The broker delivers an advisory again that is not acknowledged in this time.
    ack_wait: Duration,
}

/// Why an advisory is not done. It is tried again.
#[derive(Debug, thiserror::Error)]
enum NotSwept {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the message cannot be removed: {0}")]
    NotRemoved(NotDone),
}

impl Sweeper {
    pub(crate) fn new(broker: Broker, config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            broker,
            subjects: config.subjects(),
            metrics,
            service: config.worker.service.clone(),
            answer_timeout: config.gateway.answer_timeout,
            ack_wait: config.worker.ack_wait,
        }
    }

    /// Pulls until the process drains.
    pub(crate) async fn run(self: Arc<Self>, lifecycle: Lifecycle) {
        let puller = Puller::new(self.broker.clone(), ADVISORIES, SWEEPER);
        let work = |message: Arc<jetstream::Message>| {
            let this = Arc::clone(&self);
            async move { this.attend(&message).await }
        };
        attend(puller, AT_A_TIME, self.ack_wait, &lifecycle, work).await;
    }

    /// Settles one delivery of an advisory.
    async fn attend(&self, message: &jetstream::Message) -> Attended {
        let delivered = message.info().map_or(1, |info| info.delivered);
        let Some(advisory) = Advisory::read(&message.payload) else {
            tracing::debug!(nats.subject = %message.subject, "an advisory is about no request");
            return Attended::Done;
        };
        match self.sweep(&advisory, delivered > 1).await {
            Ok(()) => Attended::Done,
            Err(error) => {
                let pause = retry_pause(delivered);
                let (route, reason) = (advisory.route.as_str(), advisory.reason.as_str());
                tracing::error!(
                    route, reason, stream = advisory.stream, seq = advisory.seq, %error, again_in = ?pause, "the dead letter of a request that is delivered no more cannot be made: trying again"
                );
                self.metrics.not_swept(route);
                Attended::Again(pause)
            }
        }
    }

    /// Makes the dead letter and tells the client. `again` says that an earlier delivery may have done a part of it.
    async fn sweep(&self, advisory: &Advisory, again: bool) -> Result<(), NotSwept> {
        let found = self.broker.first_from(&advisory.stream, advisory.seq).await?;
        let Some(message) = found.filter(|m| header_number(m, header::SEQUENCE) == Some(advisory.seq)) else {
            self.letter_of_nothing(advisory).await?;
            return Ok(());
        };
        let headers = message.headers.clone().unwrap_or_default();
        match Request::read(&headers, message.payload.clone()) {
            Ok(request) => self.settle(advisory, &message, &request, again).await?,
            Err(error) => {
                self.letter_of_unreadable(advisory, &message, &error.to_string()).await?;
            }
        }
        // Nobody acknowledges such a message: it would stay for ever.
        if advisory.reason == Reason::MaxDeliver {
            self.broker.remove(&advisory.stream, advisory.seq).await.map_err(NotSwept::NotRemoved)?;
        }
        Ok(())
    }

    /// As [`Self::sweep`], for a request that is still in its stream.
    async fn settle(
        &self,
        advisory: &Advisory,
        message: &Message,
        request: &Request,
        again: bool,
    ) -> Result<(), Refusal> {
        let headers = message.headers.as_ref();
        let redriven: Option<u64> =
            headers.and_then(|h| get(h, header::REDRIVEN)).and_then(|text| text.parse().ok());
        if let Some(stored) = self.stored_answer(request).await? {
            // The error of a letter that was redriven before its error was stored is no answer to this copy.
            if redriven.is_some_and(|letter| is_death_before(&stored, letter)) {
                self.letter_of(advisory, message, request, again).await?;
                return Ok(());
            }
            return self.tell_again(request, &stored).await;
        }
        if self.is_parked_elsewhere(advisory, message, request).await? {
            return Ok(());
        }
        let letter = self.letter_of(advisory, message, request, again).await?;
        let begun = attempts(advisory, request);
        let told = codes::DEAD_LETTER.because(format!("{begun} attempts"));
        let outcome = Outcome::Error { code: told.code, message: told.message, data: Bytes::new() };
        let answer = Answer::to(request, begun.saturating_sub(1), NAME, outcome);
        self.tell(request, &Answer { letter: Some(letter), redriven, ..answer }).await
    }

    async fn stored_answer(&self, request: &Request) -> Result<Option<Answer>, Refusal> {
        let stored = self.broker.last(REPLY, &self.subjects.reply(&request.id)).await?;
        Ok(stored
            .and_then(|message| Answer::read(&message.headers.unwrap_or_default(), message.payload).ok()))
    }

    /// Whether the worker has parked the request, which another attempt takes up.
    async fn is_parked_elsewhere(
        &self,
        advisory: &Advisory,
        message: &Message,
        request: &Request,
    ) -> Result<bool, Refusal> {
        let subject = broker_header(message, header::SUBJECT).unwrap_or_default();
        let places = [Some(self.subjects.park(&request.id)), self.subjects.due(subject)];
        for place in places.into_iter().flatten() {
            let copy = self.broker.last(PARK, &place).await?;
            let seq = copy.and_then(|copy| header_number(&copy, header::SEQUENCE));
            if seq.is_some_and(|seq| !advisory.is_parked() || seq != advisory.seq) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How many attempts at a request were begun.
fn attempts(advisory: &Advisory, request: &Request) -> u32 {
    request.attempt.saturating_add(advisory.deliveries.max(1))
}

/// The headers of a message, without those of the broker.
fn own_headers(message: &Message) -> HeaderMap {
    let all = message.headers.iter().flat_map(HeaderMap::iter);
    let own = all.filter(|(name, _)| {
        let name: &str = name.as_ref();
        !name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("nats-"))
    });
    own.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone()))).collect()
}
