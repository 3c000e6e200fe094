//! What an error of the broker means for the message that was published.
//!
//! One table, [`API_ERRORS`], has the error codes of JetStream. Direct gets and pulls answer with a status instead of a code,
//! and acknowledgements with nothing; their callers repeat everything that is not an answer.

use std::error::Error;

use async_nats::jetstream::{
    self,
    context::{PublishError, PublishErrorKind},
};

/// Why a message was not stored, or may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many publishes of this process wait for their acknowledgement. The message was not sent: waiting for room would
    /// reorder messages and grow the queue, so the sender is told at once.
    #[error("too many messages wait for the broker")]
    Busy,
    /// The broker is unreachable or has no leader. The message was not stored; a retry can help.
    #[error("the broker does not accept the message now: {0}")]
    Unavailable(String),
    /// The stream is full. The message was not stored.
    #[error("the stream is full")]
    Full,
    /// The stream keeps one message on this subject and has it already.
    #[error("the stream has a message on this subject already")]
    Taken,
    /// It is not known whether the message is stored. Publishing it again with the same id stores it once.
    #[error("no acknowledgement in time")]
    Unknown,
    /// It is not known whether the server has the message, which no stream takes. Publishing it again may publish it twice.
    #[error(
        "the connection was lost, the server was silent, or it reported an error before it confirmed the publication"
    )]
    Unconfirmed,
    /// The message is larger than the broker takes. It was not sent.
    #[error("{what} is too large: {bytes} bytes, and the broker takes at most {limit}")]
    TooLarge {
        /// What is too large: the message or its headers.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The broker rejects this message permanently.
    #[error("the broker rejected the message: {0}")]
    Rejected(String),
}

impl Refusal {
    /// Whether the broker may take the same message a moment later, for whoever goes on until it does. A full stream may too, but
    /// only when something leaves it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Busy | Self::Unavailable(_) | Self::Unknown | Self::Unconfirmed => true,
            Self::Full | Self::Taken | Self::TooLarge { .. } | Self::Rejected(_) => false,
        }
    }
}

/// What an error code of JetStream means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Not stored; the same message may be stored a moment later.
    Retry,
    /// Perhaps stored, or being stored now; only a retry with the same id tells.
    Unknown,
    /// Not stored: another message is in its place already.
    Taken,
    /// Not stored: there is no room.
    Full,
    /// Not stored, and never will be as it is.
    Permanent,
    /// The store's own error; its text says which.
    StoreFailed,
}

/// One error code of JetStream.
#[derive(Debug, Clone, Copy)]
pub struct ApiError {
    /// The server's `err_code`.
    pub code: u64,
    /// The server's text for it.
    pub text: &'static str,
    /// What it means.
    pub meaning: Meaning,
}

const fn row(code: u64, text: &'static str, meaning: Meaning) -> ApiError {
    ApiError { code, text, meaning }
}

