//! The checks of `[[test]]`: what the back end of a test answers can be sent over HTTP, and what it is asked can come.

use super::{Problem, problem};
use crate::config::{Config, Exchange};

/// Checks what the receivers of tests answer.
pub(super) fn receivers(config: &Config) -> Result<(), Problem> {
    for (place, test) in config.tests.iter().enumerate() {
        for (call, exchange) in test.receiver.iter().enumerate() {
            receiver(exchange)
                .map_err(|(key, text)| (format!("test.{place}.receiver.{call}.{key}"), text))?;
        }
    }
    Ok(())
}

fn receiver(exchange: &Exchange) -> Result<(), Problem> {
    if !(200..=599).contains(&exchange.status) {
        let text = format!("{} is no status of a response: write one from 200 to 599", exchange.status);
        return problem("status", text);
    }
    for name in exchange.headers.keys() {
        check_name("headers", name)?;
    }
    for (name, value) in &exchange.response_headers {
        check_name("response_headers", name)?;
        if value.chars().any(|c| c != '\t' && !(' '..='~').contains(&c)) {
            let text = format!("{value:?} cannot be sent in a header: use printable ASCII");
            return problem(format!("response_headers.{name}"), text);
        }
    }
    Ok(())
}

fn check_name(key: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(());
    }
    problem(key, format!("{name:?} is no name of a header: use letters, digits and `-`"))
}
