//! Cases of answers that are stored, and of answers that reach the personal channel.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_shared::{
    envelope::{Answer, Outcome, Request, get},
    header,
    protocol::codes::{CANCELLED, DEAD_LETTER},
};

use super::{NEVER, Seen, body, is_error, is_json, millis, short, with_retries};
use crate::conformance::{
    desk::{Manner, Publication},
    rig::{Ask, Rig},
};

/// The code of an answer that somebody else stored.
const EARLIER: u32 = CANCELLED.code;
/// How long a worker takes at most from a delivery to its handler. A slower one finds the stored answer before it runs.
const BEGINNING: Duration = Duration::from_millis(300);

fn with_key(body: &Value) -> Ask {
    Ask { keyed: true, ..Ask::json(body) }
}

fn for_later(body: &Value) -> Ask {
    Ask { later: true, ..Ask::json(body) }
}

/// Checks that the digest of a stored answer is the request's.
fn same_digest(request: &Request, answer: &Answer) -> Result<(), String> {
    let sent = request.headers();
    let (sent, found) = (get(&sent, header::DIGEST), answer.digest.as_deref());
    if found == sent { Ok(()) } else { Err(format!("Tide-Digest {found:?} instead of {sent:?}")) }
}

pub(super) async fn keyed(rig: &Rig) -> Seen {
    let request = rig.send(&with_key(&json!({ "do": "echo", "data": "kept" }))).await?;
    let stored = rig.stored(&request.id, rig.patience).await?;
    is_json(&stored, &json!("kept"))?;
    same_digest(&request, &stored)?;
    let live =
        rig.answer(&request.id, rig.patience).await.map_err(|seen| format!("stored, but live {seen}"))?;
    is_json(&live, &json!("kept"))?;
    same_digest(&request, &live)?;
    rig.settled(rig.patience).await?;
    Ok("stored, and a live copy".to_owned())
}

pub(super) async fn duplicate(rig: &Rig) -> Seen {
    let request = rig.send(&with_key(&json!({ "do": "stamp" }))).await?;
    let first = rig.answer(&request.id, rig.patience).await?;
    rig.settled(rig.patience).await?;
    rig.store_copy(&request).await?;
    let copies = rig.desk.until(rig.patience, |heard| {
        heard.answers.get(request.id.as_str()).filter(|answers| answers.len() > 1).cloned()
    });
    let Some(copies) = copies.await else {
        return Err("no second live copy of the answer".to_owned());
    };
    rig.settled(rig.patience).await?;
    match copies.iter().find(|(copy, _)| copy.outcome != first.outcome) {
        None => Ok("the stored answer again".to_owned()),
        Some((other, _)) => Err(format!("it ran again: {}", short(body(other)?))),
    }
}

pub(super) async fn answered(rig: &Rig) -> Seen {
    let ask = with_key(&json!({ "do": "sleep", "ms": millis(NEVER) }));
    let request = rig.request(&ask);
    rig.store_answer(
        &request,
        Outcome::Error { code: EARLIER, message: "cancelled".to_owned(), data: bytes::Bytes::new() },
    )
    .await?;
    rig.store(&request, &ask).await?;
    rig.settled(rig.patience).await.map_err(|seen| format!("it is run: {seen}"))?;
    let live = rig.answer(&request.id, rig.patience).await?;
    is_error(&live, EARLIER)?;
    Ok("acknowledged at once, with a live copy of the stored answer".to_owned())
}

pub(super) async fn cancel(rig: &Rig) -> Seen {
    let request = rig.send(&with_key(&json!({ "do": "sleep", "ms": millis(NEVER) }))).await?;
    rig.begun().await?;
    // Nobody tells when its handler has begun.
    tokio::time::sleep(BEGINNING).await;
    let cancelled =
        Outcome::Error { code: CANCELLED.code, message: "cancelled".to_owned(), data: bytes::Bytes::new() };
    rig.store_answer(&request, cancelled).await?;
    rig.cancel(&request.id).await?;
    rig.settled(rig.patience).await.map_err(|seen| format!("it still runs: {seen}"))?;
    is_error(&rig.stored(&request.id, rig.patience).await?, CANCELLED.code)?;
    Ok("given up and acknowledged".to_owned())
}

