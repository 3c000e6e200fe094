use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_shared::{
    broker::Broker,
    envelope::{Answer, Outcome},
    id::RequestId,
    topology::{REPLY, channel_stream},
};
use tidegate_worker::{Failure, Headers, Json, Publication, Publications, Router, State, on};
use tokio::sync::Semaphore;

use crate::support::{Notes, Tide, eventually, header, next};

const ROUTE: &str = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n";

async fn echo(State(notes): State<Notes>, body: Bytes) -> Bytes {
    notes.note(String::from_utf8_lossy(&body).into_owned());
    body
}

fn echoing(notes: &Notes) -> Router<Notes> {
    Router::with_state(notes.clone()).route("echo", on(echo))
}

#[tokio::test]
async fn a_request_is_answered_once_and_removed_from_the_queue() {
    let tide = Tide::start(ROUTE).await;
    let notes = Notes::default();
    let worker = tide.work("w1", echoing(&notes)).await;
    let request = tide.ask("echo", "\"hello\"").await;
    let answer = tide.answer(&request).await;
    tide.settled().await;
    assert_eq!(answer.outcome, Outcome::Ok(Bytes::from_static(b"\"hello\"")));
    assert_eq!((answer.worker.as_str(), answer.attempt, answer.user.as_deref()), ("w1", 0, Some("42")));
    assert_eq!(tide.count(REPLY).await, 1);
    assert_eq!(notes.all(), ["\"hello\""]);
    assert_eq!(worker.outcomes("echo", "ok"), 1);
}

#[tokio::test]
async fn a_request_that_has_an_answer_does_not_run_again() {
    let tide = Tide::start(ROUTE).await;
    let config = tide.config();
    let request = tidegate_shared::envelope::Request {
        id: RequestId::keyed("42", "echo", "key"),
        later: true,
        ..tide.request("echo", "2")
    };
    // Another worker stored this answer, and ended before it published the answer and acknowledged the request.
    let other = Broker::connect(&config.nats, &config.nats.worker, "other", 1, true).await.unwrap();
    let first = Answer {
        re: request.id.clone(),
        user: None,
        digest: None,
        attempt: 0,
        worker: "other".to_owned(),
        letter: None,
        redriven: None,
        trace: None,
        outcome: Outcome::Ok(Bytes::from_static(b"1")),
    };
    other.store(tide.subjects.reply(&request.id), first.headers(), first.body()).await.unwrap();
    let mut personal = tide.listen("tide.live.user.42").await;
    tide.send(&request).await;
    let notes = Notes::default();
    let worker = tide.work("w1", echoing(&notes)).await;
    let pushed = next(&mut personal).await;
    tide.settled().await;
    assert_eq!((pushed.payload.as_ref(), header(&pushed, "Tide-Tag-re")), (&b"1"[..], request.id.as_str()));
    assert_eq!(notes.all(), Vec::<Value>::new());
    assert_eq!(tide.stored(&request).await, Some(first));
    assert_eq!(worker.outcomes("echo", "already_answered"), 1);
}

#[tokio::test]
async fn a_request_that_another_worker_has_answered_meanwhile_becomes_no_dead_letter() {
    async fn dies(State((notes, gate)): State<(Notes, Arc<Semaphore>)>) -> Result<(), Failure> {
        notes.note("begun");
        let _pass = gate.acquire().await;
        Err(Failure::dead("too late"))
    }
    let tide = Tide::start(ROUTE).await;
    let config = tide.config();
    let (notes, gate) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let router = Router::with_state((notes.clone(), Arc::clone(&gate))).route("echo", on(dies));
    let worker = tide.work("w1", router).await;
    let request = tide.ask("echo", "1").await;
    eventually("the handler runs", async || (notes.all().len() == 1).then_some(())).await;
    let other = Broker::connect(&config.nats, &config.nats.worker, "other", 1, true).await.unwrap();
    let answer = Answer::to(&request, 0, "other", Outcome::Ok(Bytes::from_static(b"1")));
    other.store(tide.subjects.reply(&request.id), answer.headers(), answer.body()).await.unwrap();
    gate.add_permits(1);
    tide.settled().await;
    assert_eq!(tide.body(&request).await, "1");
    assert_eq!((tide.count("TIDE_DEAD").await, worker.outcomes("echo", "already_answered")), (0, 1));
}

#[tokio::test]
async fn the_answer_to_a_later_request_is_published_on_the_personal_channel() {
    async fn reject() -> Result<(), Failure> {
        Err(Failure::reject(409, "sold out"))
    }
    let routes = format!("{ROUTE}[[route]]\nname = \"no\"\nmatch = \"rpc.no\"\n");
    let tide = Tide::start(&routes).await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let _worker = tide.work("w1", echoing(&Notes::default()).route("no", on(reject))).await;
    for (method, status, data) in
        [("echo", "ok", json!({"a": 1})), ("no", "error", json!({"code": 409, "message": "sold out"}))]
    {
        let request = tidegate_shared::envelope::Request { later: true, ..tide.request(method, "{\"a\":1}") };
        tide.send(&request).await;
        let pushed = next(&mut personal).await;
        assert_eq!(header(&pushed, "Tide-Tag-re"), request.id.as_str());
        assert_eq!(header(&pushed, "Tide-Tag-status"), status);
        assert_eq!(serde_json::from_slice::<Value>(&pushed.payload).unwrap(), data);
    }
    tide.settled().await;
}

