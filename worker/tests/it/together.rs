//! Answers that gather are stored as one batch; requests that were stored in a batch end as others do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use serde_json::json;
use tidegate_shared::{
    broker::{Broker, Committer, ToCommit},
    envelope::{Answer, Outcome, Request},
    id::RequestId,
    topology::{REPLY, request_stream},
};
use tidegate_worker::{Failure, FollowUp, FollowUps, Job, RequestId as Id, Router, State, on};
use tokio::sync::Semaphore;

use crate::support::{Notes, Tide, eventually, header};

const REQUESTS: usize = 100;
const ROUTE: &str = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nconcurrency = 100\n";

async fn echo(State(gate): State<Arc<Semaphore>>, body: Bytes) -> Bytes {
    gate.acquire().await.unwrap().forget();
    body
}

async fn keyed(tide: &Tide) -> Vec<Request> {
    let mut requests = Vec::new();
    for n in 0..REQUESTS {
        let id = RequestId::keyed("42", "echo", &n.to_string());
        let request = Request { id, ..tide.request("echo", n.to_string()) };
        tide.send(&request).await;
        requests.push(request);
    }
    requests
}

/// Whether the stored answer came in a batch.
async fn came_in_a_batch(tide: &Tide, request: &Request) -> bool {
    let message = tide.gateway.last(REPLY, &tide.subjects.reply(&request.id)).await.unwrap().unwrap();
    message.headers.unwrap().get("Nats-Batch-Id").is_some()
}

#[tokio::test]
async fn answers_that_gather_are_stored_together() {
    let tide = Tide::start(ROUTE).await;
    let gate = Arc::new(Semaphore::new(0));
    let router = Router::with_state(Arc::clone(&gate)).route("echo", on(echo));
    let worker = tide.work_gathering("w1", router).await;
    let requests = keyed(&tide).await;
    eventually("all run", async || (worker.in_flight("echo") == REQUESTS as u64).then_some(())).await;
    gate.add_permits(REQUESTS);
    let mut together = 0;
    for request in &requests {
        assert_eq!(tide.body(request).await, request.body);
        together += usize::from(came_in_a_batch(&tide, request).await);
    }
    assert!(together >= REQUESTS / 2, "{together}");
    tide.settled().await;
    assert_eq!((tide.count(REPLY).await, worker.outcomes("echo", "ok")), (REQUESTS as u64, REQUESTS as u64));
}

#[tokio::test]
async fn an_answer_that_another_worker_has_stored_costs_those_that_gather_with_it_nothing() {
    let tide = Tide::start(ROUTE).await;
    let gate = Arc::new(Semaphore::new(0));
    let router = Router::with_state(Arc::clone(&gate)).route("echo", on(echo));
    let worker = tide.work_gathering("w1", router).await;
    let requests = keyed(&tide).await;
    eventually("all run", async || (worker.in_flight("echo") == REQUESTS as u64).then_some(())).await;
    let nats = &tide.config().nats;
    let other = Broker::connect(nats, &nats.worker, "other", 1, true).await.unwrap();
    for request in requests.iter().step_by(10) {
        let answer = Answer::to(request, 0, "other", Outcome::Ok("\"first\"".into()));
        other.store(tide.subjects.reply(&answer.re), answer.headers(), answer.body()).await.unwrap();
    }
    gate.add_permits(REQUESTS);
    for (n, request) in requests.iter().enumerate() {
        let first = n % 10 == 0;
        let expected = if first { Bytes::from("\"first\"") } else { request.body.clone() };
        assert_eq!(tide.body(request).await, expected);
    }
    tide.settled().await;
    assert_eq!((tide.count(REPLY).await, worker.outcomes("echo", "ok")), (REQUESTS as u64, REQUESTS as u64));
}

/// The requests of one batch.
const BATCH: usize = 20;
const HANDED_ON: &str = "[gateway]\nanswer_timeout = \"2s\"\n\
    [[route]]\nname = \"plain\"\nmatch = \"rpc.plain.{how}\"\nbackoff = { base = \"50ms\", cap = \"100ms\" }\n\
    [[route]]\nname = \"lined\"\nmatch = \"rpc.lined.{how}\"\nmax_running = 100\n\
    backoff = { base = \"50ms\", cap = \"100ms\" }\n\
    [[route]]\nname = \"end\"\nmatch = \"rpc.end\"\n";

