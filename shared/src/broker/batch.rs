//! Storing several messages of one stream as an atomic batch: all of them or none, with one wait for the broker's disk.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind, header::NATS_MESSAGE_ID};
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
/// The broker's error for a batch with an id that it knows, or that is there twice.
const DUPLICATE: u64 = 10201;
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
    /// None is stored now: the broker knows the id of one of them.
    Known,
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

/// A batch of which the broker has been sent every message but the last.
#[derive(Debug)]
pub(super) struct Begun {
    id: String,
    count: usize,
    /// The connection over which it was sent.
    connects: u64,
}

impl Broker {
    /// Stores these messages of one stream, which must take batches; at most [`MOST`]. Each must be small enough for [`HEADERS`]
    /// more bytes. With `one_id` only the last one has its id in the stream: the broker remembers each for minutes, which costs it
    /// more memory than the message. Nothing is waited for when the connection is lost, nor for long when it is stuck.
    pub(super) async fn store_together<'a>(
        &self,
        stream: &str,
        messages: impl ExactSizeIterator<Item = &'a ToStore> + DoubleEndedIterator,
        one_id: bool,
    ) -> Together {
        let mut messages = messages;
        let Some(last) = messages.next_back() else { return Together::Stored { last: 0 } };
        match self.begin_together(messages, one_id).await {
            Ok(begun) => self.end_together(stream, begun, last).await,
            Err(outcome) => outcome,
        }
    }

    /// Sends all messages of a batch but its last. None is stored without that.
    pub(super) async fn begin_together<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = &'a ToStore>,
        one_id: bool,
    ) -> Result<Begun, Together> {
        if !self.is_connected() {
            return Err(Together::Refused(Refusal::Unavailable("not connected to NATS".to_owned())));
        }
        let connects = self.link().borrow().connects;
        let begun = Begun { id: random_token::<10>(), count: messages.len() + 1, connects };
        self.while_linked(connects, self.send_first(&begun.id, messages, one_id)).await?;
        Ok(begun)
    }

    /// Sends the last message of a batch, and waits for the broker's word.
    pub(super) async fn end_together(&self, stream: &str, begun: Begun, last: &ToStore) -> Together {
        let outcome = self.while_linked(begun.connects, self.send_last(&begun, last)).await;
        let outcome = outcome.unwrap_or_else(|outcome| outcome);
        if let Together::Stored { .. } = outcome {
            self.health.works(|| Place::Store(stream.to_owned()));
        } else {
            tracing::debug!(stream, count = begun.count, ?outcome, "a batch was not stored");
        }
        outcome
    }

    /// Whether a batch can still be ended: it belongs to its connection.
    pub(super) fn has_begun(&self, begun: &Begun) -> bool {
        self.link().borrow().connects == begun.connects && self.is_connected()
    }

    /// Waits for something whose outcome is unknown without this connection.
    async fn while_linked<T>(
        &self,
        connects: u64,
        something: impl Future<Output = Result<T, Together>>,
    ) -> Result<T, Together> {
        let mut link = self.link();
        tokio::select! {
            biased;
            done = something => done,
            _ = link.wait_for(|link| link.connects != connects || !link.up) => Err(Together::Unknown),
        }
    }

    async fn send_first<'a>(
        &self,
        id: &str,
        messages: impl Iterator<Item = &'a ToStore>,
        one_id: bool,
    ) -> Result<(), Together> {
        let until = Instant::now() + self.client.timeout().unwrap_or(SENDING_LIMIT);
        for (number, (subject, headers, body)) in (1..).zip(messages) {
            let mut headers = if one_id { without_id(headers) } else { headers.clone() };
            in_batch(&mut headers, id, number);
            let sending = self.client.publish_with_headers(subject.clone(), headers, body.clone());
            match timeout_at(until, sending).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return Err(Together::Refused(Refusal::Unavailable(error.to_string())));
                }
                Err(_) => return Err(Together::Unknown),
            }
        }
        Ok(())
    }

    async fn send_last(&self, begun: &Begun, last: &ToStore) -> Result<Together, Together> {
        let (subject, mut headers, body) = last.clone();
        in_batch(&mut headers, &begun.id, begun.count);
        headers.insert(header::BATCH_COMMIT, "1");
        let commit = Request::new().headers(headers).payload(body);
        match self.client.send_request(subject, commit).await {
            Ok(reply) => Ok(outcome_of(&reply.payload, &begun.id, begun.count)),
            // Nobody got the last message, so the batch is not stored.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(Together::Refused(Refusal::Unavailable("no stream, or no leader for it".to_owned())))
            }
            Err(_) => Err(Together::Unknown),
        }
    }
}

fn without_id(headers: &HeaderMap) -> HeaderMap {
    let mut others = HeaderMap::new();
    for (name, values) in headers.iter().filter(|(name, _)| **name != NATS_MESSAGE_ID) {
        for value in values {
            others.append(name.clone(), value.clone());
        }
    }
    others
}

fn in_batch(headers: &mut HeaderMap, id: &str, number: usize) {
    headers.insert(header::BATCH_ID, id);
    headers.insert(header::BATCH_SEQUENCE, number.to_string());
}

/// What the reply says about so many messages of the batch.
fn outcome_of(reply: &[u8], id: &str, count: usize) -> Together {
    match serde_json::from_slice(reply) {
        Ok(Committed { error: Some(ApiError { err_code: DUPLICATE, .. }), .. }) => Together::Known,
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
        headers.insert(header::BATCH_ID, random_token::<10>());
        headers.insert(header::BATCH_SEQUENCE, MOST.to_string());
        headers.insert(header::BATCH_COMMIT, "1");
        assert!(headers_len(&headers) <= HEADERS);
    }

    #[test]
    fn nothing_but_its_id_is_left_out_of_a_message() {
        let mut headers = HeaderMap::new();
        headers.append("Tide-Tag-a", "1");
        headers.append("Tide-Tag-a", "2");
        let others = headers.clone();
        headers.insert(header::MSG_ID, "x");
        assert_eq!(without_id(&headers), others);
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
        assert_eq!(refused(10201, "duplicate"), Together::Known);
        assert_eq!(refused(10077, "no space left on device"), Together::Unknown);
        assert_eq!(refused(10051, "general stream failure"), Together::Unknown);
        assert_eq!(refused(99_999, "an error of a newer server"), Together::Unknown);
    }
}
