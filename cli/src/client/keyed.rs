//! Retry rules for requests with an idempotency key. Pure; every application with keys needs the same rules.

use std::time::Duration;

use bytes::Bytes;
use tidegate_shared::protocol::codes;

use super::error::CallError;

/// The wait after the first refusal; doubled with every further one.
const BASE: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const CAP: Duration = Duration::from_secs(2);

/// The answer to a keyed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedAnswer {
    /// The worker's answer.
    pub data: Bytes,
    /// The number of tries; 1 means the first try was answered.
    pub tries: u32,
}

/// A keyed request without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{last} (try {tries})")]
pub struct KeyedError {
    /// The error of the last try.
    pub last: CallError,
    /// Whether any try reported the request as stored.
    pub accepted: bool,
    /// The number of tries.
    pub tries: u32,
}

/// What to do after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// Retry at once: the gateway itself waits for the answer, or the client must find another connection.
    Now,
    /// Retry after a pause: a gateway or worker is overloaded or unavailable.
    AfterPause,
    /// A retry gives the same error.
    GiveUp,
}

/// Decides what to do after a failed try.
pub(super) fn next(error: &CallError) -> RetryDecision {
    const STILL_WORKING: u32 = codes::STILL_WORKING.code;
    const OUTCOME_UNKNOWN: u32 = codes::OUTCOME_UNKNOWN.code;
    match error {
        CallError::Server { code: STILL_WORKING, .. } | CallError::Closed(_) | CallError::Timeout => {
            RetryDecision::Now
        }
        // With a key, a request whose outcome is unknown is safe to send again.
        CallError::Server { code: OUTCOME_UNKNOWN, .. } | CallError::Server { temporary: true, .. } => {
            RetryDecision::AfterPause
        }
        CallError::Server { .. } | CallError::Payload(_) => RetryDecision::GiveUp,
    }
}

/// Whether this error proves that the request is stored. Application errors do: only a worker sends them.
pub(super) fn says_accepted(error: &CallError) -> bool {
    const STILL_WORKING: u32 = codes::STILL_WORKING.code;
    const DEAD_LETTER: u32 = codes::DEAD_LETTER.code;
    matches!(error.code(), Some(STILL_WORKING | DEAD_LETTER)) || error.is_applications()
}

/// Returns the pause before the try that follows `failures` failed ones, with full jitter, so that clients that failed
/// together do not retry together.
pub(super) fn pause(failures: u32) -> Duration {
    let ceiling = BASE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(CAP);
    ceiling.mul_f64(rand::random_range(0.1..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Closed;

    fn server(code: codes::ErrorCode) -> CallError {
        code.error().into()
    }

    #[test]
    fn errors_that_may_pass_are_retried() {
        assert_eq!(next(&server(codes::STILL_WORKING)), RetryDecision::Now);
        assert_eq!(next(&CallError::Timeout), RetryDecision::Now);
        assert_eq!(next(&Closed::lost("x").into()), RetryDecision::Now);
        assert_eq!(next(&server(codes::OUTCOME_UNKNOWN)), RetryDecision::AfterPause);
        assert_eq!(next(&server(codes::NOT_ACCEPTED)), RetryDecision::AfterPause);
    }

    #[test]
    fn final_errors_are_not_retried() {
        for code in [codes::DEAD_LETTER, codes::KEY_REUSED, codes::METHOD_NOT_FOUND, codes::PERMISSION_DENIED]
        {
            assert_eq!(next(&server(code)), RetryDecision::GiveUp, "{code:?}");
        }
        assert_eq!(next(&CallError::Payload(String::new())), RetryDecision::GiveUp);
    }

    #[test]
    fn only_errors_that_prove_storage_mark_a_request_as_accepted() {
        assert!(says_accepted(&server(codes::STILL_WORKING)));
        assert!(says_accepted(&server(codes::DEAD_LETTER)));
        let rejected = CallError::Server { code: 422, message: String::new(), temporary: false };
        assert!(says_accepted(&rejected));
        assert!(!says_accepted(&server(codes::OUTCOME_UNKNOWN)));
        assert!(!says_accepted(&CallError::Timeout));
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert!(pause(1) < BASE);
        assert!((0..100).all(|failures| pause(failures) < CAP));
    }
}
