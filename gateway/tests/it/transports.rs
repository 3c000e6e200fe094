//! The transports beside the WebSocket: streaming responses, and commands in separate requests.

use std::net::SocketAddr;

use serde_json::json;
use tidegate_cli::stack::Stack;
use tidegate_shared::protocol::{Command, ConnectRequest, EmulationRequest, RpcRequest, protobuf};

use crate::{
    stream_client::{Emulated, StreamClient, connect_command, emulate, once, post, query},
    support::{connect, eventually, get, http, nothing_panicked, quick, start, token},
};

fn public(stack: &Stack, gateway: usize) -> SocketAddr {
    stack.gateways()[gateway].public
}

async fn connections(stack: &Stack) -> String {
    let (_, page) = get(stack, "/metrics").await;
    let line = page.lines().find(|line| line.starts_with("tidegate_gateway_connections "));
    line.and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_stream_carries_a_conversation_whose_commands_may_go_to_any_gateway() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let (other, _events) = connect(&stack, 1, "43").await;
    let command = connect_command(&stack, "42");
    let gateway = public(&stack, 0);
    for stream in [
        StreamClient::post(gateway, "/connection/http_stream", &command).await,
        StreamClient::get(gateway, &format!("/connection/sse?x=1&cf_connect={}", query(&command))).await,
        StreamClient::post(gateway, "/connection/sse", &command).await,
    ] {
        let mut client = Emulated::of(stream).await;
        for (id, gateway) in [(2, gateway), (3, public(&stack, 1))] {
            let rpc = json!({"id": id, "rpc": {"method": "echo", "data": {"a": "\"quoted\""}}}).to_string();
            assert_eq!(client.say(gateway, &rpc).await, 204);
            let answer = client.stream.message().await.unwrap();
            assert_eq!(answer, json!({"id": id, "rpc": {"data": {"a": "\"quoted\""}}}));
        }
        let two = "{\"id\":4,\"subscribe\":{\"channel\":\"chat:a\"}}\n{\"id\":5,\"unsubscribe\":{\"channel\":\"x\"}}";
        assert_eq!(client.say(public(&stack, 1), two).await, 204);
        let mut ids = [0, 0];
        for id in &mut ids {
            *id = client.stream.message().await.unwrap()["id"].as_u64().unwrap();
        }
        ids.sort_unstable();
        assert_eq!(ids, [4, 5]);
        other.publish("chat:a", "\"hi\"").await.unwrap();
        let push = client.stream.message().await.unwrap();
        assert_eq!(push["push"]["pub"]["data"], "hi", "{push}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_stream_speaks_protobuf_too() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let connect = ConnectRequest { token: token(&stack, "42"), ..ConnectRequest::default() };
    let batch = |command: &Command| {
        let mut frame = bytes::BytesMut::new();
        protobuf::append(&mut frame, &protobuf::encode(command));
        frame.freeze()
    };
    let hello = batch(&Command { id: 1, connect: Some(connect), ..Command::default() });
    let request = post("/connection/http_stream", "application/octet-stream", &hello);
    let mut stream = StreamClient::open(public(&stack, 0), &request).await;
    assert!(stream.head.contains("content-type: application/octet-stream"), "{}", stream.head);
    let connected = stream.reply().await.connect.unwrap();
    let rpc = RpcRequest { method: "echo".into(), data: "\u{1}bytes".into() };
    let data = batch(&Command { id: 2, rpc: Some(rpc), ..Command::default() });
    let body = protobuf::encode(&EmulationRequest { node: connected.node, session: connected.session, data });
    for gateway in [0, 1] {
        let answer = once(public(&stack, gateway), "/emulation", "application/octet-stream", &body).await;
        assert_eq!(answer.0, 204);
        assert_eq!(stream.reply().await.rpc.unwrap().data, "\u{1}bytes");
    }
}

#[tokio::test]
async fn streams_tell_proxies_not_to_buffer() {
    let stack = start(quick("").gateways(1)).await;
    let command = connect_command(&stack, "42");
    let mut events = StreamClient::post(public(&stack, 0), "/connection/sse", &command).await;
    for header in [
        "content-type: text/event-stream; charset=utf-8",
        "x-accel-buffering: no",
        "cache-control: private, no-cache, no-store, must-revalidate, max-age=0",
        "pragma: no-cache",
        "expire: 0",
        "transfer-encoding: chunked",
    ] {
        assert!(events.head.contains(&format!("{header}\r\n")), "{header} is not in {}", events.head);
    }
    while events.body.len() < 10 {
        assert!(events.chunk().await);
    }
    assert!(events.body.starts_with(b"\r\ndata: {"), "{:?}", String::from_utf8_lossy(&events.body));
    assert!(events.body.ends_with(b"}\n\n"));
}

#[tokio::test]
async fn commands_for_an_unknown_session_are_refused() {
    let stack = start(quick("[gateway.limits]\nmessage = '2 KiB'").gateways(2)).await;
    let client = Emulated::connect(&stack, "42").await;
    let (here, elsewhere) = (public(&stack, 0), public(&stack, 1));
    let Emulated { node, session, .. } = &client;
    for gateway in [here, elsewhere] {
        assert_eq!(emulate(gateway, node, "nobody", "{}").await.0, 404);
        assert_eq!(emulate(gateway, "nowhere", session, "{}").await.0, 404);
        for node in ["*", ">", "a.b", "a b", "\u{0}"] {
            assert_eq!(emulate(gateway, node, session, "{}").await.0, 404, "{node:?}");
        }
        for body in ["", "{", "[]", "{}", "{\"node\":1}", "{\"node\":\"a\",\"session\":\"b\",\"data\":{}}"] {
            assert_eq!(
                once(gateway, "/emulation", "application/json", body.as_bytes()).await.0,
                400,
                "{body}"
            );
        }
        assert_eq!(once(gateway, "/emulation", "application/octet-stream", b"\x0a\x7f").await.0, 400);
        for length in [2049, 100_000] {
            assert_eq!(emulate(gateway, node, session, &"x".repeat(length)).await.0, 413, "{length}");
        }
    }
    let plain = "GET /emulation HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(http(here, plain).await.0, 405);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_stream_says_why_it_ends() {
    let stack = start(quick("[gateway.limits]\nmessage = '2 KiB'\nfirst_frame = '1s'").gateways(1)).await;
    let gateway = public(&stack, 0);
    for (first, code) in [
        ("{\"id\":1,\"rpc\":{\"method\":\"echo\"}}", 3501),
        ("nonsense", 3501),
        ("{\"id\":1,\"connect\":{}}", 3501),
        ("{\"id\":1,\"connect\":{\"token\":\"nonsense\"}}", 3500),
    ] {
        for path in ["/connection/http_stream", "/connection/sse"] {
            let mut stream = StreamClient::post(gateway, path, first).await;
            assert_eq!(stream.status, 200);
            let end = stream.end().await;
            assert_eq!(end["push"]["disconnect"]["code"], code, "{first}: {end}");
        }
    }
    let client = Emulated::connect(&stack, "42").await;
    assert_eq!(client.say(gateway, "nonsense").await, 204);
    let mut stream = client.stream;
    assert_eq!(stream.end().await, json!({"push": {"disconnect": {"code": 3501, "reason": "bad request"}}}));
    for (path, body, status) in [
        ("/connection/http_stream", "", 400),
        ("/connection/sse", "", 400),
        ("/connection/http_stream", "x".repeat(2049).as_str(), 413),
        ("/connection/uni_sse", "x".repeat(2049).as_str(), 413),
    ] {
        assert_eq!(once(gateway, path, "application/json", body.as_bytes()).await.0, status, "{path}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_missing_request_body_ends_at_the_deadline() {
    let stack = start(quick("[gateway.limits]\nfirst_frame = '1s'").gateways(1)).await;
    let head = "POST /connection/http_stream HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    assert_eq!(StreamClient::open(public(&stack, 0), head.as_bytes()).await.status, 408);
}

#[tokio::test]
async fn only_pages_that_may_connect_can_use_the_streams() {
    let origins = r#"["https://app.example.com"]"#;
    let stack = start(quick("").gateways(1).variable("gateway", "TIDEGATE_GATEWAY__ORIGINS", origins)).await;
    let gateway = public(&stack, 0);
    let paths = ["/connection/http_stream", "/connection/sse", "/connection/uni_sse", "/emulation"];
    for path in paths {
        for method in ["POST", "OPTIONS"] {
            let foreign = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\norigin: https://evil.example.com\r\ncontent-length: 0\r\n\r\n"
            );
            let refused = StreamClient::open(gateway, foreign.as_bytes()).await;
            assert_eq!(refused.status, 403, "{method} {path}");
            assert!(!refused.head.contains("access-control-allow-origin"), "{}", refused.head);
        }
        let preflight = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: x\r\norigin: https://app.example.com\r\n\
             access-control-request-headers: content-type,x-mine\r\n\r\n"
        );
        let allowed = StreamClient::open(gateway, preflight.as_bytes()).await;
        assert_eq!(allowed.status, 204, "{path}");
        for header in ["origin: https://app.example.com", "headers: content-type,x-mine", "methods: "] {
            assert!(allowed.head.contains(&format!("access-control-allow-{header}")), "{}", allowed.head);
        }
    }
    let connect = connect_command(&stack, "42");
    let own = post(
        "/connection/http_stream",
        "application/json\r\norigin: https://app.example.com",
        connect.as_bytes(),
    );
    let stream = StreamClient::open(gateway, &own).await;
    assert!(
        stream.head.contains("access-control-allow-origin: https://app.example.com\r\n"),
        "{}",
        stream.head
    );
    Emulated::of(stream).await;
}

#[tokio::test]
async fn a_closed_stream_leaves_no_connection_behind() {
    let stack = start(quick("[gateway.limits]\nconnections = 3").gateways(1)).await;
    let gateway = public(&stack, 0);
    let client = Emulated::connect(&stack, "42").await;
    let silent =
        StreamClient::post(gateway, "/connection/uni_sse", &json!({"token": token(&stack, "1")}).to_string())
            .await;
    eventually("both are counted", || async { connections(&stack).await == "2" }).await;
    let third = Emulated::connect(&stack, "42").await;
    let full = StreamClient::get(gateway, "/connection/sse").await;
    assert_eq!(full.status, 503, "streams hold their places");
    let Emulated { node, session, stream } = client;
    drop((stream, silent, third));
    eventually("nobody is left", || async { connections(&stack).await == "0" }).await;
    eventually("the session is over", || async { emulate(gateway, &node, &session, "{}").await.0 == 404 })
        .await;
}

#[tokio::test]
async fn a_ping_is_answered_by_post_or_the_stream_ends() {
    let pings = quick("").gateways(2).variable("gateway", "TIDEGATE_GATEWAY__PING_INTERVAL", "1s").variable(
        "gateway",
        "TIDEGATE_GATEWAY__PONG_TIMEOUT",
        "800ms",
    );
    let stack = start(pings).await;
    let mut client = Emulated::connect(&stack, "42").await;
    for gateway in [1, 0] {
        assert_eq!(client.stream.line().await.unwrap(), "{}");
        assert_eq!(client.say(public(&stack, gateway), "{}").await, 204);
    }
    let end = client.stream.end().await;
    assert_eq!(end["push"]["disconnect"]["code"], 3012, "{end}");
}

#[tokio::test]
async fn a_stream_client_that_does_not_read_is_disconnected() {
    let stack = start(quick("[gateway.limits]\noutbox = '64 KiB'").gateways(1)).await;
    let (publisher, _events) = connect(&stack, 0, "43").await;
    let client = Emulated::connect(&stack, "42").await;
    client.say(public(&stack, 0), r#"{"id":2,"subscribe":{"channel":"chat:a"}}"#).await;
    let long = format!("\"{}\"", "x".repeat(30_000));
    // More than the kernel buffers for a socket that is not read.
    eventually("it is given up", || async {
        for _ in 0..50 {
            publisher.publish("chat:a", long.clone()).await.unwrap();
        }
        get(&stack, "/metrics").await.1.contains(r#"tidegate_gateway_disconnects_total{code="3008"} 1"#)
    })
    .await;
    eventually("and gone", || async { connections(&stack).await == "1" }).await;
    assert_eq!(client.say(public(&stack, 0), "{}").await, 404);
}

#[tokio::test]
async fn a_draining_gateway_ends_its_streams() {
    let stack = start(quick("").gateways(1)).await;
    let gateway = public(&stack, 0);
    let Emulated { mut stream, .. } = Emulated::connect(&stack, "42").await;
    let request = json!({"token": token(&stack, "43")}).to_string();
    let mut silent = StreamClient::post(gateway, "/connection/uni_http_stream", &request).await;
    assert!(silent.message().await.unwrap()["connect"].is_object());
    // An idle socket whose response is complete must not delay the gateway either.
    let idle = StreamClient::post(gateway, "/emulation", "{}").await;
    let stopping = tokio::time::Instant::now();
    let (status, end, silent_end) = tokio::join!(stack.stop("gateway-1"), stream.end(), silent.end());
    assert!(status.unwrap().success());
    assert!(stopping.elapsed() < std::time::Duration::from_secs(3), "{:?}", stopping.elapsed());
    let shutdown = json!({"disconnect": {"code": 3001, "reason": "shutdown"}});
    assert_eq!((end, silent_end), (json!({"push": shutdown}), shutdown));
    drop(idle);
    nothing_panicked(&stack);
}
