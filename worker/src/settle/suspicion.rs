//! Requests whose worker died: which of them counts it as an attempt.
//!
//! When a worker dies, every request it held is delivered again, and the broker does not say which of them had begun, or which
//! of them was the reason. So a delivery that was lost counts nothing at first: the request becomes a suspect. It is parked
//! anew, at once, and tried again beside others. A suspect that is lost again is tried alone: a worker runs one such request
//! at a time, and parks the others again. Only what is lost then counts attempts, from the second loss in a row on: the first
//! may have happened while the request was being parked again.

use std::time::Duration;

use rand::random_range;
use tidegate_shared::header;
use tokio::sync::SemaphorePermit;

use super::Settlement;
use crate::{delivery::Delivery, metrics::Ending};

/// How long a suspect waits for its next turn when another one is being tried: around this, in milliseconds.
const TURN: std::ops::Range<u64> = 100..400;
/// How long a suspect that is tried alone waits before it begins: others that were delivered with it are parked meanwhile.
const GRACE: Duration = Duration::from_millis(200);

/// What is known about a request from deliveries that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspicion {
    /// No delivery was lost.
    None,
    /// One was lost, together with others.
    Beside,
    /// It was lost again: it is tried alone.
    Alone,
}

impl Suspicion {
    pub(super) fn of(delivery: &Delivery) -> Self {
        match delivery.header(header::SUSPECT) {
            None => Self::None,
            Some("1") => Self::Beside,
            Some(_) => Self::Alone,
        }
    }

    /// The value of its header.
    pub(super) fn header(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Beside => Some("1"),
            Self::Alone => Some("2"),
        }
    }

    fn more(self) -> Self {
        match self {
            Self::None => Self::Beside,
            Self::Beside | Self::Alone => Self::Alone,
        }
    }
}

/// What to do with a request before its attempt.
#[derive(Debug)]
pub(super) enum Turn<'a> {
    /// Begin. The permit is for a request that is tried alone.
    Begin(Option<SemaphorePermit<'a>>),
    /// It was parked; this delivery has ended.
    Ended(Ending),
}

impl Settlement {
    /// How many attempts the request's lost deliveries count.
    pub(super) fn lost_attempts(&self) -> u32 {
        let lost = self.delivery.earlier_deliveries();
        match self.suspicion {
            _ if lost == 0 => 0,
            // It waits in its stream: all that is known is how often it was delivered.
            _ if !self.can_be_parked() => lost,
            Suspicion::Alone => lost.saturating_sub(1),
            Suspicion::None | Suspicion::Beside => 0,
        }
    }

    /// Decides whether an attempt begins now.
    pub(super) async fn turn(&self) -> Turn<'_> {
        // In a strict order a delivery before this one may have been given back; one that was lost makes a suspect.
        let lost = self.delivery.earlier_deliveries() > 0 && !self.keeps_its_place();
        if lost && self.suspicion < Suspicion::Alone && self.can_be_parked() {
            tracing::info!(request.id = %self.request.id, trace.id = %self.trace, "a request's worker ended: trying it again without counting an attempt");
            return Turn::Ended(self.park_as(self.suspicion.more(), Duration::ZERO).await);
        }
        if self.suspicion < Suspicion::Alone {
            return Turn::Begin(None);
        }
        match self.engine.alone.try_acquire() {
            Ok(alone) => {
                tokio::time::sleep(GRACE).await;
                Turn::Begin(Some(alone))
            }
            // It does not wait here, where it would be lost with the one that is being tried.
            Err(_) if self.can_be_parked() => {
                let turn = Duration::from_millis(random_range(TURN));
                Turn::Ended(self.park_as(Suspicion::Alone, turn).await)
            }
            Err(_) => Turn::Begin(None),
        }
    }
}
