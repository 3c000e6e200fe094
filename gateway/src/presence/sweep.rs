//! Removing the members of a gateway that is gone. Every gateway that is left may try: the broker lets each member be
//! removed once, and the first to begin leaves little to the others.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tidegate_shared::{broker::Refusal, id::GatewayId, topology::PRESENCE};

use super::{BATCH, LEFT_TTL, Presence, StoredMember, read_member};
use crate::fleet::{leaving, next_page, pause};

/// How long a gateway may take to come back before its members are removed: all lose the broker at the same time when it
/// restarts, and none is back at once.
const GRACE: Duration = Duration::from_secs(1);
/// Over how long the beginnings of those who are left are spread.
const SPREAD: Duration = Duration::from_secs(1);
/// Between two tries while the broker is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Members removed at the same time.
const MAX_UNDER_WAY: usize = 64;

impl Presence {
    /// A gateway is gone. Sees to it that its members leave.
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
                        "members of a gone gateway removed"
                    );
                    return;
                }
                Err(refusal) => tracing::debug!(%refusal, "members of a gone gateway cannot be removed yet"),
            }
            if !pause(&self.lifecycle, RETRY_PAUSE).await {
                return;
            }
        }
    }

    /// Removes what a gateway has left behind, unless it comes back; returns how many this one removed.
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

    /// Whether it was this gateway that removed it.
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
