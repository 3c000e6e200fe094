//! Publications and messages from clients and services to one, several and all clients.

use bytes::Bytes;
use tidegate_cli::client::Event;
use tidegate_shared::protocol::Encoding;

use crate::support::{connect, connect_as, event, nothing_panicked, publication, quick, service, start};

#[tokio::test]
async fn a_publication_reaches_every_subscriber_on_every_gateway_once() {
    let stack = start(quick("").gateways(2)).await;
    let (first, mut first_events) = connect_as(&stack, 0, "1", Encoding::Json).await;
    let (second, mut second_events) = connect_as(&stack, 1, "2", Encoding::Protobuf).await;
    for client in [&first, &second] {
        client.subscribe("chat:lobby").await.unwrap();
    }
    for n in 0..20 {
        first.publish("chat:lobby", n.to_string()).await.unwrap();
    }
    for events in [&mut first_events, &mut second_events] {
        for n in 0..20 {
            assert_eq!(publication(events, "chat:lobby").await, n.to_string());
        }
    }
    second.publish("chat:lobby", "\"x\"").await.unwrap();
    let info = event(&mut first_events, |event| match event {
        Event::Publication { info, .. } => info,
        _ => None,
    })
    .await;
    assert_eq!((info.user.as_str(), info.client.as_str()), ("2", second.id()));
    first.unsubscribe("chat:lobby").await.unwrap();
    second.publish("chat:lobby", "\"y\"").await.unwrap();
    assert_eq!(publication(&mut second_events, "chat:lobby").await, "\"x\"");
    assert_eq!(publication(&mut second_events, "chat:lobby").await, "\"y\"");
    assert_eq!(first_events.try_next(), None);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_service_reaches_a_channel_with_one_nats_publish() {
    let stack = start(quick("").gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.subscribe("chat:lobby").await.unwrap();
    let nats = service(&stack).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Tide-Tag-kind", "greeting");
    nats.publish_with_headers("tide.ch.chat.lobby", headers, Bytes::from("{\n  \"text\": \"hi\"\n}"))
        .await
        .unwrap();
    let (data, tags) = event(&mut events, |event| match event {
        Event::Publication { data, tags, .. } => Some((data, tags)),
        _ => None,
    })
    .await;
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&data).unwrap(),
        serde_json::json!({"text": "hi"})
    );
    assert_eq!(tags.get("kind").map(String::as_str), Some("greeting"));
    nats.publish("tide.ch.chat.lobby", Bytes::from("hello")).await.unwrap();
    assert_eq!(publication(&mut events, "chat:lobby").await, "\"hello\"");
    nats.publish("tide.ch.chat.lobby", Bytes::from_static(&[0xff, 0x00])).await.unwrap();
    let tags = event(&mut events, |event| match event {
        Event::Publication { tags, .. } => Some(tags),
        _ => None,
    })
    .await;
    assert_eq!(tags.get("encoding").map(String::as_str), Some("base64"));
}

#[tokio::test]
async fn a_personal_publication_reaches_every_connection_of_its_user_and_no_other() {
    let stack = start(quick("").gateways(2)).await;
    let (_a, mut phone) = connect(&stack, 0, "ada@example.com").await;
    let (_b, mut browser) = connect(&stack, 1, "ada@example.com").await;
    let (_c, mut other) = connect(&stack, 1, "bob").await;
    let nats = service(&stack).await;
    nats.publish("tide.ch.user.ada=40example=2Ecom", Bytes::from("1")).await.unwrap();
    nats.publish("tide.ch.user.bob", Bytes::from("2")).await.unwrap();
    assert_eq!(publication(&mut phone, "#ada@example.com").await, "1");
    assert_eq!(publication(&mut browser, "#ada@example.com").await, "1");
    assert_eq!(publication(&mut other, "#bob").await, "2");
    assert_eq!((phone.try_next(), other.try_next()), (None, None));
}

#[tokio::test]
async fn a_message_reaches_one_connection_or_all() {
    let stack = start(quick("").gateways(2)).await;
    let (first, mut first_events) = connect(&stack, 0, "1").await;
    let (_second, mut second_events) = connect_as(&stack, 1, "2", Encoding::Protobuf).await;
    let nats = service(&stack).await;
    let message = |event| match event {
        Event::Message { data } => Some(data),
        _ => None,
    };
    nats.publish(format!("tide.push.client.{}", first.id()), Bytes::from("{\"for\":\"one\"}")).await.unwrap();
    assert_eq!(event(&mut first_events, message).await, "{\"for\":\"one\"}");
    nats.publish("tide.push.all", Bytes::from("{\"for\":\"all\"}")).await.unwrap();
    assert_eq!(event(&mut first_events, message).await, "{\"for\":\"all\"}");
    assert_eq!(event(&mut second_events, message).await, "{\"for\":\"all\"}");
    assert_eq!(second_events.try_next(), None);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected_and_the_others_stay() {
    let stack = start(quick("").gateways(1)).await;
    let (reader, mut events) = connect(&stack, 0, "reader").await;
    reader.subscribe("chat:flood").await.unwrap();
    let mut slow = crate::support::raw_connected(&stack).await;
    slow.send_text(r#"{"id":2,"subscribe":{"channel":"chat:flood"}}"#).await.unwrap();
    assert!(slow.reply().await.unwrap().subscribe.is_some());
    let nats = service(&stack).await;
    let chunk = Bytes::from(format!("\"{}\"", "x".repeat(30_000)));
    // More than the sockets' own buffers hold. The reading client gets time to read.
    for n in 0..1500 {
        nats.publish("tide.ch.chat.flood", chunk.clone()).await.unwrap();
        if n % 4 == 3 {
            for _ in 0..4 {
                publication(&mut events, "chat:flood").await;
            }
        }
    }
    crate::support::eventually("the slow client is gone", || async {
        crate::support::get(&stack, "/metrics")
            .await
            .1
            .contains("tidegate_gateway_disconnects_total{code=\"3008\"} 1")
    })
    .await;
    assert!(reader.closed().is_none());
    drop(slow);
    nothing_panicked(&stack);
}
