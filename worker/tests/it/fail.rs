use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_shared::{envelope::Request, topology::DEAD};
use tidegate_worker::{Attempt, Failure, Job, Json, Router, State, on};

use crate::{
    planted::PanicsAt,
    support::{Notes, Tide, header, next},
};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 3\ntimeout = \"5s\"\n\
                     backoff = { base = \"50ms\", cap = \"1s\" }\n";

#[tokio::test]
async fn a_failing_request_is_retried_and_becomes_a_dead_letter() {
    async fn fails(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        notes.note(attempt);
        Err(anyhow::anyhow!("line one\nline two").context("no luck").into())
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(fails))).await;
    let request = tide.request("job", "{\"n\":1}");
    let mut headers = request.headers();
    headers.insert("X-Unknown", "kept");
    tide.gateway.store(tide.subject_of(&request), headers, request.body.clone()).await.unwrap();

    let (code, message) = tide.error(&request).await;
    tide.settled().await;
    assert_eq!(code, 1004);
    assert!(message.contains("3 attempts") && !message.contains("luck"), "{message}");
    assert_eq!(notes.all(), [json!(0), json!(1), json!(2)]);
    let letter = tide.dead_letter("job").await;
    assert_eq!(letter.payload, request.body);
    assert_eq!(header(&letter, "Tide-Dead-Error"), "no luck: line one line two");
    assert_eq!(header(&letter, "Tide-Dead-Attempts"), "3");
    assert_eq!((header(&letter, "Tide-Dead-Reason"), header(&letter, "Tide-Attempt")), ("attempts", ""));
    assert_eq!(header(&letter, "Tide-Dead-Subject"), tide.subject_of(&request).replace(".in.", ".due."));
    let seen = ["First", "Last"]
        .map(|which| humantime::parse_rfc3339(header(&letter, &format!("Tide-Dead-{which}-Seen"))).unwrap());
    assert!(seen[0] < seen[1], "{seen:?}");
    assert_eq!(tide.answer(&request).await.letter, Some(1), "the client's error names the letter");
    assert_eq!(header(&letter, "Tide-Id"), request.id.as_str());
    assert_eq!(header(&letter, "X-Unknown"), "kept");
    assert_eq!(header(&letter, "Nats-Schedule"), "");
    assert_eq!((worker.outcomes("job", "retry"), worker.outcomes("job", "dead")), (2, 1));
}

#[tokio::test]
async fn a_rejected_request_is_answered_at_once_and_not_retried() {
    async fn rejects(State(notes): State<Notes>) -> Result<(), Failure> {
        notes.note(1);
        Err(Failure::reject(422, "qty:\nmust be above 0"))
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(rejects))).await;
    let request = tide.ask("job", "{}").await;
    assert_eq!(tide.error(&request).await, (422, "qty: must be above 0".to_owned()));
    tide.settled().await;
    assert_eq!(notes.all().len(), 1);
    assert_eq!(tide.count(DEAD).await, 0);
}

#[tokio::test]
async fn a_panic_of_a_handler_fails_its_attempt_and_no_other_request() {
    async fn panics(
        State(notes): State<Notes>,
        Attempt(attempt): Attempt,
        Json(bad): Json<bool>,
    ) -> Json<u32> {
        notes.note(json!([bad, attempt]));
        assert!(!bad || attempt > 0, "a bad day");
        Json(attempt)
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(panics))).await;
    let bad = tide.ask("job", "true").await;
    let good = tide.ask("job", "false").await;
    assert_eq!(tide.body(&good).await, "0");
    assert_eq!(tide.body(&bad).await, "1");
    tide.settled().await;
    assert_eq!((worker.outcomes("job", "panic"), worker.outcomes("job", "ok")), (1, 2));
}

#[tokio::test]
async fn a_panic_while_a_request_is_settled_frees_its_permit_and_the_broker_delivers_it_again() {
    async fn fails_once(Attempt(attempt): Attempt) -> Result<Json<u32>, Failure> {
        if attempt == 0 { Err(anyhow::anyhow!("again").into()) } else { Ok(Json(attempt)) }
    }
    let tide = Tide::start(&format!("{ROUTE}concurrency = 1\n")).await;
    let _planted = PanicsAt::log_message("an attempt failed");
    let worker = tide.work("w1", Router::new().route("job", on(fails_once))).await;
    let request = tide.ask("job", "").await;
    assert_eq!(tide.body(&request).await, "1");
    tide.settled().await;
    assert_eq!((worker.outcomes("job", "retry"), worker.outcomes("job", "ok")), (0, 1));
    assert_eq!(worker.in_flight("job"), 0);
}

