//! A route's gate: while it is closed, the worker pulls none of the route's requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Closes a route for a time, for a handler whose back end is away: requests then wait in their stream, where they use no
/// attempts, and other workers may take them. Requests that this worker has already pulled still reach the handler.
///
/// Clones are the same gate. A [`Router`](crate::Router) gets it by [`Router::gate`](crate::Router::gate).
///
/// ```
/// use std::time::Duration;
/// use tidegate_worker::{Failure, Gate, Router, on};
///
/// let gate = Gate::new();
/// let of_handler = gate.clone();
/// let charge = async move || -> Result<(), Failure> {
///     // The back end asks for a minute of silence.
///     of_handler.close_for(Duration::from_secs(60));
///     Err(Failure::snooze(Duration::from_secs(60)))
/// };
/// let router = Router::new().route("charge", on(charge)).gate("charge", &gate);
/// ```
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<Closed>>);

/// Until when a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    Not,
    Until(Instant),
    ForGood,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Closed::Not)))
    }

    /// Closes the gate for this long from now on. A gate that is closed for longer already stays closed for longer.
    pub fn close_for(&self, time: Duration) {
        let Some(until) = Instant::now().checked_add(time) else { return self.close() };
        self.0.send_if_modified(|closed| {
            let later = match *closed {
                Closed::Not => true,
                Closed::Until(earlier) => earlier < until,
                Closed::ForGood => false,
            };
            if later {
                *closed = Closed::Until(until);
            }
            later
        });
    }

    /// Closes the gate until the worker is started again, or [`Self::open`].
    pub fn close(&self) {
        self.0.send_replace(Closed::ForGood);
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.0.send_replace(Closed::Not);
    }

    /// Whether the gate is open now.
    pub fn is_open(&self) -> bool {
        match *self.0.borrow() {
            Closed::Not => true,
            Closed::Until(until) => until <= Instant::now(),
            Closed::ForGood => false,
        }
    }

    /// Waits until the gate is open.
    pub(crate) async fn opened(&self) {
        let mut changes = self.0.subscribe();
        while !self.is_open() {
            let closed = *changes.borrow_and_update();
            let over = async {
                match closed {
                    Closed::Until(until) => tokio::time::sleep_until(until.into()).await,
                    Closed::Not => {}
                    Closed::ForGood => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                _ = changes.changed() => {}
            }
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_gate_opens_by_itself_and_stays_closed_for_the_longest_time_that_was_asked_for() {
        let gate = Gate::new();
        assert!(gate.opened().now_or_never().is_some());
        gate.close_for(Duration::from_millis(20));
        gate.close_for(Duration::from_millis(1));
        assert!(gate.opened().now_or_never().is_none());
        gate.opened().await;
        assert!(gate.is_open());
        gate.close();
        gate.close_for(Duration::ZERO);
        assert!(gate.opened().now_or_never().is_none());
        gate.open();
        gate.opened().await;
    }
}
