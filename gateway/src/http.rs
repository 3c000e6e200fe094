//! All routes on one screen. Two listeners: the public one has client transports only, the internal one health, metrics and the server API.

use std::sync::Arc;

use axum::{
    Router,
    routing::{MethodRouter, get, post},
};

pub(crate) use self::{api::ApiDoor, door::Door, health::Vitals};

pub(crate) mod accept;
mod api;
mod door;
mod emulate;
mod health;
mod query;
mod stream;
mod upgrade;

/// What the public listener serves.
pub(crate) fn public(door: Door) -> Router {
    let for_pages = |route: MethodRouter<Arc<Door>>| route.options(door::preflight);
    Router::new()
        .route("/connection/websocket", get(upgrade::websocket))
        .route("/connection/uni_websocket", get(upgrade::uni_websocket))
        .route("/connection/http_stream", for_pages(post(stream::http_stream)))
        .route("/connection/sse", for_pages(get(stream::sse).post(stream::sse)))
        .route("/connection/uni_http_stream", for_pages(post(stream::uni_http_stream)))
        .route("/connection/uni_sse", for_pages(get(stream::uni_sse).post(stream::uni_sse)))
        .route("/emulation", for_pages(post(emulate::emulate)))
        .with_state(Arc::new(door))
}

/// What the internal listener serves.
pub(crate) fn internal(vitals: Vitals) -> Router {
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/openapi.json", get(api::document))
        .route("/api/{method}", post(api::method))
        .with_state(vitals)
}
