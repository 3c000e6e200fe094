//! An echo behind the gateway's own acceptor, for runs of WebSocket test suites. Behind the feature `conformance`, in no program.
//!
//! It has the accept loop, the check of handshakes, the reader and the outbox of a gateway. The limit of messages is higher: the suites
//! send 16 MiB.

use std::{future::pending, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::net::TcpListener;

use crate::{
    connection::transport::websocket::Socket,
    http::{
        handshake,
        listen::{Limits, serve},
        websocket::Handshake,
    },
    metrics::Metrics,
    outbox::{Outbox, dialect::Dialect, flusher::Flusher, wire::Wire},
    policy::address::Proxies,
};

/// The longest message.
const MESSAGE: usize = 16 << 20;

/// Serves the echo on every path of the listener, without an end.
pub async fn echo(listener: TcpListener) {
    let limits = Limits {
        connections: 100,
        handshake: Duration::from_secs(10),
        header_bytes: 16 << 10,
        proxies: Proxies::new(Vec::new()),
        addresses: None,
        tls: None,
        metrics: Metrics::new(),
    };
    let lifecycle = Lifecycle::new();
    let router = Router::new().fallback(any(upgrade)).with_state(Flusher::start(&lifecycle));
    serve(listener, router, limits, lifecycle, pending()).await;
}

#[expect(clippy::disallowed_methods, reason = "each socket ends with its test case")]
async fn upgrade(State(flusher): State<Arc<Flusher>>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Err(refused) = handshake::check(&parts.headers) {
        return refused.into_response();
    }
    let Some(handshake) = Handshake::take(&mut parts) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    handshake.answer(move |upgraded| {
        let (socket, stream) = Socket::open(upgraded, Dialect::Json, 2 * MESSAGE);
        let Some(stream) = stream else { return };
        let outbox = Outbox::wired(Dialect::Json, 4 * MESSAGE, Wire::new(stream, flusher));
        tokio::spawn(async move { socket.echo(&outbox).await });
    })
}
