//! Configuration: built-in defaults < `tidegate.toml` < `TIDEGATE_<SECTION>__<KEY>` < flags.
//!
//! The defaults are the commented file `config/default.toml` itself, so its documentation cannot differ from the code. No other
//! code of the product reads the environment. Every error names the key, the source of its value, and the way out.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use self::{
    app::Apps,
    gateway::{DrainConfig, GatewayConfig, LimitsConfig, TlsConfig},
    handler_test::{Exchange, Expected, ExpectedPublication, HandlerTest, TestDatabase},
    issuer::{Issuer, KeySource, SHORT_FORM, TokenAlgorithm},
    load::{log_source, usual_file},
    namespace::{Audience, Fanout, Namespace, PublishMode, Recovery, Storage},
    order::{Order, OrderedBy},
    role::Role,
    route::{AnswerMode, Backoff, Match, Route, STOCK_HANDLERS},
    schema::Schema,
    stock::{Breaker, Forward, RateLimit, Refusal, Sql, SqlAnswer, UNKNOWN_DATABASE, Webhook, WebhookMethod},
    unit::Secret,
};
use crate::subject::Subjects;

mod app;
mod gateway;
mod handler_test;
mod issuer;
mod layers;
mod load;
mod namespace;
mod order;
mod place;
mod role;
mod route;
mod schema;
mod stock;
mod typed;
mod unit;
mod validate;
mod variable;
mod words;

/// Every key with its default and its meaning: the reference of the configuration.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");
/// The prefix of environment variables.
pub const ENV_PREFIX: &str = "TIDEGATE_";
/// The environment variable that names the configuration file. It is not a key.
pub const FILE_VARIABLE: &str = "TIDEGATE_CONFIG";

/// The whole configuration, shared by gateway, worker and command line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether secrets and listeners must be safe for production.
    pub env: Environment,
    /// Logging.
    pub log: LogConfig,
    /// The broker.
    pub nats: NatsConfig,
    /// The streams.
    pub streams: StreamsConfig,
    /// The gateway.
    pub gateway: GatewayConfig,
    /// Presence: the members of channels.
    pub presence: PresenceConfig,
    /// Authentication of clients.
    pub auth: AuthConfig,
    /// The decisions that back ends take.
    pub hooks: HooksConfig,
    /// The issuers of tokens besides the one that `auth` describes.
    #[serde(default, rename = "issuer")]
    pub issuers: Vec<Issuer>,
    /// The server API.
    pub api: ApiConfig,
    /// The worker program.
    pub worker: WorkerConfig,
    /// The purger program.
    pub purger: PurgerConfig,
    /// The stock handler `quakes`.
    pub quakes: QuakesConfig,
    /// The declared namespaces of channels.
    #[serde(default, rename = "namespace")]
    pub namespaces: Vec<Namespace>,
    /// The limits that calls of stock handlers share.
    #[serde(default, rename = "rate_limit")]
    pub rate_limits: Vec<RateLimit>,
    /// The routes of requests to workers.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    /// The tests of stock handlers.
    #[serde(default, rename = "test")]
    pub tests: Vec<HandlerTest>,
    /// The sections of applications: see [`Config::app`].
    #[serde(default, rename = "app")]
    pub apps: Apps,
}

/// The kind of deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Built-in secrets are accepted, listeners stay on loopback.
    Development,
    /// Built-in secrets, wildcard origins and missing authentication are refused.
    Production,
}

/// Logging.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The log level or filter.
    pub level: String,
    /// The format of log lines.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Readable lines.
    Text,
    /// One JSON object a line.
    Json,
}

/// The broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// One URL, or several separated by commas.
    pub url: String,
    /// The first token of every subject.
    pub prefix: String,
    /// How long to wait for a PubAck before the message is published again.
    #[serde(with = "unit::duration")]
    pub ack_timeout: Duration,
    /// How often the connection is tested.
    #[serde(with = "unit::duration")]
    pub ping_interval: Duration,
    /// The gateway's NATS user.
    pub gateway: NatsUser,
    /// The workers' NATS user.
    pub worker: NatsUser,
    /// The purger's NATS user.
    pub purger: NatsUser,
    /// The NATS user of services that publish to clients.
    pub service: NatsUser,
    /// The NATS user that creates streams and consumers.
    pub setup: NatsUser,
    /// The NATS user that may look at streams and consumers and do nothing else.
    pub ops: NatsUser,
}

