//! Commands posted by clients of streaming transports. Never looks into them.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tidegate_shared::protocol::{EmulationRequest, lenient, protobuf};

use super::{
    ClientDoor,
    admission::{Rejection, TOO_LONG},
    stream::speaks_protobuf,
};
use crate::fleet::sessions::Undelivered;

/// The bytes of a request beside its message: field names, ids and punctuation.
const ENVELOPE: usize = 1024;

pub(super) async fn emulate(State(door): State<Arc<ClientDoor>>, request: Request<Body>) -> Response {
    let page = match door.admit(request.uri(), request.headers()) {
        Ok(page) => page,
        Err(refused) => return refused.into_response(),
    };
    match deliver(&door, request).await {
        Ok(()) => page.may_read(StatusCode::NO_CONTENT),
        Err(refused) => page.may_read(refused),
    }
}

async fn deliver(door: &ClientDoor, request: Request<Body>) -> Result<(), Rejection> {
    let protobuf = speaks_protobuf(&request);
    // A message in a JSON string is longer than the message, since its quotation marks are escaped.
    let limit = door.message_limit().saturating_mul(2).saturating_add(ENVELOPE);
    let body = door.body(request.into_body(), limit).await?;
    let request = read(body, protobuf)
        .ok_or(Rejection(StatusCode::BAD_REQUEST, "not a request with session, node and data\n"))?;
    if request.data.len() > door.message_limit() {
        return Err(TOO_LONG);
    }
    door.emulation.deliver(request).await.map_err(|undelivered| match undelivered {
        Undelivered::Unknown => Rejection(StatusCode::NOT_FOUND, "no such session: it has ended\n"),
        Undelivered::Busy => {
            Rejection(StatusCode::TOO_MANY_REQUESTS, "the session has not taken earlier commands yet\n")
        }
        Undelivered::Unreachable => {
            Rejection(StatusCode::SERVICE_UNAVAILABLE, "the session's gateway cannot be asked now\n")
        }
    })
}

fn read(body: Bytes, protobuf: bool) -> Option<EmulationRequest> {
    let request: EmulationRequest =
        if protobuf { protobuf::decode_one(body).ok()? } else { lenient::from_slice(&body).ok()? };
    let whole = !(request.session.is_empty() || request.node.is_empty() || request.data.is_empty());
    whole.then_some(request)
}
