//! Storing things in JetStream until they are stored.
//!
//! A broker that is away, or a stream that is full, is waited for: meanwhile the request keeps its permit and its lease, so
//! that a worker takes no more than it can settle. What waits is cut off only by the end of the worker, which gives it back.

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

/// The longest pause between two tries.
const PAUSE_CAP: Duration = Duration::from_secs(1);

/// Whether this try stored the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Now,
    /// An earlier one did, of this worker or another.
    Before,
}

/// The broker will never take this message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Rejected(pub(crate) String);

/// Stores a message. Repeating it is safe: it has an id, or its subject takes one message only.
pub(crate) async fn store(
    broker: &Broker,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Kept, Rejected> {
    let mut patience = Patience::new("storing");
    loop {
        match broker.store(subject.clone(), headers.clone(), body.clone()).await {
            Ok(stored) if stored.duplicate => return Ok(Kept::Before),
            Ok(_) => return Ok(Kept::Now),
            Err(Refusal::Taken) => return Ok(Kept::Before),
            Err(Refusal::Rejected(why)) => return Err(Rejected(why)),
            Err(refusal) => patience.wait(&refusal, &subject).await,
        }
    }
}

/// Returns the stored answer to a request, if there is one.
pub(crate) async fn answer(broker: &Broker, subjects: &Subjects, id: &RequestId) -> Option<Answer> {
    let subject = subjects.reply(id);
    let mut patience = Patience::new("looking up");
    let message = loop {
        match broker.last(REPLY, &subject).await {
            Ok(Some(message)) if message.status.is_none() => break message,
            Ok(None) => return None,
            Ok(Some(_)) => {
                patience.wait(&Refusal::Unavailable("no readable answer".to_owned()), &subject).await;
            }
            Err(refusal) => patience.wait(&refusal, &subject).await,
        }
    };
    let headers = message.headers.unwrap_or_default();
    Answer::read(&headers, message.payload)
        .inspect_err(|error| tracing::error!(request.id = %id, %error, "a stored answer is unreadable"))
        .ok()
}

/// Growing pauses, and a line in the log about every tenth of them.
struct Patience {
    doing: &'static str,
    tries: u32,
}

impl Patience {
    fn new(doing: &'static str) -> Self {
        Self { doing, tries: 0 }
    }

    async fn wait(&mut self, refusal: &Refusal, subject: &str) {
        if self.tries.is_multiple_of(10) {
            tracing::warn!(%refusal, nats.subject = subject, "waiting for the broker: {}", self.doing);
        }
        let pause = Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(self.tries)).min(PAUSE_CAP);
        self.tries += 1;
        tokio::time::sleep(pause).await;
    }
}
