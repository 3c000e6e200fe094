//! The failures that a handler can return, and what other errors mean as failures.

use std::{convert::Infallible, fmt, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tidegate_shared::protocol::codes::ErrorCode;
use tower::BoxError;

/// The longest that a request waits for its next delivery. A longer wait is cut to this.
pub const MAX_WAIT: Duration = Duration::from_hours(365 * 24);

/// Why a handler has no answer, and what happens to the request instead.
///
/// A handler makes one by the constructors: each says in its name what follows. `?` converts an error into a failure only if
/// its type says what it means, by [`IntoFailure`]. [`anyhow::Error`] means a retry; a `std::io::Error`, a `sqlx::Error` or an
/// error type of the application means nothing by itself, and `?` on it does not compile. Say what it means where it happens,
/// with [`ResultExt`], or once for the type, with [`IntoFailure`].
///
/// ```
/// use tidegate_worker::{Failure, Json, ResultExt};
///
/// async fn square(Json(text): Json<String>) -> Result<Json<i64>, Failure> {
///     let number: i64 = text.parse().or_reject(400)?;
///     let square = number.checked_mul(number).ok_or_else(|| Failure::reject(422, "too large"))?;
///     std::fs::write("/dev/null", square.to_string()).or_retry()?;
///     Ok(Json(square))
/// }
/// ```
///
/// Texts are put on one line and cut to 4096 bytes; a cut text ends with its length.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// A later attempt may succeed: see [`Failure::retry`].
    #[non_exhaustive]
    Retry {
        /// The error. It is in the log and in the dead letter; the caller never gets it.
        error: anyhow::Error,
        /// How long to wait for the next attempt, instead of the route's backoff; at most [`MAX_WAIT`].
        after: Option<Duration>,
    },
    /// It is too early: see [`Failure::snooze`].
    #[non_exhaustive]
    Snooze {
        /// How long the request waits; at most [`MAX_WAIT`].
        delay: Duration,
    },
    /// The request is wrong: see [`Failure::reject`].
    #[non_exhaustive]
    Reject {
        /// The error code that the caller gets.
        code: u32,
        /// The error message that the caller gets.
        message: String,
        /// What the caller gets beside them, as JSON; empty for nothing.
        data: Bytes,
    },
    /// An operator has to look at the request: see [`Failure::dead`].
    #[non_exhaustive]
    Dead {
        /// The reason. It is in the log and in the dead letter; the caller never gets it.
        reason: String,
    },
}

/// An error that says what it means for the request that it happens in. Implement it for the error types of an application;
/// handlers then return them, and `?` converts them into a [`Failure`]:
///
/// ```
/// use tidegate_worker::{Failure, IntoFailure, Json};
///
/// enum OrderError {
///     SoldOut,
///     Database(std::io::Error),
/// }
///
/// impl IntoFailure for OrderError {
///     fn into_failure(self) -> Failure {
///         match self {
///             Self::SoldOut => Failure::reject(409, "sold out"),
///             Self::Database(error) => Failure::retry(error),
///         }
///     }
/// }
///
/// async fn place(Json(article): Json<String>) -> Result<Json<String>, OrderError> {
///     if article.is_empty() { Err(OrderError::SoldOut) } else { Ok(Json(article)) }
/// }
/// # tidegate_worker::Router::new().route("place", tidegate_worker::on(place));
/// ```
///
/// It is implemented for [`anyhow::Error`] (a retry) and for the rejections of extractors.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it means for a request",
    label = "neither a `Failure` nor an error that is `IntoFailure`: say what it means, with `.or_retry()?`, `.or_reject(code)?` or `.or_dead()?`",
    note = "say it here: `.or_retry()?`, `.or_reject(code)?` or `.or_dead()?` of `tidegate_worker::ResultExt`",
    note = "or once for the type: implement `tidegate_worker::IntoFailure` for it; `anyhow::Error` always means a retry"
)]
pub trait IntoFailure {
    /// What happens to the request.
    fn into_failure(self) -> Failure;
}

/// Says what the error of a `Result` means for the request, where it happens.
pub trait ResultExt<T, E> {
    /// The error may be gone on the next attempt: [`Failure::retry`].
    fn or_retry(self) -> Result<T, Failure>
    where
        E: Into<anyhow::Error>;

    /// As [`Self::or_retry`], after this time: [`Failure::retry_after`].
    fn or_retry_after(self, delay: Duration) -> Result<T, Failure>
    where
        E: Into<anyhow::Error>;

    /// The request is wrong: [`Failure::reject`]. The caller gets this code and the error's text.
    fn or_reject(self, code: u32) -> Result<T, Failure>
    where
        E: fmt::Display;

