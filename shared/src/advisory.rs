//! What the broker says when a worker ends a request without an answer: it terminated the message, or the message was delivered
//! as often as its consumer allows. Pure.
//!
//! Workers of this library do neither: they count attempts themselves and store a dead letter. A worker in another language may
//! terminate a message, and an operator may limit the deliveries of a consumer.

use std::time::SystemTime;

use serde::Deserialize;

use crate::{
    dead::Reason,
    topology::{FIRINGS, PARK, REQUESTS},
};

/// The broker's words for a message that left its stream while its consumer waited for an acknowledgement.
const REMOVED: &str = "Unacknowledged message was deleted";

/// A message that its consumer delivers no more, although nobody acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advisory {
    /// Its stream.
    pub stream: String,
    /// The route.
    pub route: String,
    /// Its sequence in the stream.
    pub seq: u64,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why it is delivered no more: [`Reason::Terminated`] or [`Reason::MaxDeliver`].
    pub reason: Reason,
    /// What the worker said when it terminated the message.
    pub said: Option<String>,
    /// When that was, by the broker's clock.
    pub at: Option<SystemTime>,
}

/// What the broker writes.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(rename = "type")]
    kind: String,
    timestamp: Option<String>,
    stream: String,
    consumer: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
    reason: Option<String>,
}

impl Advisory {
    /// Reads an advisory. `None` if it is none of these, or of no request.
    pub fn read(body: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(body).ok()?;
        let reason = match written.kind.rsplit('.').next()? {
            "terminated" => Reason::Terminated,
            "max_deliver" => Reason::MaxDeliver,
            _ => return None,
        };
        let route = match written.stream.strip_prefix(REQUESTS) {
            Some(route) => route.to_owned(),
            None if written.stream == PARK && written.consumer != FIRINGS => written.consumer,
            None => return None,
        };
        Some(Self {
            route,
            seq: written.stream_seq,
            deliveries: u32::try_from(written.deliveries).unwrap_or(u32::MAX),
            reason,
            said: written.reason.map(|said| said.trim().to_owned()).filter(|said| !said.is_empty()),
            at: written.timestamp.and_then(|text| humantime::parse_rfc3339(&text).ok()),
            stream: written.stream,
        })
    }

    /// Whether the message was parked.
    pub fn is_parked(&self) -> bool {
        self.stream == PARK
    }

    /// Whether no worker ended the message: it left its stream, and then its consumer noticed. So it is with one that was
    /// acknowledged, if the broker crashed before it had noted that with the consumer.
    pub fn is_of_a_removed_message(&self) -> bool {
        self.reason == Reason::Terminated && self.said.as_deref() == Some(REMOVED)
    }

    /// The message's stream and sequence, as part of an id: workers write it in the same way.
    pub fn place(&self) -> String {
        format!("{}{}", if self.is_parked() { "p" } else { "i" }, self.seq)
    }

    /// What the dead letter says about the end of the message.
    pub fn error(&self) -> String {
        match (self.reason, &self.said) {
            (Reason::MaxDeliver, _) => format!(
                "delivered {} times, which is the max_deliver of the consumer, and never acknowledged",
                self.deliveries
            ),
            (_, Some(said)) => said.clone(),
            (_, None) => "the worker terminated the message and gave no reason".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Advisory> {
        Advisory::read(text.as_bytes())
    }

    #[test]
    fn a_terminated_request_is_read_with_the_workers_words() {
        let advisory = read(
            r#"{"type":"io.nats.jetstream.advisory.v1.terminated","id":"x","timestamp":"2026-01-02T03:04:05.678Z","stream":"TIDE_IN_orders","consumer":"orders-first","consumer_seq":9,"stream_seq":7,"deliveries":2,"reason":"no such item"}"#,
        )
        .unwrap();
        assert_eq!((advisory.route.as_str(), advisory.place().as_str()), ("orders", "i7"));
        assert_eq!((advisory.reason, advisory.deliveries), (Reason::Terminated, 2));
        assert_eq!(advisory.error(), "no such item");
        assert!(advisory.at.is_some());
    }

    #[test]
    fn a_parked_request_has_the_route_of_its_consumer() {
        let advisory = read(
            r#"{"type":"io.nats.jetstream.advisory.v1.max_deliver","stream":"TIDE_PARK","consumer":"orders","stream_seq":7,"deliveries":3}"#,
        )
        .unwrap();
        assert_eq!((advisory.route.as_str(), advisory.place().as_str()), ("orders", "p7"));
        assert!(advisory.error().contains("delivered 3 times"), "{}", advisory.error());
    }

    #[test]
    fn what_is_about_no_request_is_left_alone() {
        for text in [
            "",
            "{}",
            r#"{"type":"io.nats.jetstream.advisory.v1.nak","stream":"TIDE_IN_a","consumer":"a","stream_seq":1}"#,
            r#"{"type":"io.nats.jetstream.advisory.v1.terminated","stream":"TIDE_PARK","consumer":"=firings","stream_seq":1}"#,
            r#"{"type":"io.nats.jetstream.advisory.v1.terminated","stream":"OTHER","consumer":"a","stream_seq":1}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
