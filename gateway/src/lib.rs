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
//! - `fuzzing`: the bodies of the fuzz targets; in no program
//! - `conformance`: an echo for WebSocket test suites; in no program

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

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

/// Test keys and tokens, shared with the integration tests.
#[cfg(test)]
#[path = "../tests/it/fields.rs"]
mod fields;
#[cfg(test)]
#[path = "../tests/it/forged.rs"]
mod forged;
#[cfg(test)]
#[path = "../tests/it/signer.rs"]
mod signer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tidegate_shared::{
    access::Account,
    broker::Broker,
    config::{Config, Environment, Match},
    id::GatewayId,
    lifecycle::Lifecycle,
    service_manager,
    topology::Topology,
};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    api::{Api, Local, Routes},
    channels::{Channels, hub::Hub},
    connection::{Shared, limits::CommonLimits},
    fleet::{Fleet, forward::Emulation, peers::Peers},
    http::{
        ApiDoor, ClientDoor, Health,
        listen::{Limits, serve},
        origin::Origins,
        tls::Tls,
    },
    metrics::Metrics,
    outbox::flusher::Flusher,
    policy::{
        address::Proxies,
        crowd::Crowd,
        hooks::Hooks,
        keys::{FetchPace, Keys},
        pace::Rates,
        rules::Rules,
        tokens::Verifier,
    },
    presence::Presence,
    requests::{
        answers::Answers, cache::Cache, firings::Firings, letters::Letters, missed::Missed, quota::Quotas,
        records::Records, schedules::Schedules, store::Store, waiting::Waiting,
    },
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
    /// Binds both listeners. Must be called within a Tokio runtime.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let public = bind("gateway.listen", config.gateway.listen)?;
        let internal = bind("gateway.internal", config.gateway.internal)?;
        Ok(Self { config, public, internal })
    }

    /// Serves until the process is asked to stop and all connections have ended. Waits for NATS first, and logs that it
    /// waits.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { config, public, internal } = self;
        let verifier = Verifier::new(&config)?;
        let tls = Tls::load(&config.gateway.tls)?;
        warn_of_plain_text(&config);
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
        if let Some(tls) = &tls {
            tls.watch(&lifecycle);
        }
        let limits = Limits { tls, ..public_limits(&config, &health.metrics, shared.common.rates) };
        let router = http::public(ClientDoor {
            connections: Arc::clone(&shared),
            origins: Origins::of(&config),
            emulation,
            lifecycle: lifecycle.clone(),
        });
        let draining = lifecycle.clone();
        lifecycle.spawn_essential(
            "public listener",
            serve(public, router, limits, lifecycle.clone(), async move { draining.draining().await }),
        );
        tracing::info!(gateway.id = shared.rules.gateway.as_str(), listen = %config.gateway.listen, "serving");
        let _ = health.serving.set(broker);
        service_manager::ready(&lifecycle);
        lifecycle.draining().await;
        drain(&shared, &config, &lifecycle).await;
        outcome(&lifecycle)
    }
}

/// An error if the process drained because a task that it cannot work without had ended.
fn outcome(lifecycle: &Lifecycle) -> anyhow::Result<()> {
    lifecycle.failure().map_or(Ok(()), |ended| Err(ended.clone().into()))
}

/// The limits of the listener for clients.
fn public_limits(config: &Config, metrics: &Metrics, rates: Rates) -> Limits {
    let limits = &config.gateway.limits;
    Limits {
        connections: limits.connections,
        handshake: limits.handshake,
        header_bytes: usize::try_from(limits.header_bytes).unwrap_or(usize::MAX),
        proxies: Proxies::new(config.gateway.proxies()),
        addresses: Some(Crowd::new(limits.connections_per_address, rates)),
        tls: None,
        metrics: metrics.clone(),
    }
}

/// Says so where clients' tokens and data may be read on their way.
fn warn_of_plain_text(config: &Config) {
    let gateway = &config.gateway;
    let plain = !gateway.tls.is_on() && gateway.trusted_proxies.is_empty();
    if config.env == Environment::Production && plain && !gateway.listen.ip().is_loopback() {
        tracing::warn!(
            "clients reach gateway.listen without TLS, and their tokens can be read on the way: set gateway.tls.certificate, or \
             name the proxies that speak TLS for it in gateway.trusted_proxies"
        );
    }
}

