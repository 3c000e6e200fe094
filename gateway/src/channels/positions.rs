//! Comparing the positions of channels with their streams: after the broker was away no live message may follow that would
//! show what was missed.

use std::{sync::Arc, time::Duration};

use tidegate_shared::{
    broker::{Broker, Refusal},
    lifecycle::Lifecycle,
};

use super::{history::History, hub::Hub, resume::Recovery};

/// How often positions are compared while nothing shows that they have to be.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Between two tries while the broker is away.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// Channels whose newest messages are asked for at once. The broker answers for 1,024 at most.
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
    /// Compares whenever the connection to the broker is back, and every `CHECK_INTERVAL`.
    pub(super) async fn watch(&self) {
        let mut reconnects = self.broker.reconnects();
        loop {
            tokio::select! {
                () = reconnects.next() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = self.lifecycle.finishing() => return,
            }
            while let Err(refusal) = self.check().await {
                tracing::debug!(%refusal, "positions cannot be compared yet");
                tokio::select! {
                    () = tokio::time::sleep(CHECK_PAUSE) => {}
                    () = self.lifecycle.finishing() => return,
                }
            }
        }
    }

    async fn check(&self) -> Result<(), Refusal> {
        for (namespace, position) in self.history.refresh().await? {
            tracing::warn!(namespace, "the stream of a namespace is another one, or has lost its end");
            for feed in self.hub.feeds(&format!("{namespace}.")) {
                for outbox in feed.restart(position) {
                    outbox.lose(feed.name());
                }
            }
        }
        for namespace in self.history.namespaces() {
            let feeds = self.hub.feeds(&format!("{namespace}."));
            let positions = feeds.into_iter().filter_map(|feed| Some((feed.position()?, feed)));
            let positions: Vec<_> = positions.collect();
            for some in positions.chunks(CHECK_BATCH) {
                for feed in self.history.behind_schedule(namespace, some).await? {
                    if let Some(after) = feed.begin_heal() {
                        self.recovery.heal(&feed, after).await;
                    }
                }
            }
        }
        Ok(())
    }
}