    /// No attempt can succeed: [`Failure::dead`], with the error's text as the reason.
    fn or_dead(self) -> Result<T, Failure>
    where
        E: fmt::Display;
}

impl Failure {
    /// A later attempt may succeed. The request waits for it as long as the route's `backoff` says, or becomes a dead letter
    /// after its last attempt. The error is in the log and in the dead letter; the caller never gets it.
    pub fn retry(error: impl Into<anyhow::Error>) -> Self {
        Self::Retry { error: error.into(), after: None }
    }

    /// As [`Self::retry`], but the next attempt is after `delay`, at most [`MAX_WAIT`]. It uses an attempt.
    pub fn retry_after(delay: Duration, error: impl Into<anyhow::Error>) -> Self {
        Self::Retry { error: error.into(), after: Some(delay) }
    }

    /// It is too early. The request is delivered again after `delay`, at most [`MAX_WAIT`], without using an attempt.
    ///
    /// A request may be snoozed `max_snoozes` times, 1000 unless its route says otherwise; then it becomes a dead letter. Only a
    /// request that is within some 500 bytes of the broker's `max_payload` uses an attempt: it cannot be parked, and waits in
    /// its stream.
    pub fn snooze(delay: Duration) -> Self {
        Self::Snooze { delay }
    }

    /// The request is wrong, and would be wrong on the next attempt. The caller gets this error; there is no retry and no dead
    /// letter. Applications use the codes 400 to 999 and 1100 to 1999.
    pub fn reject(code: u32, message: impl Into<String>) -> Self {
        Self::Reject { code, message: message.into(), data: Bytes::new() }
    }

    /// Adds JSON to a rejection, such as what is wrong with which field. It is the body of the answer, whose headers have code
    /// and message. A publication of the answer on the personal channel has it as `data` beside `code` and `message`. The error
    /// reply over a connection has no place for it: the protocol's errors are a code and a message. Other failures do not reach
    /// the caller; on them this does nothing.
    ///
    /// ```
    /// use tidegate_worker::Failure;
    ///
    /// let failure = Failure::reject(422, "the order is wrong").with_data(serde_json::json!({"field": "quantity"}));
    /// ```
    #[must_use]
    pub fn with_data(self, json: impl Into<Value>) -> Self {
        match self {
            Self::Reject { code, message, .. } => {
                Self::Reject { code, message, data: json.into().to_string().into() }
            }
            other => other,
        }
    }

    /// No attempt can succeed, and an operator has to look at the request. It becomes a dead letter at once, with this reason;
    /// the caller gets error 1004 without it.
    pub fn dead(reason: impl Into<String>) -> Self {
        Self::Dead { reason: reason.into() }
    }

    /// A rejection with one of the protocol's own codes.
    pub(crate) fn protocol(code: ErrorCode, detail: impl fmt::Display) -> Self {
        let error = code.because(detail);
        Self::reject(error.code, error.message)
    }

    /// What an error of a layer means: a retry.
    pub(crate) fn of_layer(error: BoxError) -> Self {
        Self::retry(anyhow::Error::from_boxed(error))
    }
}

impl<E: IntoFailure> From<E> for Failure {
    fn from(error: E) -> Self {
        error.into_failure()
    }
}

impl IntoFailure for anyhow::Error {
    fn into_failure(self) -> Failure {
        Failure::retry(self)
    }
}

impl IntoFailure for Infallible {
    fn into_failure(self) -> Failure {
        match self {}
    }
}

impl<T, E> ResultExt<T, E> for Result<T, E> {
    fn or_retry(self) -> Result<T, Failure>
    where
        E: Into<anyhow::Error>,
    {
        self.map_err(Failure::retry)
    }

    fn or_retry_after(self, delay: Duration) -> Result<T, Failure>
    where
        E: Into<anyhow::Error>,
    {
        self.map_err(|error| Failure::retry_after(delay, error))
    }

    fn or_reject(self, code: u32) -> Result<T, Failure>
    where
        E: fmt::Display,
    {
        self.map_err(|error| Failure::reject(code, error.to_string()))
    }

    fn or_dead(self) -> Result<T, Failure>
    where
        E: fmt::Display,
    {
        self.map_err(|error| Failure::dead(error.to_string()))
    }
}

/// A value that cannot be written as JSON, such as a map whose keys are no strings. So it would be on every attempt: the
/// request becomes a dead letter.
#[derive(Debug, thiserror::Error)]
#[error("cannot be written as JSON: {0}")]
pub struct NotJson(#[from] serde_json::Error);

impl IntoFailure for NotJson {
    fn into_failure(self) -> Failure {
        Failure::dead(format!("an answer, a publication or a follow-up {self}"))
    }
}