#[tokio::test]
async fn a_handler_that_exceeds_the_timeout_fails_its_attempt() {
    async fn stalls(Attempt(attempt): Attempt) -> Json<u32> {
        if attempt == 0 {
            std::future::pending::<()>().await;
        }
        Json(attempt)
    }
    let tide = Tide::start(&ROUTE.replace("5s", "100ms")).await;
    let worker = tide.work("w1", Router::new().route("job", on(stalls))).await;
    let request = tide.ask("job", "").await;
    assert_eq!(tide.body(&request).await, "1");
    tide.settled().await;
    assert_eq!(worker.outcomes("job", "timeout"), 1);
}

#[tokio::test]
async fn a_snoozed_request_is_delivered_again_without_using_an_attempt() {
    async fn snoozes(State(notes): State<Notes>, job: Job) -> Result<Bytes, Failure> {
        notes.note(job.attempt());
        if notes.all().len() < 4 { Err(Failure::snooze(Duration::from_millis(20))) } else { Ok(job.body()) }
    }
    let tide = Tide::start(&ROUTE.replace("max_attempts = 3", "max_attempts = 1")).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(snoozes))).await;
    let request = tide.ask("job", "7").await;
    assert_eq!(tide.body(&request).await, "7");
    tide.settled().await;
    assert_eq!(notes.all(), vec![Value::from(0); 4]);
}

#[tokio::test]
async fn a_request_that_is_snoozed_too_often_becomes_a_dead_letter() {
    async fn snoozes(State(notes): State<Notes>) -> Result<(), Failure> {
        notes.note(1);
        Err(Failure::snooze(Duration::from_millis(20)))
    }
    let tide = Tide::start(&format!("{ROUTE}max_snoozes = 3\n")).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(snoozes))).await;
    let request = tide.ask("job", "7").await;
    let (code, message) = tide.error(&request).await;
    tide.settled().await;
    assert_eq!(code, 1004);
    assert!(message.contains("snoozed 3 times: the route's `max_snoozes`"), "{message}");
    let letter = tide.dead_letter("job").await;
    assert!(header(&letter, "Tide-Dead-Error").contains("max_snoozes"), "{letter:?}");
    assert_eq!((header(&letter, "Tide-Dead-Attempts"), notes.all().len()), ("0", 4));
    assert_eq!((worker.outcomes("job", "snooze"), worker.outcomes("job", "dead")), (3, 1));
}

#[tokio::test]
async fn the_data_of_a_rejection_is_the_body_of_the_answer_and_on_the_personal_channel() {
    async fn rejects() -> Result<(), Failure> {
        Err(Failure::reject(422, "the order is wrong").with_data(json!({"field": "quantity"})))
    }
    let tide = Tide::start(ROUTE).await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let _worker = tide.work("w1", Router::new().route("job", on(rejects))).await;
    let request = Request { later: true, ..tide.request("job", "1") };
    tide.send(&request).await;
    assert_eq!(tide.answer(&request).await.body(), r#"{"field":"quantity"}"#);
    let body: Value = serde_json::from_slice(&next(&mut personal).await.payload).unwrap();
    let expected = json!({"code": 422, "message": "the order is wrong", "data": {"field": "quantity"}});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_handler_can_make_its_request_a_dead_letter_at_once() {
    async fn dies(State(notes): State<Notes>) -> Result<(), Failure> {
        notes.note(1);
        Err(Failure::dead("there is no such customer"))
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(dies))).await;
    let request = tide.ask("job", "{}").await;
    assert_eq!(tide.error(&request).await.0, 1004);
    let letter = tide.dead_letter("job").await;
    assert_eq!(header(&letter, "Tide-Dead-Error"), "there is no such customer");
    assert_eq!((header(&letter, "Tide-Dead-Attempts"), notes.all().len()), ("1", 1));
}

#[tokio::test]
async fn a_message_that_is_not_a_request_becomes_a_dead_letter_and_leaves_its_stream() {
    async fn never(State(notes): State<Notes>) {
        notes.note(1);
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(never))).await;
    let subject = tide.subject_of(&tide.request("job", ""));
    tide.gateway.store(subject, async_nats::HeaderMap::new(), Bytes::from_static(b"what?")).await.unwrap();
    let letter = tide.dead_letter("job").await;
    tide.settled().await;
    assert_eq!(letter.payload, "what?");
    assert!(header(&letter, "Tide-Dead-Error").contains("Tide-Id"), "{letter:?}");
    assert_eq!(notes.all(), Vec::<Value>::new());
}
