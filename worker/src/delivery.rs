//! One message that was pulled: what it says, and the signs a worker gives the broker about it.
//!
//! Never decides which sign to give.

use std::{convert::Infallible, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, AckKind},
};
use tidegate_shared::{
    envelope::{Request, Unreadable, one_line},
    topology::IN,
};

/// A confirmed acknowledgement is tried this often; then the redelivery will find the stored answer and try again.
const ACK_TRIES: u32 = 5;
/// Between two tries.
const ACK_PAUSE: Duration = Duration::from_millis(300);

/// A pulled message, until it is settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    message: jetstream::Message,
    delivered: u32,
    place: String,
}

impl Delivery {
    pub(crate) fn new(message: jetstream::Message) -> Self {
        let (delivered, place) = match message.info() {
            Ok(info) => {
                let stage = if info.stream == IN { 'i' } else { 'p' };
                (u32::try_from(info.delivered).unwrap_or(1), format!("{stage}{}", info.stream_sequence))
            }
            Err(_) => (1, "unknown".to_owned()),
        };
        Self { message, delivered, place }
    }

    /// The request it carries.
    pub(crate) fn read(&self) -> Result<Request, Unreadable> {
        let empty = HeaderMap::new();
        Request::read(self.message.headers.as_ref().unwrap_or(&empty), self.message.payload.clone())
    }

    /// Deliveries before this one. Nobody settled them: their worker ended or was cut off.
    pub(crate) fn earlier_deliveries(&self) -> u32 {
        self.delivered.saturating_sub(1)
    }

    /// The subject it was delivered on.
    pub(crate) fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Its place in its stream, as part of an id: different for every copy of a request.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn body(&self) -> bytes::Bytes {
        self.message.payload.clone()
    }

    /// The headers it came with, unknown ones included, but none that speak to the broker.
    pub(crate) fn headers(&self) -> HeaderMap {
        let all = self.message.headers.iter().flat_map(HeaderMap::iter);
        let ours = all.filter(|(name, _)| !is_brokers(name.as_ref()));
        ours.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone()))).collect()
    }

    /// Tells the broker every `interval` that this message is being worked on, for as long as it is polled.
    pub(crate) async fn keep_alive(&self, interval: Duration) -> Infallible {
        loop {
            tokio::time::sleep(interval).await;
            if let Err(error) = self.message.ack_with(AckKind::Progress).await {
                tracing::debug!(%error, "no sign of life could be sent");
            }
        }
    }

    /// Takes the message out of its stream, and waits until the broker says that it is.
    pub(crate) async fn ack(&self) {
        let Some(reply) = self.message.reply.clone() else { return };
        for attempt in 0..ACK_TRIES {
            if attempt > 0 {
                tokio::time::sleep(ACK_PAUSE).await;
            }
            match self.message.context.client().request(reply.clone(), "+ACK".into()).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "the acknowledgement is not confirmed"),
            }
        }
        tracing::warn!("an acknowledgement was never confirmed; the request may be delivered again");
    }

    /// Asks for another delivery after `delay`. This is a delivery more, which counts as an attempt.
    pub(crate) async fn nak(&self, delay: Duration) {
        if let Err(error) = self.message.ack_with(AckKind::Nak(Some(delay))).await {
            tracing::debug!(%error, "a request could not be given back; it returns after ack_wait");
        }
    }

    /// Ends the message for good, with the reason in the broker's advisory. The library has no reason to give.
    pub(crate) async fn term(&self, reason: &str) {
        let Some(reply) = self.message.reply.clone() else { return };
        let sign = format!("+TERM {}", one_line(reason));
        if let Err(error) = self.message.context.client().request(reply, sign.into()).await {
            tracing::debug!(%error, "a termination is not confirmed; the message returns after ack_wait");
        }
    }
}

fn is_brokers(name: &str) -> bool {
    name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("nats-"))
}
