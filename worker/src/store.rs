//! Storing messages in JetStream, and waiting until the broker takes them.
//!
//! While the broker is unavailable or a stream is full, a call here waits. The request keeps its permit and its in-progress
//! acknowledgements meanwhile, so that a worker takes no more requests than it can settle. Only the end of the worker cuts the
//! wait off; the request then goes back to the broker.

use std::time::Duration;

use async_nats::HeaderMap;
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
const FIRST_PAUSE: Duration = Duration::from_millis(50);

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
    /// Any other reason.
    #[error("{0}")]
    Other(String),
}

/// Stores a message. Repeating the call is safe: the message has an id, or its subject takes one message only.
pub(crate) async fn store(
    broker: &Broker,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Stored, Rejected> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match broker.store(subject.clone(), headers.clone(), body.clone()).await {
            Ok(stored) if stored.duplicate => return Ok(Stored::Already),
            Ok(_) => return Ok(Stored::New),
            Err(Refusal::Taken) => return Ok(Stored::Already),
            Err(Refusal::TooLarge { what, bytes, limit }) => {
                return Err(Rejected::TooLarge { what, bytes, limit });
            }
            Err(Refusal::Rejected(reason)) => return Err(Rejected::Other(reason)),
            Err(refusal) => pause(&mut pauses, "store", &refusal, &subject).await,
        }
    }
}

/// Returns the stored answer to a request. `None` when there is none or it cannot be read.
pub(crate) async fn answer(broker: &Broker, subjects: &Subjects, id: &RequestId) -> Option<Answer> {
    let subject = subjects.reply(id);
    let mut pauses = Pauses::new(FIRST_PAUSE);
    let message = loop {
        let refusal = match broker.last(REPLY, &subject).await {
            Ok(Some(message)) => break message,
            Ok(None) => return None,
            Err(refusal) => refusal,
        };
        pause(&mut pauses, "look up", &refusal, &subject).await;
    };
    let headers = message.headers.unwrap_or_default();
    Answer::read(&headers, message.payload)
        .inspect_err(|error| tracing::error!(request.id = %id, %error, "a stored answer cannot be read"))
        .ok()
}

async fn pause(pauses: &mut Pauses, operation: &'static str, refusal: &Refusal, subject: &str) {
    // What other messages would meet too is a fault of the broker, which is logged as such.
    tracing::debug!(operation, %refusal, nats.subject = subject, "the broker refused a call: trying again until it succeeds");
    tokio::time::sleep(pauses.failed()).await;
}
