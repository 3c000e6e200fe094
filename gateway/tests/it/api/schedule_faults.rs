//! Firings of schedules that cannot be stored, that are delivered twice, or that the broker repeats.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::PullConsumer},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tidegate_cli::stack::Stack;
use tidegate_shared::{
    broker::{Broker, header_number},
    channel::Channel,
    id::RequestId,
    schedule::{Overlap, Publication, Schedule, What, When, milliseconds},
    subject::Subjects,
};

use super::{
    Doors,
    schedule::{SHORT, id_of, messages, set, shown, stack, take},
};
use crate::support::{PATIENCE, admin, connect, eventually, fresh, kept_toml, publication, quick, start};

/// A user of the broker that may do everything, and the subjects.
async fn everything(stack: &Stack) -> (Broker, Subjects) {
    (stack.admin().await.unwrap(), stack.config().subjects())
}

fn now() -> u64 {
    milliseconds(SystemTime::now())
}

/// Stores a schedule without a gateway.
async fn store_schedule(stack: &Stack, schedule: &Schedule) {
    let (admin, subjects) = everything(stack).await;
    let headers = schedule.headers(&subjects);
    admin.store(subjects.schedule(&schedule.name), headers, schedule.body()).await.unwrap();
}

/// Stores what is remembered of the newest firing of a schedule.
async fn store_record(stack: &Stack, name: &str, record: &Value) {
    let (admin, subjects) = everything(stack).await;
    admin.store(subjects.fired(name), HeaderMap::new(), record.to_string().into()).await.unwrap();
}

/// A schedule of a publication that fires once an hour.
fn hourly(name: &str) -> Schedule {
    let publication = Publication {
        channel: Channel::parse("kept:a").unwrap(),
        id: None,
        tags: Vec::new(),
        data: "\"fired\"".into(),
    };
    let every = When::every("1h").unwrap();
    Schedule::new(name.to_owned(), every, Overlap::Allow, What::Publication(publication))
}

/// From now on no publication in `kept:` can be stored, or every one again.
async fn let_store(stack: &Stack, most_bytes: i32) {
    let jetstream = jetstream::new(admin(stack).await);
    let mut config = jetstream.get_stream("TIDE_CH_kept").await.unwrap().cached_info().config.clone();
    config.max_message_size = most_bytes;
    jetstream.update_stream(&config).await.unwrap();
}

/// How many publications `kept:a` has.
async fn published(stack: &Stack) -> usize {
    let jetstream = jetstream::new(admin(stack).await);
    let channel = stack.config().subjects().channel(&Channel::parse("kept:a").unwrap());
    let stream = jetstream.get_stream("TIDE_CH_kept").await.unwrap();
    let mut counts = stream.info_with_subjects(channel).await.unwrap();
    counts.next().await.map_or(0, |count| count.unwrap().1)
}

#[tokio::test]
async fn firings_that_cannot_be_stored_hold_up_no_others_however_many_they_are() {
    let (stack, doors) = stack(0).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let (admin_, subjects) = everything(&stack).await;
    let failing = stream::iter(0..1_100).map(|n| {
        let (name, admin_, subjects) = (format!("bad {n}"), &admin_, &subjects);
        async move {
            let mut headers = HeaderMap::new();
            headers.insert("Tide-Schedule", name.as_str());
            headers.insert("Tide-Schedule-Version", "1");
            headers.insert("Tide-Channel", "unknown:a");
            admin_.store(subjects.firing(&name), headers, "1".into()).await.unwrap();
        }
    });
    failing.buffer_unordered(64).collect::<Vec<()>>().await;
    let jetstream = jetstream::new(admin(&stack).await);
    eventually("many of them have failed", async || {
        let consumer: PullConsumer =
            jetstream.get_consumer_from_stream("=firings", "TIDE_PARK").await.unwrap();
        consumer.cached_info().num_ack_pending >= 1_024
    })
    .await;
    doors.nats("publish", json!({"channel": "kept:a", "data": "in time", "delay": "1s"})).await;
    assert_eq!(publication(&mut events, "kept:a").await, "\"in time\"");
}

#[tokio::test]
async fn a_firing_that_failed_and_that_the_broker_repeats_is_stored() {
    let (stack, _doors) = stack(0).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let schedule = hourly("a");
    store_schedule(&stack, &schedule).await;
    let record = json!({"version": schedule.version, "id": "t.first-1-1", "at": now(), "outcome": "failing", "next": now() + 3_600_000});
    store_record(&stack, "a", &record).await;
    let (admin, subjects) = everything(&stack).await;
    admin.store(subjects.firing("a"), schedule.missed(7), schedule.body()).await.unwrap();
    assert_eq!(publication(&mut events, "kept:a").await, "\"fired\"");
}

