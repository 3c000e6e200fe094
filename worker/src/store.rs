//! Storing messages in JetStream, and waiting until the broker takes them.
//!
//! While the broker is unavailable, a call here waits. The request keeps its permit and its in-progress acknowledgements
//! meanwhile, so that a worker takes no more requests than it can settle. Only the end of the worker cuts the
//! wait off; the request then goes back to the broker.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Refusal},
    envelope::Answer,
    id::RequestId,
    subject::Subjects,
    topology::REPLY,
};

use crate::backoff::Pauses;

/// The pause after the first failed call.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Which call stored the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// This one.
    New,
    /// An earlier one, of this worker or another.
    Already,
}

/// Why the broker will never take this message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejected {
    /// It is larger than the broker takes.
    #[error("{what} is too large: {bytes} bytes, and the broker takes at most {limit}")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
    /// It is an answer that is longer than may be stored.
    #[error("the answer is too large: it has {bytes} bytes, and streams.answer_max_bytes allows {limit}")]
    TooLong { bytes: usize, limit: u64 },
    /// Any other reason.
    #[error("{0}")]
    Other(String),
}

impl Rejected {
    /// What a refusal means that no repetition changes.
    pub(crate) fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooLarge { what, bytes, limit } => Self::TooLarge { what, bytes, limit },
            other => Self::Other(other.to_string()),
        }
    }
}

/// Stores a message. Repeating the call is safe: the message has an id, or its subject takes one message only. Only what no stream
/// takes has neither: it may be published twice.
pub(crate) async fn store(
    broker: &Broker,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Stored, Rejected> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match store_unless_full(broker, &subject, &headers, &body).await? {
            Some(stored) => return Ok(stored),
            None => pause(&mut pauses, "store", &Refusal::Full, &subject).await,
        }
    }
}

/// Stores a message that has an id, and returns its sequence; if it was stored before, the sequence it has since then.
pub(crate) async fn store_numbered(
    broker: &Broker,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<u64, Rejected> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match broker.store(subject.clone(), headers.clone(), body.clone()).await {
            Ok(stored) => return Ok(stored.seq),
            Err(refusal @ (Refusal::TooLarge { .. } | Refusal::Rejected(_))) => {
                return Err(Rejected::of(refusal));
            }
            Err(refusal) => pause(&mut pauses, "store", &refusal, &subject).await,
        }
    }
}

/// As [`store`]. `None` if the stream is full.
pub(crate) async fn store_unless_full(
    broker: &Broker,
    subject: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<Stored>, Rejected> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match broker.store(subject.to_owned(), headers.clone(), body.clone()).await {
            Err(refusal) if refusal.may_pass() => {
                pause(&mut pauses, "store", &refusal, subject).await;
            }
            stored => return told(stored),
        }
    }
}

/// What the broker's word on a message means. `None` if the stream is full.
pub(crate) fn told(
    stored: Result<tidegate_shared::broker::Stored, Refusal>,
) -> Result<Option<Stored>, Rejected> {
    match stored {
        Ok(stored) if stored.duplicate => Ok(Some(Stored::Already)),
        Ok(_) => Ok(Some(Stored::New)),
        Err(Refusal::Taken) => Ok(Some(Stored::Already)),
        Err(Refusal::Full) => Ok(None),
        Err(refusal) => Err(Rejected::of(refusal)),
    }
}

/// Returns the stored answer to a request. `None` when there is none or it cannot be read.
pub(crate) async fn answer(broker: &Broker, subjects: &Subjects, id: &RequestId) -> Option<Answer> {
    read_answer(look_up(broker, REPLY, &subjects.reply(id)).await?, id)
}

/// Reads a stored answer. `None` when it cannot be read.
pub(crate) fn read_answer(message: Message, id: &RequestId) -> Option<Answer> {
    let headers = message.headers.unwrap_or_default();
    Answer::read(&headers, message.payload)
        .inspect_err(|error| tracing::error!(request.id = %id, %error, "a stored answer cannot be read"))
        .ok()
}

/// The last message of a subject.
pub(crate) async fn look_up(broker: &Broker, stream: &str, subject: &str) -> Option<Message> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match broker.last(stream, subject).await {
            Ok(message) => return message,
            Err(refusal) => pause(&mut pauses, "look up", &refusal, subject).await,
        }
    }
}

/// Waits before the next call, after one that failed.
pub(crate) async fn pause(pauses: &mut Pauses, operation: &'static str, refusal: &Refusal, subject: &str) {
    // What other messages would meet too is a fault of the broker, which is logged as such.
    tracing::debug!(operation, %refusal, nats.subject = subject, "the broker refused a call: trying again until it succeeds");
    tokio::time::sleep(pauses.failed()).await;
}
