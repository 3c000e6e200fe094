//! `enqueue`: a service stores a request, for now or for later, and does not wait for its answer.
//!
//! The request is like a client's: the same streams, the same ids, the same workers. It counts in no user's share of its route
//! (`gateway.limits.user_share`): the operator's key is behind it, and the stream's own limit stands.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    config::Route,
    enqueue::{self, Due, Origin, Refused},
    envelope::{BYTES, JSON, Request},
    id::RequestId,
    protocol::{Error, codes, json},
    route::Priority,
};
use tokio::time::Instant;

use super::{Api, ApiResult, call::milliseconds, raw, trace};
use crate::{policy::rules::Rules, requests::CallEnd};

/// Which request: the parameters that name a new one, or one that was stored before.
#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EnqueueParams {
    method: String,
    route: String,
    #[serde(with = "json::note")]
    data: Bytes,
    b64data: String,
    key: String,
    user: String,
    delay: String,
    at: String,
    /// Its lane; left out, that of the route.
    priority: Option<Priority>,
}

/// The request is stored under this id; `duplicate` says that it was before.
#[derive(Serialize)]
struct Enqueued {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    duplicate: bool,
}

impl Api {
    pub(super) async fn enqueue(&self, params: EnqueueParams) -> ApiResult {
        let (request, due) = read(&self.rules, params, milliseconds())?;
        let deadline = Instant::now() + self.answer_timeout;
        match self.store.enqueue(request, due, deadline).await {
            CallEnd::Accepted { id, seq, duplicate, .. } => raw(&Enqueued { id, seq, duplicate }),
            CallEnd::Failed(error) => Err(error),
            CallEnd::Answered(_) | CallEnd::Told(_) => Err(codes::INTERNAL.error()),
        }
    }
}

impl EnqueueParams {
    /// The parameters of a schedule's request.
    pub(super) fn of(
        (method, route): (String, String),
        (data, b64data): (Bytes, String),
        user: String,
        priority: Option<Priority>,
    ) -> Self {
        let data = if data == "null" { Bytes::new() } else { data };
        Self { method, route, data, b64data, user, priority, ..Self::default() }
    }
}

/// The request that the parameters describe, and when it is due.
pub(super) fn read(rules: &Rules, params: EnqueueParams, now: u64) -> Result<(Request, Due), Error> {
    let (route, method) = destination(rules, &params.method, &params.route)?;
    let user = (!params.user.is_empty()).then_some(params.user);
    if user.as_ref().is_some_and(|user| !rules.verifier.is_user_id(user)) {
        return Err(codes::BAD_REQUEST.because("user: this cannot be a user's id"));
    }
    let due = due(&params.delay, &params.at, now)?;
    let data = params.data;
    let (content_type, body) = match (data.is_empty(), params.b64data.is_empty()) {
        (false, false) => return Err(codes::BAD_REQUEST.because("either data or b64data")),
        (true, true) => (JSON, Bytes::from_static(b"null")),
        (false, true) => (JSON, data),
        (true, false) => match BASE64.decode(params.b64data.as_bytes()) {
            Ok(bytes) => (BYTES, bytes.into()),
            Err(error) => return Err(codes::BAD_REQUEST.because(format_args!("b64data: {error}"))),
        },
    };
    let id = id_of(rules, method.as_deref().unwrap_or(&route.name), user.as_deref(), &params.key)?;
    let origin = Origin { user, accepted_at: now, trace: Some(trace::current()) };
    let mut request = Request::enqueued(id, route, method, origin, (content_type, body));
    if let Some(priority) = params.priority {
        request.priority = route.lane(priority);
    }
    Ok((request, due))
}

/// The id of the request with this key. With a user it is the id of the user's own request with this key.
pub(super) fn id_of(rules: &Rules, name: &str, user: Option<&str>, key: &str) -> Result<RequestId, Error> {
    match key {
        "" => Ok(RequestId::plain(&rules.gateway)),
        key => enqueue::keyed_id(name, user, key).map_err(refused),
    }
}

/// The route that takes the request, and its method. A route's name alone is enough if only one method goes there.
pub(super) fn destination<'a>(
    rules: &'a Rules,
    method: &str,
    route: &str,
) -> Result<(&'a Route, Option<String>), Error> {
    enqueue::destination(rules.routes(), method, route).map_err(refused)
}

fn refused(refused: Refused) -> Error {
    match refused {
        Refused::NoRoute(why) => codes::METHOD_NOT_FOUND.because(why),
        Refused::Wrong(why) => codes::BAD_REQUEST.because(why),
    }
}

/// When the request is due. `now` is in milliseconds since 1970.
pub(super) fn due(delay: &str, at: &str, now: u64) -> Result<Due, Error> {
    let wrong = |problem: String| codes::BAD_REQUEST.because(problem);
    let due = match (delay, at) {
        ("", "") => Due::Now,
        (delay, "") => match humantime::parse_duration(delay) {
            Ok(delay) if delay.is_zero() => Due::Now,
            Ok(delay) => Due::After(delay),
            Err(error) => {
                let why = format!("delay: {error}: a delay is a duration such as \"5m\" or \"1h 30m\"");
                return Err(wrong(why));
            }
        },
        ("", at) => Due::At(humantime::parse_rfc3339_weak(at).map_err(|error| {
            wrong(format!("at: {error}: a time is in UTC, such as \"2026-12-24T18:00:00Z\""))
        })?),
        _ => return Err(wrong("either delay or at".to_owned())),
    };
    enqueue::check_due(due, SystemTime::UNIX_EPOCH + Duration::from_millis(now)).map_err(refused)?;
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_delay_or_a_date_and_not_beyond_ten_years() {
        let now = 1_767_225_600_000;
        assert_eq!(due("", "", now), Ok(Due::Now));
        assert_eq!(due("0s", "", now), Ok(Due::Now));
        assert_eq!(due("1h 30m", "", now), Ok(Due::After(Duration::from_mins(90))));
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
        assert_eq!(due("", "2026-01-01T00:00:00Z", now), Ok(Due::At(at)));
        for (delay, at) in [
            ("5", ""),
            ("-5m", ""),
            ("11y", ""),
            ("", "tomorrow"),
            ("", "2040-01-01T00:00:00Z"),
            ("5m", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(due(delay, at, now).map_err(|error| error.code), Err(107), "{delay} {at}");
        }
    }
}
