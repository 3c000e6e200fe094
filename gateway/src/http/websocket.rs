//! Turns a handshake into a connection over a WebSocket: encoding and size limits. Never looks into messages.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use tidegate_shared::protocol::{JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{ClientDoor, handshake, query};
use crate::{
    connection::{
        Connection,
        permit::SocketPermit,
        transport::{Transport, websocket::Socket},
    },
    outbox::{dialect::Dialect, wire::Wire},
};

/// A two-way WebSocket.
pub(super) async fn websocket(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let handshake = match handshake(&door, &mut parts) {
        Ok(handshake) => handshake,
        Err(response) => return *response,
    };
    let dialect = dialect_of(handshake.protocol, parts.uri.query());
    let native_pings = query::has(parts.uri.query(), &["cf_ws_frame_ping_pong=true"]);
    accept(&door, handshake, &parts, dialect, move |socket| socket.with_native_pings(native_pings))
}

/// A one-way WebSocket. The client's first message, or the query, has its token.
pub(super) async fn uni_websocket(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let handshake = match handshake(&door, &mut parts) {
        Ok(handshake) => handshake,
        Err(response) => return *response,
    };
    let first = query::first_message(parts.uri.query());
    if first.as_ref().is_some_and(|first| first.len() > door.message_limit()) {
        return super::admission::TOO_LONG.into_response();
    }
    accept(&door, handshake, &parts, Dialect::OneWay, move |socket| socket.with_first(first))
}

/// A handshake that is in order.
pub(crate) struct Handshake {
    upgrade: OnUpgrade,
    /// The answer to the client's key.
    accept: HeaderValue,
    protocol: Option<&'static str>,
}

fn handshake(door: &ClientDoor, parts: &mut Parts) -> Result<Handshake, Box<Response>> {
    door.admit(&parts.uri, &parts.headers).map_err(|refused| Box::new(refused.into_response()))?;
    let no_websocket = |why| {
        door.connections.metrics.refused("not_a_websocket");
        Box::new(refuse(why))
    };
    if let Err((status, why)) = handshake::check(&parts.headers) {
        let malformed = status == StatusCode::BAD_REQUEST;
        return Err(if malformed {
            Box::new(door.malformed(why).into_response())
        } else {
            no_websocket(why)
        });
    }
    Handshake::take(parts).ok_or_else(|| no_websocket("a handshake is a GET request over HTTP/1.1\n"))
}

impl Handshake {
    /// Takes the socket of a request whose headers are in order. `None` if the request cannot give it away.
    pub(crate) fn take(parts: &mut Parts) -> Option<Self> {
        let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| parts.method == Method::GET)?;
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
        let offers = |protocol: &&str| handshake::offers(&parts.headers, protocol);
        let protocol = [PROTOBUF_SUBPROTOCOL, JSON_SUBPROTOCOL].into_iter().find(offers);
        Some(Self { upgrade, accept, protocol })
    }

    /// Answers the handshake. `begin` gets the socket when the answer is written. It should begin a task of its own: inside of the
    /// task that waits for that, every connection would be larger for good.
    #[expect(clippy::disallowed_methods, reason = "it ends with the request's socket")]
    pub(crate) fn answer(self, begin: impl FnOnce(Upgraded) + Send + 'static) -> Response {
        let Self { upgrade, accept, protocol } = self;
        tokio::spawn(async move {
            // The client may go before it has the answer.
            if let Ok(upgraded) = upgrade.await {
                begin(upgraded);
            }
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        let protocol = protocol.map(HeaderValue::from_static);
        response.headers_mut().extend(protocol.map(|protocol| (header::SEC_WEBSOCKET_PROTOCOL, protocol)));
        response
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the hub counts connections, and a drain waits for them; a tracked task would be larger"
)]
fn accept(
    door: &ClientDoor,
    handshake: Handshake,
    parts: &Parts,
    dialect: Dialect,
    open: impl FnOnce(Socket) -> Socket + Send + 'static,
) -> Response {
    let permit = parts.extensions.get::<SocketPermit>().cloned();
    let shared = Arc::clone(&door.connections);
    // A message slightly above the limit is read to its end, so that the client gets a close code. Beyond the hard
    // limit the socket is cut.
    let hard_limit = door.message_limit().saturating_mul(2).saturating_add(64 * 1024);
    handshake.answer(move |upgraded| {
        let (socket, stream) = Socket::open(upgraded, dialect, hard_limit);
        let wire = stream.map(|stream| Wire::new(stream, Arc::clone(&shared.flusher)));
        let transport = Transport::WebSocket(open(socket));
        let mut connection = Connection::new(shared, transport, wire, dialect, permit);
        tokio::spawn(async move { connection.run().await });
    })
}

/// The subprotocol selects the encoding, or the query for clients that cannot set a subprotocol.
fn dialect_of(protocol: Option<&str>, query: Option<&str>) -> Dialect {
    let by_subprotocol = protocol == Some(PROTOBUF_SUBPROTOCOL);
    let by_query = query::has(query, &["format=protobuf", "cf_protocol=protobuf"]);
    if by_subprotocol || by_query { Dialect::Protobuf } else { Dialect::Json }
}

fn refuse(why: &str) -> Response {
    let text = format!("this address speaks WebSocket (RFC 6455): {why}");
    let headers = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_VERSION, handshake::VERSION),
    ];
    (StatusCode::UPGRADE_REQUIRED, headers, text.trim_end().to_owned() + "\n").into_response()
}
