//! A worker's answer, as headers and a body.

use std::collections::BTreeMap;

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Request, Unreadable, get};
use crate::{
    header,
    id::RequestId,
    protocol::{Error, codes},
    trace::Trace,
};

/// A worker's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request it answers.
    pub re: RequestId,
    /// The user of the request, or `None`.
    pub user: Option<String>,
    /// The digest of a keyed request's body, copied from the request.
    pub digest: Option<String>,
    /// The attempt that produced it, counted from 0.
    pub attempt: u32,
    /// The worker that produced it.
    pub worker: String,
    /// On the error of a request that failed for good: the sequence of its dead letter.
    pub letter: Option<u64>,
    /// The dead letter that the request was redriven from.
    pub redriven: Option<u64>,
    /// The request's trace.
    pub trace: Option<Trace>,
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
        /// What the application adds to its error, as JSON; empty for nothing.
        data: Bytes,
    },
}

impl Answer {
    /// Creates the answer of `worker` to a request, produced by attempt number `attempt`.
    pub fn to(request: &Request, attempt: u32, worker: &str, outcome: Outcome) -> Self {
        Self {
            re: request.id.clone(),
            user: request.user.clone(),
            digest: request.id.is_keyed().then(|| crate::id::body_digest(&request.body)),
            attempt,
            worker: worker.to_owned(),
            letter: None,
            redriven: None,
            trace: request.trace.clone(),
            outcome,
        }
    }

    /// Whether it is the error of a request that failed for good, and does not name the dead letter.
    pub fn is_unnamed_death(&self) -> bool {
        let dead = matches!(&self.outcome, Outcome::Error { code, .. } if *code == codes::DEAD_LETTER.code);
        dead && self.letter.is_none()
    }

    /// Encodes the answer as message headers. There is no id for deduplication: the subject of a stored answer takes one
    /// message, and an id would outlive it.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.each_header(|name, value| headers.insert(HeaderName::from_static(name), value));
        headers
    }

    /// The names and values of those headers.
    pub(super) fn each_header(&self, mut header: impl FnMut(&'static str, &str)) {
        header(header::RE, self.re.as_str());
        header(header::ATTEMPT, &self.attempt.to_string());
        header(header::WORKER, &header::text(&self.worker));
        if let Some(user) = &self.user {
            header(header::USER, user);
        }
        if let Some(digest) = &self.digest {
            header(header::DIGEST, digest);
        }
        for (name, number) in [(header::DEAD_LETTER, self.letter), (header::REDRIVEN, self.redriven)] {
            if let Some(number) = number {
                header(name, &number.to_string());
            }
        }
        if let Some(trace) = &self.trace {
            header(header::TRACE_PARENT, &trace.parent());
            if let Some(state) = trace.state() {
                header(header::TRACE_STATE, state);
            }
        }
        match &self.outcome {
            Outcome::Ok(_) => header(header::STATUS, "ok"),
            Outcome::Error { code, message, .. } => {
                header(header::STATUS, "error");
                header(header::CODE, &code.to_string());
                header(header::MESSAGE, &header::text(message));
            }
        }
    }

    /// Returns the message body of the answer: the result, or the data of an error.
    pub fn body(&self) -> Bytes {
        let (Outcome::Ok(body) | Outcome::Error { data: body, .. }) = &self.outcome;
        body.clone()
    }

    /// Decodes an answer that the broker delivered.
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Unreadable> {
        Self::read_from(|name| get(headers, name), body)
    }

    /// As [`Self::read`], from headers by their names.
    pub(super) fn read_from<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
        body: Bytes,
    ) -> Result<Self, Unreadable> {
        let outcome = match get(header::STATUS) {
            Some("ok") => Outcome::Ok(body),
            Some("error") => Outcome::Error {
                // A worker in any language wrote it. An odd code must not cost the client its answer.
                code: get(header::CODE)
                    .and_then(|code| code.trim().parse().ok())
                    .filter(|code| *code > 0)
                    .unwrap_or(codes::INTERNAL.code),
                message: get(header::MESSAGE).filter(|m| !m.is_empty()).unwrap_or("error").to_owned(),
                data: json_or_nothing(body),
            },
            _ => return Err(Unreadable(header::STATUS)),
        };
        Ok(Self {
            re: get(header::RE).and_then(RequestId::parse).ok_or(Unreadable(header::RE))?,
            user: get(header::USER).map(str::to_owned),
            digest: get(header::DIGEST).map(str::to_owned),
            attempt: get(header::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0),
            worker: get(header::WORKER).unwrap_or_default().to_owned(),
            letter: get(header::DEAD_LETTER).and_then(|letter| letter.parse().ok()),
            redriven: get(header::REDRIVEN).and_then(|letter| letter.parse().ok()),
            trace: get(header::TRACE_PARENT)
                .and_then(|parent| Trace::parse(parent, get(header::TRACE_STATE))),
            outcome,
        })
    }

    /// The headers of the publication of this answer on the user's personal channel. The broker keeps one, even if several
    /// processes publish it, and another one of each redrive.
    pub fn later_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let id = match self.redriven {
            None => format!("{}.l", self.re),
            Some(letter) => format!("{}.l.d{letter}", self.re),
        };
        headers.insert(header::MSG_ID, id);
        if let Some(trace) = &self.trace {
            trace.write(&mut headers);
        }
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

    /// The payload of that publication: the answer, or `{"code", "message"}` of an error, with its `data` if it has any.
    pub fn later_body(&self) -> Bytes {
        match &self.outcome {
            Outcome::Ok(body) => body.clone(),
            Outcome::Error { code, message, data } => {
                let data = serde_json::from_slice(data).ok();
                let error = LaterError { code: *code, message, data };
                serde_json::to_vec(&error).unwrap_or_default().into()
            }
        }
    }

    /// Returns the error for the client, or `None` if the request succeeded.
    pub fn error(&self) -> Option<Error> {
        match &self.outcome {
            Outcome::Ok(_) => None,
            Outcome::Error { code, message, .. } => {
                Some(Error { code: *code, message: message.clone(), temporary: false })
            }
        }
    }
}

/// An error on the personal channel.
#[derive(Serialize)]
struct LaterError<'a> {
    code: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// The data of an error. A worker in any language wrote it: what is not JSON is left out.
fn json_or_nothing(body: Bytes) -> Bytes {
    if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() { body } else { Bytes::new() }
}
