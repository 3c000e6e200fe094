//! `rpc`: a service calls a worker through the same stream as clients.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    config::AnswerMode,
    envelope::{JSON, Outcome, Request},
    id::RequestId,
    protocol::{Error, codes, json},
    route::{Method, Priority},
};
use tokio::time::Instant;

use super::{Api, ApiResult, raw, trace};
use crate::requests::{CallEnd, calls::Settled, turn::Turns};

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RpcParams {
    method: String,
    #[serde(with = "json::note")]
    data: Bytes,
    #[serde(with = "json::note")]
    params: Bytes,
}

#[derive(Serialize)]
struct RpcAnswer {
    #[serde(with = "json::raw")]
    data: Bytes,
}

impl Api {
    pub(super) async fn rpc(&self, request: RpcParams) -> ApiResult {
        let method = Method::parse(&request.method).map_err(|error| codes::BAD_REQUEST.because(error))?;
        if method.key.is_some() {
            return Err(codes::BAD_REQUEST.because("a key needs an authenticated user"));
        }
        let route = self.rules.rpc(method.name).ok_or_else(|| codes::METHOD_NOT_FOUND.error())?;
        if route.answer == AnswerMode::Later {
            let why = "the answer goes to a personal channel, which needs an authenticated user";
            return Err(codes::PERMISSION_DENIED.because(why));
        }
        let body = if request.data.is_empty() { request.params } else { request.data };
        let request = Request {
            id: RequestId::plain(&self.rules.gateway),
            user: None,
            client: None,
            route: route.name.clone(),
            method: Some(method.name.to_owned()),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: false,
            attempt: 0,
            accepted_at: milliseconds(),
            trace: Some(trace::current()),
            content_type: JSON.to_owned(),
            body: if body.is_empty() { Bytes::from_static(b"null") } else { body },
        };
        let request = request.on_route(route);
        let deadline = Instant::now() + self.answer_timeout;
        // A service has no earlier message that it would have to wait for.
        let settled = self.store.call(request, AnswerMode::Wait, Turns::default().next(), deadline).await;
        let end = match settled {
            Settled::Ended(end) => end,
            Settled::Stored(wait) => self.store.finish(wait).await,
        };
        match end {
            CallEnd::Answered(answer) => match answer.outcome {
                Outcome::Ok(data) => raw(&RpcAnswer { data: json::Payload::from_any(&data).into_bytes() }),
                Outcome::Error { code, message, .. } => Err(Error { code, message, temporary: false }),
            },
            CallEnd::Failed(error) => Err(error),
            CallEnd::Accepted { .. } | CallEnd::Told(_) => Err(codes::INTERNAL.error()),
        }
    }
}

/// The time now, in milliseconds since 1970.
pub(super) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
