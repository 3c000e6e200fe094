//! Hooks: the questions that gateways ask a back end, and how its answers are read.
//!
//! Both are JSON in the shape of Centrifugo's proxy protocol. An answer that cannot be read allows nothing.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    header,
    protocol::{
        Encoding, Error,
        codes::Disconnect,
        json::{self, note, raw},
        lenient,
    },
};

/// The maximum length of a disconnect reason in bytes: SDKs accept no longer one.
const MAX_REASON_LEN: usize = 32;

/// The event that a back end decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client connects without a token.
    Connect,
    /// A connection has reached its expiry time.
    Refresh,
    /// A client subscribes.
    Subscribe,
    /// A subscription has reached its expiry time.
    SubRefresh,
    /// A client publishes.
    Publish,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 5] =
        [Self::Connect, Self::Refresh, Self::Subscribe, Self::SubRefresh, Self::Publish];

    /// The event's name in subjects and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refresh => "refresh",
            Self::Subscribe => "subscribe",
            Self::SubRefresh => "sub_refresh",
            Self::Publish => "publish",
        }
    }
}

/// A question to a back end. Fields that do not apply are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Question {
    /// The connection's id.
    pub client: String,
    /// The connection's transport, such as `websocket`.
    pub transport: &'static str,
    /// `json` or `protobuf`.
    pub protocol: &'static str,
    /// `json` or `binary`.
    pub encoding: &'static str,
    /// The user; empty for an anonymous client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The SDK's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The SDK's version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The channel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub channel: String,
    /// The data of the client's command, if it is JSON.
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The data of the client's command in base64, if it is not JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub b64data: String,
}

impl Question {
    /// Creates a question about a client that uses `encoding`.
    pub fn new(client: &str, encoding: Encoding) -> Self {
        let (protocol, encoding) = match encoding {
            Encoding::Json => ("json", "json"),
            Encoding::Protobuf => ("protobuf", "binary"),
        };
        Self { client: client.to_owned(), protocol, encoding, ..Self::default() }
    }

    /// Adds the data of the client's command.
    #[must_use]
    pub fn with_data(mut self, data: &Bytes) -> Self {
        if !data.is_empty() {
            match json::Payload::from_any(data) {
                json::Payload::Json(value) if is_json(data) => self.data = value,
                json::Payload::Json(_) | json::Payload::Base64(_) => self.b64data = BASE64.encode(data),
            }
        }
        self
    }

    /// Encodes the question as a message body.
    pub fn body(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }
}

/// The client that a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// The connection's id.
    pub client: String,
    /// The user; absent or empty for an anonymous client.
    pub user: Option<String>,
}

/// Reads the client that a question is about.
pub fn subject(question: &[u8]) -> Result<Subject, serde_json::Error> {
    lenient::from_slice(question)
}

/// Encodes an answer that refuses the request.
pub fn refused(code: u32, message: &str) -> Bytes {
    serde_json::json!({"error": {"code": code, "message": message}}).to_string().into()
}

fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
}

/// A back end's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The client's request is allowed.
    Allowed(Box<Grant>),
    /// The client's request is refused with this error.
    Refused(Error),
    /// The gateway closes the connection.
    Disconnect(Disconnect),
}

/// The details of a permission. Each event uses the fields that apply to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// The user that connects; empty for an anonymous client.
    pub user: String,
    /// The expiry time in seconds since 1970; 0 means that the permission does not expire.
    pub expire_at: u64,
    /// Whether the connection or subscription ends now instead of being prolonged.
    pub expired: bool,
    /// Information about the client that other clients see.
    #[serde(with = "note")]
    pub info: Bytes,
    /// Data for the client, or the payload that replaces the one the client published.
    #[serde(with = "note")]
    pub data: Bytes,
    /// The same as `data`, in base64, for data that is not JSON.
    pub b64data: String,
    /// The channels that the gateway subscribes a new connection to.
    pub channels: Vec<String>,
    /// The same as `channels`, with details for each channel.
    pub subs: BTreeMap<String, Sub>,
    /// The tags of the publication.
    pub tags: Option<BTreeMap<String, String>>,
}

/// The details of a channel that the gateway subscribes a new connection to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Sub {
    /// Information about the client that others see in this channel.
    #[serde(with = "note")]
    pub info: Bytes,
    /// Data for the client.
    #[serde(with = "note")]
    pub data: Bytes,
}

