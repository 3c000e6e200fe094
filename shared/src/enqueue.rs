//! Requests that no client makes: what a service enqueues, and the follow-ups of handlers. Where such a request goes, its id, when
//! it is due, and the message that stores it. Pure.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::{
    config::{Match, Route},
    envelope::{Request, schedule_once},
    header,
    id::RequestId,
    route::{MAX_KEY_LEN, Method, Priority},
    subject::Subjects,
    trace::Trace,
};

/// The furthest time that a request may be stored for.
pub const MAX_DELAY: Duration = Duration::from_hours(24 * 3653);

/// When a request may be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// As soon as a worker has time.
    Now,
    /// So long after the broker has it.
    After(Duration),
    /// At this time by the broker's clock. A time that is over is now.
    At(SystemTime),
}

/// Why a request cannot be enqueued: no repetition changes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such route, or none that takes the method.
    #[error("{0}")]
    NoRoute(String),
    /// Something else is wrong with it.
    #[error("{0}")]
    Wrong(String),
}

/// Who makes a request, and for whom.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The user it acts for.
    pub user: Option<String>,
    /// When it is accepted, in milliseconds since 1970.
    pub accepted_at: u64,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
}

/// A message for the broker to store.
#[derive(Debug, Clone)]
pub struct StoredRequest {
    /// Where.
    pub subject: String,
    /// The request's headers and those that the broker interprets.
    pub headers: HeaderMap,
    /// The request's body.
    pub body: Bytes,
}

fn wrong<T>(problem: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Wrong(problem.into()))
}

/// The route that takes a request, and its method. A route's name alone is enough if only one method goes there.
pub fn destination<'a>(
    routes: &'a [Route],
    method: &str,
    route: &str,
) -> Result<(&'a Route, Option<String>), Refused> {
    if method.is_empty() {
        return by_route(routes, route);
    }
    let parsed = Method::parse(method).map_err(|error| Refused::Wrong(error.to_string()))?;
    if parsed.key.is_some() {
        return wrong("a key goes into the parameter `key`");
    }
    let takes =
        |route: &&Route| matches!(&route.matches, Match::Rpc(pattern) if pattern.matches(parsed.name));
    let found = routes.iter().find(takes);
    let found = found.ok_or_else(|| Refused::NoRoute(format!("no route takes {method:?}")))?;
    if !route.is_empty() && route != found.name {
        return wrong(format!("route {:?} takes {method:?}, not route {route:?}", found.name));
    }
    Ok((found, Some(parsed.name.to_owned())))
}

fn by_route<'a>(routes: &'a [Route], name: &str) -> Result<(&'a Route, Option<String>), Refused> {
    if name.is_empty() {
        return wrong("a request needs a method, or a route");
    }
    let route = routes.iter().find(|route| route.name == name);
    let route = route.ok_or_else(|| Refused::NoRoute(format!("there is no route {name:?}")))?;
    match &route.matches {
        Match::Rpc(pattern) => match pattern.only_method() {
            Some(method) => Ok((route, Some(method))),
            None => wrong(format!("route {name:?} takes many methods ({pattern}): say which, with `method`")),
        },
        Match::Send => Ok((route, None)),
        Match::Publish(_) => wrong(format!("route {name:?} takes clients' publications: use publish")),
        Match::Hook(_) => wrong(format!("route {name:?} answers hooks, which are not stored")),
    }
}

/// The id of the request with this key; `name` is its method, or its route if it has none. With a user it is the id of the user's
/// own request with this key.
pub fn keyed_id(name: &str, user: Option<&str>, key: &str) -> Result<RequestId, Refused> {
    match user {
        _ if key.is_empty() || key.len() > MAX_KEY_LEN => {
            wrong(format!("a key has 1 to {MAX_KEY_LEN} bytes"))
        }
        Some(user) => Ok(RequestId::keyed(user, name, key)),
        None => Ok(RequestId::keyed_by_service(name, key)),
    }
}

/// Checks when a request is due. `now` is the time of day.
pub fn check_due(due: Due, now: SystemTime) -> Result<(), Refused> {
    let too_far = match due {
        Due::Now => false,
        Due::After(delay) => delay > MAX_DELAY,
        Due::At(time) => time > now + MAX_DELAY,
    };
    if too_far { wrong("a request can be stored for ten years ahead") } else { Ok(()) }
}