/// Every error code that JetStream can answer a publish with, from the server's list (`server/errors.json`). A code that is
/// not here means [`Meaning::Unknown`]: a message is never given up because of an error that Tidegate does not know.
pub const API_ERRORS: &[ApiError] = &[
    row(0, "an error of the consensus layer, such as `raft: not leader`", Meaning::Retry),
    row(10002, "resource limits exceeded for account", Meaning::Full),
    row(10003, "bad request", Meaning::Permanent),
    row(10004, "incomplete results", Meaning::Retry),
    row(10007, "JetStream cluster not assigned to this server", Meaning::Retry),
    row(10008, "JetStream system temporarily unavailable", Meaning::Retry),
    row(10009, "JetStream cluster can not handle request", Meaning::Retry),
    row(10014, "consumer not found", Meaning::Retry),
    row(10023, "insufficient resources", Meaning::Full),
    row(10025, "invalid JSON", Meaning::Permanent),
    row(10028, "insufficient memory resources available", Meaning::Full),
    row(10035, "account not found", Meaning::Retry),
    row(10039, "JetStream not enabled for account", Meaning::Retry),
    row(10041, "general RAFT error", Meaning::Unknown),
    row(10047, "insufficient storage resources available", Meaning::Full),
    row(10051, "general stream failure", Meaning::Unknown),
    row(10054, "message size exceeds maximum allowed", Meaning::Permanent),
    row(10059, "stream not found", Meaning::Retry),
    row(10060, "expected stream does not match", Meaning::Permanent),
    row(10063, "expected stream sequence does not match", Meaning::Permanent),
    row(10070, "wrong last msg ID", Meaning::Taken),
    row(10071, "wrong last sequence", Meaning::Taken),
    row(10076, "JetStream not enabled", Meaning::Retry),
    row(10077, "storing the message failed", Meaning::StoreFailed),
    row(10096, "stream not valid", Meaning::Retry),
    row(10097, "header size exceeds maximum allowed of 64k", Meaning::Permanent),
    row(10109, "invalid operation on sealed stream", Meaning::Permanent),
    row(10111, "rollup failed", Meaning::Permanent),
    row(10118, "stream is offline", Meaning::Retry),
    row(10119, "consumer is offline", Meaning::Retry),
    row(10120, "no JetStream default or applicable tiered limit present", Meaning::Full),
    row(10158, "duplicate message id is in process", Meaning::Unknown),
    row(10163, "expected last sequence per subject temporarily unavailable", Meaning::Retry),
    row(10164, "wrong last sequence", Meaning::Taken),
    row(10165, "invalid per-message TTL", Meaning::Permanent),
    row(10166, "per-message TTL is disabled", Meaning::Permanent),
    row(10167, "too many requests", Meaning::Retry),
    row(10168, "message counters is disabled", Meaning::Permanent),
    row(10169, "message counter increment is missing", Meaning::Permanent),
    row(10170, "message counter has payload", Meaning::Permanent),
    row(10171, "message counter increment is invalid", Meaning::Permanent),
    row(10172, "message counter is broken", Meaning::Permanent),
    row(10174, "atomic publish is disabled", Meaning::Permanent),
    row(10175, "atomic publish sequence is missing", Meaning::Permanent),
    row(10176, "atomic publish batch is incomplete", Meaning::Permanent),
    row(10177, "atomic publish unsupported header used", Meaning::Permanent),
    row(10179, "atomic publish batch ID is invalid", Meaning::Permanent),
    row(10180, "min last sequence", Meaning::Retry),
    row(10188, "message schedules is disabled", Meaning::Permanent),
    row(10189, "message schedules pattern is invalid", Meaning::Permanent),
    row(10190, "message schedules target is invalid", Meaning::Permanent),
    row(10191, "message schedules invalid per-message TTL", Meaning::Permanent),
    row(10192, "message schedules invalid rollup", Meaning::Permanent),
    row(10193, "missing sequence for expected last sequence per subject", Meaning::Permanent),
    row(10194, "stream is offline", Meaning::Retry),
    row(10195, "consumer is offline", Meaning::Retry),
    row(10199, "atomic publish batch is too large", Meaning::Permanent),
    row(10200, "atomic publish batch commit is invalid", Meaning::Permanent),
    row(10201, "atomic publish batch contains duplicate message id", Meaning::Permanent),
    row(10203, "message schedules source is invalid", Meaning::Permanent),
    row(10205, "batch publish is disabled", Meaning::Permanent),
    row(10206, "batch publish pattern is invalid", Meaning::Permanent),
    row(10207, "batch publish ID is invalid", Meaning::Permanent),
    row(10208, "batch publish ID unknown", Meaning::Permanent),
    row(10210, "atomic publish too many inflight", Meaning::Retry),
    row(10211, "batch publish too many inflight", Meaning::Retry),
    row(10212, "message schedules invalid scheduler", Meaning::Permanent),
    row(10223, "message schedules time zone is invalid", Meaning::Permanent),
];

/// The texts of the store's errors (code 10077). Any other, such as `store is closed`, may follow a message that was written.
const STORE_ERRORS: &[(&str, Meaning)] = &[
    ("maximum messages per subject exceeded", Meaning::Taken),
    ("maximum messages exceeded", Meaning::Full),
    ("maximum bytes exceeded", Meaning::Full),
    ("message to large", Meaning::Permanent),
];

/// Looks an error up.
pub(super) fn meaning(code: u64, text: &str) -> Meaning {
    let listed = API_ERRORS.iter().find(|listed| listed.code == code).map(|listed| listed.meaning);
    match listed {
        Some(Meaning::StoreFailed) => {
            let known = STORE_ERRORS.iter().find(|(known, _)| text.contains(known));
            known.map_or(Meaning::Unknown, |(_, meaning)| *meaning)
        }
        Some(meaning) => meaning,
        None => Meaning::Unknown,
    }
}

