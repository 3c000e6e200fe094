//! Firings that the broker has left out: after a crash it goes on with the next time of a schedule, though one was due while it was
//! away.
//!
//! The record of the newest firing names the time of the next one, and of a schedule that has never fired it is computed. A firing
//! that was not done is due itself. Whenever the broker was away, and when a gateway starts, the gateway waits until the broker has
//! had time to fire by itself. What is overdue then it stores as a firing. All gateways look; the firing has an id that is the same
//! for all of them, and is stored only if none waits.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidegate_shared::{
    broker::{Broker, Refusal},
    header,
    lifecycle::Lifecycle,
    moment,
    schedule::{milliseconds, time_at},
    subject::Subjects,
    topology::PARK,
};
use tokio::time::sleep;

use super::schedules::{Kept, Schedules};

/// How long the broker has for firing by itself.
const GRACE: Duration = Duration::from_secs(5);
/// Schedules that are looked at with one question.
const PAGE: usize = 256;

/// Looks for firings that were left out.
pub(crate) struct Missed {
    pub(crate) broker: Broker,
    pub(crate) subjects: Subjects,
    pub(crate) schedules: Arc<Schedules>,
}

impl Missed {
    /// Starts to look.
    pub(crate) fn start(self, lifecycle: &Lifecycle) {
        let looking = lifecycle.clone();
        lifecycle.spawn_essential("missed schedules", async move { self.watch(looking).await });
    }

    async fn watch(self, lifecycle: Lifecycle) {
        let mut losses = self.broker.losses();
        loop {
            tokio::select! {
                () = lifecycle.draining() => return,
                () = sleep(GRACE) => {}
            }
            if let Err(error) = self.look().await {
                tracing::debug!(error, "schedules cannot be looked at: trying again");
                continue;
            }
            tokio::select! {
                () = lifecycle.draining() => return,
                () = losses.next() => {}
            }
        }
    }

    async fn look(&self) -> Result<(), String> {
        let now = self.broker.time(&format!("STREAM.INFO.{PARK}")).await.map_err(|e| e.to_string())?;
        let mut from = 1;
        loop {
            let page = self.schedules.page(from, PAGE).await.map_err(|error| error.message)?;
            for (kept, due) in page.schedules.iter().filter_map(|kept| Some((kept, overdue(kept, now)?))) {
                self.fire(kept, due).await.map_err(|refusal| refusal.to_string())?;
            }
            let Some(next) = page.next else { return Ok(()) };
            from = next;
        }
    }

    async fn fire(&self, kept: &Kept, due: SystemTime) -> Result<(), Refusal> {
        let schedule = &kept.schedule;
        let mut headers = schedule.missed(milliseconds(due));
        headers.insert(header::EXPECTED_LAST, "0");
        match self.broker.store(self.subjects.firing(&schedule.name), headers, schedule.body()).await {
            Ok(stored) if !stored.duplicate => {
                tracing::info!(
                    schedule = schedule.name,
                    due = moment::text(due),
                    "the broker has left out a firing: made up for"
                );
                Ok(())
            }
            // One waits, or another gateway was faster.
            Ok(_) | Err(Refusal::Taken) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }
}

/// When a schedule should have fired that has not.
fn overdue(kept: &Kept, now: SystemTime) -> Option<SystemTime> {
    let repeats = !kept.schedule.when.is_once();
    let unsettled = kept.record.as_ref().filter(|record| !record.is_settled());
    // It waits, and nothing is stored beside it; unless it is gone.
    let due = unsettled.map(|record| time_at(record.at)).or_else(|| kept.next());
    due.filter(|due| repeats && due.checked_add(GRACE).is_some_and(|late| late < now))
}
