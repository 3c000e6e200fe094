use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::{
    broker::{HEADERS_LIMIT, headers_len},
    envelope::{Answer, AnswerWay, Outcome, Request},
    protocol::codes,
};

fn subjects() -> Subjects {
    Subjects::new("tide")
}

pub(super) fn request() -> Request {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::ID, "k.1"),
        (header::CLIENT, "gw.c"),
        (header::USER, "42"),
        (header::ROUTE, "orders"),
        (header::METHOD, "orders.place"),
        (header::ATTEMPT, "2"),
        (header::ACCEPTED_AT, "1000"),
    ] {
        headers.insert(name, value);
    }
    Request::read(&headers, Bytes::from_static(b"{}")).unwrap()
}

pub(super) fn failed(headers: HeaderMap, body: Bytes) -> Failed {
    Failed {
        headers,
        body,
        id: "k.1.dead.i1".to_owned(),
        attempts: Some(3),
        reason: Reason::Attempts,
        error: "no luck".to_owned(),
        subject: "tide.in.rpc.orders.place.7.k.1".to_owned(),
        stream_seq: Some(17),
        first_seen: Some(UNIX_EPOCH + Duration::from_secs(1)),
        last_seen: UNIX_EPOCH + Duration::from_secs(9),
    }
}

/// The message as a direct get returns it.
pub(super) fn stored((mut headers, payload): (HeaderMap, Bytes), number: u64) -> Message {
    for (name, value) in [
        (header::SUBJECT, "tide.dead.default.orders".to_owned()),
        (header::SEQUENCE, number.to_string()),
        ("Nats-Time-Stamp", "1970-01-01T00:00:10Z".to_owned()),
    ] {
        headers.append(name, value);
    }
    let length = payload.len();
    Message {
        subject: "_INBOX.1".into(),
        reply: None,
        payload,
        headers: Some(headers),
        status: None,
        description: None,
        length,
    }
}

#[test]
fn a_header_with_two_values_keeps_the_first_one_first() {
    let request = request();
    let mut headers = request.headers();
    headers.append(header::ID, "gw.other");
    let letter =
        Letter::read(&stored(failed(headers, request.body.clone()).letter(1 << 20).head(None), 7)).unwrap();
    assert_eq!(letter.id.as_ref(), Some(&request.id));
    let again = letter.redriven(request.body.clone(), &subjects(), UNIX_EPOCH).unwrap();
    assert_eq!(again.request.id, request.id, "it does not become another request");
}

#[test]
fn a_request_accepted_at_a_time_that_no_text_has_becomes_a_letter() {
    let accepted = Request { accepted_at: u64::MAX, ..request() };
    let failed =
        Failed { first_seen: accepted.accepted(), ..failed(accepted.headers(), accepted.body.clone()) };
    let letter = Letter::read(&stored(failed.letter(1 << 20).head(None), 7)).unwrap();
    assert_eq!(letter.first_seen, humantime::parse_rfc3339("9999-12-31T23:59:59.999Z").ok());
    assert!(letter.redriven(accepted.body, &subjects(), UNIX_EPOCH).is_ok());
}

