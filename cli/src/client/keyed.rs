//! What to do after a try of a keyed request failed. Pure: the pattern every application with keys needs.

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
    /// How often it was asked for; 1 means the first try was answered.
    pub tries: u32,
}

/// A keyed request without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{last} (try {tries})")]
pub struct KeyedError {
    /// What the last try said.
    pub last: CallError,
    /// Whether some try said that the request is stored.
    pub accepted: bool,
    /// How often it was asked for.
    pub tries: u32,
}

/// What follows a try that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// Ask again at once: the gateway itself waits, or another connection has to be found.
    Now,
    /// Ask again after a pause: something is overloaded or away.
    AfterPause,
    /// Asking again gives the same.
    GiveUp,
}

/// Decides what follows.
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

/// Whether a try that failed like this said that the request is stored: only a worker gives an application's errors.
pub(super) fn says_accepted(error: &CallError) -> bool {
    const STILL_WORKING: u32 = codes::STILL_WORKING.code;
    const DEAD_LETTER: u32 = codes::DEAD_LETTER.code;
    matches!(error.code(), Some(STILL_WORKING | DEAD_LETTER)) || error.is_applications()
}

/// Returns the pause before the try that follows `failures` failed ones, with full jitter so that clients which failed
/// together do not come back together.
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
    fn what_may_still_be_answered_is_asked_for_again() {
        assert_eq!(next(&server(codes::STILL_WORKING)), RetryDecision::Now);
        assert_eq!(next(&CallError::Timeout), RetryDecision::Now);
        assert_eq!(next(&Closed::lost("x").into()), RetryDecision::Now);
        assert_eq!(next(&server(codes::OUTCOME_UNKNOWN)), RetryDecision::AfterPause);
        assert_eq!(next(&server(codes::NOT_ACCEPTED)), RetryDecision::AfterPause);
    }

    #[test]
    fn what_is_final_is_not_asked_for_again() {
        for code in [codes::DEAD_LETTER, codes::KEY_REUSED, codes::METHOD_NOT_FOUND, codes::PERMISSION_DENIED]
        {
            assert_eq!(next(&server(code)), RetryDecision::GiveUp, "{code:?}");
        }
        assert_eq!(next(&CallError::Payload(String::new())), RetryDecision::GiveUp);
    }

    #[test]
    fn only_who_knows_that_it_is_stored_counts() {
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
