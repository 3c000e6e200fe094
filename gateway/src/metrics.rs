//! All metrics of the gateway: name, type, help text. Other modules count through these methods only.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tidegate_shared::fault::Fault;

use self::{
    api::ApiMetrics, connections::ConnectionMetrics, faults::FaultMetrics, firings::FiringMetrics,
    hooks::HookMetrics, presence::PresenceMetrics, quotas::QuotaMetrics, recovery::RecoveryMetrics,
    requests::RequestMetrics,
};

mod api;
pub(crate) mod connections;
mod faults;
pub(crate) mod firings;
mod hooks;
mod presence;
mod quotas;
mod recovery;
mod requests;

/// The gateway's instruments.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    connections: ConnectionMetrics,
    commands: Counter,
    errors: Family<Code, Counter>,
    requests: Family<Request, Counter>,
    accept: Histogram,
    publications: Counter,
    deliveries: Counter,
    answers: RequestMetrics,
    unreadable: Family<Reason, Counter>,
    faults: FaultMetrics,
    recovery: RecoveryMetrics,
    jwks_fetches: Family<Fetch, Counter>,
    presence: PresenceMetrics,
    api: ApiMetrics,
    hooks: HookMetrics,
    quotas: QuotaMetrics,
    firings: FiringMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetch {
    issuer: String,
    outcome: &'static str,
}

/// A histogram of durations from 0.25 ms to 4 s in seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 15))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate_gateway");
        let connections = ConnectionMetrics::register(&mut registry);
        let commands = Counter::default();
        let errors = Family::default();
        let requests = Family::default();
        let accept = seconds();
        let publications = Counter::default();
        let deliveries = Counter::default();
        let answers = RequestMetrics::register(&mut registry);
        let unreadable = Family::default();
        let faults = FaultMetrics::register(&mut registry);
        let recovery = RecoveryMetrics::register(&mut registry);
        let jwks_fetches = Family::default();
        let hooks = HookMetrics::register(&mut registry);
        let presence = PresenceMetrics::register(&mut registry);
        let quotas = QuotaMetrics::register(&mut registry);
        let firings = FiringMetrics::register(&mut registry);
        let api = ApiMetrics::register(&mut registry);
        registry.register("jwks_fetches", "Fetches of issuers' keys, by outcome", jwks_fetches.clone());
        registry.register("commands", "Commands received from clients", commands.clone());
        registry.register("errors", "Error replies sent to clients, by error code", errors.clone());
        registry.register("requests", "Requests, by route and outcome of storing them", requests.clone());
        registry.register_with_unit(
            "request_accept",
            "Time from reading a request to knowing that it is stored or refused",
            Unit::Seconds,
            accept.clone(),
        );
        registry.register("publications", "Publications of clients that were stored", publications.clone());
        registry.register(
            "deliveries",
            "Publications and messages handed to connections",
            deliveries.clone(),
        );
        registry.register(
            "unreadable",
            "Messages of NATS that could not be read as they are, by the part",
            unreadable.clone(),
        );
        Self {
            registry: Arc::new(registry),
            connections,
            commands,
            errors,
            requests,
            accept,
            publications,
            deliveries,
            answers,
            unreadable,
            faults,
            recovery,
            jwks_fetches,
            presence,
            api,
            hooks,
            quotas,
            firings,
        }
    }

    /// The metrics page, in the `OpenMetrics` text format.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut page, &self.registry);
        page
    }

    pub(crate) fn command(&self) {
        self.commands.inc();
    }

    pub(crate) fn error(&self, code: u32) {
        self.errors.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn accepted(&self, route: &str, took: Duration, outcome: &'static str) {
        self.accept.observe(took.as_secs_f64());
        self.requests.get_or_create(&Request { route: route.to_owned(), outcome }).inc();
    }

    pub(crate) fn published(&self, publications: usize) {
        self.publications.inc_by(publications as u64);
    }

    pub(crate) fn delivered(&self, connections: usize) {
        self.deliveries.inc_by(connections as u64);
    }

    pub(crate) fn keys_fetched(&self, issuer: &str, outcome: &'static str) {
        self.jwks_fetches.get_or_create(&Fetch { issuer: issuer.to_owned(), outcome }).inc();
    }

    /// Shows these faults of the broker, and no others.
    pub(crate) fn faults(&self, open: &[Fault]) {
        self.faults.show(open);
    }

    /// A message of NATS has a part that cannot be read.
    pub(crate) fn unreadable(&self, part: &'static str) {
        self.unreadable.get_or_create(&Reason { reason: part }).inc();
    }
}
