//! What each case sends, and what it checks. An error says what was seen instead.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_shared::{
    envelope::{Answer, Outcome},
    protocol::codes::DEAD_LETTER,
};

use super::{
    case::Case,
    rig::{Ask, Rig},
};

mod ends;
mod stored;

/// How many requests are sent at once.
const MANY: usize = 200;
/// How long the longest sleep of a request is that must not run.
const NEVER: Duration = Duration::from_mins(10);

/// What was seen.
type Seen = Result<String, String>;

/// Tries a case.
pub(super) async fn attempt(rig: &Rig, case: Case) -> Seen {
    match case {
        Case::Echo => echo(rig).await,
        Case::Empty => same_bytes(rig, Bytes::new()).await,
        Case::Malformed => same_bytes(rig, Bytes::from_static(b"{\"do\":\"echo\",")).await,
        Case::NotUtf8 => same_bytes(rig, Bytes::from_static(b"\xff\xfe\x00\"tide\xc3\x28\r\n")).await,
        Case::Huge => same_bytes(rig, vec![b'~'; rig.max_payload.saturating_sub(HEADER_ROOM)].into()).await,
        Case::HugeAnswer => huge_answer(rig).await,
        Case::Headers => headers(rig).await,
        Case::Unreadable => unreadable(rig).await,
        Case::Reject => reject(rig).await,
        Case::Many => many(rig).await,
        Case::Retry => retry(rig).await,
        Case::Dead => dead(rig).await,
        Case::Slow => slow(rig).await,
        Case::Lanes => lanes(rig).await,
        Case::Cancel => stored::cancel(rig).await,
        Case::Keyed => stored::keyed(rig).await,
        Case::Duplicate => stored::duplicate(rig).await,
        Case::Answered => stored::answered(rig).await,
        Case::KeyedRetry => stored::keyed_retry(rig).await,
        Case::LongKeyedAnswer => stored::long_answer(rig).await,
        Case::Later => stored::later(rig).await,
        Case::LaterError => stored::later_error(rig).await,
        Case::Late => stored::late(rig).await,
        Case::Nobody => stored::nobody(rig).await,
        Case::Drain => ends::drain(rig).await,
        Case::Killed => ends::killed(rig).await,
        Case::Crash => ends::crash(rig).await,
        Case::Poison => ends::poison(rig).await,
    }
}

/// What a huge request leaves for the headers of its answer, and of its copy when it is parked.
const HEADER_ROOM: usize = 16 * 1024;

impl Ask {
    /// A request with this body.
    fn json(body: &Value) -> Self {
        Self { body: body.to_string().into(), ..Self::default() }
    }
}

/// The answer's body, if it is no error.
fn body(answer: &Answer) -> Result<&Bytes, String> {
    match &answer.outcome {
        Outcome::Ok(body) => Ok(body),
        Outcome::Error { code, message, .. } => Err(format!("error {code}: {message}")),
    }
}

/// Checks that an answer is this JSON.
fn is_json(answer: &Answer, expected: &Value) -> Result<(), String> {
    let body = body(answer)?;
    match serde_json::from_slice::<Value>(body) {
        Ok(found) if found == *expected => Ok(()),
        _ => Err(format!("the answer {}", short(body))),
    }
}

/// Checks that an answer is an error with this code, and returns its message.
fn is_error(answer: &Answer, expected: u32) -> Result<&str, String> {
    match &answer.outcome {
        Outcome::Error { code, message, .. } if *code == expected => Ok(message),
        Outcome::Error { code, message, .. } => Err(format!("error {code}: {message}")),
        Outcome::Ok(body) => Err(format!("the answer {}", short(body))),
    }
}

/// For the handler `sleep`.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of a body, for people.
fn short(body: &[u8]) -> String {
    const SHOWN: usize = 80;
    let start = body.get(..SHOWN.min(body.len())).unwrap_or_default();
    format!("{:?} ({} bytes)", String::from_utf8_lossy(start), body.len())
}

/// The time for the attempts of a request that fails, with the waits between them.
fn with_retries(rig: &Rig, attempts: u32) -> Duration {
    rig.patience
        + rig.route.backoff.cap.min(rig.route.backoff.base * 2_u32.saturating_pow(attempts)) * attempts
}

async fn echo(rig: &Rig) -> Seen {
    let data = json!({ "text": "grüße", "n": [1, 2.5, null] });
    let request = rig.send(&Ask::json(&json!({ "do": "echo", "data": data }))).await?;
    let answer = rig.answer(&request.id, rig.patience).await?;
    is_json(&answer, &data)?;
    rig.settled(rig.patience).await?;
    Ok("the data, and an acknowledgement".to_owned())
}

async fn same_bytes(rig: &Rig, sent: Bytes) -> Seen {
    let request = rig.send(&Ask { body: sent.clone(), ..Ask::default() }).await?;
    let answer = rig.answer(&request.id, rig.patience).await?;
    let found = body(&answer)?;
    if *found != sent {
        return Err(format!("other bytes: {}", short(found)));
    }
    rig.settled(rig.patience).await?;
    Ok(format!("the same {} bytes", sent.len()))
}

