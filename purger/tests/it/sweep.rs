//! A worker in another language ends requests without an answer: each becomes a dead letter once, and its client is told.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::FromConsumer},
};
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Puller},
    dead::{Letter, Reason},
    envelope::{Answer, BYTES, Outcome, Request, get},
    header,
    id::{GatewayId, RequestId},
    route::Priority,
    topology::{ADVISORIES, DEAD, PARK, REPLY, SWEEPER},
};

use crate::support::{Tide, eventually};

const ROUTE: &str = "[gateway]\nanswer_timeout = '4s'\n[gateway.drain]\nsettle = '4s'\nwindow = '100ms'\n\
     [worker]\nack_wait = '1s'\n[[route]]\nname = 'job'\nmatch = 'rpc.job'\n";
const JOBS: &str = "TIDE_IN_job";

/// A stack with a worker in another language.
struct Scene {
    tide: Tide,
    admin: Broker,
    worker: Broker,
}

impl Scene {
    async fn start() -> Self {
        let tide = Tide::start_with(0, ROUTE).await;
        let admin = tide.stack.admin().await.unwrap();
        let nats = &tide.stack.config().nats;
        let worker = Broker::connect(nats, &nats.worker, "other", 64, true).await.unwrap();
        Self { tide, admin, worker }
    }

    /// The next request of a stream.
    async fn take(&self, stream: &str) -> jetstream::Message {
        let mut puller = Puller::new(self.worker.clone(), stream, "job");
        puller.ask(1).await.unwrap();
        puller.next().await.unwrap().unwrap()
    }

    async fn terminate(&self, message: &jetstream::Message, why: &str) {
        let reply = message.reply.clone().unwrap();
        let word = if why.is_empty() { "+TERM".to_owned() } else { format!("+TERM {why}") };
        self.worker.client().request(reply, word.into()).await.unwrap();
    }

    /// A request, stored as the gateway stores it.
    async fn send(&self, request: &Request) {
        let subject = self.tide.stack.config().subjects().request(&request.address());
        self.admin.store(subject, request.headers(), request.body.clone()).await.unwrap();
    }

    /// A request that was parked and is due.
    async fn send_due(&self, request: &Request) {
        let subjects = self.tide.stack.config().subjects();
        let subject = subjects.due(&subjects.request(&request.address())).unwrap();
        self.admin.store(subject, request.headers(), request.body.clone()).await.unwrap();
    }

    async fn letters(&self) -> Vec<Letter> {
        let range = self.admin.range(DEAD, "tide.dead.>", 1, 10_000).await.unwrap();
        range.messages.iter().filter_map(Letter::read).collect()
    }

    async fn letter(&self) -> Letter {
        eventually("there is a letter", async || !self.letters().await.is_empty()).await;
        let mut letters = self.letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        letters.remove(0)
    }

    async fn stored(&self, id: &RequestId) -> Option<Answer> {
        let stored = self.admin.last(REPLY, &format!("tide.reply.{id}")).await.unwrap()?;
        Some(Answer::read(&stored.headers.unwrap(), stored.payload).unwrap())
    }

    /// Everything that was said about terminated requests is done.
    async fn swept(&self) {
        eventually("all is swept", async || self.tide.messages(ADVISORIES).await == Some(0)).await;
    }

    async fn purged(&self) {
        eventually("the route is purged", async || self.tide.messages(JOBS).await == Some(0)).await;
    }

    /// An operator limits the deliveries of the route's consumer on this stream.
    async fn limit_deliveries(&self, stream: &str) {
        let stream = self.admin.jetstream().get_stream(stream).await.unwrap();
        let consumer = stream.get_consumer::<jetstream::consumer::pull::Config>("job").await.unwrap();
        let mut limited = jetstream::consumer::pull::Config::try_from_consumer_config(
            consumer.cached_info().config.clone(),
        )
        .unwrap();
        limited.max_deliver = 2;
        stream.create_consumer(limited).await.unwrap();
    }
}

