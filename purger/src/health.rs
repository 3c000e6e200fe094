//! The internal listener. It serves health and metrics only.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::net::TcpListener;

use crate::{metrics::Metrics, purger::Purger};

const PAGE: &str =
    "This is the internal address of Tidegate's purger: /healthz and /readyz (health), /metrics.\n";
const NO_PAGE: &str = "There is nothing at this path. This internal address of Tidegate's purger has /healthz, /readyz and /metrics.\n";

/// The purger's state as its health endpoints report it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// Set when the purger is connected.
    pub(crate) purger: Arc<OnceLock<Purger>>,
    pub(crate) lifecycle: Lifecycle,
}

impl Health {
    fn unready(&self) -> Option<String> {
        if self.lifecycle.is_draining() {
            return Some("draining".to_owned());
        }
        self.purger.get().map_or_else(|| Some("starting: waiting for NATS".to_owned()), Purger::unready)
    }
}

/// Serves the health endpoints and the metrics. Returns only when the listener fails.
pub(crate) async fn serve(listener: TcpListener, health: Health) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get("alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/", get(PAGE))
        .fallback(async || (StatusCode::NOT_FOUND, NO_PAGE))
        .with_state(health);
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Health>) -> Response {
    match health.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let page = health.purger.get().map(|purger| purger.metrics().render());
    match page.unwrap_or_else(|| Metrics::new().render()) {
        Ok(page) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], page).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
