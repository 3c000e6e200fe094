//! The checks before every client request: the page's origin, and the size of the body.
//!
//! Never looks into a body.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header, uri::Authority},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tidegate_shared::lifecycle::Lifecycle;

use super::body::{self, Unread};
use crate::{connection::Shared, fleet::forward::Emulation, http::origin::Origins, outbox::total::Counted};

/// How long a browser may cache a preflight answer, in seconds.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// What client requests need.
pub(crate) struct ClientDoor {
    pub(crate) connections: Arc<Shared>,
    pub(crate) origins: Origins,
    pub(crate) emulation: Arc<Emulation>,
    pub(crate) lifecycle: Lifecycle,
}

/// The origin of the page that sent the request, if one did. The page may read the answer.
pub(super) struct Page(Option<HeaderValue>);

/// A refused request: the status and a sentence.
pub(super) struct Rejection(pub(super) StatusCode, pub(super) &'static str);

impl ClientDoor {
    /// Checks the host and the origin of a request.
    pub(super) fn admit(&self, target: &Uri, headers: &HeaderMap) -> Result<Page, Rejection> {
        // A proxy and the gateway could each read another one of several.
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next().and_then(host_of), hosts.next()) else {
            return Err(self.malformed("a request needs one Host header: the name of a host\n"));
        };
        // Whoever reads the one would not see the other.
        if target.authority().is_some_and(|named| *named != host) {
            return Err(self.malformed("the request's target names another host than its Host header\n"));
        }
        if headers.get_all(header::ORIGIN).iter().count() > 1 {
            return Err(self.malformed("a request has at most one Origin header\n"));
        }
        if self.origins.allow(text(headers, header::ORIGIN), text(headers, header::HOST)) {
            return Ok(Page(headers.get(header::ORIGIN).cloned()));
        }
        self.connections.metrics.refused("origin");
        let origin = text(headers, header::ORIGIN).unwrap_or_default();
        if let Some(advice) = self.origins.advice(origin) {
            tracing::warn!(origin, "refused a web page of this origin: {advice}");
        }
        Err(Rejection(StatusCode::FORBIDDEN, "this origin may not connect: add it to gateway.origins\n"))
    }

    /// Refuses a request whose headers are incomplete or ambiguous.
    pub(super) fn malformed(&self, why: &'static str) -> Rejection {
        self.connections.metrics.refused("malformed");
        Rejection(StatusCode::BAD_REQUEST, why)
    }

    /// The longest message a client may send, in bytes.
    pub(super) fn message_limit(&self) -> usize {
        usize::try_from(self.connections.rules.limits.message).unwrap_or(usize::MAX)
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn body(&self, body: Body, limit: usize) -> Result<Bytes, Rejection> {
        let held = Counted::of(Arc::clone(&self.connections.common.buffered));
        let patience = self.connections.rules.limits.first_frame;
        body::read(body, limit, patience, held).await.map_err(|unread| match unread {
            Unread::TooLong => TOO_LONG,
            Unread::Broken => self.malformed("the body breaks off, or its chunks are malformed\n"),
            Unread::Late => Rejection(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
            Unread::Busy => Rejection(
                StatusCode::SERVICE_UNAVAILABLE,
                "too much waits for all clients together (gateway.limits.buffered_total)\n",
            ),
        })
    }
}

/// The message exceeds `gateway.limits.message`.
pub(super) const TOO_LONG: Rejection =
    Rejection(StatusCode::PAYLOAD_TOO_LARGE, "the message is longer than gateway.limits.message\n");

impl Page {
    /// Adds the headers that let the page read the answer.
    pub(super) fn may_read(self, answer: impl IntoResponse) -> Response {
        let mut response = answer.into_response();
        if let Some(origin) = self.0 {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            // The gateway reads no cookies, but a load balancer may use them for session affinity.
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// Answers a browser's preflight request.
pub(super) async fn preflight(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let page = match door.admit(request.uri(), request.headers()) {
        Ok(page) => page,
        Err(refused) => return refused.into_response(),
    };
    let methods = if request.uri().path().ends_with("sse") { "GET, POST, OPTIONS" } else { "POST, OPTIONS" };
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods)),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked.unwrap_or_else(|| HeaderValue::from_static("content-type")),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE),
    ];
    page.may_read((StatusCode::NO_CONTENT, allowed))
}

/// The host that a Host header names, if it is one.
pub(crate) fn host_of(header: &HeaderValue) -> Option<Authority> {
    let host = Authority::try_from(header.as_bytes()).ok()?;
    let whole = !host.host().is_empty() && !host.as_str().contains('@');
    // The port is a number if it is there.
    let port = host.as_str().strip_prefix(host.host()).unwrap_or_default();
    (whole && (matches!(port, "" | ":") || host.port_u16().is_some())).then_some(host)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    // An origin that is not text matches no configured one.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}
