//! Channels and their publications: from NATS to subscribers, in order and without gaps.

pub(crate) mod callers;
mod confirm;
pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod hub;
pub(crate) mod interest;
pub(crate) mod message;
mod positions;
mod readers;
mod receive;
pub(crate) mod resume;
mod window_budget;

use std::sync::Arc;

use tidegate_shared::{broker::Broker, config::Config, id::GatewayId, lifecycle::Lifecycle, sparse::Sparse};

use self::{
    callers::Callers, confirm::Confirmations, feed::Limit, history::History, hub::Hub, interest::Interests,
    positions::Positions, receive::Receiver, resume::Recovery,
};
use crate::{metrics::Metrics, presence::Presence};

/// How large the publications of one read may be, whatever the outbox may hold, and for a service.
pub(crate) const MAX_READ: usize = 8 << 20;

/// The channels of this gateway.
pub(crate) struct Channels {
    /// The connections and channels that this gateway holds.
    pub(crate) hub: Arc<Hub>,
    /// What the streams keep.
    pub(crate) history: Arc<History>,
    /// What subscribers have missed.
    pub(crate) recovery: Arc<Recovery>,
    /// Which channels are received.
    pub(crate) interests: Arc<Interests>,
    /// Which clients are connected, for workers.
    pub(crate) callers: Arc<Callers>,
}

impl Channels {
    /// Begins to receive. Returns when the broker has the subscriptions.
    pub(crate) async fn start(
        config: &Config,
        gateway: &GatewayId,
        broker: Broker,
        (hub, presence): (Arc<Hub>, Arc<Presence>),
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> anyhow::Result<Self> {
        let (subjects, namespaces) = (config.subjects(), config.all_namespaces());
        let limits = &config.gateway.limits;
        // A reply may fill half of the outbox. More than that is read, because NATS counts headers that clients do not get.
        let outbox = usize::try_from(limits.outbox).unwrap_or(usize::MAX);
        let bytes = (outbox / 4 * 3).min(MAX_READ);
        let limit = Limit { publications: limits.recovery, bytes };
        let last_ttl = config.streams.last_ttl;
        let history = History::new(broker.clone(), subjects.clone(), &namespaces, last_ttl, limit);
        let history = Arc::new(history);
        let recovery = Arc::new(Recovery::new(Arc::clone(&history), metrics.clone(), lifecycle.clone()));
        let positions = Arc::new(Positions {
            broker: broker.clone(),
            hub: Arc::clone(&hub),
            history: Arc::clone(&history),
            recovery: Arc::clone(&recovery),
            lifecycle: lifecycle.clone(),
        });
        let callers = Callers { broker: broker.clone(), subjects: subjects.clone(), hub: Arc::clone(&hub) };
        let callers = Arc::new(callers);
        callers.start(gateway, &lifecycle).await?;
        let confirmations = Confirmations::start(&broker, &config.nats.service, &lifecycle);
        let receiver = Arc::new(Receiver {
            confirmations,
            broker,
            subjects,
            hub: Arc::clone(&hub),
            history: Arc::clone(&history),
            recovery: Arc::clone(&recovery),
            metrics,
            lifecycle: lifecycle.clone(),
            warned: Sparse::new(),
        });
        receiver.start(gateway, &namespaces).await?;
        positions.watch();
        let interests = Interests::new(receiver, presence, &namespaces);
        Ok(Self { hub, history, recovery, interests, callers })
    }
}
