//! Configuration: built-in defaults < `tidegate.toml` < `TIDEGATE_<SECTION>__<KEY>` < flags.
//!
//! The defaults are the commented file `config/default.toml` itself, so that file cannot lie. Nothing else in the product
//! reads the environment. Every error names the key, where its value came from, and the way out.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Deserialize;

use self::layers::{Named, explain, merge_variable, source_of};
pub use self::{
    issuer::{Issuer, KeySource, SHORT_FORM, TokenAlgorithm},
    namespace::{Audience, Fanout, Namespace, PublishMode, Recovery, Storage},
    route::{AnswerMode, Backoff, Match, Route},
    unit::Secret,
};
use crate::subject::Subjects;

mod issuer;
mod layers;
mod namespace;
mod route;
mod unit;
mod validate;

/// Every key with its default and what it means: the reference of the configuration.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");
/// The prefix of environment variables.
pub const ENV_PREFIX: &str = "TIDEGATE_";
/// The environment variable that names the configuration file; itself not a key.
pub const FILE_VARIABLE: &str = "TIDEGATE_CONFIG";

/// The whole configuration, shared by gateway, worker and command line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether secrets and listeners have to be fit for the world.
    pub env: Environment,
    /// Logging.
    pub log: LogConfig,
    /// The broker.
    pub nats: NatsConfig,
    /// The streams.
    pub streams: StreamsConfig,
    /// The gateway.
    pub gateway: GatewayConfig,
    /// Who is in the channels.
    pub presence: PresenceConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// What back ends are asked.
    pub hooks: HooksConfig,
    /// Whose tokens are accepted besides those `auth` describes.
    #[serde(default, rename = "issuer")]
    pub issuers: Vec<Issuer>,
    /// The server API.
    pub api: ApiConfig,
    /// The worker program.
    pub worker: WorkerConfig,
    /// The stock handler `quakes`.
    pub quakes: QuakesConfig,
    /// Which channels there are.
    #[serde(default, rename = "namespace")]
    pub namespaces: Vec<Namespace>,
    /// Which requests are taken, and who works on them.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
}

/// Whether this is somebody's machine or the world.
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
    /// What is logged.
    pub level: String,
    /// How it looks.
    pub format: LogFormat,
}

/// How log lines look.
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
    /// How long one PubAck is waited for before the publish is repeated.
    #[serde(with = "unit::duration")]
    pub ack_timeout: Duration,
    /// How often the connection is tested.
    #[serde(with = "unit::duration")]
    pub ping_interval: Duration,
    /// Who the gateway is to the broker.
    pub gateway: NatsUser,
    /// Who the workers are.
    pub worker: NatsUser,
    /// Who a service that publishes to clients is.
    pub service: NatsUser,
    /// Who creates streams and consumers.
    pub setup: NatsUser,
}

/// A user of the broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsUser {
    /// Its name, which is also part of its inbox prefix.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// The streams.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamsConfig {
    /// Copies of every stream: 1 on one server, 3 in a cluster.
    pub replicas: usize,
    /// How much TIDE_IN holds before requests are refused.
    #[serde(with = "unit::size")]
    pub in_max_bytes: u64,
    /// How long the broker remembers the ids of messages that have left a stream.
    #[serde(with = "unit::duration")]
    pub duplicate_window: Duration,
    /// How much TIDE_REPLY holds before answers have to wait.
    #[serde(with = "unit::size")]
    pub reply_max_bytes: u64,
    /// How long the answer to a keyed or later request can be asked for.
    #[serde(with = "unit::duration")]
    pub result_ttl: Duration,
    /// How long the answer to a plain request is kept.
    #[serde(with = "unit::duration")]
    pub plain_result_ttl: Duration,
    /// How much TIDE_DEAD holds.
    #[serde(with = "unit::size")]
    pub dead_max_bytes: u64,
    /// How long a dead letter is kept.
    #[serde(with = "unit::duration")]
    pub dead_max_age: Duration,
}

/// The gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Health and metrics.
    pub internal: SocketAddr,
    /// Which web pages may connect.
    pub origins: Vec<String>,
    /// How long an rpc waits for its answer.
    #[serde(with = "unit::duration")]
    pub answer_timeout: Duration,
    /// How often a client is pinged.
    #[serde(with = "unit::duration")]
    pub ping_interval: Duration,
    /// How long it may take to answer.
    #[serde(with = "unit::duration")]
    pub pong_timeout: Duration,
    /// What one client, and all of them, may use.
    pub limits: LimitsConfig,
    /// How a gateway ends.
    pub drain: DrainConfig,
}

