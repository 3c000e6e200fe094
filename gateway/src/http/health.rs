//! Liveness, readiness and metrics. Readiness fails at once when NATS is away. Liveness does not depend on NATS:
//! restarting a gateway because of the broker would only add a reconnect storm.

use std::sync::{Arc, OnceLock};

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use tidegate_shared::{
    broker::Broker,
    fault::{Fault, Place, Problem},
    lifecycle::Lifecycle,
    topology::{PRESENCE, REQUESTS},
};

use super::ApiDoor;
use crate::metrics::Metrics;

/// What health and metrics are read from. Served before NATS is connected, so that an operator can see what the gateway
/// waits for.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) metrics: Metrics,
    pub(crate) serving: Arc<OnceLock<Broker>>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) api: ApiDoor,
    /// How many routes have a stream.
    pub(crate) stored_routes: usize,
}

pub(super) async fn live() -> &'static str {
    "alive\n"
}

pub(super) async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    if health.lifecycle.is_draining() {
        return unavailable("draining");
    }
    match health.serving.get().filter(|broker| broker.is_connected()) {
        None => unavailable("not connected to NATS"),
        Some(broker) => readiness(&broker.health().open(), health.stored_routes),
    }
}

/// What faults of the broker mean for a gateway. While a part of the work is possible it stays ready and says what is not: the
/// other gateways have the same broker, so nothing is gained where clients are sent to them.
fn readiness(faults: &[Fault], stored_routes: usize) -> (StatusCode, String) {
    let stopped = stops_everything(faults, stored_routes);
    let status = if stopped { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let head = match (status, faults) {
        (_, []) => "ready",
        (StatusCode::OK, _) => "ready, but with faults",
        _ => "not ready",
    };
    let sentences = faults.iter().map(Fault::to_string);
    (status, [head.to_owned()].into_iter().chain(sentences).collect::<Vec<_>>().join("\n") + "\n")
}

/// Whether faults leave a gateway without its purpose: it stores no requests of any route, or no lease, without which the others
/// take it for gone. A full stream is not such a fault, because clients can fill one.
fn stops_everything(faults: &[Fault], stored_routes: usize) -> bool {
    let stored = |fault: &Fault| match &fault.place {
        Place::Store(stream) => Some((stream.clone(), fault.problem.clone())),
        Place::Connection
        | Place::Read(_)
        | Place::Purge(_)
        | Place::Pull { .. }
        | Place::Publish(_)
        | Place::Subscribe(_) => None,
    };
    let stores: Vec<(String, Problem)> = faults.iter().filter_map(stored).collect();
    let broken = |problem: &Problem| !matches!(problem, Problem::Full(_) | Problem::Forbidden);
    let routes =
        stores.iter().filter(|(stream, problem)| stream.starts_with(REQUESTS) && broken(problem)).count();
    stores.iter().any(|(stream, _)| stream == PRESENCE) || (routes > 0 && routes >= stored_routes)
}

pub(super) async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    if let Some(broker) = health.serving.get() {
        health.metrics.faults(&broker.health().open());
    }
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], health.metrics.page())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_shared::topology::DEAD;

    use super::*;

    fn fault(place: Place, problem: Problem) -> Fault {
        Fault { place, problem, lasts: Duration::from_secs(3) }
    }

    #[test]
    fn a_gateway_that_can_do_a_part_of_its_work_stays_ready_and_says_what_is_broken() {
        let store = |stream: &str| Place::Store(stream.to_owned());
        let full = || Problem::Full("maximum bytes exceeded".to_owned());
        for (place, problem, expected) in [
            (store("TIDE_IN_echo"), Problem::Silent, 503),
            (store("TIDE_IN_echo"), Problem::Missing, 503),
            (store("TIDE_IN_echo"), full(), 200),
            (store(PRESENCE), full(), 503),
            (store("TIDE_CH_chat"), Problem::Missing, 200),
            (store(DEAD), full(), 200),
            (Place::Read("TIDE_CH_chat".to_owned()), Problem::Missing, 200),
            (Place::Subscribe("tide.ctl.*".to_owned()), Problem::Forbidden, 200),
        ] {
            let fault = fault(place, problem);
            let (status, page) = readiness(std::slice::from_ref(&fault), 1);
            assert_eq!(status.as_u16(), expected, "{fault}");
            assert!(page.ends_with(&format!("\n{fault}\n")), "{page}");
        }
        let one = fault(store("TIDE_IN_echo"), Problem::Missing);
        let other = fault(store("TIDE_IN_quakes"), Problem::Silent);
        assert_eq!(readiness(std::slice::from_ref(&one), 2).0, StatusCode::OK, "the other route is open");
        assert_eq!(readiness(&[one, other], 2).0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readiness(&[], 2), (StatusCode::OK, "ready\n".to_owned()));
    }
}
