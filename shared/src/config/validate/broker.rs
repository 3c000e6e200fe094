//! The checks of `[nats]` and `[log]`: what the libraries behind them would misread.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use super::{Problem, problem};
use crate::config::Config;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
const SCHEMES: [&str; 4] = ["nats", "tls", "ws", "wss"];

pub(super) fn nats(config: &Config) -> Result<(), Problem> {
    for server in config.nats.url.split(',') {
        if let Some(text) = mistake(server.trim()) {
            return problem("nats.url", text);
        }
    }
    let nats = &config.nats;
    for (key, user) in [
        ("gateway", &nats.gateway),
        ("worker", &nats.worker),
        ("service", &nats.service),
        ("setup", &nats.setup),
    ] {
        // Part of the subject of its inboxes.
        if !super::plain(&user.user) {
            return problem(format!("nats.{key}.user"), "use letters, digits, `_` and `-` only");
        }
    }
    Ok(())
}

/// Why no server can have this URL, and what to write. Never repeats a URL that may hold a password.
fn mistake(url: &str) -> Option<String> {
    const SHAPE: &str = "write \"nats://host:4222\", and several servers separated by commas";
    if url.is_empty() {
        return Some(format!("a server is missing: {SHAPE}"));
    }
    if url.contains('@') {
        return Some(
            "a server's URL has no user and password here: each program has its own, nats.<program>.user and \
             nats.<program>.password"
                .to_owned(),
        );
    }
    let (scheme, host) = url.split_once("://").unwrap_or(("nats", url));
    if !SCHEMES.contains(&scheme) {
        return Some(format!("{url:?} has the scheme {scheme:?}, which no NATS server speaks: {SHAPE}"));
    }
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') || host.contains(char::is_whitespace) {
        return Some(format!("{url:?} names no host: {SHAPE}"));
    }
    let error = async_nats::ServerAddr::from_str(url).err()?;
    Some(format!("{url:?} is not the URL of a NATS server ({error}): {SHAPE}"))
}

pub(super) fn log(config: &Config) -> Result<(), Problem> {
    let level = &config.log.level;
    let shape =
        "write error, warn, info, debug, trace or off, or a filter such as \"info,tidegate_gateway=debug\"";
    if level.trim().is_empty() {
        return problem("log.level", format!("is empty: {shape}"));
    }
    // The library takes a word that is no level for the name of a module, and logs nothing else.
    let lone = level.split(',').map(str::trim).find(|part| {
        let word = part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        word && !LEVELS.contains(&part.to_ascii_lowercase().as_str())
    });
    if let Some(word) = lone {
        return problem("log.level", format!("{word:?} is not a level: {shape}"));
    }
    match EnvFilter::try_new(level) {
        Ok(_) => Ok(()),
        Err(error) => problem("log.level", format!("{level:?} is not a filter ({error}): {shape}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_no_server_can_have_is_a_mistake_and_a_password_in_it_is_not_shown() {
        for good in [
            "nats://127.0.0.1:4222",
            "nats://nats",
            "127.0.0.1:4222",
            "nats.example.com",
            "tls://nats.example.com:4443",
            "ws://nats.example.com:80",
            "wss://nats.example.com",
            "nats://[::1]:4222",
        ] {
            assert_eq!(mistake(good), None, "{good}");
        }
        for (bad, advice) in [
            ("", "missing"),
            ("nats://", "names no host"),
            ("nats://:4222", "names no host"),
            ("nats://a b:4222", "names no host"),
            ("http://nats:4222", "scheme \"http\""),
            ("nats://127.0.0.1:99999", "not the URL"),
            ("nats://127.0.0.1:port", "not the URL"),
            ("nats://user:hunter2@127.0.0.1", "nats.<program>.password"),
        ] {
            let said = mistake(bad).unwrap_or_default();
            assert!(said.contains(advice) && !said.contains("hunter2"), "{bad:?}: {said:?}");
        }
    }
}
