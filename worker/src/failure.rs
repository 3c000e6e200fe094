//! How a handler says that it did not answer.

use std::time::Duration;

use tidegate_shared::protocol::codes::ErrorCode;

/// Why there is no answer, and what has to happen instead. `?` on any error makes a [`Failure::Retry`].
///
/// Not itself a `std::error::Error`, since that would forbid the conversion from every other error.
#[derive(Debug)]
pub enum Failure {
    /// It may work later: the request waits for its next attempt, or is a dead letter after its last.
    Retry {
        /// What went wrong; in the log and in the dead letter, never shown to the client.
        why: anyhow::Error,
        /// How long to wait instead of the route's backoff.
        after: Option<Duration>,
    },
    /// It is not time yet: the request comes again after this long, and no attempt is used.
    Snooze(Duration),
    /// The request is wrong and would be next time: the client gets this error, and nothing is tried again.
    Reject {
        /// The number the client sees; applications have 400 to 999 and 1100 to 1999.
        code: u32,
        /// The sentence the client sees.
        message: String,
    },
    /// No attempt can succeed, and somebody has to look at it: a dead letter at once.
    Dead(String),
}

impl Failure {
    /// The client gets this error, and nothing is tried again.
    pub fn reject(code: u32, message: impl Into<String>) -> Self {
        Self::Reject { code, message: message.into() }
    }

    /// The request comes again after `delay`, which uses an attempt.
    pub fn retry_after(delay: Duration, why: impl Into<anyhow::Error>) -> Self {
        Self::Retry { why: why.into(), after: Some(delay) }
    }

    /// A rejection with one of the protocol's own codes.
    pub(crate) fn protocol(code: ErrorCode, detail: impl std::fmt::Display) -> Self {
        let error = code.because(detail);
        Self::Reject { code: error.code, message: error.message }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Retry { why: error.into(), after: None }
    }
}
