//! How one delivered request ends: with an answer, parked for its next attempt, or as a dead letter.
//!
//! The order of the steps is what a worker promises. Everything is stored, or confirmed by a gateway, before the acknowledgement;
//! and everything stored has an id derived from the request's, so a step that is repeated after a crash stores nothing twice.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use tidegate_shared::{
    config::Backoff,
    envelope::{Outcome, Request, Unreadable},
    header,
    protocol::codes,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    answer::Answer,
    attempt::{self, AttemptResult},
    backoff,
    delivery::Delivery,
    engine::{BoundRoute, Engine},
    failure::{Failure, MAX_WAIT},
    job::Job,
    metrics::Ending,
    permit::Permit,
    store::{self, Rejected},
};

mod answering;
mod hand_over;
mod letter;
mod messages;
mod suspicion;

use self::{
    letter::Failed,
    suspicion::{Suspicion, Turn},
};

/// How long a request waits before its redelivery when even its dead letter is refused: doubled with every delivery, at most
/// an hour. The request is kept until an operator has mended the stream.
const REFUSED: Backoff = Backoff { base: Duration::from_mins(1), cap: Duration::from_hours(1) };

/// How a request is parked.
#[derive(Debug)]
struct Parked {
    /// How long it waits.
    delay: Duration,
    /// Attempts that count until then.
    attempt: u32,
    /// Tells the request's parked copies apart.
    mark: String,
    suspicion: Suspicion,
}

/// One delivered request that is being settled.
#[derive(Debug)]
pub(crate) struct Settlement {
    engine: Arc<Engine>,
    route: Arc<BoundRoute>,
    delivery: Arc<Delivery>,
    request: Arc<Request>,
    permit: Permit,
    /// What the request's lost deliveries say about it.
    suspicion: Suspicion,
    /// Attempts that count and were begun before this delivery.
    attempts: u32,
}

impl Settlement {
    /// Reads the delivered request. [`bury_unreadable`] is for a message that is not a request.
    pub(crate) fn new(
        engine: &Arc<Engine>,
        route: &Arc<BoundRoute>,
        delivery: &Arc<Delivery>,
    ) -> Result<Self, Unreadable> {
        let request = Arc::new(delivery.read()?);
        let mut settlement = Self {
            engine: Arc::clone(engine),
            route: Arc::clone(route),
            delivery: Arc::clone(delivery),
            permit: Permit::default(),
            attempts: request.attempt,
            suspicion: Suspicion::of(delivery),
            request,
        };
        settlement.attempts = settlement.attempts.saturating_add(settlement.lost_attempts());
        Ok(settlement)
    }

    /// Does everything that the request needs: the answer of an earlier delivery, an attempt, or a dead letter. `permit` is its
    /// place among those that the route works on.
    pub(crate) async fn settle(&self, permit: OwnedSemaphorePermit) -> Ending {
        self.permit.hold(permit);
        // This check comes before the attempts are counted: a worker that ended between its answer and the acknowledgement has not
        // failed.
        if let Some(ending) = self.settled_before().await {
            return ending;
        }
        // Attempts are counted before the handler runs, which also stops a request that crashes its workers.
        if self.attempts >= self.route.config.max_attempts {
            return self.bury("the worker ended during every attempt").await;
        }
        if self.is_too_old().await {
            let max_age = humantime::format_duration(self.route.config.max_age);
            let reason = format!("waited longer than max_age ({max_age})");
            return self.bury_after(self.attempts, &reason, &reason).await;
        }
        let _alone = match self.turn().await {
            Turn::Begin(alone) => alone,
            Turn::Ended(ending) => return ending,
        };
        if self.attempts == 0 {
            self.engine.metrics.waited(self.route.name(), self.waited());
        }
        self.attempt().await
    }

    /// Settles the request if it is answered, or if another copy of it is.
    async fn settled_before(&self) -> Option<Ending> {
        let (broker, subjects) = (&self.engine.broker, &self.engine.subjects);
        if self.request.id.is_keyed() && !self.delivery.was_parked() {
            // While a keyed request is parked, its subject among the waiting requests is free for another copy.
            let (answer, parked) = tokio::join!(
                store::answer(broker, subjects, &self.request.id),
                store::is_parked(broker, subjects, &self.request.id, self.delivery.subject()),
            );
            return match answer {
                Some(answer) => Some(self.answered_before(answer).await),
                None if parked => Some(self.acknowledge(Ending::AlreadyParked).await),
                None => None,
            };
        }
        // A plain request cannot have an answer before its first delivery, unless it was parked by a worker that was cut off while
        // it handed the answer over.
        let may_be_answered =
            self.attempts > 0 || self.delivery.was_parked() || self.delivery.earlier_deliveries() > 0;
        if may_be_answered { self.answered_already().await } else { None }
    }

    /// Parks a request that was not begun, so that another worker takes it. Uses no attempt.
    pub(crate) async fn hand_on(&self) -> Ending {
        self.hand_on_after(Duration::ZERO).await
    }

