//! Each limit at one below it, at it, and at one above it: what a client experiences, and that the count is exact.

use std::cell::RefCell;

use futures_util::SinkExt;
use serde_json::json;
use tidegate_cli::{
    client::{Client, ConnectError, Options},
    stack::Stack,
};
use tidegate_shared::protocol::codes;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    socket::{PING, Socket, TEXT, frame},
    stream_client::{StreamClient, connect_command, post, query},
    support::{
        PATIENCE, connect, eventually, get, http, nothing_panicked, quick, raw, raw_connected, start, token,
        url,
    },
};

async fn limited(limits: &str) -> Stack {
    let toml = format!("[gateway.limits]\n{limits}\n");
    start(quick(&toml).gateways(1).workers(1)).await
}

/// The value of a metric, 0 if it is not there yet.
pub(crate) async fn metric(stack: &Stack, name: &str) -> u64 {
    let (_, page) = get(stack, "/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

async fn held(stack: &Stack, whose: &str) -> u64 {
    metric(stack, &format!("tidegate_gateway_held_total{{reason=\"{whose}\"}}")).await
}

/// A message with so many commands that are answered at once.
fn batch(first_id: usize, commands: usize) -> Vec<u8> {
    let lines =
        (first_id..first_id + commands).map(|id| json!({"id": id, "unsubscribe": {"channel": "chat:x"}}));
    frame(TEXT, lines.map(|line| line.to_string()).collect::<Vec<_>>().join("\n").as_bytes())
}

#[tokio::test]
async fn a_user_has_as_many_connections_as_the_limit_and_one_more_when_one_has_ended() {
    let stack = limited("connections_per_user = 2").await;
    let (first, _events) = connect(&stack, 0, "42").await;
    let (_second, _events) = connect(&stack, 0, "42").await;
    let refused = async || {
        let mut client = raw(&stack).await;
        client.send_text(&connect_command(&stack, "42")).await.unwrap();
        client.expect_close(3013).await.unwrap()
    };
    assert_eq!(refused().await, "connection limit");
    let (_other, _events) = connect(&stack, 0, "43").await;
    drop(first);
    let kept = RefCell::new(Vec::new());
    eventually("the seat of the ended connection is free", || async {
        let again = Client::connect(Options::new(url(&stack, 0)).token(token(&stack, "42"))).await;
        again.map(|client| kept.borrow_mut().push(client)).is_ok()
    })
    .await;
    refused().await;
    let target = format!("/connection/sse?cf_connect={}", query(&connect_command(&stack, "42")));
    let end = StreamClient::get(stack.gateways()[0].public, &target).await.end().await;
    assert_eq!(end["push"]["disconnect"]["code"], 3013, "over every transport: {end}");
    assert!(metric(&stack, "tidegate_gateway_disconnects_total{code=\"3013\"}").await >= 3);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn as_many_commands_as_the_rate_are_answered_at_once_and_one_more_makes_the_socket_wait() {
    let stack = limited("messages_per_second = 5").await;
    for (commands, expected) in [(4, 0), (5, 0), (6, 1)] {
        let mut socket = Socket::open(&stack).await;
        // In one message, so that no time passes between them.
        let more =
            (2..=commands).map(|id| json!({"id": id, "unsubscribe": {"channel": "chat:x"}}).to_string());
        let lines: Vec<_> = [connect_command(&stack, "42")].into_iter().chain(more).collect();
        socket.write(&frame(TEXT, lines.join("\n").as_bytes())).await;
        assert_eq!(socket.replies(commands).await.len(), commands);
        assert_eq!(held(&stack, "connection").await, expected, "{commands}");
    }
}

#[tokio::test]
async fn a_command_that_has_to_wait_is_answered_too() {
    let stack = limited("messages_per_second = 5").await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&[batch(2, 8), batch(10, 1)].concat()).await;
    assert_eq!(socket.replies(9).await.len(), 9);
    assert!(held(&stack, "connection").await > 0);
}

#[tokio::test]
async fn commands_that_would_make_the_socket_wait_too_long_end_the_connection() {
    // One second at once, ten seconds to wait, and what comes back meanwhile.
    let stack = limited("messages_per_second = 5").await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&batch(2, 40)).await;
    assert_eq!(socket.replies(40).await.len(), 40, "a wait of seconds is no end");
    let mut other = Socket::connected_as(&stack, "43").await;
    other.write(&batch(2, 100)).await;
    let close = loop {
        let (opcode, payload) = other.frame(PATIENCE).await;
        if opcode == 8 {
            break payload;
        }
    };
    assert_eq!(
        close.first_chunk().map(|code| u16::from_be_bytes(*code)),
        Some(codes::TOO_MANY_REQUESTS.code)
    );
    assert!(held(&stack, "connection").await >= 2);
}

#[tokio::test]
async fn pings_count_as_commands() {
    let stack = limited("messages_per_second = 5").await;
    let mut socket = Socket::connected(&stack).await;
    socket.write(&frame(PING, b"").repeat(10)).await;
    eventually("the socket waits", || async { held(&stack, "connection").await > 0 }).await;
}

#[tokio::test]
async fn frames_that_begin_or_continue_a_message_count_as_commands() {
    let stack = limited("messages_per_second = 5").await;
    let mut socket = Socket::connected(&stack).await;
    // Empty frames of one message that never ends.
    socket.write(&[0x01, 0x80, 0, 0, 0, 0]).await;
    socket.write(&[0x00, 0x80, 0, 0, 0, 0].repeat(10)).await;
    eventually("the socket waits", || async { held(&stack, "connection").await > 0 }).await;
}

#[tokio::test]
async fn messages_of_one_way_clients_count_as_commands() {
    let stack = limited("messages_per_second = 5").await;
    let address = url(&stack, 0).replace("/websocket", "/uni_websocket");
    let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
    let connect = json!({"token": token(&stack, "42")}).to_string();
    for message in [connect.as_str()].into_iter().chain(["{}"; 10]) {
        socket.send(Message::text(message)).await.unwrap();
    }
    eventually("the socket waits", || async { held(&stack, "connection").await > 0 }).await;
}

#[tokio::test]
async fn the_connections_of_a_user_share_its_rate_and_other_users_have_their_own() {
    let stack = limited("user_messages_per_second = 5").await;
    let (mut first, mut second) = (Socket::connected(&stack).await, Socket::connected(&stack).await);
    first.write(&batch(2, 15)).await;
    second.write(&batch(2, 15)).await;
    assert_eq!((first.replies(15).await.len(), second.replies(15).await.len()), (15, 15));
    eventually("both sockets wait", || async { held(&stack, "user").await == 2 }).await;
    let mut other = Socket::connected_as(&stack, "43").await;
    other.write(&batch(2, 4)).await;
    assert_eq!(other.replies(4).await.len(), 4);
    assert_eq!((held(&stack, "user").await, held(&stack, "connection").await), (2, 0));
}

#[tokio::test]
async fn a_head_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let stack = limited("header_bytes = '2 KiB'").await;
    let public = stack.gateways()[0].public;
    let of = |length: usize| {
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-fill: \r\n\r\n";
        head.replace("fill: ", &format!("fill: {}", "x".repeat(length - head.len())))
    };
    for (length, status) in [(2047, 200), (2048, 200), (2049, 431), (8_000, 431)] {
        let (found, page) = http(public, &of(length)).await;
        assert_eq!(found, status, "{length}: {page}");
    }
    assert!(http(public, &of(2049)).await.1.contains("gateway.limits.header_bytes"));
    let many = "x-a: 1\r\n".repeat(150);
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{many}connection: close\r\n\r\n");
    assert_eq!(http(public, &request).await.0, 431, "more headers than any client sends");
    assert_eq!(metric(&stack, "tidegate_gateway_connections_refused_total{reason=\"head\"}").await, 3);
}

