//! What others store in the broker: requests, answers, publications, dead letters, schedules, and what the broker itself says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;
use serde_json::value::RawValue;
use tidegate_shared::{
    advisory::Advisory,
    confirmation::Confirmation,
    dead::{Failed, Letter, Reason, Rest},
    envelope::{Answer, Request, Together, get},
    header,
    protocol::{Encoding, Reply, encode_reply},
    schedule::{Firing, FiringOutcome, Record, Schedule, When},
    subject::Subjects,
    trace::Trace,
};

use super::cut;
use crate::{channels::message::read_publication, outbox::order::Order};

/// The most that a broker takes in one message.
const MAX_PAYLOAD: usize = 64 * 1024;

/// A message of lines `name: value`, an empty line, and a body, as far as a client of the broker can send it.
fn message(input: &[u8]) -> (HeaderMap, Bytes) {
    let (head, body) = cut(input, b"\n\n").unwrap_or((input, b""));
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    (headers, Bytes::copy_from_slice(body))
}

fn of_broker(headers: HeaderMap, payload: Bytes) -> Message {
    let (subject, length) = ("tide.live.chat.x".into(), payload.len());
    Message { subject, reply: None, payload, headers: Some(headers), status: None, description: None, length }
}

/// A request is read as it was written, and its dead letter fits and becomes the same request again.
pub(super) fn request(input: &[u8]) {
    let (headers, body) = message(input);
    if let Some(trace) = Trace::read(&headers) {
        assert_eq!(Trace::parse(&trace.parent(), trace.state()).map(|again| again.id()), Some(trace.id()));
    }
    let Ok(request) = Request::read(&headers, body.clone()) else { return };
    let again = Request::read(&request.headers(), body.clone()).expect("what was written is read");
    assert_eq!((&again.id, &again.body, again.attempt), (&request.id, &request.body, request.attempt));
    assert_eq!(Request::read(&again.headers(), body.clone()).as_ref(), Ok(&again));
    let subjects = Subjects::new("tide");
    let address = subjects.request(&request.address());
    assert!(address.split('.').all(|token| !token.is_empty() && token != "*" && token != ">"), "{address}");
    let failed = Failed {
        id: tidegate_shared::dead::letter_id(&request.id, "i1"),
        headers,
        body,
        attempts: Some(request.attempt),
        reason: Reason::Attempts,
        error: String::from_utf8_lossy(input).into_owned(),
        subject: address,
        stream_seq: Some(1),
        first_seen: request.accepted(),
        last_seen: UNIX_EPOCH,
    };
    let parts = failed.letter(MAX_PAYLOAD);
    let rest = parts.rest();
    let (mut headers, body) = parts.head(rest.as_ref().map(|_| 2));
    assert!(body.len() <= MAX_PAYLOAD);
    headers.insert(header::SEQUENCE, "1");
    let letter = Letter::read(&of_broker(headers, body)).expect("a letter is read");
    assert_eq!(letter.rest == Rest::Nothing, rest.is_none());
    assert_eq!(letter.id.as_ref(), Some(&request.id));
}

/// An answer is read as it was written, and every client can be told it.
pub(super) fn answer(input: &[u8]) {
    let _ = (Advisory::read(input), Confirmation::read(input), Together::read(input));
    if let Some(advisory) = Advisory::read(input) {
        assert!(!advisory.error().is_empty() && !advisory.place().is_empty());
    }
    if let Ok(order) = serde_json::from_slice::<Order>(input) {
        let text = serde_json::to_vec(&order).expect("an order is JSON");
        assert_eq!(serde_json::from_slice::<Order>(&text).expect("it is read again"), order);
    }
    let (headers, body) = message(input);
    let Ok(answer) = Answer::read(&headers, body) else { return };
    let again = Answer::read(&answer.headers(), answer.body()).expect("what was written is read");
    assert_eq!((&again.re, again.attempt), (&answer.re, answer.attempt));
    assert_eq!(Answer::read(&again.headers(), again.body()).as_ref(), Ok(&again));
    let _ = (answer.later_headers(), answer.later_tags(), answer.is_unnamed_death());
    if let Some(error) = answer.error() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            encode_reply(encoding, &Reply::error(1, error.clone())).expect("an error is told");
        }
    }
}

