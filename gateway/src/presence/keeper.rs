//! The leases of the gateways: this one's is renewed, the others' ends are noticed, and after anything that may have cost
//! the broker or this gateway a message the two are compared.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    broker::{Refusal, header_number},
    envelope::get,
    header,
    id::GatewayId,
    subject::Subjects,
    topology::PRESENCE,
};
use tokio::time::{MissedTickBehavior, interval};

use super::{BATCH, Presence, leases::Lease, leaving, lock, next_page, pause, read_kept};

/// Between two tries while the broker is away.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// When what was compared is compared once more: those who took this gateway for gone may still have been removing.
const SECOND_LOOK: Duration = Duration::from_secs(3);
/// How long the broker remembers that a gateway has ended by itself: it is told at once.
const ENDED_TTL: &str = "1s";

impl Presence {
    /// Takes the lease, learns which gateways live, and begins to keep members.
    pub(crate) async fn start(self: &Arc<Self>, barrier: String) -> anyhow::Result<()> {
        let leases = self.broker.client().subscribe(self.subjects.here_leases()).await?;
        self.broker.barrier(barrier).await?;
        let seq = self.renew(None).await?;
        self.read_leases().await?;
        // What an earlier gateway has left behind when nobody else was there.
        self.doubt.notify_one();
        let this = Arc::clone(self);
        self.lifecycle.spawn(async move { this.hear_leases(leases).await });
        let this = Arc::clone(self);
        self.lifecycle.spawn(async move { this.keep_lease(seq).await });
        let this = Arc::clone(self);
        self.lifecycle.spawn(async move { this.keep_members().await });
        let this = Arc::clone(self);
        self.lifecycle.spawn(async move { this.write().await });
        Ok(())
    }

    fn note_gateways(&self) {
        self.metrics.presence_gateways(self.gateways().len());
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
    async fn keep_lease(&self, mut seq: u64) {
        let mut ticks = interval(self.lease.mul_f64(0.3));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = self.broker.connection();
        loop {
            let back = async {
                // Down, then up again; a change that was missed meanwhile counts as well.
                let _ = connection.changed().await;
                let _ = connection.wait_for(|up| *up).await;
            };
            tokio::select! {
                _ = ticks.tick() => {}
                () = back => self.doubt.notify_one(),
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

    /// Ends the lease: nobody has to wait until it does by itself.
    pub(super) async fn end_lease(&self) {
        let subject = self.subjects.lease(&self.gateway);
        let last = self.broker.last(PRESENCE, &subject).await.ok().flatten();
        let Some(seq) = last.and_then(|last| header_number(&last, header::SEQUENCE)) else { return };
        if let Err(refusal) = self.broker.store(subject, leaving(seq, ENDED_TTL), Bytes::new()).await {
            tracing::debug!(%refusal, "the lease ends by itself");
        }
    }

    async fn hear_leases(self: &Arc<Self>, mut leases: Subscriber) {
        loop {
            let message = tokio::select! {
                message = leases.next() => message,
                () = self.lifecycle.finishing() => return,
            };
            let Some(message) = message else { return };
            if let Some((gateway, lease)) = read_lease(&message.subject, &message) {
                let ended = lock(&self.leases).see(gateway.clone(), lease);
                self.note_gateways();
                if ended {
                    self.ended(gateway);
                }
            }
        }
    }

    /// Reads the leases now and then, and compares the members after anything doubtful.
    async fn keep_members(self: &Arc<Self>) {
        loop {
            let doubtful = tokio::select! {
                () = self.doubt.notified() => true,
                () = tokio::time::sleep(self.lease) => false,
                () = self.lifecycle.finishing() => return,
            };
            if !doubtful {
                if let Err(refusal) = self.read_leases().await {
                    tracing::debug!(%refusal, "the leases cannot be read yet");
                }
                continue;
            }
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
        }
    }

    /// Reads which gateways live.
    async fn read_leases(self: &Arc<Self>) -> Result<(), Refusal> {
        let before = lock(&self.leases).known();
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
        let ended = lock(&self.leases).read(&before, found);
        self.note_gateways();
        for gateway in ended {
            self.ended(gateway);
        }
        Ok(())
    }

    /// Compares all members with what is known: this gateway's with those it answers for, the others' with the leases.
    async fn compare(self: &Arc<Self>) -> Result<(), Refusal> {
        self.read_leases().await?;
        let mut settled = lock(&self.registry).settled();
        let mut abandoned = HashSet::new();
        let filter = self.subjects.all_members();
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            for member in page.messages.iter().filter_map(read_kept) {
                let gateway = member.client.gateway();
                if gateway == self.gateway {
                    lock(&self.registry).found(&member.subject);
                    if settled.get(&member.subject) == Some(&member.seq) {
                        settled.remove(&member.subject);
                    }
                } else if !lock(&self.leases).is_live(&gateway) {
                    abandoned.insert(gateway);
                }
            }
        }
        for (subject, seq) in settled {
            lock(&self.registry).doubt(&subject, seq);
        }
        self.work.notify_one();
        for gateway in abandoned {
            self.ended(gateway);
        }
        Ok(())
    }
}

fn read_lease(subject: &str, message: &Message) -> Option<(GatewayId, Lease)> {
    let headers = message.headers.as_ref()?;
    let seq = header_number(message, header::SEQUENCE)?;
    Some((Subjects::gateway_in(subject)?, Lease { seq, live: get(headers, header::MARKER_REASON).is_none() }))
}
