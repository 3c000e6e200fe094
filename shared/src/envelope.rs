//! The encoding of a request and its answer between gateway and worker.
//!
//! Pure: converts to and from headers.

mod answer;
mod together;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;

use crate::{
    channel::Channel,
    config::Route,
    header,
    id::RequestId,
    moment,
    route::Priority,
    subject::{Address, Kind},
    trace::Trace,
};

pub use self::{
    answer::{Answer, Outcome},
    together::Together,
};
pub use crate::header::one_line;

/// A request on its way to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id; the same on every attempt and, if keyed, on every retry.
    pub id: RequestId,
    /// The authenticated user, or `None` for an anonymous client.
    pub user: Option<String>,
    /// The connection it came from; `None` for a request of a service, a schedule or a worker.
    pub client: Option<String>,
    /// The route that takes it.
    pub route: String,
    /// The method of an RPC without its key; `None` for other requests.
    pub method: Option<String>,
    /// The channel of a publication; `None` for an RPC or a `send`.
    pub channel: Option<Channel>,
    /// The connection's information from its token, for a publication: JSON on one line.
    pub info: Option<String>,
    /// The connection's information in the channel from its subscription token.
    pub channel_info: Option<String>,
    /// The ordering key, if it is another than the user, or the connection of an anonymous client.
    pub key: Option<String>,
    /// Which of its route's two lanes it goes in.
    pub priority: Priority,
    /// Whether the answer also goes to the user's personal channel.
    pub later: bool,
    /// The number of failed attempts before this one.
    pub attempt: u32,
    /// When the gateway accepted it, in milliseconds since 1970.
    pub accepted_at: u64,
    /// The trace it belongs to. Gateways give every request one.
    pub trace: Option<Trace>,
    /// The media type of the body.
    pub content_type: String,
    /// The payload as the client sent it.
    pub body: Bytes,
}

/// A header that is required for a request or an answer is missing or malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header {0} is missing or malformed")]
pub struct Unreadable(pub &'static str);

/// How the answer to a request reaches its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerWay {
    /// It is stored: the request has a key, or its answer is for the personal channel.
    Stored,
    /// It is handed to the gateway whose client waits, and the gateway confirms it.
    HandedOver,
    /// Nobody waits for it: the request is a `send` or a publication.
    Nobody,
}

impl Request {
    /// How the answer reaches the client.
    pub fn answer_way(&self) -> AnswerWay {
        if self.id.is_keyed() || self.later {
            AnswerWay::Stored
        } else if self.method.is_some() {
            AnswerWay::HandedOver
        } else {
            AnswerWay::Nobody
        }
    }

    /// When it was accepted, unless whoever stored it does not say.
    pub fn accepted(&self) -> Option<SystemTime> {
        let since = Duration::from_millis(self.accepted_at);
        (self.accepted_at > 0).then(|| UNIX_EPOCH.checked_add(since)).flatten()
    }

    /// The ordering key. Requests with the same key stay in order on a route that has an order.
    pub fn ordering_key(&self) -> &str {
        self.key.as_deref().unwrap_or_else(|| self.usual_key())
    }

    /// The ordering key unless the route says otherwise: the user, or the connection of an anonymous client. A request with
    /// neither is in nobody's order.
    fn usual_key(&self) -> &str {
        self.user.as_deref().or(self.client.as_deref()).unwrap_or(self.id.as_str())
    }

    /// Sets the ordering key and the lane that the request has on its route.
    #[must_use]
    pub fn on_route(mut self, route: &Route) -> Self {
        let channel = self.channel.as_ref().map(Channel::name);
        let (user, client) = (self.user.as_deref(), self.client.as_deref());
        let key = route.ordering_key(user, client, self.method.as_deref(), channel);
        self.key = key.filter(|key| *key != self.usual_key()).map(str::to_owned);
        self.priority = route.lane(route.priority);
        self
    }

    /// The address of the request in its route's subjects.
    pub fn address(&self) -> Address {
        let kind = match (&self.method, &self.channel) {
            (Some(method), _) => Kind::Rpc(method),
            (None, Some(channel)) => Kind::Publish(channel),
            (None, None) => Kind::Send,
        };
        Address::new(kind, self.ordering_key(), &self.id).with(self.priority)
    }

