//! All HTTP routes. The public listener has the client transports only; the internal one has health, metrics and the
//! server API.

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    routing::{MethodRouter, get, post},
};

pub(crate) use self::{admission::ClientDoor, api::ApiDoor, health::Health};

pub(crate) mod admission;
mod api;
pub(crate) mod bind;
mod body;
mod emulate;
mod first_head;
pub(crate) mod handshake;
mod head;
mod health;
pub(crate) mod listen;
pub(crate) mod origin;
pub(crate) mod query;
mod stream;
pub(crate) mod tls;
pub(crate) mod websocket;

const PUBLIC_PAGE: &str = "This is a Tidegate gateway. Clients connect to /connection/websocket with a Centrifuge SDK; where \
    WebSockets are blocked, to /connection/http_stream or /connection/sse. Health, metrics and the server API are on the \
    address gateway.internal.\n";
const NO_PUBLIC_PAGE: &str = "There is nothing at this path. Clients of this Tidegate gateway connect to /connection/websocket; \
    health, metrics and the server API are on the address gateway.internal.\n";
const OTHER_METHOD: &str = "This path takes other HTTP methods: see the header Allow. Clients connect to /connection/websocket with a \
    Centrifuge SDK; methods of the server API are called by POST.\n";
const INTERNAL_PAGE: &str = "This is the internal address of a Tidegate gateway: /healthz and /readyz (health), /metrics, \
    /api/openapi.json (the server API's document), POST /api/<method>. Clients connect to the address gateway.listen.\n";
const NO_INTERNAL_PAGE: &str = "There is nothing at this path. This internal address of a Tidegate gateway has /healthz, /readyz, \
    /metrics, /api/openapi.json and POST /api/<method>; clients connect to the address gateway.listen.\n";

/// The routes of the public listener.
pub(crate) fn public(door: ClientDoor) -> Router {
    let for_pages = |route: MethodRouter<Arc<ClientDoor>>| route.options(admission::preflight);
    Router::new()
        .route("/connection/websocket", get(websocket::websocket))
        .route("/connection/uni_websocket", get(websocket::uni_websocket))
        .route("/connection/http_stream", for_pages(post(stream::http_stream)))
        .route("/connection/sse", for_pages(get(stream::sse).post(stream::sse)))
        .route("/connection/uni_http_stream", for_pages(post(stream::uni_http_stream)))
        .route("/connection/uni_sse", for_pages(get(stream::uni_sse).post(stream::uni_sse)))
        .route("/emulation", for_pages(post(emulate::emulate)))
        .route("/", get(async || PUBLIC_PAGE))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, OTHER_METHOD))
        .fallback(async || (StatusCode::NOT_FOUND, NO_PUBLIC_PAGE))
        .with_state(Arc::new(door))
}

/// The routes of the internal listener.
pub(crate) fn internal(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/openapi.json", get(api::document))
        .route("/api/{method}", post(api::method))
        .route("/", get(async || INTERNAL_PAGE))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, OTHER_METHOD))
        .fallback(async || (StatusCode::NOT_FOUND, NO_INTERNAL_PAGE))
        .with_state(health)
}
