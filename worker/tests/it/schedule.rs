//! Schedules that handlers set and remove; a gateway carries them out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_shared::envelope::Request;
use tidegate_worker::{
    Failure, FollowUp, Job, Json, Publication, Router, ScheduleChange, Schedules, State, When, on,
};

use crate::support::{Notes, Tide, eventually, header, next};

const ROUTES: &str = "[[route]]\nname = \"begin\"\nmatch = \"rpc.begin\"\nbackoff = { base = \"50ms\", cap = \"100ms\" }\n\
                      [[route]]\nname = \"tick\"\nmatch = \"rpc.tick\"\n\
                      [[route]]\nname = \"end\"\nmatch = \"rpc.end\"\n";

/// Fails on its first attempt, after it has set the schedule.
async fn begin(
    State((notes, _)): State<(Notes, Notes)>,
    schedules: Schedules,
    job: Job,
) -> Result<(), Failure> {
    let each_second = When::every(Duration::from_secs(1));
    let change = schedules.set("a tick", each_second, FollowUp::json("tick", &"one")?).await?;
    notes.note(json!(change.as_str()));
    if job.attempt() == 0 { Err(Failure::retry(anyhow::anyhow!("not yet"))) } else { Ok(()) }
}

async fn end(schedules: Schedules) -> Result<Json<[bool; 2]>, Failure> {
    Ok(Json([schedules.remove("a tick").await?, schedules.remove("a tick").await?]))
}

async fn tick(State((_, ran)): State<(Notes, Notes)>, job: Job) {
    let body: Value = serde_json::from_slice(&job.body()).unwrap();
    ran.note(json!([job.user(), job.header("Tide-Schedule"), body]));
}

#[tokio::test]
async fn a_schedule_that_a_handler_sets_fires_until_a_handler_removes_it_and_a_repeated_attempt_changes_nothing()
 {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let (changes, ran) = (Notes::default(), Notes::default());
    let router = Router::with_state((changes.clone(), ran.clone()));
    let router = router.route("begin", on(begin)).route("tick", on(tick)).route("end", on(end));
    let _worker = tide.work("w1", router).await;
    let request = Request { later: true, ..tide.request("begin", "") };
    tide.send(&request).await;
    tide.body(&request).await;
    assert_eq!(changes.all(), [json!("created"), json!("unchanged")]);
    eventually("it fires", async || (ran.all().len() >= 2).then_some(())).await;
    assert_eq!(ran.all()[0], json!(["42", "a tick", "one"]));

    let request = Request { later: true, ..tide.request("end", "") };
    tide.send(&request).await;
    assert_eq!(tide.body(&request).await, "[true,false]");
    eventually("nothing of it is left", async || (tide.count("TIDE_PARK").await == 0).then_some(())).await;
    eventually("what had fired has run", async || (tide.unsettled("tick").await == 0).then_some(())).await;
    let later = Request { later: true, ..tide.request("begin", "") };
    tide.send(&later).await;
    tide.body(&later).await;
    assert_eq!(changes.all()[2..], [json!("created"), json!("unchanged")], "it was gone");
}

#[tokio::test]
async fn what_fires_once_is_set_once_over_all_attempts_even_if_it_has_fired_meanwhile() {
    async fn begin(
        State(notes): State<Notes>,
        schedules: Schedules,
        job: Job,
    ) -> Result<Publication, Failure> {
        let soon = When::after(Duration::from_millis(200));
        let change =
            schedules.set("once", soon, Publication::bytes("chat:a", "\"once\"").tag("k", "v")).await?;
        let again = When::after(Duration::from_hours(1));
        let later = schedules.set("later", again, Publication::bytes("chat:a", "\"never\"")).await?;
        notes.note(json!([change.as_str(), later.as_str()]));
        if job.attempt() == 0 {
            return Err(Failure::retry_after(Duration::from_secs(2), anyhow::anyhow!("not yet")));
        }
        Ok(Publication::bytes("chat:a", "\"beside\"").after(Duration::from_millis(200)))
    }
    let (tide, notes) = (Tide::start_with_gateway(ROUTES).await, Notes::default());
    let mut chat = tide.listen("tide.live.chat.a").await;
    let _worker = tide.work("w1", Router::with_state(notes.clone()).route("begin", on(begin))).await;
    let request = Request { later: true, ..tide.request("begin", "") };
    tide.send(&request).await;
    let once = next(&mut chat).await;
    assert_eq!((&once.payload[..], header(&once, "Tide-Tag-k")), (&b"\"once\""[..], "v"));
    tide.body(&request).await;
    assert_eq!(notes.all(), [json!(["created", "created"]), json!(["unchanged", "unchanged"])]);
    assert_eq!(next(&mut chat).await.payload, "\"beside\"", "the one that had fired did not fire again");
}

