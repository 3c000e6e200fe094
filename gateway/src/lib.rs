//! The gateway: holds client connections, stores what clients send, and delivers publications.
//!
//! Its only state is on sockets and in JetStream. The folders are layers. Each imports only folders below it:
//!
//! - `http`: the listeners, their routes and limits, and the requests that become connections
//! - `connection`: one client, one task: the loop that reads, writes, keeps time and carries out effects
//! - `session`: what a command means, pure: inputs and the time in, effects out
//! - `api`: the methods of the server API, and their NATS door
//! - `channels`: publications on their way to subscribers: hub, feeds, history, recovery, positions
//! - `presence`: the members of channels, kept in the broker and read from it
//! - `requests`: requests on their way to workers, and answers on their way back
//! - `policy`: who may do what: tokens, keys, rules, decisions of back ends
//! - `fleet`: the other gateways: leases, questions to peers, forwarding of posted commands
//! - `outbox`: the bounded way to one socket, orders for it, and how frames are encoded
//! - `metrics`: every instrument

mod api;
mod channels;
mod connection;
mod fleet;
mod http;
mod metrics;
mod outbox;
mod policy;
mod presence;
mod requests;
mod session;

/// Test keys and tokens, shared with the integration tests.
#[cfg(test)]
#[path = "../tests/it/fields.rs"]
mod fields;
#[cfg(test)]
#[path = "../tests/it/signer.rs"]
mod signer;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tidegate_shared::{
    access::Account,
    broker::Broker,
    config::{Config, Match},
    id::GatewayId,
    lifecycle::Lifecycle,
    topology::Topology,
};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    api::{Api, Local},
    channels::{Channels, hub::Hub},
    connection::Shared,
    fleet::{Fleet, forward::Emulation, peers::Peers},
    http::{
        ApiDoor, ClientDoor, Health,
        listen::{Limits, serve},
        origin::Origins,
    },
    metrics::Metrics,
    policy::{
        hooks::Hooks,
        keys::{FetchPace, Keys},
        rules::Rules,
        tokens::Verifier,
    },
    presence::Presence,
    requests::{answers::Answers, cache::Cache, quota::Quotas, store::Store, waiting::Waiting},
};

/// The most connections of the internal listener.
const INTERNAL_CONNECTIONS: usize = 256;

/// Time for closing handshakes beyond the configured drain times.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// A gateway with its listeners bound.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    public: TcpListener,
    internal: TcpListener,
}

impl Gateway {
    /// Binds both listeners.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let public = bind("gateway.listen", config.gateway.listen).await?;
        let internal = bind("gateway.internal", config.gateway.internal).await?;
        Ok(Self { config, public, internal })
    }

    /// Serves until the process is asked to stop and all connections have ended. Waits for NATS first, and logs that it
    /// waits.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { config, public, internal } = self;
        let verifier = Verifier::new(&config)?;
        let health = Health {
            metrics: Metrics::new(),
            serving: Arc::default(),
            lifecycle: lifecycle.clone(),
            api: ApiDoor::new(&config),
            stored_routes: config
                .routes
                .iter()
                .filter(|route| !matches!(route.matches, Match::Hook(_)))
                .count(),
        };
        serve_internal(internal, &health, &config);
        let Some(broker) = connect(&config, &lifecycle).await? else {
            lifecycle.finish(LAST_MOMENT).await;
            return outcome(&lifecycle);
        };
        let (shared, api) = wire(&config, verifier, broker.clone(), &health.metrics, &lifecycle).await?;
        let gateway = shared.rules.gateway.clone();
        let emulation = Emulation::start(gateway, broker.clone(), config.subjects(), &lifecycle).await?;
        api::nats::start(Arc::clone(&api), broker.clone(), &config.subjects(), &lifecycle).await?;
        health.api.open(api);
        let metrics = health.metrics.clone();
        let limits = Limits {
            connections: config.gateway.limits.connections,
            handshake: config.gateway.limits.handshake,
        };
        let router = http::public(ClientDoor {
            connections: Arc::clone(&shared),
            origins: Origins::of(&config),
            emulation,
            lifecycle: lifecycle.clone(),
        });
        let draining = lifecycle.clone();
        lifecycle.spawn_essential(
            "public listener",
            serve(
                public,
                router,
                limits,
                lifecycle.clone(),
                async move { draining.draining().await },
                move || metrics.refused("full"),
            ),
        );
        tracing::info!(gateway.id = shared.rules.gateway.as_str(), listen = %config.gateway.listen, "serving");
        let _ = health.serving.set(broker);
        lifecycle.draining().await;
        drain(&shared, &config, &lifecycle).await;
        outcome(&lifecycle)
    }
}

/// An error if the process drained because a task that it cannot work without had ended.
fn outcome(lifecycle: &Lifecycle) -> anyhow::Result<()> {
    lifecycle.failure().map_or(Ok(()), |ended| Err(ended.clone().into()))
}

