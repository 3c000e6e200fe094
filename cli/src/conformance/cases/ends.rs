//! Cases in which the worker ends: stopped, killed, or by a request.

use std::time::Duration;

use serde_json::json;
use tidegate_shared::protocol::codes::DEAD_LETTER;

use super::{Seen, body, is_error, is_json, millis, with_retries};
use crate::conformance::rig::{Ask, Rig};

/// How many requests are beside the one that ends its worker.
const NEIGHBOURS: usize = 5;
/// How many more runs than `max_attempts` a request may have that ends its worker.
const SPARE_RUNS: u32 = 5;
/// How long a request takes that is running when the worker is stopped.
const RUNNING: Duration = Duration::from_millis(700);

/// How long a request takes until it has been lost with `runs` workers.
fn with_losses(rig: &Rig, runs: u32) -> Duration {
    with_retries(rig, runs) + (rig.ack_wait + rig.patience / 4) * runs
}

fn running() -> Ask {
    Ask::json(&json!({ "do": "sleep", "ms": millis(RUNNING) }))
}

pub(super) async fn drain(rig: &Rig) -> Seen {
    let Some(program) = &rig.program else { return Err("there is no process".to_owned()) };
    let request = rig.send(&running()).await?;
    rig.begun().await?;
    program.stop(rig.drain + rig.patience).await?;
    let how = program.last_end();
    body(&rig.answer(&request.id, with_losses(rig, 1)).await?)?;
    rig.settled(rig.patience).await?;
    Ok(format!("the worker ended with {how}, and the request is answered"))
}

pub(super) async fn killed(rig: &Rig) -> Seen {
    let keyed = rig.send(&Ask { keyed: true, ..running() }).await?;
    let plain = rig.send(&running()).await?;
    rig.begun().await?;
    rig.kill().await?;
    for request in [&keyed, &plain] {
        body(&rig.answer(&request.id, with_losses(rig, 2)).await?)?;
    }
    rig.settled(rig.patience).await?;
    Ok("both requests are answered by the next worker".to_owned())
}

pub(super) async fn crash(rig: &Rig) -> Seen {
    let request = rig.send(&Ask::json(&json!({ "do": "crash", "times": 1 }))).await?;
    let answer = rig.answer(&request.id, with_losses(rig, SPARE_RUNS)).await?;
    body(&answer)?;
    rig.settled(rig.patience).await?;
    Ok("answered afterwards".to_owned())
}

pub(super) async fn poison(rig: &Rig) -> Seen {
    let poison = rig.send(&Ask::json(&json!({ "do": "crash" }))).await?;
    let mut neighbours = Vec::new();
    for number in 0..NEIGHBOURS {
        neighbours.push((number, rig.send(&Ask::json(&json!({ "do": "echo", "data": number }))).await?));
    }
    let limit = with_losses(rig, rig.route.max_attempts + SPARE_RUNS);
    for (number, request) in &neighbours {
        let answer = rig.answer(&request.id, limit).await?;
        is_json(&answer, &json!(number)).map_err(|seen| format!("a neighbour has {seen}"))?;
    }
    let answer = rig.answer(&poison.id, limit).await?;
    let message = is_error(&answer, DEAD_LETTER.code)?;
    rig.settled(rig.patience).await?;
    Ok(format!("{NEIGHBOURS} answers, and error {}: {message}", DEAD_LETTER.code))
}
