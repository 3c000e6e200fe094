//! The checks of a configuration that its types cannot express. Each error names the key it is about.

use std::time::Duration;

use super::{AnswerMode, Config, Environment, Match, Role, STOCK_HANDLERS, order};
use crate::token::Token;

mod bounds;
mod broker;
mod door;
mod durations;
mod handler_tests;
mod namespaces;
mod origins;
mod secrets;
mod stock;
pub(super) mod tokens;

type Problem = (String, String);

/// Checks the configuration for one reader. What gateways, workers and `tidegate apply` must agree on is checked for each.
pub(super) fn validate(config: &Config, role: Role) -> Result<(), Problem> {
    bounds::bounds(config)?;
    broker::log(config)?;
    broker::nats(config)?;
    names(config)?;
    routes(config)?;
    namespaces::publishes(config)?;
    limits(config)?;
    durations::answers(config)?;
    hooks(config)?;
    stock::stock(config, role.works())?;
    handler_tests::receivers(config)?;
    if role == Role::All {
        handlers(config)?;
    }
    if role.serves() {
        tokens::auth(config)?;
        tokens::issuers(config)?;
        origins::origins(config)?;
        door::proxies(config)?;
        door::tls(config)?;
        door::sizes(config)?;
    }
    match config.env {
        Environment::Development if role.serves() => development(config),
        Environment::Development => Ok(()),
        Environment::Production => secrets::production(config, role),
    }
}

fn problem<T>(key: impl Into<String>, text: impl Into<String>) -> Result<T, Problem> {
    Err((key.into(), text.into()))
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && Token::encode(name).as_str() == name
}

fn names(config: &Config) -> Result<(), Problem> {
    if !plain(&config.nats.prefix) {
        return problem("nats.prefix", "use letters, digits, `_` and `-` only");
    }
    if !plain(&config.worker.service) {
        return problem("worker.service", "use letters, digits, `_` and `-` only");
    }
    namespaces::namespaces(config)
}

fn hooks(config: &Config) -> Result<(), Problem> {
    if !(Duration::from_millis(10)..=Duration::from_secs(5)).contains(&config.hooks.deadline) {
        return problem("hooks.deadline", "must be between 10ms and 5s: SDKs give up after 5s");
    }
    if config.hooks.cache > Duration::from_hours(1) {
        return problem("hooks.cache", "must be at most 1h: an older decision may be outdated");
    }
    Ok(())
}

fn routes(config: &Config) -> Result<(), Problem> {
    for (index, route) in config.routes.iter().enumerate() {
        let key = |field: &str| format!("route.{index}.{field}");
        if !plain(&route.name) {
            return problem(
                key("name"),
                format!("{:?} is not a route's name: use letters, digits, `_` and `-`", route.name),
            );
        }
        if route.concurrency == 0 || route.concurrency > 4096 {
            return problem(key("concurrency"), "must be between 1 and 4096");
        }
        if matches!(route.matches, Match::Hook(_)) && route.answer == AnswerMode::Later {
            return problem(key("answer"), "must be \"wait\": a gateway waits for the decision of a hook");
        }
        if matches!(route.matches, Match::Hook(_)) && !route.max_age.is_zero() {
            return problem(key("max_age"), "must be \"0s\": no stream stores the questions of hooks");
        }
        if route.cancel_when_gone
            && (!matches!(route.matches, Match::Rpc(_)) || route.answer == AnswerMode::Later)
        {
            return problem(
                key("cancel_when_gone"),
                "is for rpc routes with answer = \"wait\": nobody waits for other requests",
            );
        }
        if route.progress && matches!(route.matches, Match::Hook(_)) {
            return problem(key("progress"), "is not for hooks: a gateway waits for the decision");
        }
        if let Some((field, text)) = order::check(route) {
            return problem(key(field), text);
        }
        if matches!(&route.matches, Match::Rpc(pattern) if pattern.begins_with("tide")) {
            return problem(key("match"), "the methods that begin with `tide.` are the gateway's own");
        }
        if route.max_attempts == 0 {
            return problem(key("max_attempts"), "must be at least 1");
        }
        if route.backoff.base > route.backoff.cap {
            return problem(key("backoff.base"), "must not be longer than backoff.cap");
        }
        for other in config.routes.iter().take(index) {
            if other.name == route.name {
                return problem(key("name"), format!("the route {:?} is declared twice", route.name));
            }
            if other.matches.overlaps(&route.matches) {
                return problem(
                    key("match"),
                    format!(
                        "{} overlaps with the route {:?} ({}): a request must match one route only",
                        route.matches, other.name, other.matches
                    ),
                );
            }
        }
    }
    Ok(())
}

fn limits(config: &Config) -> Result<(), Problem> {
    let (gateway, text) = (&config.gateway, humantime::format_duration);
    if gateway.pong_timeout >= gateway.ping_interval {
        let interval = text(gateway.ping_interval);
        return problem(
            "gateway.pong_timeout",
            format!(
                "is {}, and has to be shorter than gateway.ping_interval, which is {interval}",
                text(gateway.pong_timeout)
            ),
        );
    }
    if gateway.drain.settle < gateway.answer_timeout {
        return problem(
            "gateway.drain.settle",
            format!(
                "is {}, and has to be at least gateway.answer_timeout, which is {}, so that every waiting request gets its \
                 answer or error 1001",
                text(gateway.drain.settle),
                text(gateway.answer_timeout)
            ),
        );
    }
    let lease = config.presence.lease;
    if !(1..=300).contains(&lease.as_secs()) || lease.subsec_nanos() > 0 {
        return problem("presence.lease", "must be whole seconds between 1s and 5m");
    }
    if !(1024..=16 * 1024 * 1024).contains(&config.api.request) {
        return problem("api.request", "must be between 1 KiB and 16 MiB");
    }
    if !(1..=5).contains(&config.streams.replicas) {
        return problem("streams.replicas", "must be between 1 and 5");
    }
    Ok(())
}

fn development(config: &Config) -> Result<(), Problem> {
    for (key, address) in
        [("gateway.listen", config.gateway.listen), ("gateway.internal", config.gateway.internal)]
    {
        if !address.ip().is_loopback() {
            return problem(
                key,
                format!(
                    "{address} is not loopback, and env = \"development\" accepts the public default secrets: listen on loopback, or set env = \"production\" and your own secrets"
                ),
            );
        }
    }
    Ok(())
}

fn handlers(config: &Config) -> Result<(), Problem> {
    for (index, route) in config.routes.iter().enumerate() {
        let Some(handler) = route.handler.as_deref().filter(|handler| !STOCK_HANDLERS.contains(handler))
        else {
            continue;
        };
        return problem(
            format!("route.{index}.handler"),
            format!(
                "there is no handler {handler:?} in the stock worker; there are {}; leave it out for workers of your own",
                STOCK_HANDLERS.join(", ")
            ),
        );
    }
    Ok(())
}
