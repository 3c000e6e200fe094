//! How long a connection or a subscription is valid, and who prolongs it. Pure.

use std::time::{Duration, Instant};

use super::{Now, Session};

/// How long a connection or a subscription is valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Validity {
    /// When the session ends it, the grace period for prolonging it included.
    pub(super) end: Option<Instant>,
    /// Seconds until the client has to send a fresh token, if it has to.
    pub(super) ttl: Option<u32>,
    /// When a back end is asked to prolong it.
    pub(super) renewal: Option<Instant>,
}

/// Who prolongs a connection or a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewer {
    /// The client, with a fresh token.
    Client,
    /// A back end, which the gateway asks.
    Hook,
    /// Nobody: the client connects again and is authenticated again.
    Nobody,
}

impl Session {
    /// The validity of something that ends at `expires_at`, in seconds since 1970.
    pub(super) fn validity(&self, expires_at: Option<u64>, renewer: Renewer, now: Now) -> Validity {
        let Some(at) = expires_at else { return Validity::default() };
        let left = Duration::from_secs(at).saturating_sub(now.unix);
        let moment = |after: Duration| now.instant.checked_add(after);
        let with_grace = moment(left.saturating_add(self.rules.refresh_grace));
        let ttl = u32::try_from(at.saturating_sub(now.unix.as_secs()).max(1)).unwrap_or(u32::MAX);
        match renewer {
            Renewer::Client => Validity { end: with_grace, ttl: Some(ttl), renewal: None },
            Renewer::Hook => Validity { end: with_grace, ttl: None, renewal: moment(left) },
            Renewer::Nobody => Validity { end: moment(left), ttl: None, renewal: None },
        }
    }

    /// Who prolongs what a back end has allowed.
    pub(super) fn renewer_after_hook(&self) -> Renewer {
        if self.rules.asks_to_refresh { Renewer::Hook } else { Renewer::Nobody }
    }

    /// Who prolongs a connection that a token has opened.
    pub(super) fn renewer_after_token(&self) -> Renewer {
        if self.rules.asks_to_refresh { Renewer::Hook } else { Renewer::Client }
    }
}