/// Stores requests of a route in one batch, each with another method.
async fn in_a_batch(tide: &Tide, route: &str, how: &str) -> Vec<Request> {
    let stream = request_stream(route);
    let committer = Committer::start(&tide.gateway, stream.clone());
    committer.gather_always();
    let (mut requests, mut handed) = (Vec::new(), Vec::new());
    for n in 0..BATCH {
        let method = format!("{route}.{how}-{n}");
        let id = RequestId::keyed("42", &method, "k");
        let request =
            Request { id, route: route.to_owned(), ..tide.request(&method, format!("\"{how}-{n}\"")) };
        let stored = request.stored(&tide.subjects, None, request.id.as_str());
        let message = (stored.subject, stored.headers, stored.body);
        handed.push(
            committer
                .hand_over(ToCommit { message, once: true, drawn: false, deadline: None })
                .await
                .unwrap(),
        );
        requests.push(request);
    }
    for handed in handed {
        assert!(!handed.stored().await.unwrap().duplicate);
    }
    for request in &requests {
        let message = tide.gateway.last(&stream, &tide.subject_of(request)).await.unwrap().unwrap();
        assert!(!header(&message, "Nats-Batch-Id").is_empty(), "it came in a batch");
    }
    requests
}

#[derive(Clone, Default)]
struct Back {
    ran: Notes,
    is_up: Arc<AtomicBool>,
}

/// Does what the method says, the first time; succeeds the next time, or when the back end is up.
async fn as_told(State(back): State<Back>, Id(id): Id, job: Job) -> Result<(Bytes, FollowUps), Failure> {
    let how = job.param("how").unwrap_or_default().to_owned();
    let is_new = !back.ran.all().contains(&json!(id));
    back.ran.note(json!(id));
    let follow_up = FollowUp::json("end", &how)?;
    match how.split('-').next() {
        Some("retry") if is_new => Err(Failure::retry(anyhow::anyhow!("not yet"))),
        Some("snooze") if is_new => Err(Failure::snooze(std::time::Duration::from_millis(50))),
        Some("dead") if !back.is_up.load(SeqCst) => Err(Failure::dead("no")),
        Some("follow") => Ok((job.body(), FollowUps(vec![follow_up]))),
        _ => Ok((job.body(), FollowUps(Vec::new()))),
    }
}

async fn end(body: Bytes) -> Bytes {
    body
}

async fn working(tide: &Tide, back: &Back) -> crate::support::Running {
    let router = Router::with_state(back.clone()).route("plain", on(as_told)).route("lined", on(as_told));
    tide.work("w1", router.route("end", on(end))).await
}

#[tokio::test]
async fn requests_of_a_batch_are_parked_and_tried_again() {
    let tide = Tide::start(HANDED_ON).await;
    let mut requests = Vec::new();
    for (route, how) in [("plain", "retry"), ("plain", "snooze"), ("lined", "retry"), ("lined", "snooze")] {
        requests.extend(in_a_batch(&tide, route, how).await);
    }
    let worker = working(&tide, &Back::default()).await;
    for request in &requests {
        eventually("it succeeds the second time", async || {
            // One that queues again needs its place, which the purger frees.
            tide.purge_acknowledged("lined").await;
            let answer = tide.stored(request).await?;
            matches!(answer.outcome, Outcome::Ok(body) if body == request.body).then_some(())
        })
        .await;
    }
    tide.settled().await;
    for route in ["plain", "lined"] {
        let parked = worker.outcomes(route, "retry") + worker.outcomes(route, "snooze");
        assert_eq!(parked, 2 * BATCH as u64, "{route}");
    }
}

#[tokio::test]
async fn requests_of_a_batch_have_follow_ups() {
    let tide = Tide::start(HANDED_ON).await;
    let requests = in_a_batch(&tide, "plain", "follow").await;
    let _worker = working(&tide, &Back::default()).await;
    for request in &requests {
        let id = RequestId::follow_up(&request.id, "end#0");
        let follow_up = Request { id, ..tide.request("end", "") };
        assert_eq!(tide.body(&follow_up).await, request.body);
        let stored = tide.gateway.last(&request_stream("end"), &tide.subject_of(&follow_up)).await.unwrap();
        assert_eq!(header(&stored.unwrap(), "Nats-Batch-Id"), "");
    }
    tide.settled().await;
}

#[tokio::test]
async fn requests_of_a_batch_become_dead_letters_and_are_redriven() {
    let tide = Tide::start_with_gateway(HANDED_ON).await;
    let requests = in_a_batch(&tide, "plain", "dead").await;
    let back = Back::default();
    let _worker = working(&tide, &back).await;
    for request in &requests {
        assert_eq!(tide.error(request).await.0, 1004);
    }
    assert_eq!(header(&tide.dead_letter("plain").await, "Nats-Batch-Id"), "");
    back.is_up.store(true, SeqCst);
    let listed = tide.operate("dead_list", json!({"route": "plain"})).await;
    let letters = listed["letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), BATCH);
    for letter in letters {
        eventually("the letter is redriven", async || {
            let outcome = tide.operate("dead_redrive", json!({"letter": letter["letter"]})).await;
            (outcome["outcome"] == "redriven").then_some(())
        })
        .await;
    }
    for request in &requests {
        eventually("the request is answered", async || {
            let answer = tide.stored(request).await?;
            matches!(answer.outcome, Outcome::Ok(body) if body == request.body).then_some(())
        })
        .await;
    }
    tide.settled().await;
}