    /// Encodes the request as message headers.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, self.id.as_str());
        headers.insert(header::ID, self.id.as_str());
        if let Some(client) = &self.client {
            headers.insert(header::CLIENT, client.as_str());
        }
        headers.insert(header::ROUTE, self.route.as_str());
        if let Some(method) = &self.method {
            headers.insert(header::METHOD, method.as_str());
        }
        if let Some(channel) = &self.channel {
            headers.insert(header::CHANNEL, channel.name());
        }
        for (name, info) in [(header::INFO, &self.info), (header::CHANNEL_INFO, &self.channel_info)] {
            if let Some(info) = info {
                headers.insert(name, one_line(info));
            }
        }
        headers.insert(header::KEY, self.ordering_key());
        if self.priority == Priority::High {
            headers.insert(header::PRIORITY, HIGH);
        }
        headers.insert(header::ACCEPTED_AT, self.accepted_at.to_string());
        headers.insert(header::CONTENT_TYPE, self.content_type.as_str());
        if let Some(user) = &self.user {
            headers.insert(header::USER, user.as_str());
        }
        if self.id.is_keyed() {
            headers.insert(header::DIGEST, crate::id::body_digest(&self.body));
        }
        if let Some(trace) = &self.trace {
            trace.write(&mut headers);
        }
        if self.later {
            headers.insert(header::LATER, "1");
        }
        if self.attempt > 0 {
            headers.insert(header::ATTEMPT, self.attempt.to_string());
        }
        headers
    }

    /// Decodes a request that the broker delivered.
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Unreadable> {
        let text = |name: &'static str| get(headers, name).map(str::to_owned);
        let mut request = Self {
            id: get(headers, header::ID).and_then(RequestId::parse).ok_or(Unreadable(header::ID))?,
            user: text(header::USER),
            client: text(header::CLIENT),
            route: text(header::ROUTE).ok_or(Unreadable(header::ROUTE))?,
            method: text(header::METHOD),
            channel: get(headers, header::CHANNEL)
                .map(|name| Channel::parse(name).map_err(|_| Unreadable(header::CHANNEL)))
                .transpose()?,
            info: text(header::INFO),
            channel_info: text(header::CHANNEL_INFO),
            key: text(header::KEY),
            priority: match get(headers, header::PRIORITY) {
                Some(HIGH) => Priority::High,
                _ => Priority::Normal,
            },
            later: get(headers, header::LATER).is_some(),
            attempt: number(headers, header::ATTEMPT)?.unwrap_or(0),
            accepted_at: number(headers, header::ACCEPTED_AT)?.unwrap_or(0),
            trace: Trace::read(headers),
            content_type: text(header::CONTENT_TYPE).unwrap_or_else(|| JSON.to_owned()),
            body,
        };
        if request.key.as_deref() == Some(request.usual_key()) {
            request.key = None;
        }
        Ok(request)
    }
}

/// The value of the header of a request that goes first.
const HIGH: &str = "high";
/// The content type of JSON bodies.
pub const JSON: &str = "application/json";
/// The content type of bodies in a format that only client and worker know.
pub const BYTES: &str = "application/octet-stream";

/// Makes the broker publish a message on `target` at this time by its clock, once. A time that is over is now, also one before 1970,
/// which the format does not have.
pub fn schedule_once(headers: &mut HeaderMap, due: SystemTime, target: String) {
    let due = due.max(UNIX_EPOCH);
    headers.insert(header::SCHEDULE, format!("@at {}", moment::text(due)));
    headers.insert(header::SCHEDULE_TARGET, target);
}

