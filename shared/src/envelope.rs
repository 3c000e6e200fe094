//! The encoding of a request and its answer between gateway and worker.
//!
//! Pure: converts to and from headers.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::{
    channel::Channel,
    header,
    id::RequestId,
    protocol::{Error, codes},
    subject::{Address, Kind},
};

pub use crate::header::one_line;

/// A request on its way to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id; the same on every attempt and, if keyed, on every retry.
    pub id: RequestId,
    /// The authenticated user, or `None` for an anonymous client.
    pub user: Option<String>,
    /// The connection it came from.
    pub client: String,
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
    /// Whether the answer also goes to the user's personal channel.
    pub later: bool,
    /// The number of failed attempts before this one.
    pub attempt: u32,
    /// When the gateway accepted it, in milliseconds since 1970.
    pub accepted_at: u64,
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

    /// The ordering key: the user, or the connection of an anonymous client.
    pub fn ordering_key(&self) -> &str {
        self.user.as_deref().unwrap_or(&self.client)
    }

    /// The address of the request in its route's subjects.
    pub fn address(&self) -> Address {
        let kind = match (&self.method, &self.channel) {
            (Some(method), _) => Kind::Rpc(method),
            (None, Some(channel)) => Kind::Publish(channel),
            (None, None) => Kind::Send,
        };
        Address::new(kind, self.ordering_key(), &self.id)
    }

    /// Encodes the request as message headers.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, self.id.as_str());
        headers.insert(header::ID, self.id.as_str());
        headers.insert(header::CLIENT, self.client.as_str());
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
        headers.insert(header::ACCEPTED_AT, self.accepted_at.to_string());
        headers.insert(header::CONTENT_TYPE, self.content_type.as_str());
        if let Some(user) = &self.user {
            headers.insert(header::USER, user.as_str());
        }
        if self.id.is_keyed() {
            headers.insert(header::DIGEST, crate::id::body_digest(&self.body));
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
        Ok(Self {
            id: get(headers, header::ID).and_then(RequestId::parse).ok_or(Unreadable(header::ID))?,
            user: text(header::USER),
            client: text(header::CLIENT).ok_or(Unreadable(header::CLIENT))?,
            route: text(header::ROUTE).ok_or(Unreadable(header::ROUTE))?,
            method: text(header::METHOD),
            channel: get(headers, header::CHANNEL)
                .map(|name| Channel::parse(name).map_err(|_| Unreadable(header::CHANNEL)))
                .transpose()?,
            info: text(header::INFO),
            channel_info: text(header::CHANNEL_INFO),
            later: get(headers, header::LATER).is_some(),
            attempt: number(headers, header::ATTEMPT)?.unwrap_or(0),
            accepted_at: number(headers, header::ACCEPTED_AT)?.unwrap_or(0),
            content_type: text(header::CONTENT_TYPE).unwrap_or_else(|| JSON.to_owned()),
            body,
        })
    }
}

/// The content type of JSON bodies.
pub const JSON: &str = "application/json";
/// The content type of bodies in a format that only client and worker know.
pub const BYTES: &str = "application/octet-stream";

/// A worker's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request it answers.
    pub re: RequestId,
    /// The user whose personal channel receives a late answer, or `None`.
    pub user: Option<String>,
    /// The digest of a keyed request's body, copied from the request.
    pub digest: Option<String>,
    /// The attempt that produced it, counted from 0.
    pub attempt: u32,
    /// The worker that produced it.
    pub worker: String,
    /// The result for the client.
    pub outcome: Outcome,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The handler's answer.
    Ok(Bytes),
    /// An error: the application's own, or [`codes::DEAD_LETTER`].
    Error {
        /// The code for the client.
        code: u32,
        /// The message for the client.
        message: String,
    },
}

impl Answer {
    /// Creates the answer of `worker` to a request, produced by attempt number `attempt`.
    pub fn to(request: &Request, attempt: u32, worker: &str, outcome: Outcome) -> Self {
        // The worker publishes a "later" answer on the personal channel itself, and a `send` has no answer.
        let brought_late = !request.later && request.method.is_some();
        Self {
            re: request.id.clone(),
            user: request.user.clone().filter(|_| brought_late),
            digest: request.id.is_keyed().then(|| crate::id::body_digest(&request.body)),
            attempt,
            worker: worker.to_owned(),
            outcome,
        }
    }

