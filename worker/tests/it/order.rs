//! Order per key, priority, and limits over all workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tidegate_cli::stack::setup;
use tidegate_shared::{
    config::{Config, Order, Route},
    envelope::Request,
    route::Priority,
};
use tidegate_worker::{Attempt, Failure, Job, Router, State, Worker, on};
use tokio::{sync::Semaphore, time::Instant};

use crate::support::{Notes, Tide, eventually};

/// A request of the route `job` with this ordering key and number.
fn of_key(tide: &Tide, key: &str, number: usize) -> Request {
    Request {
        route: "job".to_owned(),
        key: Some(key.to_owned()),
        ..tide.request(&format!("job.{key}"), number.to_string())
    }
}

fn route(settings: &str) -> String {
    format!("[[route]]\nname = 'job'\nmatch = 'rpc.job.{{key}}'\nordered_by = '{{key}}'\n{settings}\n")
}

/// What is noted about a job: its key and its number.
fn about(job: &Job) -> Value {
    let number: Value = serde_json::from_slice(&job.body()).unwrap();
    json!([job.param("key").unwrap(), number])
}

/// The numbers that were noted for a key, without repetitions of one directly behind another.
fn numbers(notes: &Notes, key: &str) -> Vec<u64> {
    let all = notes.all();
    let mut numbers: Vec<u64> =
        all.iter().filter(|note| note[0] == key).map(|note| note[1].as_u64().unwrap()).collect();
    numbers.dedup();
    numbers
}

#[derive(Clone, Default)]
struct Gated {
    notes: Notes,
    open: Arc<AtomicBool>,
}

