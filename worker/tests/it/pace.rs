use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate_shared::topology::REPLY;
use tidegate_worker::{Attempt, Failure, Router, State, on};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::support::{Notes, Tide, eventually};

/// Counts the handlers that run at the same time.
#[derive(Clone, Default)]
struct Running {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[tokio::test]
async fn a_route_with_one_permit_runs_one_request_at_a_time_from_both_streams() {
    async fn counts(State(running): State<Running>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.most.fetch_max(now, Ordering::SeqCst);
        sleep(Duration::from_millis(20)).await;
        running.now.fetch_sub(1, Ordering::SeqCst);
        // Every request comes again from the other stream while first deliveries still arrive.
        if attempt == 0 { Err(anyhow::anyhow!("again").into()) } else { Ok(()) }
    }
    let route = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = 1\n\
                 backoff = { base = \"10ms\", cap = \"1s\" }\n";
    let tide = Tide::start(route).await;
    let running = Running::default();
    let worker = tide.work("w1", Router::with_state(running.clone()).route("job", on(counts))).await;
    for _ in 0..15 {
        tide.ask("job", "").await;
    }
    tide.settled().await;
    assert_eq!(running.most.load(Ordering::SeqCst), 1);
    assert_eq!(tide.count(REPLY).await, 15);
    assert_eq!((worker.outcomes("job", "retry"), worker.outcomes("job", "ok")), (15, 15));
}

/// How long a worker waits for a gateway's word about an answer.
const WORD: Duration = Duration::from_secs(1);

/// How many of these requests begin before the gateway, which is silent, has had the time for its first word.
async fn begun_before_a_word(concurrency: usize, wanted: usize) -> usize {
    async fn counts(State(begun): State<Arc<AtomicUsize>>) {
        begun.fetch_add(1, Ordering::SeqCst);
    }
    let route = format!("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = {concurrency}\n");
    let tide = Tide::start(&route).await;
    let _silent = tide.listen("tide.answer.*.*").await;
    for _ in 0..wanted {
        tide.ask("job", "").await;
    }
    let begun = Arc::new(AtomicUsize::new(0));
    let router = Router::with_state(Arc::clone(&begun)).route("job", on(counts));
    let _worker = tide.work("w1", router).await;
    eventually("the first begins", async || (begun.load(Ordering::SeqCst) > 0).then_some(())).await;
    let first = Instant::now();
    while begun.load(Ordering::SeqCst) < wanted && first.elapsed() < WORD / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    begun.load(Ordering::SeqCst)
}

#[tokio::test]
async fn handlers_run_while_the_answers_of_others_are_on_their_way() {
    // Two places, and four times as many for answers. A machine that stands still for half a second needs another try.
    eventually("ten begin", async || (Box::pin(begun_before_a_word(2, 20)).await == 10).then_some(())).await;
}

#[tokio::test]
async fn with_one_place_a_request_begins_when_the_one_before_is_answered() {
    eventually("one begins", async || (Box::pin(begun_before_a_word(1, 20)).await == 1).then_some(())).await;
}

#[tokio::test]
async fn a_request_that_takes_ten_ack_waits_runs_once() {
    async fn takes_long(State(notes): State<Notes>) {
        notes.note(1);
        sleep(Duration::from_secs(10)).await;
    }
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n").await;
    let notes = Notes::default();
    let router = || Router::with_state(notes.clone()).route("job", on(takes_long));
    // A second worker would get the request if its lease at the first one ran out.
    let (_first, _second) = (tide.work("w1", router()).await, tide.work("w2", router()).await);
    assert_eq!(tide.config().worker.ack_wait, Duration::from_secs(1));
    let request = tide.ask("job", "").await;
    assert_eq!(tide.answer(&request).await.attempt, 0);
    tide.settled().await;
    assert_eq!(notes.all().len(), 1);
}

#[tokio::test]
async fn a_pulled_request_that_waits_for_its_permit_is_not_delivered_again() {
    #[derive(Clone)]
    struct Gate(Arc<Semaphore>, Notes);
    async fn waits(State(gate): State<Gate>, Attempt(attempt): Attempt) {
        gate.1.note(attempt);
        let _pass = gate.0.acquire().await;
    }
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = 1\n").await;
    let first = tide.request("job", "");
    let second = tide.request("job", "");
    tide.send(&first).await;
    tide.park(&second).await;
    let (gate, notes) = (Arc::new(Semaphore::new(0)), Notes::default());
    let state = Gate(Arc::clone(&gate), notes.clone());
    let worker = tide.work("w1", Router::with_state(state).route("job", on(waits))).await;
    tide.delivered("job", 2).await;
    // Longer than two ack_waits.
    sleep(Duration::from_millis(2500)).await;
    gate.add_permits(1);
    tide.settled().await;
    assert_eq!(notes.all(), [0, 0]);
    assert_eq!(worker.outcomes("job", "ok"), 2);
}
