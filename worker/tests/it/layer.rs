//! Layers that let a request through to its handler or not: attempts are those of the handler.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use tidegate_shared::envelope::Request;
use tidegate_worker::{
    Attempt, Failure, Json, Router, State, on,
    tower::{limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer},
};

use crate::support::{Tide, eventually, header};

fn route(more: &str) -> String {
    format!(
        "[[route]]\nname = \"work\"\nmatch = \"rpc.work\"\nbackoff = {{ base = \"50ms\", cap = \"100ms\" }}\n{more}"
    )
}

fn later(tide: &Tide) -> Request {
    Request { later: true, ..tide.request("work", "1") }
}

/// Takes long enough that others find no place beside it.
async fn slow(State(runs): State<Arc<AtomicU32>>, Attempt(attempt): Attempt) -> Json<u32> {
    runs.fetch_add(1, SeqCst);
    tokio::time::sleep(Duration::from_millis(60)).await;
    Json(attempt)
}

#[tokio::test]
async fn a_request_that_a_layer_sheds_has_used_no_attempt() {
    let tide = Tide::start(&route("max_attempts = 1\n")).await;
    let runs = Arc::new(AtomicU32::new(0));
    let work = on(slow).layer(ConcurrencyLimitLayer::new(1)).layer(LoadShedLayer::new());
    let worker = tide.work("w1", Router::with_state(Arc::clone(&runs)).route("work", work)).await;
    let requests: Vec<_> = (0..4).map(|_| later(&tide)).collect();
    for request in &requests {
        tide.send(request).await;
    }
    for request in &requests {
        assert_eq!(tide.body(request).await, "0", "no attempt was used before");
    }
    assert!(worker.outcomes("work", "snooze") > 0, "some were shed");
    assert_eq!(
        (runs.load(SeqCst), worker.outcomes("work", "retry"), tide.count("TIDE_DEAD").await),
        (4, 0, 0)
    );
}

#[tokio::test]
async fn a_request_that_no_layer_ever_lets_through_becomes_a_dead_letter_after_its_snoozes() {
    async fn never(_: State<Arc<AtomicU32>>) -> Result<(), Infallible> {
        Ok(())
    }
    let tide = Tide::start(&route("max_snoozes = 2\n")).await;
    // Nobody gives its only place back.
    let limit = ConcurrencyLimitLayer::new(0);
    let work = on(never).layer(limit).layer(LoadShedLayer::new());
    let worker = tide.work("w1", Router::with_state(Arc::default()).route("work", work)).await;
    let request = later(&tide);
    tide.send(&request).await;
    let (code, message) = tide.error(&request).await;
    assert_eq!((code, message.contains("overloaded")), (1004, false), "{message}");
    let letter = tide.dead_letter("work").await;
    assert_eq!(header(&letter, "Tide-Dead-Attempts"), "0");
    let error = header(&letter, "Tide-Dead-Error");
    assert!(error.contains("snoozed 2 times") && error.contains("service overloaded"), "{error}");
    assert_eq!(worker.outcomes("work", "snooze"), 2);
}

#[tokio::test]
async fn what_a_layer_ends_after_the_handler_has_begun_has_used_an_attempt() {
    async fn endless(State(runs): State<Arc<AtomicU32>>) -> Result<(), Failure> {
        runs.fetch_add(1, SeqCst);
        std::future::pending().await
    }
    let tide = Tide::start(&route("max_attempts = 2\n")).await;
    let runs = Arc::new(AtomicU32::new(0));
    let work = on(endless).layer(TimeoutLayer::new(Duration::from_millis(50)));
    let worker = tide.work("w1", Router::with_state(Arc::clone(&runs)).route("work", work)).await;
    let request = later(&tide);
    tide.send(&request).await;
    assert_eq!(tide.error(&request).await.0, 1004);
    eventually("it is settled", async || (worker.outcomes("work", "dead") == 1).then_some(())).await;
    assert_eq!((runs.load(SeqCst), worker.outcomes("work", "retry")), (2, 1));
}
