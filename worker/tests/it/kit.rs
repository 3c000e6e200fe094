//! The test kit: a real broker for the tests of applications, and faults that they plan.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tidegate_cli::stack::Stack;
use tidegate_worker::{
    Attempt, Channel, Failure, FollowUp, Grant, Json, Publication, Router, Schedules, State, User, When, on,
    testing::{self, CallFailure, NotStarted, Point, Tide},
};
use tokio::time::timeout;

use crate::support::DEADLINE;

const CONFIG: &str = "[worker]\nack_wait = \"1s\"\n[[namespace]]\nname = \"chat\"\nhistory_size = 10\n\
                      publish = \"worker\"\nallow_publish = \"authenticated\"\n\
                      [[route]]\nname = \"pay\"\nmatch = \"rpc.pay.{order}\"\nmax_attempts = 2\nbackoff = { base = \"10ms\", cap = \"10ms\" }\n\
                      [[route]]\nname = \"rooms\"\nmatch = \"pub.chat\"\n\
                      [[route]]\nname = \"entry\"\nmatch = \"hook.connect\"\n";

/// A broker. On a machine that has no nats-server yet, a stack fetches one first.
async fn tide() -> Tide {
    match Tide::start(CONFIG).await {
        Err(NotStarted::NoServer(_)) => {
            Stack::builder().start().await.unwrap().down().await;
            Tide::start(CONFIG).await.unwrap()
        }
        started => started.unwrap(),
    }
}

/// How often the handler has run.
type Runs = Arc<AtomicU32>;

async fn pay(
    State(runs): State<Runs>,
    User(user): User,
    Attempt(attempt): Attempt,
    Json(cents): Json<i64>,
) -> Result<(Json<i64>, Publication), Failure> {
    runs.fetch_add(1, Ordering::Relaxed);
    match cents {
        0 => Err(Failure::reject(422, "nothing to pay")),
        cents if cents < 0 => Err(Failure::retry(anyhow::anyhow!("attempt {attempt}: no bank"))),
        cents => Ok((Json(cents), Publication::bytes("chat:payments", user).tag("kind", "payment"))),
    }
}

async fn rooms(Channel(channel): Channel, body: bytes::Bytes) -> Publication {
    Publication::bytes(channel, body)
}

async fn entry() -> Grant {
    Grant::new().user("guest")
}

fn router(runs: &Runs) -> Router<Runs> {
    Router::with_state(Arc::clone(runs))
        .route("pay", on(pay))
        .route("rooms", on(rooms))
        .decide("connect", entry)
}

