//! How a message that failed for good becomes a dead letter, and its client is told.

use bytes::Bytes;
use tidegate_shared::{
    dead::{Failed, Reason, letter_id},
    envelope::{Answer, Outcome},
    header,
    protocol::codes,
    trace::Trace,
};
use tracing::field::display;

use super::{Settlement, give_back_refused};
use crate::{
    delivery::Delivery,
    engine::Engine,
    metrics::Ending,
    store::{self, Rejected},
};

impl Settlement {
    /// Stores the request as a dead letter, then answers the client with an error. The client does not get the error's text: it
    /// may contain internal details.
    pub(super) async fn bury(&self, reason: Reason, error: &str) -> Ending {
        self.bury_because(reason, error, &format!("{} attempts", self.begun())).await
    }

    /// As [`Self::bury`]; the client is told `detail`.
    pub(super) async fn bury_because(&self, reason: Reason, error: &str, detail: &str) -> Ending {
        self.bury_after(self.begun(), reason, error, detail).await
    }

    /// As [`Self::bury_because`], after this many attempts.
    pub(super) async fn bury_after(
        &self,
        attempts: u32,
        reason: Reason,
        error: &str,
        detail: &str,
    ) -> Ending {
        // Another worker may have answered meanwhile: such a request has not failed.
        if let Some(ending) = self.answered_already().await {
            return ending;
        }
        let told = codes::DEAD_LETTER.because(detail);
        let outcome = Outcome::Error { code: told.code, message: told.message, data: Bytes::new() };
        let answered = match self.store_as_letter(attempts, reason, error).await {
            Ok(letter) => {
                let answer = Answer { letter: Some(letter), ..self.answer_of(outcome) };
                self.bring(answer).await
            }
            Err(rejected) => Err(rejected),
        };
        match answered {
            Ok(()) => self.acknowledge(Ending::Dead).await,
            Err(rejected) => self.give_back(&rejected).await,
        }
    }

    /// The request was redriven from a letter, and meets the error of that letter or an older one: it was stored after the redrive
    /// had looked for it. Nobody can tell the client more than that error does, so the request becomes a letter again.
    pub(super) async fn bury_again(&self, error: &str) -> Ending {
        match self.store_as_letter(self.attempts, Reason::Other, error).await {
            Ok(_) => self.acknowledge(Ending::Dead).await,
            Err(rejected) => self.give_back(&rejected).await,
        }
    }

    /// As [`Self::bury`], for a request whose caller is gone: nobody is told.
    pub(super) async fn bury_unheard(&self, reason: Reason, error: &str) -> Ending {
        match self.store_as_letter(self.begun(), reason, error).await {
            Ok(_) => self.acknowledge(Ending::Dead).await,
            Err(rejected) => self.give_back(&rejected).await,
        }
    }

    async fn store_as_letter(&self, attempts: u32, reason: Reason, error: &str) -> Result<u64, Rejected> {
        let route = self.route.name();
        let error = header::text(error);
        tracing::error!(
            request.id = %self.request.id, trace.id = %self.trace, route, attempts, reason = reason.as_str(), error, "dead letter"
        );
        let first_seen = self.request.accepted().or_else(|| self.delivery.stored_at());
        let failed = Failed {
            headers: self.with_progress(self.delivery.headers()),
            body: self.request.body.clone(),
            id: letter_id(&self.request.id, self.delivery.place()),
            attempts: Some(attempts),
            reason,
            error,
            subject: self.delivery.subject().to_owned(),
            stream_seq: self.delivery.stream_seq(),
            first_seen,
            last_seen: self.engine.clock.about_now(),
        };
        let letter = store_letter(&self.engine, route, &failed).await?;
        self.engine.metrics.buried(route, reason);
        Ok(letter)
    }

    async fn give_back(&self, rejected: &Rejected) -> Ending {
        let route = self.route.name();
        tracing::error!(
            request.id = %self.request.id, trace.id = %self.trace, route, error = %rejected, "the dead letter or its answer cannot be stored"
        );
        give_back_refused(&self.delivery).await;
        Ending::Dead
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
    error: &str,
) -> Ending {
    let headers = delivery.headers();
    let trace = Trace::read(&headers).map(|trace| display(trace.id()));
    tracing::error!(route, trace.id = trace, nats.subject = delivery.subject(), error, "dead letter");
    let failed = Failed {
        headers,
        body: delivery.body(),
        id: format!("{route}.dead.{}", delivery.place()),
        attempts: None,
        reason: Reason::Unreadable,
        error: error.to_owned(),
        subject: delivery.subject().to_owned(),
        stream_seq: delivery.stream_seq(),
        first_seen: delivery.stored_at(),
        last_seen: engine.clock.about_now(),
    };
    match store_letter(engine, route, &failed).await {
        Ok(_) => {
            engine.metrics.buried(route, Reason::Unreadable);
            delivery.count(&engine.metrics, route, Ending::Dead);
            delivery.ack(&engine.acks).await;
        }
        Err(error) => {
            tracing::error!(route, %error, "the dead letter cannot be stored");
            give_back_refused(delivery).await;
        }
    }
    Ending::Dead
}

/// Stores a dead letter, and returns its sequence.
async fn store_letter(engine: &Engine, route: &str, failed: &Failed) -> Result<u64, Rejected> {
    let subject = engine.subjects.dead(&engine.config.worker.service, route);
    let parts = failed.letter(engine.broker.client().max_payload());
    let mut rest = None;
    if let Some((headers, body)) = parts.rest() {
        rest = Some(store::store_numbered(&engine.broker, subject.clone(), headers, body).await?);
    }
    let (headers, body) = parts.head(rest);
    store::store_numbered(&engine.broker, subject, headers, body).await
}
