//! Streams and consumers of a configuration, as the one user who may create them.

use std::time::Duration;

use anyhow::Context;
use tidegate_shared::{
    broker::Broker,
    config::Config,
    topology::{Change, Topology},
};
use tokio::time::timeout;

/// How long the broker may take to let the setup user in.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests of one after the other: nothing else is in flight.
const IN_FLIGHT: usize = 16;

/// Connects as `nats.setup`.
pub async fn connect(config: &Config) -> anyhow::Result<Broker> {
    let connecting = Broker::connect(&config.nats, &config.nats.setup, "tidegate setup", IN_FLIGHT, true);
    let broker = timeout(LIMIT, connecting).await;
    Ok(broker.with_context(|| format!("no NATS answers at {} within {LIMIT:?}", config.nats.url))??)
}

/// Says what would have to change.
pub async fn plan(broker: &Broker, config: &Config) -> anyhow::Result<Vec<Change>> {
    Ok(Topology::of(config).plan(broker.jetstream()).await?)
}

/// Makes streams and consumers what the configuration says. Returns what was changed.
pub async fn apply(broker: &Broker, config: &Config) -> anyhow::Result<Vec<Change>> {
    let plan = plan(broker, config).await?;
    Topology::of(config).apply(broker.jetstream(), &plan).await?;
    Ok(plan)
}
