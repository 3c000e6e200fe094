//! Storing several messages of one stream as an atomic batch: all of them or none, with one wait for the broker's disk.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{Broker, Refusal, refusal::refusal_of};
use crate::{fault::Place, header, id::random_token};

/// A message for a stream: its subject, its headers, its body.
pub type ToStore = (String, HeaderMap, Bytes);

/// The most messages that the broker takes in one batch.
pub(super) const MOST: usize = 1000;

/// The most bytes that a message needs beside its own in a batch: its id, its number, and that it is the last.
pub(super) const HEADERS: usize = 160;
/// How long sending a batch may take, its last message not counted, if the connection has no limit for requests.
const SENDING_LIMIT: Duration = Duration::from_secs(5);

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Together {
    /// All messages are stored. The last one has this sequence, and those before it the sequences before it.
    Stored {
        /// The last one's sequence.
        last: u64,
    },
    /// None is stored.
    Refused(Refusal),
    /// All or none are stored.
    Unknown,
}

/// The broker's answer to the last message of a batch.
#[derive(Debug, Deserialize)]
struct Committed {
    #[serde(default)]
    batch: String,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Broker {
    /// Stores these messages of one stream, which must take batches; at most [`MOST`]. Each must be small enough for [`HEADERS`]
    /// more bytes. Nothing is waited for when the connection is lost, nor for long when it is stuck.
    pub(super) async fn store_together<'a>(
        &self,
        stream: &str,
        messages: impl ExactSizeIterator<Item = &'a ToStore>,
    ) -> Together {
        let (id, count) = (random_token::<16>(), messages.len());
        if !self.is_connected() {
            return Together::Refused(Refusal::Unavailable("not connected to NATS".to_owned()));
        }
        let mut link = self.link();
        let seen = *link.borrow_and_update();
        let outcome = tokio::select! {
            biased;
            outcome = self.send_together(&id, messages) => outcome,
            _ = link.wait_for(|link| link.connects != seen.connects || !link.up) => Together::Unknown,
        };
        if let Together::Stored { .. } = outcome {
            self.health.works(|| Place::Store(stream.to_owned()));
        } else {
            tracing::debug!(stream, count, ?outcome, "a batch was not stored");
        }
        outcome
    }

    async fn send_together<'a>(
        &self,
        id: &str,
        messages: impl ExactSizeIterator<Item = &'a ToStore>,
    ) -> Together {
        let count = messages.len();
        let until = Instant::now() + self.client.timeout().unwrap_or(SENDING_LIMIT);
        for (number, (subject, headers, body)) in (1..).zip(messages) {
            let (subject, mut headers, body) = (subject.clone(), headers.clone(), body.clone());
            headers.insert(header::BATCH_ID, id);
            headers.insert(header::BATCH_SEQUENCE, number.to_string());
            if number < count {
                match timeout_at(until, self.client.publish_with_headers(subject, headers, body)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => return Together::Refused(Refusal::Unavailable(error.to_string())),
                    Err(_) => return Together::Unknown,
                }
            }
            headers.insert(header::BATCH_COMMIT, "1");
            let commit = Request::new().headers(headers).payload(body);
            return match self.client.send_request(subject, commit).await {
                Ok(reply) => outcome_of(&reply.payload, id, count),
                // Nobody got the last message, so the batch is not stored.
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    Together::Refused(Refusal::Unavailable("no stream, or no leader for it".to_owned()))
                }
                Err(_) => Together::Unknown,
            };
        }
        Together::Stored { last: 0 }
    }
}

/// What the reply says about so many messages of the batch.
fn outcome_of(reply: &[u8], id: &str, count: usize) -> Together {
    match serde_json::from_slice(reply) {
        Ok(Committed { error: Some(ApiError { err_code, description }), .. }) => {
            match refusal_of(err_code, description) {
                Refusal::Unknown => Together::Unknown,
                refusal => Together::Refused(refusal),
            }
        }
        Ok(Committed { batch, count: stored, seq, .. }) if batch == id && stored == count => {
            Together::Stored { last: seq }
        }
        Ok(_) | Err(_) => Together::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::headers_len;

    #[test]
    fn the_headers_of_a_batch_are_as_short_as_said() {
        let mut headers = HeaderMap::new();
        headers.insert(header::BATCH_ID, random_token::<16>());
        headers.insert(header::BATCH_SEQUENCE, MOST.to_string());
        headers.insert(header::BATCH_COMMIT, "1");
        assert!(headers_len(&headers) <= HEADERS);
    }

    #[test]
    fn only_the_word_on_the_whole_batch_counts() {
        let stored = br#"{"stream":"S","seq":9,"batch":"b","count":3}"#;
        assert_eq!(outcome_of(stored, "b", 3), Together::Stored { last: 9 });
        for (reply, id, count) in [(&stored[..], "b", 4), (stored, "c", 3), (b"", "b", 3), (b"{}", "b", 3)] {
            assert_eq!(outcome_of(reply, id, count), Together::Unknown);
        }
    }

    #[test]
    fn an_error_says_that_nothing_is_stored_only_if_it_is_known() {
        let refused = |code: u64, text: &str| {
            let error = serde_json::json!({"code": 400, "err_code": code, "description": text});
            let reply =
                serde_json::json!({"error": error, "stream": "S", "seq": 0, "batch": "b", "count": 3});
            outcome_of(reply.to_string().as_bytes(), "b", 3)
        };
        assert_eq!(refused(10077, "maximum bytes exceeded"), Together::Refused(Refusal::Full));
        assert_eq!(
            refused(10077, "maximum messages per subject exceeded"),
            Together::Refused(Refusal::Taken)
        );
        assert!(matches!(refused(10176, "incomplete"), Together::Refused(Refusal::Rejected(_))));
        assert!(matches!(refused(10201, "duplicate"), Together::Refused(Refusal::Rejected(_))));
        assert_eq!(refused(10077, "no space left on device"), Together::Unknown);
        assert_eq!(refused(10051, "general stream failure"), Together::Unknown);
        assert_eq!(refused(99_999, "an error of a newer server"), Together::Unknown);
    }
}
