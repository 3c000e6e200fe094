//! Namespaces without history: their publications pass the streams by. Who hears them, what a publisher is told, and what no
//! publisher can pretend.

use async_nats::{HeaderMap, RequestErrorKind};
use futures_util::future::join_all;
use tidegate_cli::{client::CallError, stack::Stack};
use tokio::time::{Duration, timeout};

use crate::support::{
    admin, connect, eventually, get, next, nothing_panicked, publication, quick, service, start, worker_user,
};

const BRIEF: &str = r#"
[[namespace]]
name = "brief"
allow_publish = "authenticated"

[[namespace]]
name = "wide"
allow_publish = "authenticated"
fanout = "wildcard"
"#;

async fn stack(gateways: usize) -> Stack {
    start(quick(&format!("[nats]\nack_timeout = '500ms'\n{BRIEF}")).gateways(gateways)).await
}

#[tokio::test]
async fn what_clients_services_and_workers_publish_reaches_every_gateway_and_no_stream() {
    let stack = stack(2).await;
    let (client, mut near) = connect(&stack, 0, "1").await;
    let (other, mut far) = connect(&stack, 1, "2").await;
    let (service, worker) = (service(&stack).await, worker_user(&stack).await);
    for channel in ["brief:a", "wide:a"] {
        client.subscribe(channel).await.unwrap();
        other.subscribe(channel).await.unwrap();
        let subject = format!("tide.ch.{}", channel.replace(':', "."));
        client.publish(channel, "\"client\"").await.unwrap();
        for (publisher, text) in [(&service, "\"service\""), (&worker, "\"worker\"")] {
            publisher.publish(subject.clone(), text.into()).await.unwrap();
            publisher.flush().await.unwrap();
        }
        for events in [&mut near, &mut far] {
            let mut heard = Vec::new();
            for _ in 0..3 {
                heard.push(publication(events, channel).await);
            }
            heard.sort_unstable();
            assert_eq!(heard, ["\"client\"", "\"service\"", "\"worker\""], "{channel}");
        }
    }
    let jetstream = async_nats::jetstream::new(admin(&stack).await);
    for stream in ["TIDE_CH_brief", "TIDE_CH_wide", "TIDE_LAST_brief"] {
        assert!(jetstream.get_stream(stream).await.is_err(), "{stream}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_service_that_asks_is_told_whether_somebody_is_subscribed() {
    let stack = stack(2).await;
    let service = service(&stack).await;
    let asked = async |subject: &'static str| service.request(subject, "1".into()).await;
    let nobody = asked("tide.ch.brief.a").await.unwrap_err();
    assert_eq!(nobody.kind(), RequestErrorKind::NoResponders);
    let (client, mut events) = connect(&stack, 1, "42").await;
    client.subscribe("brief:a").await.unwrap();
    assert_eq!(asked("tide.ch.brief.a").await.unwrap().payload, r#"{"stream":"none","seq":0}"#);
    assert_eq!(publication(&mut events, "brief:a").await, "1");
    // With one subscription for the namespace the gateways do not look who is subscribed.
    assert_eq!(asked("tide.ch.wide.a").await.unwrap().payload, r#"{"stream":"none","seq":0}"#);
    // A library that stores messages reads it as an acknowledgement.
    let stored = async_nats::jetstream::new(service.clone()).publish("tide.ch.brief.a", "2".into()).await;
    assert_eq!(stored.unwrap().await.unwrap().sequence, 0);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn publications_of_one_connection_arrive_in_its_order() {
    let stack = stack(2).await;
    let (subscriber, mut events) = connect(&stack, 1, "1").await;
    subscriber.subscribe("brief:a").await.unwrap();
    let (client, _own) = connect(&stack, 0, "2").await;
    for round in 0..10 {
        let texts: Vec<String> = (0..50).map(|n| format!("{}", round * 50 + n)).collect();
        for sent in join_all(texts.iter().map(|text| client.publish("brief:a", text.clone()))).await {
            sent.unwrap();
        }
    }
    for n in 0..500 {
        assert_eq!(publication(&mut events, "brief:a").await, n.to_string());
    }
}

#[tokio::test]
async fn numbers_that_a_publisher_writes_are_no_offset() {
    let stack = stack(1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.subscribe("brief:a").await.unwrap();
    let mut forged = HeaderMap::new();
    for (name, value) in [("Nats-Sequence", "7"), ("Nats-Last-Sequence", "9"), ("Nats-Stream", "TIDE_CH_x")] {
        forged.insert(name, value);
    }
    let service = service(&stack).await;
    service.publish_with_headers("tide.ch.brief.a", forged, "1".into()).await.unwrap();
    service.publish("tide.ch.brief.a", "2".into()).await.unwrap();
    assert_eq!(next(&mut events).await, ("1".to_owned(), 0));
    assert_eq!(next(&mut events).await, ("2".to_owned(), 0));
}

#[tokio::test]
async fn without_the_broker_a_publication_is_refused_at_once_and_a_silent_broker_leaves_it_open() {
    let stack = stack(1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    client.subscribe("brief:a").await.unwrap();
    stack.pause("nats").unwrap();
    let silent = timeout(Duration::from_secs(10), client.publish("brief:a", "1")).await.unwrap();
    stack.resume("nats").unwrap();
    assert!(matches!(silent, Err(CallError::Server { code: 1002, temporary: false, .. })), "{silent:?}");
    assert_eq!(publication(&mut events, "brief:a").await, "1");
    stack.hold("nats").await.unwrap();
    eventually("the gateway is not ready", || async { get(&stack, "/readyz").await.0 == 503 }).await;
    // The gateway may be about to notice that the connection is lost: what it sends then stays open.
    let mut away = client.publish("brief:a", "\"open\"").await;
    while matches!(away, Err(CallError::Server { code: 1002, .. })) {
        away = client.publish("brief:a", "\"open\"").await;
    }
    assert!(matches!(away, Err(CallError::Server { code: 1000, temporary: true, .. })), "{away:?}");
    let refused = client.publish("brief:a", "\"refused\"").await;
    assert!(matches!(refused, Err(CallError::Server { code: 1000, temporary: true, .. })), "{refused:?}");
    stack.start_process("nats").await.unwrap();
    eventually("publishing works again", || async { client.publish("brief:a", "3").await.is_ok() }).await;
    let mut heard = publication(&mut events, "brief:a").await;
    while heard == "\"open\"" {
        heard = publication(&mut events, "brief:a").await;
    }
    assert_eq!(heard, "3", "the refused one is never sent");
}
