//! A backlog that is longer than one reply comes in parts: all of it, once and in order, and then what is new.

use std::{future::IntoFuture as _, time::Duration};

use async_nats::{HeaderMap, jetstream};
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tidegate_cli::{
    client::{Client, Events},
    stack::Stack,
};
use tidegate_shared::{
    delta,
    filter::FilterNode,
    protocol::{Command, Encoding, SubscribeRequest, UnsubscribeRequest},
};
use tokio::time::timeout;

use crate::{
    socket::{Socket, TEXT, frame},
    support::{
        PATIENCE, connect, connect_as, eventually, fresh, get, kept_toml, next, nothing_panicked, quick,
        resume, service, start, subscribe, token, unsubscribed,
    },
};

/// A reply holds 10 publications, or 32 KiB.
async fn small_replies(history: u32, more: &str) -> Stack {
    let limits = "[gateway.limits]\noutbox = '64 KiB'\nrecovery = 10\n";
    start(quick(&format!("{limits}{}", kept_toml(history, more))).gateways(1)).await
}

/// Stores publications in a channel, each with its number and with so many bytes. Returns the offset of the last one.
async fn store(stack: &Stack, subject: &str, numbers: std::ops::Range<usize>, bytes: usize) -> u64 {
    let nats = jetstream::new(service(stack).await);
    let mut confirmations = Vec::new();
    for n in numbers {
        let data = json!({"n": n, "fill": "x".repeat(bytes)}).to_string();
        confirmations.push(nats.publish(subject.to_owned(), data.into()).await.unwrap().into_future());
    }
    let stored =
        timeout(PATIENCE, try_join_all(confirmations)).await.expect("all are stored in time").unwrap();
    stored.last().expect("there is one").sequence
}

fn number(data: &[u8]) -> usize {
    let data: Value = serde_json::from_slice(data).unwrap();
    usize::try_from(data["n"].as_u64().unwrap()).unwrap()
}

/// Resumes `kept:a` from the beginning, and receives so many publications: first those in the reply, then the others.
async fn receive(client: &Client, events: &mut Events, epoch: &str, count: usize) -> Vec<usize> {
    let result = resume(client, "kept:a", 0, epoch).await;
    assert!(result.recovered && result.offset == 0, "{result:?}");
    let mut received: Vec<_> = result.publications.iter().map(|p| number(&p.data)).collect();
    assert!((1..=10).contains(&received.len()), "{}", received.len());
    while received.len() < count {
        received.push(number(next(events).await.0.as_bytes()));
    }
    received
}

/// The publications in a message of the gateway: missed ones, and those that are pushed.
fn publications(message: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(message).unwrap().lines();
    let replies = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let brought = replies.flat_map(|reply| {
        let missed = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
        let begun_with =
            reply["connect"]["subs"]["#42"]["publications"].as_array().cloned().unwrap_or_default();
        missed.into_iter().chain(begun_with).chain(reply["push"].get("pub").cloned())
    });
    brought.collect()
}

fn numbers(message: &[u8]) -> Vec<usize> {
    publications(message).iter().map(|p| number(p["data"].to_string().as_bytes())).collect()
}

/// A client that has little room for what it does not read, and asks to resume `kept:a` from the beginning.
async fn resuming(stack: &Stack, mut ask: Value) -> Socket {
    let mut client = Socket::open_narrow(stack).await.connect(stack, "42").await;
    (ask["channel"], ask["recover"]) = (json!("kept:a"), json!(true));
    client.write(&frame(TEXT, json!({"id": 2, "subscribe": ask}).to_string().as_bytes())).await;
    client
}

async fn epoch(stack: &Stack) -> String {
    let (client, _events) = connect(stack, 0, "41").await;
    fresh(&client, "kept:none").await.epoch
}

