//! Parking a request that this worker does not finish, for another worker.

use std::time::Duration;

use super::{Parked, Settlement, Suspicion};
use crate::metrics::Ending;

impl Settlement {
    /// Parks a request that was not begun, so that another worker takes it. Uses no attempt.
    pub(crate) async fn hand_on(&self) -> Ending {
        self.hand_on_after(Duration::ZERO).await
    }

    /// As [`Self::hand_on`], for a request that another worker should not take before `delay` has passed.
    pub(crate) async fn hand_on_after(&self, delay: Duration) -> Ending {
        self.park_as(self.suspicion, delay).await
    }

    /// As [`Self::hand_on_after`], for a request that its worker gives up at once: this counts as an attempt.
    pub(crate) async fn give_up(&self, delay: Duration) -> Ending {
        let (attempt, mark) = (self.attempts.saturating_add(1), format!("s{}", self.delivery.place()));
        let parked = Parked { delay, attempt, mark, suspicion: self.suspicion, snoozes: self.snoozes };
        self.park(parked, Ending::Returned).await
    }

    pub(super) async fn park_as(&self, suspicion: Suspicion, delay: Duration) -> Ending {
        let (attempt, mark) = (self.attempts, format!("s{}", self.delivery.place()));
        let parked = Parked { delay, attempt, mark, suspicion, snoozes: self.snoozes };
        self.park(parked, Ending::Returned).await
    }
}
