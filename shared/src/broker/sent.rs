//! A message that was sent, and the broker's word on it. Never sends anything.

use async_nats::jetstream::context::PublishAckFuture;

use super::{Health, Refusal, pass::Passed, refusal::refusal};

/// The broker's acknowledgement of a stored message, or of one that no stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The message's sequence in its stream; 0 if no stream takes it.
    pub seq: u64,
    /// Whether the stream already had a message with this id.
    pub duplicate: bool,
}

/// A published message whose acknowledgement is pending.
#[derive(Debug)]
pub struct Sent {
    pub(super) acknowledgement: Acknowledgement,
    /// The stream of the message's subject.
    pub(super) stream: Option<String>,
    pub(super) health: Health,
}

#[derive(Debug)]
pub(super) enum Acknowledgement {
    Stream(PublishAckFuture),
    /// No stream takes it.
    Server(Passed),
}

impl Sent {
    /// What a caller is told that does not wait any longer.
    pub fn unacknowledged(&self) -> Refusal {
        match self.acknowledgement {
            Acknowledgement::Stream(_) => Refusal::Unknown,
            Acknowledgement::Server(_) => Refusal::Unconfirmed,
        }
    }

    /// Waits for the acknowledgement.
    pub async fn stored(self) -> Result<Stored, Refusal> {
        let acknowledged = match self.acknowledgement {
            Acknowledgement::Stream(acknowledgement) => acknowledgement.await,
            Acknowledgement::Server(passed) => {
                return passed.taken().await.map(|()| Stored { seq: 0, duplicate: false });
            }
        };
        self.health.stored(self.stream.as_deref(), &acknowledged);
        match acknowledged {
            Ok(ack) => Ok(Stored { seq: ack.sequence, duplicate: ack.duplicate }),
            Err(error) => Err(refusal(&error)),
        }
    }
}