impl Grant {
    /// The expiry time in seconds since 1970, or `None` if the permission does not expire.
    pub fn ends(&self) -> Option<u64> {
        (self.expire_at > 0).then_some(self.expire_at)
    }
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Grant>,
    error: Option<Refusal>,
    disconnect: Option<Ending>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct Ending {
    code: u16,
    #[serde(default)]
    reason: String,
}

/// Reads a back end's answer. The error explains why the answer is not a decision.
pub fn read(answer: &[u8]) -> Result<Decision, String> {
    let answer: Answer = lenient::from_slice(answer).map_err(|error| error.to_string())?;
    if let Some(Ending { code, reason }) = answer.disconnect {
        if !(4000..=4999).contains(&code) {
            return Err(format!("disconnect code {code} is not between 4000 and 4999"));
        }
        let end = (0..=MAX_REASON_LEN).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
        let reason = reason.get(..end).unwrap_or(&reason).to_owned();
        return Ok(Decision::Disconnect(Disconnect { code, reason: Cow::Owned(reason) }));
    }
    if let Some(Refusal { code, message, temporary }) = answer.error {
        if !(400..=1999).contains(&code) {
            return Err(format!("error code {code} is not between 400 and 1999"));
        }
        return Ok(Decision::Refused(Error { code, message, temporary }));
    }
    let mut grant = answer.result.ok_or("neither result, error nor disconnect")?;
    if !grant.b64data.is_empty() {
        let data = BASE64.decode(grant.b64data.as_bytes()).map_err(|error| format!("b64data: {error}"))?;
        grant.data = data.into();
    }
    for tag in grant.tags.iter().flat_map(BTreeMap::keys) {
        header::tag(tag).map_err(|bad| bad.to_string())?;
    }
    Ok(Decision::Allowed(Box::new(grant)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_has_only_the_fields_that_apply() {
        let body = |question: Question| String::from_utf8(question.body().unwrap().to_vec()).unwrap();
        let question = Question { transport: "websocket", ..Question::new("g.1", Encoding::Json) };
        let plain = r#"{"client":"g.1","transport":"websocket","protocol":"json","encoding":"json"}"#;
        assert_eq!(body(question.clone()), plain);
        let question = Question {
            user: Some("42".into()),
            channel: "chat:x".into(),
            ..question.with_data(&"{ }".into())
        };
        assert!(body(question).ends_with(r#","user":"42","channel":"chat:x","data":{ }}"#));
        let binary = Question::new("g.1", Encoding::Protobuf).with_data(&Bytes::from_static(&[0xff, 0]));
        assert!(body(binary).contains(r#""encoding":"binary","b64data":"/wA=""#));
        let text = Question::new("g.1", Encoding::Protobuf).with_data(&"hello".into());
        assert!(body(text).ends_with(r#""b64data":"aGVsbG8="}"#));
    }

    #[test]
    fn a_decision_is_a_result_an_error_or_a_disconnect() {
        let Ok(Decision::Allowed(grant)) = read(br#"{"result":{}}"#) else { panic!("it is allowed") };
        assert_eq!(*grant, Grant::default());
        let answer =
            br#"{"result":{"user":"42","expire_at":7,"info":{"n":1},"data":null,"tags":{"a":"b"},"meta":1}}"#;
        let Ok(Decision::Allowed(grant)) = read(answer) else { panic!("it is allowed") };
        assert_eq!((grant.user.as_str(), grant.ends(), &grant.info[..]), ("42", Some(7), &b"{\"n\":1}"[..]));
        assert!(grant.data.is_empty() && grant.tags.is_some());
        let Ok(Decision::Allowed(grant)) = read(br#"{"result":{"b64data":"/wA="}}"#) else {
            panic!("allowed")
        };
        assert_eq!(&grant.data[..], [0xff, 0]);
        let error = Error { code: 1403, message: "no".into(), temporary: true };
        let answer = br#"{"result":{},"error":{"code":1403,"message":"no","temporary":true}}"#;
        assert_eq!(read(answer), Ok(Decision::Refused(error)), "a refusal wins");
        let Ok(Decision::Disconnect(end)) = read(br#"{"disconnect":{"code":4501,"reason":"go away"}}"#)
        else {
            panic!("it ends")
        };
        assert_eq!((end.code, &*end.reason), (4501, "go away"));
        let long = format!(r#"{{"disconnect":{{"code":4000,"reason":"{}"}}}}"#, "\u{fc}".repeat(40));
        let Ok(Decision::Disconnect(end)) = read(long.as_bytes()) else { panic!("it ends") };
        assert_eq!(end.reason.len(), 32);
    }

    #[test]
    fn an_invalid_answer_allows_nothing() {
        for (answer, why) in [
            ("", "EOF"),
            ("{}", "neither"),
            (r#"{"result":null}"#, "neither"),
            ("true", "expected"),
            (r#"{"result":{"user":42}}"#, "string"),
            (r#"{"result":{"expire_at":-1}}"#, "-1"),
            (r#"{"result":{"b64data":"?"}}"#, "b64data"),
            (r#"{"result":{"tags":{"a b":"c"}}}"#, "a b"),
            (r#"{"error":{"code":103}}"#, "400"),
            (r#"{"error":{"code":2000}}"#, "1999"),
            (r#"{"disconnect":{"code":3500}}"#, "4000"),
            (r#"{"disconnect":{"code":5000}}"#, "4999"),
        ] {
            let refusal = read(answer.as_bytes()).unwrap_err();
            assert!(refusal.contains(why), "{answer}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_bytes_that_are_not_json_allow_nothing(answer in any::<Vec<u8>>()) {
            if serde_json::from_slice::<serde_json::Value>(&answer).is_err() {
                prop_assert!(read(&answer).is_err());
            } else {
                let _ = read(&answer);
            }
        }
    }
}
