//! The result cache TIDE_REPLY is full: live callers get their answers all the same, and nobody else is held up.

use std::time::Duration;

use bytes::Bytes;
use tidegate_shared::{
    broker::Broker,
    envelope::{Answer, Outcome, Request},
    id::RequestId,
};
use tidegate_worker::{Json, Router, on};

use crate::support::{Tide, eventually, next, number};

const ROUTES: &str = "[streams]\nreply_max_bytes = \"32 KiB\"\nanswer_max_bytes = \"8 KiB\"\n\
                      [[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nconcurrency = 1\n\
                      [[route]]\nname = \"long\"\nmatch = \"rpc.long\"\n";

async fn echo(body: Bytes) -> Bytes {
    body
}

fn keyed(tide: &Tide, method: &str, key: &str) -> Request {
    Request { id: RequestId::keyed("42", method, key), ..tide.request(method, "\"7\"") }
}

/// Fills the result cache to the last byte.
async fn fill(tide: &Tide) {
    let nats = &tide.config().nats;
    let other = Broker::connect(nats, &nats.worker, "filling", 1, true).await.unwrap();
    let mut length = 8 * 1024;
    for n in 0.. {
        let request = keyed(tide, "fill", &n.to_string());
        let answer = Answer::to(&request, 0, "other", Outcome::Ok(vec![b'x'; length].into()));
        let stored = other.store(tide.subjects.reply(&answer.re), answer.headers(), answer.body()).await;
        match stored {
            Ok(_) => {}
            Err(tidegate_shared::broker::Refusal::Full) if length > 0 => length /= 2,
            Err(tidegate_shared::broker::Refusal::Full) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_finds_no_room_reaches_its_live_caller_and_is_stored_when_there_is_room() {
    let tide = Tide::start(ROUTES).await;
    fill(&tide).await;
    let worker = tide.work("w1", Router::new().route("echo", on(echo))).await;
    let unstored = || number::<u64>(&worker.page(), "tidegate_worker_unstored_answers");
    // The route works on one request at a time: none of these may hold up the next.
    let stalled = tokio::time::Instant::now();
    let requests: Vec<_> = (0..5).map(|n| keyed(&tide, "echo", &n.to_string())).collect();
    for request in &requests {
        let mut live = tide.listen(&tide.subjects.answer(&request.id)).await;
        tide.send(request).await;
        assert_eq!(next(&mut live).await.payload, "\"7\"");
    }
    eventually("the stall shows", async || (unstored() == 5).then_some(())).await;
    let plain = tide.ask("echo", "\"8\"").await;
    eventually("a plain request is not held up", async || (worker.outcomes("echo", "ok") == 1).then_some(()))
        .await;
    // The stall lasts longer than ack_wait: the requests are kept alive.
    eventually("ack_wait is over", async || {
        (stalled.elapsed() > tide.config().worker.ack_wait + Duration::from_millis(500)).then_some(())
    })
    .await;
    tide.enlarge().await;
    for request in &requests {
        assert_eq!(tide.body(request).await, "\"7\"");
    }
    tide.settled().await;
    assert_eq!((unstored(), worker.outcomes("echo", "ok")), (0, 6), "each ran once; {}", plain.id);
}

#[tokio::test]
async fn a_later_answer_that_finds_no_room_is_published_at_once_and_once() {
    let tide = Tide::start(ROUTES).await;
    fill(&tide).await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let _worker = tide.work("w1", Router::new().route("echo", on(echo))).await;
    let request = Request { later: true, ..tide.request("echo", "1") };
    tide.send(&request).await;
    assert_eq!(next(&mut personal).await.payload, "1");
    tide.enlarge().await;
    assert_eq!(tide.body(&request).await, "1");
    tide.settled().await;
    let second = Request { later: true, ..tide.request("echo", "2") };
    tide.send(&second).await;
    assert_eq!(next(&mut personal).await.payload, "2", "the first one came once");
}

#[tokio::test]
async fn an_answer_that_is_longer_than_may_be_stored_is_an_error_that_names_the_limit() {
    async fn long(Json(length): Json<usize>) -> Bytes {
        vec![b'7'; length].into()
    }
    let tide = Tide::start(ROUTES).await;
    let worker = tide.work("w1", Router::new().route("long", on(long))).await;
    let limit = 8 * 1024;
    for later in [false, true] {
        let request = |length: usize| Request {
            later,
            body: length.to_string().into(),
            ..keyed(&tide, "long", &format!("{later}{length}"))
        };
        let fits = request(limit);
        tide.send(&fits).await;
        assert_eq!(tide.body(&fits).await.len(), limit);
        let too_long = request(limit + 1);
        tide.send(&too_long).await;
        let (code, message) = tide.error(&too_long).await;
        assert_eq!(code, 1004);
        assert!(message.contains("8193") && message.contains("streams.answer_max_bytes"), "{message}");
        assert!(message.contains("8192"), "{message}");
        tide.settled().await;
    }
    // Nobody can ask for the answer to a plain request again: it may be as long as a message.
    let plain = tide.ask("long", (limit + 1).to_string()).await;
    tide.settled().await;
    assert_eq!((worker.outcomes("long", "ok"), worker.outcomes("long", "dead")), (3, 2), "{}", plain.id);
}
