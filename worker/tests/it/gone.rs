//! Requests whose client has gone, on routes that cancel them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tidegate_cli::{client::Client, stack::Kind};
use tidegate_worker::{
    Cancel, Failure, FollowUp, Json, Publication, Router, State, Worker, on,
    testing::{self, Point},
};
use tokio::task::JoinSet;

use crate::support::{Notes, Running, Tide, eventually, next};

const ROUTES: &str = "[[route]]\nname = \"work\"\nmatch = \"rpc.work\"\ncancel_when_gone = true\n\
                      [[route]]\nname = \"stays\"\nmatch = \"rpc.stays\"\n";

#[derive(Clone, Default)]
struct Seen {
    begun: Notes,
    noticed: Arc<AtomicU32>,
}

/// Answers at once, unless it is to wait until it is cancelled.
async fn work(State(seen): State<Seen>, cancel: Cancel, Json(body): Json<Value>) -> Json<Value> {
    seen.begun.note(body.clone());
    if body == "wait" {
        cancel.cancelled().await;
        seen.noticed.fetch_add(1, SeqCst);
    }
    Json(body)
}

fn router(seen: &Seen) -> Router<Seen> {
    Router::with_state(seen.clone()).route("work", on(work)).route("stays", on(work))
}

/// Makes these calls without waiting for their answers, in their order.
async fn call(tide: &Tide, client: &Arc<Client>, calls: &[(&'static str, &str)]) -> JoinSet<()> {
    let mut waiting = JoinSet::new();
    for (method, body) in calls {
        let route = method.split('#').next().unwrap();
        let before = tide.unsettled(route).await;
        let (client, method, body) = (Arc::clone(client), *method, json!(body).to_string());
        waiting.spawn(async move { drop(client.rpc(method, body).await) });
        eventually("it is stored", async || (tide.unsettled(route).await > before).then_some(())).await;
    }
    waiting
}

#[tokio::test]
async fn a_request_that_waits_never_runs_when_its_client_has_gone() {
    let (tide, seen) = (Tide::start_with_gateway(ROUTES).await, Seen::default());
    let ((gone, _), (there, _)) = (tide.client("42").await, tide.client("42").await);
    let (gone, there) = (Arc::new(gone), Arc::new(there));
    let calls = [("work", "gone"), ("work#key", "keyed"), ("stays", "stays")];
    let _waiting = call(&tide, &gone, &calls).await;
    let _there = call(&tide, &there, &[("work", "there")]).await;
    gone.close().await;
    let worker = tide.work("w1", router(&seen)).await;
    tide.settled().await;
    let mut begun: Vec<String> =
        seen.begun.all().iter().map(|body| body.as_str().unwrap().to_owned()).collect();
    begun.sort();
    assert_eq!(begun, ["keyed", "stays", "there"]);
    assert_eq!((worker.outcomes("work", "cancelled"), worker.outcomes("work", "ok")), (1, 2));
}

#[tokio::test]
async fn the_handler_of_a_running_request_learns_that_its_client_has_gone_and_nothing_is_answered() {
    let (tide, seen) = (Tide::start_with_gateway(ROUTES).await, Seen::default());
    let worker = tide.work("w1", router(&seen)).await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let (client, _) = tide.client("42").await;
    let client = Arc::new(client);
    let _waiting = call(&tide, &client, &[("work", "wait")]).await;
    eventually("it runs", async || (seen.begun.all().len() == 1).then_some(())).await;
    client.close().await;
    eventually("the handler notices", async || (seen.noticed.load(SeqCst) == 1).then_some(())).await;
    tide.settled().await;
    assert_eq!(worker.outcomes("work", "cancelled"), 1);
    assert_eq!((tide.count("TIDE_REPLY").await, tide.count("TIDE_DEAD").await), (0, 0));
    // Whatever came before this has come.
    let (other, _) = tide.client("43").await;
    assert_eq!(other.rpc("work", "\"x\"").await.unwrap(), "\"x\"");
    assert!(personal.next().now_or_never().is_none(), "the user is told nothing");
}

#[tokio::test]
async fn what_a_handler_has_made_is_stored_when_its_client_goes_before_it_has_succeeded() {
    async fn books(State(seen): State<Seen>, cancel: Cancel) -> Result<(Publication, FollowUp), Failure> {
        seen.begun.note("books");
        cancel.cancelled().await;
        Ok((Publication::bytes("chat:a", "\"booked\""), FollowUp::json("stays", &"follows")?))
    }
    let (tide, seen) = (Tide::start_with_gateway(ROUTES).await, Seen::default());
    let router = Router::with_state(seen.clone()).route("work", on(books)).route("stays", on(work));
    // Steps of a request that is answered, which this one is not.
    let fault = |point| testing::fault(point).on_route("work");
    let builder = Worker::builder(tide.config()).name("w1").router(router);
    let builder = builder.fault(fault(Point::AfterRun)).fault(fault(Point::BeforeAck));
    let worker = Running(builder.start().await.unwrap());
    let mut chat = tide.listen("tide.live.chat.a").await;
    let (client, _) = tide.client("42").await;
    let client = Arc::new(client);
    let _waiting = call(&tide, &client, &[("work", "wait")]).await;
    eventually("it runs", async || (seen.begun.all().len() == 1).then_some(())).await;
    client.close().await;
    eventually("the follow-up runs", async || {
        (seen.begun.all() == [json!("books"), json!("follows")]).then_some(())
    })
    .await;
    assert_eq!(next(&mut chat).await.payload, "\"booked\"");
    tide.settled().await;
    assert_eq!(worker.outcomes("work", "cancelled"), 1);
    assert_eq!(
        (tide.count("TIDE_REPLY").await, tide.count("TIDE_DEAD").await),
        (1, 0),
        "the follow-up's answer alone"
    );
}

#[tokio::test]
async fn a_request_goes_on_when_its_gateway_drains() {
    let (tide, seen) = (Tide::start_with_gateway(ROUTES).await, Seen::default());
    let worker = tide.work("w1", router(&seen)).await;
    let (client, _) = tide.client("42").await;
    let client = Arc::new(client);
    let _waiting = call(&tide, &client, &[("work", "wait")]).await;
    eventually("it runs", async || (seen.begun.all().len() == 1).then_some(())).await;
    tide.stack.scale(Kind::Gateway, 0).await.unwrap();
    assert!(client.closed().is_some(), "the gateway has ended the connection");
    // What the worker was told before this has come.
    let other = tide.ask("stays", "\"after\"").await;
    eventually("another one runs", async || (seen.begun.all().len() == 2).then_some(())).await;
    assert_eq!((seen.noticed.load(SeqCst), worker.outcomes("work", "cancelled")), (0, 0), "{other:?}");
}

#[tokio::test]
async fn a_request_runs_when_its_gateway_says_nothing() {
    let (tide, seen) = (Tide::start(ROUTES).await, Seen::default());
    let _worker = tide.work("w1", router(&seen)).await;
    // Its gateway has never been there.
    tide.ask("work", "\"alone\"").await;
    eventually("it runs", async || (seen.begun.all() == [json!("alone")]).then_some(())).await;
}