#[tokio::test]
async fn an_application_sends_requests_to_its_handlers_over_a_real_broker() {
    let (tide, runs) = (tide().await, Runs::default());
    let worker = tide.worker().router(router(&runs)).start().await.unwrap();
    let job = || testing::job("pay.7").user("42");

    assert_eq!(tide.call(job().json(&5)).await.unwrap().to_json::<i64>().unwrap(), 5);
    let published = tide.published("chat:payments").await.unwrap();
    assert_eq!((&published[0].data[..], published[0].tags["kind"].as_str()), (&b"42"[..], "payment"));

    let refused = tide.call(job().json(&0)).await.unwrap_err();
    assert!(matches!(&refused, CallFailure::Error { code: 422, .. }), "{refused}");
    let dead = tide.call(job().json(&-1)).await.unwrap_err();
    assert!(matches!(&dead, CallFailure::Error { code: 1004, .. }), "{dead}");
    let letter = tide.dead_letters("pay").await.unwrap().remove(0);
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("attempts", "attempt 1: no bank"));
    assert_eq!((letter.attempts, &letter.body[..]), (2, &b"-1"[..]));

    let before = runs.load(Ordering::Relaxed);
    for _ in 0..2 {
        let answer = tide.call(job().key("k1").json(&9)).await.unwrap();
        assert_eq!(answer.to_json::<i64>().unwrap(), 9);
    }
    assert_eq!(runs.load(Ordering::Relaxed) - before, 1, "one key, one run");
    tide.call(job().later().json(&3)).await.unwrap();
    tide.call(testing::publication("rooms", "chat:lobby").user("42").bytes("\"hi\"")).await.unwrap();
    assert_eq!(tide.published("chat:lobby").await.unwrap()[0].data, "\"hi\"");
    let decision = tide.call(testing::question("connect")).await.unwrap();
    assert_eq!(decision.body, r#"{"result":{"user":"guest"}}"#);

    tide.send(job().json(&1)).await.unwrap();
    tide.settled().await.unwrap();
    worker.drain();
    timeout(DEADLINE, worker.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_schedule_that_a_handler_has_set_is_no_unsettled_request() {
    async fn pay(schedules: Schedules) -> Result<(), Failure> {
        schedules.set("a", When::every(Duration::from_hours(1)), FollowUp::bytes("pay.8", "1")).await?;
        Ok(())
    }
    let tide = tide().await;
    let _worker = tide.worker().router(Router::new().route("pay", on(pay))).start().await.unwrap();
    tide.call(testing::job("pay.7").user("42").json(&1)).await.unwrap();
    tide.settled().await.unwrap();
}

#[tokio::test]
async fn what_a_test_cannot_send_or_start_is_told_in_words() {
    let error = Tide::start("[gateway]\nlistn = 1\n").await.unwrap_err();
    assert!(matches!(error, NotStarted::Config(_)) && error.to_string().contains("gateway.listn"), "{error}");
    let tide = tide().await;
    for (job, says) in [
        (
            testing::job("refund"),
            "no [[route]] takes this job; there are rpc.pay.{order}, pub.chat, hook.connect",
        ),
        (testing::job("pay.7").key("a"), "needs a user"),
        (testing::question("subscribe"), "no worker decides subscribe"),
    ] {
        let error = tide.call(job).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_worker_that_crashes_before_its_acknowledgement_leaves_its_answer_to_the_next_one() {
    let (tide, runs) = (tide().await, Runs::default());
    let crashes = testing::fault(Point::BeforeAck).on_route("pay");
    let worker = tide.worker().router(router(&runs)).fault(crashes).start().await.unwrap();
    let job = testing::job("pay.7").user("42").key("a").json(&5);
    assert_eq!(tide.call(job).await.unwrap().to_json::<i64>().unwrap(), 5);
    let ended = timeout(DEADLINE, worker.ended()).await.unwrap().unwrap_err();
    assert_eq!(ended.reason, "a planned crash");

    let next = tide.worker().router(router(&runs)).start().await.unwrap();
    tide.settled().await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1, "the next worker finds the answer, and runs nothing");
    let line = "tidegate_worker_requests_total{route=\"pay\",outcome=\"already_answered\"} 1";
    assert!(next.metrics().contains(line), "{}", next.metrics());
}

#[tokio::test]
async fn a_worker_that_crashes_before_the_answer_runs_the_handler_again_and_publishes_once() {
    for (point, published) in [(Point::BeforeRun, 1), (Point::AfterRun, 1), (Point::AfterPublications, 1)] {
        let (tide, runs) = (tide().await, Runs::default());
        let crashing = tide.worker().router(router(&runs)).fault(testing::fault(point));
        let crashing = crashing.start().await.unwrap();
        tide.send(testing::job("pay.7").user("42").json(&5)).await.unwrap();
        timeout(DEADLINE, crashing.ended()).await.unwrap().unwrap_err();
        let _next = tide.worker().router(router(&runs)).start().await.unwrap();
        tide.settled().await.unwrap();
        let expected = if point == Point::BeforeRun { 1 } else { 2 };
        assert_eq!(runs.load(Ordering::Relaxed), expected, "{point:?}");
        assert_eq!(tide.published("chat:payments").await.unwrap().len(), published, "{point:?}");
    }
}

#[tokio::test]
async fn a_worker_that_hangs_beyond_ack_wait_shares_its_request_with_another_one() {
    let (tide, runs) = (tide().await, Runs::default());
    let hangs = testing::fault(Point::AfterRun).stalls(Duration::from_secs(4));
    let hanging = tide.worker().router(router(&runs)).fault(hangs).start().await.unwrap();
    let id = tide.send(testing::job("pay.7").user("42").key("a").json(&5)).await.unwrap();
    let job = testing::job("pay.7").user("42").key("a").json(&5);
    let answer = tide.call(job).await.unwrap();
    assert_eq!(answer.to_json::<i64>().unwrap(), 5, "{id}");
    tide.settled().await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2, "the hanging worker got it a second time");
    assert_eq!(tide.published("chat:payments").await.unwrap().len(), 1, "and published it once");
    hanging.drain();
    timeout(DEADLINE, hanging.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_settled_while_a_request_moves_between_its_attempts() {
    async fn fails(State(runs): State<Runs>) -> Result<(), Failure> {
        runs.fetch_add(1, Ordering::Relaxed);
        Err(Failure::retry(anyhow::anyhow!("again")))
    }
    // Fetches a nats-server if there is none.
    drop(tide().await);
    let config = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 100\n\
                  backoff = { base = \"10ms\", cap = \"10ms\" }\n";
    let (tide, runs) = (Tide::start(config).await.unwrap(), Runs::default());
    let router = Router::with_state(Arc::clone(&runs)).route("job", on(fails));
    let _worker = tide.worker().router(router).start().await.unwrap();
    tide.send(testing::job("job").user("42")).await.unwrap();
    tide.settled().await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 100);
}

#[tokio::test]
async fn a_namespace_without_history_keeps_nothing_that_a_test_could_read_and_the_error_says_so() {
    let refused = tide().await.published("lobby").await.unwrap_err();
    assert!(
        refused.to_string().contains("`default`") && refused.to_string().contains("`history_size`"),
        "{refused}"
    );
}