#[tokio::test]
async fn a_firing_that_failed_and_is_gone_is_made_up_for() {
    let (stack, _doors) = stack(0).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let schedule = hourly("a");
    store_schedule(&stack, &schedule).await;
    let record = json!({"version": schedule.version, "id": "t.first-1-1", "at": now(), "outcome": "failing", "next": now() + 3_600_000});
    store_record(&stack, "a", &record).await;
    // The gateways look when they start, and whenever the broker was away.
    stack.kill("nats").await.unwrap();
    assert_eq!(publication(&mut events, "kept:a").await, "\"fired\"");
}

#[tokio::test]
async fn a_repeated_firing_is_left_out_if_the_first_one_was_stored_though_it_counts_as_failing() {
    let (stack, doors) = stack(0).await;
    let schedule = hourly("a");
    store_schedule(&stack, &schedule).await;
    let (admin, subjects) = everything(&stack).await;
    let at = now();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "t.first-1-1");
    let channel = subjects.channel(&Channel::parse("kept:a").unwrap());
    admin.store(channel, headers, "\"fired\"".into()).await.unwrap();
    let record = json!({"version": schedule.version, "id": "t.first-1-1", "at": at, "outcome": "failing", "next": at + 3_600_000});
    store_record(&stack, "a", &record).await;
    admin.store(subjects.firing("a"), schedule.missed(7), schedule.body()).await.unwrap();
    eventually("it is remembered as stored", async || {
        let last = shown(&doors, "a").await["last"].clone();
        last["id"] == "t.first-1-1" && last["outcome"] == "stored"
    })
    .await;
    eventually("nothing waits", async || messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0).await;
    assert_eq!(published(&stack).await, 1);
}

#[tokio::test]
async fn a_gateway_says_that_it_stores_a_request_that_must_not_overlap_before_it_does() {
    let (stack, doors) = stack(0).await;
    let client = admin(&stack).await;
    let mut seen = client.subscribe("tide.>").await.unwrap();
    // The broker knows the subscription when this comes back.
    client.publish("tide.marker", "".into()).await.unwrap();
    while tokio::time::timeout(PATIENCE, seen.next()).await.unwrap().unwrap().subject.as_str()
        != "tide.marker"
    {}
    set(&doors, json!({"name": "a", "delay": "1s", "method": "nobody", "overlap": "skip"})).await;
    let mut order = Vec::new();
    while order.last().is_none_or(|last| last != "stored") {
        let message = tokio::time::timeout(PATIENCE, seen.next()).await.unwrap().unwrap();
        if message.subject.starts_with("tide.park.fired.") {
            let record: Value = serde_json::from_slice(&message.payload).unwrap();
            order.push(record["outcome"].as_str().unwrap().to_owned());
        } else if message.subject.starts_with("tide.in.") {
            order.push("request".to_owned());
        }
    }
    assert_eq!(order, ["storing", "request", "stored"]);
}

