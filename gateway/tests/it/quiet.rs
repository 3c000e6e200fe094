//! Channels without publications for longer than their history is kept: their clients recover, because nothing was missed.

use std::time::Duration;

use async_nats::jetstream::{self, context::Context};
use tidegate_cli::{client::raw::RawClient, stack::Stack};
use tidegate_shared::protocol::SubscribeResult;

use crate::support::{
    admin, connect, eventually, fresh, in_both_fanouts, kept_toml, next, quick, raw, resume, service, start,
    subscribe, texts, token, unsubscribed,
};

in_both_fanouts!(
    a_client_of_a_channel_that_was_quiet_for_longer_than_its_history_recovers,
    a_client_recovers_a_channel_that_never_had_a_publication_in_a_busy_namespace,
    a_client_that_missed_a_publication_which_has_expired_has_not_recovered,
);

/// A stack whose channels keep publications for a second, in the namespace `kept` and for users.
async fn short(fanout: &str) -> Stack {
    let kept = kept_toml(20, &format!("history_ttl = '1s'\nfanout = '{fanout}'"));
    let user = "[[namespace]]\nname = 'user'\nhistory_size = 20\nhistory_ttl = '1s'\n";
    start(quick(&format!("{kept}{user}")).gateways(1)).await
}

async fn publisher(stack: &Stack) -> Context {
    jetstream::new(service(stack).await)
}

async fn publish(publisher: &Context, subject: &str) -> u64 {
    publisher.publish(subject.to_owned(), "1".into()).await.unwrap().await.unwrap().sequence
}

/// Waits until all publications of a namespace have expired.
async fn expired(stack: &Stack, namespace: &str) {
    let setup = jetstream::new(admin(stack).await);
    let stream = setup.get_stream(format!("TIDE_CH_{namespace}")).await.unwrap();
    eventually("all publications expire", || async { stream.get_info().await.unwrap().state.messages == 0 })
        .await;
}

async fn a_client_of_a_channel_that_was_quiet_for_longer_than_its_history_recovers(fanout: &str) {
    let stack = short(fanout).await;
    let nats = publisher(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let epoch = fresh(&client, "kept:a").await.epoch;
    publish(&nats, "tide.ch.kept.a").await;
    let offset = next(&mut events).await.1;
    client.close().await;
    for n in 0..10 {
        publish(&nats, &format!("tide.ch.kept.other-{n}")).await;
    }
    expired(&stack, "kept").await;
    publish(&nats, "tide.ch.kept.other-1").await;
    let (back, mut events) = connect(&stack, 0, "42").await;
    let result = resume(&back, "kept:a", offset, &epoch).await;
    assert!(result.recovered && texts(&result).is_empty(), "{result:?}");
    publish(&nats, "tide.ch.kept.a").await;
    assert!(next(&mut events).await.1 > offset);
}

async fn a_client_recovers_a_channel_that_never_had_a_publication_in_a_busy_namespace(fanout: &str) {
    let stack = short(fanout).await;
    let nats = publisher(&stack).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for n in 0..30 {
        publish(&nats, &format!("tide.ch.kept.other-{}", n % 3)).await;
    }
    let middle = fresh(&client, "kept:b").await;
    for n in 0..30 {
        publish(&nats, &format!("tide.ch.kept.other-{}", n % 3 + 3)).await;
    }
    expired(&stack, "kept").await;
    client.close().await;
    let (back, _events) = connect(&stack, 0, "42").await;
    let result = resume(&back, "kept:b", middle.offset, &middle.epoch).await;
    assert!(result.recovered, "its client saw no publication: {result:?}");
    let result = resume(&back, "kept:new", 0, "").await;
    assert!(result.recovered, "nobody was subscribed before: {result:?}");
}

async fn a_client_that_missed_a_publication_which_has_expired_has_not_recovered(fanout: &str) {
    let stack = short(fanout).await;
    let nats = publisher(&stack).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.close().await;
    let missed = publish(&nats, "tide.ch.kept.a").await;
    publish(&nats, "tide.ch.kept.other").await;
    expired(&stack, "kept").await;
    let (back, _events) = connect(&stack, 0, "42").await;
    for (channel, offset, recovered) in
        [("kept:a", start.offset, false), ("kept:a", missed - 1, false), ("kept:a", missed, true)]
    {
        let result = resume(&back, channel, offset, &start.epoch).await;
        assert_eq!(result.recovered, recovered, "{offset} of {missed}: {result:?}");
        back.call(unsubscribe(channel)).await.unwrap();
    }
}

fn unsubscribe(channel: &str) -> tidegate_shared::protocol::Command {
    let request = tidegate_shared::protocol::UnsubscribeRequest { channel: channel.to_owned() };
    tidegate_shared::protocol::Command { unsubscribe: Some(request), ..Default::default() }
}

/// Connects as user 42 and recovers the personal channel. Returns what became of it.
async fn reconnect(stack: &Stack, offset: u64, epoch: &str) -> (RawClient, SubscribeResult) {
    let mut back = raw(stack).await;
    let subs = serde_json::json!({"#42": {"recover": true, "offset": offset, "epoch": epoch}});
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(stack, "42"), "subs": subs}});
    back.send_text(&connect.to_string()).await.unwrap();
    let connected = back.reply().await.unwrap().connect.unwrap();
    let result = connected.subs.first().unwrap().result.clone().unwrap();
    (back, result)
}

