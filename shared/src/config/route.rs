//! `[[route]]`: a route of requests to workers.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    Order, OrderedBy, Schema,
    stock::{Forward, Sql, Webhook},
    unit,
};
use crate::{
    hook::Event,
    route::{Pattern, Priority},
    subject::Subjects,
};

/// The handlers of the stock worker.
pub const STOCK_HANDLERS: [&str; 6] = ["echo", "forward", "quakes", "room", "sql", "webhook"];

/// One entry of the route table, which gateway, worker and `tidegate apply` all read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The route's name, also in its consumers, metrics and dead letters.
    pub name: String,
    /// The requests it takes.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The stock worker's handler, or `None` if other workers take the route.
    #[serde(default)]
    pub handler: Option<String>,
    /// When the caller receives its reply.
    #[serde(default)]
    pub answer: AnswerMode,
    /// Requests one worker handles at a time.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// How long one attempt may take.
    #[serde(default = "timeout", with = "unit::duration")]
    pub timeout: Duration,
    /// Attempts before a request becomes a dead letter.
    #[serde(default = "max_attempts")]
    pub max_attempts: u32,
    /// How often a handler may snooze a request before it becomes a dead letter.
    #[serde(default = "max_snoozes")]
    pub max_snoozes: u32,
    /// How long a failed request waits for its next attempt.
    #[serde(default)]
    pub backoff: Backoff,
    /// The maximum size of its stream. When it is full, requests of this route are refused.
    #[serde(default = "max_bytes", with = "unit::size")]
    pub max_bytes: u64,
    /// A request that is older than this when a worker takes it becomes a dead letter. Zero is no limit.
    #[serde(default, with = "unit::duration")]
    pub max_age: Duration,
    /// Whether clients get the reports of its handler live.
    #[serde(default)]
    pub progress: bool,
    /// Whether a request without a key is cancelled when its client's connection ends.
    #[serde(default)]
    pub cancel_when_gone: bool,
    /// How far requests with the same ordering key are kept in order.
    #[serde(default)]
    pub order: Order,
    /// What is the ordering key.
    #[serde(default)]
    pub ordered_by: OrderedBy,
    /// With a strict order: how many requests of different keys may run at a time, over all workers.
    #[serde(default = "partitions")]
    pub partitions: u32,
    /// The lane of its requests unless the one who enqueues says otherwise.
    #[serde(default)]
    pub priority: Priority,
    /// Requests that all workers together work on at a time. Zero is no limit.
    #[serde(default)]
    pub max_running: usize,
    /// Attempts that all workers together begin in a second. Zero is no limit.
    #[serde(default)]
    pub starts_per_second: u32,
    /// What its requests look like, for `tidegate asyncapi`.
    #[serde(default)]
    pub schema: Option<Schema>,
    /// What its answers look like.
    #[serde(default)]
    pub answer_schema: Option<Schema>,
    /// What the stock handler `webhook` needs.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// What the stock handler `sql` needs.
    #[serde(default)]
    pub sql: Option<Sql>,
    /// What the stock handler `forward` needs.
    #[serde(default)]
    pub forward: Option<Forward>,
}

fn partitions() -> u32 {
    8
}

fn concurrency() -> usize {
    32
}

fn timeout() -> Duration {
    Duration::from_secs(30)
}

fn max_attempts() -> u32 {
    5
}

fn max_snoozes() -> u32 {
    1000
}

fn max_bytes() -> u64 {
    64 << 20
}

/// When the caller receives its reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerMode {
    /// With the worker's answer, or with error 1001 when the answer takes too long.
    #[default]
    Wait,
    /// As soon as the request is stored. The answer arrives on the personal channel.
    Later,
}

/// The delay before a retry: `base`, doubled with every attempt, at most `cap`, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The delay after the first failure.
    #[serde(with = "unit::duration")]
    pub base: Duration,
    /// The longest delay.
    #[serde(with = "unit::duration")]
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_mins(10) }
    }
}

/// The requests that a route takes: `rpc.<pattern>`, `send`, `pub.<namespace>` or `hook.<event>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// RPCs whose method matches the pattern.
    Rpc(Pattern),
    /// Messages without a reply.
    Send,
    /// Publications of clients in the channels of this namespace.
    Publish(String),
    /// Questions of gateways to back ends, which no stream stores.
    Hook(Event),
}

impl Match {
    /// Whether a request can match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rpc(a), Self::Rpc(b)) => a.overlaps(b),
            (Self::Send, Self::Send) => true,
            (Self::Publish(a), Self::Publish(b)) => a == b,
            (Self::Hook(a), Self::Hook(b)) => a == b,
            (Self::Rpc(_) | Self::Send | Self::Publish(_) | Self::Hook(_), _) => false,
        }
    }

    /// Returns the subjects of these requests in the route's stream (`stage` is `in` or `first`) or TIDE_PARK (`due`); `None` if no stream stores them.
    pub fn filter(&self, subjects: &Subjects, stage: &str) -> Option<String> {
        match self {
            Self::Rpc(pattern) => Some(subjects.rpc_filter(stage, pattern)),
            Self::Send => Some(subjects.send_filter(stage)),
            Self::Publish(namespace) => Some(subjects.publish_filter(stage, namespace)),
            Self::Hook(_) => None,
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rpc(pattern) => write!(f, "rpc.{pattern}"),
            Self::Send => f.write_str("send"),
            Self::Publish(namespace) => write!(f, "pub.{namespace}"),
            Self::Hook(event) => write!(f, "hook.{}", event.as_str()),
        }
    }
}

impl<'de> Deserialize<'de> for Match {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hook = |name: &str| Event::ALL.into_iter().find(|event| event.as_str() == name);
        match text.split_once('.') {
            Some(("rpc", pattern)) => pattern.parse().map(Self::Rpc).map_err(D::Error::custom),
            Some(("pub", namespace)) => Ok(Self::Publish(namespace.to_owned())),
            Some(("hook", event)) => hook(event).map(Self::Hook).ok_or_else(|| {
                D::Error::custom(format!(
                    "{text:?} is not a hook: use hook.connect, .refresh, .subscribe, .sub_refresh and .publish"
                ))
            }),
            None if text == "send" => Ok(Self::Send),
            _ => Err(D::Error::custom(format!(
                "{text:?} does not name requests: write \"rpc.<method>\", such as \"rpc.orders.{{id}}.place\", \"send\", \"pub.<namespace>\", or \"hook.<event>\""
            ))),
        }
    }
}
