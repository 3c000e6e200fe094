//! Stores what clients send in JetStream, and waits for the answers.
//!
//! A call has two stages: until it is settled (stored or refused, which bounds what may be in flight) and until it has
//! ended (answered, or timed out). Never acknowledges a message before the broker has.

use std::{collections::BTreeMap, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Refusal, Stored},
    channel::Channel,
    config::AnswerMode,
    envelope::{self, Answer, Request},
    header,
    id::{body_digest, random_token},
    protocol::{
        ClientInfo, Error,
        codes::{self, ErrorCode},
    },
    subject::Subjects,
    topology,
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::turn::{Turn, Turns};
use crate::{
    metrics::Metrics,
    requests::CallEnd,
    requests::waiting::{AnswerSlot, Waiting},
};

/// Pause before a publish is retried when the stream has no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Stores requests and publications in JetStream.
pub(crate) struct Store {
    broker: Broker,
    subjects: Subjects,
    waiting: Waiting,
    metrics: Metrics,
}

/// The result of the first stage of a call.
pub(crate) enum Settled {
    /// The call has ended.
    Ended(CallEnd),
    /// The request is stored and its answer is awaited.
    Stored(Wait),
}

/// The second stage of a call: where its answer comes from.
pub(crate) struct Wait {
    request: Request,
    source: Source,
    deadline: Instant,
}

enum Source {
    Plain(AnswerSlot),
    Keyed(async_nats::Subscriber),
}

impl Store {
    pub(crate) fn new(broker: Broker, subjects: Subjects, waiting: Waiting, metrics: Metrics) -> Self {
        Self { broker, subjects, waiting, metrics }
    }

    /// First stage: stores a request, unless its answer is stored already.
    pub(crate) async fn call(
        &self,
        request: Request,
        mode: AnswerMode,
        turn: Turn,
        deadline: Instant,
    ) -> Settled {
        let started = Instant::now();
        let route = request.route.clone();
        let settled = match (mode, request.id.is_keyed()) {
            (AnswerMode::Later, _) => Settled::Ended(self.accept(&request, turn, deadline).await),
            (AnswerMode::Wait, false) => self.call_plain(request, turn, deadline).await,
            (AnswerMode::Wait, true) => self.call_keyed(request, turn, deadline).await,
        };
        self.metrics.accepted(&route, started.elapsed(), outcome_of(&settled));
        settled
    }

    async fn call_plain(&self, request: Request, turn: Turn, deadline: Instant) -> Settled {
        let mut slot = self.waiting.wait_for(request.id.clone());
        let stored = tokio::select! {
            biased;
            // The acknowledgement may be slower than the round trip through a worker.
            answer = slot.answer() => return Settled::Ended(CallEnd::Answered(answer)),
            stored = self.store_request(&request, turn, deadline) => stored,
        };
        match stored {
            Ok(_) => Settled::Stored(Wait { request, source: Source::Plain(slot), deadline }),
            Err(error) => Settled::Ended(CallEnd::Failed(error)),
        }
    }

    async fn call_keyed(&self, request: Request, turn: Turn, deadline: Instant) -> Settled {
        // Subscribed before the look-up, on the same NATS connection: an answer that the look-up misses comes live.
        let Ok(answers) = self.broker.client().subscribe(self.subjects.answer(&request.id)).await else {
            return Settled::Ended(CallEnd::Failed(codes::NOT_ACCEPTED.error()));
        };
        match self.stored_answer(&request).await {
            Ok(Some(answer)) => return Settled::Ended(same_request(&request, answer)),
            Ok(None) => {}
            Err(refusal) => return Settled::Ended(CallEnd::Failed(not_looked_up(&refusal))),
        }
        match self.store_request(&request, turn, deadline).await {
            // A duplicate without a stored answer is queued, running or parked: the answer will come, or is looked up
            // at the deadline.
            Ok(Stored { duplicate: true, .. }) => {
                if let Ok(Some(answer)) = self.stored_answer(&request).await {
                    return Settled::Ended(same_request(&request, answer));
                }
            }
            Ok(_) => {}
            Err(error) => return Settled::Ended(CallEnd::Failed(error)),
        }
        Settled::Stored(Wait { request, source: Source::Keyed(answers), deadline })
    }

    async fn accept(&self, request: &Request, turn: Turn, deadline: Instant) -> CallEnd {
        let id = request.id.to_string();
        if request.id.is_keyed() {
            match self.stored_answer(request).await {
                Ok(Some(answer)) if differs(request, &answer) => {
                    return CallEnd::Failed(codes::KEY_REUSED.error());
                }
                Ok(Some(answer)) => {
                    return CallEnd::Accepted { id, seq: None, duplicate: true, answer: Some(answer) };
                }
                Ok(None) => {}
                Err(refusal) => return CallEnd::Failed(not_looked_up(&refusal)),
            }
        }
        match self.store_request(request, turn, deadline).await {
            Ok(stored) => CallEnd::Accepted {
                id,
                seq: (stored.seq > 0).then_some(stored.seq),
                duplicate: stored.duplicate,
                answer: None,
            },
            Err(error) => CallEnd::Failed(error),
        }
    }

