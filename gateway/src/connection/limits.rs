//! What one connection may not exceed: the connections of its user, and the rates of its commands.
//!
//! Too many commands stop the reading of its socket for a while. Knows nothing of addresses: the listener does.

use std::sync::Arc;

use tidegate_shared::{config::LimitsConfig, protocol::codes};
use tokio::time::Instant;

use super::{Connection, End};
use crate::{
    metrics::Metrics,
    outbox::total::Total,
    policy::{
        crowd::Crowd,
        pace::{Pacing, Rates},
    },
};

/// The limits that connections have together.
pub(crate) struct CommonLimits {
    pub(crate) rates: Rates,
    /// The connections of each user.
    users: Arc<Crowd<u64>>,
    /// The bytes that wait for all clients.
    pub(crate) buffered: Arc<Total>,
}

impl CommonLimits {
    pub(crate) fn new(limits: &LimitsConfig, metrics: &Metrics) -> Self {
        let (used, shed) = metrics.buffered();
        let rates = Rates::new(limits);
        Self {
            rates,
            users: Crowd::new(limits.connections_per_user, rates),
            buffered: Total::new(limits.buffered_total, used, shed),
        }
    }
}

impl Connection {
    /// Takes a seat among the connections of the user that has just been authenticated.
    pub(super) fn take_seat(&mut self) -> Result<(), End> {
        let Some(user) = self.session.user() else { return Ok(()) };
        self.seat = self.shared.common.users.enter_as(user);
        if self.seat.is_some() { Ok(()) } else { Err(End::Close(codes::CONNECTION_LIMIT)) }
    }

    /// Counts commands that have come, or frames that are none.
    pub(super) fn charge(&mut self, commands: usize) -> Result<(), End> {
        let rates = self.shared.common.rates;
        let now = rates.now();
        let own = self.hold.charge(&rates, commands, now);
        let of_user = self.seat.as_ref().map_or(Pacing::Within, |seat| seat.charge(commands, now));
        for (pacing, whose) in [(own, "connection"), (of_user, "user")] {
            match pacing {
                Pacing::Within => {}
                Pacing::Hold(until) => {
                    self.shared.metrics.held(whose);
                    self.hold.hold(&rates, until);
                }
                Pacing::TooMany => {
                    self.shared.metrics.held(whose);
                    return Err(End::Close(codes::TOO_MANY_REQUESTS));
                }
            }
        }
        Ok(())
    }

    /// Until when its socket is not read because of its rate.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let rates = &self.shared.common.rates;
        self.hold.until(rates).map(|until| rates.instant(until).into())
    }
}
