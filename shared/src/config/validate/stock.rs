//! The checks of what stock handlers need. What only the worker can know, such as whether a statement fits its database, it
//! checks when it starts.

use std::time::Duration;

use super::{Problem, plain, problem};
use crate::config::{Config, Route, Secret, Webhook};

const KIB: u64 = 1024;
/// A burst uses up the calls of so many seconds at most. The broker keeps its counts of calls for twice as long.
const LONGEST_BURST: u32 = 5;

/// Checks every route's tables. Secrets are looked at only where they have been read.
pub(super) fn stock(config: &Config, secrets_are_read: bool) -> Result<(), Problem> {
    rate_limits(config)?;
    for (index, route) in config.routes.iter().enumerate() {
        tables(index, route)?;
        if let Some(webhook) = &route.webhook {
            self::webhook(config, webhook, secrets_are_read)
                .map_err(|(key, text)| (format!("route.{index}.webhook.{key}"), text))?;
            within(webhook.timeout, Duration::from_millis(10), route.timeout)
                .map_err(|text| (format!("route.{index}.webhook.timeout"), text))?;
        }
        if let Some(sql) = &route.sql {
            if sql.statements.is_empty() {
                return problem(format!("route.{index}.sql.statements"), "is empty: write a statement");
            }
            within(sql.keep, Duration::from_hours(1), Duration::from_hours(24 * 3650))
                .map_err(|text| (format!("route.{index}.sql.keep"), text))?;
        }
        if let Some(forward) = &route.forward {
            let subject = &forward.subject;
            let word = |word: &str| !word.is_empty() && !word.contains(['*', '>', ' ', '\t', '\r', '\n']);
            if !subject.split('.').all(word) || subject.starts_with('$') {
                let text = format!("{subject:?} is not the subject of a service: write it without wildcards");
                return problem(format!("route.{index}.forward.subject"), text);
            }
            if subject.split('.').next() == Some(config.nats.prefix.as_str()) {
                let text = format!("{subject:?} belongs to Tidegate: forward to a service of your own");
                return problem(format!("route.{index}.forward.subject"), text);
            }
            within(forward.timeout, Duration::from_millis(10), route.timeout)
                .map_err(|text| (format!("route.{index}.forward.timeout"), text))?;
        }
    }
    Ok(())
}

/// A handler that needs a table has it, and no other has.
fn tables(index: usize, route: &Route) -> Result<(), Problem> {
    let given = [
        ("webhook", route.webhook.is_some()),
        ("sql", route.sql.is_some()),
        ("forward", route.forward.is_some()),
    ];
    for (name, given) in given {
        match (route.handler.as_deref() == Some(name), given) {
            (true, false) => {
                return problem(
                    format!("route.{index}.{name}"),
                    format!(
                        "is missing: the handler {name:?} needs a table [route.{name}] behind its [[route]]"
                    ),
                );
            }
            (false, true) => {
                return problem(
                    format!("route.{index}.{name}"),
                    format!("belongs to handler = {name:?}: set it, or remove the table"),
                );
            }
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

fn webhook(config: &Config, webhook: &Webhook, secrets_are_read: bool) -> Result<(), Problem> {
    let url = &webhook.url;
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
    else {
        return problem("url", format!("{url:?} is not an address: write https://host/path"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains(['{', '}']) {
        return problem(
            "url",
            "has a field in its host: only path and query may have fields, so that no client chooses the host",
        );
    }
    if authority.contains('@') {
        return problem(
            "url",
            "has a user or password: send them in a header, as headers = { authorization = \"env:NAME\" }",
        );
    }
    if authority.is_empty() || url.contains('#') {
        return problem("url", format!("{url:?} is not an address: write {scheme}://host/path, without #"));
    }
    if !(KIB..=64 * KIB * KIB).contains(&webhook.max_bytes) {
        return problem("max_bytes", "must be between 1 KiB and 64 MiB");
    }
    let breaker = webhook.breaker;
    if breaker.failures == 0 {
        return problem("breaker.failures", "must be at least 1");
    }
    let hour = Duration::from_hours(1);
    for (key, value) in [("breaker.window", breaker.window), ("breaker.open", breaker.open)] {
        within(value, Duration::from_millis(10), hour).map_err(|text| (key.to_owned(), text))?;
    }
    if let Some(name) = &webhook.rate_limit
        && !config.rate_limits.iter().any(|limit| limit.name == *name)
    {
        return problem("rate_limit", format!("there is no [[rate_limit]] with name = {name:?}"));
    }
    for (place, secret) in webhook.secrets.iter().enumerate().filter(|_| secrets_are_read) {
        signing(secret).map_err(|text| (format!("secrets.{place}"), text))?;
    }
    Ok(())
}

/// A secret of Standard Webhooks: `whsec_` and base64 of 24 to 64 bytes.
fn signing(secret: &Secret) -> Result<(), String> {
    const SHAPE: &str = "write whsec_ and what `openssl rand -base64 32` prints, or env:NAME, or file:PATH";
    let Some(text) = secret.expose().strip_prefix("whsec_") else {
        return Err(format!("does not begin with whsec_: {SHAPE}"));
    };
    let bytes = data_encoding::BASE64
        .decode(text.as_bytes())
        .map_err(|_| format!("has no base64 behind whsec_: {SHAPE}"))?;
    if (24..=64).contains(&bytes.len()) {
        return Ok(());
    }
    Err(format!("has {} bytes, and must have 24 to 64: {SHAPE}", bytes.len()))
}

fn rate_limits(config: &Config) -> Result<(), Problem> {
    for (index, limit) in config.rate_limits.iter().enumerate() {
        let key = |field: &str| format!("rate_limit.{index}.{field}");
        if !plain(&limit.name) {
            let text = format!("{:?} is not a name: use letters, digits, `_` and `-`", limit.name);
            return problem(key("name"), text);
        }
        if config.rate_limits.iter().take(index).any(|other| other.name == limit.name) {
            return problem(key("name"), format!("the rate limit {:?} is declared twice", limit.name));
        }
        for (field, value) in [("per_second", limit.per_second), ("burst", limit.burst)] {
            if !(1..=1_000_000).contains(&value) {
                return problem(key(field), "must be between 1 and 1000000");
            }
        }
        if limit.burst > limit.per_second.saturating_mul(LONGEST_BURST) {
            let text = format!("must be at most {LONGEST_BURST} times per_second: more never come at once");
            return problem(key("burst"), text);
        }
    }
    Ok(())
}

fn within(value: Duration, least: Duration, most: Duration) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let text = humantime::format_duration;
    Err(format!("is {}, and must be between {} and {}", text(value), text(least), text(most)))
}
