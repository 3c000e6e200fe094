//! Namespaces with `fanout = "wildcard"`: which clients receive a publication, and what a subscribe does not wait for.

use futures_util::future::join_all;
use serde_json::json;
use tidegate_cli::{
    client::{Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::protocol::SubscribeResult;

use crate::support::{connect, eventually, nothing_panicked, publication, quick, service, start, token, url};

const WHOLE: &str = r#"
[[namespace]]
name = "plain"
allow_publish = "authenticated"
fanout = "wildcard"

[[namespace]]
name = "kept"
allow_publish = "authenticated"
history_size = 10
fanout = "wildcard"

[[namespace]]
name = "user"
allow_subscribe = "nobody"
history_size = 1
recovery = "cache"
"#;

async fn stack(gateways: usize) -> Stack {
    start(quick(WHOLE).gateways(gateways)).await
}

#[tokio::test]
async fn a_publication_reaches_the_subscribers_on_every_gateway_and_no_other_client() {
    let stack = stack(2).await;
    let (publisher, mut others) = connect(&stack, 0, "publisher").await;
    for namespace in ["plain", "kept"] {
        let channel = |name: &str| format!("{namespace}:{name}");
        let (first, mut first_events) = connect(&stack, 0, "1").await;
        let (second, mut second_events) = connect(&stack, 1, "2").await;
        let (neighbour, mut neighbours) = connect(&stack, 1, "3").await;
        first.subscribe(&channel("a")).await.unwrap();
        second.subscribe(&channel("a")).await.unwrap();
        neighbour.subscribe(&channel("b")).await.unwrap();
        for n in 0..20 {
            publisher.publish(&channel("a"), n.to_string()).await.unwrap();
            publisher.publish(&channel("nobody"), n.to_string()).await.unwrap();
        }
        for events in [&mut first_events, &mut second_events] {
            for n in 0..20 {
                assert_eq!(publication(events, &channel("a")).await, n.to_string());
            }
        }
        second.unsubscribe(&channel("a")).await.unwrap();
        for name in ["a", "b"] {
            publisher.publish(&channel(name), "\"last\"").await.unwrap();
        }
        assert_eq!(publication(&mut first_events, &channel("a")).await, "\"last\"");
        assert_eq!(publication(&mut neighbours, &channel("b")).await, "\"last\"");
        for events in [&mut first_events, &mut second_events, &mut neighbours, &mut others] {
            assert_eq!(events.try_next(), None);
        }
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_new_subscription_needs_no_answer_of_the_broker() {
    let stack = stack(1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    stack.pause("nats").unwrap();
    let subscribed = join_all(["plain:a", "kept:a", "kept:b"].map(|channel| client.subscribe(channel))).await;
    stack.resume("nats").unwrap();
    for subscribed in subscribed {
        subscribed.unwrap();
    }
    for channel in ["plain:a", "kept:a", "kept:b"] {
        eventually("the broker is back", || async { client.publish(channel, "1").await.is_ok() }).await;
        assert_eq!(publication(&mut events, channel).await, "1");
    }
}

/// Returns the subscription of the personal channel in the connect reply of user 42.
async fn come_back(stack: &Stack) -> SubscribeResult {
    let mut raw = RawClient::open(&Options::new(url(stack, 0))).await.unwrap();
    let connect = json!({"token": token(stack, "42"), "subs": {"#42": {"recover": true}}});
    let connect = json!({"id": 1, "connect": connect});
    raw.send_text(&connect.to_string()).await.unwrap();
    raw.reply().await.unwrap().connect.unwrap().subs[0].result.clone().unwrap()
}

/// State of a channel that one connection has loaded stays when another connection leaves the channel.
#[tokio::test]
async fn reconnecting_clients_of_a_user_all_get_the_newest_publication() {
    let stack = stack(1).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    nats.publish("tide.ch.user.42", "1".into()).await.unwrap().await.unwrap();
    for _ in 0..20 {
        for result in join_all((0..20).map(|_| come_back(&stack))).await {
            assert!(result.recovered, "{result:?}");
        }
    }
    nothing_panicked(&stack);
}