#[tokio::test]
async fn more_publications_than_one_reply_holds_are_all_received_while_others_are_published() {
    let stack = small_replies(1000, "").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..200, 10).await;
    let publishing = store(&stack, "tide.ch.kept.a", 200..400, 10);
    let receiving = async {
        let (json, mut events) = connect(&stack, 0, "42").await;
        let (protobuf, mut more_events) = connect_as(&stack, 0, "43", Encoding::Protobuf).await;
        tokio::join!(
            receive(&json, &mut events, &epoch, 400),
            receive(&protobuf, &mut more_events, &epoch, 400)
        )
    };
    let (_, (json, protobuf)) = tokio::join!(publishing, receiving);
    let all: Vec<_> = (0..400).collect();
    assert!(json == all && protobuf == all, "{json:?}\n{protobuf:?}");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_client_ended_as_slow_resumes_where_it_was_and_misses_nothing() {
    let stack = small_replies(1000, "").await;
    let epoch = epoch(&stack).await;
    let mut slow = Socket::open_narrow(&stack).await.connect(&stack, "42").await;
    slow.write(&frame(TEXT, json!({"id": 2, "subscribe": {"channel": "kept:a"}}).to_string().as_bytes()))
        .await;
    slow.replies(1).await;
    // More than the outbox and what the kernel takes.
    store(&stack, "tide.ch.kept.a", 0..300, 8_000).await;
    let ended = "tidegate_gateway_disconnects_total{code=\"3008\"} 1";
    eventually("it is ended", || async { get(&stack, "/metrics").await.1.contains(ended) }).await;
    let (mut received, mut offset) = (Vec::new(), 0);
    let code = loop {
        let (opcode, payload) = slow.frame(PATIENCE).await;
        if opcode == 8 {
            break u16::from_be_bytes([payload[0], payload[1]]);
        }
        received.extend(numbers(&payload));
        offset = publications(&payload).last().map_or(offset, |p| p["offset"].as_u64().unwrap());
    };
    assert!(code == 3008 && received.len() < 200, "{code} after {}", received.len());
    let (client, mut events) = connect(&stack, 0, "42").await;
    let result = resume(&client, "kept:a", offset, &epoch).await;
    assert!(result.recovered, "{result:?}");
    received.extend(result.publications.iter().map(|p| number(&p.data)));
    while received.len() < 300 {
        received.push(number(next(&mut events).await.0.as_bytes()));
    }
    assert_eq!(received, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_one_part_and_the_others_wait_for_it() {
    let stack = small_replies(1000, "").await;
    let epoch = epoch(&stack).await;
    // 2.4 MB, of which the kernel and the outbox take a small part.
    store(&stack, "tide.ch.kept.a", 0..300, 8_000).await;
    let mut client = resuming(&stack, json!({"epoch": epoch})).await;
    let (other, mut events) = connect(&stack, 0, "43").await;
    fresh(&other, "kept:a").await;
    let last = store(&stack, "tide.ch.kept.a", 300..301, 10).await;
    assert_eq!(next(&mut events).await.1, last, "others receive what is new");
    let mut received = Vec::new();
    while received.len() < 301 {
        let (opcode, payload) = client.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "{}", String::from_utf8_lossy(&payload));
        received.extend(numbers(&payload));
    }
    assert_eq!(received, (0..301).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_backlog_that_is_trimmed_before_the_client_has_it_ends_the_subscription_without_a_hole() {
    let stack = small_replies(500, "").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..400, 8_000).await;
    let mut client = resuming(&stack, json!({"epoch": epoch})).await;
    store(&stack, "tide.ch.kept.a", 400..1000, 8_000).await;
    let mut received = Vec::new();
    let code = 'reading: loop {
        let (opcode, payload) = client.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "{}", String::from_utf8_lossy(&payload));
        received.extend(numbers(&payload));
        for line in std::str::from_utf8(&payload).unwrap().lines() {
            let reply: Value = serde_json::from_str(line).unwrap();
            if let Some(unsubscribe) = reply["push"].get("unsubscribe") {
                break 'reading unsubscribe["code"].as_u64().unwrap();
            }
        }
    };
    assert_eq!((code, &received), (2500, &(0..received.len()).collect()), "{}", received.len());
    assert!((1..400).contains(&received.len()), "{}", received.len());
}

#[tokio::test]
async fn a_publication_that_no_outbox_can_hold_ends_the_subscription_once_and_the_client_starts_behind_it() {
    let stack = small_replies(100, "").await;
    let epoch = epoch(&stack).await;
    let before = store(&stack, "tide.ch.kept.a", 0..20, 10).await;
    store(&stack, "tide.ch.kept.a", 20..21, 100_000).await;
    let last = store(&stack, "tide.ch.kept.a", 21..40, 10).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    assert_eq!(receive(&client, &mut events, &epoch, 20).await, (0..20).collect::<Vec<_>>());
    assert_eq!(unsubscribed(&mut events).await, 2500);
    let again = resume(&client, "kept:a", before, &epoch).await;
    assert!(!again.recovered && again.was_recovering && again.offset >= last, "{again:?}");
    let new = store(&stack, "tide.ch.kept.a", 40..41, 10).await;
    assert_eq!(next(&mut events).await.1, new);
}

#[tokio::test]
async fn a_filter_that_leaves_nothing_of_a_part_brings_the_client_to_the_next_one() {
    let stack = small_replies(100, "tags_filter = true").await;
    let epoch = epoch(&stack).await;
    let nats = jetstream::new(service(&stack).await);
    for n in 0..60 {
        let mut headers = HeaderMap::new();
        headers.insert("Tide-Tag-kind", if n % 30 == 29 { "goal" } else { "foul" });
        let data = json!({"n": n}).to_string().into();
        nats.publish_with_headers("tide.ch.kept.a", headers, data).await.unwrap().await.unwrap();
    }
    let (client, mut events) = connect(&stack, 0, "42").await;
    let goals =
        FilterNode { key: "kind".into(), cmp: "eq".into(), val: "goal".into(), ..FilterNode::default() };
    let channel = "kept:a".to_owned();
    let ask =
        SubscribeRequest { channel, recover: true, epoch, tf: Some(goals), ..SubscribeRequest::default() };
    let result = subscribe(&client, ask).await.unwrap();
    assert!(result.recovered && result.publications.is_empty(), "{result:?}");
    for n in [29, 59] {
        assert_eq!(number(next(&mut events).await.0.as_bytes()), n);
    }
}

