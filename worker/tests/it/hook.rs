use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate_shared::topology::REPLY;
use tidegate_worker::{Failure, Grant, Json, Router, State};
use tokio::sync::Semaphore;

use crate::{
    planted::PanicsAt,
    support::{DEADLINE, Notes, Tide, eventually},
};

const ROUTE: &str = "[[route]]\nname = \"entry\"\nmatch = \"hook.subscribe\"\n";

async fn entry(State(notes): State<Notes>, Json(question): Json<Value>) -> Result<Grant, Failure> {
    notes.note(question["channel"].as_str().unwrap().to_owned());
    match question["channel"].as_str() {
        Some("chat:open") => Ok(Grant::new().data(&json!({"topic": "x"}))?),
        Some("chat:broken") => Err(Failure::dead("no luck")),
        _ => Err(Failure::reject(1403, "not you")),
    }
}

fn entries(notes: &Notes) -> Router<Notes> {
    Router::with_state(notes.clone()).decide("subscribe", entry)
}

/// Asks as a gateway does. `None` when there is no decision in time.
async fn ask(tide: &Tide, channel: &str) -> Option<Value> {
    let question = json!({"client": "g.1", "user": "42", "channel": channel}).to_string();
    let request =
        async_nats::Request::new().payload(question.into()).timeout(Some(Duration::from_millis(500)));
    let answer = tide.gateway.client().send_request("tide.hook.subscribe", request).await.ok()?;
    Some(serde_json::from_slice(&answer.payload).unwrap())
}

/// Waits until a worker decides.
async fn ready(tide: &Tide) {
    let decided = async { while ask(tide, "chat:open").await.is_none() {} };
    tokio::time::timeout(DEADLINE, decided).await.unwrap();
}

#[tokio::test]
async fn a_hook_route_answers_questions_of_gateways() {
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let worker = tide.work("w1", entries(&notes)).await;
    ready(&tide).await;
    assert_eq!(ask(&tide, "chat:open").await, Some(json!({"result": {"data": {"topic": "x"}}})));
    assert_eq!(ask(&tide, "chat:shut").await, Some(json!({"error": {"code": 1403, "message": "not you"}})));
    assert_eq!(ask(&tide, "chat:broken").await, None, "a failed handler sends no decision");
    assert_eq!(worker.outcomes("entry", "reject"), 1);
}

#[tokio::test]
async fn a_panic_while_a_question_is_answered_frees_its_permit() {
    let tide = Tide::start(&format!("{ROUTE}concurrency = 1\n")).await;
    let _planted = PanicsAt::log_message("a hook question gets no decision");
    let worker = tide.work("w1", entries(&Notes::default())).await;
    ready(&tide).await;
    assert_eq!(ask(&tide, "chat:broken").await, None);
    assert!(ask(&tide, "chat:shut").await.is_some());
    assert_eq!((worker.outcomes("entry", "retry"), worker.in_flight("entry")), (0, 0));
}

#[tokio::test]
async fn each_question_goes_to_one_worker() {
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _first = tide.work("w1", entries(&notes)).await;
    let _second = tide.work("w2", entries(&notes)).await;
    ready(&tide).await;
    let before = notes.all().len();
    for _ in 0..20 {
        assert!(ask(&tide, "chat:shut").await.is_some());
    }
    assert_eq!(notes.all().len() - before, 20);
}

#[tokio::test]
async fn a_worker_that_drains_answers_the_questions_that_it_has_received() {
    async fn slow(State((notes, gate)): State<(Notes, Arc<Semaphore>)>) -> Grant {
        notes.note(1);
        gate.acquire().await.unwrap().forget();
        Grant::new()
    }
    let tide = Tide::start(&format!("{ROUTE}concurrency = 1\n")).await;
    let (notes, gate) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let router = Router::with_state((notes.clone(), Arc::clone(&gate))).decide("entry", slow);
    let worker = tide.work("w1", router).await;
    let asked = |number: u32| {
        let question =
            json!({"client": "g.1", "user": "42", "channel": format!("chat:{number}")}).to_string();
        let client = tide.gateway.client().clone();
        async move {
            // The worker may not listen yet.
            eventually("the question is answered", async || {
                let request =
                    async_nats::Request::new().payload(question.clone().into()).timeout(Some(DEADLINE));
                client.send_request("tide.hook.subscribe", request).await.ok()
            })
            .await
        }
    };
    let drained = async {
        eventually("the first question is being answered", async || (!notes.all().is_empty()).then_some(()))
            .await;
        // The broker has the other questions, and sends them before its answer to the worker.
        tide.gateway.settled().await.unwrap();
        worker.0.broker().last(REPLY, "tide.reply.gw.never").await.unwrap();
        worker.drain();
        gate.add_permits(3);
    };
    let (first, second, third, ()) = tokio::join!(asked(1), asked(2), asked(3), drained);
    for answer in [first, second, third] {
        assert_eq!(answer.payload, r#"{"result":{}}"#);
    }
    worker.ended().await;
}
