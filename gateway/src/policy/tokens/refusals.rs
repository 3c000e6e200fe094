//! Why tokens are refused, in a log that stays short however many are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The seconds between two lines about the same reason.
const PAUSE: u64 = 60;

/// Why a token is refused. Names of classes only: a log never has a token or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is no token, or a claim has a wrong type or value.
    Malformed,
    /// No configured issuer has its `iss`.
    Issuer,
    /// It is for another `aud`.
    Audience,
    /// Its issuer does not sign with this algorithm, or the key is for another one.
    Algorithm,
    /// The issuer's key set does not have its key, or the token names none.
    Key,
    /// Its signature is wrong.
    Signature,
    /// It has expired or is not valid yet.
    Time,
    /// It lives longer than `auth.max_token_life`.
    Life,
    /// Its `sub` is no user id, or is empty where clients have to be users.
    User,
    /// It is a subscription token instead of a connection token, or the other way round.
    Kind,
    /// It is valid, but for another user, client or channel.
    Other,
    /// The client sent none.
    Missing,
}

/// When each reason was last logged.
#[derive(Default)]
pub(super) struct Refusals([Seen; 12]);

#[derive(Default)]
struct Seen {
    logged: AtomicU64,
    since: AtomicU64,
}

impl Reason {
    /// The reason in a log, with what to look at.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Malformed => "malformed: it is no JWT, or a claim has a wrong type or value",
            Self::Issuer => "issuer: no configured issuer has its iss",
            Self::Audience => "audience: its aud is not the configured one",
            Self::Algorithm => {
                "algorithm: its issuer is not configured for its alg, or its key is for another one"
            }
            Self::Key => "key: the issuer's key set does not have its kid, or it names none",
            Self::Signature => "signature: another key or secret signed it",
            Self::Time => "time: it has expired or is not valid yet",
            Self::Life => "life: without exp and iat, or longer than auth.max_token_life",
            Self::User => "user: its sub is no user id, or is empty although auth.anonymous is false",
            Self::Kind => "kind: a subscription token has a channel, a connection token has none",
            Self::Other => "other: it is valid, but for another user, client or channel",
            Self::Missing => "missing: the client sent no token, and auth.anonymous is false",
        }
    }
}

impl Refusals {
    /// Logs a refusal, unless the same reason was logged a short time ago. `now` is in seconds since 1970.
    pub(super) fn note(&self, token: &'static str, issuer: Option<&str>, reason: Reason, now: u64) {
        let Some(more) = self.is_due(reason, now) else { return };
        let (issuer, reason_text) = (issuer.unwrap_or_default(), reason.text());
        // Tokens expire in normal operation.
        if reason == Reason::Time {
            tracing::info!(token, issuer, reason = reason_text, since_last = more, "a token is refused");
        } else {
            tracing::warn!(token, issuer, reason = reason_text, since_last = more, "a token is refused");
        }
    }

    /// Whether a line is due, and how many refusals for this reason were not logged since the last one.
    fn is_due(&self, reason: Reason, now: u64) -> Option<u64> {
        let seen = self.0.get(reason as usize)?;
        let logged = seen.logged.load(Relaxed);
        let quiet = logged > 0 && now.abs_diff(logged) < PAUSE;
        if quiet || seen.logged.compare_exchange(logged, now.max(1), Relaxed, Relaxed).is_err() {
            seen.since.fetch_add(1, Relaxed);
            return None;
        }
        Some(seen.since.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_on_its_own() {
        // The last one has a place too.
        assert_eq!(Refusals::default().is_due(Reason::Missing, 1_000), Some(0));
    }

    #[test]
    fn a_reason_is_logged_once_a_minute_with_the_number_of_refusals_between() {
        let refusals = Refusals::default();
        assert_eq!(refusals.is_due(Reason::Signature, 1_000), Some(0));
        for second in 0..59 {
            assert_eq!(refusals.is_due(Reason::Signature, 1_000 + second), None);
        }
        assert_eq!(refusals.is_due(Reason::Kind, 1_010), Some(0), "each reason on its own");
        assert_eq!(refusals.is_due(Reason::Signature, 1_060), Some(59));
        assert_eq!(refusals.is_due(Reason::Signature, 10), Some(0), "a clock that was set back");
    }
}
