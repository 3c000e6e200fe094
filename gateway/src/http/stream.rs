//! Turns a request into a connection over a streaming response: admission, the first message, and headers that stop
//! proxies from buffering. Never looks into messages.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    ClientDoor,
    admission::{Rejection, TOO_LONG},
    query,
};
use crate::{
    connection::{
        Connection,
        one_way::event_cursor::EventCursor,
        permit::SocketPermit,
        transport::{
            Transport,
            stream::{Framing, Stream},
        },
    },
    outbox::dialect::Dialect,
};

/// The encoding of one kind of stream.
#[derive(Clone, Copy)]
struct StreamKind {
    framing: Framing,
    dialect: Dialect,
    content_type: &'static str,
}

const LINES: StreamKind =
    StreamKind { framing: Framing::Lines, dialect: Dialect::Json, content_type: "application/json" };
const DELIMITED: StreamKind = StreamKind {
    framing: Framing::Delimited,
    dialect: Dialect::Protobuf,
    content_type: "application/octet-stream",
};
const EVENTS: StreamKind = StreamKind {
    framing: Framing::Events,
    dialect: Dialect::Json,
    content_type: "text/event-stream; charset=utf-8",
};

/// The body is the first batch of commands. Its content type selects the encoding.
pub(super) async fn http_stream(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let kind = if speaks_protobuf(&request) { DELIMITED } else { LINES };
    open(&door, request, kind).await
}

/// Server-sent events. A GET has the first batch of commands in the query, a POST in the body.
pub(super) async fn sse(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    open(&door, request, EVENTS).await
}

/// Pushes, one a line.
pub(super) async fn uni_http_stream(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    open(&door, request, StreamKind { dialect: Dialect::OneWay, ..LINES }).await
}

/// Pushes as server-sent events.
pub(super) async fn uni_sse(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    open(&door, request, StreamKind { dialect: Dialect::OneWay, ..EVENTS }).await
}

/// Whether a body is protobuf.
pub(super) fn speaks_protobuf(request: &Request<Body>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    // Parameters may follow.
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(DELIMITED.content_type))
}

async fn open(door: &ClientDoor, request: Request<Body>, kind: StreamKind) -> Response {
    let page = match door.admit(request.uri(), request.headers()) {
        Ok(page) => page,
        Err(refused) => return refused.into_response(),
    };
    let permit = request.extensions().get::<SocketPermit>().cloned();
    let last = last_event_id(request.headers());
    match first_message(door, request, kind.dialect).await {
        Ok(first) => page.may_read(start(door, first, last.as_deref(), permit, kind)),
        Err(refused) => page.may_read(refused),
    }
}

async fn first_message(
    door: &ClientDoor,
    request: Request<Body>,
    dialect: Dialect,
) -> Result<Bytes, Rejection> {
    let limit = door.message_limit();
    let first = if request.method() == Method::GET {
        query::first_message(request.uri().query()).unwrap_or_default()
    } else {
        door.body(request.into_body(), limit).await?
    };
    match dialect {
        _ if first.len() > limit => Err(TOO_LONG),
        // A client without a token needs no first message.
        Dialect::OneWay if first.is_empty() => Ok(Bytes::from_static(b"{}")),
        _ if first.is_empty() => {
            Err(Rejection(StatusCode::BAD_REQUEST, "the first commands are missing: a batch with connect\n"))
        }
        _ => Ok(first),
    }
}

/// The id of the last event, which a browser sends when it reconnects.
fn last_event_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("last-event-id")?.as_bytes();
    (!id.is_empty()).then(|| String::from_utf8_lossy(id).into_owned())
}

fn start(
    door: &ClientDoor,
    first: Bytes,
    last: Option<&str>,
    permit: Option<SocketPermit>,
    kind: StreamKind,
) -> Response {
    let inbox = (kind.dialect != Dialect::OneWay).then(|| door.emulation.open());
    let has_ids = kind.dialect == Dialect::OneWay && kind.framing == Framing::Events;
    let (first, cursor) = if has_ids { EventCursor::open(first, last) } else { (first, None) };
    let (stream, body) = Stream::open(kind.framing, first, cursor, inbox, permit.clone());
    let shared = Arc::clone(&door.connections);
    let transport = Transport::Stream(Box::new(stream));
    let mut connection = Connection::new(shared, transport, None, kind.dialect, permit);
    door.lifecycle.spawn(async move { connection.run().await });
    (headers(kind), body).into_response()
}

/// Headers that forbid proxies to store, change or buffer the stream. The protocol's other servers write `Expire` too.
/// The socket is closed with the stream, so that a client does not reuse it.
fn headers(kind: StreamKind) -> [(HeaderName, HeaderValue); 6] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind.content_type)),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-cache, no-store, must-revalidate, max-age=0"),
        ),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("expire"), HeaderValue::from_static("0")),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ]
}
