//! One pulled message: its contents, and the acknowledgements that a worker sends about it.
//!
//! Never decides which acknowledgement to send.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, AckKind},
};
use tidegate_shared::{
    envelope::{Request, Unreadable},
    header,
    topology::PARK,
};

use crate::{
    acks::Acks,
    metrics::{Ending, Metrics},
};

/// In-progress acknowledgements per `ack_wait`: two may be lost before the broker delivers the message again.
pub(crate) const PROGRESS_PER_ACK_WAIT: u32 = 3;

/// How often an acknowledgement is sent until the broker confirms it. After that, the redelivery finds the stored answer and
/// acknowledges again.
const ACK_TRIES: u32 = 5;
/// The pause between two of these.
const ACK_PAUSE: Duration = Duration::from_millis(300);

/// A pulled message, until it is settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    message: jetstream::Message,
    delivered: u32,
    place: String,
    parked: bool,
    counted: AtomicBool,
    /// Whether it gives no more signs of life, as a planned fault wants it.
    #[cfg(feature = "testing")]
    silent: AtomicBool,
}

impl Delivery {
    pub(crate) fn new(message: jetstream::Message) -> Self {
        let (delivered, place, parked) = match message.info() {
            Ok(info) => {
                let parked = info.stream == PARK;
                let stage = if parked { 'p' } else { 'i' };
                let place = format!("{stage}{}", info.stream_sequence);
                (u32::try_from(info.delivered).unwrap_or(1), place, parked)
            }
            Err(_) => (1, "unknown".to_owned(), true),
        };
        Self {
            message,
            delivered,
            place,
            parked,
            counted: AtomicBool::new(false),
            #[cfg(feature = "testing")]
            silent: AtomicBool::new(false),
        }
    }

    /// Reads the request in the message.
    pub(crate) fn read(&self) -> Result<Request, Unreadable> {
        let empty = HeaderMap::new();
        Request::read(self.message.headers.as_ref().unwrap_or(&empty), self.message.payload.clone())
    }

    /// The number of deliveries before this one. None of them was settled: their worker ended, or gave the request back.
    pub(crate) fn earlier_deliveries(&self) -> u32 {
        self.delivered.saturating_sub(1)
    }

    /// Whether it was parked before.
    pub(crate) fn was_parked(&self) -> bool {
        self.parked || self.header(header::QUEUED_AGAIN).is_some()
    }

    /// A header of the message.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The dead letter that the request was redriven from.
    pub(crate) fn redriven(&self) -> Option<u64> {
        self.header(header::REDRIVEN)?.parse().ok()
    }

    /// The message's sequence in its stream.
    pub(crate) fn stream_seq(&self) -> Option<u64> {
        self.message.info().ok().map(|info| info.stream_sequence)
    }

    /// All headers of the message.
    pub(crate) fn all_headers(&self) -> Option<&HeaderMap> {
        self.message.headers.as_ref()
    }

    /// When the broker first stored the request, by its clock.
    pub(crate) fn stored_at(&self) -> Option<SystemTime> {
        let noted = self.header(header::STORED_AT).and_then(|text| text.parse().ok());
        let since = noted.map(Duration::from_millis).or_else(|| {
            let published = self.message.info().ok()?.published.unix_timestamp_nanos() / 1_000_000;
            u64::try_from(published).ok().map(Duration::from_millis)
        });
        since.map(|since| UNIX_EPOCH + since)
    }

    /// The subject it was delivered on.
    pub(crate) fn subject(&self) -> &str {
        &self.message.subject
    }

    /// The message's stream and sequence, as part of an id: different for every copy of a request.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn body(&self) -> bytes::Bytes {
        self.message.payload.clone()
    }

    /// The message's headers, unknown ones included, without those that the broker interprets.
    pub(crate) fn headers(&self) -> HeaderMap {
        let all = self.message.headers.iter().flat_map(HeaderMap::iter);
        let ours = all.filter(|(name, _)| !is_for_broker(name.as_ref()));
        ours.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone()))).collect()
    }

    /// Sends an in-progress acknowledgement every `interval`, for as long as the future is polled.
    pub(crate) async fn keep_alive(&self, interval: Duration) -> Infallible {
        loop {
            tokio::time::sleep(interval).await;
            #[cfg(feature = "testing")]
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.message.ack_with(AckKind::Progress).await {
                tracing::debug!(%error, "an in-progress acknowledgement could not be sent");
            }
        }
    }

    /// Gives no more signs of life.
    #[cfg(feature = "testing")]
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Counts how the delivery ended, once.
    pub(crate) fn count(&self, metrics: &Metrics, route: &str, ending: Ending) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            metrics.ended(route, ending);
        }
    }

    /// Removes the message from its stream, and waits until the broker confirms it.
    pub(crate) async fn ack(&self, acks: &Acks) {
        let Some(reply) = self.message.reply.clone() else { return };
        if acks.send(&self.message).await {
            return;
        }
        for attempt in 0..ACK_TRIES {
            if attempt > 0 {
                tokio::time::sleep(ACK_PAUSE).await;
            }
            match self.message.context.client().request(reply.clone(), "+ACK".into()).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "the acknowledgement is not confirmed"),
            }
        }
        tracing::warn!("an acknowledgement was not confirmed: the request may be delivered again");
    }

    /// Asks for a redelivery after `delay`. The redelivery counts as an attempt. The broker's clock measures the delay.
    pub(crate) async fn nak(&self, delay: Duration) {
        if let Err(error) = self.message.ack_with(AckKind::Nak(Some(delay))).await {
            tracing::debug!(%error, "a request could not be given back: it is delivered again after ack_wait");
        }
    }
}

/// Whether the broker interprets a header of this name.
pub(crate) fn is_for_broker(name: &str) -> bool {
    name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("nats-"))
}
