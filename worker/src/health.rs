//! The internal listener. It serves health and metrics only.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use axum::{
    Router as HttpRouter,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tidegate_shared::{broker::Broker, fault::Fault, lifecycle::Lifecycle};
use tokio::net::TcpListener;

use crate::{metrics::Metrics, router::Page};

/// The last line of a page in the format of OpenMetrics.
const END: &str = "# EOF\n";
const PAGE: &str =
    "This is the internal address of a Tidegate worker: /healthz and /readyz (health), /metrics.\n";
const NO_PAGE: &str = "There is nothing at this path. This internal address of a Tidegate worker has /healthz, /readyz and /metrics.\n";

/// The worker's state as its health endpoints report it.
pub(crate) struct Health {
    /// Set when the worker is connected and its consumers are found.
    started: OnceLock<(Broker, Arc<Metrics>)>,
    lifecycle: Lifecycle,
    /// The metrics of the application.
    pages: Vec<Page>,
}

impl Health {
    pub(crate) fn new(lifecycle: Lifecycle, pages: Vec<Page>) -> Self {
        Self { started: OnceLock::new(), lifecycle, pages }
    }

    pub(crate) fn started(&self, broker: Broker, metrics: Arc<Metrics>) {
        let _ = self.started.set((broker, metrics));
    }

    /// The metrics page, that of the application included. Nothing is counted before the start.
    pub(crate) fn page(&self) -> Result<String, fmt::Error> {
        let page = self.started.get().map(|(broker, metrics)| {
            metrics.faults(&broker.health().open());
            metrics.render()
        });
        let mut page = page.unwrap_or_else(|| Metrics::new().render())?;
        for other in &self.pages {
            page.truncate(page.trim_end_matches(END).len());
            page.push_str(&other());
        }
        if !page.ends_with(END) {
            page.push_str(END);
        }
        Ok(page)
    }

    /// Why the worker does not do all of its work now, one sentence a line. `None` when it does.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.lifecycle.is_draining() {
            return Some("draining: finishing what was begun".to_owned());
        }
        let Some((broker, _)) = self.started.get() else {
            return Some("starting: waiting for NATS or for the routes' consumers".to_owned());
        };
        if !broker.is_connected() {
            return Some("not connected to NATS".to_owned());
        }
        let faults: Vec<String> = broker.health().open().iter().map(Fault::to_string).collect();
        (!faults.is_empty()).then(|| faults.join("\n"))
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("unready", &self.unready()).finish_non_exhaustive()
    }
}

/// Serves the health endpoints and the metrics. Returns only when the listener fails.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>) -> std::io::Result<()> {
    let router = HttpRouter::new()
        .route("/healthz", get("alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/", get(PAGE))
        .fallback(async || (StatusCode::NOT_FOUND, NO_PAGE))
        .with_state(health);
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    match health.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    match health.page() {
        Ok(page) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], page).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