    /// As [`Self::hand_on`], for a request that another worker should not take before `delay` has passed.
    pub(crate) async fn hand_on_after(&self, delay: Duration) -> Ending {
        self.park_as(self.suspicion, delay).await
    }

    /// As [`Self::hand_on_after`], for a request that its worker gives up at once: this counts as an attempt.
    pub(crate) async fn give_up(&self, delay: Duration) -> Ending {
        let (attempt, mark) = (self.attempts.saturating_add(1), format!("s{}", self.delivery.place()));
        self.park(Parked { delay, attempt, mark, suspicion: self.suspicion }, Ending::Returned).await
    }

    async fn park_as(&self, suspicion: Suspicion, delay: Duration) -> Ending {
        let (attempt, mark) = (self.attempts, format!("s{}", self.delivery.place()));
        self.park(Parked { delay, attempt, mark, suspicion }, Ending::Returned).await
    }

    async fn attempt(&self) -> Ending {
        let job = Job::new(Arc::clone(&self.request), self.attempts, Arc::clone(&self.route.matches));
        let limit = self.route.config.timeout;
        let result = {
            let _handling = self.engine.metrics.handling(self.route.name());
            attempt::run(&self.engine.handlers, self.route.handler.clone(), job, limit).await
        };
        match result {
            AttemptResult::Answered(answer) => self.commit(answer).await,
            AttemptResult::TimedOut => {
                let reason = format!("no answer within {}", humantime::format_duration(limit));
                self.retry(&reason, None, Ending::Timeout).await
            }
            AttemptResult::NotBegun => {
                tracing::warn!(request.id = %self.request.id, "the handlers' runtime did not begin a request: handing it on");
                self.hand_on().await
            }
            AttemptResult::Panicked(message) => {
                self.retry(&format!("panic: {message}"), None, Ending::Panic).await
            }
            AttemptResult::Failed(Failure::Retry { why, after }) => {
                self.retry(&format!("{why:#}"), after, Ending::Retry).await
            }
            AttemptResult::Failed(Failure::Snooze(delay)) => self.snooze(delay).await,
            AttemptResult::Failed(Failure::Dead(reason)) => self.bury(&reason).await,
            AttemptResult::Failed(Failure::Reject { code, message }) => {
                let message = header::text(&message);
                self.conclude(Outcome::Error { code, message }, Ending::Reject).await
            }
        }
    }

    /// Stores the publications, then the answer. Publications come first because they are not stored with the answer: after a
    /// crash in between only another attempt can repeat them, and a stored answer would prevent that attempt.
    async fn commit(&self, answer: Answer) -> Ending {
        for (index, publication) in answer.publications.into_iter().enumerate() {
            // A channel that does not exist, or a message that the broker never takes: so it would be on every attempt.
            if let Err(reason) = self.publish(index, publication).await {
                return self.bury(&reason).await;
            }
        }
        self.conclude(Outcome::Ok(answer.body), Ending::Ok).await
    }

    /// Brings the answer to the client, and acknowledges the request.
    async fn conclude(&self, outcome: Outcome, ending: Ending) -> Ending {
        let said = if let Outcome::Ok(body) = &outcome { body.len() } else { 0 };
        match self.answer(outcome).await {
            Ok(()) => self.acknowledge(ending).await,
            // Another attempt would give the same answer: the client is told why it cannot have it.
            Err(Rejected::TooLarge { bytes, limit, .. }) => {
                let reason = format!(
                    "the answer is too large: it has {said} bytes, {bytes} with its headers, and the broker takes at most {limit}"
                );
                self.bury_because(&reason, &reason).await
            }
            Err(rejected @ Rejected::TooLong { .. }) => {
                let reason = rejected.to_string();
                self.bury_because(&reason, &reason).await
            }
            Err(Rejected::Other(reason)) => {
                self.bury(&format!("the answer cannot be stored: {reason}")).await
            }
        }
    }

    async fn retry(&self, reason: &str, after: Option<Duration>, ending: Ending) -> Ending {
        let reason = &*header::text(reason);
        let failed = self.attempts.saturating_add(1);
        let route = &self.route.config;
        tracing::warn!(
            request.id = %self.request.id, route = route.name, attempt = self.attempts, reason, "an attempt failed"
        );
        if failed >= route.max_attempts {
            return self.bury(reason).await;
        }
        let delay = after.unwrap_or_else(|| backoff::delay(route.backoff, self.attempts, rand::random()));
        // An attempt that fails has not ended its worker. The same attempt of another life of the key has another place.
        let mark = format!("a{failed}.{}", self.delivery.place());
        let parked = Parked { delay, attempt: failed, mark, suspicion: Suspicion::None };
        self.park(parked, ending).await
    }

