//! Requests that handlers make: each is stored once before the answer, whatever happens to the attempt that makes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_shared::{broker::Refusal, envelope::Request, id::RequestId, trace::Trace};
use tidegate_worker::{
    Enqueue, Failure, FollowUp, FollowUps, Job, Json, Priority, Publication, Publications, Publish,
    RequestId as Id, Router, State, To, on,
};

use crate::support::{Notes, Tide, eventually, header, next};

const ROUTES: &str = "[[route]]\nname = \"place\"\nmatch = \"rpc.place\"\nbackoff = { base = \"50ms\", cap = \"100ms\" }\n\
                      [[route]]\nname = \"ship\"\nmatch = \"rpc.ship\"\n\
                      [[route]]\nname = \"small\"\nmatch = \"rpc.small\"\nmax_bytes = \"4 KiB\"\n";

/// Notes what it is given.
async fn ship(State(notes): State<Notes>, job: Job) -> Json<Value> {
    let body: Value = serde_json::from_slice(&job.body()).unwrap();
    notes.note(json!([job.user(), job.client(), job.header("traceparent"), body]));
    Json(body)
}

/// The request that a follow-up becomes.
fn follow_up(tide: &Tide, of: &Request, method: &str, name: &str) -> Request {
    Request { id: RequestId::follow_up(&of.id, name), ..tide.request(method, "") }
}

#[tokio::test]
async fn a_follow_up_is_a_request_of_the_same_user_and_trace_with_an_answer_of_its_own() {
    async fn place(Json(order): Json<u32>) -> Result<(Json<u32>, FollowUp), Failure> {
        Ok((Json(order), FollowUp::json("ship", &json!({"order": order}))?.named("ship")))
    }
    let (tide, notes) = (Tide::start(ROUTES).await, Notes::default());
    let router = Router::with_state(notes.clone()).route("place", on(place)).route("ship", on(ship));
    let _worker = tide.work("w1", router).await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let request = Request { trace: Some(Trace::random()), ..tide.request("place", "7") };
    let trace = request.trace.as_ref().unwrap().id().to_string();
    tide.send(&request).await;
    let shipped = follow_up(&tide, &request, "ship", "ship");
    assert_eq!(tide.body(&shipped).await, "{\"order\":7}");
    let [seen] = notes.all().try_into().unwrap();
    assert_eq!((&seen[0], &seen[1], &seen[3]), (&json!("42"), &json!(null), &json!({"order": 7})));
    assert!(seen[2].as_str().unwrap().contains(&trace), "{seen}");
    let told = eventually("the user is told", async || {
        let told = next(&mut personal).await;
        (header(&told, "Tide-Tag-re") == shipped.id.as_str()).then_some(told)
    })
    .await;
    assert_eq!(told.payload, "{\"order\":7}");
    tide.settled().await;
}

/// Fails on its first attempt, after it has stored everything.
async fn twice(
    State((failed, _)): State<(Arc<AtomicBool>, Notes)>,
    publish: Publish,
    enqueue: Enqueue,
    Id(id): Id,
) -> Result<(Json<String>, Publication, FollowUps), Failure> {
    publish.send(Publication::bytes("chat:a", "\"first\"")).await?;
    let first = enqueue.send(FollowUp::json("ship", &"first")?.priority(Priority::High)).await?;
    let keyed = enqueue.send(FollowUp::json("ship", &"keyed")?.key("k")).await?;
    assert_eq!(keyed, RequestId::keyed("42", "ship", "k").as_str());
    assert_eq!(first, RequestId::follow_up(&RequestId::parse(&id).unwrap(), "ship#0").as_str());
    let later = FollowUp::json("ship", &"later")?.named("later").after(Duration::from_hours(1));
    enqueue.send(later.clone()).await?;
    if !failed.swap(true, SeqCst) {
        return Err(Failure::retry(anyhow::anyhow!("not yet")));
    }
    let second = FollowUp::json("ship", &"second")?;
    Ok((Json(first), Publication::bytes("chat:a", "\"second\""), FollowUps(vec![second])))
}

async fn ship_once(State((_, notes)): State<(Arc<AtomicBool>, Notes)>, Json(body): Json<Value>) {
    notes.note(body);
}

