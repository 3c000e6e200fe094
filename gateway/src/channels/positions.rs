//! Compares the positions of channels with their streams. After a lost connection to the broker, or messages that were dropped
//! because a subscription was too slow, no live message may follow that would show the gap. What was stored and has expired while
//! the connection was lost shows in no read either: then the channel is taken for one with a gap, unless the stream of last
//! messages proves that it has had nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tidegate_shared::{
    broker::{Broker, Refusal},
    lifecycle::Lifecycle,
};

use super::{feed::Standing, history::History, hub::Hub, resume::Recovery};

/// How often positions are compared without a reason.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// First pause between two tries while the broker or the stream is away.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause, reached after some seconds.
const CHECK_PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// Channels per request for newest messages. The broker answers for at most 1,024.
const CHECK_BATCH: usize = 1000;

/// The positions of all channels of this gateway.
pub(super) struct Positions {
    pub(super) broker: Broker,
    pub(super) hub: Arc<Hub>,
    pub(super) history: Arc<History>,
    pub(super) recovery: Arc<Recovery>,
    pub(super) lifecycle: Lifecycle,
}

impl Positions {
    /// Compares after every possible loss of messages, and every `CHECK_INTERVAL`. Each namespace has a task of its own: a
    /// stream that is broken or deleted stops no other namespace.
    pub(super) fn watch(self: &Arc<Self>) {
        for namespace in self.history.namespaces() {
            let (this, namespace) = (Arc::clone(self), namespace.to_owned());
            self.lifecycle
                .spawn_essential("comparing positions", async move { this.watch_one(&namespace).await });
        }
    }

    async fn watch_one(&self, namespace: &str) {
        let mut losses = self.broker.losses();
        let mut compared = Moment::now();
        loop {
            tokio::select! {
                () = losses.next() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = self.lifecycle.finishing() => return,
            }
            let mut pause = CHECK_PAUSE;
            loop {
                // After a reconnect the stream may be another one, so the comparison begins anew.
                let begun = Moment::now();
                // With room for clocks that differ.
                let whole = compared.elapsed() < self.history.ttl(namespace) / 4 * 3;
                let checked = tokio::select! {
                    checked = self.check(namespace, whole) => checked,
                    () = losses.reconnected() => Err(Refusal::Unavailable("the connection was lost".to_owned())),
                    () = self.lifecycle.finishing() => return,
                };
                let Err(refusal) = checked else {
                    compared = begun;
                    break;
                };
                // Broken streams are faults, which are logged as such.
                tracing::debug!(namespace, %refusal, "positions cannot be compared yet");
                // The pause grows even if every comparison loses the connection, so that it is not lost all the time.
                let again = async {
                    if self.broker.is_connected() {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(CHECK_PAUSE_LIMIT);
                    } else {
                        let _ = tokio::time::timeout(CHECK_INTERVAL, losses.reconnected()).await;
                    }
                };
                tokio::select! {
                    () = again => {}
                    () = self.lifecycle.finishing() => return,
                }
            }
        }
    }

    async fn check(&self, namespace: &str, whole: bool) -> Result<(), Refusal> {
        let connection = self.broker.connection_number();
        self.history.milestone(namespace).await;
        if let Some(position) = self.history.refresh(namespace).await? {
            tracing::warn!(namespace, "the stream of a namespace is another one, or has lost its end");
            for feed in self.hub.feeds(&format!("{namespace}.")) {
                for outbox in feed.restart(position, false) {
                    outbox.lose(feed.name());
                }
            }
        }
        let feeds = self.hub.feeds(&format!("{namespace}."));
        let positions = feeds.into_iter().filter_map(|feed| Some((feed.position()?, feed)));
        let positions: Vec<_> = positions.collect();
        for some in positions.chunks(CHECK_BATCH) {
            for (_, feed) in some {
                feed.received_on(connection);
            }
            let gaps = self.history.compare(namespace, some, whole).await?.into_iter();
            let gaps = gaps.filter_map(|(standing, feed)| {
                let newest = match standing {
                    Standing::Behind(newest) => newest,
                    // While the connection stands, live messages show every gap.
                    Standing::Unknown if feed.is_doubted() => 0,
                    Standing::Unknown => return None,
                    Standing::Current => {
                        feed.trust(connection);
                        return None;
                    }
                };
                Some((feed.begin_heal(newest)?, Arc::clone(feed)))
            });
            // All of them begin at once, so that later live messages wait. A few at a time are read.
            let healing: Vec<_> = gaps.map(|(gap, feed)| self.recovery.heal(feed, gap)).collect();
            join_all(healing).await;
        }
        Ok(())
    }
}

/// A moment, by the clock that never jumps and by the one that does not stand still while the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Moment(Instant, SystemTime);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}
