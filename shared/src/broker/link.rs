//! The state of the connection to NATS, read from the library's state and not from its events alone: its queue of 128 events may
//! drop any of them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, connection::State};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::Health;
use crate::fault::{Place, Problem};

/// How often the library's state is read without an event.
const POLL: Duration = Duration::from_millis(100);
/// The shortest time between two reports of dropped messages. A subscription that is too slow drops one after the other.
const DROPS_APART: Duration = Duration::from_secs(1);

/// This many reconnects within this time are a fault: a broker that restarts causes one.
const FLAPS: usize = 5;
const FLAPS_WITHIN: Duration = Duration::from_mins(1);

/// The connection as it was last seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the server is reachable.
    pub up: bool,
    /// How often it was connected, the first time included.
    pub connects: u64,
    /// How often messages were dropped because a subscription was not read fast enough.
    pub drops: u64,
}

/// Reports each possible loss of messages. Created by [`Broker::losses`](super::Broker::losses).
#[derive(Debug)]
pub struct Losses {
    link: watch::Receiver<Link>,
    seen: Link,
}

impl Losses {
    pub(super) fn new(mut link: watch::Receiver<Link>) -> Self {
        let seen = *link.borrow_and_update();
        Self { link, seen }
    }

    /// Completes when messages may have been missed: the connection was lost and is back, or a subscription was not read fast
    /// enough. A loss since the last call counts. The future can be dropped while it waits: a connection that is away at that
    /// moment still counts when it is back.
    pub async fn next(&mut self) {
        let seen = self.seen;
        let lost = |link: &Link| link.up && (link.connects, link.drops) != (seen.connects, seen.drops);
        let found = self.link.wait_for(lost).await.map(|link| *link);
        match found {
            Ok(link) => self.seen = link,
            // The broker was dropped, so its connection does not come back.
            Err(_) => std::future::pending().await,
        }
    }

    /// As [`Self::next`], for a connection that was lost and is back alone. Dropped messages are reported by the next call of
    /// that.
    pub async fn reconnected(&mut self) {
        let connects = self.seen.connects;
        let back = |link: &Link| link.up && link.connects != connects;
        let found = self.link.wait_for(back).await.map(|link| *link);
        match found {
            Ok(link) => self.seen.connects = link.connects,
            Err(_) => std::future::pending().await,
        }
    }
}

/// What events say to the task that follows the connection.
#[derive(Debug, Default)]
pub(super) struct Signals {
    changed: Notify,
    dropped: AtomicBool,
}

impl Signals {
    /// The connection may have changed.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// A message was dropped. Returns whether it is the first one since drops were last reported.
    pub(super) fn dropped(&self) -> bool {
        !self.dropped.swap(true, Ordering::AcqRel)
    }
}

/// When the connection came back of late.
#[derive(Debug, Default)]
struct Flaps(VecDeque<std::time::Instant>);

impl Flaps {
    /// Adds a reconnect. Returns whether there were many within a short time.
    fn add(&mut self, now: std::time::Instant) -> bool {
        self.0.push_back(now);
        self.0.retain(|at| now < *at + FLAPS_WITHIN);
        if self.0.len() > FLAPS {
            self.0.pop_front();
        }
        self.0.len() == FLAPS
    }
}

/// Reads the state of the connection.
pub(super) fn read(client: &Client, before: Link) -> Link {
    Link {
        // Read first: a connection that is lost and made again meanwhile counts.
        connects: client.statistics().connects.load(Ordering::Acquire),
        up: client.connection_state() == State::Connected,
        ..before
    }
}

/// Follows the connection for as long as the process has it.
pub(super) async fn follow(
    client: Client,
    link: Arc<watch::Sender<Link>>,
    signals: Arc<Signals>,
    health: Health,
) {
    let mut drops_from = Instant::now();
    let mut flaps = Flaps::default();
    loop {
        // A timeout is a poll without an event.
        let _ = timeout(POLL, signals.changed.notified()).await;
        let before = *link.borrow();
        let mut now = read(&client, before);
        if Instant::now() >= drops_from && signals.dropped.swap(false, Ordering::AcqRel) {
            drops_from = Instant::now() + DROPS_APART;
            now.drops += 1;
        }
        if now.connects > before.connects {
            health.connected_anew();
            tracing::info!("connected to NATS again");
            if flaps.add(std::time::Instant::now()) {
                health.met(&Place::Connection, Problem::Breaking);
            }
        } else if before.up && !now.up {
            tracing::warn!("disconnected from NATS");
        }
        if now != before {
            link.send_replace(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const UP: Link = Link { up: true, connects: 1, drops: 0 };

    fn is_lost(losses: &mut Losses) -> bool {
        losses.next().now_or_never().is_some()
    }

    #[test]
    fn a_connection_that_was_lost_and_is_back_is_noticed_once() {
        let link = watch::Sender::new(UP);
        let mut losses = Losses::new(link.subscribe());
        assert!(!is_lost(&mut losses));
        link.send_replace(Link { up: false, ..UP });
        assert!(!is_lost(&mut losses), "still away");
        link.send_replace(Link { connects: 2, ..UP });
        assert!(is_lost(&mut losses));
        assert!(!is_lost(&mut losses));
    }

    #[test]
    fn a_loss_that_nobody_saw_counts() {
        let link = watch::Sender::new(UP);
        let mut losses = Losses::new(link.subscribe());
        link.send_replace(Link { connects: 2, ..UP });
        assert!(is_lost(&mut losses));
    }

    #[test]
    fn a_connection_that_ends_again_and_again_is_a_fault_and_a_few_restarts_are_none() {
        let (mut flaps, start) = (Flaps::default(), std::time::Instant::now());
        let many = |seconds: u64, flaps: &mut Flaps| flaps.add(start + Duration::from_secs(seconds));
        for second in [0, 20, 40, 60, 80] {
            assert!(!many(second, &mut flaps), "{second}");
        }
        assert!(!many(81, &mut flaps));
        assert!(many(82, &mut flaps) && many(83, &mut flaps));
    }

    #[test]
    fn dropped_messages_count_and_the_first_connection_does_not() {
        let link = watch::Sender::new(UP);
        let mut losses = Losses::new(link.subscribe());
        link.send_replace(UP);
        assert!(!is_lost(&mut losses));
        link.send_replace(Link { drops: 1, ..UP });
        assert!(is_lost(&mut losses) && !is_lost(&mut losses));
    }

    #[test]
    fn who_waits_for_a_connection_alone_learns_of_dropped_messages_afterwards() {
        let link = watch::Sender::new(UP);
        let mut losses = Losses::new(link.subscribe());
        link.send_replace(Link { drops: 1, ..UP });
        assert!(losses.reconnected().now_or_never().is_none());
        link.send_replace(Link { drops: 1, connects: 2, ..UP });
        assert!(losses.reconnected().now_or_never().is_some());
        assert!(is_lost(&mut losses) && !is_lost(&mut losses));
    }
}