#[test]
fn a_letter_says_what_is_known_and_becomes_the_request_again() {
    let request = request();
    let mut headers = request.headers();
    headers.insert("X-Unknown", "kept");
    let letter =
        Letter::read(&stored(failed(headers, request.body.clone()).letter(1 << 20).head(None), 5)).unwrap();
    assert_eq!((letter.number, &*letter.service, &*letter.route), (5, "default", "orders"));
    assert_eq!((letter.reason, &*letter.error, letter.attempts), (Reason::Attempts, "no luck", Some(3)));
    assert_eq!(letter.stream_seq, Some(17));
    assert_eq!(letter.first_seen, Some(UNIX_EPOCH + Duration::from_secs(1)));
    assert_eq!(letter.last_seen, Some(UNIX_EPOCH + Duration::from_secs(9)));
    let again = letter.redriven(letter.body.clone(), &subjects(), UNIX_EPOCH).unwrap();
    assert_eq!(again.request, Request { attempt: 0, later: true, accepted_at: 0, ..request });
    assert_eq!(again.subject, "tide.park.k.1");
    let said = |name: &'static str| get(&again.headers, name);
    assert_eq!(said(header::SCHEDULE_TARGET), Some("tide.due.rpc.orders.place.7.k.1"));
    assert_eq!((said(header::MSG_ID), said(header::REDRIVEN)), (Some("k.1.d5"), Some("5")));
    assert_eq!((said("X-Unknown"), said(header::DEAD_REDRIVES)), (Some("kept"), Some("1")));
    assert_eq!(said(header::DEAD_FIRST_SEEN), Some("1970-01-01T00:00:01.000Z"));
    for over in [header::ATTEMPT, header::DEAD_ERROR, header::DEAD_REASON, header::DEAD_SUBJECT] {
        assert_eq!(said(over), None, "{over}");
    }
    // It fails again.
    let second =
        Letter::read(&stored(failed(again.headers, letter.body.clone()).letter(1 << 20).head(None), 8));
    let second = second.unwrap();
    assert_eq!((second.redrives, second.first_seen), (1, letter.first_seen));
    assert_eq!(second.header(header::REDRIVEN), None);
}

#[test]
fn a_letter_of_an_earlier_version_is_read_and_redriven() {
    let request = request();
    let mut headers = request.headers();
    headers.insert(header::DEAD_REASON, "no luck: at all");
    headers.insert(header::ATTEMPT, "5");
    let letter = Letter::read(&stored((headers, request.body.clone()), 5)).unwrap();
    assert_eq!((letter.reason, &*letter.error, letter.attempts), (Reason::Other, "no luck: at all", Some(5)));
    assert_eq!((letter.last_seen, letter.rest), (letter.stored, Rest::Nothing));
    let again = letter.redriven(letter.body.clone(), &subjects(), UNIX_EPOCH).unwrap();
    assert_eq!(again.request.id, request.id);
    let part = crate::subject::part("42");
    let target = format!("tide.due.rpc.orders.place.{part}.k.1");
    assert_eq!(get(&again.headers, header::SCHEDULE_TARGET), Some(&*target));
}

#[test]
fn what_was_never_a_request_cannot_be_redriven() {
    let letter = Letter::read(&stored(failed(HeaderMap::new(), Bytes::new()).letter(1000).head(None), 5));
    let refused = letter.unwrap().redriven(Bytes::new(), &subjects(), UNIX_EPOCH).unwrap_err();
    assert!(refused.to_string().contains("Tide-Id"), "{refused}");
}

#[test]
fn what_the_broker_has_decides_about_a_redrive() {
    let request = request();
    let letter = Letter::read(&stored(failed(request.headers(), Bytes::new()).letter(1000).head(None), 5));
    let letter = letter.unwrap();
    let answer = |letter| Some(Answered { seq: 30, letter });
    let copy = |redriven| Some(Copy { redriven });
    let after = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
    let (nothing, old) = (Found::default(), Duration::from_secs(100));
    for (found, age, expected) in [
        (Found { answer: answer(Some(5)), ..nothing }, old, Step::Redrive { forget: Some(30) }),
        (Found { answer: answer(Some(4)), ..nothing }, old, Step::Redrive { forget: Some(30) }),
        (Found { answer: answer(Some(5)), ..nothing }, Duration::ZERO, Step::Redrive { forget: Some(30) }),
        (Found { answer: answer(Some(6)), ..nothing }, old, Step::Newer(6)),
        (Found { answer: answer(None), ..nothing }, old, Step::Answered),
        (Found { answer: answer(None), parked: copy(Some(5)), ..nothing }, old, Step::Answered),
        (Found { parked: copy(Some(5)), ..nothing }, old, Step::Finish),
        (Found { parked: copy(Some(4)), ..nothing }, old, Step::Alive),
        (Found { parked: copy(None), ..nothing }, old, Step::Alive),
        (Found { waiting: after(11), ..nothing }, old, Step::Alive),
        (Found { waiting: after(9), ..nothing }, old, Step::Redrive { forget: None }),
        (
            Found { waiting: after(11), answer: answer(Some(5)), ..nothing },
            old,
            Step::Redrive { forget: Some(30) },
        ),
        (nothing, old, Step::Redrive { forget: None }),
        (nothing, Duration::from_secs(1), Step::TooEarly),
    ] {
        assert_eq!(
            step(&letter, AnswerWay::Stored, &found, age, Duration::from_mins(1)),
            expected,
            "{found:?}"
        );
    }
    let plain = step(&letter, AnswerWay::HandedOver, &nothing, Duration::ZERO, Duration::from_mins(1));
    assert_eq!(plain, Step::Redrive { forget: None }, "the answer to a plain request is not stored");
}

