//! The bounds of every duration, size and number: a value beyond them stops a program or takes its limits away.

use std::time::Duration;

use super::{Problem, problem};
use crate::config::Config;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);
/// The shortest age and window that NATS accepts.
const SHORTEST_AGE: Duration = Duration::from_millis(100);

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = 1024 * 1024 * MIB;

/// The largest number of anything that is counted. Structures are allocated for some of them.
const MANY: usize = 1_000_000;

pub(super) fn bounds(config: &Config) -> Result<(), Problem> {
    for (key, value, least, most) in durations(config) {
        within(key, value, least, most, |value| humantime::format_duration(value).to_string())?;
    }
    for (key, value, least, most) in sizes(config) {
        within(key, value, least, most, |value| bytesize::ByteSize(value).to_string())?;
    }
    for (key, value) in counts(config) {
        within(key, value, 1, MANY, |value| value.to_string())?;
    }
    let limits = &config.gateway.limits;
    // A subject has no room for a longer name, and JSON is decoded by recursion.
    let lengths = [("channel_name", limits.channel_name, 1, 255), ("json_depth", limits.json_depth, 8, 128)];
    for (key, value, least, most) in lengths {
        within(&format!("gateway.limits.{key}"), value, least, most, |value| value.to_string())?;
    }
    for (key, percent) in [("user_share", limits.user_share), ("anonymous_share", limits.anonymous_share)] {
        within(&format!("gateway.limits.{key}"), percent, 1, 100, |percent| format!("{percent} percent"))?;
    }
    tables(config)
}

fn durations(config: &Config) -> Vec<(&'static str, Duration, Duration, Duration)> {
    let (nats, streams, gateway, auth) = (&config.nats, &config.streams, &config.gateway, &config.auth);
    let (limits, drain, worker) = (&gateway.limits, &gateway.drain, &config.worker);
    vec![
        ("nats.ack_timeout", nats.ack_timeout, 10 * MILLISECOND, MINUTE),
        ("nats.ping_interval", nats.ping_interval, SHORTEST_AGE, HOUR),
        ("streams.duplicate_window", streams.duplicate_window, SHORTEST_AGE, 24 * HOUR),
        ("streams.result_ttl", streams.result_ttl, SECOND, YEAR),
        ("streams.last_ttl", streams.last_ttl, SECOND, 10 * YEAR),
        ("streams.dead_max_age", streams.dead_max_age, SECOND, 10 * YEAR),
        ("gateway.answer_timeout", gateway.answer_timeout, 10 * MILLISECOND, HOUR),
        // The protocol announces whole seconds.
        ("gateway.ping_interval", gateway.ping_interval, SECOND, HOUR),
        ("gateway.pong_timeout", gateway.pong_timeout, SHORTEST_AGE, HOUR),
        ("gateway.limits.handshake", limits.handshake, SHORTEST_AGE, HOUR),
        ("gateway.limits.first_frame", limits.first_frame, SHORTEST_AGE, HOUR),
        ("gateway.tls.reload", gateway.tls.reload, SHORTEST_AGE, HOUR),
        ("gateway.drain.settle", drain.settle, Duration::ZERO, HOUR),
        ("gateway.drain.window", drain.window, Duration::ZERO, HOUR),
        ("auth.refresh_grace", auth.refresh_grace, Duration::ZERO, 24 * HOUR),
        ("worker.ack_wait", worker.ack_wait, SHORTEST_AGE, HOUR),
        ("worker.drain", worker.drain, Duration::ZERO, HOUR),
        ("purger.interval", config.purger.interval, 10 * MILLISECOND, 10 * SECOND),
    ]
}

/// To NATS a limit of 0 bytes is none.
fn sizes(config: &Config) -> Vec<(&'static str, u64, u64, u64)> {
    let (streams, limits) = (&config.streams, &config.gateway.limits);
    vec![
        ("streams.reply_max_bytes", streams.reply_max_bytes, KIB, 1024 * TIB),
        ("streams.answer_max_bytes", streams.answer_max_bytes, KIB, 1024 * MIB),
        ("streams.dead_max_bytes", streams.dead_max_bytes, KIB, 1024 * TIB),
        ("streams.last_max_bytes", streams.last_max_bytes, KIB, 1024 * TIB),
        // A request has to fit into a message of the broker.
        ("gateway.limits.message", limits.message, 128, 512 * KIB),
        ("gateway.limits.outbox", limits.outbox, KIB, 1024 * MIB),
        ("gateway.limits.buffered_total", limits.buffered_total, KIB, TIB),
        ("gateway.limits.header_bytes", limits.header_bytes, KIB, MIB),
    ]
}

fn counts(config: &Config) -> [(&'static str, usize); 13] {
    let limits = &config.gateway.limits;
    [
        ("gateway.limits.connections", limits.connections),
        ("gateway.limits.connections_per_address", limits.connections_per_address),
        ("gateway.limits.connections_per_user", limits.connections_per_user),
        ("gateway.limits.messages_per_second", limits.messages_per_second),
        ("gateway.limits.user_messages_per_second", limits.user_messages_per_second),
        ("gateway.limits.commands_per_message", limits.commands_per_message),
        ("gateway.limits.max_in_flight", limits.max_in_flight),
        ("gateway.limits.max_waiting", limits.max_waiting),
        ("gateway.limits.max_in_flight_total", limits.max_in_flight_total),
        ("gateway.limits.user_requests", limits.user_requests),
        ("gateway.limits.anonymous_requests", limits.anonymous_requests),
        ("gateway.limits.channels", limits.channels),
        ("gateway.limits.recovery", limits.recovery),
    ]
}

fn tables(config: &Config) -> Result<(), Problem> {
    let text = |value: Duration| humantime::format_duration(value).to_string();
    for (index, namespace) in config.namespaces.iter().enumerate() {
        let key = format!("namespace.{index}.history_ttl");
        within(&key, namespace.history_ttl, SHORTEST_AGE, 10 * YEAR, text)?;
        if let Some(window) = namespace.duplicate_window {
            let key = format!("namespace.{index}.duplicate_window");
            within(&key, window, SHORTEST_AGE, 24 * HOUR, text)?;
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        let key = |field: &str| format!("route.{index}.{field}");
        let size = |bytes| bytesize::ByteSize(bytes).to_string();
        within(&key("max_bytes"), route.max_bytes, KIB, 1024 * TIB, size)?;
        within(&key("max_age"), route.max_age, Duration::ZERO, YEAR, text)?;
        within(&key("timeout"), route.timeout, MILLISECOND, 24 * HOUR, text)?;
        within(&key("backoff.base"), route.backoff.base, Duration::ZERO, YEAR, text)?;
        within(&key("backoff.cap"), route.backoff.cap, Duration::ZERO, YEAR, text)?;
    }
    Ok(())
}

fn within<T: PartialOrd + Copy>(
    key: &str,
    value: T,
    least: T,
    most: T,
    text: impl Fn(T) -> String,
) -> Result<(), Problem> {
    if value < least || value > most {
        return problem(
            key,
            format!("must be between {} and {}, and is {}", text(least), text(most), text(value)),
        );
    }
    Ok(())
}