fn serve_internal(listener: TcpListener, health: &Health, config: &Config) {
    let limits = Limits {
        connections: INTERNAL_CONNECTIONS,
        addresses: None,
        proxies: Proxies::default(),
        ..public_limits(config, &Metrics::new(), Rates::new(&config.gateway.limits))
    };
    let lifecycle = health.lifecycle.clone();
    let finishing = lifecycle.clone();
    // Health and metrics are still served while the gateway drains.
    let until = async move { finishing.finishing().await };
    lifecycle.clone().spawn_essential(
        "internal listener",
        serve(listener, http::internal(health.clone()), limits, lifecycle, until),
    );
}

/// Connects to NATS and checks the streams. `None` if the process is asked to stop meanwhile.
async fn connect(config: &Config, lifecycle: &Lifecycle) -> anyhow::Result<Option<Broker>> {
    let in_flight = config.gateway.limits.max_in_flight_total;
    let broker = tokio::select! {
        broker = Broker::connect(&config.nats, &config.nats.gateway, "tidegate-gateway", in_flight, false) => broker?,
        () = lifecycle.draining() => return Ok(None),
    };
    let broker = broker.past_streams(config, true);
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
    let store = Store::new(broker.clone(), subjects.clone(), waiting, cache, metrics.clone(), config);
    let store = Arc::new(store);
    let schedules = start_schedules(config, &broker, &store, metrics, lifecycle);
    let parts = (hub, Arc::clone(&presence));
    let channels =
        Channels::start(config, &gateway, broker.clone(), parts, metrics.clone(), lifecycle.clone()).await?;
    let channels = Arc::new(channels);
    let quotas = Arc::new(Quotas::new(config, metrics.clone()));
    quotas.start(broker.clone(), lifecycle);
    let letters = Letters::new(broker.clone(), subjects.clone(), config.worker.ack_wait);
    let keys = Keys::start(&verifier, FetchPace::every(config.auth.jwks_refresh), metrics, lifecycle).await?;
    let shared = Arc::new(Shared {
        common: CommonLimits::new(&config.gateway.limits, metrics),
        rules: Arc::new(Rules::new(config, verifier, gateway)),
        store,
        channels,
        presence,
        keys,
        quotas,
        hooks: Hooks::new(broker.clone(), subjects, &config.hooks, metrics.clone()),
        metrics: metrics.clone(),
        flusher: Flusher::start(lifecycle),
        answer_timeout: config.gateway.answer_timeout,
    });
    let api = Arc::new(Api {
        rules: Arc::clone(&shared.rules),
        store: Arc::clone(&shared.store),
        letters,
        schedules,
        channels: Arc::clone(&shared.channels),
        presence: Arc::clone(&shared.presence),
        local,
        peers,
        metrics: shared.metrics.clone(),
        answer_timeout: shared.answer_timeout,
        routes: Routes { broker, routes: config.routes.clone() },
    });
    Ok((shared, api))
}

/// Begins to carry out what the broker fires.
fn start_schedules(
    config: &Config,
    broker: &Broker,
    store: &Arc<Store>,
    metrics: &Metrics,
    lifecycle: &Lifecycle,
) -> Arc<Schedules> {
    let firings = Firings {
        broker: broker.clone(),
        subjects: config.subjects(),
        store: Arc::clone(store),
        records: Records::new(broker.clone(), config.subjects()),
        routes: config.routes.clone(),
        namespaces: config.all_namespaces(),
        metrics: metrics.clone(),
        ack_wait: config.worker.ack_wait,
    };
    firings.start(lifecycle);
    let schedules = Arc::new(Schedules::new(broker.clone(), config.subjects(), Arc::clone(store)));
    let (broker, subjects) = (broker.clone(), config.subjects());
    Missed { broker, subjects, schedules: Arc::clone(&schedules) }.start(lifecycle);
    schedules
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

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    http::bind::bind(address).with_context(|| format!("cannot listen on {address}, which is `{key}`"))
}
