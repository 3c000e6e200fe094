//! `job` and `job_cancel`: the states of requests, and cancelling them before a worker has answered.

use serde_json::{Value, json};
use tidegate_cli::{
    client::{Client, Event},
    stack::{Kind, Stack},
};

use super::{Doors, code};
use crate::support::{admin, connect, event, eventually, quick, start};

async fn stack(workers: usize) -> (Stack, Doors) {
    let open = "[[route]]\nname = 'open'\nmatch = 'rpc.open.>'\n";
    let stack = start(quick(open).gateways(2).workers(workers)).await;
    let doors = Doors::of(&stack).await;
    (stack, doors)
}

/// Stores a request, and returns its id.
async fn enqueue(doors: &Doors, ask: Value) -> Value {
    let stored = doors.nats("enqueue", ask).await;
    assert!(stored["result"]["id"].is_string(), "{stored}");
    stored["result"]["id"].clone()
}

async fn count(stack: &Stack, stream: &str) -> u64 {
    let jetstream = async_nats::jetstream::new(admin(stack).await);
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Asks as the SDKs do, and returns the answer.
async fn ask(client: &Client, method: &str, about: &Value) -> Value {
    serde_json::from_slice(&client.rpc(method, about.to_string()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_requests_state_is_known_to_every_gateway_by_its_id_and_by_its_key() {
    let (_stack, doors) = stack(1).await;
    let waiting = enqueue(&doors, json!({"method": "nobody", "key": "a", "user": "42"})).await;
    let job = doors.http("job", json!({"id": waiting})).await;
    let expected =
        json!({"id": waiting, "state": "accepted", "method": "nobody", "user": "42", "attempt": 0});
    assert_eq!(job["result"], expected);
    let by_key = doors.nats("job", json!({"method": "nobody", "key": "a", "user": "42"})).await;
    assert_eq!(by_key, job);
    let deep = enqueue(&doors, json!({"method": "open.a.b.c"})).await;
    assert_eq!(doors.http("job", json!({"id": deep})).await["result"]["state"], "accepted");
    let later = enqueue(&doors, json!({"method": "echo", "at": "2031-01-01T00:00:00Z"})).await;
    let job = doors.http("job", json!({"id": later})).await;
    assert_eq!(
        (&job["result"]["state"], &job["result"]["until"]),
        (&json!("waiting"), &json!("2031-01-01T00:00:00.000Z"))
    );
    let done = enqueue(&doors, json!({"method": "echo", "data": {"n": 1}, "key": "b"})).await;
    eventually("it is answered", async || {
        let job = doors.nats("job", json!({"id": done})).await;
        job["result"]["state"] == "answered" && job["result"]["data"] == json!({"n": 1})
    })
    .await;
    for (about, expected) in [
        (json!({"id": "k.nothing"}), None),
        (json!({"method": "echo", "key": "never"}), None),
        (json!({}), Some(107)),
        (json!({"id": "no id"}), Some(107)),
        (json!({"id": "a.b", "user": "42"}), Some(107)),
        (json!({"method": "echo"}), Some(107)),
        (json!({"method": "no.route", "key": "a"}), Some(104)),
    ] {
        let job = doors.nats("job", about.clone()).await;
        assert_eq!(code(&job), expected, "{about}: {job}");
        assert!(expected.is_some() || job["result"]["state"] == "unknown", "{about}: {job}");
    }
}

#[tokio::test]
async fn a_cancelled_request_never_runs_and_leaves_nothing_behind() {
    let (stack, doors) = stack(0).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    let waits = enqueue(&doors, json!({"method": "echo", "data": 1})).await;
    let parked =
        enqueue(&doors, json!({"method": "echo", "key": "a", "data": 2, "delay": "1h", "user": "42"})).await;
    for id in [&waits, &parked] {
        let cancelled = doors.http("job_cancel", json!({"id": id})).await;
        assert_eq!(cancelled["result"]["state"], "cancelled", "{cancelled}");
        assert_eq!(doors.nats("job", json!({"id": id})).await["result"]["state"], "cancelled");
        assert_eq!(
            doors.nats("job_cancel", json!({"id": id})).await["result"]["state"],
            "cancelled",
            "again"
        );
    }
    let told = event(&mut events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => {
            (tags.get("re").map(String::as_str) == parked.as_str()).then_some(data)
        }
        _ => None,
    })
    .await;
    assert_eq!(told, r#"{"code":1005,"message":"cancelled"}"#);
    let again = doors.nats("enqueue", json!({"method": "echo", "key": "a", "data": 2, "user": "42"})).await;
    assert_eq!(again["result"]["duplicate"], true, "its answer is that it was cancelled");
    eventually("nothing is parked", async || count(&stack, "TIDE_PARK").await == 0).await;
    stack.scale(Kind::Worker, 1).await.unwrap();
    let last = enqueue(&doors, json!({"method": "echo", "data": 3})).await;
    eventually("the next request is answered", async || {
        doors.nats("job", json!({"id": last})).await["result"]["state"] == "answered"
    })
    .await;
    assert_eq!(doors.nats("job", json!({"id": waits})).await["result"]["state"], "cancelled");
    assert_eq!(
        doors.nats("job_cancel", json!({"id": last})).await["result"]["state"],
        "answered",
        "too late"
    );
    assert_eq!(doors.nats("job_cancel", json!({"id": "gw.nothing"})).await["result"]["state"], "unknown");
}

#[tokio::test]
async fn a_client_asks_about_its_own_users_requests_and_cancels_them() {
    let (stack, doors) = stack(0).await;
    let ((own, _), (other, _)) = (connect(&stack, 0, "42").await, connect(&stack, 1, "43").await);
    let id = enqueue(&doors, json!({"method": "nobody", "key": "a", "user": "42"})).await;
    let (by_id, by_key) = (json!({"id": id}), json!({"method": "nobody", "key": "a"}));
    let accepted = json!({"id": id, "state": "accepted", "attempt": 0});
    assert_eq!(ask(&own, "tide.status", &by_id).await, accepted);
    assert_eq!(ask(&own, "tide.status", &by_key).await, accepted);
    for method in ["tide.status", "tide.cancel"] {
        assert_eq!(ask(&other, method, &by_id).await["state"], "unknown");
        assert_eq!(ask(&other, method, &by_key).await["state"], "unknown", "a key is its user's");
    }
    assert_eq!(ask(&own, "tide.status", &by_id).await, accepted, "another user has not cancelled it");
    assert_eq!(ask(&own, "tide.cancel", &by_key).await["state"], "cancelled");
    assert_eq!(ask(&own, "tide.status", &by_id).await["state"], "cancelled");
    for (method, about, expected) in
        [("tide.nothing", json!({}), 104), ("tide.status#k", json!({}), 104), ("tide.status", json!({}), 107)]
    {
        let refused = own.rpc(method, about.to_string()).await.unwrap_err();
        assert_eq!(refused.code(), Some(expected), "{method}");
    }
    // A request without a key whose caller waits has no stored answer, so there is no place to say that it is cancelled.
    let _ = own.rpc("nobody", "1").await.unwrap_err();
    let jetstream = async_nats::jetstream::new(admin(&stack).await);
    let stream = jetstream.get_stream("TIDE_IN_nobody").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let plain = stream.get_raw_message(last).await.unwrap();
    let plain = json!({"id": plain.headers.get("Tide-Id").unwrap().as_str()});
    assert_eq!(code(&doors.nats("job_cancel", plain).await), Some(108));
}
