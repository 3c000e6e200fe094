//! Namespaces with `recovery = "cache"`: a recovering client gets the newest publication only.

use futures_util::future::join_all;
use tidegate_cli::{
    client::{Client, Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::{
    filter::FilterNode,
    protocol::{Encoding, SubscribeRequest},
};

use crate::support::{
    connect, connect_as, eventually, get, in_both_fanouts, next, quick, raw, service, start, subscribe,
    texts, token,
};

const TOML: &str = r#"
[[namespace]]
name = "score"
allow_publish = "authenticated"
history_size = 3
recovery = "cache"
delta = true
tags_filter = true

[[namespace]]
name = "board"
allow_publish = "authenticated"
history_size = 1
recovery = "cache"
cache_on_subscribe = true

[[namespace]]
name = "brief"
allow_publish = "authenticated"
history_size = 1
history_ttl = "2s"
recovery = "cache"

[[namespace]]
name = "user"
allow_subscribe = "nobody"
history_size = 1
recovery = "cache"
cache_on_subscribe = true
"#;

in_both_fanouts!(
    a_recovering_client_gets_the_newest_publication_and_the_live_ones,
    a_new_subscriber_gets_the_newest_publication_with_cache_on_subscribe,
    an_empty_channel_is_not_recovered_and_insisting_clients_get_error_112,
    an_expired_publication_is_not_recovered_although_the_gateway_has_seen_it,
    clients_that_subscribe_during_publishing_miss_nothing_after_the_newest_publication,
);

async fn stack(fanout: &str, gateways: usize) -> Stack {
    // The namespace of personal channels is left out: it always uses the wildcard.
    let publish = "allow_publish = \"authenticated\"\n";
    let toml = TOML.replace(publish, &format!("{publish}fanout = \"{fanout}\"\n"));
    start(quick(&toml).gateways(gateways)).await
}

fn from_nowhere(channel: &str) -> SubscribeRequest {
    SubscribeRequest { channel: channel.to_owned(), recover: true, ..SubscribeRequest::default() }
}

async fn a_recovering_client_gets_the_newest_publication_and_the_live_ones(fanout: &str) {
    let stack = stack(fanout, 2).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let channel = format!("score:{encoding:?}");
        let (publisher, _e) = connect(&stack, 0, "publisher").await;
        let (client, mut events) = connect_as(&stack, 0, "42", encoding).await;
        let nothing = subscribe(&client, from_nowhere(&channel)).await.unwrap();
        assert!(!nothing.recovered && nothing.was_recovering && nothing.recoverable, "{nothing:?}");
        publisher.publish(&channel, "1").await.unwrap();
        let (_, offset) = next(&mut events).await;
        client.close().await;
        for n in 2..=9 {
            publisher.publish(&channel, n.to_string()).await.unwrap();
        }
        // More was published than the channel keeps. An offset that is trimmed is as good as none.
        let positions = [(offset, nothing.epoch.clone()), (0, String::new()), (5, "another".to_owned())];
        for (gateway, (offset, epoch)) in [0, 1, 1].into_iter().zip(positions) {
            let (back, mut events) = connect_as(&stack, gateway, "42", encoding).await;
            let request = SubscribeRequest { offset, epoch, ..from_nowhere(&channel) };
            let result = subscribe(&back, request).await.unwrap();
            assert!(result.recovered && result.was_recovering, "{result:?}");
            assert_eq!(texts(&result).len(), 1, "{result:?}");
            let before = texts(&result).concat();
            let newest = SubscribeRequest {
                offset: result.publications[0].offset,
                epoch: result.epoch.clone(),
                ..from_nowhere(&channel)
            };
            let after = format!("{before}{gateway}");
            publisher.publish(&channel, after.clone()).await.unwrap();
            // A gateway may learn of the newest publication a moment after its publisher.
            while next(&mut events).await.0 != after {}
            back.unsubscribe(&channel).await.unwrap();
            let again = subscribe(&back, newest).await.unwrap();
            assert_eq!(texts(&again), [after.as_str()]);
            back.unsubscribe(&channel).await.unwrap();
            let top = again.publications[0].offset;
            let request = SubscribeRequest { offset: top, epoch: again.epoch, ..from_nowhere(&channel) };
            let at_the_top = subscribe(&back, request).await.unwrap();
            assert!(at_the_top.recovered && at_the_top.publications.is_empty(), "{at_the_top:?}");
        }
    }
}

async fn a_new_subscriber_gets_the_newest_publication_with_cache_on_subscribe(fanout: &str) {
    let stack = stack(fanout, 1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let fresh =
        |channel: &str| SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() };
    client.publish("board:a", "1").await.unwrap();
    client.publish("board:a", "2").await.unwrap();
    client.publish("score:a", "3").await.unwrap();
    let result = subscribe(&client, fresh("board:a")).await.unwrap();
    assert!(result.was_recovering && result.recovered && texts(&result) == ["2"], "{result:?}");
    let empty = subscribe(&client, fresh("board:empty")).await.unwrap();
    assert!(empty.was_recovering && !empty.recovered && empty.publications.is_empty(), "{empty:?}");
    let plain = subscribe(&client, fresh("score:a")).await.unwrap();
    assert!(!plain.was_recovering && plain.publications.is_empty(), "{plain:?}");
}

async fn an_empty_channel_is_not_recovered_and_insisting_clients_get_error_112(fanout: &str) {
    let stack = stack(fanout, 1).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let insisting = SubscribeRequest { flag: 2, ..from_nowhere("score:a") };
    assert_eq!(subscribe(&client, insisting.clone()).await.unwrap_err().code(), Some(112));
    client.publish("score:a", "1").await.unwrap();
    eventually("it is not empty any more", || async {
        subscribe(&client, insisting.clone()).await.is_ok_and(|result| texts(&result) == ["1"])
    })
    .await;
}

async fn an_expired_publication_is_not_recovered_although_the_gateway_has_seen_it(fanout: &str) {
    let stack = stack(fanout, 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let (back, _events) = connect(&stack, 0, "43").await;
    subscribe(&client, from_nowhere("brief:a")).await.unwrap();
    client.publish("brief:a", "1").await.unwrap();
    next(&mut events).await;
    assert_eq!(texts(&subscribe(&back, from_nowhere("brief:a")).await.unwrap()), ["1"]);
    eventually("it expires", || async {
        back.unsubscribe("brief:a").await.unwrap();
        let result = subscribe(&back, from_nowhere("brief:a")).await.unwrap();
        !result.recovered && result.publications.is_empty()
    })
    .await;
}

#[tokio::test]
async fn deltas_and_tag_filters_apply_to_the_newest_publication() {
    let stack = stack("channel", 1).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let publish = |league: &'static str, text: String| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Tide-Tag-league", league);
        let nats = nats.clone();
        async move {
            nats.publish_with_headers("tide.ch.score.a", headers, text.into()).await.unwrap().await.unwrap();
        }
    };
    let long =
        |n: u32| format!("{{\"match\":\"Sharks against Whales, quarter final, second leg\",\"score\":{n}}}");
    publish("north", long(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let request = SubscribeRequest { delta: "fossil".to_owned(), ..from_nowhere("score:a") };
    let result = subscribe(&client, request).await.unwrap();
    assert!(result.delta && result.recovered && !result.publications[0].delta, "{result:?}");
    let whole: String = serde_json::from_slice(&result.publications[0].data).unwrap();
    assert_eq!(whole, long(1));
    publish("north", long(2)).await;
    let patch: String = serde_json::from_str(&next(&mut events).await.0).unwrap();
    let patched = tidegate_shared::delta::apply(whole.as_bytes(), patch.as_bytes(), 1 << 20).unwrap();
    assert_eq!(patched, long(2).into_bytes(), "a patch of what the reply brought");

    let league = |name: &str| FilterNode {
        key: "league".to_owned(),
        cmp: "eq".to_owned(),
        val: name.to_owned(),
        ..FilterNode::default()
    };
    for (name, expected) in [("north", vec![long(2)]), ("south", vec![])] {
        let (client, mut events) = connect(&stack, 0, "43").await;
        let request = SubscribeRequest { tf: Some(league(name)), ..from_nowhere("score:a") };
        let result = subscribe(&client, request).await.unwrap();
        assert!(result.recovered && texts(&result) == expected, "{result:?}");
        if name == "south" {
            publish("south", "\"here\"".to_owned()).await;
            assert_eq!(next(&mut events).await.0, "\"here\"");
        }
    }
}

#[tokio::test]
async fn a_personal_channel_can_be_a_cache_too() {
    let stack = stack("channel", 1).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    for text in ["1", "2"] {
        nats.publish("tide.ch.user.42", text.into()).await.unwrap().await.unwrap();
    }
    nats.publish("tide.ch.user.43", "3".into()).await.unwrap().await.unwrap();
    let (client, mut events) = connect(&stack, 0, "42").await;
    let sub = client.connected().subs[0].result.clone().unwrap();
    assert!(sub.recovered && sub.was_recovering && texts(&sub) == ["2"], "{sub:?}");
    nats.publish("tide.ch.user.42", "4".into()).await.unwrap().await.unwrap();
    let (_, offset) = next(&mut events).await;
    let mut back: RawClient = raw(&stack).await;
    let subs = serde_json::json!({"#42": {"recover": true, "offset": offset, "epoch": sub.epoch}});
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(&stack, "42"), "subs": subs}});
    back.send_text(&connect.to_string()).await.unwrap();
    let sub = back.reply().await.unwrap().connect.unwrap().subs[0].result.clone().unwrap();
    assert!(sub.recovered && sub.publications.is_empty(), "{sub:?}");
    let other =
        Client::connect(Options::new(crate::support::url(&stack, 0)).token(token(&stack, "44"))).await;
    let nobody = other.unwrap().0.connected().subs[0].result.clone().unwrap();
    assert!(!nobody.recovered && nobody.publications.is_empty(), "{nobody:?}");
}

