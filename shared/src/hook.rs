//! Decisions asked from a back end: what it is asked, and how its answer is read.
//!
//! Both are JSON, shaped as those of Centrifugo's proxy. Whatever cannot be read allows nothing.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    header,
    protocol::{
        Encoding, Error,
        codes::Disconnect,
        json::{self, raw},
    },
};

/// The longest reason of a disconnect, in bytes; SDKs take no longer ones.
const MAX_REASON_LEN: usize = 32;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client connects without a token.
    Connect,
    /// A connection's time is over.
    Refresh,
    /// A client subscribes.
    Subscribe,
    /// A subscription's time is over.
    SubRefresh,
    /// A client publishes.
    Publish,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 5] =
        [Self::Connect, Self::Refresh, Self::Subscribe, Self::SubRefresh, Self::Publish];

    /// Its name in subjects and metrics.
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

/// What a back end is asked. What does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Question {
    /// The connection's id.
    pub client: String,
    /// What carries the connection.
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
    /// What the client sent with its command, if that is JSON.
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// What it sent, in base64, if that is not JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub b64data: String,
}

impl Question {
    /// A question about a client that speaks `encoding`.
    pub fn new(client: &str, encoding: Encoding) -> Self {
        let (protocol, encoding) = match encoding {
            Encoding::Json => ("json", "json"),
            Encoding::Protobuf => ("protobuf", "binary"),
        };
        Self { client: client.to_owned(), protocol, encoding, ..Self::default() }
    }

    /// The same with what the client sent.
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

    /// The question as it is sent.
    pub fn body(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }
}

/// Who a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// The connection's id.
    pub client: String,
    /// The user; nothing or empty for an anonymous client.
    pub user: Option<String>,
}

/// Reads from a question who it is about.
pub fn subject(question: &[u8]) -> Result<Subject, serde_json::Error> {
    serde_json::from_slice(question)
}

/// The answer that allows what was asked; `result` is JSON, or nothing.
pub fn allowed(result: &Bytes) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Allowed<'a> {
        #[serde(with = "raw")]
        result: &'a Bytes,
    }
    let empty = Bytes::from_static(b"{}");
    let result = if result.is_empty() { &empty } else { result };
    serde_json::to_vec(&Allowed { result }).map(Bytes::from)
}

/// The answer that refuses what was asked.
pub fn refused(code: u32, message: &str) -> Bytes {
    serde_json::json!({"error": {"code": code, "message": message}}).to_string().into()
}

fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
}

/// What a back end decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allowed(Box<Grant>),
    /// It may not: the error the client gets.
    Refused(Error),
    /// The connection ends.
    Disconnect(Disconnect),
}

/// What goes with a permission; each event looks at what concerns it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Who connects; empty for an anonymous client.
    pub user: String,
    /// Until when, in seconds since 1970; 0 for ever.
    pub expire_at: u64,
    /// Whether it is not prolonged.
    pub expired: bool,
    /// What others see of the client.
    #[serde(with = "raw")]
    pub info: Bytes,
    /// What the client is told, or what is published instead of what it sent.
    #[serde(with = "raw")]
    pub data: Bytes,
    /// The same in base64, for what is not JSON.
    pub b64data: String,
    /// The channels a connection begins with.
    pub channels: Vec<String>,
    /// The same, with what is said about each.
    pub subs: BTreeMap<String, Sub>,
    /// What a publication carries beside its payload.
    pub tags: Option<BTreeMap<String, String>>,
}

/// What is said about a channel that a connection begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Sub {
    /// What others see of the client in this channel.
    #[serde(with = "raw")]
    pub info: Bytes,
    /// What the client is told.
    #[serde(with = "raw")]
    pub data: Bytes,
}

impl Grant {
    /// Until when, in seconds since 1970, if not for ever.
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

/// Reads an answer. What is no decision is said in a sentence.
pub fn read(answer: &[u8]) -> Result<Decision, String> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
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
    let subs = grant.subs.values_mut().flat_map(|sub| [&mut sub.info, &mut sub.data]);
    for value in [&mut grant.info, &mut grant.data].into_iter().chain(subs) {
        // Many languages write null for nothing.
        if value.as_ref() == b"null" {
            *value = Bytes::new();
        }
    }
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
    fn a_question_says_what_applies_and_nothing_else() {
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
    fn what_is_no_decision_allows_nothing() {
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
