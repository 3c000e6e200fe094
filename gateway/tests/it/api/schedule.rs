//! Schedules: requests that are repeated, and publications that are repeated or come at a time.

use std::{collections::BTreeSet, sync::Mutex};

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::PullConsumer},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tidegate_cli::{
    client::{Event, Events},
    stack::Stack,
};
use tidegate_shared::{channel::Channel, id::RequestId, protocol::HistoryRequest};

use super::{Doors, code};
use crate::support::{
    admin, connect, event, eventually, fresh, history, kept_toml, publication, quick, start,
};

/// Firings that were not acknowledged are delivered again after a second. The broker remembers ids as
/// long.
pub(super) const SHORT: &str = "[worker]\nack_wait = '1s'\n[streams]\nduplicate_window = '1s'\n";

pub(super) async fn stack(workers: usize) -> (Stack, Doors) {
    let toml = format!("{SHORT}{}", kept_toml(20, ""));
    let stack = start(quick(&toml).gateways(2).workers(workers)).await;
    let doors = Doors::of(&stack).await;
    (stack, doors)
}

pub(super) async fn set(doors: &Doors, schedule: Value) -> Value {
    let set = doors.nats("schedule_set", schedule).await;
    assert!(set["result"]["outcome"].is_string(), "{set}");
    set["result"]["outcome"].clone()
}

pub(super) async fn shown(doors: &Doors, name: &str) -> Value {
    doors.nats("schedule_show", json!({"name": name})).await["result"].clone()
}

/// The next answer on the personal channel of user 42: the id of its request, and its data.
async fn answer(events: &mut Events) -> (String, String) {
    event(events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => {
            Some((tags.get("re")?.clone(), String::from_utf8_lossy(&data).into_owned()))
        }
        _ => None,
    })
    .await
}

/// When a firing was stored, in milliseconds since 1970: its id says so.
fn fired_at(id: &str) -> u64 {
    id.rsplit('-').next().unwrap().parse().unwrap()
}

pub(super) async fn messages(stack: &Stack, stream: &str, subject: &str) -> usize {
    let jetstream = jetstream::new(admin(stack).await);
    let stream = jetstream.get_stream(stream).await.unwrap();
    let subjects = stream.info_with_subjects(subject).await.unwrap();
    subjects.count().await
}