/// Whenever a client subscribes, no publication is missing between the reply and the first push.
async fn clients_that_subscribe_during_publishing_miss_nothing_after_the_newest_publication(fanout: &str) {
    let stack = stack(fanout, 2).await;
    let (publisher, _e) = connect(&stack, 1, "publisher").await;
    publisher.publish("board:a", "0").await.unwrap();
    let mut clients = Vec::new();
    for n in 0..50 {
        clients.push(connect(&stack, 0, &format!("user-{n}")).await);
    }
    let publishing = async {
        for n in 1..=200 {
            publisher.publish("board:a", n.to_string()).await.unwrap();
        }
    };
    let joining = join_all(clients.iter().map(|(client, _)| async {
        let request = SubscribeRequest { channel: "board:a".to_owned(), ..SubscribeRequest::default() };
        let result = subscribe(client, request).await.unwrap();
        assert!(result.recovered, "{result:?}");
        texts(&result).concat().parse::<u32>().unwrap()
    }));
    let (newest, ()) = tokio::join!(joining, publishing);
    for ((_, events), newest) in clients.iter_mut().zip(newest) {
        for n in newest + 1..=200 {
            assert_eq!(next(events).await.0, n.to_string());
        }
    }
    let (_, page) = get(&stack, "/metrics").await;
    let reads = page.lines().find_map(|line| line.strip_prefix("tidegate_gateway_recovery_reads_total "));
    let reads: u32 = reads.unwrap().parse().unwrap();
    // One read for each personal channel. The position of a channel that the gateway receives anyway was not read, so the newest
    // publication is: once for all, and again while it is ahead of what has arrived.
    let ahead = if fanout == "channel" { 50..=50 } else { 51..=60 };
    assert!(ahead.contains(&reads), "{page}");
}