pub(super) async fn keyed_retry(rig: &Rig) -> Seen {
    let request = rig.send(&with_key(&json!({ "do": "fail", "times": 1 }))).await?;
    let stored = rig.stored(&request.id, with_retries(rig, 1)).await?;
    is_json(&stored, &json!({ "attempt": 1 }))?;
    same_digest(&request, &stored)?;
    rig.settled(rig.patience).await?;
    Ok("the answer of the second attempt".to_owned())
}

pub(super) async fn long_answer(rig: &Rig) -> Seen {
    let request = rig.send(&with_key(&json!({ "do": "large", "bytes": rig.answer_max_bytes + 1 }))).await?;
    let stored = rig.stored(&request.id, with_retries(rig, rig.route.max_attempts)).await?;
    let message = is_error(&stored, DEAD_LETTER.code)?;
    rig.settled(rig.patience).await?;
    Ok(format!("error {}: {message}", DEAD_LETTER.code))
}

/// Checks the tags of a publication.
fn has_status(publication: &Publication, expected: &str) -> Result<(), String> {
    match get(&publication.headers, "Tide-Tag-status") {
        Some(status) if status == expected => Ok(()),
        status => Err(format!("Tide-Tag-status {status:?} instead of {expected:?}")),
    }
}

pub(super) async fn later(rig: &Rig) -> Seen {
    let request = rig.send(&for_later(&json!({ "do": "echo", "data": "later" }))).await?;
    let publication = rig.publication(&request.id, rig.patience).await?;
    has_status(&publication, "ok")?;
    if publication.body != "\"later\"" {
        return Err(format!("the publication {}", short(&publication.body)));
    }
    is_json(&rig.stored(&request.id, rig.patience).await?, &json!("later"))?;
    // The next worker that meets the request publishes again, with the same id.
    rig.settled(rig.patience).await?;
    rig.store_copy(&request).await?;
    rig.settled(rig.patience).await?;
    let after = rig.send(&for_later(&json!({ "do": "echo", "data": 1 }))).await?;
    rig.publication(&after.id, rig.patience).await?;
    match rig.published(&request.id) {
        1 => Ok("stored, and published once although there were two copies of the request".to_owned()),
        times => Err(format!("published {times} times: a repetition needs the Nats-Msg-Id <id>.l")),
    }
}

pub(super) async fn later_error(rig: &Rig) -> Seen {
    let ask = for_later(&json!({ "do": "reject", "code": 4001, "message": "sold out" }));
    let request = rig.send(&ask).await?;
    let publication = rig.publication(&request.id, rig.patience).await?;
    has_status(&publication, "error")?;
    rig.settled(rig.patience).await?;
    is_error_body(&publication)
}

fn is_error_body(publication: &Publication) -> Seen {
    match serde_json::from_slice::<Value>(&publication.body) {
        Ok(value) if value == json!({ "code": 4001, "message": "sold out" }) => {
            Ok("published as {code, message}".to_owned())
        }
        _ => Err(format!("the publication {}", short(&publication.body))),
    }
}

pub(super) async fn late(rig: &Rig) -> Seen {
    let ask = Ask { of_user: true, ..Ask::json(&json!({ "do": "echo", "data": "late" })) };
    let request = rig.request(&ask);
    rig.desk.behave(request.id.as_str(), Manner::Late);
    rig.store(&request, &ask).await?;
    rig.answer(&request.id, rig.patience).await?;
    let publication = rig.publication(&request.id, rig.patience).await?;
    has_status(&publication, "ok")?;
    rig.settled(rig.patience).await?;
    Ok("on the personal channel after the word late".to_owned())
}

pub(super) async fn nobody(rig: &Rig) -> Seen {
    // The caller's time is over, and nobody says a word.
    let body = json!({ "do": "echo", "data": "nobody" });
    let ask = Ask { of_user: true, age: rig.answer_timeout, ..Ask::json(&body) };
    let request = rig.request(&ask);
    rig.store(&request, &ask).await?;
    let publication = rig.publication(&request.id, rig.answer_timeout * 2 + rig.patience).await?;
    has_status(&publication, "ok")?;
    rig.settled(rig.patience).await?;
    match rig.published(&request.id) {
        1 => Ok("on the personal channel after silence".to_owned()),
        times => Err(format!("published {times} times")),
    }
}