#[tokio::test]
async fn a_quiet_personal_channel_recovers_after_a_deploy() {
    let stack = short("channel").await;
    let nats = publisher(&stack).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let begin = client.connected().subs.first().unwrap().result.clone().unwrap();
    publish(&nats, "tide.ch.user.42").await;
    let offset = next(&mut events).await.1;
    publish(&nats, "tide.ch.user.43").await;
    client.close().await;
    expired(&stack, "user").await;
    stack.kill("gateway-1").await.unwrap();
    eventually("the gateway is back", || async {
        tokio::net::TcpStream::connect(stack.gateways()[0].internal).await.is_ok()
    })
    .await;
    let (_back, result) = reconnect(&stack, offset, &begin.epoch).await;
    assert!(result.recovered, "{result:?}");
    let (_back, result) = reconnect(&stack, begin.offset, &begin.epoch).await;
    assert!(!result.recovered, "its first publication has expired: {result:?}");
}

#[tokio::test]
async fn a_publication_that_expired_before_the_broker_copied_it_is_not_forgotten() {
    let stack = short("channel").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let start = fresh(&client, "kept:a").await;
    client.close().await;
    let nats = publisher(&stack).await;
    // The copies are some milliseconds behind.
    let mut acks = Vec::new();
    for n in 0..300 {
        acks.push(nats.publish(format!("tide.ch.kept.other-{n}"), "1".into()).await.unwrap());
    }
    acks.push(nats.publish("tide.ch.kept.a", "missed".into()).await.unwrap());
    for ack in acks {
        ack.await.unwrap();
    }
    let published = tokio::time::Instant::now();
    stack.hold("nats").await.unwrap();
    // Longer than history_ttl: nothing but time makes them expire.
    tokio::time::sleep_until(published + Duration::from_millis(1200)).await;
    stack.start_process("nats").await.unwrap();
    stack.wait_ready("nats").await.unwrap();
    let nats = publisher(&stack).await;
    let seq = publish(&nats, "tide.ch.kept.other").await;
    expired(&stack, "kept").await;
    let (back, _events) = connect(&stack, 0, "42").await;
    let result = resume(&back, "kept:a", start.offset, &start.epoch).await;
    assert!(!result.recovered, "from {}, the broker's count is at {seq}: {result:?}", start.offset);
}

#[tokio::test]
async fn a_subscriber_is_told_that_a_publication_has_expired_while_its_gateway_had_no_broker() {
    let stack = short("channel").await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let begin = fresh(&client, "kept:a").await;
    // A gateway that is paused does not connect again.
    stack.pause("gateway-1").unwrap();
    stack.kill("nats").await.unwrap();
    stack.wait_ready("nats").await.unwrap();
    publish(&publisher(&stack).await, "tide.ch.kept.a").await;
    expired(&stack, "kept").await;
    stack.resume("gateway-1").unwrap();
    assert_eq!(unsubscribed(&mut events).await, 2500, "insufficient state: the SDK subscribes again");
    let again = resume(&client, "kept:a", begin.offset, &begin.epoch).await;
    assert!(!again.recovered && again.offset > begin.offset, "behind what it has missed: {again:?}");
}

#[tokio::test]
async fn a_client_with_a_kept_position_is_not_refused_when_nothing_was_published() {
    let stack = short("channel").await;
    let nats = publisher(&stack).await;
    let offset = publish(&nats, "tide.ch.kept.a").await;
    publish(&nats, "tide.ch.kept.other").await;
    expired(&stack, "kept").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    // Flag 1 asks for error 112 instead of a failed recovery: SDKs with `getState` set it.
    let request = |offset| tidegate_shared::protocol::SubscribeRequest {
        channel: "kept:a".to_owned(),
        recover: true,
        offset,
        flag: 2,
        ..Default::default()
    };
    assert_eq!(subscribe(&client, request(offset - 1)).await.unwrap_err().code(), Some(112));
    let result = subscribe(&client, request(offset)).await.unwrap();
    assert!(result.recovered, "{result:?}");
}
