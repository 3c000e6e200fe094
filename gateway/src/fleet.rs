//! The live gateways of this deployment, by the leases they keep in the broker.
//!
//! Renews this gateway's lease and notices when others end. Never decides what follows when a gateway ends.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::{Broker, Range, Refusal, broker_header, header_number},
    config::Config,
    envelope::get,
    header,
    id::GatewayId,
    lifecycle::Lifecycle,
    subject::Subjects,
    topology::PRESENCE,
};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use self::leases::{Lease, Leases};
use crate::metrics::Metrics;

pub(crate) mod forward;
mod leases;
pub(crate) mod peers;
pub(crate) mod sessions;

/// Leases per read: a batch has no flow control.
const BATCH: usize = 500;
/// How long the broker keeps the mark of a gateway that left. The others receive it at once.
const ENDED_TTL: &str = "1s";
/// The marker reason of a leave, of a member or of a gateway. The broker's own markers have other reasons.
pub(crate) const LEFT: &str = "Remove";

/// The gateways of this deployment.
pub(crate) struct Fleet {
    gateway: GatewayId,
    broker: Broker,
    subjects: Subjects,
    lease: Duration,
    leases: Mutex<Leases>,
    /// The live gateways, for tasks that wait for one to end.
    live: watch::Sender<HashSet<GatewayId>>,
    ending: AtomicBool,
    doubt: Notify,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

impl Fleet {
    pub(crate) fn new(
        config: &Config,
        broker: Broker,
        gateway: GatewayId,
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            subjects: config.subjects(),
            lease: config.presence.lease,
            leases: Mutex::new(Leases::new(gateway.clone())),
            live: watch::Sender::new([gateway.clone()].into()),
            ending: AtomicBool::new(false),
            doubt: Notify::new(),
            gateway,
            metrics,
            lifecycle,
        })
    }

    /// Takes the lease and reads which gateways live. From now on the others ask this one.
    pub(crate) async fn start(self: &Arc<Self>) -> anyhow::Result<()> {
        let leases = self.broker.client().subscribe(self.subjects.here_leases()).await?;
        self.broker.settled().await?;
        let seq = self.renew(None).await?;
        self.read().await?;
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("leases of gateways", async move { this.follow_leases(leases).await });
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("renewing the lease", async move { this.renew_on_time(seq).await });
        let this = Arc::clone(self);
        self.lifecycle.spawn_essential("reading leases", async move { this.look_again().await });
        Ok(())
    }

    /// This gateway.
    pub(crate) fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Whether a gateway is live.
    pub(crate) fn is_live(&self, gateway: &GatewayId) -> bool {
        self.leases.lock().is_live(gateway)
    }

    /// Watches the live gateways, this one included.
    pub(crate) fn live(&self) -> watch::Receiver<HashSet<GatewayId>> {
        self.live.subscribe()
    }

    /// The other gateways that can be asked, each with the sequence of its newest lease.
    pub(crate) fn others(&self) -> Vec<(GatewayId, u64)> {
        self.leases.lock().others()
    }

    /// Marks a gateway as not connected to the broker, unless it renewed its lease after `seq`.
    pub(crate) fn unreachable(&self, gateway: &GatewayId, seq: u64) {
        self.leases.lock().unreachable(gateway, seq);
    }

    /// Completes after a possible loss of a message, such as a reconnect. For one waiting task.
    pub(crate) async fn doubtful(&self) {
        self.doubt.notified().await;
    }

    /// Reads the leases of all gateways.
    pub(crate) async fn read(&self) -> Result<(), Refusal> {
        let before = self.leases.lock().known();
        let filter = self.subjects.all_leases();
        let mut found = HashMap::new();
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            found.extend(
                page.messages
                    .iter()
                    .filter_map(|message| read_lease(broker_header(message, header::SUBJECT)?, message)),
            );
        }
        self.leases.lock().read(&before, found);
        self.announce();
        Ok(())
    }

    /// Ends the lease, so that the others need not wait for it to expire.
    pub(crate) async fn leave(&self) {
        self.ending.store(true, Ordering::Release);
        let subject = self.subjects.lease(&self.gateway);
        let last = self.broker.last(PRESENCE, &subject).await.ok().flatten();
        let Some(seq) = last.and_then(|last| header_number(&last, header::SEQUENCE)) else { return };
        if let Err(refusal) = self.broker.store(subject, leaving(seq, ENDED_TTL), Bytes::new()).await {
            tracing::debug!(%refusal, "the lease was not ended; it expires");
        }
    }

    async fn renew(&self, seq: Option<u64>) -> Result<u64, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::TTL, format!("{}s", self.lease.as_secs()));
        if let Some(seq) = seq {
            headers.insert(header::EXPECTED_LAST, seq.to_string());
        }
        let subject = self.subjects.lease(&self.gateway);
        self.broker.store(subject, headers, Bytes::from_static(b"{}")).await.map(|stored| stored.seq)
    }

    /// Renews the lease, each time replacing the one before. If that one is missing, the others took this gateway for
    /// ended.
    async fn renew_on_time(&self, mut seq: u64) {
        let mut ticks = interval(self.lease.mul_f64(0.3));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut losses = self.broker.losses();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = losses.next() => self.doubt.notify_one(),
                () = self.lifecycle.finishing() => return,
            }
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            let renewed = match self.renew(Some(seq)).await {
                Err(Refusal::Taken) => {
                    self.metrics.presence_changed("lease_lost");
                    tracing::warn!("this gateway's lease had ended: its members are announced again");
                    self.doubt.notify_one();
                    self.renew(None).await
                }
                renewed => renewed,
            };
            match renewed {
                Ok(renewed) => seq = renewed,
                Err(refusal) => tracing::debug!(%refusal, "cannot renew the lease yet"),
            }
        }
    }

    async fn follow_leases(&self, mut leases: Subscriber) {
        loop {
            let message = tokio::select! {
                message = leases.next() => message,
                () = self.lifecycle.finishing() => return,
            };
            let Some(message) = message else { return };
            if let Some((gateway, lease)) = read_lease(&message.subject, &message) {
                self.leases.lock().see(gateway, lease);
                self.announce();
            }
        }
    }

    /// Reads the leases once per lease time, in case the live message of an end was missed.
    async fn look_again(&self) {
        while pause(&self.lifecycle, self.lease).await {
            if let Err(refusal) = self.read().await {
                tracing::debug!(%refusal, "cannot read the leases yet");
            }
        }
    }

    /// Publishes the set of live gateways to the watchers.
    fn announce(&self) {
        // Under the lock, so that the last published set is the latest one.
        let leases = self.leases.lock();
        let now: HashSet<GatewayId> = leases.live().cloned().collect();
        self.metrics.presence_gateways(now.len());
        self.live.send_if_modified(|live| {
            let changed = *live != now;
            *live = now;
            changed
        });
    }
}

fn read_lease(subject: &str, message: &Message) -> Option<(GatewayId, Lease)> {
    let headers = message.headers.as_ref()?;
    let seq = header_number(message, header::SEQUENCE)?;
    let live = get(headers, header::MARKER_REASON).is_none();
    Some((Subjects::gateway_in(subject)?, Lease { seq, live, reachable: live }))
}

/// The sequence at which the next page of TIDE_PRESENCE begins. `None` after the last page.
pub(crate) fn next_page(page: &Range) -> Option<u64> {
    let last = header_number(page.messages.last()?, header::SEQUENCE)?;
    (page.more > 0).then_some(last + 1)
}

/// The headers of a leave mark, which replaces the message with this sequence and expires after `ttl`.
pub(crate) fn leaving(seq: u64, ttl: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::EXPECTED_LAST, seq.to_string());
    headers.insert(header::MARKER_REASON, LEFT);
    headers.insert(header::TTL, ttl);
    headers
}

/// Waits for `time`. Returns false if the process ends before.
pub(crate) async fn pause(lifecycle: &Lifecycle, time: Duration) -> bool {
    tokio::select! {
        () = sleep(time) => true,
        () = lifecycle.finishing() => false,
    }
}