    /// Every copy of a request has another place in its stream, and thus another id when it is parked: a request may be
    /// snoozed any number of times.
    async fn snooze(&self, delay: Duration) -> Ending {
        let (attempt, mark) = (self.attempts, format!("s{}", self.delivery.place()));
        self.park(Parked { delay, attempt, mark, suspicion: Suspicion::None }, Ending::Snooze).await
    }

    /// Stores the request where it waits for its next delivery.
    async fn park(&self, mut parked: Parked, ending: Ending) -> Ending {
        parked.delay = parked.delay.min(MAX_WAIT);
        let delay = parked.delay;
        let Some(headers) = self.park_headers(&parked).await else {
            return self.bury("the request came on a subject that is not a request's").await;
        };
        let subject = self.engine.subjects.park(&self.request.id);
        match store::store(&self.engine.broker, subject, headers, self.request.body.clone()).await {
            Ok(_) => self.acknowledge(ending).await,
            // A parked copy has more headers than the request. The request waits where it is instead, which uses an attempt.
            Err(Rejected::TooLarge { .. }) => {
                self.delivery.nak(delay).await;
                ending
            }
            Err(rejected) => self.bury(&format!("the next attempt cannot be scheduled: {rejected}")).await,
        }
    }

    /// Stores the request as a dead letter, then answers the client with an error. The client does not get the reason: it may
    /// contain internal details.
    async fn bury(&self, reason: &str) -> Ending {
        self.bury_because(reason, &format!("{} attempts", self.begun())).await
    }

    /// As [`Self::bury`]; the client is told `detail`.
    async fn bury_because(&self, reason: &str, detail: &str) -> Ending {
        self.bury_after(self.begun(), reason, detail).await
    }

    /// As [`Self::bury_because`], after this many attempts.
    async fn bury_after(&self, attempts: u32, reason: &str, detail: &str) -> Ending {
        let route = self.route.name();
        let reason = header::text(reason);
        // Another worker may have answered meanwhile: such a request has not failed.
        if let Some(ending) = self.answered_already().await {
            return ending;
        }
        tracing::error!(request.id = %self.request.id, route, attempts, reason, "dead letter");
        let error = codes::DEAD_LETTER.because(detail);
        let outcome = Outcome::Error { code: error.code, message: error.message };
        let failed = Failed {
            headers: self.delivery.headers(),
            body: self.request.body.clone(),
            id: format!("{}.dead", self.request.id),
            attempts: Some(attempts),
            reason,
        };
        let answered = match store_letter(&self.engine, route, &failed).await {
            Ok(()) => self.answer(outcome).await,
            Err(rejected) => Err(rejected),
        };
        match answered {
            Ok(()) => self.acknowledge(Ending::Dead).await,
            Err(error) => {
                tracing::error!(request.id = %self.request.id, route, %error, "the dead letter or its answer cannot be stored");
                give_back_refused(&self.delivery).await;
                Ending::Dead
            }
        }
    }

    /// How long ago the gateway accepted the request, by the gateway's clock and the broker's.
    fn waited(&self) -> Duration {
        let now = self.engine.clock.about_now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.request.accepted_at))
    }

    /// Counts the ending, then acknowledges the request: its end is in the metrics when it is gone from the stream.
    async fn acknowledge(&self, ending: Ending) -> Ending {
        self.delivery.count(&self.engine.metrics, self.route.name(), ending);
        self.delivery.ack().await;
        ending
    }

    /// How many attempts were begun, this one included.
    fn begun(&self) -> u32 {
        self.attempts.saturating_add(1).min(self.route.config.max_attempts)
    }
}

/// Stores a message that is not a request as a dead letter. There is no answer: the header that would name the request cannot
/// be read.
pub(crate) async fn bury_unreadable(
    engine: &Engine,
    route: &str,
    delivery: &Delivery,
    unreadable: &Unreadable,
) -> Ending {
    let reason = unreadable.to_string();
    tracing::error!(route, nats.subject = delivery.subject(), reason, "dead letter");
    let failed = Failed {
        headers: delivery.headers(),
        body: delivery.body(),
        id: format!("{route}.{}.dead", delivery.place()),
        attempts: None,
        reason,
    };
    match store_letter(engine, route, &failed).await {
        Ok(()) => {
            delivery.count(&engine.metrics, route, Ending::Dead);
            delivery.term(&failed.reason).await;
        }
        Err(error) => {
            tracing::error!(route, %error, "the dead letter cannot be stored");
            give_back_refused(delivery).await;
        }
    }
    Ending::Dead
}

async fn store_letter(engine: &Engine, route: &str, failed: &Failed) -> Result<(), Rejected> {
    let subject = engine.subjects.dead(&engine.config.worker.service, route);
    for (headers, body) in letter::messages(failed, engine.broker.client().max_payload()) {
        store::store(&engine.broker, subject.clone(), headers, body).await?;
    }
    Ok(())
}

/// Gives a request back whose dead letter the broker refuses.
async fn give_back_refused(delivery: &Delivery) {
    delivery.nak(backoff::delay(REFUSED, delivery.earlier_deliveries(), rand::random())).await;
}
