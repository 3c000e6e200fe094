//! What handlers report while they run: told to whoever asks, and live to the client on routes that say so.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate_cli::client::{Client, Event, Events};
use tidegate_worker::{Failure, FollowUp, Json, Progress, RequestId, Router, State, on};
use tokio::{sync::Semaphore, time::timeout};

use crate::support::{DEADLINE, Notes, Tide, eventually, header};

const ROUTES: &str = "[[route]]\nname = \"work\"\nmatch = \"rpc.work\"\nprogress = true\n\
                      [[route]]\nname = \"quiet\"\nmatch = \"rpc.quiet\"\n\
                      [[route]]\nname = \"later\"\nmatch = \"rpc.later\"\nanswer = \"later\"\nprogress = true\nbackoff = { base = \"1h\", cap = \"1h\" }\n";

#[derive(Clone)]
struct Work {
    ids: Notes,
    go_on: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self { ids: Notes::default(), go_on: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until a handler has begun, and returns the id of its request.
    async fn id(&self) -> Value {
        eventually("a handler has begun", async || self.ids.all().first().cloned()).await
    }
}

/// Reports, and then waits until it may go on.
async fn render(
    State(work): State<Work>,
    progress: Progress,
    RequestId(id): RequestId,
) -> Json<&'static str> {
    progress.stage("render").note("page 3 of 9").set(40);
    work.ids.note(id);
    drop(work.go_on.acquire().await);
    Json("done")
}

async fn message(events: &mut Events) -> Value {
    let found = timeout(DEADLINE, async {
        loop {
            if let Some(Event::Message { data }) = events.next().await {
                return data;
            }
        }
    });
    serde_json::from_slice(&found.await.unwrap()).unwrap()
}

async fn status(client: &Client, id: &Value) -> Value {
    let status = client.rpc("tide.status", json!({"id": id}).to_string()).await.unwrap();
    serde_json::from_slice(&status).unwrap()
}

#[tokio::test]
async fn a_waiting_client_gets_reports_live_and_others_are_told_the_newest_one() {
    let (tide, work) = (Tide::start_with_gateway(ROUTES).await, Work::new());
    let router = Router::with_state(work.clone()).route("work", on(render)).route("quiet", on(render));
    let _worker = tide.work("w-1", router).await;
    let ((client, mut events), (asks, mut others)) = (tide.client("42").await, tide.client("42").await);
    let go_on = async {
        let told = message(&mut events).await;
        let id = work.id().await;
        let told = &told["progress"];
        let expected = (&json!(40), &json!("render"), &json!("page 3 of 9"), &id);
        assert_eq!((&told["percent"], &told["stage"], &told["note"], &told["id"]), expected);
        let status = status(&asks, &id).await;
        assert_eq!(status["state"], "running");
        assert_eq!(status["progress"]["percent"], 40);
        let at = humantime::parse_rfc3339(status["progress"]["at"].as_str().unwrap()).unwrap();
        assert!(at > std::time::SystemTime::now() - Duration::from_mins(1), "{status}");
        work.go_on.add_permits(1);
    };
    let (answer, ()) = tokio::join!(client.rpc("work", "1"), go_on);
    assert_eq!(answer.unwrap(), "\"done\"");
    work.go_on.add_permits(1);
    client.rpc("quiet", "1").await.unwrap();
    // A message behind everything before.
    let marker = json!("marker");
    for (client, events) in [(&client, &mut events), (&asks, &mut others)] {
        let id = tidegate_shared::id::ClientId::parse(client.id()).unwrap();
        let subject = tide.subjects.push_client(&id);
        let nats = &tide.config().nats;
        let service =
            tidegate_shared::broker::Broker::connect(nats, &nats.service, "s", 1, true).await.unwrap();
        service.client().publish(subject, marker.to_string().into()).await.unwrap();
        assert_eq!(message(events).await, marker, "no other client, and nothing of a route without progress");
    }
}