#[tokio::test]
async fn the_publications_of_an_answer_reach_their_channels() {
    async fn announce(Json(text): Json<String>) -> (Json<u32>, Publications) {
        let publication = Publication::bytes("chat:lobby", text).tag("kind", "greeting\r\n");
        (Json(1), Publications(vec![publication]))
    }
    let tide = Tide::start(ROUTE).await;
    let mut lobby = tide.listen("tide.live.chat.lobby").await;
    let _worker = tide.work("w1", Router::new().route("echo", on(announce))).await;
    let request = tide.ask("echo", "\"hi\"").await;
    let publication = next(&mut lobby).await;
    assert_eq!(
        (publication.payload.as_ref(), header(&publication, "Tide-Tag-kind")),
        (&b"hi"[..], "greeting")
    );
    assert_eq!(tide.body(&request).await, "1");
}

#[tokio::test]
async fn a_publication_to_an_impossible_channel_makes_a_dead_letter_at_once_and_nothing_is_published() {
    async fn announce(Json(channel): Json<String>) -> (Json<u32>, Publications) {
        let lobby = Publication::bytes("chat:lobby", "1");
        (Json(1), Publications(vec![lobby, Publication::bytes(channel, "2")]))
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("echo", on(announce))).await;
    for (channel, reason) in [
        ("nowhere:x", "there is no [[namespace]] \"nowhere\""),
        ("chat:", "needs something after its namespace"),
    ] {
        let request = tide.ask("echo", format!("{channel:?}")).await;
        assert_eq!(tide.error(&request).await.0, 1004);
        let letter = tide.dead_letter("echo").await;
        assert!(header(&letter, "Tide-Dead-Error").contains(reason), "{letter:?}");
        assert_eq!(header(&letter, "Tide-Dead-Attempts"), "1");
    }
    assert_eq!(tide.count(&channel_stream("chat")).await, 0);
}

#[tokio::test]
async fn an_attempt_that_is_made_again_stores_its_publications_once_whatever_else_it_publishes() {
    async fn announce(State(notes): State<Notes>) -> Publications {
        let all = Publication::bytes("chat:all", "1");
        let own = Publication::bytes("chat:all", "2").named("own");
        notes.note(1);
        if notes.all().len() == 1 {
            return Publications(vec![all, own]);
        }
        Publications(vec![own, Publication::bytes("chat:other", "3"), all])
    }
    let tide = Tide::start(ROUTE).await;
    let mut chat = tide.listen("tide.live.chat.>").await;
    let _worker = tide.work("w1", Router::with_state(Notes::default()).route("echo", on(announce))).await;
    let request = tide.ask("echo", "1").await;
    tide.settled().await;
    // As if the first worker had died before its answer: the request comes again, and no answer is stored.
    tide.purge(&request).await;
    tide.send_as(&request, "again").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(header(&next(&mut chat).await, "Nats-Msg-Id").to_owned());
    }
    let id = &request.id;
    assert_eq!(ids, [format!("{id}.p.chat:all#0"), format!("{id}.p.own"), format!("{id}.p.chat:other#0")]);
    tide.settled().await;
    // The next message is of the next request: nothing came twice.
    let other = tide.ask("echo", "1").await;
    assert_eq!(header(&next(&mut chat).await, "Nats-Msg-Id"), format!("{}.p.own", other.id));
}

#[tokio::test]
async fn two_publications_of_one_name_make_a_dead_letter_and_none_is_stored() {
    async fn announce() -> Publications {
        let named = |text: &'static str| Publication::bytes("chat:lobby", text).named("same");
        Publications(vec![named("1"), named("2")])
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("echo", on(announce))).await;
    let request = tide.ask("echo", "1").await;
    assert_eq!(tide.error(&request).await.0, 1004);
    let letter = tide.dead_letter("echo").await;
    let reason = header(&letter, "Tide-Dead-Error");
    assert!(reason.contains("two publications of one attempt have the name \"same\""), "{reason}");
    assert_eq!(tide.count(&channel_stream("chat")).await, 0);
}

#[tokio::test]
async fn a_handler_sees_the_headers_of_its_request() {
    async fn handler(headers: Headers) -> Json<[Option<String>; 2]> {
        Json(["tide-user", "Nats-Msg-Id"].map(|name| headers.get(name).map(str::to_owned)))
    }
    let tide = Tide::start(ROUTE).await;
    let _worker = tide.work("w1", Router::new().route("rpc.echo", on(handler))).await;
    let request = tide.ask("echo", "1").await;
    assert_eq!(tide.body(&request).await, "[\"42\",null]");
}
