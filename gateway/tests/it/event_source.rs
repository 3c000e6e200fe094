//! `EventSource` clients: the browser sends the id of the last event by itself, and that is enough to recover.

use serde_json::{Value, json};
use tidegate_cli::stack::Stack;

use crate::{
    stream_client::{StreamClient, query},
    support::{connect, kept, kept_toml, nothing_panicked, quick, service, start, token},
};

/// Opens the stream as a browser does that received this event last.
async fn open(stack: &Stack, gateway: usize, request: &Value, last: Option<&str>) -> StreamClient {
    let target = format!("/connection/uni_sse?cf_connect={}", query(&request.to_string()));
    let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    let address = stack.gateways()[gateway].public;
    StreamClient::open(address, format!("GET {target} HTTP/1.1\r\nhost: x\r\n{last}\r\n").as_bytes()).await
}

#[tokio::test]
async fn the_id_of_the_last_event_recovers_every_channel_on_another_gateway() {
    let stack = kept(2).await;
    let (publisher, _events) = connect(&stack, 0, "43").await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let request = json!({"token": token(&stack, "42"), "subs": {"kept:a": {}, "kept:b": {}, "chat:a": {}, "nowhere:a": {}}});
    publisher.publish("kept:a", "\"before\"").await.unwrap();
    let mut first = open(&stack, 0, &request, None).await;
    let connected = first.message().await.unwrap();
    assert_eq!(connected["connect"]["subs"]["kept:a"]["was_recovering"], Value::Null, "{connected}");
    let mut ids = vec![first.last_event_id.clone().unwrap()];
    for (channel, n) in [("kept:a", 1), ("chat:a", 2), ("kept:b", 3), ("kept:a", 4)] {
        publisher.publish(channel, n.to_string()).await.unwrap();
        let push = first.message().await.unwrap();
        assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!(channel), &json!(n)));
        ids.push(first.last_event_id.clone().unwrap());
    }
    drop(first);
    publisher.publish("kept:b", "5").await.unwrap();
    publisher.publish("chat:a", "6").await.unwrap();
    nats.publish("tide.ch.user.42", "7".into()).await.unwrap().await.unwrap();
    publisher.publish("kept:a", "8").await.unwrap();
    let missed = [
        (json!([1, 4, 8]), json!([3, 5])),
        (json!([4, 8]), json!([3, 5])),
        (json!([4, 8]), json!([3, 5])),
        (json!([4, 8]), json!([5])),
        (json!([8]), json!([5])),
    ];
    for (id, (a, b)) in ids.iter().zip(missed) {
        let mut again = open(&stack, 1, &request, Some(id)).await;
        let connected = again.message().await.unwrap();
        let subs = &connected["connect"]["subs"];
        let brought = |channel: &str| {
            assert_eq!(subs[channel]["recovered"], true, "{connected}");
            let publications = subs[channel]["publications"].as_array().cloned().unwrap_or_default();
            publications.into_iter().map(|publication| publication["data"].clone()).collect::<Value>()
        };
        assert_eq!((brought("kept:a"), brought("kept:b"), brought("#42")), (a, b, json!([7])));
        assert_eq!(subs["chat:a"]["was_recovering"], Value::Null, "it has no history: {connected}");
        // No further publication arrives: a second reconnect has an empty backlog.
        let mut third = open(&stack, 0, &request, again.last_event_id.as_deref()).await;
        let connected = third.message().await.unwrap();
        for channel in ["kept:a", "kept:b", "#42"] {
            let sub = &connected["connect"]["subs"][channel];
            assert_eq!(
                (&sub["recovered"], &sub["publications"]),
                (&json!(true), &Value::Null),
                "{connected}"
            );
        }
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn an_event_id_without_the_channel_or_with_too_old_an_offset_is_not_recovered() {
    let stack = start(quick(&kept_toml(2, "")).gateways(1)).await;
    let (publisher, _events) = connect(&stack, 0, "43").await;
    let request = |subs: Value| json!({"token": token(&stack, "42"), "subs": subs});
    let mut first = open(&stack, 0, &request(json!({"kept:a": {}})), None).await;
    first.message().await.unwrap();
    let id = first.last_event_id.clone().unwrap();
    drop(first);
    for n in 0..4 {
        publisher.publish("kept:a", n.to_string()).await.unwrap();
    }
    let nonsense = "A".repeat(4000);
    for (subs, last) in [
        (json!({"kept:a": {}}), id.as_str()),
        (json!({"kept:a": {}, "kept:b": {}}), &id),
        (json!({"kept:a": {}}), "41"),
        (json!({"kept:a": {}}), &nonsense),
    ] {
        let mut again = open(&stack, 0, &request(subs), Some(last)).await;
        let connected = again.message().await.unwrap();
        let sub = &connected["connect"]["subs"]["kept:a"];
        assert_eq!(
            (&sub["was_recovering"], &sub["recovered"], &sub["publications"]),
            (&json!(true), &Value::Null, &Value::Null),
            "{last}: {connected}"
        );
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn an_event_id_opens_no_channel_that_the_client_may_not_subscribe_to() {
    let stack = kept(1).await;
    let request = |user: &str, subs: Value| json!({"token": token(&stack, user), "subs": subs});
    let mut first = open(&stack, 0, &request("42", json!({"kept:a": {}})), None).await;
    first.message().await.unwrap();
    let id = first.last_event_id.clone().unwrap();
    let nats = service(&stack).await;
    nats.publish("tide.ch.user.42", "\"private\"".into()).await.unwrap();
    nats.flush().await.unwrap();
    first.message().await.unwrap();
    let mut other = open(&stack, 0, &request("43", json!({})), Some(&id)).await;
    let connected = other.message().await.unwrap();
    let subs: Vec<&String> = connected["connect"]["subs"].as_object().unwrap().keys().collect();
    assert_eq!(subs, ["#43"], "{connected}");
}

#[tokio::test]
async fn only_one_way_events_have_ids() {
    let stack = kept(1).await;
    let batch = json!({"id": 1, "connect": {"token": token(&stack, "42")}}).to_string();
    let gateway = stack.gateways()[0].public;
    let mut sse = StreamClient::get(gateway, &format!("/connection/sse?cf_connect={}", query(&batch))).await;
    sse.message().await.unwrap();
    assert_eq!(sse.last_event_id, None, "the SDK knows its places itself");
    let request = json!({"token": token(&stack, "42")}).to_string();
    let mut stream = StreamClient::post(gateway, "/connection/uni_http_stream", &request).await;
    stream.message().await.unwrap();
    assert_eq!(stream.last_event_id, None);
}
