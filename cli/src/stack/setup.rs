//! Creates the streams and consumers of a configuration as the setup user, the only one with that permission.

use std::time::Duration;

use anyhow::bail;
use tidegate_shared::{
    broker::Broker,
    config::{Config, NatsUser},
    topology::{Change, Topology},
};
use tokio::time::timeout;

/// How long the connection of the setup user may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests in flight. Setup sends them one after the other.
const IN_FLIGHT: usize = 16;

/// Connects as `nats.setup`.
pub async fn connect(config: &Config) -> anyhow::Result<Broker> {
    connect_as(config, &config.nats.setup).await
}

pub(crate) async fn connect_as(config: &Config, user: &NatsUser) -> anyhow::Result<Broker> {
    let connecting = Broker::connect(&config.nats, user, "tidegate setup", IN_FLIGHT, true);
    let Ok(broker) = timeout(LIMIT, connecting).await else {
        bail!("no NATS answers at {} within {LIMIT:?}: start it, or check nats.url", config.nats.url);
    };
    Ok(broker?)
}

/// Returns the changes that `apply` would make.
pub async fn plan(broker: &Broker, config: &Config) -> anyhow::Result<Vec<Change>> {
    Ok(Topology::of(config).plan(broker.jetstream()).await?)
}

/// Creates and updates streams and consumers to match the configuration. Returns the changes.
pub async fn apply(broker: &Broker, config: &Config) -> anyhow::Result<Vec<Change>> {
    let plan = plan(broker, config).await?;
    Topology::of(config).apply(broker.jetstream(), &plan).await?;
    Ok(plan)
}

/// Creates streams and consumers that are missing, and changes no others. Returns the changes.
pub async fn create_missing(broker: &Broker, config: &Config) -> anyhow::Result<Vec<Change>> {
    let missing: Vec<Change> = plan(broker, config).await?.into_iter().filter(Change::creates).collect();
    Topology::of(config).apply(broker.jetstream(), &missing).await?;
    Ok(missing)
}
