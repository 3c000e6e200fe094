//! What stands between a request and everything behind it: which pages may ask, and how much a request may say.
//!
//! Never looks at what a body means.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tidegate_shared::lifecycle::Lifecycle;
use tokio::time::timeout;

use crate::{connection::Shared, fleet::forward::Emulation, http::origin::Origins};

/// How long a page may remember what it may ask, in seconds.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// What requests are let in to.
pub(crate) struct ClientDoor {
    pub(crate) connections: Arc<Shared>,
    pub(crate) origins: Origins,
    pub(crate) emulation: Arc<Emulation>,
    pub(crate) lifecycle: Lifecycle,
}

/// The page that asks, if it is one: it may read the answer.
pub(super) struct Page(Option<HeaderValue>);

/// Why a request is not carried out.
pub(super) struct Rejection(pub(super) StatusCode, pub(super) &'static str);

impl ClientDoor {
    /// Lets a request in whose page may connect.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Page, Rejection> {
        if self.origins.allow(text(headers, header::ORIGIN), text(headers, header::HOST)) {
            return Ok(Page(headers.get(header::ORIGIN).cloned()));
        }
        self.connections.metrics.refused("origin");
        Err(Rejection(StatusCode::FORBIDDEN, "this origin may not connect: add it to gateway.origins\n"))
    }

    /// The longest message a client may send.
    pub(super) fn message_limit(&self) -> usize {
        usize::try_from(self.connections.rules.limits.message).unwrap_or(usize::MAX)
    }

    /// Reads a body that may have this many bytes.
    pub(super) async fn body(&self, body: Body, limit: usize) -> Result<Bytes, Rejection> {
        match timeout(self.connections.rules.limits.first_frame, to_bytes(body, limit)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            // A body that breaks off has nobody behind it who would read the answer.
            Ok(Err(_)) => Err(TOO_LONG),
            Err(_) => Err(Rejection(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n")),
        }
    }
}

/// The message is longer than it may be.
pub(super) const TOO_LONG: Rejection =
    Rejection(StatusCode::PAYLOAD_TOO_LARGE, "the message is longer than gateway.limits.message\n");

impl Page {
    /// Tells the page's browser that the page may read this.
    pub(super) fn may_read(self, answer: impl IntoResponse) -> Response {
        let mut response = answer.into_response();
        if let Some(origin) = self.0 {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            // Nothing here looks at cookies, but a load balancer before it may keep a client to one gateway by them.
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

/// A browser asks what a page may ask.
pub(super) async fn preflight(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let page = match door.admit(request.headers()) {
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

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    // An origin that is not text is an origin nobody configured.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}
