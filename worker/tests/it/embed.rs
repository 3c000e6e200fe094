//! A worker inside a process that is not its own: built, watched and ended by the process.

use std::net::SocketAddr;

use tidegate_shared::config::Config;
use tidegate_worker::{Json, Router, RunFailure, StartFailure, State, Worker, on};
use tokio::{sync::oneshot, time::timeout};

use crate::support::{DEADLINE, Tide, get};

const ROUTES: &str =
    "[[route]]\nname = \"price\"\nmatch = \"rpc.price\"\n[[route]]\nname = \"ping\"\nmatch = \"rpc.ping\"\n";

async fn price(State(cents): State<u32>, Json(pieces): Json<u32>) -> Json<u32> {
    Json(cents * pieces)
}

async fn ping() {}

#[tokio::test]
async fn a_worker_runs_beside_others_in_one_process_until_its_future_ends() {
    let tide = Tide::start(ROUTES).await;
    let (stop, stopped) = oneshot::channel::<()>();
    // Two workers, each with a router of its own; one of them has two.
    let first = Worker::builder(tide.config())
        .name("first")
        .router(Router::with_state(3_u32).route("price", on(price)))
        .router(Router::<()>::new().route("ping", on(ping)))
        .internal(SocketAddr::from(([127, 0, 0, 1], 0)))
        .shutdown(async { drop(stopped.await) });
    let first = first.start().await.unwrap();
    let second = Worker::builder(tide.config()).router(Router::<()>::new().route("ping", on(ping)));
    let second = second.start().await.unwrap();

    assert_eq!(tide.body(&tide.ask("price", "14").await).await, "42");
    assert_eq!(tide.body(&tide.ask("ping", "").await).await, "");
    assert_eq!((first.unready(), second.internal()), (None, None));
    let address = first.internal().unwrap();
    assert!(get(address, "/readyz").await.ends_with("ready\n"));
    let line = "tidegate_worker_handler_duration_seconds_count{route=\"price\"} 1";
    assert!(first.metrics().contains(line) && get(address, "/metrics").await.contains(line));

    stop.send(()).unwrap();
    timeout(DEADLINE, first.ended()).await.unwrap().unwrap();
    assert_eq!(second.unready(), None, "a process has as many workers as it likes");
    second.drain();
    timeout(DEADLINE, second.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_that_is_dropped_settles_nothing_and_another_one_gets_its_requests() {
    let tide = Tide::start(ROUTES).await;
    let (begun, runs) = oneshot::channel();
    let begun = std::sync::Arc::new(std::sync::Mutex::new(Some(begun)));
    let waits = async move || {
        let begun = begun.lock().unwrap().take();
        if let Some(begun) = begun {
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    };
    let router = || Router::<()>::new().route("ping", on(waits.clone()));
    let first = Worker::builder(tide.config()).router(router()).start().await.unwrap();
    let request = tide.ask("ping", "").await;
    timeout(DEADLINE, runs).await.unwrap().unwrap();
    drop(first);
    let _second = Worker::builder(tide.config()).router(router()).start().await.unwrap();
    assert_eq!(tide.body(&request).await, "");
}

#[tokio::test]
async fn what_keeps_a_worker_from_starting_is_an_error_and_no_exit() {
    let tide = Tide::start(ROUTES).await;
    let wrong = Worker::builder(tide.config()).router(Router::<()>::new().route("prize", on(ping)));
    let failure = wrong.run().await.unwrap_err();
    assert!(matches!(&failure, RunFailure::Start(StartFailure::Misconfigured(_))), "{failure}");
    assert!(failure.to_string().contains("no such [[route]]"), "{failure}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let failure = Worker::builder(tide.config()).internal(address).start().await.unwrap_err();
    assert!(failure.to_string().contains(&format!("cannot listen on {address}")), "{failure}");
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_while_nats_is_away_ends_at_once() {
    let tide = Tide::start(ROUTES).await;
    let mut away: Config = tide.config().clone();
    away.nats.url = "nats://127.0.0.1:1".to_owned();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = Worker::builder(&away).shutdown(async { drop(stopped.await) }).run();
    // The worker begins before it is asked.
    let (ended, ()) = timeout(DEADLINE, async { tokio::join!(running, async { drop(stop) }) }).await.unwrap();
    ended.unwrap();
}