/// Every message of a channel reaches clients of both encodings.
pub(super) fn publication(input: &[u8]) {
    let (headers, body) = message(input);
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let publication = read_publication(&of_broker(headers.clone(), body.clone()));
        let reply = Reply::publication("chat:x", publication.suited_to(encoding));
        let frame = encode_reply(encoding, &reply).expect("every publication can be told");
        if encoding == Encoding::Json {
            assert!(!frame.contains(&b'\n'), "a newline would end the document");
            serde_json::from_slice::<&RawValue>(&frame).expect("it is JSON");
        }
    }
}

/// A dead letter is read, and becomes a request again or says why not.
pub(super) fn dead_letter(input: &[u8]) {
    let (mut headers, body) = message(input);
    headers.insert(header::SEQUENCE, "7");
    let Some(letter) = Letter::read(&of_broker(headers, body.clone())) else { return };
    assert_eq!(letter.number, 7);
    let own = |name: &str| name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("nats-"));
    assert!(
        letter.headers.iter().all(|(name, _)| !own(name.as_ref())),
        "what belongs to the broker is left out"
    );
    let subjects = Subjects::new("tide");
    let now = UNIX_EPOCH + Duration::from_hours(500_000);
    let Ok(redriven) = letter.redriven(body, &subjects, now) else { return };
    assert_eq!(redriven.request.attempt, 0);
    assert_eq!(redriven.subject, subjects.park(&redriven.request.id));
    let target = get(&redriven.headers, header::SCHEDULE_TARGET).expect("it is due somewhere");
    assert!(target.starts_with("tide.due."), "{target}");
}

/// Schedules, their firings and their records, and cron lines: lines of a message, or one line alone.
pub(super) fn schedule(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut words = text.splitn(2, '\n');
    let (line, zone) = (words.next().unwrap_or_default(), words.next());
    for when in [When::cron(line, zone), When::cron(line, None), When::every(line)].into_iter().flatten() {
        follows(&when);
        let _ = When::shown_line(line);
    }
    let (headers, body) = message(input);
    let at = UNIX_EPOCH + Duration::from_hours(500_000);
    let record = serde_json::from_slice::<Record>(&body).ok();
    if let Ok(schedule) = Schedule::read(&headers, body.clone()) {
        follows(&schedule.when);
        let subjects = Subjects::new("tide");
        let again = Schedule::read(&schedule.headers(&subjects), schedule.body()).expect("it is read again");
        let twice = Schedule::read(&again.headers(&subjects), again.body()).expect("it is read again");
        assert!(twice.is_same(&again) && twice.version == again.version);
        let missed = Firing::read(&schedule.missed(1), schedule.body(), 1, at).expect("a firing is read");
        assert_eq!(missed.name, schedule.name);
    }
    let Ok(firing) = Firing::read(&headers, body, 1, at) else { return };
    let next = firing.record(FiringOutcome::Stored, None, record.as_ref());
    assert!(next.is_settled() && next.has_stored(firing.id.as_str()));
    if let Some(record) = record {
        let _ = (firing.is_early(&record), firing.recorded(&record));
    }
}

/// The next time is not before the last, for whatever time that was.
fn follows(when: &When) {
    for fired in [0, 951_782_400, 1_800_000_000, 253_402_300_799] {
        let fired: SystemTime = UNIX_EPOCH + Duration::from_secs(fired);
        if let Some(next) = when.following(fired) {
            assert!(when.is_once() || next >= fired, "{when:?} after {fired:?}: {next:?}");
        }
    }
}
