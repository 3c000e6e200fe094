//! Workers that die: only what had begun, and fails alone, counts an attempt.

use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    envelope::Request,
    topology::{RouteConsumer, Takes},
};
use tidegate_worker::{
    Attempt, Json, Router, State, Worker, on,
    testing::{self, Point},
};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use crate::support::{Notes, Running, Tide, header};

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

/// A killer and its neighbours, which were delivered to be tried alone and lost with their worker.
async fn lost(tide: &Tide, neighbours: usize) -> Request {
    let suspect = |body: &'static str| tide.request("job", body);
    let killer = suspect("kill");
    for request in std::iter::once(killer.clone()).chain((0..neighbours).map(|_| suspect(""))) {
        tide.send_with(&request, &[("Tide-Suspect", "2")]).await;
    }
    let mut batch = own_consumer(tide).await.fetch().max_messages(neighbours + 1).messages().await.unwrap();
    for _ in 0..=neighbours {
        batch.next().await.unwrap().unwrap();
    }
    killer
}

/// The consumer of the route's own stream, as it is now.
async fn own_consumer(tide: &Tide) -> PullConsumer {
    let takes = |consumer: &RouteConsumer| consumer.takes == Takes::New;
    let own = tide.consumers("job").into_iter().find(takes).unwrap();
    tide.stack
        .admin()
        .await
        .unwrap()
        .jetstream()
        .get_consumer_from_stream(own.name, own.stream)
        .await
        .unwrap()
}

/// A worker in which so many requests are held up for so long between being parked and being acknowledged.
async fn slow_worker(tide: &Tide, world: &World, times: u32, time: Duration) -> Running {
    let router = Router::with_state(world.clone()).route("job", on(works));
    let slow = testing::fault(Point::BeforeAck).times(times).stalls(time);
    Running(Worker::builder(tide.config()).name("slow").router(router).fault(slow).start().await.unwrap())
}

#[tokio::test]
async fn a_suspect_that_is_tried_alone_begins_when_those_lost_with_it_are_parked_however_slowly() {
    let tide = Tide::start(ROUTE).await;
    let (kill, mut kills) = mpsc::channel(1);
    let world = World(kill, Notes::default());
    lost(&tide, 4).await;
    let _worker = slow_worker(&tide, &world, 4, Duration::from_millis(800)).await;
    kills.recv().await.unwrap();
    let unsettled = own_consumer(&tide).await.cached_info().num_ack_pending;
    assert!(unsettled <= 1, "it has begun beside {} others that were lost", unsettled - 1);
}

#[tokio::test]
async fn a_suspect_is_parked_instead_of_being_tried_beside_one_that_cannot_be_parked_in_time() {
    let tide = Tide::start(ROUTE).await;
    let (kill, _kills) = mpsc::channel(1);
    let world = World(kill, Notes::default());
    let killer = lost(&tide, 1).await;
    let _worker = slow_worker(&tide, &world, 1, Duration::from_secs(4)).await;
    let parked = tide.parked(&killer).await;
    assert!(world.1.all().is_empty(), "it has begun");
    assert_eq!((header(&parked, "Tide-Suspect"), header(&parked, "Tide-Attempt")), ("2", "0"));
}