#[tokio::test]
async fn a_schedule_is_replaced_by_another_one_of_its_name() {
    async fn begin(
        schedules: Schedules,
        State(n): State<Arc<AtomicU32>>,
    ) -> Result<Json<[Value; 3]>, Failure> {
        let (n, yearly) = (n.fetch_add(1, SeqCst), When::cron("0 3 1 1 *").zone("Europe/Berlin"));
        let set = async |when: &When, n: u32| {
            let change = schedules.set("report", when.clone(), FollowUp::json("tick", &n)?.nobody()).await;
            Ok::<Value, Failure>(json!(change.map(ScheduleChange::as_str)?))
        };
        let skipping = yearly.clone().skip_overlap();
        Ok(Json([set(&yearly, n).await?, set(&skipping, n).await?, set(&skipping, n).await?]))
    }
    let tide = Tide::start(ROUTES).await;
    let router = Router::with_state(Arc::default()).route("begin", on(begin));
    let _worker = tide.work("w1", router).await;
    for first in ["created", "replaced"] {
        let request = Request { later: true, ..tide.request("begin", "") };
        tide.send(&request).await;
        let changes: Value = serde_json::from_slice(&tide.body(&request).await).unwrap();
        assert_eq!(changes, json!([first, "replaced", "unchanged"]));
    }
    assert_eq!(tide.count("TIDE_PARK").await, 1);
}

#[tokio::test]
async fn a_schedule_that_is_replaced_after_it_has_fired_brings_nothing() {
    async fn begin(schedules: Schedules, Json(first): Json<bool>) -> Result<Json<&'static str>, Failure> {
        let when = if first { When::after(Duration::ZERO) } else { When::every(Duration::from_hours(1)) };
        let change = schedules.set("once", when, Publication::bytes("chat:a", first.to_string())).await?;
        Ok(Json(change.as_str()))
    }
    // Without a gateway a firing waits.
    let tide = Tide::start(ROUTES).await;
    let _worker = tide.work("w1", Router::new().route("begin", on(begin))).await;
    let firing = tide.subjects.firing("once");
    let waits = async || {
        let message = tide.gateway.last("TIDE_PARK", &firing).await.unwrap();
        message.is_some_and(|message| message.payload == "true")
    };
    for (first, change) in [("true", "\"created\""), ("false", "\"replaced\"")] {
        let request = Request { later: true, ..tide.request("begin", first) };
        tide.send(&request).await;
        assert_eq!(tide.body(&request).await, change);
        if first == "true" {
            eventually("it has fired", async || waits().await.then_some(())).await;
        }
    }
    assert!(!waits().await);
}

#[tokio::test]
async fn a_schedule_that_no_attempt_could_set_makes_a_dead_letter_at_once() {
    async fn begin(schedules: Schedules, Json(what): Json<String>) -> Result<(), Failure> {
        let (daily, work) = (When::cron("0 3 * * *"), FollowUp::json("tick", &1)?);
        let set = match what.as_str() {
            "cron" => schedules.set("a", When::cron("60 3 * * *"), work).await,
            "never" => schedules.set("a", When::cron("0 0 31 feb *"), work).await,
            "zone" => schedules.set("a", daily.zone("Mars/Phobos"), work).await,
            "route" => schedules.set("a", daily, FollowUp::json("nobody", &1)?).await,
            _ => schedules.set("a", daily, Publication::bytes("unknown:a", "1")).await,
        };
        set.map(drop).map_err(Failure::from)
    }
    let tide = Tide::start(ROUTES).await;
    let worker = tide.work("w1", Router::new().route("begin", on(begin))).await;
    for (n, (what, why)) in (1..).zip([
        ("cron", "cron: minute: \"60\" is not a number from 0 to 59"),
        ("never", "cron: the broker finds no such time within the next five years"),
        ("zone", "time_zone: the broker does not know this time zone"),
        ("route", "no route takes \"nobody\""),
        ("channel", "there is no [[namespace]] \"unknown\""),
    ]) {
        tide.ask("begin", json!(what).to_string()).await;
        eventually("a dead letter is stored", async || (tide.count("TIDE_DEAD").await == n).then_some(()))
            .await;
        let letter = tide.dead_letter("begin").await;
        let error = header(&letter, "Tide-Dead-Error");
        assert!(
            error.starts_with("cannot set the schedule \"a\": ") && error.contains(why),
            "{what}: {error}"
        );
    }
    assert_eq!((worker.outcomes("begin", "retry"), tide.count("TIDE_PARK").await), (0, 0));
}
