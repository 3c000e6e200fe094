//! Options of a subscription: deltas and tag filters.

use bytes::Bytes;
use tidegate_cli::client::{Event, Events};
use tidegate_shared::{
    delta,
    filter::FilterNode,
    protocol::{Encoding, SubscribeRequest},
};

use crate::support::{connect, connect_as, event, kept_toml, quick, service, start, subscribe};

const WISHES: &str = "delta = true\ntags_filter = true";

async fn data(events: &mut Events) -> Bytes {
    event(events, |event| match event {
        Event::Publication { data, .. } => Some(data),
        _ => None,
    })
    .await
}

fn score(n: u32) -> String {
    serde_json::json!({"match": "Sharks against Whales, quarter final, second leg", "place": "Lisbon", "score": n}).to_string()
}

#[tokio::test]
async fn a_delta_subscription_gets_the_first_publication_whole_and_then_deltas() {
    let stack = start(quick(&kept_toml(20, WISHES)).gateways(1)).await;
    let (publisher, _e) = connect(&stack, 0, "publisher").await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let channel = format!("kept:{encoding:?}");
        let text = |data: &Bytes| match encoding {
            Encoding::Json => serde_json::from_slice::<String>(data).unwrap().into_bytes(),
            Encoding::Protobuf => data.to_vec(),
        };
        let request = SubscribeRequest {
            channel: channel.clone(),
            delta: "fossil".to_owned(),
            ..SubscribeRequest::default()
        };
        let (client, mut events) = connect_as(&stack, 0, "42", encoding).await;
        let (plain, mut plain_events) = connect_as(&stack, 0, "43", encoding).await;
        let start = subscribe(&client, request.clone()).await.unwrap();
        assert!(start.delta);
        plain.subscribe(&channel).await.unwrap();
        let mut has = Vec::new();
        for n in 0..4 {
            publisher.publish(&channel, score(n)).await.unwrap();
            let got = text(&data(&mut events).await);
            assert_eq!(n > 0, got.len() < 40, "a patch is short");
            has = if n == 0 { got } else { delta::apply(&has, &got, 1000).unwrap() };
            assert_eq!(has, score(n).into_bytes());
            assert_eq!(data(&mut plain_events).await, score(n), "others get it as it is");
        }
        let back =
            SubscribeRequest { recover: true, offset: start.offset, epoch: start.epoch.clone(), ..request };
        let (again, _events) = connect_as(&stack, 0, "44", encoding).await;
        let result = subscribe(&again, back).await.unwrap();
        assert!(result.recovered && result.delta);
        assert_eq!(
            result.publications.iter().map(|p| p.delta).collect::<Vec<_>>(),
            [false, true, true, true]
        );
    }
}

#[tokio::test]
async fn a_tags_filter_applies_live_and_after_recovery() {
    let stack = start(quick(&kept_toml(20, WISHES)).gateways(1)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let publish = |tag: &'static str| {
        let nats = nats.clone();
        async move {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Tide-Tag-kind", tag);
            nats.publish_with_headers("tide.ch.kept.a", headers, Bytes::from(format!("\"{tag}\"")))
                .await
                .unwrap()
                .await
                .unwrap();
        }
    };
    let goals =
        FilterNode { key: "kind".into(), cmp: "eq".into(), val: "goal".into(), ..FilterNode::default() };
    let request = SubscribeRequest {
        channel: "kept:a".to_owned(),
        tf: Some(goals.clone()),
        ..SubscribeRequest::default()
    };
    let (client, mut events) = connect(&stack, 0, "42").await;
    let start = subscribe(&client, request.clone()).await.unwrap();
    for tag in ["foul", "goal", "foul", "goal"] {
        publish(tag).await;
    }
    assert_eq!(data(&mut events).await, "\"goal\"");
    assert_eq!(data(&mut events).await, "\"goal\"");
    let back = SubscribeRequest { recover: true, offset: start.offset, epoch: start.epoch, ..request };
    let (again, _events) = connect(&stack, 0, "43").await;
    let result = subscribe(&again, back).await.unwrap();
    assert!(result.recovered && result.publications.len() == 2, "{result:?}");
    let nonsense = FilterNode { cmp: "like".into(), ..goals.clone() };
    let refused =
        SubscribeRequest { channel: "kept:b".to_owned(), tf: Some(nonsense), ..SubscribeRequest::default() };
    assert_eq!(subscribe(&client, refused).await.unwrap_err().code(), Some(107));
    let elsewhere =
        SubscribeRequest { channel: "chat:a".to_owned(), tf: Some(goals), ..SubscribeRequest::default() };
    assert_eq!(subscribe(&client, elsewhere).await.unwrap_err().code(), Some(107), "not in this namespace");
    assert_eq!(events.try_next(), None);
}
