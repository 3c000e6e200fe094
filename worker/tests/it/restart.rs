//! The broker is killed and comes back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use tidegate_worker::{Failure, Publication, Publish, Router, State, on};
use tokio::sync::Semaphore;

use crate::support::{Tide, eventually};

#[tokio::test]
async fn workers_consume_again_after_the_broker_was_killed() {
    async fn echo(body: Bytes) -> Bytes {
        body
    }
    let tide = Tide::start("[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n").await;
    let worker = tide.work("w1", Router::new().route("echo", on(echo))).await;
    for round in ["1", "2"] {
        let before = tide.ask("echo", round).await;
        assert_eq!(tide.body(&before).await, round);
        tide.stack.kill("nats").await.unwrap();
        tide.stack.wait_ready("nats").await.unwrap();
        let after = tide.ask("echo", round).await;
        assert_eq!(tide.body(&after).await, round);
    }
    tide.settled().await;
    assert_eq!(worker.outcomes("echo", "dead"), 0);
}

#[tokio::test]
async fn a_request_that_runs_while_the_broker_is_killed_is_settled_by_the_same_worker() {
    async fn waits(State(gate): State<Arc<Semaphore>>, body: Bytes) -> Bytes {
        gate.acquire().await.unwrap().forget();
        body
    }
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 1\n").await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = tide.work("w1", Router::with_state(Arc::clone(&gate)).route("job", on(waits))).await;
    let request = tide.ask("job", "1").await;
    eventually("it runs", async || (worker.in_flight("job") == 1).then_some(())).await;
    tide.stack.kill("nats").await.unwrap();
    tide.stack.wait_ready("nats").await.unwrap();
    // If its first delivery was lost meanwhile, it may run again.
    gate.add_permits(10);
    assert_eq!(tide.body(&request).await, "1");
    tide.settled().await;
    assert_eq!(worker.outcomes("job", "dead"), 0);
}

/// How many publications were taken, and whether that is enough.
#[derive(Debug, Default)]
struct Publishing {
    taken: AtomicUsize,
    enough: AtomicBool,
}

#[tokio::test]
async fn what_a_handler_publishes_without_history_while_the_broker_is_killed_is_published_when_it_is_back() {
    async fn publishes(State(state): State<Arc<Publishing>>, publish: Publish) -> Result<(), Failure> {
        while !state.enough.load(SeqCst) {
            publish.send(Publication::bytes("quakes:a", "1")).await?;
            state.taken.fetch_add(1, SeqCst);
        }
        Ok(())
    }
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 1\n").await;
    let state = Arc::<Publishing>::default();
    let worker = tide.work("w1", Router::with_state(Arc::clone(&state)).route("job", on(publishes))).await;
    let request = tide.ask("job", "1").await;
    let more_than = async |count| {
        eventually("publications are taken", async || (state.taken.load(SeqCst) > count).then_some(())).await;
    };
    more_than(10).await;
    // The handler is between sending a publication and the server's word on it nearly all of its time.
    tide.stack.kill("nats").await.unwrap();
    tide.stack.wait_ready("nats").await.unwrap();
    more_than(state.taken.load(SeqCst) + 10).await;
    state.enough.store(true, SeqCst);
    tide.body(&request).await;
    tide.settled().await;
    assert_eq!(worker.outcomes("job", "dead"), 0);
}