/// A NATS user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsUser {
    /// The user's name, which is also part of its inbox prefix.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

/// The streams.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamsConfig {
    /// Copies of every stream: 1 on one server, 3 in a cluster.
    pub replicas: usize,
    /// How long the broker remembers the ids of messages that have left a stream.
    #[serde(with = "unit::duration")]
    pub duplicate_window: Duration,
    /// The maximum size of TIDE_REPLY. Before it is full, requests with a key and "later" requests are refused.
    #[serde(with = "unit::size")]
    pub reply_max_bytes: u64,
    /// How long the answer to a keyed or "later" request can be requested again.
    #[serde(with = "unit::duration")]
    pub result_ttl: Duration,
    /// The longest answer that is stored.
    #[serde(with = "unit::size")]
    pub answer_max_bytes: u64,
    /// The maximum size of TIDE_DEAD.
    #[serde(with = "unit::size")]
    pub dead_max_bytes: u64,
    /// How long a dead letter is kept.
    #[serde(with = "unit::duration")]
    pub dead_max_age: Duration,
    /// How long the last message of each channel is known, beyond its history.
    #[serde(with = "unit::duration")]
    pub last_ttl: Duration,
    /// The maximum size of each stream of last messages. When it is full, the oldest messages go.
    #[serde(with = "unit::size")]
    pub last_max_bytes: u64,
}

/// Presence: the members of channels.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresenceConfig {
    /// How long after a gateway's last sign of life its clients count as gone.
    #[serde(with = "unit::duration")]
    pub lease: Duration,
}

/// Authentication of clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The secret that signs tokens (HS256). If empty, only tokens of `[[issuer]]`s are accepted.
    pub hmac_secret: Secret,
    /// The only accepted `iss`, if set.
    pub issuer: String,
    /// The only accepted `aud`, if set.
    pub audience: String,
    /// How much clocks may differ.
    #[serde(with = "unit::duration")]
    pub leeway: Duration,
    /// How long an expired connection may take to bring a fresh token.
    #[serde(with = "unit::duration")]
    pub refresh_grace: Duration,
    /// The longest life of a token. Zero is no limit.
    #[serde(with = "unit::duration")]
    pub max_token_life: Duration,
    /// How often the keys of issuers with a `jwks_url` are fetched.
    #[serde(with = "unit::duration")]
    pub jwks_refresh: Duration,
    /// Whether a client without a token may connect.
    pub anonymous: bool,
}

/// The server API.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// The key that HTTP callers send. If empty, the server API is not served over HTTP.
    pub key: Secret,
    /// The longest request.
    #[serde(with = "unit::size")]
    pub request: u64,
}

/// The decisions that back ends take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksConfig {
    /// Whether a back end decides about clients that connect without a token.
    pub connect: bool,
    /// Whether a back end prolongs connections, and the subscriptions that it has allowed.
    pub refresh: bool,
    /// How long a decision may take.
    #[serde(with = "unit::duration")]
    pub deadline: Duration,
    /// How long a decision about a user's subscription is cached.
    #[serde(with = "unit::duration")]
    pub cache: Duration,
}

/// The worker program.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The service name in the subjects of dead letters.
    pub service: String,
    /// Health and metrics.
    #[serde(with = "unit::address")]
    pub internal: SocketAddr,
    /// How long the broker waits for a sign of life before it redelivers a request to another worker.
    #[serde(with = "unit::duration")]
    pub ack_wait: Duration,
    /// How long a stopping worker may take to finish the work it has started.
    #[serde(with = "unit::duration")]
    pub drain: Duration,
}

/// The purger program.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgerConfig {
    /// Health and metrics.
    #[serde(with = "unit::address")]
    pub internal: SocketAddr,
    /// How often it looks for requests to remove.
    #[serde(with = "unit::duration")]
    pub interval: Duration,
}

/// The stock handler `quakes`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuakesConfig {
    /// The SQLite file earthquakes are stored in.
    pub database: PathBuf,
}

/// A configuration error: one sentence that names the key, its source and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// The subjects of this deployment.
    pub fn subjects(&self) -> Subjects {
        Subjects::new(&self.nats.prefix)
    }

    /// The namespaces, the two that always exist included.
    pub fn all_namespaces(&self) -> Vec<Namespace> {
        let mut all = self.namespaces.clone();
        for builtin in [Namespace::default_namespace(), Namespace::user()] {
            if !all.iter().any(|namespace| namespace.name == builtin.name) {
                all.push(builtin);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
