//! Asks back ends: one NATS request per question, with a deadline. Decisions on subscriptions of users are cached where
//! the configuration says so.
//!
//! Never permits anything by itself: without a decision the client gets error 100.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{Request, RequestErrorKind};
use parking_lot::Mutex;
use tidegate_shared::{
    broker::Broker,
    config::HooksConfig,
    hook::{self, Decision, Event, Question},
    protocol::codes,
    sparse::Sparse,
    subject::Subjects,
};
use tokio::time::Instant;

use super::Verdict;
use super::hook_cache::{self, DecisionCache};
use crate::metrics::Metrics;

/// Asks back ends.
pub(crate) struct Hooks {
    broker: Broker,
    subjects: Subjects,
    deadline: Duration,
    cache: Mutex<DecisionCache>,
    metrics: Metrics,
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the broker is away")]
    Away,
    #[error("no back end answers this hook")]
    Nobody,
    #[error("the back end did not decide in time")]
    Late,
    #[error("the back end's decision cannot be read")]
    Unreadable(String),
}

impl Hooks {
    pub(crate) fn new(broker: Broker, subjects: Subjects, config: &HooksConfig, metrics: Metrics) -> Self {
        let cache = Mutex::new(DecisionCache::new(config.cache));
        Self { broker, subjects, deadline: config.deadline, cache, metrics }
    }

    /// Asks a back end, unless the decision is cached.
    pub(crate) async fn ask(&self, event: Event, question: &Question) -> Verdict {
        let key = hook_cache::key(event, question);
        if let Some(decision) = key.as_ref().and_then(|key| self.cache.lock().get(key, Instant::now())) {
            self.metrics.hook(event.as_str(), "kept", None);
            return Ok(decision);
        }
        let started = Instant::now();
        let decided = self.request(event, question).await;
        self.metrics.hook(event.as_str(), outcome_of(&decided), Some(started.elapsed()));
        if let Err(Silence::Unreadable(problem)) = &decided {
            static UNREADABLE: Sparse = Sparse::new();
            if let Some(skipped) = UNREADABLE.due() {
                tracing::warn!(hook = event.as_str(), problem, skipped, "a back end's answer is no decision");
            }
        }
        if let (Some(key), Ok(decision)) = (key, &decided) {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.cache.lock().keep(key, decision, Instant::now(), unix);
        }
        decided.map_err(|silence| codes::INTERNAL.because(silence))
    }

    async fn request(&self, event: Event, question: &Question) -> Result<Decision, Silence> {
        if !self.broker.is_connected() {
            return Err(Silence::Away);
        }
        let body = question.body().map_err(|error| Silence::Unreadable(error.to_string()))?;
        let request = Request::new().payload(body).timeout(Some(self.deadline));
        let answer = self.broker.client().send_request(self.subjects.hook(event), request).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Silence::Nobody,
            RequestErrorKind::TimedOut => Silence::Late,
            _ => Silence::Away,
        })?;
        hook::read(&answer.payload).map_err(Silence::Unreadable)
    }
}

fn outcome_of(decided: &Result<Decision, Silence>) -> &'static str {
    match decided {
        Ok(Decision::Allowed(_)) => "allowed",
        Ok(Decision::Refused(_)) => "refused",
        Ok(Decision::Disconnect(_)) => "disconnect",
        Err(Silence::Away) => "away",
        Err(Silence::Nobody) => "nobody",
        Err(Silence::Late) => "late",
        Err(Silence::Unreadable(_)) => "unreadable",
    }
}
