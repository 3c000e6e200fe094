//! A worker whose route can no longer consume requests drains and ends with an error.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_shared::topology::request_stream;
use tidegate_worker::{Grant, Router, State, on};
use tokio::sync::Semaphore;

use crate::{
    planted::PanicsAt,
    support::{Notes, Running, Tide, eventually},
};

const ROUTES: &str = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n\
                      [[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n";

#[derive(Clone)]
struct Gate(Arc<Semaphore>, Notes);

async fn echo(body: Bytes) -> Bytes {
    body
}

async fn waits(State(gate): State<Gate>, body: Bytes) -> Bytes {
    gate.1.note("begun");
    let _pass = gate.0.acquire().await;
    body
}

#[tokio::test]
async fn a_panic_in_a_consume_task_drains_the_worker_and_names_the_route() {
    let tide = Tide::start(ROUTES).await;
    let gate = Gate(Arc::new(Semaphore::new(0)), Notes::default());
    let router = Router::with_state(gate.clone()).route("echo", on(echo)).route("job", on(waits));
    let _planted = PanicsAt::log_message("a pull failed");
    let worker = tide.work("w1", router).await;
    let request = tide.ask("job", "7").await;
    eventually("the request runs", async || (gate.1.all().len() == 1).then_some(())).await;

    tide.delete_consumer("echo", &request_stream("echo")).await;
    drains(&worker).await;
    gate.0.add_permits(1);
    assert_eq!(tide.body(&request).await, "7", "a request under way is finished");
    let ended = worker.result().await.unwrap_err();
    assert_eq!(ended.reason, "route \"echo\": it panicked: planted");
}

#[tokio::test]
async fn the_early_end_of_a_hook_routes_consume_task_drains_the_worker_and_names_the_route() {
    let tide = Tide::start("[[route]]\nname = \"entry\"\nmatch = \"hook.subscribe\"\n").await;
    let worker = tide.work("w1", Router::<()>::new().decide("entry", async || Grant::new())).await;
    worker.0.broker().client().drain().await.unwrap();
    drains(&worker).await;
    assert_eq!(worker.result().await.unwrap_err().reason, "route \"entry\": it returned");
}

async fn drains(worker: &Running) {
    eventually("the worker drains", async || worker.0.unready()?.starts_with("draining").then_some(())).await;
}