#[tokio::test]
async fn a_later_request_reports_to_every_connection_of_its_user_and_its_last_report_stays_while_it_waits() {
    async fn fails(progress: Progress) -> Result<(), Failure> {
        progress.set(99).stage("upload");
        // The client hears of it while it runs.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Err(Failure::retry(anyhow::anyhow!("the line is down")))
    }
    let tide = Tide::start_with_gateway(ROUTES).await;
    let _worker = tide.work("w-1", Router::new().route("later", on(fails))).await;
    let ((client, mut events), (_other, mut others)) = (tide.client("42").await, tide.client("42").await);
    let receipt: Value = serde_json::from_slice(&client.rpc("later", "1").await.unwrap()).unwrap();
    for events in [&mut events, &mut others] {
        let told = message(events).await;
        assert_eq!((&told["progress"]["id"], &told["progress"]["percent"]), (&receipt["id"], &json!(99)));
    }
    let waits = eventually("it waits for its next attempt", async || {
        let status = status(&client, &receipt["id"]).await;
        (status["state"] == "waiting").then_some(status)
    })
    .await;
    assert_eq!((&waits["progress"]["percent"], &waits["progress"]["stage"]), (&json!(99), &json!("upload")));
}

#[tokio::test]
async fn nobody_hears_of_the_reports_of_a_silent_follow_up() {
    async fn quiet(State(_): State<Work>) -> Result<FollowUp, Failure> {
        Ok(FollowUp::json("work", &11)?.silent())
    }
    async fn reports(State(work): State<Work>, progress: Progress, Json(percent): Json<u8>) {
        progress.set(percent);
        if percent == 11 {
            // Whoever heard of it would hear of it while it runs.
            tokio::time::sleep(Duration::from_millis(300)).await;
            work.ids.note(percent);
        } else {
            drop(work.go_on.acquire().await);
        }
    }
    let (tide, work) = (Tide::start_with_gateway(ROUTES).await, Work::new());
    let router = Router::with_state(work.clone()).route("quiet", on(quiet)).route("work", on(reports));
    let _worker = tide.work("w-1", router).await;
    let (client, mut events) = tide.client("42").await;
    client.rpc("quiet", "1").await.unwrap();
    // The follow-up has ended.
    work.id().await;
    let hears = async {
        assert_eq!(message(&mut events).await["progress"]["percent"], 22);
        work.go_on.add_permits(1);
    };
    tokio::join!(client.rpc("work", "22"), hears).0.unwrap();
}

#[tokio::test]
async fn a_dead_letter_says_how_far_its_handler_was() {
    async fn fails(progress: Progress) -> Result<(), Failure> {
        progress.stage("upload");
        Err(Failure::dead("the line is gone"))
    }
    let tide = Tide::start(ROUTES).await;
    let _worker = tide.work("w-1", Router::new().route("work", on(fails))).await;
    tide.ask("work", "1").await;
    let report: Value =
        serde_json::from_str(header(&tide.dead_letter("work").await, "Tide-Progress")).unwrap();
    assert_eq!(report["stage"], "upload");
}

#[tokio::test]
async fn a_handler_that_reports_without_end_costs_its_client_a_few_messages() {
    async fn busy(progress: Progress) -> Json<&'static str> {
        let until = tokio::time::Instant::now() + Duration::from_millis(600);
        while tokio::time::Instant::now() < until {
            for _ in 0..1000 {
                progress.set(50).note("n".repeat(10_000));
            }
            tokio::task::yield_now().await;
        }
        Json("done")
    }
    let tide = Tide::start_with_gateway(ROUTES).await;
    let _worker = tide.work("w-1", Router::new().route("work", on(busy))).await;
    let (client, mut events) = tide.client("42").await;
    assert_eq!(client.rpc("work", "1").await.unwrap(), "\"done\"");
    let mut messages = 0;
    while let Some(event) = events.try_next() {
        if let Event::Message { data } = event {
            assert!(data.len() < 1000, "{}", data.len());
            messages += 1;
        }
    }
    assert!((1..=8).contains(&messages), "{messages} messages");
}
