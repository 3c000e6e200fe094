//! More than one copy of a request: while one with a key is parked, another one does not run; a broker that lost an acknowledgement
//! delivers a request again beside its parked copy.

use std::time::Duration;

use serde_json::json;
use tidegate_shared::{envelope::Request, id::RequestId, topology::PARK};
use tidegate_worker::{Attempt, Failure, Json, Router, State, on};

use crate::support::{Notes, Tide, eventually};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 3\n";

fn keyed(tide: &Tide) -> Request {
    Request { id: RequestId::keyed("42", "job", "k"), ..tide.request("job", "1") }
}

#[tokio::test]
async fn a_second_copy_of_a_request_that_is_parked_does_not_run() {
    async fn job(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Result<Json<u32>, Failure> {
        notes.note(attempt);
        if attempt == 0 {
            return Err(Failure::retry_after(Duration::from_hours(1), anyhow::anyhow!("no luck")));
        }
        Ok(Json(attempt))
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let router = || Router::with_state(notes.clone()).route("job", on(job));
    let worker = tide.work("w1", router()).await;
    let request = keyed(&tide);
    tide.send(&request).await;
    tide.due(&request).await;
    // As a gateway does that looked a moment before it was parked, or after NATS had forgotten the request's id.
    for copy in 1..=3 {
        tide.purge(&request).await;
        tide.send_as(&request, &format!("{}.copy-{copy}", request.id)).await;
        eventually("the copy is settled", async || {
            (worker.outcomes("job", "already_parked") == copy).then_some(())
        })
        .await;
    }
    assert_eq!(notes.all(), [0], "one attempt was made");
    assert_eq!(tide.count(PARK).await, 1);
    eventually("every copy is acknowledged", async || (tide.unsettled("job").await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_request_is_not_lost_although_a_second_copy_of_it_fails_at_the_same_attempt() {
    async fn work(State(notes): State<Notes>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        notes.note(attempt);
        match notes.all().len() {
            1 => Err(Failure::retry_after(Duration::from_hours(1), anyhow::anyhow!("the first copy fails"))),
            2 => Err(Failure::retry_after(Duration::ZERO, anyhow::anyhow!("the second copy fails"))),
            _ => Ok(()),
        }
    }
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(work))).await;
    let request = tide.ask("job", "1").await;
    tide.due(&request).await;
    // A subject of parked requests has one schedule: that of the second copy replaces that of the first.
    tide.park(&request).await;
    eventually("the second copy fails", async || (notes.all().len() >= 2).then_some(())).await;
    assert_eq!(tide.body(&request).await, "");
    tide.settled().await;
    assert_eq!(notes.all(), [json!(0), json!(0), json!(1)]);
}
