//! Handlers that block the threads of their runtime: the worker keeps its requests all the same.

use std::time::Duration;

use tidegate_worker::{Attempt, Json, Router, State, Worker, on};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Notes, Tide, eventually, number};

const THREADS: usize = 2;
const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n";
/// Ten `ack_wait`s.
const BLOCKED: Duration = Duration::from_secs(10);
/// Longer than a route may take.
const BLOCKED_LESS: Duration = Duration::from_millis(3500);

/// A worker inside a program that has a runtime of its own, as library users run it.
struct Inside {
    runtime: Option<Runtime>,
    worker: Worker,
}

impl Inside {
    async fn start(tide: &Tide, router: Router<Notes>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
        let (config, (send, started)) = (tide.config().clone(), tokio::sync::oneshot::channel());
        runtime.spawn(async move {
            let _ = send.send(Worker::builder(&config).name("blocked").router(router).start().await.unwrap());
        });
        Self { worker: started.await.unwrap(), runtime: Some(runtime) }
    }

    fn delay(&self) -> f64 {
        number(&self.worker.metrics(), "tidegate_worker_handler_delay_seconds")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.worker.stop();
        self.runtime.take().unwrap().shutdown_background();
    }
}

#[tokio::test]
async fn requests_whose_handlers_block_every_thread_for_ten_ack_waits_run_once() {
    async fn blocks(State(notes): State<Notes>) -> Json<u32> {
        notes.note(1);
        std::thread::sleep(BLOCKED);
        Json(1)
    }
    async fn other(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Json<u32> {
        notes.note(2);
        Json(attempt)
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let state = || Router::with_state(notes.clone());
    let inside = Inside::start(&tide, state().route("job", on(blocks))).await;
    let mut requests = Vec::new();
    for _ in 0..THREADS {
        requests.push(tide.ask("job", "").await);
    }
    eventually("every thread is blocked", async || (notes.all().len() == THREADS).then_some(())).await;
    // This worker would get the requests if the first one lost them.
    let _other = tide.work("other", state().route("job", on(other))).await;
    eventually("the worker notices", async || (inside.delay() > 1.0).then_some(())).await;
    for request in &requests {
        let answer = tide.answer(request).await;
        assert_eq!((answer.worker.as_str(), answer.attempt), ("blocked", 0));
    }
    tide.settled().await;
    assert_eq!(notes.all(), vec![1; THREADS]);
    eventually("the worker notices the end", async || (inside.delay() < 1.0).then_some(())).await;
}

#[tokio::test]
async fn a_request_that_blocked_threads_never_begin_goes_to_another_worker_without_using_an_attempt() {
    async fn blocks(State(notes): State<Notes>) -> Json<u32> {
        notes.note(1);
        if notes.all().len() <= THREADS {
            std::thread::sleep(BLOCKED_LESS);
        }
        Json(1)
    }
    async fn other(Attempt(attempt): Attempt) -> Json<u32> {
        Json(attempt)
    }
    let tide = Tide::start(&format!("{ROUTE}timeout = \"500ms\"\nmax_attempts = 1\n")).await;
    let notes = Notes::default();
    let state = || Router::with_state(notes.clone());
    let _inside = Inside::start(&tide, state().route("job", on(blocks))).await;
    for _ in 0..THREADS {
        tide.ask("job", "").await;
    }
    eventually("every thread is blocked", async || (notes.all().len() == THREADS).then_some(())).await;
    let request = tide.ask("job", "").await;
    tide.delivered("job", THREADS + 1).await;
    let _other = tide.work("other", state().route("job", on(other))).await;
    assert_eq!(tide.body(&request).await, "0");
}
