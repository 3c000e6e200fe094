use std::sync::Arc;

use tidegate_worker::{Attempt, Json, Router, State, on};
use tokio::sync::Semaphore;

use crate::support::{Notes, Tide, eventually, header};

#[derive(Clone)]
struct Gate(Arc<Semaphore>, Notes);

async fn waits(State(gate): State<Gate>, Attempt(attempt): Attempt) -> Json<u32> {
    gate.1.note(attempt);
    let _pass = gate.0.acquire().await;
    Json(attempt)
}

/// One attempt: a request that was handed on but counted as begun would become a dead letter.
const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = 1\nmax_attempts = 1\n";

#[tokio::test]
async fn a_draining_worker_finishes_running_requests_and_hands_on_the_rest() {
    let tide = Tide::start(ROUTE).await;
    let (gate, notes) = (Arc::new(Semaphore::new(0)), Notes::default());
    let router = || {
        let state = Gate(Arc::clone(&gate), notes.clone());
        Router::with_state(state).route("job", on(waits))
    };
    let requests = [tide.request("job", ""), tide.request("job", ""), tide.request("job", "")];
    tide.send(&requests[0]).await;
    tide.park(&requests[1]).await;
    let first = tide.work("w1", router()).await;
    tide.delivered("job", 2).await;
    tide.send(&requests[2]).await;
    eventually("one request runs", async || (notes.all().len() == 1).then_some(())).await;

    first.drain();
    eventually("the other request is handed on", async || {
        (first.outcomes("job", "returned") == 1).then_some(())
    })
    .await;
    gate.add_permits(1);
    first.ended().await;
    assert_eq!(notes.all().len(), 1);

    let _second = tide.work("w2", router()).await;
    for request in &requests {
        assert_eq!(tide.body(request).await, "0");
    }
    tide.settled().await;
    assert_eq!(notes.all().len(), 3);
}

#[tokio::test]
async fn a_draining_worker_hands_on_what_the_limit_of_its_route_holds_up() {
    let route = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 1\nstarts_per_second = 1\n";
    let tide = Tide::start_draining(route, 0, "30s").await;
    let (gate, notes) = (Arc::new(Semaphore::new(100)), Notes::default());
    let router = || Router::with_state(Gate(Arc::clone(&gate), notes.clone())).route("job", on(waits));
    let mut requests = Vec::new();
    for _ in 0..8 {
        requests.push(tide.ask("job", "").await);
    }
    let first = tide.work("w1", router()).await;
    eventually("one request runs", async || (notes.all().len() == 1).then_some(())).await;
    first.drain();
    eventually("the others are handed on", async || (first.outcomes("job", "returned") >= 1).then_some(()))
        .await;
    first.ended().await;
    let begun = notes.all().len();
    assert!(begun <= 4, "{begun} of 8 began");
    let _second = tide.work("w2", router()).await;
    tide.settled().await;
    assert_eq!(notes.all(), vec![0; 8]);
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_worker_may_drain_loses_no_attempt() {
    let tide = Tide::start_draining(ROUTE, 0, "200ms").await;
    let (gate, notes) = (Arc::new(Semaphore::new(0)), Notes::default());
    let router = || {
        let state = Gate(Arc::clone(&gate), notes.clone());
        Router::with_state(state).route("job", on(waits))
    };
    let request = tide.request("job", "");
    tide.send(&request).await;
    // As many deploys as the request has attempts, and some more.
    for deploys in 1..=3 {
        let worker = tide.work("deployed", router()).await;
        eventually("the request runs", async || (notes.all().len() == deploys).then_some(())).await;
        worker.drain();
        worker.ended().await;
    }
    gate.add_permits(1);
    let _last = tide.work("last", router()).await;
    assert_eq!(tide.body(&request).await, "0");
    tide.settled().await;
    assert_eq!(notes.all().len(), 4);
}

#[tokio::test]
async fn a_worker_that_stops_at_once_gives_running_requests_back() {
    let tide = Tide::start(&ROUTE.replace("max_attempts = 1", "max_attempts = 2")).await;
    let (gate, notes) = (Arc::new(Semaphore::new(0)), Notes::default());
    let router = || {
        let state = Gate(Arc::clone(&gate), notes.clone());
        Router::with_state(state).route("job", on(waits))
    };
    let first = tide.work("w1", router()).await;
    let request = tide.ask("job", "").await;
    eventually("the request runs", async || (notes.all().len() == 1).then_some(())).await;
    first.stop();
    first.ended().await;
    gate.add_permits(1);
    let _second = tide.work("w2", router()).await;
    assert_eq!(tide.body(&request).await, "1");
}

#[tokio::test]
async fn a_request_whose_worker_ends_during_every_attempt_is_a_dead_letter_without_another_run() {
    let tide = Tide::start(ROUTE).await;
    let (gate, notes) = (Arc::new(Semaphore::new(0)), Notes::default());
    let router = || {
        let state = Gate(Arc::clone(&gate), notes.clone());
        Router::with_state(state).route("job", on(waits))
    };
    let first = tide.work("w1", router()).await;
    let request = tide.ask("job", "").await;
    eventually("the request runs", async || (notes.all().len() == 1).then_some(())).await;
    first.stop();
    first.ended().await;
    let _second = tide.work("w2", router()).await;
    assert_eq!(tide.error(&request).await.0, 1004);
    let letter = tide.dead_letter("job").await;
    assert_eq!(header(&letter, "Tide-Dead-Error"), "the worker ended during every attempt");
    tide.settled().await;
    assert_eq!(notes.all().len(), 1);
}
