//! `[route.webhook]`, `[route.sql]` and `[route.forward]`: what the stock handlers of these names need; `[[rate_limit]]`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Config, Role, unit, unit::Secret};
use crate::failure;

/// What a secret begins with that is in an environment variable.
const VARIABLE: &str = "env:";
/// What signs the requests of tests: a secret that everybody knows.
const SIGNING: &str = "whsec_dGlkZWdhdGUgdGVzdHMgc2lnbiB3aXRoIHRoaXM=";
/// What a test has in place of the address of a database that is in a variable or a file.
pub const UNKNOWN_DATABASE: &str = "unknown:";
/// What a secret begins with that is in a file.
const FILE: &str = "file:";

/// The stock handler `webhook`: requests an HTTP back end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The address. Its path and query may have fields in braces.
    pub url: String,
    /// The HTTP method.
    #[serde(default)]
    pub method: WebhookMethod,
    /// What signs the requests. With several, each signs: that is how they are changed.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// The body to send, with fields in braces. Without it the request's own body is sent.
    #[serde(default)]
    pub body: Option<String>,
    /// The content type of `body`.
    #[serde(default = "content_type")]
    pub content_type: String,
    /// How long one response may take.
    #[serde(default = "webhook_timeout", with = "unit::duration")]
    pub timeout: Duration,
    /// The longest response.
    #[serde(default = "webhook_max_bytes", with = "unit::size")]
    pub max_bytes: u64,
    /// What a status from 400 to 499 means.
    #[serde(default)]
    pub status_4xx: Refusal,
    /// The networks of private addresses that the host may be in.
    #[serde(default)]
    pub allow: Vec<String>,
    /// The name of the `[[rate_limit]]` that its calls count for.
    #[serde(default)]
    pub rate_limit: Option<String>,
    /// When calls stop because they fail.
    #[serde(default)]
    pub breaker: Breaker,
}

/// The HTTP method of a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WebhookMethod {
    /// POST.
    #[default]
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
}

/// What happens to a request that another system refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// The caller gets an error.
    #[default]
    Reject,
    /// The request becomes a dead letter.
    Dead,
}

/// When calls of a webhook stop: after `failures` within `window`, for `open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// How many calls have to fail.
    pub failures: u32,
    /// Within how long.
    #[serde(with = "unit::duration")]
    pub window: Duration,
    /// How long the route pulls nothing then.
    #[serde(with = "unit::duration")]
    pub open: Duration,
}

/// The stock handler `sql`: runs statements in a database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// `sqlite:<file>` or `postgres://...`.
    pub url: Secret,
    /// The statements, which run in one transaction.
    pub statements: Vec<String>,
    /// What the result of the last statement becomes.
    #[serde(default)]
    pub answer: SqlAnswer,
    /// Whether a request whose transaction was committed never runs again: its answer is in the table `tide_inbox`.
    #[serde(default = "yes")]
    pub once: bool,
    /// How long the table `tide_inbox` keeps a request.
    #[serde(default = "keep", with = "unit::duration")]
    pub keep: Duration,
    /// The folder of `.sql` files that are run once each, in the order of their names.
    #[serde(default)]
    pub migrations: Option<PathBuf>,
    /// What the violation of a constraint means.
    #[serde(default)]
    pub violation: Refusal,
}

/// What the result of a statement becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqlAnswer {
    /// An empty answer.
    #[default]
    None,
    /// The first row as an object, or `null`.
    Row,
    /// All rows as a list of objects.
    Rows,
    /// The number of rows that were changed.
    Count,
}

/// The stock handler `forward`: requests a service over core NATS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The service's subject.
    pub subject: String,
    /// How long the service may take.
    #[serde(default = "forward_timeout", with = "unit::duration")]
    pub timeout: Duration,
}

/// `[[rate_limit]]`: calls a second that all workers together make, of all routes that name it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The name that routes use.
    pub name: String,
    /// Calls a second.
    pub per_second: u32,
    /// How many of them may come at once.
    #[serde(default = "one")]
    pub burst: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 10, window: Duration::from_secs(30), open: Duration::from_secs(15) }
    }
}

impl WebhookMethod {
    /// The name in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

fn content_type() -> String {
    "application/json".to_owned()
}

fn webhook_timeout() -> Duration {
    Duration::from_secs(15)
}

fn webhook_max_bytes() -> u64 {
    256 << 10
}

fn forward_timeout() -> Duration {
    Duration::from_secs(5)
}

fn keep() -> Duration {
    Duration::from_hours(30 * 24)
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

/// Replaces the secrets of stock handlers that are in environment variables and files by their values.
pub(super) fn read_secrets(config: &mut Config, role: Role) -> Result<(), (String, String)> {
    let read = |secret: &mut Secret, harmless: &str| {
        if role == Role::Tester {
            replace(secret, harmless);
            return Ok(());
        }
        read(secret)
    };
    for (index, route) in config.routes.iter_mut().enumerate() {
        if let Some(webhook) = &mut route.webhook {
            for (place, secret) in webhook.secrets.iter_mut().enumerate() {
                read(secret, SIGNING)
                    .map_err(|text| (format!("route.{index}.webhook.secrets.{place}"), text))?;
            }
            for (name, value) in &mut webhook.headers {
                read(value, "secret")
                    .map_err(|text| (format!("route.{index}.webhook.headers.{name}"), text))?;
            }
        }
        if let Some(sql) = &mut route.sql {
            read(&mut sql.url, UNKNOWN_DATABASE).map_err(|text| (format!("route.{index}.sql.url"), text))?;
        }
    }
    Ok(())
}

/// A test has a value for a secret that is elsewhere.
fn replace(secret: &mut Secret, value: &str) {
    if secret.expose().starts_with(VARIABLE) || secret.expose().starts_with(FILE) {
        *secret = Secret::new(value);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the configuration: the file names the variable of a secret"
)]
fn read(secret: &mut Secret) -> Result<(), String> {
    let text = secret.expose();
    let value = if let Some(name) = text.strip_prefix(VARIABLE) {
        std::env::var(name).map_err(|_| format!("the environment variable {name} is not set: set it"))?
    } else if let Some(path) = text.strip_prefix(FILE) {
        std::fs::read_to_string(path)
            .map_err(|error| format!("{path} cannot be read: {}", failure::reason(&error)))?
    } else {
        return Ok(());
    };
    let value = value.trim_end_matches(['\n', '\r']);
    if value.is_empty() {
        return Err(format!("{text} is empty: write the value into it"));
    }
    *secret = Secret::new(value);
    Ok(())
}