#[test]
fn an_error_of_an_earlier_version_is_that_of_the_letter() {
    let dead = Outcome::Error { code: codes::DEAD_LETTER.code, message: String::new(), data: Bytes::new() };
    let old = Answer::to(&request(), 0, "w", dead);
    assert_eq!(Answered::of(&old, 3, 5), Answered { seq: 3, letter: Some(5) });
    let rejected = Outcome::Error { code: 422, message: String::new(), data: Bytes::new() };
    assert_eq!(Answered::of(&Answer::to(&request(), 0, "w", rejected), 3, 5).letter, None);
    assert_eq!(Answered::of(&Answer { letter: Some(7), ..old }, 3, 5).letter, Some(7));
}

#[test]
fn the_answers_of_a_redriven_request_are_published_although_its_error_was() {
    let first = Answer::to(&request(), 0, "w", Outcome::Ok(Bytes::new()));
    let ids = [None, Some(5), Some(6)].map(|redriven| {
        get(&Answer { redriven, ..first.clone() }.later_headers(), header::MSG_ID).unwrap().to_owned()
    });
    assert_eq!(ids, ["k.1.l", "k.1.l.d5", "k.1.l.d6"]);
}

#[test]
fn every_reason_has_a_word() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(reason));
    }
}

proptest! {
    #[test]
    fn a_dead_letter_fits_and_loses_no_byte_of_the_request(
        error in ".{0,40}", times in 1_usize..3000, user in "[a-z]{0,2000}", unknown in 0_usize..62_000, spare in 0_usize..600,
    ) {
        let max_payload = 200_000;
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::ID, "k.1"), (header::CLIENT, "c"), (header::ROUTE, "r"), (header::USER, &user), (header::KEY, &user)] {
            headers.insert(name, value);
        }
        headers.insert("X-Unknown", "x".repeat(unknown));
        // What only a letter says of itself.
        for name in [header::DEAD_PART, header::DEAD_REST, header::DEAD_ATTEMPTS, header::DEAD_SUBJECT] {
            headers.insert(name, "foreign");
        }
        let body = Bytes::from(vec![b'7'; max_payload - headers_len(&headers) - spare]);
        let failed = Failed { attempts: Some(u32::MAX), error: error.repeat(times), ..failed(headers, body.clone()) };
        let parts = failed.letter(max_payload);
        let rest = parts.rest();
        let seq = rest.is_some().then_some(u64::MAX);
        let head = parts.head(seq);
        let mut kept = Vec::new();
        for (headers, body) in [Some(head.clone()), rest].into_iter().flatten() {
            prop_assert!(headers_len(&headers) <= HEADERS_LIMIT);
            prop_assert!(headers_len(&headers) + body.len() <= max_payload);
            kept.extend_from_slice(&body);
        }
        prop_assert_eq!(kept, body.clone());
        let letter = Letter::read(&stored(head, 5)).unwrap();
        prop_assert!(letter.subject.as_deref() != Some("foreign"));
        prop_assert_eq!(letter.header(header::USER).map(str::len), Some(user.len()));
        prop_assert_eq!(letter.rest, seq.map_or(Rest::Nothing, Rest::At));
        prop_assert_eq!((letter.reason, letter.attempts), (Reason::Attempts, Some(u32::MAX)));
        let whole = letter.redriven(body.clone(), &subjects(), UNIX_EPOCH);
        prop_assert_eq!(whole.map(|redriven| redriven.request.body), Ok(body));
    }
}
