//! Reading the messages of a subject by direct get.

use std::time::{Duration, SystemTime};

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::{Broker, Refusal, broker_header, header_number, health::unread};
use crate::fault::Problem;

/// How large the messages of one read may be, all together. The last one may exceed it.
const RANGE_BYTES: usize = 4 << 20;
/// How long a direct get may take, all together.
const DIRECT_GET_TOTAL: Duration = Duration::from_secs(10);
/// How long to wait for the next message of a direct get.
const DIRECT_GET_LIMIT: Duration = Duration::from_secs(2);

/// A batch of messages of a subject.
#[derive(Debug, Clone)]
pub struct Range {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// How many messages follow.
    pub more: u64,
    /// For newest messages: the last sequence of the replica that was read. Otherwise 0.
    pub up_to: u64,
}

impl Broker {
    /// Returns the last message of `subject` in `stream`, or `None`. An error means that the broker does not answer.
    pub async fn last(&self, stream: &str, subject: &str) -> Result<Option<Message>, Refusal> {
        let request = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        let answer = self.client.request(request, Bytes::new()).await;
        self.note_read(stream, &answer.as_ref().map_err(|error| unread(error.kind(), error.to_string())));
        match answer {
            Ok(message) => match message.status {
                None => Ok(Some(message)),
                Some(StatusCode::NOT_FOUND) => Ok(None),
                Some(status) => {
                    Err(Refusal::Unavailable(format!("the broker answered with status {status}")))
                }
            },
            Err(error) => Err(Refusal::Unavailable(error.to_string())),
        }
    }

    /// Notes whether a stream can be read. While the connection is away, nothing can be said about it.
    fn note_read<T>(&self, stream: &str, outcome: &Result<T, Problem>) {
        if self.is_connected() {
            self.health.read(stream, outcome);
        }
    }

    /// Returns up to `limit` messages of `subject` from sequence `from` on, oldest first, and how many more there are. Fewer
    /// than `limit` if they are large.
    pub async fn range(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        limit: usize,
    ) -> Result<Range, Refusal> {
        self.range_within(stream, subject, from, limit, RANGE_BYTES).await
    }

    /// As [`Broker::range`]. Ends with the message that makes the payloads `bytes` long or longer.
    pub async fn range_within(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        limit: usize,
        bytes: usize,
    ) -> Result<Range, Refusal> {
        // For the broker 0 bytes are no limit.
        let (from, bytes) = (from.max(1), bytes.max(1));
        let ask =
            serde_json::json!({"seq": from, "next_by_subj": subject, "batch": limit, "max_bytes": bytes});
        self.direct(stream, &ask).await
    }

    /// Returns the sequence of the newest message of each subject that has one. Takes at most 1,024 subjects. The broker sends
    /// the messages with their payloads, so they are read in parts.
    pub async fn newest(&self, stream: &str, subjects: &[String]) -> Result<Vec<(String, u64)>, Refusal> {
        let mut newest = Vec::new();
        let mut from = 1;
        loop {
            let ask = serde_json::json!({"multi_last": subjects, "seq": from, "max_bytes": RANGE_BYTES});
            let range = self.direct(stream, &ask).await?;
            let read = range.messages.iter().filter_map(|message| {
                let subject = broker_header(message, "Nats-Subject")?.to_owned();
                Some((subject, header_number(message, "Nats-Sequence")?))
            });
            newest.extend(read);
            let last = range.messages.last().and_then(|message| header_number(message, "Nats-Sequence"));
            match last {
                // A subject that gets a message meanwhile is named again.
                Some(last) if range.more > 0 => from = last + 1,
                _ => return Ok(newest),
            }
        }
    }

    /// Returns the newest message of each subject that has one, of a few subjects.
    pub async fn last_of_each(&self, stream: &str, subjects: &[&str]) -> Result<Range, Refusal> {
        self.direct(stream, &serde_json::json!({"multi_last": subjects, "max_bytes": RANGE_BYTES})).await
    }

    /// Returns the first message of a stream at or behind a sequence.
    pub async fn first_from(&self, stream: &str, seq: u64) -> Result<Option<Message>, Refusal> {
        let ask = serde_json::json!({"seq": seq.max(1), "batch": 1, "max_bytes": RANGE_BYTES});
        Ok(self.direct(stream, &ask).await?.messages.into_iter().next())
    }

    /// Returns the first message of `subject` that was stored at `since` or later.
    pub async fn first_since(
        &self,
        stream: &str,
        subject: &str,
        since: SystemTime,
    ) -> Result<Option<Message>, Refusal> {
        let since = humantime::format_rfc3339_nanos(since).to_string();
        let ask = serde_json::json!({"start_time": since, "next_by_subj": subject, "batch": 1, "max_bytes": RANGE_BYTES});
        Ok(self.direct(stream, &ask).await?.messages.into_iter().next())
    }

    /// Requests a batch by direct get.
    async fn direct(&self, stream: &str, ask: &serde_json::Value) -> Result<Range, Refusal> {
        let range = self.direct_range(stream, ask).await;
        self.note_read(stream, &range.as_ref().map_err(|(problem, _)| problem.clone()));
        range.map_err(|(_, refusal)| refusal)
    }

    /// The messages arrive one by one, followed by an end, or a single "not found" arrives.
    async fn direct_range(&self, stream: &str, ask: &serde_json::Value) -> Result<Range, (Problem, Refusal)> {
        let failing = |error: &dyn std::fmt::Display| {
            (Problem::Failing(error.to_string()), Refusal::Unavailable(error.to_string()))
        };
        let late = |error| (Problem::Silent, Refusal::Unavailable(format!("no answer in time: {error}")));
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|e| failing(&e))?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.client.publish_with_reply(subject, inbox, ask.to_string().into()).await;
        asked.map_err(|e| failing(&e))?;
        let mut range = Range { messages: Vec::new(), more: 0, up_to: 0 };
        let end = Instant::now() + DIRECT_GET_TOTAL;
        loop {
            let next = timeout_at(end.min(Instant::now() + DIRECT_GET_LIMIT), answers.next()).await;
            let message = next.map_err(late)?.ok_or_else(|| failing(&"the subscription ended"))?;
            match message.status {
                None => range.messages.push(message),
                Some(StatusCode::NOT_FOUND) => return Ok(range),
                Some(status) if status.as_u16() == 204 => {
                    range.more = header_number(&message, "Nats-Num-Pending").unwrap_or(0);
                    range.up_to = header_number(&message, "Nats-UpTo-Sequence").unwrap_or(0);
                    return Ok(range);
                }
                Some(StatusCode::NO_RESPONDERS) => {
                    return Err((
                        Problem::Missing,
                        Refusal::Unavailable("no stream, or no leader for it".to_owned()),
                    ));
                }
                Some(status) => return Err(failing(&status)),
            }
        }
    }
}