#[tokio::test]
async fn a_failing_key_blocks_its_own_line_and_no_other() {
    async fn job(State(gated): State<Gated>, job: Job) -> Result<(), Failure> {
        gated.notes.note(about(&job));
        let blocked = job.param("key") == Some("a") && !gated.open.load(SeqCst);
        if blocked {
            Err(Failure::retry_after(Duration::from_millis(20), anyhow::anyhow!("not yet")))
        } else {
            Ok(())
        }
    }
    let tide = Tide::start(&route("order = 'best'\nconcurrency = 2\nmax_attempts = 100000")).await;
    // More than the route works on at a time.
    for number in 0..20 {
        tide.send(&of_key(&tide, "a", number)).await;
    }
    for number in 0..5 {
        tide.send(&of_key(&tide, "b", number)).await;
    }
    let gated = Gated::default();
    let worker = tide.work("w1", Router::with_state(gated.clone()).route("job", on(job))).await;
    eventually("the other key is done", async || (numbers(&gated.notes, "b").len() == 5).then_some(())).await;
    eventually("a request is tried again in its line", async || {
        (worker.outcomes("job", "retry") > 3).then_some(())
    })
    .await;
    assert_eq!(numbers(&gated.notes, "a"), [0], "nothing of the key overtakes it");
    gated.open.store(true, SeqCst);
    tide.settled().await;
    assert_eq!(numbers(&gated.notes, "a"), (0..20).collect::<Vec<_>>());
    assert_eq!(numbers(&gated.notes, "b"), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_strict_order_holds_over_workers_and_failures() {
    async fn job(State(notes): State<Notes>, Attempt(attempt): Attempt, job: Job) -> Result<(), Failure> {
        let about = about(&job);
        notes.note(about.clone());
        let fails = about[1].as_u64().unwrap() % 5 == 1 && attempt == 0;
        if fails {
            Err(Failure::retry_after(Duration::from_millis(30), anyhow::anyhow!("once")))
        } else {
            Ok(())
        }
    }
    let tide = Tide::start(&route("order = 'strict'\npartitions = 4\nmax_attempts = 2")).await;
    let notes = Notes::default();
    let router = || Router::with_state(notes.clone()).route("job", on(job));
    let first = tide.work("w1", router()).await;
    let mut second = None;
    let keys = ["a", "b", "c", "d", "e"];
    for number in 0..20 {
        for key in keys {
            tide.send(&of_key(&tide, key, number)).await;
        }
        if number == 10 {
            first.drain();
        }
        if number == 5 {
            second = Some(tide.work("w2", router()).await);
        }
    }
    first.ended().await;
    tide.settled().await;
    for key in keys {
        assert_eq!(numbers(&notes, key), (0..20).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!(tide.count("TIDE_DEAD").await, 0);
    assert_eq!(second.unwrap().outcomes("job", "dead"), 0);
}

#[tokio::test]
async fn a_dead_letter_in_a_strict_order_lets_the_next_request_pass() {
    async fn job(State(notes): State<Notes>, job: Job) -> Result<(), Failure> {
        let about = about(&job);
        notes.note(about.clone());
        if about[1] == 0 {
            Err(Failure::retry_after(Duration::from_millis(20), anyhow::anyhow!("never")))
        } else {
            Ok(())
        }
    }
    let tide = Tide::start(&route("order = 'strict'\nmax_attempts = 3")).await;
    for number in 0..3 {
        tide.send(&of_key(&tide, "a", number)).await;
    }
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(job))).await;
    tide.settled().await;
    let all: Vec<u64> = notes.all().iter().map(|note| note[1].as_u64().unwrap()).collect();
    assert_eq!(all, [0, 0, 0, 1, 2]);
    assert_eq!(tide.dead_letter("job").await.payload, "0");
}

#[tokio::test]
async fn in_a_strict_order_a_request_that_was_given_back_loses_no_attempt_and_one_that_loses_its_workers_does()
 {
    async fn job(State(gate): State<(Notes, Arc<Semaphore>)>, job: Job) {
        gate.0.note(about(&job));
        gate.1.acquire().await.unwrap().forget();
    }
    let settings = route("order = 'strict'\npartitions = 1\nmax_attempts = 1");
    let tide = Tide::start_draining(&settings, 0, "0s").await;
    let gate = (Notes::default(), Arc::new(Semaphore::new(0)));
    let router = || Router::with_state(gate.clone()).route("job", on(job));
    tide.send(&of_key(&tide, "a", 0)).await;
    for round in 1..=4 {
        let worker = tide.work("deployed", router()).await;
        eventually("it runs", async || (gate.0.all().len() == round).then_some(())).await;
        worker.drain();
        worker.ended().await;
    }
    gate.1.add_permits(1);
    let last = tide.work("last", router()).await;
    tide.settled().await;
    assert_eq!(last.outcomes("job", "dead"), 0);
    last.drain();
    last.ended().await;

    // Whoever takes this one is never heard of again.
    tide.send(&of_key(&tide, "a", 1)).await;
    let consumer = tide.consumers("job").remove(0);
    let admin = tide.stack.admin().await.unwrap();
    let lost: PullConsumer =
        admin.jetstream().get_consumer_from_stream(consumer.name, consumer.stream).await.unwrap();
    for _ in 0..3 {
        let mut batch =
            lost.fetch().max_messages(1).expires(Duration::from_secs(1)).messages().await.unwrap();
        eventually("it is lost again", async || {
            if let Some(message) = batch.next().await {
                return Some(message.unwrap());
            }
            let again = lost.fetch().max_messages(1).expires(Duration::from_secs(1));
            batch = again.messages().await.unwrap();
            None
        })
        .await;
    }
    let _worker = tide.work("next", router()).await;
    let letter = tide.dead_letter("job").await;
    assert_eq!(letter.payload, "1");
    assert_eq!(gate.0.all().len(), 5, "its handler never ran");
    tide.settled().await;
}

#[tokio::test]
async fn the_first_lane_goes_first_and_does_not_starve_the_other() {
    async fn job(State(notes): State<Notes>, job: Job) {
        notes.note(job.param("key").unwrap());
    }
    let tide = Tide::start(&route("concurrency = 1")).await;
    for number in 0..40 {
        tide.send(&of_key(&tide, "normal", number)).await;
    }
    for number in 0..40 {
        let request = of_key(&tide, "high", number);
        tide.send(&Request { priority: Priority::High, ..request }).await;
    }
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(job))).await;
    tide.settled().await;
    let all = notes.all();
    let high = all[..40].iter().filter(|note| **note == "high").count();
    assert!((28..=36).contains(&high), "{high} of the first 40: {all:?}");
}

