//! Compares the registry with the stored members after any possible loss of a message, and notices gateways that end.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tidegate_shared::{broker::Refusal, topology::PRESENCE};

use super::{BATCH, Presence, read_member};
use crate::fleet::{next_page, pause};

/// Pause between two tries while the broker is away.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a second comparison: gateways that took this one for ended may still have been removing its members.
const SECOND_LOOK: Duration = Duration::from_secs(3);

impl Presence {
    /// Starts the tasks that store, compare and remove members.
    pub(crate) fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("ends of gateways", async move { this.follow_gateways().await });
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("comparing members", async move { this.keep_members().await });
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("storing members", async move { this.write().await });
    }

    /// Removes the members of gateways that end.
    async fn follow_gateways(self: &Arc<Self>) {
        let mut live = self.fleet.live();
        let mut before = live.borrow_and_update().clone();
        loop {
            tokio::select! {
                changed = live.changed() => if changed.is_err() { return },
                () = self.lifecycle.finishing() => return,
            }
            let now = live.borrow_and_update().clone();
            for gateway in before.difference(&now) {
                self.ended(gateway.clone());
            }
            before = now;
        }
    }

    /// Compares the members at the start, since an earlier gateway may have left some behind, and after every possible
    /// loss.
    async fn keep_members(self: &Arc<Self>) {
        loop {
            for wait in [Duration::ZERO, SECOND_LOOK] {
                if !pause(&self.lifecycle, wait).await {
                    return;
                }
                while let Err(refusal) = self.compare().await {
                    tracing::debug!(%refusal, "members cannot be compared yet");
                    if !pause(&self.lifecycle, RETRY_PAUSE).await {
                        return;
                    }
                }
            }
            tokio::select! {
                () = self.fleet.doubtful() => {}
                () = self.lifecycle.finishing() => return,
            }
        }
    }

    /// Compares all stored members: this gateway's with the registry, the others' with the leases.
    async fn compare(self: &Arc<Self>) -> Result<(), Refusal> {
        self.fleet.read().await?;
        let mut settled = self.registry.lock().settled();
        let mut abandoned = HashSet::new();
        let filter = self.subjects.all_members();
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            for member in page.messages.iter().filter_map(read_member) {
                let gateway = member.client.gateway();
                if gateway == *self.fleet.gateway() {
                    self.registry.lock().found(&member.subject);
                    if settled.get(&member.subject) == Some(&member.seq) {
                        settled.remove(&member.subject);
                    }
                } else if !self.fleet.is_live(&gateway) {
                    abandoned.insert(gateway);
                }
            }
        }
        for (subject, seq) in settled {
            self.registry.lock().doubt(&subject, seq);
        }
        self.work.notify_one();
        for gateway in abandoned {
            self.ended(gateway);
        }
        Ok(())
    }
}
