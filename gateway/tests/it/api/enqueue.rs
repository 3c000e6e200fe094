//! `enqueue`: requests of services, with keys, users and times.

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_cli::{client::Event, stack::Stack};
use tidegate_shared::{
    envelope::{Answer, Outcome},
    id::RequestId,
    topology::REPLY,
};

use super::{Doors, code};
use crate::support::{admin, connect, event, eventually, quick, start};

/// Two routes besides the usual ones: one with a pattern, and one that nobody works on.
const ROUTES: &str = "[[route]]\nname = 'orders'\nmatch = 'rpc.orders.{order}.place'\nhandler = 'echo'\n";

async fn stack(workers: usize) -> (Stack, Doors) {
    let stack = start(quick(ROUTES).gateways(2).workers(workers)).await;
    let doors = Doors::of(&stack).await;
    (stack, doors)
}

fn id(answer: &Value) -> RequestId {
    let text = answer["result"]["id"].as_str();
    RequestId::parse(text.unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

/// Waits until the answer to a request is stored, and returns its body. It must not be an error.
async fn stored_answer(stack: &Stack, id: &RequestId) -> Bytes {
    let (admin, subject) = (stack.admin().await.unwrap(), stack.config().subjects().reply(id));
    let stored = async || admin.last(REPLY, &subject).await.ok().flatten();
    eventually("an answer is stored", async || stored().await.is_some()).await;
    let message = stored().await.unwrap();
    match Answer::read(&message.headers.unwrap_or_default(), message.payload).unwrap().outcome {
        Outcome::Ok(body) => body,
        error @ Outcome::Error { .. } => panic!("{error:?}"),
    }
}

/// The number of messages in a stream.
async fn count(stack: &Stack, stream: &str) -> u64 {
    let jetstream = async_nats::jetstream::new(admin(stack).await);
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn a_services_request_is_worked_on_and_its_answer_is_stored() {
    let (stack, doors) = stack(1).await;
    let plain = doors.http("enqueue", json!({"method": "orders.7.place", "data": {"n": 1}})).await;
    assert_eq!(plain["result"]["duplicate"], false);
    assert_eq!(stored_answer(&stack, &id(&plain)).await, r#"{"n":1}"#);
    let bytes = doors.nats("enqueue", json!({"route": "send", "b64data": "/wA="})).await;
    assert_eq!(stored_answer(&stack, &id(&bytes)).await, [0xff, 0].as_slice());
}

#[tokio::test]
async fn the_answer_to_a_request_that_acts_for_a_user_comes_to_the_personal_channel() {
    let (stack, doors) = stack(1).await;
    let (_client, mut events) = connect(&stack, 0, "42").await;
    let stored = doors.nats("enqueue", json!({"method": "echo", "user": "42", "data": "for you"})).await;
    let wanted = id(&stored).to_string();
    let data = event(&mut events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => {
            (tags.get("re") == Some(&wanted)).then_some(data)
        }
        _ => None,
    })
    .await;
    assert_eq!(data, r#""for you""#);
}

#[tokio::test]
async fn a_key_makes_a_services_request_one_request_now_and_later() {
    let (stack, doors) = stack(0).await;
    let ask = |key: &str, data: u8| json!({"method": "nobody", "key": key, "data": data});
    let first = doors.http("enqueue", ask("a", 1)).await;
    let again = doors.nats("enqueue", ask("a", 1)).await;
    assert_eq!(
        (first["result"]["duplicate"].clone(), again["result"]["duplicate"].clone()),
        (json!(false), json!(true))
    );
    assert_eq!(id(&first), id(&again));
    assert_eq!(code(&doors.nats("enqueue", ask("a", 2)).await), Some(1003), "another body");
    let user = doors.nats("enqueue", json!({"method": "nobody", "key": "a", "data": 1, "user": "42"})).await;
    assert_eq!(
        id(&user),
        RequestId::keyed("42", "nobody", "a"),
        "the id of the user's own request with this key"
    );
    assert_ne!(id(&user), id(&first), "a service's keys are no user's");
    assert_eq!(count(&stack, "TIDE_IN_nobody").await, 2);

    let later = |data: u8| json!({"method": "nobody", "key": "b", "data": data, "delay": "1h"});
    let first = doors.http("enqueue", later(1)).await;
    let again = doors.nats("enqueue", later(1)).await;
    assert_eq!(
        (first["result"]["duplicate"].clone(), again["result"]["duplicate"].clone()),
        (json!(false), json!(true))
    );
    assert_eq!(code(&doors.nats("enqueue", later(2)).await), Some(1003), "another body");
    assert_eq!(
        doors.nats("enqueue", ask("b", 1)).await["result"]["duplicate"],
        true,
        "it waits for its time"
    );
    let waiting =
        doors.nats("enqueue", json!({"method": "nobody", "key": "a", "data": 1, "delay": "1h"})).await;
    assert_eq!(waiting["result"]["duplicate"], true, "it waits for a worker");
    assert_eq!((count(&stack, "TIDE_PARK").await, count(&stack, "TIDE_IN_nobody").await), (1, 2));
}

#[tokio::test]
async fn a_request_with_a_time_waits_for_it_and_is_worked_on_once() {
    let (stack, doors) = stack(1).await;
    let far = doors.http("enqueue", json!({"method": "echo", "data": 1, "at": "2031-01-01T00:00:00Z"})).await;
    let soon =
        doors.nats("enqueue", json!({"method": "echo", "data": 2, "delay": "1s", "key": "soon"})).await;
    let over =
        doors.nats("enqueue", json!({"method": "echo", "data": 3, "at": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(stored_answer(&stack, &id(&over)).await, "3");
    assert_eq!(stored_answer(&stack, &id(&soon)).await, "2");
    let again =
        doors.nats("enqueue", json!({"method": "echo", "data": 2, "delay": "1s", "key": "soon"})).await;
    assert_eq!(again["result"]["duplicate"], true, "it is answered");
    eventually("only the one of the far future is left", async || count(&stack, "TIDE_PARK").await == 1)
        .await;
    let jetstream = async_nats::jetstream::new(admin(&stack).await);
    let park = jetstream.get_stream("TIDE_PARK").await.unwrap();
    let left = park.get_last_raw_message_by_subject(&format!("tide.park.{}", id(&far))).await.unwrap();
    assert_eq!(left.headers.get("Nats-Schedule").unwrap().as_str(), "@at 2031-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_request_that_cannot_be_stored_is_refused_with_a_sentence() {
    let (stack, doors) = stack(0).await;
    for (ask, expected, words) in [
        (json!({}), 107, "a method, or a route"),
        (json!({"method": "nothing.here"}), 104, "no route takes \"nothing.here\""),
        (json!({"route": "nothing"}), 104, "no route \"nothing\""),
        (json!({"route": "orders"}), 107, "orders.{order}.place"),
        (json!({"method": "echo", "route": "orders"}), 107, "route \"echo\" takes"),
        (json!({"method": "echo#key"}), 107, "`key`"),
        (json!({"method": "echo", "key": "x".repeat(129)}), 107, "128 bytes"),
        (json!({"method": "echo", "user": "a\nb"}), 107, "user"),
        (json!({"method": "echo", "data": 1, "b64data": "AA=="}), 107, "either data or b64data"),
        (json!({"method": "echo", "delay": "soon"}), 107, "a delay is a duration"),
        (json!({"method": "echo", "at": "tomorrow"}), 107, "a time is in UTC"),
        (json!({"method": "echo", "delay": "1s", "at": "2031-01-01T00:00:00Z"}), 107, "either delay or at"),
        (json!({"method": "echo", "priorities": 1}), 107, "priorities"),
    ] {
        let refused = doors.nats("enqueue", ask.clone()).await;
        let message = refused["error"]["message"].as_str().unwrap_or_else(|| panic!("{ask}: {refused}"));
        assert!(code(&refused) == Some(expected) && message.contains(words), "{ask}: {refused}");
    }
    for stream in ["TIDE_PARK", "TIDE_IN_echo", "TIDE_IN_orders"] {
        assert_eq!(count(&stack, stream).await, 0, "{stream}");
    }
}