    /// Second stage: waits for the answer.
    pub(crate) async fn finish(&self, wait: Wait) -> CallEnd {
        let Wait { request, source, deadline } = wait;
        let live = async move {
            match source {
                Source::Plain(mut slot) => slot.answer().await,
                Source::Keyed(mut answers) => next_answer(&mut answers).await,
            }
        };
        let stored = tokio::select! {
            biased;
            answer = timeout_at(deadline, live) => match answer {
                Ok(answer) => return same_request(&request, answer),
                // The live copy may have been missed.
                Err(_) => self.stored_answer(&request).await.ok().flatten(),
            },
            answer = self.answer_after_loss(&request) => Some(answer),
        };
        let Some(answer) = stored else { return CallEnd::Failed(late(&request)) };
        self.waiting.answered_from_store(&request.id);
        same_request(&request, answer)
    }

    /// Looks a request's answer up whenever messages may have been missed: the live copy may be one of them. Pending until the
    /// answer is found.
    async fn answer_after_loss(&self, request: &Request) -> Answer {
        let mut losses = self.broker.losses();
        loop {
            losses.next().await;
            if let Ok(Some(answer)) = self.stored_answer(request).await {
                return answer;
            }
        }
    }

    /// Stores a message that has no reply.
    pub(crate) async fn send(&self, request: Request, turn: Turn, deadline: Instant) -> Result<(), Error> {
        self.store_request(&request, turn, deadline).await.map(|_| ())
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

    /// Stores a late answer in its user's personal channel.
    pub(crate) async fn deliver_late(&self, answer: &Answer) {
        let Some(user) = answer.user.as_deref() else { return };
        let subject = self.subjects.channel(&Channel::personal(user));
        let stored = self.broker.store(subject, answer.later_headers(), answer.later_body()).await;
        if let Err(refusal) = stored {
            tracing::warn!(request.id = %answer.re, %refusal, "a late answer did not reach the personal channel");
        }
    }

    async fn store_request(&self, request: &Request, turn: Turn, deadline: Instant) -> Result<Stored, Error> {
        let address = request.address();
        let keyed = request.id.is_keyed();
        let message = || (self.subjects.request(&address), request.headers(), request.body.clone());
        self.store(message, turn, deadline, keyed).await
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

    async fn stored_answer(&self, request: &Request) -> Result<Option<Answer>, Refusal> {
        let message = self.broker.last(topology::REPLY, &self.subjects.reply(&request.id)).await?;
        let answer = message.map(|m| Answer::read(&m.headers.unwrap_or_default(), m.payload));
        let unreadable = |error| Refusal::Rejected(format!("the stored answer cannot be read: {error}"));
        answer.transpose().map_err(unreadable)
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

async fn next_answer(answers: &mut async_nats::Subscriber) -> Answer {
    use futures_util::StreamExt;
    while let Some(message) = answers.next().await {
        match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::warn!(%error, subject = %message.subject, "dropped an answer that cannot be read");
            }
        }
    }
    std::future::pending().await
}

fn differs(request: &Request, answer: &Answer) -> bool {
    request.id.is_keyed()
        && answer.digest.as_deref().is_some_and(|digest| digest != body_digest(&request.body))
}

fn same_request(request: &Request, answer: Answer) -> CallEnd {
    if differs(request, &answer) {
        CallEnd::Failed(codes::KEY_REUSED.error())
    } else {
        CallEnd::Answered(answer)
    }
}

/// The look-up of a stored answer failed. An answer that cannot be read stays so: asking again does not help.
fn not_looked_up(refusal: &Refusal) -> Error {
    let error = codes::NOT_ACCEPTED.because(refusal);
    Error { temporary: !matches!(refusal, Refusal::Rejected(_)), ..error }
}

/// Only a keyed request may be retried: it is the same request.
fn late(request: &Request) -> Error {
    let error = codes::STILL_WORKING.because(&request.id);
    Error { temporary: request.id.is_keyed(), ..error }
}

fn refused(refusal: &Refusal, maybe_stored: bool, keyed: bool) -> Error {
    let code: ErrorCode = if maybe_stored { codes::OUTCOME_UNKNOWN } else { codes::NOT_ACCEPTED };
    let error = code.because(refusal);
    let temporary = match refusal {
        Refusal::Rejected(_) | Refusal::TooLarge { .. } => false,
        _ if maybe_stored => keyed,
        _ => true,
    };
    Error { temporary, ..error }
}

fn outcome_of(settled: &Settled) -> &'static str {
    match settled {
        Settled::Stored(_) | Settled::Ended(CallEnd::Accepted { duplicate: false, .. }) => "stored",
        Settled::Ended(CallEnd::Accepted { duplicate: true, .. } | CallEnd::Answered(_)) => "already_there",
        Settled::Ended(CallEnd::Failed(error)) if error.code == codes::OUTCOME_UNKNOWN.code => "unknown",
        Settled::Ended(CallEnd::Failed(_)) => "refused",
    }
}
