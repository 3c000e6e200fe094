//! Waits do not depend on the clock of the worker's machine, and no wait is too long.

use std::time::{Duration, SystemTime};

use tidegate_worker::{Attempt, Failure, Json, MAX_WAIT, Router, on};
use tokio::time::Instant;

use crate::support::{Tide, eventually};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n\
                     backoff = { base = \"400ms\", cap = \"1s\" }\n";
const SKEW: Duration = Duration::from_secs(90);

fn fast() -> SystemTime {
    SystemTime::now() + SKEW
}

fn slow() -> SystemTime {
    SystemTime::now() - SKEW
}

#[tokio::test]
async fn a_worker_whose_clock_is_wrong_waits_as_long_as_any_other() {
    async fn fails_once(Attempt(attempt): Attempt) -> Result<Json<u32>, Failure> {
        if attempt == 0 { Err(anyhow::anyhow!("again").into()) } else { Ok(Json(attempt)) }
    }
    let tide = Tide::start(ROUTE).await;
    for (name, clock) in [("fast", fast as fn() -> SystemTime), ("slow", slow)] {
        let worker = tide.work_at(name, Router::new().route("job", on(fails_once)), clock).await;
        let begun = Instant::now();
        let request = tide.ask("job", "").await;
        assert_eq!(tide.body(&request).await, "1", "{name}");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{name}: after {:?}", begun.elapsed());
        worker.drain();
        worker.ended().await;
    }
}

#[tokio::test]
async fn the_longest_wait_that_a_handler_can_ask_for_is_a_year() {
    async fn waits(Json(snooze): Json<bool>) -> Result<(), Failure> {
        let why = anyhow::anyhow!("much later");
        Err(if snooze { Failure::snooze(Duration::MAX) } else { Failure::retry_after(Duration::MAX, why) })
    }
    let tide = Tide::start(ROUTE).await;
    let worker = tide.work("w1", Router::new().route("job", on(waits))).await;
    for snooze in ["true", "false"] {
        let earliest = SystemTime::now() + MAX_WAIT - Duration::from_mins(1);
        let request = tide.ask("job", snooze).await;
        let due = tide.due(&request).await;
        assert!(due >= earliest && due <= earliest + Duration::from_mins(2), "{snooze}: {due:?}");
    }
    eventually("both requests have ended", async || {
        ((worker.outcomes("job", "snooze"), worker.outcomes("job", "retry")) == (1, 1)).then_some(())
    })
    .await;
}
