//! Removes the members of an ended gateway. Every live gateway tries; the broker lets each member be removed only once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tidegate_shared::{broker::Refusal, id::GatewayId, topology::PRESENCE};

use super::{BATCH, LEFT_TTL, Presence, StoredMember, read_member};
use crate::fleet::{leaving, next_page, pause};

/// How long a gateway may take to come back before its members are removed: when the broker restarts, all gateways lose
/// it at the same time.
const GRACE: Duration = Duration::from_secs(1);
/// The live gateways begin at random times within this span.
const SPREAD: Duration = Duration::from_secs(1);
/// Pause between two tries while the broker is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Members removed at the same time.
const MAX_UNDER_WAY: usize = 64;

impl Presence {
    /// Starts to remove the members of an ended gateway.
    pub(super) fn ended(self: &Arc<Self>, gateway: GatewayId) {
        if !self.sweeping.lock().insert(gateway.clone()) {
            return;
        }
        let this = Arc::clone(self);
        self.lifecycle.spawn(async move {
            this.sweep(&gateway).await;
            this.sweeping.lock().remove(&gateway);
        });
    }

    async fn sweep(&self, gateway: &GatewayId) {
        if !pause(&self.lifecycle, GRACE + SPREAD.mul_f64(rand::random())).await {
            return;
        }
        loop {
            match self.remove_members(gateway).await {
                Ok(0) => return,
                Ok(members) => {
                    tracing::info!(
                        gateway.id = gateway.as_str(),
                        members,
                        "removed the members of an ended gateway"
                    );
                    return;
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "cannot remove the members of an ended gateway yet");
                }
            }
            if !pause(&self.lifecycle, RETRY_PAUSE).await {
                return;
            }
        }
    }

    /// Removes a gateway's members, unless it comes back. Returns how many this gateway removed.
    async fn remove_members(&self, gateway: &GatewayId) -> Result<usize, Refusal> {
        let filter = self.subjects.members_of_gateway(gateway);
        let (mut removed, mut from) = (0, Some(1));
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            let members: Vec<StoredMember> = page.messages.iter().filter_map(read_member).collect();
            let mut removals = stream::iter(members)
                .map(|member| async move {
                    if self.fleet.is_live(gateway) { Ok(false) } else { self.remove(member).await }
                })
                .buffer_unordered(MAX_UNDER_WAY);
            while let Some(result) = removals.next().await {
                removed += usize::from(result?);
            }
        }
        Ok(removed)
    }

    /// Removes one member. Returns false if another gateway removed it first.
    async fn remove(&self, member: StoredMember) -> Result<bool, Refusal> {
        let headers = leaving(member.seq, LEFT_TTL);
        match self.broker.store(member.subject.as_ref().to_owned(), headers, member.info).await {
            Ok(_) => {
                self.metrics.presence_changed("removed");
                Ok(true)
            }
            Err(Refusal::Taken) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}
