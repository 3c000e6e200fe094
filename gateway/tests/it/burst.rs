//! Many commands in one write: each gets its reply, and a client that does not read takes no memory.

use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::json;
use tidegate_cli::stack::Stack;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    socket::{PING, Socket, TEXT, frame},
    support::{PATIENCE, TOML, quick, service, start},
};

fn rpc(id: u32) -> serde_json::Value {
    json!({"id": id, "rpc": {"method": "echo", "data": id}})
}

#[tokio::test]
async fn no_command_is_lost_behind_a_full_read_budget() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    for pings in [62, 63, 64, 65, 127, 128] {
        let mut socket = Socket::connected(&stack).await;
        let mut burst = frame(PING, b"").repeat(pings);
        burst.extend(frame(TEXT, rpc(2).to_string().as_bytes()));
        burst.extend(frame(TEXT, rpc(3).to_string().as_bytes()));
        socket.write(&burst).await;
        let mut ids: Vec<_> = socket.replies(2).await.iter().map(|reply| reply["id"].as_u64()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [Some(2), Some(3)], "{pings} pings before");
    }
}

/// A frame of a burst.
#[derive(Debug, Clone, Copy)]
enum Item {
    Ping,
    /// Answered in a later turn, by a worker.
    Rpc,
    /// Answered at once.
    Unsubscribe,
    /// Refused at once.
    Unknown,
    /// Joins a channel that the connection may not have.
    Subscribe,
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        Just(Item::Ping),
        Just(Item::Rpc),
        Just(Item::Unsubscribe),
        Just(Item::Unknown),
        Just(Item::Subscribe)
    ]
}

/// Encodes a burst. Several commands may share a message. Returns the bytes and how many commands there are.
fn encode(items: &[(Item, bool)]) -> (Vec<u8>, usize) {
    let (mut bytes, mut lines, mut count) = (Vec::new(), Vec::new(), 0_usize);
    for (item, joined) in items {
        let id = count + 2;
        let command = match item {
            Item::Ping => {
                bytes.extend(frame(PING, b"p"));
                continue;
            }
            Item::Rpc => json!({"id": id, "rpc": {"method": "echo", "data": id}}),
            Item::Unsubscribe => json!({"id": id, "unsubscribe": {"channel": "chat:none"}}),
            Item::Unknown => json!({"id": id, "rpc": {"method": "missing"}}),
            Item::Subscribe => json!({"id": id, "subscribe": {"channel": "unknown:x"}}),
        };
        count += 1;
        lines.push(command.to_string());
        if !joined || lines.len() == 20 {
            bytes.extend(frame(TEXT, lines.join("\n").as_bytes()));
            lines.clear();
        }
    }
    if !lines.is_empty() {
        bytes.extend(frame(TEXT, lines.join("\n").as_bytes()));
    }
    (bytes, count)
}

#[tokio::test]
async fn each_command_of_any_burst_gets_exactly_one_reply() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let bursts = proptest::collection::vec((item(), any::<bool>()), 1..300);
    let mut runner = TestRunner::deterministic();
    for _ in 0..30 {
        let items = bursts.new_tree(&mut runner).unwrap().current();
        let cut = (0..10_000_usize).new_tree(&mut runner).unwrap().current();
        let (bytes, count) = encode(&items);
        let mut socket = Socket::connected(&stack).await;
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        socket.write(head).await;
        socket.write(tail).await;
        let mut ids: Vec<_> =
            socket.replies(count).await.iter().map(|reply| reply["id"].as_u64().unwrap()).collect();
        let at_once = |item: &Item| matches!(item, Item::Unsubscribe | Item::Unknown | Item::Subscribe);
        let commands = items.iter().filter(|(item, _)| !matches!(item, Item::Ping));
        let expected: Vec<u64> =
            (2..).zip(commands).filter(|(_, (item, _))| at_once(item)).map(|(id, _)| id).collect();
        let in_order: Vec<u64> = ids.iter().copied().filter(|id| expected.contains(id)).collect();
        assert_eq!(in_order, expected, "replies that need no worker come in order: {items:?}");
        ids.sort_unstable();
        assert_eq!(ids, (2..).take(count).collect::<Vec<u64>>(), "{items:?}");
    }
}

#[tokio::test]
async fn a_client_that_pings_without_reading_is_not_read_any_further() {
    const FLOOD: usize = 64 << 20;
    let stack = start(quick("").gateways(1).workers(1)).await;
    let mut socket = Socket::connected(&stack).await;
    let pings = frame(PING, &[b'p'; 125]).repeat(1000);
    let mut sent = 0;
    // The gateway takes no more than the buffers of both sockets hold, then gives the client up.
    while sent < FLOOD {
        let written = timeout(PATIENCE, socket.tcp.write_all(&pings)).await;
        if written.expect("the gateway reads, or closes the socket").is_err() {
            return;
        }
        sent += pings.len();
    }
    panic!("the gateway took {sent} bytes of pings and holds the pongs");
}