#[tokio::test]
async fn what_a_handler_sends_during_its_run_is_stored_once_over_all_attempts() {
    let (tide, notes) = (Tide::start(ROUTES).await, Notes::default());
    let router = Router::with_state((Arc::default(), notes.clone()));
    let router = router.route("place", on(twice)).route("ship", on(ship_once));
    let mut chat = tide.listen("tide.live.chat.a").await;
    let worker = tide.work("w1", router).await;
    let request = Request { later: true, ..tide.request("place", "7") };
    tide.send(&request).await;
    tide.body(&request).await;
    assert_eq!(worker.outcomes("place", "retry"), 1);
    for body in ["\"first\"", "\"second\""] {
        assert_eq!(next(&mut chat).await.payload, body);
    }
    eventually("the follow-ups have run", async || (notes.all().len() >= 3).then_some(())).await;
    eventually("nothing else waits", async || (tide.unsettled("ship").await == 0).then_some(())).await;
    let mut ran: Vec<String> = notes.all().iter().map(Value::to_string).collect();
    ran.sort();
    assert_eq!(ran, ["\"first\"", "\"keyed\"", "\"second\""], "each once");
    let parked = tide.due(&follow_up(&tide, &request, "ship", "later")).await;
    let hour = Duration::from_hours(1);
    assert!(parked > SystemTime::now() + hour / 2 && parked < SystemTime::now() + hour * 2, "{parked:?}");
}

#[tokio::test]
async fn a_follow_up_that_is_answered_already_is_not_stored_again_when_the_broker_does_not_remember_its_id() {
    async fn place() -> Result<FollowUp, Failure> {
        Ok(FollowUp::json("ship", &"again")?)
    }
    let (tide, notes) = (Tide::start(ROUTES).await, Notes::default());
    let router = Router::with_state((Arc::default(), notes.clone()));
    let _ships = tide.work("w1", router.route("ship", on(ship_once))).await;
    let request = Request { attempt: 1, later: true, ..tide.request("place", "7") };
    let shipped = follow_up(&tide, &request, "ship", "ship#0");
    // As an earlier attempt has stored it, but under an id that the broker does not compare.
    let earlier = Request { body: Bytes::from("\"earlier\""), later: true, ..shipped };
    tide.send_as(&earlier, "another-id").await;
    tide.answer(&earlier).await;
    eventually("it is acknowledged", async || (tide.unsettled("ship").await == 0).then_some(())).await;
    tide.purge(&earlier).await;
    let _places = tide.work("w2", Router::new().route("place", on(place))).await;
    tide.send(&request).await;
    tide.body(&request).await;
    assert_eq!(tide.count("TIDE_IN_ship").await, 0, "it is not stored again");
    assert_eq!(notes.all(), [json!("earlier")]);
}

#[tokio::test]
async fn a_follow_up_that_no_attempt_could_store_makes_a_dead_letter_at_once_and_nothing_is_stored() {
    async fn place(Json(what): Json<String>) -> Result<(Publication, FollowUp), Failure> {
        let follow_up = match what.as_str() {
            "no route" => FollowUp::json("nobody", &1)?,
            "no such route" => FollowUp::json(To::Route("nobody".to_owned()), &1)?,
            _ => FollowUp::bytes("ship", vec![b'x'; 1024 * 1024]),
        };
        Ok((Publication::bytes("chat:never", "1"), follow_up))
    }
    let tide = Tide::start(ROUTES).await;
    let worker = tide.work("w1", Router::new().route("place", on(place))).await;
    for (n, (what, why)) in (1..).zip([
        ("no route", "cannot enqueue for \"nobody\": no route takes \"nobody\""),
        ("no such route", "cannot enqueue for \"nobody\": there is no route \"nobody\""),
        ("too large", "cannot enqueue for \"ship\": "),
    ]) {
        tide.ask("place", json!(what).to_string()).await;
        eventually("a dead letter is stored", async || (tide.count("TIDE_DEAD").await == n).then_some(()))
            .await;
        let letter = tide.dead_letter("place").await;
        assert_eq!(header(&letter, "Tide-Dead-Reason"), "unstorable");
        assert_eq!(header(&letter, "Tide-Dead-Attempts"), "1");
        assert!(
            header(&letter, "Tide-Dead-Error").starts_with(why),
            "{}",
            header(&letter, "Tide-Dead-Error")
        );
    }
    assert_eq!((worker.outcomes("place", "retry"), tide.count("TIDE_CH_chat").await), (0, 0));
}

