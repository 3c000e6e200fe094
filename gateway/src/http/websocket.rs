//! Turns a handshake into a connection over a WebSocket: encoding and size limits. Never looks into messages.

use std::{fmt::Display, sync::Arc};

use axum::{
    body::Body,
    extract::{
        FromRequestParts, State,
        ws::{WebSocket, WebSocketUpgrade},
    },
    http::{HeaderValue, Request, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use tidegate_shared::protocol::{JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL};

use super::{ClientDoor, admission::Rejection, handshake, query};
use crate::{
    connection::{
        Connection,
        permit::SocketPermit,
        transport::{Transport, websocket::Socket},
    },
    outbox::dialect::Dialect,
};

/// The library's default of 128 KiB would be zeroed on every read and cost 40 times the memory of everything else.
const READ_BUFFER: usize = 1024;
const WRITE_BUFFER: usize = 4096;

/// A two-way WebSocket.
pub(super) async fn websocket(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match handshake(&door, &mut parts).await {
        Ok(upgrade) => upgrade,
        Err(response) => return response,
    };
    let dialect = dialect_of(&upgrade, parts.uri.query());
    let native_pings = query::has(parts.uri.query(), &["cf_ws_frame_ping_pong=true"]);
    let open = move |socket| Socket::new(socket, dialect).with_native_pings(native_pings);
    accept(&door, upgrade, &parts, open, dialect)
}

/// A one-way WebSocket. The client's first message, or the query, has its token.
pub(super) async fn uni_websocket(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match handshake(&door, &mut parts).await {
        Ok(upgrade) => upgrade,
        Err(response) => return response,
    };
    let first = query::first_message(parts.uri.query());
    if first.as_ref().is_some_and(|first| first.len() > door.message_limit()) {
        return super::admission::TOO_LONG.into_response();
    }
    accept(&door, upgrade, &parts, move |socket| Socket::one_way(socket, first), Dialect::OneWay)
}

async fn handshake(door: &ClientDoor, parts: &mut Parts) -> Result<WebSocketUpgrade, Response> {
    door.admit(&parts.uri, &parts.headers).map_err(Rejection::into_response)?;
    if let Err((status, why)) = handshake::check(&parts.headers) {
        return Err(if status == StatusCode::BAD_REQUEST {
            door.malformed(why).into_response()
        } else {
            door.connections.metrics.refused("not_a_websocket");
            refuse(why)
        });
    }
    // The library reads no list of protocols.
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    match WebSocketUpgrade::from_request_parts(parts, &()).await {
        Ok(upgrade) => Ok(upgrade.protocols([PROTOBUF_SUBPROTOCOL, JSON_SUBPROTOCOL])),
        Err(rejection) => {
            door.connections.metrics.refused("not_a_websocket");
            Err(refuse(rejection))
        }
    }
}

fn accept(
    door: &ClientDoor,
    upgrade: WebSocketUpgrade,
    parts: &Parts,
    open: impl FnOnce(WebSocket) -> Socket + Send + 'static,
    dialect: Dialect,
) -> Response {
    let permit = parts.extensions.get::<SocketPermit>().cloned();
    let shared = Arc::clone(&door.connections);
    // A message slightly above the limit is read to its end, so that the client gets a close code. Beyond the hard
    // limit the socket is cut.
    let hard_limit = door.message_limit().saturating_mul(2).saturating_add(64 * 1024);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(door.write_limit())
        .max_message_size(hard_limit)
        .max_frame_size(hard_limit)
        .on_upgrade(move |socket| {
            let mut connection = Connection::new(shared, Transport::WebSocket(open(socket)), dialect, permit);
            async move { connection.run().await }
        })
}

/// The subprotocol selects the encoding, or the query for clients that cannot set a subprotocol.
fn dialect_of(upgrade: &WebSocketUpgrade, query: Option<&str>) -> Dialect {
    let by_subprotocol = upgrade.selected_protocol().is_some_and(|protocol| protocol == PROTOBUF_SUBPROTOCOL);
    let by_query = query::has(query, &["format=protobuf", "cf_protocol=protobuf"]);
    if by_subprotocol || by_query { Dialect::Protobuf } else { Dialect::Json }
}

fn refuse(why: impl Display) -> Response {
    let text = format!("this address speaks WebSocket (RFC 6455): {why}");
    let headers = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_VERSION, handshake::VERSION),
    ];
    (StatusCode::UPGRADE_REQUIRED, headers, text.trim_end().to_owned() + "\n").into_response()
}
