//! From an HTTP request to a connection: origin, encoding, size limits. Never looks at what is said over the socket.

use std::sync::Arc;

use axum::{
    extract::{
        FromRequestParts, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use tidegate_shared::protocol::{Encoding, JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL};

use super::accept::Slot;
use crate::{
    connection::{Connection, Shared},
    origin::Origins,
};

/// The library's default of 128 KiB would be zeroed on every read and cost 40 times the memory of everything else.
const READ_BUFFER: usize = 1024;
const WRITE_BUFFER: usize = 4096;

/// What stands between a request and a connection.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) connections: Arc<Shared>,
    pub(super) origins: Origins,
}

pub(super) async fn websocket(State(door): State<Door>, request: Request<axum::body::Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    if !door.origins.allow(text(&parts.headers, header::ORIGIN), text(&parts.headers, header::HOST)) {
        door.connections.metrics.refused("origin");
        return (StatusCode::FORBIDDEN, "this origin may not connect: add it to gateway.origins\n")
            .into_response();
    }
    let slot = parts.extensions.get::<Slot>().cloned();
    let query = parts.uri.query().map(str::to_owned);
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => accept(door.connections, upgrade, query.as_deref(), slot),
        Err(rejection) => {
            door.connections.metrics.refused("not_a_websocket");
            refuse(&rejection)
        }
    }
}

fn accept(
    shared: Arc<Shared>,
    upgrade: WebSocketUpgrade,
    query: Option<&str>,
    slot: Option<Slot>,
) -> Response {
    let limit = usize::try_from(shared.rules.limits.message).unwrap_or(usize::MAX);
    // A message a little too long is read to its end, so that the client can be told; beyond that the socket is cut.
    let hard_limit = limit.saturating_mul(2).saturating_add(64 * 1024);
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(hard_limit)
        .max_frame_size(hard_limit)
        .protocols([PROTOBUF_SUBPROTOCOL, JSON_SUBPROTOCOL]);
    let encoding = encoding_of(&upgrade, query);
    upgrade.on_upgrade(move |socket| {
        let mut connection = Connection::new(shared, socket, encoding, slot);
        async move { connection.run().await }
    })
}

/// A subprotocol says which encoding, or the query does for clients that cannot set one.
fn encoding_of(upgrade: &WebSocketUpgrade, query: Option<&str>) -> Encoding {
    let by_subprotocol = upgrade.selected_protocol().is_some_and(|protocol| protocol == PROTOBUF_SUBPROTOCOL);
    let mut pairs = query.unwrap_or_default().split('&');
    let by_query = pairs.any(|pair| matches!(pair, "format=protobuf" | "cf_protocol=protobuf"));
    if by_subprotocol || by_query { Encoding::Protobuf } else { Encoding::Json }
}

fn refuse(rejection: &WebSocketUpgradeRejection) -> Response {
    let text = format!("this address speaks WebSocket (RFC 6455): {rejection}\n");
    (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], text).into_response()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    // An origin that is not text is an origin nobody configured.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}