#[tokio::test]
async fn a_message_may_be_as_deep_as_the_limit_and_no_deeper() {
    let stack = limited("json_depth = 16").await;
    let of = |depth: usize| {
        // The command and the call are two.
        let data = format!("{}{}", "[".repeat(depth - 2), "]".repeat(depth - 2));
        format!(r#"{{"id":2,"rpc":{{"method":"echo","data":{data}}}}}"#)
    };
    for depth in [15, 16] {
        let mut client = raw_connected(&stack).await;
        client.send_text(&of(depth)).await.unwrap();
        assert!(client.reply().await.unwrap().error.is_none(), "{depth}");
    }
    for depth in [17, 10_000] {
        let mut client = raw_connected(&stack).await;
        client.send_text(&of(depth)).await.unwrap();
        client.expect_close(3501).await.unwrap_or_else(|error| panic!("{depth}: {error}"));
    }
    let mut client = raw_connected(&stack).await;
    client.send_text(&of(12).replace("[]", r#""[[[[[[[[[[[[[[[[[[\"""#)).await.unwrap();
    assert!(client.reply().await.unwrap().error.is_none(), "brackets in a text are text");
}

#[tokio::test]
async fn a_channels_name_may_be_as_long_as_the_limit() {
    let stack = limited("channel_name = 40").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let of = |length: usize| format!("chat:{}", "c".repeat(length - 5));
    for length in [39, 40] {
        client.subscribe(&of(length)).await.unwrap();
        client.publish(&of(length), "1").await.unwrap();
    }
    for (code, message) in [
        client.subscribe(&of(41)).await.map(drop).unwrap_err(),
        client.publish(&of(41), "1").await.unwrap_err(),
    ]
    .map(|error| (error.code(), error.to_string()))
    {
        assert!(code == Some(107) && message.contains("at most 40 bytes"), "{message}");
    }
}

#[tokio::test]
async fn a_message_has_as_many_commands_as_the_limit() {
    let stack = limited("commands_per_message = 8").await;
    for commands in [7, 8] {
        let mut socket = Socket::connected(&stack).await;
        socket.write(&batch(2, commands)).await;
        assert_eq!(socket.replies(commands).await.len(), commands);
    }
    let mut client = raw_connected(&stack).await;
    let nine: Vec<_> =
        (2..11).map(|id| json!({"id": id, "unsubscribe": {"channel": "chat:x"}}).to_string()).collect();
    client.send_text(&nine.join("\n")).await.unwrap();
    client.expect_close(3501).await.unwrap();
}

#[tokio::test]
async fn a_client_has_as_many_channels_as_the_limit() {
    // The personal channel does not count.
    let stack = limited("channels = 3").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    for n in 1..=3 {
        client.subscribe(&format!("chat:{n}")).await.unwrap();
    }
    assert_eq!(client.subscribe("chat:4").await.unwrap_err().code(), Some(106));
    client.unsubscribe("chat:1").await.unwrap();
    client.subscribe("chat:4").await.unwrap();
}

#[tokio::test]
async fn as_many_requests_of_a_client_wait_as_the_limit() {
    let stack = limited("max_waiting = 3").await;
    let mut socket = Socket::connected(&stack).await;
    let calls = (2..6).map(|id| json!({"id": id, "rpc": {"method": "nobody"}}).to_string());
    socket.write(&frame(TEXT, calls.collect::<Vec<_>>().join("\n").as_bytes())).await;
    let replies = socket.replies(4).await;
    let with = |code: u64| replies.iter().filter(|reply| reply["error"]["code"] == code).count();
    assert_eq!((with(1000), with(1001)), (1, 3), "{replies:?}");
}

#[tokio::test]
async fn more_publishes_in_flight_than_the_limit_wait_and_none_is_lost() {
    let stack = limited("max_in_flight = 2").await;
    for count in [1, 2, 3, 40] {
        let mut socket = Socket::connected(&stack).await;
        for id in 2..2 + count {
            let publish = json!({"id": id, "publish": {"channel": "chat:x", "data": id}});
            socket.write(&frame(TEXT, publish.to_string().as_bytes())).await;
        }
        assert!(socket.replies(count).await.iter().all(|reply| reply.get("error").is_none()), "{count}");
    }
}

#[tokio::test]
async fn a_posted_message_is_as_long_as_the_limit() {
    let stack = limited("message = '2 KiB'").await;
    let public = stack.gateways()[0].public;
    let of = |length: usize| {
        let connect = connect_command(&stack, "42");
        format!("{connect}{}", " ".repeat(length - connect.len()))
    };
    for (length, status) in [(2047, 200), (2048, 200), (2049, 413)] {
        let request = post("/connection/http_stream", "application/json", of(length).as_bytes());
        assert_eq!(StreamClient::open(public, &request).await.status, status, "{length}");
    }
}

#[tokio::test]
async fn a_message_in_fragments_is_as_long_as_the_limit() {
    let stack = limited("message = '2 KiB'").await;
    for (length, code) in [(2047, None), (2048, None), (2049, Some(1009_u16))] {
        let empty = r#"{"id":2,"rpc":{"method":"nothing","data":""}}"#;
        let text = empty.replace("\"\"", &format!("\"{}\"", "x".repeat(length - empty.len())));
        let mut socket = Socket::connected(&stack).await;
        let mut frames: Vec<_> = text.as_bytes().chunks(500).map(|part| frame(0, part)).collect();
        let last = frames.len() - 1;
        for (index, part) in frames.iter_mut().enumerate() {
            part[0] = if index == 0 { TEXT } else { 0 } | if index == last { 0x80 } else { 0 };
        }
        socket.write(&frames.concat()).await;
        let (opcode, payload) = socket.frame(PATIENCE).await;
        let closed = (opcode == 8).then(|| u16::from_be_bytes(*payload.first_chunk().unwrap()));
        assert_eq!(closed, code, "{length}: {}", String::from_utf8_lossy(&payload));
    }
}

#[tokio::test]
async fn as_many_sockets_as_the_limit_are_open_and_one_more_is_told_503() {
    let stack = limited("connections = 3").await;
    let (_first, _events) = connect(&stack, 0, "1").await;
    let (second, _events) = connect(&stack, 0, "2").await;
    let (_third, _events) = connect(&stack, 0, "3").await;
    let again = || Client::connect(Options::new(url(&stack, 0)).token(token(&stack, "4")));
    let refused = again().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Http { status: 503, .. }), "{refused:?}");
    drop(second);
    eventually("the seat of the ended connection is free", || async { again().await.is_ok() }).await;
    assert!(metric(&stack, "tidegate_gateway_connections_refused_total{reason=\"full\"}").await >= 1);
}

#[tokio::test]
async fn clients_that_do_not_read_share_what_may_wait_for_all_and_others_are_served() {
    const STUCK: usize = 12;
    let limits = "outbox = '1 MiB'\nbuffered_total = '4 MiB'\nmessage = '256 KiB'";
    let open =
        "[[namespace]]\nname = 'open'\nallow_subscribe = 'authenticated'\nallow_publish = 'authenticated'\n";
    let stack = start(quick(&format!("[gateway.limits]\n{limits}\n{open}")).gateways(1).workers(1)).await;
    let mut stuck = Vec::new();
    for n in 0..STUCK {
        let mut socket = Socket::connected_as(&stack, &n.to_string()).await;
        socket.write(&frame(TEXT, br#"{"id":2,"subscribe":{"channel":"open:a"}}"#)).await;
        socket.replies(1).await;
        stuck.push(socket);
    }
    let (publisher, _events) = connect(&stack, 0, "publisher").await;
    let fill = json!("x".repeat(100_000)).to_string();
    let mut most = 0;
    // The sockets' own buffers take a part of it.
    eventually("what waits for all is used up", || {
        let publish = publisher.publish("open:a", fill.clone());
        async {
            publish.await.unwrap();
            metric(&stack, "tidegate_gateway_shed_total").await > 0
        }
    })
    .await;
    for _ in 0..20 {
        publisher.publish("open:a", fill.clone()).await.unwrap();
        most = most.max(metric(&stack, "tidegate_gateway_buffered_bytes").await);
        assert_eq!(publisher.rpc("echo", "1").await.unwrap(), "1", "others are answered");
    }
    // Two outboxes may take the last bytes at the same moment.
    assert!(most <= (4 << 20) + 200_000, "{most}");
    assert!(metric(&stack, "tidegate_gateway_disconnects_total{code=\"3008\"}").await > 0);
    drop(stuck);
    eventually("nothing waits any more", || async {
        metric(&stack, "tidegate_gateway_buffered_bytes").await == 0
    })
    .await;
    nothing_panicked(&stack);
}
