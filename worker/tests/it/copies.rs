//! Two copies of one request: the broker that lost an acknowledgement delivers a request again beside its parked copy.

use std::time::Duration;

use serde_json::json;
use tidegate_worker::{Attempt, Failure, Router, State, on};

use crate::support::{Notes, Tide, eventually};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n";

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
