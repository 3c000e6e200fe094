//! Liveness, readiness and metrics. Readiness fails at once when NATS is away. Liveness does not depend on NATS:
//! restarting a gateway because of the broker would only add a reconnect storm.

use std::sync::{Arc, OnceLock};

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use tidegate_shared::{broker::Broker, lifecycle::Lifecycle};

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
}

pub(super) async fn live() -> &'static str {
    "alive\n"
}

pub(super) async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.lifecycle.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if health.serving.get().is_some_and(Broker::is_connected) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not connected to NATS\n")
    }
}

pub(super) async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], health.metrics.page())
}