impl Request {
    /// A request of a service or a handler for this route. Its answer is stored, and goes to the user's personal channel.
    pub fn enqueued(
        id: RequestId,
        route: &Route,
        method: Option<String>,
        origin: Origin,
        (content_type, body): (&str, Bytes),
    ) -> Self {
        let request = Self {
            id,
            user: origin.user,
            client: None,
            route: route.name.clone(),
            method,
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: true,
            attempt: 0,
            accepted_at: origin.accepted_at,
            trace: origin.trace,
            content_type: content_type.to_owned(),
            body,
        };
        request.on_route(route)
    }

    /// The message that stores the request: in its route's stream, or, if it is due at a time, among the parked requests.
    /// `message_id` is what the broker deduplicates by.
    pub fn stored(&self, subjects: &Subjects, due: Option<SystemTime>, message_id: &str) -> StoredRequest {
        let mut subject = subjects.request(&self.address());
        let mut headers = self.headers();
        headers.insert(header::MSG_ID, message_id);
        if let Some(due) = due {
            let target = subjects.due(&subject).unwrap_or_default();
            schedule_once(&mut headers, due, target);
            // A second message would replace the first one, which may be the request that waits for its next attempt.
            headers.insert(header::EXPECTED_LAST, "0");
            subject = subjects.park(&self.id);
        }
        StoredRequest { subject, headers, body: self.body.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::{Config, Role},
        envelope::{JSON, get},
    };

    fn routes() -> Vec<Route> {
        let routes = "[{name = \"a\", match = \"rpc.a\", priority = \"high\"}, {name = \"many\", match = \"rpc.b.{x}\"}, \
             {name = \"news\", match = \"send\"}, {name = \"entry\", match = \"hook.connect\"}]";
        let flags = [("route", routes.to_owned())];
        Config::from_sources_as(Role::Worker, None, BTreeMap::new(), &flags).unwrap().routes
    }

    #[test]
    fn a_request_goes_to_the_route_of_its_method_or_to_the_one_that_is_named() {
        let routes = routes();
        let found = |method, route| destination(&routes, method, route).map(|(r, m)| (r.name.clone(), m));
        assert_eq!(found("b.7", ""), Ok(("many".to_owned(), Some("b.7".to_owned()))));
        assert_eq!(found("", "a"), Ok(("a".to_owned(), Some("a".to_owned()))));
        assert_eq!(found("", "news"), Ok(("news".to_owned(), None)));
        for (method, route) in [("c", ""), ("", "c")] {
            assert!(matches!(found(method, route), Err(Refused::NoRoute(_))), "{method} {route}");
        }
        for (method, route) in
            [("", ""), ("", "many"), ("", "entry"), ("a", "many"), ("a#k", ""), ("a..b", "")]
        {
            assert!(matches!(found(method, route), Err(Refused::Wrong(_))), "{method} {route}");
        }
    }

    #[test]
    fn a_request_that_is_due_later_is_parked_once_until_then() {
        let (routes, subjects) = (routes(), Subjects::new("tide"));
        let (route, method) = destination(&routes, "a", "").unwrap();
        let id = keyed_id("a", Some("42"), "k").unwrap();
        let origin = Origin { user: Some("42".to_owned()), accepted_at: 7, trace: None };
        let request = Request::enqueued(id.clone(), route, method, origin, (JSON, "1".into()));
        let now = request.stored(&subjects, None, id.as_str());
        assert!(now.subject.starts_with("tide.first.rpc.a."), "the lane of its route: {}", now.subject);
        assert_eq!(get(&now.headers, header::SCHEDULE), None);
        let later = request.stored(&subjects, Some(SystemTime::UNIX_EPOCH), "x");
        assert_eq!(later.subject, format!("tide.park.{id}"));
        let wanted = [
            (header::MSG_ID, "x"),
            (header::SCHEDULE, "@at 1970-01-01T00:00:00.000Z"),
            (header::EXPECTED_LAST, "0"),
        ];
        for (name, value) in wanted {
            assert_eq!(get(&later.headers, name), Some(value));
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let over = request.stored(&subjects, Some(before_1970), "x").headers;
        assert_eq!(get(&over, header::SCHEDULE), Some("@at 1970-01-01T00:00:00.000Z"));
        let target = now.subject.replace(".first.", ".due.");
        assert_eq!(get(&later.headers, header::SCHEDULE_TARGET), Some(&*target));
    }

    #[test]
    fn a_request_is_not_stored_for_longer_than_ten_years() {
        let now = SystemTime::UNIX_EPOCH;
        let far = MAX_DELAY + Duration::from_secs(1);
        for due in [Due::Now, Due::After(MAX_DELAY), Due::At(now + MAX_DELAY), Due::At(now)] {
            assert_eq!(check_due(due, now), Ok(()));
        }
        for due in [Due::After(far), Due::At(now + far)] {
            assert!(check_due(due, now).is_err());
        }
    }
}
