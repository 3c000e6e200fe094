//! Dead letters: messages that failed for good, with what is known about their end.
//!
//! Pure: `write` makes a letter's messages so that they fit, this file reads them, `redrive` decides what makes a letter a
//! request again. A letter is named by the sequence of its message in `TIDE_DEAD`.

mod redrive;
mod write;

use std::time::SystemTime;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;

pub use self::{
    redrive::{Answered, Copy, Found, NoRequest, Redriven, Step, is_death_before, step},
    write::{Failed, LetterParts, letter_id},
};
use crate::{
    broker::{broker_header, header_number, stored_at},
    envelope::get,
    header,
    id::RequestId,
    subject::Subjects,
    token::Token,
};

/// Why a message failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Every attempt failed; the error is the last one's.
    Attempts,
    /// The last attempt took longer than the route's `timeout`.
    Timeout,
    /// The last attempt panicked.
    Panic,
    /// The worker ended during every attempt.
    Crashed,
    /// The handler gave the request up.
    Rejected,
    /// What the handler made cannot be stored: the answer, a publication, or the next attempt.
    Unstorable,
    /// It waited longer than the route's `max_age`.
    TooOld,
    /// It is not a request.
    Unreadable,
    /// A worker in another language terminated the message.
    Terminated,
    /// It was delivered as often as an operator allows its consumer.
    MaxDeliver,
    /// None of these: a letter of an earlier version, or of a worker that gives no class.
    Other,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::Attempts,
        Self::Timeout,
        Self::Panic,
        Self::Crashed,
        Self::Rejected,
        Self::Unstorable,
        Self::TooOld,
        Self::Unreadable,
        Self::Terminated,
        Self::MaxDeliver,
        Self::Other,
    ];

    /// The word for it in headers, metrics and the server API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Crashed => "crashed",
            Self::Rejected => "rejected",
            Self::Unstorable => "unstorable",
            Self::TooOld => "too_old",
            Self::Unreadable => "unreadable",
            Self::Terminated => "terminated",
            Self::MaxDeliver => "max_deliver",
            Self::Other => "other",
        }
    }

    /// The reason with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// A dead letter, read from its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its sequence in `TIDE_DEAD`, which names it.
    pub number: u64,
    /// The service whose worker stored it.
    pub service: String,
    /// The route.
    pub route: String,
    /// The id of the request. `None` for a message that is not a request.
    pub id: Option<RequestId>,
    /// Why it failed.
    pub reason: Reason,
    /// The last error, or what else was said about its end.
    pub error: String,
    /// The attempts that were begun.
    pub attempts: Option<u32>,
    /// The subject it was delivered on.
    pub subject: Option<String>,
    /// Its sequence in the stream that it was delivered from.
    pub stream_seq: Option<u64>,
    /// When the request was accepted for the first time.
    pub first_seen: Option<SystemTime>,
    /// When it failed for good.
    pub last_seen: Option<SystemTime>,
    /// When the broker stored the letter.
    pub stored: Option<SystemTime>,
    /// How often the request was redriven before.
    pub redrives: u32,
    /// Where the rest of the body is, if the letter has two parts.
    pub rest: Rest,
    /// The headers of the failed message, unknown ones included.
    pub headers: HeaderMap,
    /// The body of the failed message, or the beginning of it.
    pub body: Bytes,
}

/// Where the rest of a letter's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// There is none: the letter has one part.
    Nothing,
    /// In the message with this sequence.
    At(u64),
    /// In a message before it; a letter of an earlier version does not say in which.
    Somewhere,
}

/// Headers that say something about the letter, or about deliveries that are over.
const NOT_THE_REQUESTS: [&str; 15] = [
    header::DEAD_REASON,
    header::DEAD_ERROR,
    header::DEAD_ATTEMPTS,
    header::DEAD_SUBJECT,
    header::DEAD_STREAM_SEQ,
    header::DEAD_FIRST_SEEN,
    header::DEAD_LAST_SEEN,
    header::DEAD_REDRIVES,
    header::DEAD_PART,
    header::DEAD_REST,
    header::REDRIVEN,
    header::SUSPECT,
    header::SNOOZES,
    header::QUEUED_AGAIN,
    header::STORED_AT,
];

