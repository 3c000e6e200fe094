//! Counting the members of a channel. Callers that ask at the same time share one read, so a channel is read by one at a time.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use tidegate_shared::{
    broker::Refusal,
    channel::Channel,
    protocol::{ClientInfo, PresenceStatsResult, protobuf},
    topology::PRESENCE,
};
use tokio::time::{Instant, timeout};

use super::{BATCH, Presence, READ_LIMIT, read_member};
use crate::fleet::next_page;

/// A count, and when its read began.
type Counted = Option<(Instant, PresenceStatsResult)>;

/// The channels that are being counted.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<Channel, Arc<tokio::sync::Mutex<Counted>>>>);

impl Counts {
    /// Returns the count of a read that began after the caller asked: its own, or that of another caller.
    async fn share<E>(
        &self,
        channel: &Channel,
        read: impl AsyncFnOnce() -> Result<PresenceStatsResult, E>,
    ) -> Result<PresenceStatsResult, E> {
        let asked = Instant::now();
        let count = Arc::clone(self.0.lock().entry(channel.clone()).or_default());
        let _leaving = Leaving { counts: self, channel };
        let mut counted = count.lock().await;
        match &*counted {
            Some((begun, stats)) if *begun >= asked => Ok(*stats),
            _ => {
                let begun = Instant::now();
                let stats = read().await?;
                *counted = Some((begun, stats));
                Ok(stats)
            }
        }
    }
}

/// A caller. The last one forgets the channel.
struct Leaving<'a> {
    counts: &'a Counts,
    channel: &'a Channel,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        // This caller's own reference is dropped after this, so the map and the last caller have two.
        if counts.get(self.channel).is_some_and(|count| Arc::strong_count(count) <= 2) {
            counts.remove(self.channel);
        }
    }
}

impl Presence {
    /// Counts the members of a channel on all live gateways, and their users.
    pub(crate) async fn count(&self, channel: &Channel) -> Result<PresenceStatsResult, Refusal> {
        let late = |_| Refusal::Unavailable("the members could not be counted in time".to_owned());
        let shared = self.counts.share(channel, async || self.read_count(channel).await);
        timeout(READ_LIMIT, shared).await.map_err(late)?
    }

    async fn read_count(&self, channel: &Channel) -> Result<PresenceStatsResult, Refusal> {
        let _turn = self.reads.acquire().await;
        self.metrics.presence_read();
        let filter = self.subjects.members_of_channel(channel);
        let (hasher, mut users, mut clients) = (RandomState::new(), HashSet::new(), 0_u32);
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            for member in page.messages.iter().filter_map(read_member) {
                if self.fleet.is_live(&member.client.gateway())
                    && let Ok(info) = protobuf::decode_one::<ClientInfo>(member.info)
                {
                    clients = clients.saturating_add(1);
                    users.insert(hasher.hash_one(&info.user));
                }
            }
        }
        let num_users = u32::try_from(users.len()).unwrap_or(u32::MAX);
        Ok(PresenceStatsResult { num_clients: clients, num_users })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicU32, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn callers_that_ask_at_the_same_time_share_a_read_that_began_after_they_asked() {
        let (counts, reads) = (Counts::default(), AtomicU32::new(0));
        let channel = Channel::parse("chat:lobby").unwrap();
        let ask = || {
            counts.share(&channel, async || {
                let read = reads.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(PresenceStatsResult { num_clients: read, num_users: 1 })
            })
        };
        let answers = join_all((0..1000).map(|_| ask())).await;
        assert_eq!(answers.first().unwrap().unwrap().num_clients, 1);
        // All others asked before the first read ended, and after it had begun.
        assert!(answers.iter().skip(1).all(|answer| answer.unwrap().num_clients == 2));
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        assert_eq!(ask().await.unwrap().num_clients, 3, "a later caller gets a later read");
        assert!(counts.0.lock().is_empty());
    }
}
