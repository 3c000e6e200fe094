//! What handlers say is longer than a header or a message may be, and requests are as long as a message may be.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde::{Deserialize, Serialize};
use tidegate_shared::{broker::headers_len, envelope::Request};
use tidegate_worker::{Attempt, Failure, Json, Publication, Publications, Router, State, on};

use crate::support::{Notes, Tide, header};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 2\ntimeout = \"10s\"\n\
                     backoff = { base = \"50ms\", cap = \"1s\" }\n";
/// Longer than the headers of a message, and than a whole message.
const HUGE: usize = 2 << 20;

fn huge() -> String {
    let mut text = "Größe:\r\n\t\0".to_owned();
    text.push_str(&"ü€".repeat(HUGE / 5));
    text
}

/// A request that is exactly as long as the broker takes.
fn longest(tide: &Tide) -> Request {
    let request = tide.request("job", "");
    let room = tide.gateway.client().max_payload() - headers_len(&request.headers());
    Request { body: Bytes::from(vec![b'7'; room]), ..request }
}

#[tokio::test]
async fn a_huge_text_of_a_handler_is_cut_and_its_request_is_settled() {
    async fn says(Json(how): Json<String>) -> Result<(), Failure> {
        match how.as_str() {
            "error" => Err(anyhow::anyhow!(huge()).into()),
            "panic" => panic!("{}", huge()),
            "dead" => Err(Failure::dead(huge())),
            _ => Err(Failure::reject(u32::MAX, huge())),
        }
    }
    let tide = Tide::start(ROUTE).await;
    let worker = tide.work("w1", Router::new().route("job", on(says))).await;
    for (how, start) in [("error", "Größe:"), ("panic", "panic: Größe:"), ("dead", "Größe:")] {
        let request = tide.ask("job", format!("{how:?}")).await;
        let (code, message) = tide.error(&request).await;
        assert_eq!(code, 1004, "{how}: {message}");
        let letter = tide.dead_letter("job").await;
        let reason = header(&letter, "Tide-Dead-Error");
        assert!(reason.starts_with(start), "{how}: {reason}");
        assert!(reason.ends_with("bytes]") && reason.len() <= 4096, "{how}: {}", reason.len());
        assert_eq!(letter.payload, request.body);
    }
    let request = tide.ask("job", "\"reject\"").await;
    let (code, message) = tide.error(&request).await;
    assert_eq!(code, u32::MAX);
    assert!(message.starts_with("Größe:") && message.len() <= 4096, "{}", message.len());
    tide.settled().await;
    assert_eq!((worker.outcomes("job", "dead"), worker.outcomes("job", "reject")), (3, 1));
}

/// What a handler does: it makes a text of a piece and says it in one of four ways.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Says {
    how: u8,
    code: u32,
    piece: String,
    times: usize,
}

impl Says {
    fn any() -> impl Strategy<Value = Self> {
        let piece = prop_oneof![any::<String>(), "[\\x00-\\x20\\x7f-\\u{a0}\\u{2028}]{1,8}", "\\PC{1,8}"];
        let times = prop_oneof![Just(1), 2_usize..5000, 50_000_usize..200_000];
        (0_u8..4, any::<u32>(), piece, times).prop_map(|(how, code, piece, times)| Self {
            how,
            code,
            piece,
            times,
        })
    }

    fn text(&self) -> String {
        self.piece.repeat(self.times)
    }
}

#[tokio::test]
async fn whatever_a_handler_says_its_request_is_settled_with_one_bounded_answer() {
    async fn says(Json(says): Json<Says>) -> Result<(), Failure> {
        match says.how {
            0 => Err(anyhow::anyhow!(says.text()).into()),
            1 => std::panic::panic_any(says.text()),
            2 => Err(Failure::dead(says.text())),
            _ => Err(Failure::reject(says.code, says.text())),
        }
    }
    let tide = Tide::start(&ROUTE.replace("max_attempts = 2", "max_attempts = 1")).await;
    let worker = tide.work("w1", Router::new().route("job", on(says))).await;
    let mut runner = TestRunner::new(Config::default());
    let mut asked = Vec::new();
    for _ in 0..60 {
        let says = Says::any().new_tree(&mut runner).unwrap().current();
        let request = tide.ask("job", serde_json::to_vec(&says).unwrap()).await;
        asked.push((says, request));
    }
    for (says, request) in &asked {
        let (code, message) = tide.error(request).await;
        assert_eq!(code, if says.how == 3 { says.code } else { 1004 }, "{says:?}");
        assert!(message.len() <= 4096 && !message.contains(char::is_control), "{says:?}: {message}");
    }
    tide.settled().await;
    let buried = asked.iter().filter(|(says, _)| says.how != 3).count() as u64;
    assert_eq!((worker.outcomes("job", "dead"), tide.count("TIDE_DEAD").await), (buried, buried));
}