/// What an error code of JetStream means.
pub(super) fn refusal_of(code: u64, text: String) -> Refusal {
    match meaning(code, &text) {
        Meaning::Retry => Refusal::Unavailable(text),
        Meaning::Full => Refusal::Full,
        Meaning::Taken => Refusal::Taken,
        Meaning::Permanent => Refusal::Rejected(text),
        Meaning::Unknown | Meaning::StoreFailed => {
            tracing::debug!(nats.code = code, text, "the broker does not say whether it stored a message");
            Refusal::Unknown
        }
    }
}

/// What the library's error means.
pub(super) fn refusal(error: &PublishError) -> Refusal {
    match error.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Refusal::Unknown,
        PublishErrorKind::StreamNotFound => Refusal::Unavailable("no stream, or no leader for it".to_owned()),
        PublishErrorKind::MaxAckPending => Refusal::Busy,
        PublishErrorKind::MaxPayloadExceeded => Refusal::Rejected(error.to_string()),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => Refusal::Taken,
        PublishErrorKind::Other => match error.source().and_then(|source| source.downcast_ref()) {
            Some(api) => {
                let api: &jetstream::Error = api;
                refusal_of(api.error_code().0, api.to_string())
            }
            None => refused_by_the_library(error),
        },
    }
}

/// An answer that is not JSON says nothing about the message. Everything else fails before the message is sent.
fn refused_by_the_library(error: &PublishError) -> Refusal {
    match error.source() {
        Some(source) if source.is::<serde_json::Error>() => Refusal::Unknown,
        _ => Refusal::Rejected(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: usize, code: u64, text: &str) -> PublishError {
        let error = serde_json::json!({"code": status, "err_code": code, "description": text});
        let error: jetstream::Error = serde_json::from_value(error).unwrap();
        PublishError::with_source(PublishErrorKind::Other, error)
    }

    #[test]
    fn a_message_whose_id_is_being_stored_now_is_sent_again_and_not_given_up() {
        assert_eq!(refusal(&api(409, 10158, "duplicate message id is in process")), Refusal::Unknown);
    }

    #[test]
    fn the_http_status_of_an_error_decides_nothing() {
        for status in [400, 404, 409, 412, 429, 500, 503] {
            for listed in API_ERRORS {
                let found = refusal(&api(status, listed.code, listed.text));
                let expected = match listed.meaning {
                    Meaning::Retry => matches!(found, Refusal::Unavailable(_)),
                    Meaning::Unknown | Meaning::StoreFailed => found == Refusal::Unknown,
                    Meaning::Taken => found == Refusal::Taken,
                    Meaning::Full => found == Refusal::Full,
                    Meaning::Permanent => matches!(found, Refusal::Rejected(_)),
                };
                assert!(expected, "{status} {listed:?}: {found:?}");
            }
            assert_eq!(refusal(&api(status, 19_999, "an error of a newer server")), Refusal::Unknown);
        }
    }

    #[test]
    fn the_stores_own_errors_are_told_apart_by_their_text() {
        for (text, expected) in [
            ("maximum messages per subject exceeded", Refusal::Taken),
            ("maximum messages exceeded", Refusal::Full),
            ("maximum bytes exceeded", Refusal::Full),
            ("store is closed", Refusal::Unknown),
            ("no space left on device", Refusal::Unknown),
        ] {
            assert_eq!(refusal(&api(503, 10077, text)), expected, "{text}");
        }
        assert!(matches!(refusal(&api(503, 10077, "message to large")), Refusal::Rejected(_)));
    }

    #[test]
    fn a_lost_race_for_a_subject_is_taken_on_one_server_and_on_a_cluster() {
        for (code, text) in [(10071, "wrong last sequence: 7"), (10164, "wrong last sequence")] {
            assert_eq!(refusal(&api(400, code, text)), Refusal::Taken);
        }
    }

    #[test]
    fn an_overloaded_stream_is_asked_again() {
        let refused = refusal(&api(429, 10167, "too many requests"));
        assert!(matches!(refused, Refusal::Unavailable(_)), "{refused:?}");
    }

    #[test]
    fn an_acknowledgement_that_cannot_be_read_leaves_the_outcome_open() {
        let error = serde_json::from_str::<u8>("?").unwrap_err();
        assert_eq!(refusal(&PublishError::with_source(PublishErrorKind::Other, error)), Refusal::Unknown);
    }

    #[test]
    fn every_code_is_listed_once_and_in_order() {
        assert!(API_ERRORS.is_sorted_by(|a, b| a.code < b.code));
    }
}
