//! Requests that are cancelled while they wait or run, and what gateways learn about running ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_shared::{broker::Broker, id::RequestId};
use tidegate_worker::{Cancel, Json, Router, State, on};
use tokio::sync::Notify;

use crate::support::{Tide, eventually};

const ROUTES: &str = "[[route]]\nname = \"work\"\nmatch = \"rpc.work\"\n";

/// Calls the server API as a service does.
struct Service(Broker);

impl Service {
    async fn of(tide: &Tide) -> Self {
        let nats = &tide.config().nats;
        Self(Broker::connect(nats, &nats.service, "a service", 8, true).await.unwrap())
    }

    async fn ask(&self, method: &str, about: Value) -> Value {
        let answer = self.0.client().request(format!("tide.ctl.{method}"), about.to_string().into()).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        assert!(answer["result"].is_object(), "{method} {about}: {answer}");
        answer["result"].clone()
    }

    async fn enqueue(&self, data: Value) -> Value {
        self.ask("enqueue", json!({"method": "work", "data": data})).await["id"].clone()
    }

    async fn until(&self, id: &Value, state: &str) -> Value {
        eventually(state, async || {
            let job = self.ask("job", json!({"id": id})).await;
            (job["state"] == state).then_some(job)
        })
        .await
    }
}

#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicU32>,
    noticed: Arc<AtomicU32>,
    ended: Arc<AtomicU32>,
    never: Arc<Notify>,
}

/// Notices that it is cancelled.
async fn polite(State(seen): State<Seen>, cancel: Cancel) -> Json<&'static str> {
    seen.begun.fetch_add(1, SeqCst);
    cancel.cancelled().await;
    seen.noticed.fetch_add(1, SeqCst);
    Json("too late")
}

/// Counts that its future is dropped.
struct Ends(Arc<AtomicU32>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Goes on for ever.
async fn stubborn(State(seen): State<Seen>) {
    let _ends = Ends(Arc::clone(&seen.ended));
    seen.begun.fetch_add(1, SeqCst);
    seen.never.notified().await;
}

#[tokio::test]
async fn a_running_request_is_known_and_its_handler_learns_that_it_is_cancelled() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let (service, seen) = (Service::of(&tide).await, Seen::default());
    let worker = tide.work("w-1", Router::with_state(seen.clone()).route("work", on(polite))).await;
    let id = service.enqueue(json!(1)).await;
    let job = service.until(&id, "running").await;
    assert_eq!((&job["worker"], &job["attempt"]), (&json!("w-1"), &json!(0)));
    assert!(job["since"].is_string());
    assert_eq!(service.ask("job_cancel", json!({"id": id})).await["state"], "cancelled");
    eventually("the handler notices", async || (seen.noticed.load(SeqCst) == 1).then_some(())).await;
    tide.settled().await;
    assert_eq!(
        service.ask("job", json!({"id": id})).await["state"],
        "cancelled",
        "its own answer is too late"
    );
    assert_eq!((seen.begun.load(SeqCst), worker.outcomes("work", "already_answered")), (1, 1));
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_dropped_and_not_tried_again() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let (service, seen) = (Service::of(&tide).await, Seen::default());
    let _worker = tide.work("w-1", Router::with_state(seen.clone()).route("work", on(stubborn))).await;
    let id = service.enqueue(json!(1)).await;
    service.until(&id, "running").await;
    service.ask("job_cancel", json!({"id": id})).await;
    eventually("its future is dropped", async || (seen.ended.load(SeqCst) == 1).then_some(())).await;
    tide.settled().await;
    assert_eq!(seen.begun.load(SeqCst), 1);
    assert_eq!(service.ask("job", json!({"id": id})).await["state"], "cancelled");
}

#[tokio::test]
async fn a_request_that_is_cancelled_while_the_limit_of_its_route_holds_it_up_never_runs() {
    let tide = Tide::start_with_gateway(&format!("{ROUTES}starts_per_second = 1\n")).await;
    let (service, seen) = (Service::of(&tide).await, Seen::default());
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(service.enqueue(json!(n)).await);
    }
    let worker = tide.work("w-1", Router::with_state(seen.clone()).route("work", on(quick))).await;
    eventually("one runs", async || (seen.begun.load(SeqCst) == 1).then_some(())).await;
    let mut cancelled = 0;
    for id in &ids {
        cancelled += u32::from(service.ask("job_cancel", json!({"id": id})).await["state"] == "cancelled");
    }
    tide.settled().await;
    let begun = seen.begun.load(SeqCst);
    assert!(cancelled >= 1 && begun + cancelled <= 5, "{begun} ran and {cancelled} were cancelled");
    assert_eq!(worker.outcomes("work", "already_answered"), u64::from(cancelled));
}

/// Works for about as long as it takes to cancel it.
async fn quick(State(seen): State<Seen>, Json(n): Json<u64>) -> Json<u64> {
    seen.begun.fetch_add(1, SeqCst);
    tokio::time::sleep(Duration::from_millis(n % 12)).await;
    Json(n)
}

#[tokio::test]
async fn whichever_is_stored_first_counts_when_a_request_is_cancelled_while_it_is_answered() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let (service, seen) = (Service::of(&tide).await, Seen::default());
    let _worker = tide.work("w-1", Router::with_state(seen.clone()).route("work", on(quick))).await;
    let mut told = Vec::new();
    for n in 0..60 {
        let id = service.enqueue(json!(n)).await;
        told.push((id.clone(), service.ask("job_cancel", json!({"id": id})).await["state"].clone()));
    }
    tide.settled().await;
    for (n, (id, told)) in told.iter().enumerate() {
        let job = service.ask("job", json!({"id": id})).await;
        assert_eq!(job["state"], *told, "what the caller was told stays so: {job}");
        assert!(told == "cancelled" || job["data"] == json!(n), "{job}");
        let id = RequestId::parse(id.as_str().unwrap()).unwrap();
        let stored = tide.gateway.last("TIDE_REPLY", &tide.subjects.reply(&id)).await.unwrap();
        assert!(stored.is_some(), "one answer is stored");
    }
    assert_eq!(tide.count("TIDE_REPLY").await, 60);
}
