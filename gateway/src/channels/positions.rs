//! Compares the positions of channels with their streams. After a lost connection to the broker, no live message may
//! follow that would show the gap.

use std::{sync::Arc, time::Duration};

use tidegate_shared::{
    broker::{Broker, Refusal},
    lifecycle::Lifecycle,
};

use super::{history::History, hub::Hub, resume::Recovery};

/// How often positions are compared without a reason.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two tries while the broker is away.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
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
    /// Compares after every reconnect to the broker, and every `CHECK_INTERVAL`.
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
