//! One request that takes long holds the acknowledgement floor: that is seen, and the route's `timeout` bounds it.

use std::{sync::Arc, time::Duration};

use tidegate_worker::{Json, Router, State, Worker, on};
use tokio::sync::Semaphore;

use crate::support::{Tide, eventually};

/// Opened when the long request may end.
#[derive(Clone)]
struct Gate(Arc<Semaphore>);

async fn work(State(Gate(gate)): State<Gate>, Json(long): Json<bool>) -> Json<bool> {
    if long {
        drop(gate.acquire().await);
    }
    Json(long)
}

/// A worker in this process.
async fn start(tide: &Tide) -> (Gate, Worker) {
    let gate = Gate(Arc::new(Semaphore::new(0)));
    let router = Router::with_state(gate.clone()).route("job", on(work));
    let worker = Worker::builder(tide.stack.config()).router(router).start().await.unwrap();
    (gate, worker)
}

#[tokio::test]
async fn what_a_long_request_holds_back_is_counted_and_purged_when_it_is_done() {
    let tide = Tide::start(0, "[[route]]\nname = 'job'\nmatch = 'rpc.job'\ntimeout = '1h'\n").await;
    let (gate, worker) = start(&tide).await;
    let (client, _events) = tide.client("42").await;
    assert_eq!(client.rpc("job", "true").await.unwrap_err().code(), Some(1001));
    for _ in 0..20 {
        assert_eq!(client.rpc("job", "false").await.unwrap(), "false");
    }
    eventually("the held requests are counted", async || tide.metric("kept_requests", "job").await > 19.5)
        .await;
    eventually("the age is told", async || tide.metric("floor_age_seconds", "job").await > 0.0).await;
    assert_eq!(tide.messages("TIDE_IN_job").await, Some(21));
    gate.0.add_permits(1);
    eventually("all are purged", async || tide.messages("TIDE_IN_job").await == Some(0)).await;
    eventually("none is held", async || tide.metric("kept_requests", "job").await < 0.5).await;
    worker.drain();
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_beyond_its_timeout_is_parked_and_holds_nothing_back() {
    let route = "[[route]]\nname = 'job'\nmatch = 'rpc.job'\ntimeout = '1s'\nmax_attempts = 1000\n\
                 backoff = { base = '1h', cap = '1h' }\n";
    let tide = Tide::start(0, route).await;
    let (_gate, worker) = start(&tide).await;
    let (client, _events) = tide.client("42").await;
    let _ = client.rpc("job", "true").await;
    for _ in 0..20 {
        assert_eq!(client.rpc("job", "false").await.unwrap(), "false");
    }
    eventually("all are purged", async || tide.messages("TIDE_IN_job").await == Some(0)).await;
    assert_eq!(tide.messages("TIDE_PARK").await, Some(1), "the long one waits for its next attempt");
    worker.drain();
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn a_floor_that_no_worker_moves_grows_old() {
    let tide = Tide::start(0, "[[route]]\nname = 'job'\nmatch = 'rpc.job'\n").await;
    let (client, _events) = tide.client("42").await;
    assert_eq!(client.rpc("job", "true").await.unwrap_err().code(), Some(1001));
    let second = Duration::from_secs(1).as_secs_f64();
    eventually("it is a second old", async || tide.metric("floor_age_seconds", "job").await > second).await;
}