/// What one client, and all of them, may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections of one gateway.
    pub connections: usize,
    /// How long a WebSocket handshake may take.
    #[serde(with = "unit::duration")]
    pub handshake: Duration,
    /// How long a connection may take to authenticate.
    #[serde(with = "unit::duration")]
    pub first_frame: Duration,
    /// The longest message a client may send.
    #[serde(with = "unit::size")]
    pub message: u64,
    /// Commands in one message.
    pub commands_per_message: usize,
    /// What may wait to be written to one client.
    #[serde(with = "unit::size")]
    pub outbox: u64,
    /// Publishes of one client that are not settled; beyond it the socket is not read.
    pub max_in_flight: usize,
    /// Requests of one client that wait for an answer; beyond it they are refused.
    pub max_waiting: usize,
    /// Publishes of all clients that are not settled; beyond it they are refused.
    pub max_in_flight_total: usize,
    /// Channels one client may subscribe to.
    pub channels: usize,
    /// Publications one reply may bring.
    pub recovery: usize,
}

/// How a gateway ends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainConfig {
    /// How long publishes and waiting requests may take to settle.
    #[serde(with = "unit::duration")]
    pub settle: Duration,
    /// How long closing the connections is spread over.
    #[serde(with = "unit::duration")]
    pub window: Duration,
}

/// Who is in the channels.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresenceConfig {
    /// How long after a gateway's last sign of life its clients count as gone.
    #[serde(with = "unit::duration")]
    pub lease: Duration,
}

/// Who may connect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The key that signs tokens (HS256); empty when only `[[issuer]]`s do.
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
    /// What a caller of the HTTP door has to know; empty when that door is closed.
    pub key: Secret,
    /// The longest request.
    #[serde(with = "unit::size")]
    pub request: u64,
}

/// What back ends are asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksConfig {
    /// Whether clients that connect without a token are decided on by a back end.
    pub connect: bool,
    /// Whether a back end prolongs connections, and the subscriptions it has allowed.
    pub refresh: bool,
    /// How long a decision may take.
    #[serde(with = "unit::duration")]
    pub deadline: Duration,
    /// How long what was decided about a user's subscription is kept.
    #[serde(with = "unit::duration")]
    pub cache: Duration,
}

/// The worker program.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The name dead letters are kept under.
    pub service: String,
    /// Health and metrics.
    pub internal: SocketAddr,
    /// How long the broker waits for a sign of life before it gives a request to another worker.
    #[serde(with = "unit::duration")]
    pub ack_wait: Duration,
    /// How long a worker that is asked to stop may finish what it has begun.
    #[serde(with = "unit::duration")]
    pub drain: Duration,
}

/// The stock handler `quakes`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuakesConfig {
    /// The SQLite file earthquakes are stored in.
    pub database: PathBuf,
}

/// A configuration that cannot be used, in a sentence that says which key, where from, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the configuration: the defaults, then `file` if given, then the environment, then `flags` (`key.path`, value).
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        Self::from_sources(file, std::env::vars().collect(), flags)
    }

    /// The same with the environment as an argument.
    pub fn from_sources(
        file: Option<&Path>,
        variables: BTreeMap<String, String>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
        if let Some(path) = file {
            if !path.is_file() {
                return Err(ConfigError(format!(
                    "no configuration file at {}: name another with --config or {FILE_VARIABLE}, or write one from \
                     `tidegate default-config`",
                    path.display()
                )));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        for (variable, value) in variables {
            let Some(key) = variable.strip_prefix(ENV_PREFIX) else { continue };
            if variable == FILE_VARIABLE {
                continue;
            }
            figment = merge_variable(figment, &variable, key, &value)?;
        }
        for (key, value) in flags {
            figment = figment.merge(Named::new(format!("--{}", key.replace(['.', '_'], "-")), key, value));
        }
        let mut config: Self = figment.extract().map_err(|error| explain(&error))?;
        let read = validate::tokens::read_files(&mut config);
        read.and_then(|()| validate::validate(&config)).map_err(|(key, problem)| {
            // An entry of a table array has the source of the array.
            let whole = key.split('.').next().unwrap_or_default();
            let metadata = figment.find_metadata(&key).or_else(|| figment.find_metadata(whole));
            let source = metadata.map(source_of).unwrap_or_default();
            ConfigError(format!("`{key}`{source}: {problem}"))
        })?;
        Ok(config)
    }

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
