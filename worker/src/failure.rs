//! The failures that a handler can return.

use std::time::Duration;

use tidegate_shared::protocol::codes::ErrorCode;

/// The longest that a request waits for its next delivery. A longer wait is cut to this.
pub const MAX_WAIT: Duration = Duration::from_hours(365 * 24);

/// Why a handler has no answer, and what happens to the request instead. `?` on any error makes a [`Failure::Retry`].
///
/// ```
/// use tidegate_worker::{Failure, Json};
///
/// async fn square(Json(text): Json<String>) -> Result<Json<i64>, Failure> {
///     let number: i64 = text.parse().map_err(|_| Failure::reject(400, "not a whole number"))?;
///     Ok(Json(number.checked_mul(number).ok_or_else(|| Failure::reject(422, "too large"))?))
/// }
/// ```
///
/// Texts are put on one line and cut to 4096 bytes ([`MAX_TEXT`](tidegate_shared::header::MAX_TEXT)); a cut text ends with its
/// length.
///
/// Not a `std::error::Error` itself: that would rule out the conversion from every other error.
#[derive(Debug)]
pub enum Failure {
    /// A later attempt may succeed. The request waits for it, or becomes a dead letter after its last attempt.
    Retry {
        /// The error. It is in the log and in the dead letter; the client never gets it.
        why: anyhow::Error,
        /// How long to wait for the next attempt, instead of the route's backoff; at most [`MAX_WAIT`].
        after: Option<Duration>,
    },
    /// It is too early. The request is delivered again after this duration, at most [`MAX_WAIT`], without using an attempt. Only a request that is
    /// within some 500 bytes of the broker's `max_payload` uses an attempt: it cannot be parked, and waits in its stream.
    Snooze(Duration),
    /// The request is wrong, and would be wrong on the next attempt. The client gets this error; there is no retry.
    Reject {
        /// The error code that the client gets. Applications use 400 to 999 and 1100 to 1999.
        code: u32,
        /// The error message that the client gets.
        message: String,
    },
    /// No attempt can succeed, and an operator has to look at the request. It becomes a dead letter at once, with this reason;
    /// the client gets error 1004.
    Dead(String),
}

impl Failure {
    /// A [`Failure::Reject`]: the client gets this error, and there is no retry.
    pub fn reject(code: u32, message: impl Into<String>) -> Self {
        Self::Reject { code, message: message.into() }
    }

    /// A [`Failure::Retry`] after `delay`. It uses an attempt.
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
