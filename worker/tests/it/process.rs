//! Workers as processes of their own: one that a request ends, and deploys in the middle of long requests.

use serde_json::json;
use tidegate_shared::envelope::Request;

use crate::support::{Tide, eventually, get, header, number};

/// It does what the body of a request says.
const PROGRAM: &str = "conformance-worker";
/// One attempt: a request that loses one becomes a dead letter.
const ROUTE: &str = "[[route]]\nname = \"conformance\"\nmatch = \"rpc.conformance\"\nmax_attempts = 1\n";

async fn sleeps(tide: &Tide, millis: u32) -> Request {
    tide.ask("conformance", json!({ "do": "sleep", "ms": millis }).to_string()).await
}

#[tokio::test]
async fn a_request_that_aborts_its_process_is_a_dead_letter_and_its_neighbours_lose_no_attempt() {
    let tide = Tide::start_program(PROGRAM, ROUTE, 1, "10s").await;
    let mut neighbours = Vec::new();
    for _ in 0..5 {
        neighbours.push(sleeps(&tide, 400).await);
    }
    tide.delivered("conformance", neighbours.len()).await;
    let killer = tide.ask("conformance", json!({ "do": "crash" }).to_string()).await;
    // Some that begin while it goes round.
    eventually("the process has aborted", async || (tide.stack.restarts("worker-1") > 0).then_some(())).await;
    for _ in 0..5 {
        neighbours.push(sleeps(&tide, 400).await);
    }
    let (code, _) = tide.error(&killer).await;
    assert_eq!(code, 1004);
    let letter = tide.dead_letter("conformance").await;
    assert_eq!(header(&letter, "Tide-Id"), killer.id.as_str());
    assert_eq!(header(&letter, "Tide-Dead-Error"), "the worker ended during every attempt");
    for request in &neighbours {
        tide.body(request).await;
        assert_eq!(tide.answer(request).await.attempt, 0);
    }
    tide.settled().await;
    assert_eq!(tide.count("TIDE_DEAD").await, 1);
}

#[tokio::test]
async fn ten_rolling_deploys_in_the_middle_of_long_requests_bury_none() {
    // Requests take longer than a worker may drain: each deploy cuts off what it meets.
    let tide = Tide::start_program(PROGRAM, ROUTE, 2, "100ms").await;
    let mut requests = Vec::new();
    for deploy in 0..10 {
        for _ in 0..4 {
            requests.push(sleeps(&tide, 4000).await);
        }
        // The broker may give all of them to one worker.
        let addresses = tide.stack.worker_addresses();
        let worker = eventually("a worker is in the middle of requests", async || {
            for worker in [deploy % 2, 1 - deploy % 2] {
                let page = get(addresses[worker], "/metrics").await;
                if number::<u64>(&page, "tidegate_worker_in_flight{route=\"conformance\"}") > 0 {
                    return Some(worker);
                }
            }
            None
        })
        .await;
        let name = format!("worker-{}", worker + 1);
        assert!(tide.stack.stop(&name).await.unwrap().success(), "{name}");
        tide.stack.start_process(&name).await.unwrap();
        tide.stack.wait_ready(&name).await.unwrap();
    }
    for request in &requests {
        tide.body(request).await;
        assert_eq!(tide.answer(request).await.attempt, 0);
    }
    tide.settled().await;
    assert_eq!(tide.count("TIDE_DEAD").await, 0);
}