#[tokio::test]
async fn a_request_whose_follow_up_finds_no_room_waits_without_using_an_attempt_and_holds_nobody_up() {
    async fn place(State(runs): State<Arc<AtomicU32>>, body: Bytes) -> ((), Publications, Option<FollowUp>) {
        if body != "\"with\"" {
            return ((), Publications::default(), None);
        }
        runs.fetch_add(1, SeqCst);
        let publications = Publications(vec![Publication::bytes("chat:a", "\"placed\"")]);
        ((), publications, Some(FollowUp::bytes("small", vec![b'x'; 1024])))
    }
    async fn small() {}
    let routes =
        ROUTES.replacen("name = \"place\"\n", "name = \"place\"\nconcurrency = 1\nmax_attempts = 1\n", 1);
    let tide = Tide::start(&routes).await;
    loop {
        let request = tide.request("small", vec![b'x'; 1024]);
        let (subject, headers) = (tide.subject_of(&request), request.headers());
        match tide.gateway.store(subject, headers, request.body).await {
            Ok(_) => {}
            Err(Refusal::Full) => break,
            Err(refusal) => panic!("{refusal}"),
        }
    }
    let runs = Arc::new(AtomicU32::new(0));
    let worker = tide.work("w1", Router::with_state(Arc::clone(&runs)).route("place", on(place))).await;
    let request = tide.ask("place", "\"with\"").await;
    eventually("it has waited", async || (worker.outcomes("place", "snooze") >= 2).then_some(())).await;
    let other = Request { later: true, ..tide.request("place", "\"without\"") };
    tide.send(&other).await;
    tide.body(&other).await;
    assert_eq!(
        tide.count("TIDE_CH_chat").await,
        0,
        "nothing is published as long as the follow-up finds no room"
    );
    let _small = tide.work("w2", Router::new().route("small", on(small))).await;
    eventually("there is room", async || (tide.unsettled("small").await == 0).then_some(())).await;
    tide.purge_acknowledged("small").await;
    let stored = follow_up(&tide, &request, "small", "small#0");
    tide.answer(&stored).await;
    assert!(runs.load(SeqCst) > 2);
    assert_eq!(tide.count("TIDE_DEAD").await, 0);
    eventually("it is published", async || (tide.count("TIDE_CH_chat").await == 1).then_some(())).await;
}

#[tokio::test]
async fn a_follow_up_whose_key_belongs_to_another_body_makes_a_dead_letter_and_the_first_one_stays() {
    async fn place(Json(order): Json<u32>) -> Result<FollowUp, Failure> {
        Ok(FollowUp::json("ship", &order)?.key("k"))
    }
    let tide = Tide::start(ROUTES).await;
    let _worker = tide.work("w1", Router::new().route("place", on(place))).await;
    for _ in 0..2 {
        let request = Request { later: true, ..tide.request("place", "1") };
        tide.send(&request).await;
        tide.body(&request).await;
    }
    tide.ask("place", "2").await;
    let letter = tide.dead_letter("place").await;
    let error = header(&letter, "Tide-Dead-Error");
    assert_eq!(error, "cannot enqueue for \"ship\": the key \"k\" belongs to a request with another body");
    assert_eq!(tide.count("TIDE_IN_ship").await, 1);
}

#[tokio::test]
async fn a_follow_up_that_waits_in_the_other_lane_is_not_stored_again() {
    async fn place() -> Result<FollowUp, Failure> {
        Ok(FollowUp::json("ship", &"again")?)
    }
    let tide = Tide::start(ROUTES).await;
    let request = Request { attempt: 1, later: true, ..tide.request("place", "7") };
    let earlier =
        Request { later: true, priority: Priority::High, ..follow_up(&tide, &request, "ship", "ship#0") };
    tide.send_as(&earlier, "another-id").await;
    let _worker = tide.work("w1", Router::new().route("place", on(place))).await;
    tide.send(&request).await;
    tide.body(&request).await;
    assert_eq!(tide.count("TIDE_IN_ship").await, 1, "it is not stored again");
}

#[tokio::test]
async fn nothing_of_an_attempt_is_stored_when_one_of_its_publications_is_wrong() {
    async fn place(Json(channel): Json<String>) -> Result<(Publications, FollowUp), Failure> {
        let long = if channel == "chat:long" { 1024 * 1024 } else { 1 };
        let wrong = Publication::bytes(channel, vec![b'x'; long]);
        Ok((Publications(vec![Publication::bytes("chat:a", "1"), wrong]), FollowUp::json("ship", &1)?))
    }
    let tide = Tide::start(ROUTES).await;
    let _worker = tide.work("w1", Router::new().route("place", on(place))).await;
    for (n, channel) in (1..).zip(["chat:long", "nowhere:a", "chat:"]) {
        tide.ask("place", json!(channel).to_string()).await;
        eventually("a dead letter is stored", async || (tide.count("TIDE_DEAD").await == n).then_some(()))
            .await;
        let letter = tide.dead_letter("place").await;
        let error = header(&letter, "Tide-Dead-Error");
        assert!(error.starts_with(&format!("cannot publish to {channel:?}: ")), "{error}");
    }
    assert_eq!((tide.count("TIDE_IN_ship").await, tide.count("TIDE_CH_chat").await), (0, 0));
}