#[tokio::test]
async fn patches_begin_anew_with_each_part() {
    let stack = small_replies(100, "delta = true").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..35, 500).await;
    let mut client = resuming(&stack, json!({"epoch": epoch, "delta": "fossil"})).await;
    let (mut has, mut received) = (Vec::new(), Vec::new());
    store(&stack, "tide.ch.kept.a", 35..40, 500).await;
    while received.len() < 40 {
        for publication in publications(&client.frame(PATIENCE).await.1) {
            let data = publication["data"].as_str().unwrap().as_bytes();
            has = match publication["delta"].as_bool() {
                Some(true) => delta::apply(&has, data, 1 << 20).unwrap(),
                _ => data.to_vec(),
            };
            received.push(number(&has));
        }
    }
    assert_eq!(received, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_follows_when_the_client_unsubscribes_between_two_parts() {
    let stack = small_replies(1000, "").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..300, 8_000).await;
    let mut client = resuming(&stack, json!({"epoch": epoch})).await;
    client.write(&frame(TEXT, br#"{"id": 3, "unsubscribe": {"channel": "kept:a"}}"#)).await;
    let replies = client.replies(2).await;
    assert_eq!((&replies[0]["id"], &replies[1]["id"]), (&json!(2), &json!(3)));
    client.write(&frame(TEXT, br#"{"id": 4, "subscribe": {"channel": "kept:a"}}"#)).await;
    let (opcode, payload) = client.frame(PATIENCE).await;
    let reply: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((opcode, &reply["id"]), (TEXT, &json!(4)), "{reply}");
    let last = store(&stack, "tide.ch.kept.a", 300..301, 10).await;
    let (_, payload) = client.frame(PATIENCE).await;
    let push: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(push["push"]["pub"]["offset"], json!(last), "{push}");
}

#[tokio::test]
async fn the_channels_a_connection_begins_with_come_in_parts_too() {
    let stack = small_replies(100, "").await;
    let nats = jetstream::new(service(&stack).await);
    let connect = |subs: Value| {
        let ask = json!({"id": 1, "connect": {"token": token(&stack, "42"), "subs": subs}});
        frame(TEXT, ask.to_string().as_bytes())
    };
    let mut first = Socket::open(&stack).await;
    first.write(&connect(json!({}))).await;
    let told = first.replies(1).await.remove(0);
    let epoch = told["connect"]["subs"]["#42"]["epoch"].clone();
    drop(first);
    for n in 0..25 {
        let data = json!({"n": n}).to_string();
        nats.publish("tide.ch.user.42", data.into()).await.unwrap().await.unwrap();
    }
    let mut again = Socket::open(&stack).await;
    again.write(&connect(json!({"#42": {"recover": true, "epoch": epoch}}))).await;
    let mut received = Vec::new();
    while received.len() < 25 {
        let (_, payload) = again.frame(PATIENCE).await;
        received.extend(numbers(&payload));
    }
    assert_eq!(received, (0..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn many_clients_that_come_back_together_share_the_reads_of_their_parts() {
    const CLIENTS: usize = 30;
    let stack = small_replies(1000, "").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..100, 10).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&stack, 0, "42").await);
    }
    let all = clients.iter_mut().map(|(client, events)| receive(client, events, &epoch, 100));
    let all = timeout(Duration::from_secs(30), join_all(all)).await.unwrap();
    assert!(all.into_iter().all(|received| received == (0..100).collect::<Vec<_>>()));
    let (_, page) = get(&stack, "/metrics").await;
    let reads = page.lines().find_map(|line| line.strip_prefix("tidegate_gateway_recovery_reads_total "));
    let reads: usize = reads.unwrap_or_else(|| panic!("{page}")).parse().unwrap();
    assert!(reads < CLIENTS * 5, "{reads} reads for {CLIENTS} clients of 10 parts each");
}

#[tokio::test]
async fn a_client_that_wants_an_error_for_a_failed_recovery_gets_none_for_a_long_one() {
    let stack = small_replies(100, "").await;
    let epoch = epoch(&stack).await;
    store(&stack, "tide.ch.kept.a", 0..30, 10).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let channel = "kept:a".to_owned();
    let ask = SubscribeRequest { channel, recover: true, epoch, flag: 2, ..SubscribeRequest::default() };
    let result = subscribe(&client, ask).await.unwrap();
    assert!(result.recovered, "{result:?}");
    for n in result.publications.len()..30 {
        assert_eq!(number(next(&mut events).await.0.as_bytes()), n);
    }
    let unsubscribe = Some(UnsubscribeRequest { channel: "kept:a".into() });
    client.call(Command { unsubscribe, ..Command::default() }).await.unwrap();
}
