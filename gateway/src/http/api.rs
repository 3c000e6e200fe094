//! The server API over HTTP: `POST /api/<method>` with the key, on the internal listener.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{Digest, SHA256, digest},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use tidegate_shared::{
    config::Config,
    header::{TRACE_PARENT, TRACE_STATE},
    trace::Trace,
};
use tokio::time::Duration;

use super::{
    Health,
    body::{self, Unread},
};
use crate::{
    api::{Api, Method, OPENAPI, Via, trace},
    outbox::total::Counted,
};

/// The header with the key.
const KEY: &str = "x-api-key";

/// Serves the server API over HTTP. The internal listener starts before NATS is connected, so the methods come later.
#[derive(Clone)]
pub(crate) struct ApiDoor {
    /// The digest of the key. `None` if the API is closed over HTTP.
    key: Option<Digest>,
    longest: usize,
    patience: Duration,
    api: Arc<OnceLock<Arc<Api>>>,
}

impl ApiDoor {
    pub(crate) fn new(config: &Config) -> Self {
        let key = &config.api.key;
        Self {
            key: (!key.is_empty()).then(|| digest(&SHA256, key.expose().as_bytes())),
            longest: usize::try_from(config.api.request).unwrap_or(usize::MAX),
            patience: config.gateway.limits.first_frame,
            api: Arc::default(),
        }
    }

    /// Lets methods run from now on.
    pub(crate) fn open(&self, api: Arc<Api>) {
        let _ = self.api.set(api);
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let Some(key) = &self.key else {
            return Err((StatusCode::NOT_FOUND, "the server API is closed over HTTP: set api.key\n"));
        };
        // With two, a proxy could have checked the other one.
        let mut given = headers.get_all(KEY).iter();
        let (given, other) = (given.next(), given.next());
        if other.is_some() {
            return Err((StatusCode::UNAUTHORIZED, "send one X-API-Key header\n"));
        }
        let given = given.map(|given| digest(&SHA256, given.as_bytes()));
        // Digests have equal lengths, so the time of the comparison reveals nothing.
        given
            .filter(|given| verify_slices_are_equal(given.as_ref(), key.as_ref()).is_ok())
            .map(|_| ())
            .ok_or((StatusCode::UNAUTHORIZED, "send api.key as X-API-Key\n"))
    }
}

type Rejection = (StatusCode, &'static str);

pub(super) async fn method(
    State(health): State<Health>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response {
    match run(&health.api, &name, request).await {
        Ok(answer) => answer,
        Err(refused) => refused.into_response(),
    }
}

async fn run(door: &ApiDoor, name: &str, request: Request<Body>) -> Result<Response, Rejection> {
    door.admit(request.headers())?;
    let method = Method::parse(name).ok_or((StatusCode::NOT_FOUND, "no such method\n"))?;
    let caller = callers_trace(request.headers());
    let body = body::read(request.into_body(), door.longest, door.patience, Counted::default())
        .await
        .map_err(|unread| match unread {
            Unread::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "the request is longer than api.request\n"),
            Unread::Broken => (StatusCode::BAD_REQUEST, "the body breaks off, or its chunks are malformed\n"),
            Unread::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
            Unread::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too much waits for clients\n"),
        })?;
    let api = door.api.get().ok_or((StatusCode::SERVICE_UNAVAILABLE, "not connected to NATS\n"))?;
    let answer = trace::within(caller, api.answer(Via::Http, method, &body)).await;
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// The trace that the caller sent, once each header.
fn callers_trace(headers: &HeaderMap) -> Option<Trace> {
    let value = |name: &str| {
        let mut given = headers.get_all(name).iter();
        given.next().filter(|_| given.next().is_none())?.to_str().ok()
    };
    Trace::parse(value(TRACE_PARENT)?, value(TRACE_STATE))
}

pub(super) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}
