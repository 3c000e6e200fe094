//! Requests whose worker died: which of them counts it as an attempt.
//!
//! When a worker dies, every request it held is delivered again, and the broker does not say which of them had begun, or which
//! of them was the reason. So a delivery that was lost counts nothing at first: the request becomes a suspect. It is parked
//! anew, at once, and tried again beside others. A suspect that is lost again is tried alone: a worker runs one such request
//! at a time, and parks the others again. Only what is lost then counts attempts, from the second loss in a row on: the first
//! may have happened while the request was being parked again.
//!
//! So a suspect that is lost for the first time is exposed: one more loss counts an attempt. The one that is tried alone begins only
//! when its worker holds no other that is exposed, however long parking them takes. This is why it costs its neighbours no
//! attempt:
//! - A neighbour that is there when it begins is not exposed. If it is lost, this counts nothing, and makes it exposed.
//! - An exposed neighbour is parked as soon as it is pulled, and its parked copy is not exposed. The one that is tried alone begins
//!   afterwards; or, when this takes longer than its limit, it is parked instead of being begun.
//! - An exposed neighbour that was lost with it is pulled before it begins. They are delivered again `ack_wait` after their last signs
//!   of life, which are at most the time between two signs apart: one that was lost itself waits for so long. If it did not, a
//!   neighbour that came while it ran would come back at the same distance from it, and be lost again, time after time.
//! - Left are neighbours that were lost with another one, or that the broker delivers late because no worker had room for them.
//!   They count an attempt if their worker ends once more while they are being parked. Only a record of each beginning could tell.
//!
//! Nobody waits for ever. Those that are parked wait for nobody and come back without being exposed, so the exposed ones become
//! fewer until a worker ends again. If the one that is tried alone waited for every suspect instead, those that come and go would
//! keep it waiting.

use std::time::Duration;

use rand::random_range;
use tidegate_shared::{
    config::{Order, Route},
    header,
    lifecycle::Lifecycle,
};
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{Settlement, place::FREE_LOSSES};
use crate::{
    delivery::{Delivery, PROGRESS_PER_ACK_WAIT},
    exposed::ExposedRequest,
    metrics::Ending,
};

/// How long a suspect waits for its next turn when another one is being tried: around this, in milliseconds.
const TURN: std::ops::Range<u64> = 100..400;
/// How long a suspect that is tried alone waits for others that are on their way, beside the time between two signs of life.
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

/// Whether one more loss may count an attempt of the request, as far as its delivery shows: in a strict order a record says more.
pub(crate) fn may_be_exposed(route: &Route, delivery: &Delivery) -> bool {
    let suspected = route.order == Order::Strict || Suspicion::of(delivery) == Suspicion::Alone;
    suspected && delivery.earlier_deliveries() > 0
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

    /// Keeps the request among the exposed ones, unless what is remembered of it says that it is none.
    pub(crate) fn exposed_as(mut self, exposed: Option<ExposedRequest>) -> Self {
        let is_one = !self.keeps_its_place() || self.losses >= FREE_LOSSES;
        self.exposed = exposed.filter(|_| is_one);
        self
    }

    /// Decides whether an attempt begins now.
    pub(super) async fn turn(&self, lifecycle: &Lifecycle) -> Turn<'_> {
        // In a strict order a delivery before this one may have been given back; one that was lost makes a suspect.
        let lost = self.delivery.earlier_deliveries() > 0 && !self.keeps_its_place();
        if lost && self.suspicion < Suspicion::Alone && self.can_be_parked() {
            tracing::info!(request.id = %self.request.id, trace.id = %self.trace, "a request's worker ended: trying it again without counting an attempt");
            return Turn::Ended(self.park_as(self.suspicion.more(), Duration::ZERO).await);
        }
        if self.suspicion < Suspicion::Alone {
            return Turn::Begin(None);
        }
        let alone = self.engine.alone.try_acquire().ok();
        let begins = alone.is_some() && self.becomes_alone(lifecycle).await;
        if begins || !self.can_be_parked() {
            return Turn::Begin(alone);
        }
        // It does not wait here, where it would be lost with the one that is being tried.
        let turn = Duration::from_millis(random_range(TURN));
        Turn::Ended(self.park_as(Suspicion::Alone, turn).await)
    }

    /// Waits until no other request of this worker is exposed. False if that takes too long, or the worker drains meanwhile.
    async fn becomes_alone(&self, lifecycle: &Lifecycle) -> bool {
        let limit = self.engine.config.worker.ack_wait;
        let between_signs = self.exposed.as_ref().map_or(Duration::ZERO, |_| limit / PROGRESS_PER_ACK_WAIT);
        let becomes_alone = async {
            tokio::time::sleep(GRACE + between_signs).await;
            // Parking takes less. One that waits in a line, or is too long to be parked, may take more.
            timeout(limit, self.engine.exposed.none_but(self.exposed.as_ref())).await.is_ok()
        };
        tokio::select! {
            biased;
            () = lifecycle.draining() => false,
            alone = becomes_alone => alone,
        }
    }
}
