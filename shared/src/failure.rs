//! Errors as a program prints them: what went wrong, and the next step.

use std::io::{self, ErrorKind};

/// What the NATS library says when nothing answers JetStream's requests.
const NO_JETSTREAM: &str = "requested JetStream resource does not exist";
const START_IT: &str = "this NATS server has no JetStream, or none for this user: start it with nats.conf";

/// Returns an error with its causes and, where an error of the operating system or a NATS server without JetStream caused it, with the next step.
pub fn text(error: &anyhow::Error) -> String {
    let text = without_number(&format!("{error:#}"));
    let system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    let step = system
        .and_then(|error| next(error.kind()))
        .or_else(|| text.contains(NO_JETSTREAM).then_some(START_IT));
    step.map_or_else(|| text.clone(), |step| format!("{text}: {step}"))
}

/// Returns an error of the operating system with the next step.
pub fn reason(error: &io::Error) -> String {
    let text = without_number(&error.to_string());
    next(error.kind()).map_or_else(|| text.clone(), |step| format!("{text}: {step}"))
}

/// Removes the numbers of the operating system's errors, which the words in front of them explain already.
pub fn without_number(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(NUMBER) {
        plain.push_str(before);
        let number = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
        rest = if let Some(end) = number.strip_prefix(')') {
            end
        } else {
            plain.push_str(NUMBER);
            after
        };
    }
    plain + rest
}

fn next(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound => "check the path",
        ErrorKind::AlreadyExists => "something else is at this path; remove it, or choose another",
        ErrorKind::PermissionDenied => "give this process's user the right to it, or choose another",
        ErrorKind::AddrInUse => "another process listens there; stop it, or choose another address",
        ErrorKind::AddrNotAvailable => "this machine has no such address; choose one that it has",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        ErrorKind::ReadOnlyFilesystem => "choose a place that can be written",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidData => {
            "check what is at this path"
        }
        ErrorKind::ConnectionRefused => "start what listens there, or check the address",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_systems_error_has_words_and_the_next_step_and_no_number() {
        for (number, step) in [
            (2, "check the path"),
            (13, "the right to it"),
            (17, "choose another"),
            (98, "another process listens there"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            for text in [reason(&error), text(&Err::<(), _>(error).context("reading x").unwrap_err())] {
                assert!(!text.contains("os error") && text.contains(step), "{text}");
            }
        }
        assert_eq!(without_number("a (os error 2): b (os error 13) (os error x)"), "a: b (os error x)");
        assert_eq!(text(&anyhow::anyhow!("refused")), "refused");
        let library = anyhow::anyhow!("request error: {NO_JETSTREAM}");
        assert!(text(&library.context("reading stream TIDE_IN")).ends_with(START_IT));
    }
}