impl Letter {
    /// Reads a message of `TIDE_DEAD` as the broker returns it. `None` for the second part of a letter.
    pub fn read(message: &Message) -> Option<Self> {
        let empty = HeaderMap::new();
        let headers = message.headers.as_ref().unwrap_or(&empty);
        let part = get(headers, header::DEAD_PART);
        if part == Some(SECOND) {
            return None;
        }
        let number_of = |name: &'static str| get(headers, name)?.parse().ok();
        let (reason, error) = match (get(headers, header::DEAD_REASON), get(headers, header::DEAD_ERROR)) {
            (reason, Some(error)) => (reason.and_then(Reason::parse), error),
            (said, None) => (None, said.unwrap_or_default()),
        };
        let (service, route) = names(broker_header(message, header::SUBJECT).unwrap_or_default());
        let stored = stored_at(message);
        let rest = match (part, number_of(header::DEAD_REST)) {
            (None, _) => Rest::Nothing,
            (Some(_), Some(rest)) => Rest::At(rest),
            (Some(_), None) => Rest::Somewhere,
        };
        Some(Self {
            number: header_number(message, header::SEQUENCE)?,
            service,
            route,
            id: get(headers, header::ID).and_then(RequestId::parse),
            reason: reason.unwrap_or(Reason::Other),
            error: error.to_owned(),
            attempts: attempts(headers),
            subject: get(headers, header::DEAD_SUBJECT).map(str::to_owned),
            stream_seq: number_of(header::DEAD_STREAM_SEQ),
            first_seen: time(headers, header::DEAD_FIRST_SEEN),
            last_seen: time(headers, header::DEAD_LAST_SEEN).or(stored),
            stored,
            redrives: get(headers, header::DEAD_REDRIVES).and_then(|text| text.parse().ok()).unwrap_or(0),
            rest,
            headers: of_the_request(headers),
            body: message.payload.clone(),
        })
    }

    /// A header of the failed message.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        get(&self.headers, name)
    }
}

/// The second part of a letter.
const SECOND: &str = "2/2";
/// The first part, which has the headers and the beginning of the body.
const FIRST: &str = "1/2";

/// The service and the route in a letter's subject.
fn names(subject: &str) -> (String, String) {
    let mut words = subject.rsplit('.').map(|word| Token::decode(word).unwrap_or_else(|| word.to_owned()));
    let route = words.next().unwrap_or_default();
    (words.next().unwrap_or_default(), route)
}

/// Earlier versions wrote the attempts where requests have those that failed.
fn attempts(headers: &HeaderMap) -> Option<u32> {
    let text = get(headers, header::DEAD_ATTEMPTS).or_else(|| {
        let old = get(headers, header::DEAD_ERROR).is_none();
        old.then(|| get(headers, header::ATTEMPT)).flatten()
    });
    text?.parse().ok()
}

fn time(headers: &HeaderMap, name: &'static str) -> Option<SystemTime> {
    humantime::parse_rfc3339(get(headers, name)?).ok()
}

fn of_the_request(headers: &HeaderMap) -> HeaderMap {
    let own = headers.iter().filter(|(name, _)| {
        let name: &str = name.as_ref();
        let of_broker = name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("nats-"));
        !of_broker && !NOT_THE_REQUESTS.iter().any(|other| name.eq_ignore_ascii_case(other))
    });
    copied(own)
}

/// Copies headers with all their values: collecting them would keep the last value of each, and readers take the first.
fn copied<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a [HeaderValue])>) -> HeaderMap {
    let mut copy = HeaderMap::new();
    for (name, values) in headers {
        for value in values {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}

/// The subjects of the letters of one route, of every service; of all routes without one.
pub fn subjects_of(subjects: &Subjects, route: Option<&str>) -> String {
    route.map_or_else(|| subjects.all_dead(), |route| subjects.dead_of(route))
}

#[cfg(test)]
mod tests;
