//! Stores what clients send in JetStream. Never acknowledges a message before the broker has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Refusal, Stored},
    channel::Channel,
    envelope::{self, Request},
    header,
    id::random_token,
    protocol::{
        ClientInfo, Error,
        codes::{self, ErrorCode},
    },
    subject::Subjects,
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    cache::Cache,
    turn::{Turn, Turns},
    waiting::Waiting,
};
use crate::metrics::Metrics;

/// Pause before a publish is retried when the stream has no leader.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Stores requests and publications in JetStream.
pub(crate) struct Store {
    pub(super) broker: Broker,
    pub(super) subjects: Subjects,
    pub(super) waiting: Waiting,
    pub(super) cache: Arc<Cache>,
    pub(super) metrics: Metrics,
}

impl Store {
    pub(crate) fn new(
        broker: Broker,
        subjects: Subjects,
        waiting: Waiting,
        cache: Arc<Cache>,
        metrics: Metrics,
    ) -> Self {
        Self { broker, subjects, waiting, cache, metrics }
    }

    /// Stores a message that has no reply.
    pub(crate) async fn send(&self, request: Request, turn: Turn, deadline: Instant) -> Result<(), Error> {
        self.store_request(&request, request.id.as_str(), turn, deadline).await.map(|_| ())
    }

    /// Stores a publication.
    pub(crate) async fn publish(
        &self,
        channel: &Channel,
        data: Bytes,
        info: &ClientInfo,
        tags: &BTreeMap<String, String>,
        (turn, deadline): (Turn, Instant),
    ) -> Result<(), Error> {
        let id = random_token::<16>();
        let message = || (self.subjects.channel(channel), publication_headers(&id, info, tags), data.clone());
        self.store(message, turn, deadline, false).await.map(|_| self.metrics.published())
    }

    /// Stores a publication of a service. Retries with the same id are stored once.
    pub(crate) async fn store_publication(
        &self,
        channel: &Channel,
        id: &str,
        extra: &[(String, String)],
        data: Bytes,
        deadline: Instant,
    ) -> Result<Stored, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, id);
        for (name, value) in extra {
            headers.insert(name.as_str(), value.as_str());
        }
        let message = || (self.subjects.channel(channel), headers.clone(), data.clone());
        // A service has no earlier message that it would have to wait for.
        self.store(message, Turns::default().next(), deadline, true).await
    }

    /// Stores a request. `message_id` is what the broker deduplicates by.
    pub(super) async fn store_request(
        &self,
        request: &Request,
        message_id: &str,
        turn: Turn,
        deadline: Instant,
    ) -> Result<Stored, Error> {
        let subject = self.subjects.request(&request.address());
        let mut headers = request.headers();
        headers.insert(header::MSG_ID, message_id);
        let message = || (subject.clone(), headers.clone(), request.body.clone());
        self.store(message, turn, deadline, request.id.is_keyed()).await
    }

    /// Publishes until the broker stores or refuses the message, or the deadline is near. Retries carry the same
    /// message id.
    async fn store(
        &self,
        message: impl Fn() -> (String, HeaderMap, Bytes),
        turn: Turn,
        deadline: Instant,
        keyed: bool,
    ) -> Result<Stored, Error> {
        let mut turn = Some(turn);
        if let Some(turn) = &mut turn
            && timeout_at(deadline, turn.come()).await.is_err()
        {
            return Err(refused(&Refusal::Busy, false, keyed));
        }
        let mut maybe_stored = false;
        loop {
            let (subject, headers, body) = message();
            let sent = timeout_at(deadline, self.broker.publish(subject, headers, body)).await;
            let sent = sent.unwrap_or(Err(Refusal::Busy));
            // Sent or refused: passes the turn to the connection's next message.
            turn.take();
            let stored = match sent {
                Ok(sent) => tokio::select! {
                    biased;
                    stored = sent.stored() => stored,
                    () = sleep_until(deadline) => Err(Refusal::Unknown),
                },
                Err(refusal) => Err(refusal),
            };
            let refusal = match stored {
                Ok(stored) => return Ok(stored),
                // Only this request uses this subject, so an earlier copy of it is stored.
                Err(Refusal::Taken) => return Ok(Stored { seq: 0, duplicate: true }),
                Err(refusal) => refusal,
            };
            maybe_stored |= refusal == Refusal::Unknown;
            let again = match refusal {
                Refusal::Unknown => true,
                Refusal::Unavailable(_) => maybe_stored || self.broker.is_connected(),
                // Waiting for room would reorder this connection's messages.
                Refusal::Busy => maybe_stored,
                Refusal::Full | Refusal::Taken | Refusal::TooLarge { .. } | Refusal::Rejected(_) => false,
            };
            if !again || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(refused(&refusal, maybe_stored, keyed));
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

fn publication_headers(id: &str, info: &ClientInfo, tags: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::MSG_ID, id);
    headers.insert(header::CLIENT, info.client.as_str());
    if !info.user.is_empty() {
        headers.insert(header::USER, info.user.as_str());
    }
    for (name, json) in [(header::INFO, &info.conn_info), (header::CHANNEL_INFO, &info.chan_info)] {
        if !json.is_empty() {
            headers.insert(name, envelope::one_line(&String::from_utf8_lossy(json)));
        }
    }
    for (name, value) in tags {
        headers.insert(format!("{}{name}", header::TAG_PREFIX), envelope::one_line(value));
    }
    headers
}

fn refused(refusal: &Refusal, maybe_stored: bool, keyed: bool) -> Error {
    let code: ErrorCode = if maybe_stored { codes::OUTCOME_UNKNOWN } else { codes::NOT_ACCEPTED };
    let error = match refusal {
        Refusal::TooLarge { .. } if !maybe_stored => return codes::LIMIT_EXCEEDED.because(refusal),
        // Trying again does not help.
        Refusal::Rejected(_) if !maybe_stored => {
            return Error { code: code.code, message: format!("not accepted: {refusal}"), temporary: false };
        }
        _ => code.because(refusal),
    };
    let temporary = match refusal {
        Refusal::Rejected(_) | Refusal::TooLarge { .. } => false,
        _ if maybe_stored => keyed,
        _ => true,
    };
    Error { temporary, ..error }
}
