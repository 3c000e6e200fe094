//! Carries out the steps of the registry until the broker matches it. Only joins wait for it.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tidegate_shared::{broker::Refusal, topology::PRESENCE};

use super::{LEFT_TTL, Presence, read_member, registry::Step};
use crate::fleet::{leaving, pause};

/// Members written at the same time.
const MAX_UNDER_WAY: usize = 256;
/// Pause between two tries for one member.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Presence {
    /// Writes members for as long as the gateway runs.
    pub(super) async fn write(&self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < MAX_UNDER_WAY
                && let Some(subject) = self.registry.lock().take()
            {
                under_way.push(self.settle(subject));
            }
            tokio::select! {
                Some(()) = under_way.next() => {}
                () = self.work.notified() => {}
                () = self.lifecycle.finishing() => return,
            }
        }
    }

    async fn settle(&self, subject: Arc<str>) {
        loop {
            let step = self.registry.lock().step(&subject);
            if step == Step::Nothing {
                let members = self.registry.lock().len();
                self.metrics.presence_members(members);
                if members == 0 {
                    self.empty.notify_waiters();
                }
                return;
            }
            if let Err(refusal) = self.carry_out(&subject, step).await {
                self.registry.lock().refused(&subject, &refusal);
                tracing::debug!(%subject, %refusal, "a member is not stored yet");
                if !pause(&self.lifecycle, RETRY_PAUSE).await {
                    return;
                }
            }
        }
    }

    async fn carry_out(&self, subject: &str, step: Step) -> Result<(), Refusal> {
        match step {
            Step::Nothing => {}
            Step::Look => {
                let found = self.broker.last(PRESENCE, subject).await?;
                let member = found.as_ref().and_then(read_member).map(|kept| (kept.seq, kept.info));
                self.registry.lock().looked(subject, member);
            }
            Step::Store(info) => {
                let stored = self.broker.store(subject.to_owned(), HeaderMap::new(), info.clone()).await?;
                self.registry.lock().stored(subject, stored.seq, &info);
                self.metrics.presence_changed("joined");
            }
            Step::Remove { seq, info } => {
                self.broker.store(subject.to_owned(), leaving(seq, LEFT_TTL), info).await?;
                self.registry.lock().removed(subject);
                self.metrics.presence_changed("left");
            }
        }
        Ok(())
    }
}
