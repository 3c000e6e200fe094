//! Workers that die: only what had begun, and fails alone, counts an attempt.

use bytes::Bytes;
use tidegate_worker::{Attempt, Json, Router, State, on};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use crate::support::{Notes, Tide};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = 8\nmax_attempts = 2\n";

/// Tells the test to end the worker.
#[derive(Clone)]
struct World(mpsc::Sender<()>, Notes);

/// One request ends its worker, as a handler does that uses up the memory of its process. The others take a moment.
async fn works(State(world): State<World>, Attempt(attempt): Attempt, body: Bytes) -> Json<u32> {
    if body == "kill" {
        world.1.note("kill");
        let _ = world.0.send(()).await;
        std::future::pending::<()>().await;
    }
    sleep(Duration::from_millis(100)).await;
    Json(attempt)
}

#[tokio::test]
async fn requests_beside_one_that_kills_its_workers_lose_no_attempt() {
    let tide = Tide::start(ROUTE).await;
    let (kill, mut kills) = mpsc::channel(1);
    let world = World(kill, Notes::default());
    let router = || Router::with_state(world.clone()).route("job", on(works));
    let killer = tide.ask("job", "kill").await;
    let mut innocent = Vec::new();
    for _ in 0..5 {
        innocent.push(tide.ask("job", "").await);
    }
    let mut worker = tide.work("w1", router()).await;
    let code = loop {
        tokio::select! {
            // Everything of the worker ends at once: it gives nothing back.
            Some(()) = kills.recv() => {
                drop(worker);
                worker = tide.work("w1", router()).await;
            }
            (code, _) = tide.error(&killer) => break code,
        }
    };
    assert_eq!(code, 1004);
    for request in &innocent {
        assert_eq!(tide.body(request).await, "0");
    }
    tide.settled().await;
    assert_eq!(tide.count("TIDE_DEAD").await, 1);
    // Its attempts, and runs that might have been another request's fault: three, and one for each turn of the others.
    assert!((2..=10).contains(&world.1.all().len()), "{:?}", world.1.all());
    drop(worker);
}

#[tokio::test]
async fn a_killed_worker_costs_its_requests_no_attempt() {
    let tide = Tide::start(&ROUTE.replace("max_attempts = 2", "max_attempts = 1")).await;
    let (kill, mut kills) = mpsc::channel(1);
    let world = World(kill, Notes::default());
    let router = || Router::with_state(world.clone()).route("job", on(works));
    let first = tide.work("w1", router()).await;
    let (_killer, innocent) = (tide.ask("job", "kill").await, tide.ask("job", "").await);
    kills.recv().await.unwrap();
    drop(first);
    let _second = tide.work("w2", router()).await;
    assert_eq!(tide.body(&innocent).await, "0");
}
