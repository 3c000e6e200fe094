//! The broker's time of day. Schedules are made of it, because the broker carries them out: a worker's own clock may be wrong
//! by any amount, and every wait would be wrong by as much.
//!
//! Asked for when it is needed, and kept for a while by the monotonic clock, which no correction of the time of day moves.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tidegate_shared::broker::{Broker, Refusal};
use tokio::time::Instant;

use crate::backoff::Pauses;

/// How long a reading of the broker's clock is used.
const FRESH: Duration = Duration::from_secs(30);
/// The pause after the first question that was not answered.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Every this many unanswered questions there is a warning.
const FAILURES_PER_WARNING: u32 = 10;

/// Reads the broker's clock.
pub(crate) struct Clock {
    reading: Mutex<Option<Reading>>,
    /// This machine's clock. Only for what is shown to people.
    local: Mutex<fn() -> SystemTime>,
}

/// What the broker's clock said, and when by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Reading {
    time: SystemTime,
    at: Instant,
}

impl Reading {
    fn now(self) -> SystemTime {
        self.time + self.at.elapsed()
    }
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { reading: Mutex::new(None), local: Mutex::new(SystemTime::now) }
    }

    /// Sets what this machine's clock says.
    #[cfg(feature = "testing")]
    pub(crate) fn set_local(&self, local: fn() -> SystemTime) {
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// The time of day by the last reading of the broker's clock; before the first one, by this machine's clock.
    pub(crate) fn about_now(&self) -> SystemTime {
        let local = *self.local.lock().unwrap_or_else(PoisonError::into_inner);
        self.reading().map_or_else(local, Reading::now)
    }

    /// The broker's time of day. Waits for the broker only if it has never answered.
    pub(crate) async fn now(&self, broker: &Broker, stream: &str, consumer: &str) -> SystemTime {
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            let known = self.reading();
            if let Some(fresh) = known.filter(|reading| reading.at.elapsed() < FRESH) {
                return fresh.now();
            }
            match (read(broker, stream, consumer).await, known) {
                (Ok(reading), _) => {
                    *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
                    return reading.now();
                }
                (Err(_), Some(old)) => return old.now(),
                (Err(refusal), None) => {
                    if pauses.failures().is_multiple_of(FAILURES_PER_WARNING) {
                        tracing::warn!(%refusal, "the broker does not say what time it is: trying again until it does");
                    }
                    tokio::time::sleep(pauses.failed()).await;
                }
            }
        }
    }

    fn reading(&self) -> Option<Reading> {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("reading", &self.reading()).finish_non_exhaustive()
    }
}

/// Asks the broker about a consumer: the answer says when it was given.
async fn read(broker: &Broker, stream: &str, consumer: &str) -> Result<Reading, Refusal> {
    let asked = Instant::now();
    let time = broker.time(&format!("CONSUMER.INFO.{stream}.{consumer}")).await?;
    // The broker read its clock between question and answer.
    Ok(Reading { time, at: asked + asked.elapsed() / 2 })
}