    /// Encodes the answer as message headers. There is no id for deduplication: the subject of a stored answer takes one
    /// message, and an id would outlive it.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::RE, self.re.as_str());
        headers.insert(header::ATTEMPT, self.attempt.to_string());
        headers.insert(header::WORKER, header::text(&self.worker));
        if let Some(user) = &self.user {
            headers.insert(header::USER, user.as_str());
        }
        if let Some(digest) = &self.digest {
            headers.insert(header::DIGEST, digest.as_str());
        }
        match &self.outcome {
            Outcome::Ok(_) => headers.insert(header::STATUS, "ok"),
            Outcome::Error { code, message } => {
                headers.insert(header::STATUS, "error");
                headers.insert(header::CODE, code.to_string());
                headers.insert(header::MESSAGE, header::text(message));
            }
        }
        headers
    }

    /// Returns the message body of the answer.
    pub fn body(&self) -> Bytes {
        match &self.outcome {
            Outcome::Ok(body) => body.clone(),
            Outcome::Error { .. } => Bytes::new(),
        }
    }

    /// Decodes an answer that the broker delivered.
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Unreadable> {
        let outcome = match get(headers, header::STATUS) {
            Some("ok") => Outcome::Ok(body),
            Some("error") => Outcome::Error {
                // A worker in any language wrote it. An odd code must not cost the client its answer.
                code: get(headers, header::CODE)
                    .and_then(|code| code.trim().parse().ok())
                    .filter(|code| *code > 0)
                    .unwrap_or(codes::INTERNAL.code),
                message: get(headers, header::MESSAGE)
                    .filter(|m| !m.is_empty())
                    .unwrap_or("error")
                    .to_owned(),
            },
            _ => return Err(Unreadable(header::STATUS)),
        };
        Ok(Self {
            re: get(headers, header::RE).and_then(RequestId::parse).ok_or(Unreadable(header::RE))?,
            user: get(headers, header::USER).map(str::to_owned),
            digest: get(headers, header::DIGEST).map(str::to_owned),
            attempt: get(headers, header::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0),
            worker: get(headers, header::WORKER).unwrap_or_default().to_owned(),
            outcome,
        })
    }

    /// The headers of the publication of this answer on the user's personal channel. The broker keeps one, even if several
    /// processes publish it.
    pub fn later_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, format!("{}.l", self.re));
        for (name, value) in self.later_tags() {
            headers.insert(format!("{}{name}", header::TAG_PREFIX), value);
        }
        headers
    }

    /// The tags of that publication: the request's id and the status.
    pub fn later_tags(&self) -> BTreeMap<String, String> {
        let status = if matches!(self.outcome, Outcome::Ok(_)) { "ok" } else { "error" };
        [("re", self.re.as_str()), ("status", status)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    /// The payload of that publication: the answer, or `{"code", "message"}` of an error.
    pub fn later_body(&self) -> Bytes {
        match &self.outcome {
            Outcome::Ok(body) => body.clone(),
            Outcome::Error { code, message } => {
                Bytes::from(serde_json::json!({"code": code, "message": message}).to_string())
            }
        }
    }

    /// Returns the error for the client, or `None` if the request succeeded.
    pub fn error(&self) -> Option<Error> {
        match &self.outcome {
            Outcome::Ok(_) => None,
            Outcome::Error { code, message } => {
                Some(Error { code: *code, message: message.clone(), temporary: false })
            }
        }
    }
}

/// Returns a header's first value.
pub fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(async_nats::HeaderValue::as_str)
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, Unreadable> {
    get(headers, name).map(|text| text.parse().map_err(|_| Unreadable(name))).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line() -> impl Strategy<Value = String> {
        "[!-~]([ -~]{0,20}[!-~])?"
    }

    proptest! {
        #[test]
        fn a_request_survives_the_journey(
            user in proptest::option::of(line()), client in line(), route in line(), method in proptest::option::of(line()),
            channel in proptest::option::of(line()), info in proptest::option::of(line()), channel_info in proptest::option::of(line()), later in any::<bool>(), attempt in any::<u32>(), accepted_at in any::<u64>(), body in any::<Vec<u8>>(),
        ) {
            let id = RequestId::keyed("u", "m", "k");
            let channel = channel.and_then(|name| Channel::parse(&name).ok());
            let request = Request { id, user, client, route, method, channel, info, channel_info, later, attempt, accepted_at, content_type: BYTES.into(), body: body.into() };
            prop_assert_eq!(Request::read(&request.headers(), request.body.clone()), Ok(request));
        }

        #[test]
        fn an_answer_survives_the_journey(user in proptest::option::of(line()), code in 1u32..2000, message in line(), ok in any::<bool>()) {
            let outcome = if ok { Outcome::Ok(Bytes::from_static(b"{}")) } else { Outcome::Error { code, message } };
            let answer = Answer { re: RequestId::keyed("u", "m", "k"), user, digest: Some("d".into()), attempt: 2, worker: "w".into(), outcome };
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
                client: "c".to_owned(),
                route: "r".to_owned(),
                method: method.map(str::to_owned),
                channel: None,
                info: None,
                channel_info: None,
                later,
                attempt: 0,
                accepted_at: 0,
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
