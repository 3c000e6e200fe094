//! Presence: stores this gateway's members in the broker, and reads the members of all gateways from it.
//!
//! A member is one message without expiry, so an idle client costs no writes. The members of a gateway stop counting
//! when its lease ends. Never decides who may ask. A connection waits here only for its own join.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::Message;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::{Broker, Refusal, broker_header, header_number},
    channel::Channel,
    config::Config,
    envelope::get,
    header,
    id::{ClientId, GatewayId},
    lifecycle::Lifecycle,
    protocol::{ClientInfo, CodecError, PresenceResult, protobuf},
    subject::Subjects,
    topology::PRESENCE,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use self::{change::MembershipChange, count::Counts, registry::Registry};
use crate::{
    fleet::{Fleet, LEFT, next_page},
    metrics::Metrics,
};

pub(crate) mod change;
mod count;
mod reconcile;
mod registry;
mod sweep;
mod writer;

/// How long a client waits for its membership to be stored.
const JOIN_LIMIT: Duration = Duration::from_secs(4);
/// How long reading the members of a channel may take, the wait for a turn included.
const READ_LIMIT: Duration = Duration::from_secs(4);
/// Channels read at the same time: a large one is megabytes.
const READS: usize = 16;
/// Members per read: a batch has no flow control.
const BATCH: usize = 500;
/// How long the members may take to leave when the gateway drains.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// How long the broker keeps the mark of a leave: longer than any remover waits for the broker.
const LEFT_TTL: &str = "5s";

/// The members of this gateway's channels, and the access to those of all gateways.
pub(crate) struct Presence {
    broker: Broker,
    subjects: Subjects,
    fleet: Arc<Fleet>,
    /// The namespaces with joins and leaves.
    join_leave: HashSet<String>,
    registry: Mutex<Registry>,
    /// The ended gateways whose members this one is removing.
    sweeping: Mutex<HashSet<GatewayId>>,
    work: Notify,
    empty: Notify,
    reads: Semaphore,
    counts: Counts,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

/// A client's membership in a channel. It leaves when this is dropped.
pub(crate) struct Membership {
    presence: Arc<Presence>,
    subject: Arc<str>,
}

/// A member as the broker has it.
struct StoredMember {
    subject: Arc<str>,
    client: ClientId,
    seq: u64,
    info: Bytes,
}

impl Presence {
    pub(crate) fn new(
        config: &Config,
        broker: Broker,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> Arc<Self> {
        let join_leave = config.all_namespaces().into_iter().filter(|namespace| namespace.join_leave);
        Arc::new(Self {
            broker,
            subjects: config.subjects(),
            fleet,
            join_leave: join_leave.map(|namespace| namespace.name).collect(),
            registry: Mutex::default(),
            sweeping: Mutex::default(),
            work: Notify::new(),
            empty: Notify::new(),
            reads: Semaphore::new(READS),
            counts: Counts::default(),
            metrics,
            lifecycle,
        })
    }

    /// Stores a member. Returns once the broker has it.
    pub(crate) async fn join(
        self: &Arc<Self>,
        channel: &Channel,
        client: &ClientId,
        info: &ClientInfo,
    ) -> Result<Membership, Refusal> {
        if !self.broker.is_connected() {
            return Err(Refusal::Unavailable("not connected to NATS".to_owned()));
        }
        let subject: Arc<str> = self.subjects.member(channel, client).into();
        let stored = self.registry.lock().hold(&subject, protobuf::encode(info));
        let present = Membership { presence: Arc::clone(self), subject };
        self.work.notify_one();
        if let Some(stored) = stored {
            timeout(JOIN_LIMIT, stored).await.ok().and_then(Result::ok).unwrap_or(Err(Refusal::Unknown))?;
        }
        Ok(present)
    }

    /// Whether a channel has joins and leaves.
    pub(crate) fn has_join_leave(&self, channel: &Channel) -> bool {
        self.join_leave.contains(channel.namespace())
    }

    /// Reads the members of a channel on all live gateways, by client id.
    pub(crate) async fn members(&self, channel: &Channel) -> Result<PresenceResult, Refusal> {
        let late = |_| Refusal::Unavailable("the members could not be read in time".to_owned());
        timeout(READ_LIMIT, self.read_members(channel)).await.map_err(late)?
    }

    async fn read_members(&self, channel: &Channel) -> Result<PresenceResult, Refusal> {
        let _turn = self.reads.acquire().await;
        self.metrics.presence_read();
        let filter = self.subjects.members_of_channel(channel);
        let mut members = PresenceResult::default();
        let mut from = Some(1);
        while let Some(start) = from {
            let page = self.broker.range(PRESENCE, &filter, start, BATCH).await?;
            from = next_page(&page);
            for member in page.messages.iter().filter_map(read_member) {
                if self.fleet.is_live(&member.client.gateway())
                    && let Ok(info) = protobuf::decode_one(member.info)
                {
                    members.presence.insert(member.client.to_string(), info);
                }
            }
        }
        Ok(members)
    }

    /// Reads a join or a leave from a live message. `None` if the broker only expired the mark of a leave.
    pub(crate) fn change(message: &Message) -> Result<Option<MembershipChange>, CodecError> {
        let reason = message.headers.as_ref().and_then(|headers| get(headers, header::MARKER_REASON));
        let joined = match reason {
            None => true,
            Some(LEFT) => false,
            Some(_) => return Ok(None),
        };
        let info = protobuf::decode_one(message.payload.clone())?;
        Ok(Some(MembershipChange { info, joined }))
    }

    /// Waits until this gateway's members have left, then ends its lease.
    pub(crate) async fn finish(&self) {
        let left = async {
            loop {
                let empty = self.empty.notified();
                if self.registry.lock().len() == 0 {
                    return;
                }
                empty.await;
            }
        };
        if timeout(LEAVE_LIMIT, left).await.is_err() {
            // Another gateway removes them when the lease has ended.
            tracing::warn!(
                members = self.registry.lock().len(),
                "some members did not leave in time; another gateway removes them when the lease ends"
            );
            return;
        }
        self.fleet.leave().await;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.presence.registry.lock().release(&self.subject);
        self.presence.work.notify_one();
    }
}

/// Reads a stored member. `None` for the mark of a leave.
fn read_member(message: &Message) -> Option<StoredMember> {
    let headers = message.headers.as_ref()?;
    if get(headers, header::MARKER_REASON).is_some() {
        return None;
    }
    let subject = broker_header(message, header::SUBJECT)?;
    Some(StoredMember {
        client: ClientId::parse(Subjects::id_in(subject)?)?,
        seq: header_number(message, header::SEQUENCE)?,
        info: message.payload.clone(),
        subject: subject.into(),
    })
}
