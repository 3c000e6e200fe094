//! Channels with a long history: what a read costs depends on what it returns, not on how much is kept.

use std::net::SocketAddr;

use futures_util::future::join_all;
use tidegate_cli::{client::Client, stack::Stack};
use tidegate_shared::protocol::{HistoryRequest, StreamPosition};

use crate::support::{connect, fresh, history, http, kept_toml, quick, resume, service, start};

const KEPT: u32 = 20_000;
/// Replies may hold 128 KiB of publications, about 60 of them.
const SMALL_REPLIES: &str = "[gateway.limits]\noutbox = '256 KiB'\n";

/// A stack whose channel `kept:a` keeps 20,000 publications of 2 KB, with publications of other channels in between.
async fn filled() -> (Stack, Vec<u64>) {
    let stack = start(quick(&format!("{SMALL_REPLIES}{}", kept_toml(KEPT, ""))).gateways(1)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let text = "x".repeat(2000);
    let mut offsets = Vec::new();
    for first in (0..KEPT).step_by(500) {
        let mut acks = Vec::new();
        for n in first..first + 500 {
            let body = format!(r#"{{"n":{n},"text":"{text}"}}"#);
            acks.push(nats.publish("tide.ch.kept.a", body.into()).await.unwrap());
        }
        // These are stored in one place, so that the channel's sequences are far from evenly spread.
        for n in 0..if first == 15_000 { 3000 } else { 1 } {
            nats.publish(format!("tide.ch.kept.b{}", n % 7), "1".into()).await.unwrap().await.unwrap();
        }
        for ack in acks {
            offsets.push(ack.await.unwrap().sequence);
        }
    }
    (stack, offsets)
}

/// How many messages and bytes the broker has sent so far.
async fn sent(stack: &Stack) -> (u64, u64) {
    let config = std::fs::read_to_string(stack.dir().join("nats.conf")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("MONITOR_PORT = ")).unwrap();
    let monitor: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let get = "GET /varz HTTP/1.0\r\n\r\n";
    let facts: serde_json::Value = serde_json::from_str(&http(monitor, get).await.1).unwrap();
    (facts["out_msgs"].as_u64().unwrap(), facts["out_bytes"].as_u64().unwrap())
}

/// Reads a page. Returns the offsets of its publications.
async fn page(client: &Client, limit: i32, reverse: bool, since: Option<u64>) -> Vec<u64> {
    let since = since.map(|offset| StreamPosition { offset, epoch: String::new() });
    let request = HistoryRequest { channel: "kept:a".to_owned(), limit, since, reverse };
    let result = history(client, request).await.unwrap();
    result.publications.iter().map(|publication| publication.offset).collect()
}

/// The most memory the gateway has used so far.
fn peak(stack: &Stack) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", stack.pid("gateway-1").unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_read_costs_what_it_returns_and_not_what_is_kept() {
    let (stack, offsets) = filled().await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let newest = *offsets.last().unwrap();
    let expected = |before: u64, count: usize| {
        offsets.iter().rev().copied().filter(|offset| *offset < before).take(count).collect::<Vec<_>>()
    };
    for (limit, since) in [
        (1, None),
        (3, None),
        (40, None),
        (1, Some(newest)),
        (5, Some(offsets[15_003])),
        (5, Some(offsets[7])),
        (1, Some(offsets[0])),
    ] {
        let count = usize::try_from(limit).unwrap();
        let (mut messages, mut bytes) = (u64::MAX, u64::MAX);
        // What else the broker sends meanwhile only adds, so the cheapest of a few reads counts.
        for _ in 0..3 {
            let before = sent(&stack).await;
            let read = page(&client, limit, true, since).await;
            let after = sent(&stack).await;
            assert_eq!(read, expected(since.unwrap_or(u64::MAX), count), "{limit} {since:?}");
            messages = messages.min(after.0 - before.0);
            bytes = bytes.min(after.1 - before.1);
        }
        println!("limit {limit}, since {since:?}: {messages} messages, {bytes} bytes");
        assert!(messages < 60 && bytes < 200_000, "{limit} {since:?}: {messages} messages, {bytes} bytes");
    }
    // More than one reply may hold is cut, at the far end.
    let most = page(&client, -1, true, None).await;
    assert!(most.len() > 30 && most == expected(u64::MAX, most.len()), "{}", most.len());
    let first = page(&client, -1, false, None).await;
    assert!((40..100).contains(&first.len()) && first == offsets[..first.len()], "{}", first.len());
    // Clients resume within their outboxes, and get the rest in parts.
    let start = fresh(&client, "kept:a").await;
    client.unsubscribe("kept:a").await.unwrap();
    for (behind, fits) in [(50, true), (299, false)] {
        let result = resume(&client, "kept:a", offsets[offsets.len() - 1 - behind], &start.epoch).await;
        let brought = result.publications.len();
        assert!(result.recovered && (brought == behind) == fits && brought >= 40, "{behind}: {brought}");
        client.unsubscribe("kept:a").await.unwrap();
    }
    let before = peak(&stack);
    let clients = join_all((0..16).map(|n| connect(&stack, 0, if n % 2 == 0 { "42" } else { "43" }))).await;
    let reads = clients.iter().map(|(client, _events)| async {
        for n in 0..8 {
            assert!(!page(client, -1, n % 2 == 0, None).await.is_empty());
        }
    });
    join_all(reads).await;
    let grown = peak(&stack) - before;
    println!("{} KiB more at the peak", grown >> 10);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
}

#[tokio::test]
async fn the_newest_messages_of_channels_are_found_though_they_are_too_large_for_one_read() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let large = "x".repeat(900_000);
    let mut subjects = Vec::new();
    let mut expected = Vec::new();
    for n in 0..12 {
        let subject = format!("tide.ch.kept.large{n}");
        for body in ["1".to_owned(), large.clone()] {
            let stored = nats.publish(subject.clone(), body.into()).await.unwrap().await.unwrap();
            expected.push((subject.clone(), stored.sequence));
        }
        subjects.push(subject);
    }
    subjects.push("tide.ch.kept.empty".to_owned());
    let broker = stack.admin().await.unwrap();
    let newest = broker.newest("TIDE_CH_kept", &subjects).await.unwrap();
    let expected: Vec<_> = expected.into_iter().skip(1).step_by(2).collect();
    assert_eq!(newest, expected);
}