#[tokio::test]
async fn requests_that_must_not_overlap_do_not_when_a_gateway_is_killed_between_them() {
    let (stack, doors) = stack(0).await;
    for gateway in ["gateway-1", "gateway-2"] {
        stack.hold(gateway).await.unwrap();
    }
    let (admin, subjects) = everything(&stack).await;
    let request = json!({"name": "a", "every": "1s", "method": "nobody", "overlap": "skip"});
    // A gateway sets the schedule, and is gone before it fires.
    stack.start_process("gateway-1").await.unwrap();
    stack.wait_ready("gateway-1").await.unwrap();
    set(&doors, request).await;
    stack.hold("gateway-1").await.unwrap();
    let jetstream = jetstream::new(crate::support::admin(&stack).await);
    for stream in ["TIDE_IN_nobody", "TIDE_PARK"] {
        let filter = if stream == "TIDE_PARK" { "tide.park.fired.*" } else { "tide.in.>" };
        jetstream.get_stream(stream).await.unwrap().purge().filter(filter).await.unwrap();
    }
    // It had stored the request of a firing, but not that it had.
    let firing = take(&stack).await;
    let id = id_of(&firing, "a");
    let mut headers = HeaderMap::new();
    for (name, values) in firing.headers.clone().unwrap().iter() {
        if name.to_string().starts_with("Tide-") {
            headers.insert(name.clone(), values[0].clone());
        }
    }
    let version = headers.get("Tide-Schedule-Version").unwrap().to_string();
    headers.insert("Tide-Id", id.as_str());
    let read = tidegate_shared::envelope::Request::read(&headers, firing.payload.clone()).unwrap();
    admin.store(subjects.request(&read.address()), read.headers(), read.body.clone()).await.unwrap();
    let at: u64 = id.as_str().rsplit('-').next().unwrap().parse().unwrap();
    let record =
        json!({"version": version, "id": id.as_str(), "at": at, "outcome": "storing", "stored": id.as_str()});
    store_record(&stack, "a", &record).await;
    let park = jetstream.get_stream("TIDE_PARK").await.unwrap();
    let first = firing.info().unwrap().stream_sequence;
    eventually("the next firing takes its place", async || {
        let last = park.get_last_raw_message_by_subject("tide.due.firing.a").await;
        last.is_ok_and(|last| last.sequence > first)
    })
    .await;
    stack.start_process("gateway-1").await.unwrap();
    eventually("a later one is skipped", async || {
        let record = admin.last("TIDE_PARK", &subjects.fired("a")).await.unwrap().unwrap();
        let record: Value = serde_json::from_slice(&record.payload).unwrap();
        assert_ne!(record["outcome"], "stored");
        record["outcome"] == "skipped"
    })
    .await;
    assert_eq!(messages(&stack, "TIDE_IN_nobody", ">").await, 1);
}

#[tokio::test]
async fn a_schedule_is_no_request_that_can_be_cancelled() {
    let (stack, doors) = stack(0).await;
    set(&doors, json!({"name": "nightly", "delay": "1h", "method": "nobody", "user": "42"})).await;
    for id in ["schedules.nightly", "fired.nightly"] {
        assert_eq!(doors.nats("job", json!({"id": id})).await["result"]["state"], "unknown", "{id}");
        assert_eq!(doors.nats("job_cancel", json!({"id": id})).await["result"]["state"], "unknown", "{id}");
    }
    assert_eq!(messages(&stack, "TIDE_REPLY", ">").await, 0, "no answer is stored");
    assert_eq!(shown(&doors, "nightly").await["state"], "waiting");
}

#[tokio::test]
async fn a_publication_whose_firing_waits_is_not_scheduled_again_and_says_why_it_waits() {
    let (stack, doors) = stack(0).await;
    let (admin, subjects) = everything(&stack).await;
    let_store(&stack, 1).await;
    let ask = json!({"channel": "kept:a", "data": "once", "delay": "1s", "idempotency_key": "k"});
    let name = doors.nats("publish", ask.clone()).await["result"]["schedule"].clone();
    let name = name.as_str().unwrap();
    eventually("it is shown as failing", async || {
        let shown = shown(&doors, name).await;
        shown["state"] == "firing" && shown["last"]["outcome"] == "failing" && shown["channel"] == "kept:a"
    })
    .await;
    assert_eq!(doors.http("publish", ask).await["result"]["schedule"], name);
    assert_eq!(messages(&stack, "TIDE_PARK", "tide.park.schedules.*").await, 0, "it is not set again");

    let record = admin.last("TIDE_PARK", &subjects.fired(name)).await.unwrap().unwrap();
    assert!(record.headers.unwrap().get("Nats-TTL").is_none(), "what is known of it stays while it waits");
    let mut record: Value = serde_json::from_slice(&record.payload).unwrap();
    record["error"] = json!("an earlier one");
    store_record(&stack, name, &record).await;
    eventually("the newest error is shown", async || {
        let last = shown(&doors, name).await["last"].clone();
        last["error"].as_str().is_some_and(|error| !error.contains("earlier"))
    })
    .await;

    let_store(&stack, -1).await;
    eventually("it is over", async || {
        let shown = shown(&doors, name).await;
        shown["state"] == "over" && shown["last"]["outcome"] == "stored"
    })
    .await;
    let record = admin.last("TIDE_PARK", &subjects.fired(name)).await.unwrap().unwrap();
    assert!(record.headers.unwrap().get("Nats-TTL").is_some());
    assert_eq!(published(&stack).await, 1);
}