/// Returns a header's first value. A name that is known at compile time is looked for without a copy of it.
pub fn get<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name)).map(async_nats::HeaderValue::as_str)
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, Unreadable> {
    get(headers, name).map(|text| text.parse().map_err(|_| Unreadable(name))).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::codes;

    fn line() -> impl Strategy<Value = String> {
        "[!-~]([ -~]{0,20}[!-~])?"
    }

    proptest! {
        #[test]
        fn a_request_survives_the_journey(
            user in proptest::option::of(line()), client in proptest::option::of(line()), route in line(), method in proptest::option::of(line()),
            channel in proptest::option::of(line()), info in proptest::option::of(line()), channel_info in proptest::option::of(line()), key in proptest::option::of(line()), high in any::<bool>(), later in any::<bool>(), attempt in any::<u32>(), accepted_at in any::<u64>(), body in any::<Vec<u8>>(),
        ) {
            let id = RequestId::keyed("u", "m", "k");
            let channel = channel.and_then(|name| Channel::parse(&name).ok());
            let usual = user.clone().or(client.clone()).unwrap_or_else(|| id.to_string());
            let key = key.filter(|key| *key != usual);
            let priority = if high { Priority::High } else { Priority::Normal };
            let request = Request { id, user, client, route, method, channel, info, channel_info, key, priority, later, attempt, accepted_at, trace: Some(Trace::random()), content_type: BYTES.into(), body: body.into() };
            prop_assert_eq!(Request::read(&request.headers(), request.body.clone()), Ok(request));
        }

        #[test]
        fn an_answer_survives_the_journey(user in proptest::option::of(line()), code in 1u32..2000, message in line(), data in proptest::option::of(any::<u8>()), ok in any::<bool>()) {
            let data = data.map_or(Bytes::new(), |number| Bytes::from(number.to_string()));
            let outcome = if ok { Outcome::Ok(Bytes::from_static(b"{}")) } else { Outcome::Error { code, message, data } };
            let answer = Answer { re: RequestId::keyed("u", "m", "k"), user, digest: Some("d".into()), attempt: 2, worker: "w".into(), letter: ok.then_some(7), redriven: (!ok).then_some(u64::MAX), trace: Some(Trace::random()), outcome };
            prop_assert_eq!(Answer::read(&answer.headers(), answer.body()), Ok(answer));
        }

        #[test]
        fn a_message_never_ends_its_header(message in any::<String>()) {
            prop_assert!(!one_line(&message).contains(['\r', '\n']));
        }
    }

    #[test]
    fn an_odd_code_or_attempt_costs_no_client_its_answer() {
        for odd in ["", "x", "-1", "0", "99999999999", "1.5"] {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                (header::RE, RequestId::keyed("u", "m", "k").as_str()),
                (header::STATUS, "error"),
                (header::CODE, odd),
                (header::ATTEMPT, odd),
            ] {
                headers.insert(name, value);
            }
            let answer = Answer::read(&headers, Bytes::new()).unwrap();
            let error = answer.error().unwrap();
            assert_eq!((error.code, answer.attempt), (codes::INTERNAL.code, 0), "{odd:?}");
        }
    }

    #[test]
    fn the_data_of_an_error_is_beside_its_code_and_what_is_not_json_is_left_out() {
        let error = |data: &'static [u8]| {
            let mut headers = HeaderMap::new();
            let re = RequestId::keyed("u", "m", "k");
            for (name, value) in [
                (header::RE, re.as_str()),
                (header::STATUS, "error"),
                (header::CODE, "422"),
                (header::MESSAGE, "no"),
            ] {
                headers.insert(name, value);
            }
            Answer::read(&headers, Bytes::from_static(data)).unwrap().later_body()
        };
        assert_eq!(error(b""), r#"{"code":422,"message":"no"}"#);
        assert_eq!(error(b"{\"n\": 1.50}"), r#"{"code":422,"message":"no","data":{"n": 1.50}}"#);
        assert_eq!(error(b"what?"), r#"{"code":422,"message":"no"}"#);
    }

    #[test]
    fn only_answers_that_can_be_asked_for_again_are_stored() {
        let gateway = crate::id::GatewayId::random();
        let (plain, keyed) = (RequestId::plain(&gateway), RequestId::keyed("u", "m", "k"));
        for (id, method, later, way) in [
            (&plain, Some("m"), false, AnswerWay::HandedOver),
            (&plain, Some("m"), true, AnswerWay::Stored),
            (&keyed, Some("m"), false, AnswerWay::Stored),
            (&keyed, Some("m"), true, AnswerWay::Stored),
            (&plain, None, false, AnswerWay::Nobody),
        ] {
            let request = Request {
                id: id.clone(),
                user: None,
                client: None,
                route: "r".to_owned(),
                method: method.map(str::to_owned),
                channel: None,
                info: None,
                channel_info: None,
                key: None,
                priority: Priority::Normal,
                later,
                attempt: 0,
                accepted_at: 0,
                trace: None,
                content_type: JSON.to_owned(),
                body: Bytes::new(),
            };
            assert_eq!(request.answer_way(), way, "{request:?}");
        }
    }

    #[test]
    fn a_missing_header_is_named() {
        assert_eq!(Request::read(&HeaderMap::new(), Bytes::new()), Err(Unreadable(header::ID)));
        assert_eq!(Answer::read(&HeaderMap::new(), Bytes::new()), Err(Unreadable(header::STATUS)));
    }
}
