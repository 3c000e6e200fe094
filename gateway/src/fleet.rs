//! The gateways of this deployment: which of them live, by the leases they keep in the broker.
//!
//! This one's lease is renewed, the others' ends are noticed. Never decides what follows when a gateway ends.

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
    broker::{Broker, Range, Refusal, header_number},
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

/// Leases read at a time: a batch has no flow control.
const BATCH: usize = 500;
/// How long the broker remembers that a gateway has ended by itself: it is told at once.
const ENDED_TTL: &str = "1s";
/// Why a message marks that a member has left, or a gateway ended by itself. The broker writes another reason.
pub(crate) const LEFT: &str = "Remove";

/// Who is there beside this gateway.
pub(crate) struct Fleet {
    gateway: GatewayId,
    broker: Broker,
    subjects: Subjects,
    lease: Duration,
    leases: Mutex<Leases>,
    /// The gateways that live, for whoever waits until one does not.
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

    /// Takes the lease and learns which gateways live. From now on the others count on this one.
    pub(crate) async fn start(self: &Arc<Self>) -> anyhow::Result<()> {
        let leases = self.broker.client().subscribe(self.subjects.here_leases()).await?;
        self.broker.barrier(self.subjects.barrier()).await?;
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

    /// Whether a gateway lives.
    pub(crate) fn is_live(&self, gateway: &GatewayId) -> bool {
        self.leases.lock().is_live(gateway)
    }

    /// Follows which gateways live, this one included.
    pub(crate) fn live(&self) -> watch::Receiver<HashSet<GatewayId>> {
        self.live.subscribe()
    }

    /// The other gateways to be asked what is asked of all, each with its newest sign of life.
    pub(crate) fn others(&self) -> Vec<(GatewayId, u64)> {
        self.leases.lock().others()
    }

    /// A gateway is not connected to the broker, and has given no sign of life since this one.
    pub(crate) fn unreachable(&self, gateway: &GatewayId, seq: u64) {
        self.leases.lock().unreachable(gateway, seq);
    }

    /// Completes after anything that may have cost the broker or this gateway a message. For one who waits.
    pub(crate) async fn doubtful(&self) {
        self.doubt.notified().await;
    }

    /// Reads which gateways live.
    pub(crate) async fn read(&self) -> Result<(), Refusal> {
        let before = self.leases.lock().known();
        let filter = self.subjects.all_leases();
        let mut found = HashMap::new();
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            found.extend(page.messages.iter().filter_map(|message| {
                let subject = message.headers.as_ref().and_then(|headers| get(headers, header::SUBJECT))?;
                read_lease(subject, message)
            }));
        }
        self.leases.lock().read(&before, found);
        self.announce();
        Ok(())
    }

    /// Ends the lease: nobody has to wait until it does by itself.
    pub(crate) async fn leave(&self) {
        self.ending.store(true, Ordering::Release);
        let subject = self.subjects.lease(&self.gateway);
        let last = self.broker.last(PRESENCE, &subject).await.ok().flatten();
        let Some(seq) = last.and_then(|last| header_number(&last, header::SEQUENCE)) else { return };
        if let Err(refusal) = self.broker.store(subject, leaving(seq, ENDED_TTL), Bytes::new()).await {
            tracing::debug!(%refusal, "the lease ends by itself");
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

    /// Renews the lease, each time in the place of the one before: if that is gone, others have taken this gateway for gone.
    async fn renew_on_time(&self, mut seq: u64) {
        let mut ticks = interval(self.lease.mul_f64(0.3));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reconnects = self.broker.reconnects();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = reconnects.next() => self.doubt.notify_one(),
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
                Err(refusal) => tracing::debug!(%refusal, "the lease is not renewed yet"),
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

    /// Reads the leases now and then, should an end not have been heard.
    async fn look_again(&self) {
        while pause(&self.lifecycle, self.lease).await {
            if let Err(refusal) = self.read().await {
                tracing::debug!(%refusal, "the leases cannot be read yet");
            }
        }
    }

    /// Tells whoever follows which gateways live.
    fn announce(&self) {
        // Under the lock, so that what is told last is what is known last.
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

/// Where the next page of what TIDE_PRESENCE keeps begins, if there is one.
pub(crate) fn next_page(page: &Range) -> Option<u64> {
    let last = header_number(page.messages.last()?, header::SEQUENCE)?;
    (page.more > 0).then_some(last + 1)
}

/// The headers of a mark that replaces the message with this sequence, and is forgotten after a while.
pub(crate) fn leaving(seq: u64, ttl: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::EXPECTED_LAST, seq.to_string());
    headers.insert(header::MARKER_REASON, LEFT);
    headers.insert(header::TTL, ttl);
    headers
}

/// Waits, unless the process ends: then returns false.
pub(crate) async fn pause(lifecycle: &Lifecycle, time: Duration) -> bool {
    tokio::select! {
        () = sleep(time) => true,
        () = lifecycle.finishing() => false,
    }
}