#[tokio::test]
async fn what_fired_once_and_waits_becomes_nothing_when_its_schedule_is_set_again() {
    let (stack, doors) = stack(0).await;
    let_store(&stack, 1).await;
    set(&doors, json!({"name": "a", "delay": "1s", "channel": "kept:a", "data": "old"})).await;
    eventually("it fails", async || shown(&doors, "a").await["last"]["outcome"] == "failing").await;
    let new = json!({"name": "a", "at": "2031-01-01T00:00:00Z", "channel": "kept:a", "data": "new"});
    assert_eq!(set(&doors, new).await, "replaced");
    eventually("nothing waits", async || messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0).await;
    assert_eq!(shown(&doors, "a").await["next"], "2031-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_publication_that_was_stored_is_found_behind_many_others() {
    let toml = format!("{SHORT}{}", kept_toml(1_000, ""));
    let stack = start(quick(&toml).gateways(1)).await;
    let doors = Doors::of(&stack).await;
    stack.hold("gateway-1").await.unwrap();
    let (admin, subjects) = everything(&stack).await;
    let mut schedule = hourly("a");
    schedule.when = When::At(SystemTime::now());
    store_schedule(&stack, &schedule).await;
    let firing = take(&stack).await;
    let channel = subjects.channel(&Channel::parse("kept:a").unwrap());
    let publish = async |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        admin.store(channel.clone(), headers, "1".into()).await.unwrap()
    };
    for n in 0..300 {
        publish(&format!("other {n}")).await;
    }
    publish(id_of(&firing, "a").as_str()).await;
    publish("probe").await;
    eventually("the broker has forgotten the ids", async || !publish("probe").await.duplicate).await;
    stack.start_process("gateway-1").await.unwrap();
    stack.wait_ready("gateway-1").await.unwrap();
    eventually("it is acknowledged", async || messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0)
        .await;
    assert_eq!(published(&stack).await, 300 + 1 + 2, "it is not stored again");
    assert_eq!(shown(&doors, "a").await["last"]["outcome"], "stored");
}

#[tokio::test]
async fn a_firing_is_not_done_before_its_record_is_written() {
    let (stack, doors) = stack(0).await;
    let (admin, subjects) = everything(&stack).await;
    let other = json!({"version": "other", "id": "t.other-1-1", "at": 1, "outcome": "stored"}).to_string();
    let record = subjects.fired("a");
    let mut last = admin.store(record.clone(), HeaderMap::new(), other.clone().into()).await.unwrap().seq;
    let schedule = Schedule { when: When::At(UNIX_EPOCH + Duration::from_secs(1)), ..hourly("a") };
    store_schedule(&stack, &schedule).await;
    // Writes the record all the time, so that nobody else can, until the firing is tried again or done.
    let jetstream = jetstream::new(crate::support::admin(&stack).await);
    let settled = async {
        eventually("the firing is tried again, or done", async || {
            let consumer: PullConsumer =
                jetstream.get_consumer_from_stream("=firings", "TIDE_PARK").await.unwrap();
            let info = consumer.cached_info();
            info.num_redelivered > 0 || info.ack_floor.consumer_sequence > 0
        })
        .await;
    };
    let mut overwritten = false;
    let writing = async {
        // Each expects the one before it. If another message was stored in between, the next is refused; the one after it may
        // expect just that message, and replaces it.
        let mut sent = VecDeque::new();
        loop {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string());
            sent.push_back(admin.publish(record.clone(), headers, other.clone().into()).await.unwrap());
            last += 1;
            let refused = sent.len() >= 12 && sent.pop_front().unwrap().stored().await.is_err();
            if refused {
                for after in sent.drain(..) {
                    overwritten |= after.stored().await.is_ok();
                }
                let found = admin.last("TIDE_PARK", &record).await.unwrap().unwrap();
                last = header_number(&found, "Nats-Sequence").unwrap();
                if found.payload != other.as_bytes() {
                    return std::future::pending().await;
                }
            }
        }
    };
    tokio::select! {
        () = settled => {}
        () = writing => {}
    }
    eventually("it is acknowledged", async || messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0)
        .await;
    assert_eq!(shown(&doors, "a").await["last"]["outcome"], "stored");
    let found = admin.last("TIDE_PARK", &record).await.unwrap().unwrap();
    let found: Value = serde_json::from_slice(&found.payload).unwrap();
    if overwritten && found["version"] == "other" {
        return;
    }
    assert_eq!(found["version"], schedule.version.as_str());
    assert!(RequestId::parse(found["id"].as_str().unwrap()).is_some());
}
