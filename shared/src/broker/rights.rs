//! Trying out what the user may do, so that a missing line in nats.conf is named at the start and not met later as silence.

use std::{fmt::Write, time::Duration};

use async_nats::{HeaderMap, Request, RequestErrorKind};
use futures_util::future::join_all;

use super::Broker;
use crate::{
    access::{Access, Account, Probe},
    config::Config,
    fault::{Place, Problem},
};

/// How long a probe may take. A refused one is not answered at all.
const LIMIT: Duration = Duration::from_secs(2);
/// The most rights that one message names.
const NAMED: usize = 5;

/// The user lacks rights.
#[derive(Debug, thiserror::Error)]
#[error(
    "the NATS user {user:?} lacks rights that this configuration needs:{lines}\nReplace the accounts in nats.conf by what \
     `tidegate nats-config` prints for this configuration, and reload the broker (nats-server --signal reload)"
)]
pub struct MissingRights {
    user: String,
    lines: String,
}

impl Broker {
    /// Tries the rights of the account's user that can be tried without an effect. With `streams`, those too that are answered
    /// only when the streams exist.
    pub async fn try_rights(
        &self,
        config: &Config,
        account: Account,
        streams: bool,
    ) -> Result<(), MissingRights> {
        let probes = Access::of(config).probes(account);
        let tried = probes.iter().filter(|probe| streams || !probe.needs_stream);
        let outcomes = join_all(tried.map(|probe| async move { (probe, self.try_one(probe).await) })).await;
        let nobody = outcomes.iter().filter(|(_, outcome)| *outcome == Some(RequestErrorKind::NoResponders));
        let mut missing: Vec<String> =
            nobody.map(|(probe, _)| format!("{} ({}): nobody serves it", probe.right, probe.why)).collect();
        if outcomes.iter().any(|(_, outcome)| *outcome == Some(RequestErrorKind::TimedOut)) {
            let forbidden =
                self.health.open().into_iter().filter(|fault| fault.problem == Problem::Forbidden);
            missing.extend(forbidden.filter_map(|fault| match fault.place {
                Place::Publish(subject) => Some(format!("{subject}: it may not publish there")),
                _ => None,
            }));
        }
        missing.extend(self.lacking_past_streams().await);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for line in missing.iter().take(NAMED) {
            let _ = write!(lines, "\n  {line}");
        }
        if missing.len() > NAMED {
            let _ = write!(lines, "\n  and {} more", missing.len() - NAMED);
        }
        let user = account.user(config).map(|user| user.user.clone()).unwrap_or_default();
        Err(MissingRights { user, lines })
    }

    /// The error of one probe, if there is one. A broker that is slow or away says nothing about rights.
    async fn try_one(&self, probe: &Probe) -> Option<RequestErrorKind> {
        let mut headers = HeaderMap::new();
        if probe.refused {
            headers.insert("Nats-Expected-Stream", "NONE");
        }
        let request = Request::new().payload(probe.body.into()).headers(headers).timeout(Some(LIMIT));
        self.client.send_request(probe.subject.clone(), request).await.err().map(|error| error.kind())
    }
}