#[tokio::test]
async fn a_dead_letter_keeps_a_request_of_the_longest_size() {
    async fn dies() -> Result<(), Failure> {
        Err(Failure::dead(format!("no luck {}", "at all ".repeat(100))))
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("job", on(dies))).await;
    let request = longest(&tide);
    tide.send(&request).await;
    assert_eq!(tide.error(&request).await.0, 1004);
    let letter = tide.dead_letter("job").await;
    tide.settled().await;
    assert!(tide.dead_body(&letter).await == request.body);
    assert_eq!(header(&letter, "Tide-Id"), request.id.as_str());
    assert!(header(&letter, "Tide-Dead-Error").starts_with("no luck"), "{:?}", letter.headers);
}

#[tokio::test]
async fn a_request_of_the_longest_size_has_all_its_attempts() {
    async fn fails_once(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Result<Json<u32>, Failure> {
        notes.note(attempt);
        if attempt == 0 { Err(anyhow::anyhow!("again").into()) } else { Ok(Json(attempt)) }
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(fails_once))).await;
    let request = longest(&tide);
    tide.send(&request).await;
    assert_eq!(tide.body(&request).await, "1");
    tide.settled().await;
    assert_eq!(notes.all(), [0, 1]);
    assert_eq!((worker.outcomes("job", "retry"), worker.outcomes("job", "ok")), (1, 1));
}

#[tokio::test]
async fn a_request_of_the_longest_size_that_always_fails_becomes_a_dead_letter_with_the_last_error() {
    async fn fails(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        notes.note(attempt);
        Err(anyhow::anyhow!("no luck").into())
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(fails))).await;
    let request = longest(&tide);
    tide.send(&request).await;
    assert_eq!(tide.error(&request).await.0, 1004);
    tide.settled().await;
    let letter = tide.dead_letter("job").await;
    assert_eq!(header(&letter, "Tide-Dead-Error"), "no luck");
    assert!(tide.dead_body(&letter).await == request.body);
    assert_eq!(notes.all(), [0, 1]);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_with_both_sizes_and_is_not_tried_again() {
    async fn says_much(State(notes): State<Notes>) -> Bytes {
        notes.note(1);
        Bytes::from(vec![b'1'; HUGE])
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(says_much))).await;
    let request = tide.ask("job", "").await;
    let (code, message) = tide.error(&request).await;
    assert_eq!(code, 1004);
    let limit = tide.gateway.client().max_payload().to_string();
    assert!(message.contains("too large"), "{message}");
    assert!(message.contains(&HUGE.to_string()) && message.contains(&limit), "{message}");
    tide.settled().await;
    let letter = tide.dead_letter("job").await;
    assert!(header(&letter, "Tide-Dead-Error").contains(&limit), "{:?}", letter.headers);
    assert_eq!(notes.all(), [1]);
}

#[tokio::test]
async fn a_publication_that_is_too_large_fails_the_attempt_with_both_sizes() {
    async fn announces() -> ((), Publications) {
        ((), Publications(vec![Publication::bytes("chat:lobby", vec![b'1'; HUGE])]))
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("job", on(announces))).await;
    let request = tide.ask("job", "").await;
    assert_eq!(tide.error(&request).await.0, 1004);
    tide.settled().await;
    let letter = tide.dead_letter("job").await;
    let reason = header(&letter, "Tide-Dead-Error");
    let limit = tide.gateway.client().max_payload().to_string();
    assert!(
        reason.contains("chat:lobby") && reason.contains("too large") && reason.contains(&limit),
        "{reason}"
    );
}

#[tokio::test]
async fn a_message_of_the_longest_size_that_is_not_a_request_is_kept_in_two_parts() {
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("job", on(async || {}))).await;
    let body = Bytes::from(vec![b'x'; tide.gateway.client().max_payload()]);
    let subject = tide.subject_of(&tide.request("job", ""));
    tide.gateway.store(subject, HeaderMap::new(), body.clone()).await.unwrap();
    tide.settled().await;
    let letter = tide.dead_letter("job").await;
    assert!(header(&letter, "Tide-Dead-Error").contains("Tide-Id"), "{:?}", letter.headers);
    assert_eq!(header(&letter, "Tide-Dead-Part"), "1/2");
    assert_eq!(tide.count("TIDE_DEAD").await, 2);
    assert!(body.starts_with(&letter.payload));
}

#[tokio::test]
async fn a_dead_letter_of_a_request_whose_headers_are_at_their_limit_keeps_the_request() {
    async fn dies() -> Result<(), Failure> {
        tokio::time::sleep(Duration::ZERO).await;
        Err(Failure::dead("no luck"))
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("job", on(dies))).await;
    let request = tide.request("job", "7");
    let mut headers = request.headers();
    let room = 65_535 - headers_len(&headers) - "X-Unknown: \r\n".len();
    headers.insert("X-Unknown", "x".repeat(room));
    tide.gateway.store(tide.subject_of(&request), headers, request.body.clone()).await.unwrap();
    assert_eq!(tide.error(&request).await.0, 1004);
    tide.settled().await;
    let letter = tide.dead_letter("job").await;
    assert_eq!((header(&letter, "Tide-Dead-Error"), &letter.payload[..]), ("no luck", &b"7"[..]));
    assert_eq!(header(&letter, "Tide-Id"), request.id.as_str());
}