#[tokio::test]
async fn a_client_that_reads_gets_every_publication_of_a_burst() {
    const COUNT: usize = 1500;
    let limits = "[gateway.limits]\noutbox = '256 KiB'\n";
    let namespace = "[[namespace]]\nname = 'open'\nallow_subscribe = 'authenticated'\nhistory_size = 0\n";
    let stack = Stack::builder().config(&format!("{limits}{namespace}{TOML}")).gateways(1);
    let stack = start(stack.variable("gateway", "TOKIO_WORKER_THREADS", "1")).await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&frame(TEXT, br#"{"id":2,"subscribe":{"channel":"open:a"}}"#)).await;
    socket.replies(1).await;
    let nats = service(&stack).await;
    let data = bytes::Bytes::from(format!("\"{}\"", "x".repeat(1024)));
    for _ in 0..COUNT {
        nats.publish("tide.ch.open.a", data.clone()).await.unwrap();
    }
    nats.flush().await.unwrap();
    let mut received = 0;
    while received < COUNT {
        let (opcode, payload) = socket.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "closed after {received}: {}", String::from_utf8_lossy(&payload));
        received += std::str::from_utf8(&payload).unwrap().matches("\"pub\"").count();
    }
    assert_eq!(received, COUNT);
}

#[tokio::test]
async fn a_pong_that_waits_behind_a_blocked_write_keeps_the_connection() {
    let limits = "[gateway.limits]\noutbox = '64 MiB'\n";
    let namespace = "[[namespace]]\nname = 'open'\nallow_subscribe = 'authenticated'\n";
    let toml = format!(
        "[gateway]\nping_interval = '2s'\npong_timeout = '500ms'\nanswer_timeout = '1s'\n{limits}{namespace}{TOML}"
    );
    let stack = start(Stack::builder().config(&toml).gateways(1)).await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&frame(TEXT, br#"{"id":2,"subscribe":{"channel":"open:a"}}"#)).await;
    socket.replies(1).await;
    // The protocol's ping is an empty command.
    while socket.frame(PATIENCE).await != (TEXT, b"{}".to_vec()) {}
    let nats = service(&stack).await;
    let data = bytes::Bytes::from(format!("\"{}\"", "x".repeat(500_000)));
    for _ in 0..40 {
        nats.publish("tide.ch.open.a", data.clone()).await.unwrap();
    }
    nats.flush().await.unwrap();
    socket.write(&frame(TEXT, b"{}")).await;
    // Longer than pong_timeout: what is tested is what the gateway makes of time that has passed.
    let blocked_until = tokio::time::Instant::now() + std::time::Duration::from_millis(700);
    tokio::time::sleep_until(blocked_until).await;
    let mut received = 0;
    while received < 40 {
        let (opcode, payload) = socket.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "closed after {received}: {}", String::from_utf8_lossy(&payload));
        received += std::str::from_utf8(&payload).unwrap().matches("\"pub\"").count();
        if payload.ends_with(b"\n{}") || payload == b"{}" {
            socket.write(&frame(TEXT, b"{}")).await;
        }
    }
}

/// Publications of a namespace without history: the gateway asks the broker once for all that come together.
#[tokio::test]
async fn replies_that_are_ready_together_come_in_one_message() {
    let stack = start(quick("").gateways(1)).await;
    let mut socket = Socket::connected(&stack).await;
    let publish = |id| json!({"id": id, "publish": {"channel": "chat:many", "data": id}}).to_string();
    let commands: Vec<_> = (2..34).map(publish).collect();
    socket.write(&frame(TEXT, commands.join("\n").as_bytes())).await;
    let (mut ids, mut messages) = (Vec::new(), 0);
    while ids.len() < commands.len() {
        let (opcode, payload) = socket.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "closed: {}", String::from_utf8_lossy(&payload));
        let text = std::str::from_utf8(&payload).unwrap();
        let replies: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(replies.iter().all(|reply| reply.get("error").is_none()), "{text}");
        ids.extend(replies.iter().filter_map(|reply| reply["id"].as_u64()));
        messages += usize::from(opcode == TEXT);
    }
    assert_eq!(ids, (2..34).collect::<Vec<u64>>(), "in the order of the commands");
    assert!(messages < 8, "{messages} messages");
}

/// Some publications are sent as soon as they are read, others wait for the disk or for those before them.
#[tokio::test]
async fn publications_that_are_sent_at_once_overtake_none_of_their_connection() {
    let stack = start(quick("").gateways(1)).await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&frame(TEXT, br#"{"id":2,"subscribe":{"channel":"chat:line"}}"#)).await;
    socket.replies(1).await;
    let publish = |id| json!({"id": id, "publish": {"channel": "chat:line", "data": id}}).to_string();
    for part in (3..203).collect::<Vec<u64>>().chunks(7) {
        let commands: Vec<_> = part.iter().map(publish).collect();
        socket.write(&frame(TEXT, commands.join("\n").as_bytes())).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let (opcode, payload) = socket.frame(PATIENCE).await;
        assert_ne!(opcode, 8, "closed: {}", String::from_utf8_lossy(&payload));
        for line in std::str::from_utf8(&payload).unwrap().lines() {
            let reply: serde_json::Value = serde_json::from_str(line).unwrap();
            seen.extend(reply["push"]["pub"]["data"].as_u64());
        }
    }
    assert_eq!(seen, (3..203).collect::<Vec<u64>>());
}