#[tokio::test]
async fn a_cron_line_fires_once_however_many_gateways_and_workers_there_are() {
    let (stack, doors) = stack(3).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    let each_second = json!({"name": "each second", "cron": "* * * * * *", "method": "echo", "user": "42", "data": {"n": 1}});
    assert_eq!(set(&doors, each_second.clone()).await, "created");
    let mut ids = Vec::new();
    while ids.len() < 4 {
        let (id, data) = answer(&mut events).await;
        assert_eq!(data, r#"{"n":1}"#);
        ids.push(id);
    }
    let seconds: BTreeSet<u64> = ids.iter().map(|id| fired_at(id) / 1000).collect();
    assert_eq!(seconds.len(), 4, "each second once: {ids:?}");
    for id in &ids {
        let job = doors.http("job", json!({"id": id})).await;
        let job = &job["result"];
        assert_eq!(
            (&job["state"], &job["user"], &job["data"]),
            (&json!("answered"), &json!("42"), &json!({"n": 1}))
        );
    }
    assert_eq!(set(&doors, each_second).await, "unchanged");
    let shown = shown(&doors, "each second").await;
    assert_eq!((&shown["cron"], &shown["data"]), (&json!("* * * * * *"), &json!({"n": 1})));
    assert!(shown["last"]["outcome"] == "stored" && shown["next"].is_string(), "{shown}");
}

#[tokio::test]
async fn a_schedule_survives_a_kill_of_the_broker_which_repeats_no_firing() {
    let (stack, doors) = stack(1).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    set(&doors, json!({"name": "a", "cron": "*/5 * * * * *", "method": "echo", "user": "42"})).await;
    // The broker writes down when it fires next only now and then, and when it stops.
    stack.stop("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    let (first, _) = answer(&mut events).await;
    eventually("the firing is acknowledged", async || {
        messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0
            && shown(&doors, "a").await["last"]["id"] == first.as_str()
    })
    .await;
    stack.kill("nats").await.unwrap();
    let (second, _) = answer(&mut events).await;
    let (first, second) = (fired_at(&first), fired_at(&second));
    assert!(second / 5_000 > first / 5_000, "one firing for each time: {first} {second}");
    assert!(shown(&doors, "a").await["last"]["outcome"] == "stored");
}

#[tokio::test]
async fn while_gateways_and_workers_are_killed_each_time_is_one_request() {
    let (stack, doors) = stack(3).await;
    set(&doors, json!({"name": "a", "cron": "* * * * * *", "method": "echo"})).await;
    let jetstream = jetstream::new(admin(&stack).await);
    let replies = jetstream.get_stream("TIDE_REPLY").await.unwrap();
    let answered = async || {
        let subjects = replies.info_with_subjects("tide.reply.t.*").await.unwrap();
        subjects.map(|subject| fired_at(&subject.unwrap().0)).collect::<Vec<u64>>().await
    };
    for name in ["gateway-1", "worker-1", "gateway-2", "worker-2", "worker-3"] {
        let before = answered().await.len();
        stack.kill(name).await.unwrap();
        eventually("it goes on", async || answered().await.len() > before).await;
    }
    let answered = answered().await;
    let seconds: BTreeSet<u64> = answered.iter().map(|at| at / 1000).collect();
    assert!(seconds.len() == answered.len() && answered.len() >= 5, "{answered:?}");
}

#[tokio::test]
async fn a_schedule_that_is_set_again_is_replaced_and_a_removed_one_does_not_fire() {
    let (stack, doors) = stack(1).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    let every = |name: &str, data: &str| json!({"name": name, "every": "1s", "method": "echo", "user": "42", "data": data});
    assert_eq!(set(&doors, every("a", "old")).await, "created");
    assert_eq!(answer(&mut events).await.1, "\"old\"");
    assert_eq!(set(&doors, every("a", "new")).await, "replaced");
    while answer(&mut events).await.1 != "\"new\"" {}
    for _ in 0..2 {
        assert_eq!(answer(&mut events).await.1, "\"new\"");
    }
    let removed = doors.http("schedule_remove", json!({"name": "a"})).await;
    assert_eq!(removed["result"]["removed"], true);
    assert_eq!(doors.nats("schedule_remove", json!({"name": "a"})).await["result"]["removed"], false);
    assert_eq!(code(&doors.nats("schedule_show", json!({"name": "a"})).await), Some(108));
    set(&doors, every("b", "other")).await;
    while answer(&mut events).await.1 != "\"other\"" {}
    for _ in 0..2 {
        assert_eq!(answer(&mut events).await.1, "\"other\"", "the other one alone");
    }
}

#[tokio::test]
async fn a_firing_whose_predecessor_is_not_done_is_a_request_all_the_same_or_is_skipped() {
    let (stack, doors) = stack(0).await;
    set(&doors, json!({"name": "skips", "every": "1s", "method": "nobody", "data": 1, "overlap": "skip"}))
        .await;
    eventually("a firing is skipped", async || shown(&doors, "skips").await["last"]["outcome"] == "skipped")
        .await;
    assert_eq!(messages(&stack, "TIDE_IN_nobody", ">").await, 1, "only the first one is a request");
    set(&doors, json!({"name": "overlaps", "every": "1s", "method": "later.echo", "user": "42"})).await;
    eventually("they pile up", async || messages(&stack, "TIDE_IN_later", ">").await >= 3).await;
    assert_eq!(messages(&stack, "TIDE_IN_nobody", ">").await, 1);

    // Once it is done, the next firing is a request again.
    let jetstream = jetstream::new(admin(&stack).await);
    let stream = jetstream.get_stream("TIDE_IN_nobody").await.unwrap();
    let waiting = stream.get_raw_message(1).await.unwrap();
    let id = waiting.headers.get("Tide-Id").unwrap().to_string();
    assert_eq!(waiting.headers.get("Tide-Schedule").unwrap().as_str(), "skips");
    assert_eq!(doors.nats("job", json!({"id": id})).await["result"]["state"], "accepted");
    assert_eq!(doors.nats("job_cancel", json!({"id": id})).await["result"]["state"], "cancelled");
    eventually("the next one follows", async || messages(&stack, "TIDE_IN_nobody", ">").await == 2).await;
}

#[tokio::test]
async fn schedules_are_listed_page_by_page() {
    let (_stack, doors) = stack(0).await;
    for (name, when) in [
        ("a", json!({"every": "1h"})),
        ("b c", json!({"cron": "0 3 * * *", "time_zone": "Europe/Berlin"})),
        ("d", json!({"at": "2031-01-01T00:00:00Z"})),
        ("e", json!({"cron": "0 3 * * *"})),
    ] {
        let mut schedule = json!({"name": name, "channel": "chat:a", "data": "later", "tags": {"x": "y"}});
        schedule.as_object_mut().unwrap().extend(when.as_object().unwrap().clone());
        set(&doors, schedule).await;
    }
    let page = doors.http("schedule_list", json!({"limit": 2})).await["result"].clone();
    let next =
        doors.nats("schedule_list", json!({"limit": 2, "cursor": page["cursor"]})).await["result"].clone();
    let names = |page: &Value| {
        let schedules = page["schedules"].as_array().unwrap().iter();
        schedules.map(|schedule| schedule["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&page), names(&next)),
        (vec!["a".to_owned(), "b c".to_owned()], vec!["d".to_owned(), "e".to_owned()])
    );
    assert!(next["cursor"].is_null());
    let (first, second) = (&page["schedules"][0], &page["schedules"][1]);
    assert!(first["every"] == "1h" && first["next"].is_string() && first["channel"] == "chat:a", "{first}");
    assert!(second["cron"] == "0 3 * * *" && second["time_zone"] == "Europe/Berlin", "{second}");
    assert_eq!(next["schedules"][0]["next"], "2031-01-01T00:00:00.000Z");
    assert!(next["schedules"][1]["next"].as_str().unwrap().ends_with("T03:00:00.000Z"), "{next}");
    assert!(second["next"].is_null(), "only the broker knows the time zones");
    assert_eq!(shown(&doors, "b c").await["tags"], json!({"x": "y"}));
    assert_eq!(code(&doors.nats("schedule_list", json!({"limit": 501})).await), Some(107));
}

#[tokio::test]
async fn a_schedule_that_cannot_be_is_refused_with_a_sentence() {
    let (stack, doors) = stack(0).await;
    let request = |more: Value| {
        let mut schedule = json!({"name": "a", "method": "echo"});
        schedule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schedule
    };
    for (ask, expected, words) in [
        (json!({"every": "1s", "method": "echo"}), 107, "name: a schedule's name has 1 to 128 bytes"),
        (request(json!({"name": "x".repeat(129), "every": "1s"})), 107, "name:"),
        (request(json!({})), 107, "one of cron, every, delay and at"),
        (request(json!({"cron": "* * * * *", "every": "1s"})), 107, "one of cron, every, delay and at"),
        (request(json!({"every": "500ms"})), 107, "every: an interval has whole seconds, and at least one"),
        (request(json!({"every": "often"})), 107, "every:"),
        (request(json!({"cron": "60 * * * *"})), 107, "minute: \"60\" is not a number from 0 to 59"),
        (request(json!({"cron": "* * *"})), 107, "3 fields"),
        (request(json!({"cron": "0 0 31 feb *"})), 107, "no such time within the next five years"),
        (
            request(json!({"cron": "0 3 * * *", "time_zone": "Mars/Phobos"})),
            107,
            "time_zone: the broker does not know",
        ),
        (request(json!({"cron": "0 3 * * *", "time_zone": "+02:00"})), 107, "time_zone: \"+02:00\" is not"),
        (request(json!({"every": "1s", "time_zone": "UTC"})), 107, "only a cron line has a time zone"),
        (request(json!({"at": "tomorrow"})), 107, "a time is in UTC"),
        (request(json!({"every": "1s", "overlap": "never"})), 107, "overlap:"),
        (request(json!({"every": "1s", "channel": "chat:a"})), 107, "either a method"),
        (request(json!({"every": "1s", "tags": {"a": "b"}})), 107, "tags are for publications"),
        (request(json!({"every": "1s", "key": "k"})), 107, "key"),
        (json!({"name": "a", "every": "1s"}), 107, "either a method"),
        (json!({"name": "a", "every": "1s", "method": "no.route"}), 104, "no route takes"),
        (json!({"name": "a", "every": "1s", "channel": "unknown:a", "data": 1}), 102, "unknown channel"),
        (json!({"name": "a", "every": "1s", "channel": "chat:a"}), 107, "a publication needs data"),
        (
            json!({"name": "a", "every": "1s", "channel": "chat:a", "data": 1, "overlap": "skip"}),
            107,
            "are for requests",
        ),
    ] {
        let refused = doors.nats("schedule_set", ask.clone()).await;
        let message = refused["error"]["message"].as_str().unwrap_or_else(|| panic!("{ask}: {refused}"));
        assert!(code(&refused) == Some(expected) && message.contains(words), "{ask}: {refused}");
    }
    assert_eq!(messages(&stack, "TIDE_PARK", ">").await, 0, "nothing is stored");
}

#[tokio::test]
async fn a_publication_comes_at_its_time_once_and_can_be_cancelled() {
    let (stack, doors) = stack(0).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let later = |data: &str, delay: &str| json!({"channel": "kept:a", "data": data, "delay": delay, "tags": {"x": "y"}, "idempotency_key": data});
    let first = doors.http("publish", later("soon", "1s")).await["result"].clone();
    let again = doors.nats("publish", later("soon", "1s")).await["result"].clone();
    assert!(first["schedule"].is_string() && first == again, "{first} {again}");
    let cancelled = doors.nats("publish", later("never", "1h")).await["result"]["schedule"].clone();
    let removed = doors.nats("schedule_remove", json!({"name": cancelled})).await;
    assert_eq!(removed["result"]["removed"], true);
    let over = json!({"channels": ["kept:a", "unknown:a"], "data": "over", "at": "2020-01-01T00:00:00Z"});
    let many = doors.nats("broadcast", over).await["result"]["responses"].clone();
    assert!(many[0]["result"]["schedule"].is_string() && code(&many[1]) == Some(102), "{many}");
    let mut came = Vec::new();
    while came.len() < 2 {
        came.push(publication(&mut events, "kept:a").await);
    }
    came.sort();
    assert_eq!(came, ["\"over\"", "\"soon\""]);
    eventually("nothing waits", async || {
        messages(&stack, "TIDE_PARK", "tide.park.schedules.*").await == 0
            && messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0
    })
    .await;
    let past = history(
        &client,
        HistoryRequest { channel: "kept:a".to_owned(), limit: 10, ..HistoryRequest::default() },
    );
    assert_eq!(past.await.unwrap().publications.len(), 2, "each is stored once");
    let shown = shown(&doors, first["schedule"].as_str().unwrap()).await;
    assert_eq!((&shown["state"], &shown["last"]["outcome"]), (&json!("over"), &json!("stored")));
}

#[tokio::test]
async fn what_fires_while_no_gateway_runs_comes_when_one_is_back() {
    let (stack, doors) = stack(1).await;
    doors.nats("publish", json!({"channel": "kept:a", "data": 1, "delay": "1s"})).await;
    set(&doors, json!({"name": "a", "every": "1s", "method": "echo", "user": "42"})).await;
    for gateway in ["gateway-1", "gateway-2"] {
        stack.hold(gateway).await.unwrap();
    }
    // One place for the publication, and one for the newest firing of the schedule.
    let jetstream = jetstream::new(admin(&stack).await);
    let park = jetstream.get_stream("TIDE_PARK").await.unwrap();
    let seen = Mutex::new(BTreeSet::new());
    eventually("the broker fires on", async || {
        let fired = park.get_last_raw_message_by_subject("tide.due.firing.a").await;
        let mut seen = seen.lock().unwrap();
        seen.extend(fired.ok().map(|message| message.sequence));
        seen.len() >= 3
    })
    .await;
    assert_eq!(messages(&stack, "TIDE_PARK", "tide.due.firing.*").await, 2);
    stack.start_process("gateway-1").await.unwrap();
    stack.wait_ready("gateway-1").await.unwrap();
    let (client, mut events) = connect(&stack, 0, "42").await;
    answer(&mut events).await;
    eventually("the publication is stored", async || {
        let past = history(
            &client,
            HistoryRequest { channel: "kept:a".to_owned(), limit: 10, ..HistoryRequest::default() },
        );
        past.await.is_ok_and(|past| past.publications.len() == 1)
    })
    .await;
}

/// Takes the next firing from the broker as a gateway does, and does not acknowledge it.
pub(super) async fn take(stack: &Stack) -> jetstream::Message {
    let jetstream = jetstream::new(admin(stack).await);
    let consumer: PullConsumer = jetstream.get_consumer_from_stream("=firings", "TIDE_PARK").await.unwrap();
    let mut messages =
        consumer.fetch().max_messages(1).expires(crate::support::PATIENCE).messages().await.unwrap();
    messages.next().await.unwrap().unwrap()
}

/// The id of a firing, from where and when the broker stored it.
pub(super) fn id_of(firing: &jetstream::Message, name: &str) -> RequestId {
    let info = firing.info().unwrap();
    let at = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap();
    RequestId::fired(name, info.stream_sequence, at)
}

#[tokio::test]
async fn a_gateway_that_ends_between_storing_and_acknowledging_makes_nothing_come_twice() {
    let (stack, doors) = stack(1).await;
    let name = doors.nats("publish", json!({"channel": "kept:a", "data": 1, "delay": "1s"})).await;
    let name = name["result"]["schedule"].as_str().unwrap().to_owned();
    set(&doors, json!({"name": "once", "delay": "1s", "method": "echo", "data": 7})).await;
    for gateway in ["gateway-1", "gateway-2"] {
        stack.hold(gateway).await.unwrap();
    }
    let (admin, subjects) = (stack.admin().await.unwrap(), stack.config().subjects());
    let mut request = None;
    for _ in 0..2 {
        let firing = take(&stack).await;
        let mut headers = HeaderMap::new();
        if firing.subject.ends_with(".once") {
            let id = id_of(&firing, "once");
            headers = firing.headers.clone().unwrap();
            headers.insert("Tide-Id", id.as_str());
            headers.insert("Nats-Msg-Id", id.as_str());
            for name in ["Nats-Scheduler", "Nats-Schedule-Next"] {
                headers.insert(name, "");
            }
            let read = tidegate_shared::envelope::Request::read(&headers, firing.payload.clone()).unwrap();
            let subject = subjects.request(&read.address());
            admin.store(subject, read.headers(), read.body.clone()).await.unwrap();
            request = Some(id);
        } else {
            headers.insert("Nats-Msg-Id", name.as_str());
            let subject = subjects.channel(&Channel::parse("kept:a").unwrap());
            admin.store(subject, headers, firing.payload.clone()).await.unwrap();
        }
    }
    let probe = async || {
        let subject = subjects.channel(&Channel::parse("kept:probe").unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "probe");
        admin.store(subject, headers, "1".into()).await.is_ok_and(|stored| !stored.duplicate)
    };
    assert!(probe().await);
    eventually("the broker has forgotten the ids", async || probe().await).await;
    let reply = subjects.reply(&request.unwrap());
    eventually("the request is answered and gone", async || {
        admin.last("TIDE_REPLY", &reply).await.ok().flatten().is_some()
            && messages(&stack, "TIDE_IN_echo", ">").await == 0
    })
    .await;
    stack.start_process("gateway-1").await.unwrap();
    stack.wait_ready("gateway-1").await.unwrap();
    eventually("both are acknowledged", async || {
        messages(&stack, "TIDE_PARK", "tide.due.firing.*").await == 0
    })
    .await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let past = history(
        &client,
        HistoryRequest { channel: "kept:a".to_owned(), limit: 10, ..HistoryRequest::default() },
    );
    assert_eq!(past.await.unwrap().publications.len(), 1);
    assert_eq!(messages(&stack, "TIDE_IN_echo", ">").await, 0, "it is not stored again");
    assert_eq!(shown(&doors, "once").await["last"]["outcome"], "stored");
}

#[tokio::test]
async fn a_firing_that_no_route_takes_any_more_waits_until_its_schedule_is_removed() {
    let (stack, doors) = stack(0).await;
    let (admin, subjects) = (stack.admin().await.unwrap(), stack.config().subjects());
    set(&doors, json!({"name": "gone", "every": "1s", "method": "nobody"})).await;
    // As one that was set when the configuration was another.
    let kept = admin.last("TIDE_PARK", &subjects.schedule("gone")).await.unwrap().unwrap();
    let mut headers = HeaderMap::new();
    for (name, values) in kept.headers.unwrap().iter() {
        headers.insert(name.clone(), values[0].clone());
    }
    for (name, value) in [("Tide-Method", "no.route"), ("Tide-Route", "gone"), ("Nats-Msg-Id", "another")] {
        headers.insert(name, value);
    }
    for name in [
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-Expected-Last-Subject-Sequence",
    ] {
        headers.insert(name, "");
    }
    let clean: HeaderMap = headers
        .iter()
        .filter(|(_, values)| !values[0].as_str().is_empty())
        .map(|(name, values)| (name.clone(), values[0].clone()))
        .collect();
    admin.store(subjects.schedule("gone"), clean, kept.payload).await.unwrap();
    eventually("it is shown", async || {
        let last = shown(&doors, "gone").await["last"].clone();
        last["outcome"] == "failing"
            && last["error"].as_str().is_some_and(|error| error.contains("no route takes"))
    })
    .await;
    assert!(messages(&stack, "TIDE_PARK", "tide.due.firing.*").await <= 1, "they do not pile up");
    assert_eq!(doors.nats("schedule_remove", json!({"name": "gone"})).await["result"]["removed"], true);
    eventually("nothing is left", async || messages(&stack, "TIDE_PARK", ">").await == 0).await;
}

#[tokio::test]
async fn what_fired_before_its_schedule_was_removed_becomes_nothing() {
    let (stack, doors) = stack(0).await;
    set(&doors, json!({"name": "a", "every": "1s", "method": "nobody"})).await;
    for gateway in ["gateway-1", "gateway-2"] {
        stack.hold(gateway).await.unwrap();
    }
    let stored = messages(&stack, "TIDE_IN_nobody", ">").await;
    eventually("it fires", async || messages(&stack, "TIDE_PARK", "tide.due.firing.a").await == 1).await;
    let jetstream = jetstream::new(admin(&stack).await);
    let park = jetstream.get_stream("TIDE_PARK").await.unwrap();
    park.purge().filter("tide.park.schedules.a").await.unwrap();
    stack.start_process("gateway-1").await.unwrap();
    eventually("it is gone", async || messages(&stack, "TIDE_PARK", "tide.due.firing.a").await == 0).await;
    assert_eq!(messages(&stack, "TIDE_IN_nobody", ">").await, stored);
}

#[tokio::test]
async fn a_firing_that_the_broker_left_out_after_a_crash_is_made_up_for_once() {
    let (stack, doors) = stack(1).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    set(&doors, json!({"name": "a", "every": "1h", "method": "echo", "user": "42", "data": "made up"})).await;
    let (admin, subjects) = (stack.admin().await.unwrap(), stack.config().subjects());
    let kept = admin.last("TIDE_PARK", &subjects.schedule("a")).await.unwrap().unwrap();
    let version = kept.headers.unwrap().get("Tide-Schedule-Version").unwrap().to_string();
    // As after a firing whose successor was due while the broker was away.
    let record = json!({"version": version, "id": "t.before", "at": 1, "outcome": "stored", "next": 2});
    admin.store(subjects.fired("a"), HeaderMap::new(), record.to_string().into()).await.unwrap();
    stack.kill("nats").await.unwrap();
    let (id, data) = answer(&mut events).await;
    assert_eq!(data, "\"made up\"");
    eventually("it is remembered", async || shown(&doors, "a").await["last"]["id"] == id.as_str()).await;
    // Both gateways look again.
    stack.kill("nats").await.unwrap();
    let other = json!({"name": "b", "every": "5s", "method": "echo", "user": "42", "data": "later"});
    eventually("the broker is back", async || {
        doors.http("schedule_set", other.clone()).await["result"]["outcome"].is_string()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(answer(&mut events).await.1, "\"later\"", "it does not come again");
    }
}