fn serve_internal(listener: TcpListener, health: &Health, config: &Config) {
    let limits = Limits { connections: INTERNAL_CONNECTIONS, handshake: config.gateway.limits.handshake };
    let lifecycle = health.lifecycle.clone();
    let finishing = lifecycle.clone();
    // Health and metrics are still served while the gateway drains.
    let until = async move { finishing.finishing().await };
    lifecycle.clone().spawn_essential(
        "internal listener",
        serve(listener, http::internal(health.clone()), limits, lifecycle, until, || {}),
    );
}

/// Connects to NATS and checks the streams. `None` if the process is asked to stop meanwhile.
async fn connect(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<Option<Broker>> {
    let in_flight = config.gateway.limits.max_in_flight_total;
    let broker = tokio::select! {
        broker = Broker::connect(&config.nats, &config.nats.gateway, "tidegate-gateway", in_flight, false) => broker?,
        () = lifecycle.draining() => return Ok(None),
    };
    broker.try_rights(config, Account::Gateway, false).await?;
    let missing = Topology::of(config).plan_streams(broker.jetstream()).await?;
    if let Some(change) = missing.first() {
        anyhow::bail!("the broker does not match the configuration ({}): run `tidegate apply`", change.what);
    }
    broker.try_rights(config, Account::Gateway, true).await?;
    Ok(Some(broker))
}

/// Builds the parts and connects them, from the lowest layer up.
async fn wire(
    config: &Config,
    verifier: Verifier,
    broker: Broker,
    metrics: &Metrics,
    lifecycle: &Lifecycle,
) -> anyhow::Result<(Arc<Shared>, Arc<Api>)> {
    let (gateway, subjects, hub) = (GatewayId::random(), config.subjects(), Arc::new(Hub::new()));
    let fleet = Fleet::new(config, broker.clone(), gateway.clone(), metrics.clone(), lifecycle.clone());
    let local = Arc::new(Local {
        gateway: gateway.clone(),
        name: config.gateway.listen.to_string(),
        hub: Arc::clone(&hub),
        started: Instant::now(),
    });
    // Other gateways ask this one as soon as it has a lease, so it has to answer before it takes one.
    let respond = Arc::clone(&local).respond();
    let peers =
        Peers::start(broker.clone(), subjects.clone(), Arc::clone(&fleet), respond, lifecycle).await?;
    fleet.start().await?;
    let presence = Presence::new(config, broker.clone(), fleet, metrics.clone(), lifecycle.clone());
    presence.start();
    let (waiting, words) = Waiting::new();
    let cache = Arc::new(Cache::default());
    cache.watch(broker.clone(), metrics.clone(), lifecycle);
    let answers =
        Answers { waiting: waiting.clone(), metrics: metrics.clone(), lifecycle: lifecycle.clone() };
    answers.start(words, &broker, &subjects, &gateway).await?;
    let store = Arc::new(Store::new(broker.clone(), subjects.clone(), waiting, cache, metrics.clone()));
    let parts = (hub, Arc::clone(&presence));
    let channels =
        Channels::start(config, &gateway, broker.clone(), parts, metrics.clone(), lifecycle.clone()).await?;
    let channels = Arc::new(channels);
    let quotas = Arc::new(Quotas::new(config, metrics.clone()));
    quotas.start(broker.clone(), lifecycle);
    let keys = Keys::start(&verifier, FetchPace::every(config.auth.jwks_refresh), metrics, lifecycle).await?;
    let shared = Arc::new(Shared {
        rules: Arc::new(Rules::new(config, verifier, gateway)),
        store,
        channels,
        presence,
        keys,
        quotas,
        hooks: Hooks::new(broker, subjects, &config.hooks, metrics.clone()),
        metrics: metrics.clone(),
        answer_timeout: config.gateway.answer_timeout,
    });
    let api = Arc::new(Api {
        rules: Arc::clone(&shared.rules),
        store: Arc::clone(&shared.store),
        channels: Arc::clone(&shared.channels),
        presence: Arc::clone(&shared.presence),
        local,
        peers,
        metrics: shared.metrics.clone(),
        answer_timeout: shared.answer_timeout,
    });
    Ok((shared, api))
}

/// Lets requests settle, closes the connections, and ends the remaining tasks.
async fn drain(shared: &Shared, config: &Config, lifecycle: &Lifecycle) {
    let (hub, drain) = (&shared.channels.hub, &config.gateway.drain);
    tracing::info!(connections = hub.len(), "draining");
    hub.drain(drain.settle, drain.window);
    let limit = drain.settle.max(drain.window) + LAST_MOMENT;
    tokio::select! {
        () = hub.emptied() => {}
        () = tokio::time::sleep(limit) => tracing::warn!(connections = hub.len(), "connections left after draining"),
        () = lifecycle.stopping() => {}
    }
    tokio::select! {
        () = shared.presence.finish() => {}
        () = lifecycle.stopping() => {}
    }
    lifecycle.finish(LAST_MOMENT).await;
    tracing::info!("drained");
}

async fn bind(key: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}, which is `{key}`"))
}
