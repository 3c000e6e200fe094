//! What a test learns from its broker: why it has none, why a call has no answer, publications, dead letters.

use std::collections::BTreeMap;

use async_nats::{HeaderName, HeaderValue, Message};
use bytes::Bytes;
use tidegate_shared::{broker::ConnectFailure, config::ConfigError, header};

/// Why there is no broker for a test.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStarted {
    /// There is no nats-server on this machine. A test that may do without says so and returns.
    #[error("there is no nats-server on this machine: {0}")]
    NoServer(String),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server does not start.
    #[error("nats-server does not start: {0}")]
    Server(String),
    /// The server does not let the test in.
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    /// The streams cannot be created.
    #[error("the streams of this configuration cannot be created: {0}")]
    Streams(String),
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallFailure {
    /// The answer is an error: one that the handler decided, or 1004 for a dead letter.
    #[error("error {code}: {message}")]
    Error {
        /// The code.
        code: u32,
        /// The message.
        message: String,
        /// The data beside it, JSON. Empty if there is none.
        data: Bytes,
    },
    /// There was no answer in time.
    #[error("{0}")]
    NoAnswer(String),
    /// The test's job cannot be sent, or the broker failed.
    #[error("{0}")]
    NotSent(String),
}

/// A publication in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its data.
    pub data: Bytes,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The user who published it, if one did.
    pub user: Option<String>,
}

/// A request that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Why, in a word: `attempts`, `rejected`, `panic` ... docs/dead-letters.md has all of them.
    pub reason: String,
    /// Why, in the words of the last attempt.
    pub error: String,
    /// How many attempts were begun.
    pub attempts: u32,
    /// The request's id.
    pub id: Option<String>,
    /// The request's body.
    pub body: Bytes,
}

impl Published {
    pub(super) fn of(message: Message) -> Self {
        let headers = message.headers.unwrap_or_default();
        let tag = |(name, values): (&HeaderName, &[HeaderValue])| {
            let name: &str = name.as_ref();
            Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), values.first()?.as_str().to_owned()))
        };
        let user = headers.get(header::USER).map(|user| user.as_str().to_owned());
        Self { data: message.payload, tags: headers.iter().filter_map(tag).collect(), user }
    }
}