async fn huge_answer(rig: &Rig) -> Seen {
    let request = rig.send(&Ask::json(&json!({ "do": "large", "bytes": rig.max_payload + 1 }))).await?;
    let answer = rig.answer(&request.id, with_retries(rig, rig.route.max_attempts)).await?;
    let message = is_error(&answer, DEAD_LETTER.code)?;
    rig.settled(rig.patience).await?;
    Ok(format!("error {}: {message}", DEAD_LETTER.code))
}

async fn headers(rig: &Rig) -> Seen {
    let absent = ["Tide-Client", "Tide-Key", "Tide-Accepted-At", "Content-Type"];
    let mut headers = absent.map(|name| (name, String::new())).to_vec();
    headers.push(("Tide-Unknown-Yet", "1".to_owned()));
    headers.push(("X-Other", if rig.ascii { "a: b" } else { "a: b; \u{fc}" }.to_owned()));
    let ask = Ask { headers, ..Ask::json(&json!({ "do": "fail", "times": 1 })) };
    let request = rig.send(&ask).await?;
    let answer = rig.answer(&request.id, with_retries(rig, 1)).await?;
    is_json(&answer, &json!({ "attempt": 1 }))?;
    rig.settled(rig.patience).await?;
    Ok("an answer by the second attempt".to_owned())
}

async fn unreadable(rig: &Rig) -> Seen {
    rig.store_unreadable().await?;
    let request = rig.send(&Ask::json(&json!({ "do": "echo", "data": 1 }))).await?;
    is_json(&rig.answer(&request.id, rig.patience).await?, &json!(1))?;
    rig.settled(rig.patience + rig.ack_wait).await?;
    Ok("the message is gone, and the next request is answered".to_owned())
}

async fn reject(rig: &Rig) -> Seen {
    let ask = Ask::json(&json!({ "do": "reject", "code": 4001, "message": "sold out" }));
    let request = rig.send(&ask).await?;
    let answer = rig.answer(&request.id, rig.patience).await?;
    let message = is_error(&answer, 4001)?;
    if message != "sold out" {
        return Err(format!("the message {message:?}"));
    }
    rig.settled(rig.patience).await?;
    Ok("error 4001: sold out".to_owned())
}

async fn many(rig: &Rig) -> Seen {
    let mut sent = Vec::new();
    for number in 0..MANY {
        sent.push((number, rig.send(&Ask::json(&json!({ "do": "echo", "data": number }))).await?));
    }
    for (number, request) in &sent {
        let answer = rig.answer(&request.id, rig.patience).await?;
        is_json(&answer, &json!(number)).map_err(|seen| format!("request {number} has {seen}"))?;
    }
    rig.settled(rig.patience).await?;
    Ok(format!("{MANY} answers, each to its request"))
}

/// The requests without priority take a while; the two with it are among the last that are stored.
async fn lanes(rig: &Rig) -> Seen {
    let first = |body: &Value| Ask { first: true, ..Ask::json(body) };
    let mut others = Vec::new();
    for _ in 0..MANY {
        others.push(rig.send(&Ask::json(&json!({ "do": "sleep", "ms": 50 }))).await?);
    }
    let echo = rig.send(&first(&json!({ "do": "echo", "data": "first" }))).await?;
    let fails = rig.send(&first(&json!({ "do": "fail", "times": 1 }))).await?;
    is_json(&rig.answer(&echo.id, rig.patience).await?, &json!("first"))?;
    is_json(&rig.answer(&fails.id, with_retries(rig, 1)).await?, &json!({ "attempt": 1 }))?;
    for request in &others {
        body(&rig.answer(&request.id, rig.patience).await?)?;
    }
    rig.settled(rig.patience).await?;
    Ok("both are answered, one by its second attempt".to_owned())
}

async fn retry(rig: &Rig) -> Seen {
    let request = rig.send(&Ask::json(&json!({ "do": "fail", "times": 2 }))).await?;
    let answer = rig.answer(&request.id, with_retries(rig, 2)).await?;
    is_json(&answer, &json!({ "attempt": 2 }))?;
    rig.settled(rig.patience).await?;
    Ok("an answer by the attempt after two failed ones".to_owned())
}

async fn dead(rig: &Rig) -> Seen {
    let before = rig.letters().await?;
    let request = rig.send(&Ask::json(&json!({ "do": "fail" }))).await?;
    let answer = rig.answer(&request.id, with_retries(rig, rig.route.max_attempts)).await?;
    let message = is_error(&answer, DEAD_LETTER.code)?;
    rig.settled(rig.patience).await?;
    match rig.letters().await?.saturating_sub(before) {
        1 => Ok(format!("one dead letter, and error {}: {message}", DEAD_LETTER.code)),
        letters => Err(format!("error {}, and {letters} dead letters", DEAD_LETTER.code)),
    }
}

async fn slow(rig: &Rig) -> Seen {
    let before = rig.deliveries().await?;
    let takes = rig.ack_wait.mul_f64(1.6);
    let request = rig.send(&Ask::json(&json!({ "do": "sleep", "ms": millis(takes) }))).await?;
    let answer = rig.answer(&request.id, takes + rig.patience).await?;
    body(&answer)?;
    rig.settled(rig.patience).await?;
    match rig.deliveries().await?.saturating_sub(before) {
        1 => Ok("one delivery, and the answer".to_owned()),
        deliveries => Err(format!("{deliveries} deliveries: nothing told the broker that it is worked on")),
    }
}
