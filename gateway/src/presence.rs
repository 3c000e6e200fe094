//! Who is in the channels: the members of this gateway kept in the broker, and everybody's read from it.
//!
//! A member is one message without end: a client that does nothing costs no writes, and the members of a gateway that is
//! gone count no more from the moment its lease ends. Never decides who may
//! ask, and no connection waits here for more than its own joining.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::Message;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::{Broker, Refusal, header_number},
    channel::Channel,
    config::Config,
    envelope::get,
    header,
    id::{ClientId, GatewayId},
    lifecycle::Lifecycle,
    protocol::{ClientInfo, PresenceResult, protobuf},
    subject::Subjects,
    topology::PRESENCE,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use self::{change::MembershipChange, registry::Registry};
use crate::{
    fleet::{Fleet, LEFT, next_page},
    metrics::Metrics,
};

pub(crate) mod change;
mod reconcile;
mod registry;
mod sweep;
mod writer;

/// How long a client waits until its membership is stored.
const JOIN_LIMIT: Duration = Duration::from_secs(4);
/// How long reading the members of a channel may take, waiting for a turn included.
const READ_LIMIT: Duration = Duration::from_secs(4);
/// Channels that are read at the same time: a large one is megabytes.
const READS: usize = 16;
/// Members read at a time: a batch has no flow control.
const BATCH: usize = 500;
/// How long leaving may take when the gateway drains.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// How long the broker remembers that a member has left: longer than anybody who removes it may wait for the broker.
const LEFT_TTL: &str = "5s";

/// The presence of this gateway's clients, and the way to everybody's.
pub(crate) struct Presence {
    broker: Broker,
    subjects: Subjects,
    fleet: Arc<Fleet>,
    /// The namespaces whose subscribers may be told who comes and leaves.
    join_leave: HashSet<String>,
    registry: Mutex<Registry>,
    /// The gateways whose members this one is removing.
    sweeping: Mutex<HashSet<GatewayId>>,
    work: Notify,
    empty: Notify,
    reads: Semaphore,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

/// A client's membership in a channel, as long as it is held.
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
            metrics,
            lifecycle,
        })
    }

    /// Stores that a client is in a channel; returns when the broker has it.
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

    /// Whether subscribers of a channel may be told who comes and leaves.
    pub(crate) fn has_join_leave(&self, channel: &Channel) -> bool {
        self.join_leave.contains(channel.namespace())
    }

    /// Everybody who is in a channel, on any gateway that lives, by the ids of their connections.
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

    /// Reads a change that the broker has repeated; nothing if it only has forgotten that somebody left.
    pub(crate) fn change(message: &Message) -> Option<MembershipChange> {
        let reason = message.headers.as_ref().and_then(|headers| get(headers, header::MARKER_REASON));
        let joined = match reason {
            None => true,
            Some(LEFT) => false,
            Some(_) => return None,
        };
        Some(MembershipChange { info: protobuf::decode_one(message.payload.clone()).ok()?, joined })
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
            tracing::warn!(members = self.registry.lock().len(), "members that have not left");
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

/// A member the broker has; nothing for a mark that one has left.
fn read_member(message: &Message) -> Option<StoredMember> {
    let headers = message.headers.as_ref()?;
    if get(headers, header::MARKER_REASON).is_some() {
        return None;
    }
    let subject = get(headers, header::SUBJECT)?;
    Some(StoredMember {
        client: ClientId::parse(Subjects::id_in(subject)?)?,
        seq: header_number(message, header::SEQUENCE)?,
        info: message.payload.clone(),
        subject: subject.into(),
    })
}