#[derive(Clone, Default)]
struct Counted {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[tokio::test]
async fn all_workers_together_run_at_most_max_running_requests_retries_included() {
    async fn job(State(counted): State<Counted>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        counted.most.fetch_max(counted.running.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        counted.running.fetch_sub(1, SeqCst);
        if attempt == 0 {
            Err(Failure::retry_after(Duration::from_millis(1), anyhow::anyhow!("once")))
        } else {
            Ok(())
        }
    }
    let tide = Tide::start(&route("max_running = 2\nconcurrency = 8")).await;
    for number in 0..12 {
        tide.send(&of_key(&tide, &format!("k{number}"), number)).await;
    }
    let counted = Counted::default();
    let router = || Router::with_state(counted.clone()).route("job", on(job));
    let workers = [tide.work("w1", router()).await, tide.work("w2", router()).await];
    eventually("all are done", async || {
        tide.purge_acknowledged("job").await;
        let done: u64 = workers.iter().map(|worker| worker.outcomes("job", "ok")).sum();
        (done == 12).then_some(())
    })
    .await;
    assert_eq!(counted.most.load(SeqCst), 2);
    let queued: u64 = workers.iter().map(|worker| worker.outcomes("job", "queued")).sum();
    assert_eq!(queued, 12, "each retry took its place among the waiting requests");
}

#[tokio::test]
async fn all_workers_together_begin_at_most_starts_per_second_attempts() {
    async fn job(State(notes): State<Notes>) {
        notes.note(0);
    }
    let tide = Tide::start(&route("starts_per_second = 20")).await;
    let notes = Notes::default();
    let mut workers = Vec::new();
    for name in ["w1", "w2", "w3"] {
        workers.push(tide.work(name, Router::with_state(notes.clone()).route("job", on(job))).await);
    }
    let begun = Instant::now();
    for number in 0..60 {
        tide.send(&of_key(&tide, "a", number)).await;
    }
    tide.settled().await;
    // Sixty take three seconds; the first tenth of a second may have begun before.
    assert!(begun.elapsed() >= Duration::from_millis(2700), "{:?}", begun.elapsed());
    assert_eq!(notes.all().len(), 60);
}

#[tokio::test]
async fn all_workers_and_routes_with_one_rate_limit_share_it() {
    async fn job(State(notes): State<Notes>) {
        notes.note(0);
    }
    let of = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nmatch = \"rpc.{name}\"\nhandler = \"webhook\"\n\
             [route.webhook]\nurl = \"https://shop.example.com\"\nrate_limit = \"shop\"\n"
        )
    };
    let limit = "[[rate_limit]]\nname = \"shop\"\nper_second = 20\nburst = 10\n";
    let tide = Tide::start(&format!("{limit}{}{}", of("job"), of("bill"))).await;
    let notes = Notes::default();
    let mut workers = Vec::new();
    for name in ["w1", "w2"] {
        let router = Router::with_state(notes.clone()).route("job", on(job)).route("bill", on(job));
        workers.push(tide.work(name, router).await);
    }
    let begun = Instant::now();
    for _ in 0..30 {
        tide.ask("job", "").await;
        tide.ask("bill", "").await;
    }
    tide.settled().await;
    // Sixty take six windows of half a second, of which the first may be almost over.
    assert!(begun.elapsed() >= Duration::from_millis(2450), "{:?}", begun.elapsed());
    assert_eq!(notes.all().len(), 60);
}

#[tokio::test]
async fn a_paused_route_keeps_its_requests_and_stays_paused_when_its_order_changes() {
    async fn job(State(notes): State<Notes>, job: Job) {
        notes.note(about(&job));
    }
    let tide = Tide::start(&route("")).await;
    let route = tide.config().routes[0].clone();
    let notes = Notes::default();
    let router = || Router::with_state(notes.clone()).route("job", on(job));
    let first = tide.work("w1", router()).await;
    tide.gateway.pause_route(&route, Duration::from_hours(1)).await.unwrap();
    tide.send(&of_key(&tide, "a", 0)).await;
    let state = tide.gateway.route(&route).await.unwrap();
    assert_eq!((state.waiting, state.running), (1, 0));
    let until = state.paused_until.unwrap();
    first.drain();
    first.ended().await;
    assert_eq!(notes.all().len(), 0);

    let strict = Route { order: Order::Strict, partitions: 2, ..route };
    let config = Config { routes: vec![strict.clone()], ..tide.config().clone() };
    let setup = setup::connect(&config).await.unwrap();
    let changes = setup::apply(&setup, &config).await.unwrap();
    let whats: Vec<&str> = changes.iter().map(|change| change.what.as_str()).collect();
    for what in
        ["create consumer job-1-of-2", "remove consumer job on TIDE_IN_job", "remove consumer job-first"]
    {
        assert!(whats.iter().any(|change| change.starts_with(what)), "{what}: {whats:?}");
    }
    assert_eq!(setup::plan(&setup, &config).await.unwrap(), []);
    let state = tide.gateway.route(&strict).await.unwrap();
    assert_eq!((state.waiting, state.paused_until), (1, Some(until)));
    tide.gateway.resume_route(&strict).await.unwrap();
    assert_eq!(tide.gateway.route(&strict).await.unwrap().paused_until, None);
    let worker = Worker::builder(&config).name("w2").router(router()).start().await.unwrap();
    eventually("the request is worked on", async || (notes.all().len() == 1).then_some(())).await;
    worker.drain();
    worker.ended().await.unwrap();
}