fn request(id: RequestId, body: &'static str) -> Request {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Request {
        id,
        user: Some("42".to_owned()),
        client: None,
        route: "job".to_owned(),
        method: Some("job".to_owned()),
        channel: None,
        info: None,
        channel_info: None,
        key: None,
        priority: Priority::Normal,
        later: false,
        attempt: 0,
        accepted_at: u64::try_from(now.as_millis()).unwrap(),
        trace: None,
        content_type: BYTES.to_owned(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

fn keyed(key: &str) -> Request {
    request(RequestId::keyed("42", "job", key), "1")
}

#[tokio::test]
async fn a_plain_request_that_a_worker_terminates_is_a_letter_and_its_caller_is_told_at_once() {
    let scene = Scene::start().await;
    let (client, _events) = scene.tide.client("42").await;
    let begun = Instant::now();
    let call = client.rpc("job", "{\"a\":1}");
    let (told, ()) = tokio::join!(call, async {
        let message = scene.take(JOBS).await;
        scene.terminate(&message, "no such item").await;
    });
    let told = told.unwrap_err();
    assert_eq!(told.code(), Some(1004));
    assert!(told.to_string().contains("1 attempts"), "{told}");
    assert!(!told.to_string().contains("no such item"), "inner details stay inside: {told}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let letter = scene.letter().await;
    assert_eq!((letter.reason, letter.error.as_str()), (Reason::Terminated, "no such item"));
    assert_eq!((letter.attempts, letter.stream_seq), (Some(1), Some(1)));
    assert_eq!((letter.route.as_str(), letter.body.as_ref()), ("job", &b"{\"a\":1}"[..]));
    assert_eq!(letter.header(header::USER), Some("42"));
    assert!(letter.subject.unwrap().starts_with("tide.in.rpc.job."));
    assert!(letter.first_seen.unwrap() <= letter.last_seen.unwrap() + Duration::from_secs(1));
    scene.swept().await;
    scene.purged().await;
    let page = scene.tide.get("/metrics").await.1;
    assert!(
        page.contains("tidegate_purger_dead_letters_total{route=\"job\",reason=\"terminated\"} 1"),
        "{page}"
    );
}

#[tokio::test]
async fn the_error_of_a_keyed_request_that_a_worker_terminates_is_stored() {
    let scene = Scene::start().await;
    let (client, _events) = scene.tide.client("42").await;
    let (told, ()) = tokio::join!(client.rpc("job#k", "1"), async {
        let message = scene.take(JOBS).await;
        scene.terminate(&message, "").await;
    });
    assert_eq!(told.unwrap_err().code(), Some(1004));
    assert_eq!(client.rpc("job#k", "1").await.unwrap_err().code(), Some(1004), "again, from the store");
    let letter = scene.letter().await;
    assert!(letter.error.contains("gave no reason"), "{}", letter.error);
    let stored = scene.stored(&RequestId::keyed("42", "job", "k")).await.unwrap();
    assert_eq!(stored.letter, Some(letter.number));
    scene.swept().await;
    scene.purged().await;
}

#[tokio::test]
async fn the_user_of_a_later_request_is_told_on_the_personal_channel() {
    let scene = Scene::start().await;
    let later = Request { later: true, ..request(RequestId::plain(&GatewayId::random()), "1") };
    scene.send(&later).await;
    let message = scene.take(JOBS).await;
    scene.terminate(&message, "no").await;
    scene.swept().await;
    let told = scene.admin.last("TIDE_CH_user", "tide.ch.user.42").await.unwrap().unwrap();
    assert_eq!(get(told.headers.as_ref().unwrap(), "Tide-Tag-re"), Some(later.id.as_str()));
    assert!(std::str::from_utf8(&told.payload).unwrap().contains("\"code\":1004"));
    assert_eq!(scene.letters().await.len(), 1);
}

#[tokio::test]
async fn a_request_that_is_delivered_as_often_as_allowed_is_a_letter_and_leaves_its_stream() {
    let scene = Scene::start().await;
    scene.limit_deliveries(JOBS).await;
    scene.limit_deliveries(PARK).await;
    let (new, due) = (keyed("new"), Request { attempt: 3, ..keyed("due") });
    scene.send(&new).await;
    scene.send_due(&due).await;
    for stream in [JOBS, PARK] {
        for _ in 0..2 {
            drop(scene.take(stream).await);
        }
    }
    // The broker notices when the next pull comes.
    let mut pullers = [JOBS, PARK].map(|stream| Puller::new(scene.worker.clone(), stream, "job"));
    for puller in &mut pullers {
        puller.ask(1).await.unwrap();
    }
    eventually("both are letters", async || scene.letters().await.len() == 2).await;
    for (request, attempts) in [(&new, 2), (&due, 5)] {
        let letters = scene.letters().await;
        let letter = letters.iter().find(|letter| letter.id.as_ref() == Some(&request.id)).unwrap();
        assert_eq!((letter.reason, letter.attempts), (Reason::MaxDeliver, Some(attempts)));
        assert_eq!(letter.body, request.body);
        eventually("the client is told", async || {
            scene.stored(&request.id).await.is_some_and(|answer| answer.letter == Some(letter.number))
        })
        .await;
    }
    scene.swept().await;
    for stream in [JOBS, PARK] {
        eventually("it has left", async || scene.tide.messages(stream).await == Some(0)).await;
    }
    // The floor goes on.
    let (client, _events) = scene.tide.client("42").await;
    let (told, ()) = tokio::join!(client.rpc("job", "2"), async {
        let message = loop {
            if let Ok(Some(message)) = pullers[0].next().await {
                break message;
            }
            pullers[0].ask(1).await.unwrap();
        };
        scene.terminate(&message, "no").await;
    });
    assert_eq!(told.unwrap_err().code(), Some(1004));
    scene.purged().await;
}

#[tokio::test]
async fn a_parked_request_that_a_worker_terminates_is_a_letter_of_what_the_broker_still_knows() {
    let scene = Scene::start().await;
    scene.send_due(&keyed("k")).await;
    let message = scene.take(PARK).await;
    scene.terminate(&message, "no such item").await;
    let letter = scene.letter().await;
    assert_eq!((letter.reason, &letter.id, letter.attempts), (Reason::Terminated, &None, Some(1)));
    assert!(letter.error.starts_with("no such item; the broker has removed the message"), "{}", letter.error);
    assert_eq!((letter.route.as_str(), letter.stream_seq, letter.subject), ("job", Some(1), None));
    scene.swept().await;
}

/// As after a crash of the broker that had removed an acknowledged request, but not yet noted that with its consumer.
#[tokio::test]
async fn a_request_that_left_its_stream_while_its_consumer_waited_is_no_dead_letter() {
    let scene = Scene::start().await;
    scene.send_due(&keyed("gone")).await;
    scene.take(PARK).await;
    let admin = scene.tide.stack.admin().await.unwrap();
    let removed = admin.client().request("$JS.API.STREAM.MSG.DELETE.TIDE_PARK", r#"{"seq":1}"#.into()).await;
    let removed = removed.unwrap().payload;
    assert!(String::from_utf8_lossy(&removed).contains("true"), "{removed:?}");
    scene.send_due(&keyed("ended")).await;
    let message = scene.take(PARK).await;
    scene.terminate(&message, "no such item").await;
    let letter = scene.letter().await;
    assert!(letter.error.starts_with("no such item"), "{}", letter.error);
    scene.swept().await;
    assert_eq!(scene.letters().await.len(), 1);
}

#[tokio::test]
async fn a_sweeper_that_is_killed_in_the_middle_repeats_nothing_and_loses_nothing() {
    const ALL: usize = 60;
    let scene = Scene::start().await;
    scene.tide.stack.hold("purger").await.unwrap();
    let requests: Vec<Request> = (0..ALL).map(|n| keyed(&n.to_string())).collect();
    for request in &requests {
        scene.send(request).await;
        let message = scene.take(JOBS).await;
        scene.terminate(&message, "no").await;
    }
    eventually("all are noted", async || scene.tide.messages(ADVISORIES).await == Some(ALL as u64)).await;
    for kills in 1..=3 {
        scene.tide.stack.start_process("purger").await.unwrap();
        eventually("some letters are made", async || scene.letters().await.len() > kills * 2).await;
        scene.tide.stack.hold("purger").await.unwrap();
    }
    scene.tide.stack.start_process("purger").await.unwrap();
    scene.swept().await;
    let letters = scene.letters().await;
    assert_eq!(letters.len(), ALL);
    for request in &requests {
        let letter = letters.iter().find(|letter| letter.id.as_ref() == Some(&request.id)).unwrap();
        assert_eq!(scene.stored(&request.id).await.unwrap().letter, Some(letter.number));
    }
    scene.purged().await;
}

#[tokio::test]
async fn the_purge_never_takes_a_terminated_request_before_it_is_read() {
    const ALL: usize = 400;
    let scene = Scene::start().await;
    let mut terminated = 0;
    for n in 0..ALL {
        scene.send(&keyed(&n.to_string())).await;
        let message = scene.take(JOBS).await;
        if n % 4 == 0 {
            scene.terminate(&message, "no").await;
            terminated += 1;
        } else {
            message.double_ack().await.unwrap();
        }
    }
    scene.swept().await;
    scene.purged().await;
    let letters = scene.letters().await;
    assert_eq!(letters.len(), terminated);
    assert!(letters.iter().all(|letter| letter.id.is_some() && letter.body.as_ref() == b"1"));
}

#[tokio::test]
async fn while_the_sweeper_cannot_work_nothing_that_it_has_to_read_is_purged() {
    let scene = Scene::start().await;
    let advisories = scene.admin.jetstream().get_stream(ADVISORIES).await.unwrap();
    advisories.delete_consumer(SWEEPER).await.unwrap();
    scene.send(&keyed("k")).await;
    let message = scene.take(JOBS).await;
    scene.terminate(&message, "no").await;
    eventually("the purger says why", async || {
        let (status, body) = scene.tide.get("/readyz").await;
        status == 503 && body.contains(ADVISORIES) && body.contains("tidegate apply")
    })
    .await;
    let progress = scene.tide.progress("job").await.unwrap();
    assert_eq!((progress.floor, scene.tide.messages(JOBS).await), (1, Some(1)));
    scene.tide.apply().await;
    assert_eq!(scene.letter().await.reason, Reason::Terminated);
    scene.purged().await;
    eventually("it is ready", async || scene.tide.get("/readyz").await.0 == 200).await;
}

#[tokio::test]
async fn a_purger_without_the_stream_of_advisories_purges_all_the_same_and_says_so() {
    let scene = Scene::start().await;
    scene.admin.jetstream().delete_stream(ADVISORIES).await.unwrap();
    scene.send(&keyed("k")).await;
    let message = scene.take(JOBS).await;
    message.double_ack().await.unwrap();
    scene.purged().await;
    eventually("the purger is not ready", async || {
        let (status, body) = scene.tide.get("/readyz").await;
        status == 503 && body.contains(ADVISORIES) && body.contains("tidegate apply")
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_has_settled_a_request_by_itself_before_it_terminates_it_causes_no_letter() {
    let scene = Scene::start().await;
    // It has stored an answer.
    let answered = keyed("answered");
    scene.send(&answered).await;
    let message = scene.take(JOBS).await;
    let answer = Answer::to(&answered, 0, "other", Outcome::Ok(Bytes::from_static(b"7")));
    let reply = format!("tide.reply.{}", answered.id);
    scene.worker.store(reply, answer.headers(), answer.body()).await.unwrap();
    scene.terminate(&message, "done").await;
    // It has parked the request.
    let parked = keyed("parked");
    scene.send(&parked).await;
    let message = scene.take(JOBS).await;
    let mut headers = parked.headers();
    headers.insert(header::MSG_ID, format!("{}.a1.i2", parked.id));
    headers.insert(header::SCHEDULE, "@at 2100-01-01T00:00:00Z");
    headers.insert(header::SCHEDULE_TARGET, message.subject.replace("tide.in.", "tide.due."));
    scene.worker.store(format!("tide.park.{}", parked.id), headers, parked.body.clone()).await.unwrap();
    scene.terminate(&message, "later").await;
    // It has found no request in the message, and stored a letter.
    let subject = "tide.in.rpc.job.1.x.y".to_owned();
    scene.admin.store(subject, HeaderMap::new(), Bytes::from_static(b"?")).await.unwrap();
    let message = scene.take(JOBS).await;
    let mut headers = HeaderMap::new();
    headers.insert(header::DEAD_REASON, "unreadable");
    headers.insert(header::DEAD_ERROR, "what is this?");
    headers.insert(header::DEAD_SUBJECT, message.subject.as_str());
    headers.insert(header::MSG_ID, "odd id.dead.i3");
    let body = message.payload.clone();
    scene.worker.store("tide.dead.default.job".to_owned(), headers, body).await.unwrap();
    scene.terminate(&message, "unreadable").await;
    eventually("the last one is noted and done", async || {
        scene.tide.progress("job").await.is_some_and(|progress| progress.floor == 3)
            && scene.tide.messages(JOBS).await == Some(0)
    })
    .await;
    scene.swept().await;
    assert_eq!(scene.letter().await.error, "what is this?");
    assert_eq!(scene.stored(&parked.id).await, None);
    assert_eq!(scene.stored(&answered.id).await, Some(answer));
}

#[tokio::test]
async fn a_message_that_is_no_request_and_that_a_worker_terminates_is_an_unreadable_letter() {
    let scene = Scene::start().await;
    let subject = "tide.in.rpc.job.1.x.y".to_owned();
    scene.admin.store(subject.clone(), HeaderMap::new(), Bytes::from_static(b"?")).await.unwrap();
    let message = scene.take(JOBS).await;
    scene.terminate(&message, "what is this?").await;
    let letter = scene.letter().await;
    assert_eq!((letter.reason, letter.id, letter.subject), (Reason::Unreadable, None, Some(subject)));
    assert!(letter.error.contains("Tide-Id") && letter.error.contains("what is this?"), "{}", letter.error);
    assert_eq!(letter.body.as_ref(), b"?");
    scene.purged().await;
}
