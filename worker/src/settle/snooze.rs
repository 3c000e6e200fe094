//! Requests that wait without using an attempt: their handler says that it is too early, a layer did not let them through, or their
//! follow-ups find no room.

use std::time::Duration;

use tidegate_shared::{dead::Reason, header};

use super::{Parked, Settlement, Suspicion};
use crate::{backoff, metrics::Ending};

impl Settlement {
    /// How long the request waits for what is not its own fault, such as room for its follow-ups.
    pub(super) fn pause(&self) -> Duration {
        backoff::delay(self.route.config.backoff, self.snoozes, rand::random())
    }

    /// Waits for what is neither the request's fault nor its handler's.
    pub(super) async fn wait(&self, delay: Option<Duration>, reason: &str) -> Ending {
        let reason = &*header::text(reason);
        tracing::warn!(
            request.id = %self.request.id, trace.id = %self.trace, route = self.route.name(), reason, "a request waits without using an attempt"
        );
        self.snooze(delay.unwrap_or_else(|| self.pause()), Some(reason)).await
    }

    /// Every copy of a request has another place in its stream, and thus another id when it is parked.
    pub(super) async fn snooze(&self, delay: Duration, reason: Option<&str>) -> Ending {
        if self.snoozes >= self.route.config.max_snoozes {
            let detail = format!("snoozed {} times: the route's `max_snoozes`", self.snoozes);
            let last = reason.map_or(String::new(), |reason| format!("; the last time: {reason}"));
            let reason = format!("{detail}{last}");
            return self.bury_after(self.attempts, Reason::Attempts, &reason, &detail).await;
        }
        let (attempt, mark) = (self.attempts, format!("s{}", self.delivery.place()));
        let snoozes = self.snoozes.saturating_add(1);
        self.park(Parked { delay, attempt, mark, suspicion: Suspicion::None, snoozes }, Ending::Snooze).await
    }
}
