//! How far a consumer has come, how full a stream is, and removing what is done.

use async_nats::jetstream::{
    self, ErrorCode, consumer,
    context::RequestErrorKind,
    response::Response,
    stream::{self, PurgeResponse},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{Broker, Refusal};
use crate::fault::{Place, Problem};

/// What the broker says about a message that is not there.
const NO_MESSAGE: &str = "no message found";

/// How far the consumer of a route has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The acknowledgement floor: every request up to this sequence is acknowledged.
    pub floor: u64,
    /// The sequence of the newest request that was delivered.
    pub delivered: u64,
    /// Requests that were delivered and are not acknowledged.
    pub unacknowledged: u64,
    /// Requests that were not delivered yet.
    pub waiting: u64,
    /// When the consumer was created, in nanoseconds since 1970: its sequences belong to one life of its stream.
    pub created: i128,
    /// Until when it is paused, in milliseconds since 1970, if it is paused now.
    pub paused_until: Option<u64>,
}

/// Whether a stream has messages on some subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The sequence of the newest message that the stream has ever had, a moment before.
    pub last_seq: u64,
    /// Whether it has any on these subjects.
    pub any: bool,
}

/// The part of the answer about a stream that names its subjects.
#[derive(Deserialize)]
struct Subjects {
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    last_seq: u64,
    /// How many messages each subject has; only of those that were asked for.
    #[serde(default)]
    subjects: Option<Map<String, Value>>,
}

/// How full a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// The sequence of its oldest message, or of the next message if it is empty.
    pub first_seq: u64,
    /// The sequence of the newest message it has ever had.
    pub last_seq: u64,
    /// The size of its messages.
    pub bytes: u64,
    /// The size at which it refuses messages.
    pub max_bytes: u64,
}

/// The broker did not do what it was asked, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotDone {
    reason: String,
    problem: Problem,
    /// Whether the broker gave an answer; else it is away or busy.
    answered: bool,
}

impl NotDone {
    fn refused(error: &jetstream::Error) -> Self {
        let reason = error.to_string();
        let problem = match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => Problem::Missing,
            _ => Problem::Failing(reason.clone()),
        };
        Self { reason, problem, answered: true }
    }

    /// Whether the stream or the consumer does not exist.
    pub fn is_missing(&self) -> bool {
        self.problem == Problem::Missing
    }
}

impl Broker {
    /// Notes whether an operation of this file works, as a fault of the broker if it does not. A broker that is away has none.
    pub fn note<T>(&self, place: impl FnOnce() -> Place, outcome: &Result<T, NotDone>) {
        match outcome {
            Ok(_) => self.health.works(place),
            Err(error) if self.is_connected() => self.health.met(&place(), error.problem.clone()),
            Err(_) => {}
        }
    }

    /// Reads how far a consumer has come.
    pub async fn progress(&self, stream: &str, consumer: &str) -> Result<Progress, NotDone> {
        let info: consumer::Info = self.ask(format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?;
        Ok(Progress {
            floor: info.ack_floor.stream_sequence,
            delivered: info.delivered.stream_sequence,
            unacknowledged: info.num_ack_pending as u64,
            waiting: info.num_pending,
            created: info.created.unix_timestamp_nanos(),
            paused_until: info
                .config
                .pause_until
                .filter(|_| info.paused)
                .map(|until| u64::try_from(until.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()),
        })
    }

    /// Looks whether a stream has messages that a filter takes. The broker counts subjects after it has read the newest sequence,
    /// so none of them is at or below that sequence if there is none at all.
    pub async fn held(&self, stream: &str, filter: &str) -> Result<Held, NotDone> {
        let ask = json!({ "subjects_filter": filter });
        let info: Subjects = self.ask(format!("STREAM.INFO.{stream}"), &ask).await?;
        let any = info.state.subjects.is_some_and(|subjects| !subjects.is_empty());
        Ok(Held { last_seq: info.state.last_seq, any })
    }

    /// Reads how full a stream is.
    pub async fn fill(&self, stream: &str) -> Result<Fill, NotDone> {
        let info: stream::Info = self.ask(format!("STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(Fill {
            first_seq: info.state.first_sequence,
            last_seq: info.state.last_sequence,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).unwrap_or_default(),
        })
    }

    /// Removes the messages before sequence `keep`, and returns how many there were.
    pub async fn purge_below(&self, stream: &str, keep: u64) -> Result<u64, NotDone> {
        let purged: PurgeResponse = self.ask(format!("STREAM.PURGE.{stream}"), &json!({"seq": keep})).await?;
        Ok(purged.purged)
    }

    /// Removes the messages of `subject` before sequence `before`.
    pub async fn purge(&self, stream: &str, subject: &str, before: u64) -> Result<(), Refusal> {
        let ask = json!({"filter": subject, "seq": before});
        match self.ask::<PurgeResponse>(format!("STREAM.PURGE.{stream}"), &ask).await {
            Ok(_) => Ok(()),
            Err(NotDone { reason, answered: true, .. }) => Err(Refusal::Rejected(reason)),
            Err(NotDone { reason, answered: false, .. }) => Err(Refusal::Unavailable(reason)),
        }
    }

    /// Removes one message. `false` if there is none with this sequence.
    pub async fn remove(&self, stream: &str, seq: u64) -> Result<bool, NotDone> {
        let ask = json!({"seq": seq, "no_erase": true});
        match self.ask::<Value>(format!("STREAM.MSG.DELETE.{stream}"), &ask).await {
            Ok(_) => Ok(true),
            Err(NotDone { reason, answered: true, .. }) if reason.contains(NO_MESSAGE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A request to JetStream's API.
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: String, ask: &Value) -> Result<T, NotDone> {
        match self.jetstream.request(subject, ask).await {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(NotDone::refused(&error)),
            Err(error) => {
                let reason = error.to_string();
                let problem = match error.kind() {
                    RequestErrorKind::TimedOut => Problem::Silent,
                    _ => Problem::Failing(reason.clone()),
                };
                Err(NotDone { reason, problem, answered: false })
            }
        }
    }
}
