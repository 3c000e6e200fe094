//! Dead letters that fit: the failed message itself is kept whole, and what is said about it is cut first.

use std::{ops::Range, time::SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{FIRST, Reason, SECOND, copied};
use crate::{
    broker::{HEADERS_LIMIT, headers_len},
    envelope::JSON,
    header,
    id::RequestId,
    moment,
};

/// The fewest bytes of the error that a dead letter has. Before less is left, headers that can be done without are left out.
const LEAST_ERROR: usize = 16;
/// As long as the longest sequence.
const ANY_SEQUENCE: &str = "00000000000000000000";

/// A failed message, and what its dead letter says about it.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The message's own headers, without those of the broker.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The dead letter's id: see [`letter_id`].
    pub id: String,
    /// Attempts that were begun. `None` for a message that is not a request.
    pub attempts: Option<u32>,
    /// Why it failed.
    pub reason: Reason,
    /// The last error, in any length.
    pub error: String,
    /// The subject it was delivered on; empty if nobody knows it.
    pub subject: String,
    /// Its sequence in the stream it was delivered from.
    pub stream_seq: Option<u64>,
    /// When it was first accepted, unless its headers say so.
    pub first_seen: Option<SystemTime>,
    /// When it failed for good.
    pub last_seen: SystemTime,
}

/// The id of a dead letter, by which the broker knows a repetition. Every copy of a request has another `place`: a request that
/// was redriven, or whose key was used anew, may fail again while the broker still remembers its first letter.
pub fn letter_id(id: &RequestId, place: &str) -> String {
    format!("{id}.dead.{place}")
}

/// The messages of a dead letter.
#[derive(Debug, Clone)]
pub struct LetterParts {
    rest: Option<(HeaderMap, Bytes)>,
    head: (HeaderMap, Bytes),
}

impl LetterParts {
    /// The second part, which is stored first. Only a message that is about as long as the broker takes needs two.
    pub fn rest(&self) -> Option<(HeaderMap, Bytes)> {
        self.rest.clone()
    }

    /// The letter. `rest` is the sequence of the second part.
    pub fn head(self, rest: Option<u64>) -> (HeaderMap, Bytes) {
        let (mut headers, body) = self.head;
        if let Some(rest) = rest {
            headers.insert(header::DEAD_REST, rest.to_string());
        }
        (headers, body)
    }
}

/// What a dead letter says. Each step leaves out more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    Nothing,
    /// Where and when it failed.
    Circumstances,
    /// What is known from the rest of the request, and when the request was accepted.
    Known,
    /// Everything that is no part of a request's identity.
    Rest,
}

impl Failed {
    /// Makes the dead letter.
    pub fn letter(&self, max_payload: usize) -> LetterParts {
        for left_out in [LeftOut::Nothing, LeftOut::Circumstances, LeftOut::Known, LeftOut::Rest] {
            let headers = self.headers(left_out);
            if let Some(room) = self.room(&headers, max_payload) {
                return LetterParts { rest: None, head: (self.with_error(headers, room), self.body.clone()) };
            }
        }
        self.in_two_parts(max_payload)
    }

    fn in_two_parts(&self, max_payload: usize) -> LetterParts {
        let mut first = self.headers(LeftOut::Rest);
        first.insert(header::DEAD_PART, FIRST);
        first.insert(header::DEAD_REST, ANY_SEQUENCE);
        let first = self.with_error(first, header::MAX_TEXT);
        let mut second = HeaderMap::new();
        second.insert(header::MSG_ID, format!("{}.2", self.id));
        second.insert(header::DEAD_PART, SECOND);
        if let Some(id) = self.headers.get(header::ID) {
            second.insert(header::ID, id.clone());
        }
        let middle = max_payload.saturating_sub(headers_len(&first)).min(self.body.len());
        let part = |range: Range<usize>| self.body.slice(range);
        let rest = (second, part(middle..self.body.len()));
        LetterParts { rest: Some(rest), head: (first, part(0..middle)) }
    }

    /// The headers without the error.
    fn headers(&self, left_out: LeftOut) -> HeaderMap {
        let kept = self.headers.iter().filter(|(name, values)| {
            let name: &str = name.as_ref();
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let json = is(header::CONTENT_TYPE) && values.iter().all(|value| value.as_str() == JSON);
            match left_out {
                _ if OVER.iter().any(|over| is(over)) => false,
                LeftOut::Nothing | LeftOut::Circumstances => true,
                LeftOut::Known => !json && !KNOWN.iter().any(|known| is(known)),
                LeftOut::Rest => !json && (IDENTITY.iter().any(|part| is(part)) || is(header::CONTENT_TYPE)),
            }
        });
        let mut headers = copied(kept);
        headers.insert(header::MSG_ID, self.id.as_str());
        headers.insert(header::DEAD_REASON, self.reason.as_str());
        if let Some(attempts) = self.attempts {
            headers.insert(header::DEAD_ATTEMPTS, attempts.to_string());
        }
        if left_out < LeftOut::Circumstances {
            self.add_circumstances(&mut headers);
        }
        headers
    }

    fn add_circumstances(&self, headers: &mut HeaderMap) {
        // A subject of a foreign program may have characters that no header carries.
        if !self.subject.is_empty() {
            headers.insert(header::DEAD_SUBJECT, header::one_line(&self.subject));
        }
        if let Some(seq) = self.stream_seq {
            headers.insert(header::DEAD_STREAM_SEQ, seq.to_string());
        }
        if let Some(first) = self.first_seen.filter(|_| self.headers.get(header::DEAD_FIRST_SEEN).is_none()) {
            headers.insert(header::DEAD_FIRST_SEEN, moment::text(first));
        }
        headers.insert(header::DEAD_LAST_SEEN, moment::text(self.last_seen));
    }

    /// How many bytes of the error fit. `None` when they are too few.
    fn room(&self, headers: &HeaderMap, max_payload: usize) -> Option<usize> {
        let taken = headers_len(headers) + header::DEAD_ERROR.len() + ": \r\n".len();
        let whole = taken.checked_add(self.body.len())?;
        let room = HEADERS_LIMIT.checked_sub(taken)?.min(max_payload.checked_sub(whole)?);
        (room >= self.error.trim().len().min(LEAST_ERROR)).then_some(room.min(header::MAX_TEXT))
    }

    fn with_error(&self, mut headers: HeaderMap, room: usize) -> HeaderMap {
        headers.insert(header::DEAD_ERROR, header::text_within(&self.error, room));
        headers
    }
}

/// What concerns deliveries that are over, and what only a letter says of itself: a foreign message may come with it.
const OVER: [&str; 12] = [
    header::ATTEMPT,
    header::SUSPECT,
    header::STORED_AT,
    header::REDRIVEN,
    header::DEAD_REASON,
    header::DEAD_ERROR,
    header::DEAD_ATTEMPTS,
    header::DEAD_SUBJECT,
    header::DEAD_STREAM_SEQ,
    header::DEAD_LAST_SEEN,
    header::DEAD_PART,
    header::DEAD_REST,
];
/// The key and the digest follow from the user and the body.
const KNOWN: [&str; 3] = [header::KEY, header::DIGEST, header::ACCEPTED_AT];
/// Without these a dead letter cannot become a request again.
const IDENTITY: [&str; 8] = [
    header::ID,
    header::USER,
    header::CLIENT,
    header::ROUTE,
    header::METHOD,
    header::CHANNEL,
    header::LATER,
    header::DEAD_REDRIVES,
];
