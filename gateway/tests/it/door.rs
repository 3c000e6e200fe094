//! Requests at the door that standards or proxies read in one way only: each is refused with the reason that is true.

use tidegate_cli::stack::Stack;
use tokio::io::AsyncWriteExt;

use crate::socket::Socket;
use crate::stream_client::StreamClient;
use crate::support::{connect, eventually, http, nothing_panicked, quick, start};

const UPGRADE: &str = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n";
const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn one_gateway() -> Stack {
    start(quick("").gateways(1)).await
}

#[tokio::test]
async fn a_client_of_another_version_is_told_the_version() {
    let stack = one_gateway().await;
    let public = stack.gateways()[0].public;
    for version in ["", "sec-websocket-version: 8\r\n", "sec-websocket-version: 14\r\n"] {
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{version}{KEY}\r\n"
        );
        let answer = StreamClient::open(public, request.as_bytes()).await;
        assert_eq!(answer.status, 426);
        assert!(answer.head.contains("sec-websocket-version: 13\r\n"), "{}", answer.head);
    }
}

#[tokio::test]
async fn a_handshake_has_no_body_a_list_of_words_and_a_host_that_can_be_one() {
    let stack = one_gateway().await;
    let public = stack.gateways()[0].public;
    let ask = |target: &'static str, host: &'static str, more: &'static str| async move {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {host}\r\nsec-websocket-version: 13\r\n{KEY}{more}\r\nhello"
        );
        StreamClient::open(public, request.as_bytes()).await.status
    };
    let path = "/connection/websocket";
    assert_eq!(ask(path, "gate.example.com:8000", UPGRADE).await, 101);
    assert_eq!(ask(path, "[::1]:8000", "connection: upgrade\r\nupgrade: foo, WebSocket\r\n").await, 101);
    assert_eq!(ask("http://x/connection/websocket", "x", UPGRADE).await, 101);
    for (target, host, more, status) in [
        (path, "x", "connection: upgraded\r\nupgrade: websocket\r\n", 426),
        (path, "x", "connection: upgrade\r\nupgrade: websockets\r\n", 426),
        (path, "x", "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n", 400),
        (path, "x", "connection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n", 400),
        (path, "a b", UPGRADE, 400),
        (path, "user@x", UPGRADE, 400),
        (path, "[::1", UPGRADE, 400),
        (path, "x/y", UPGRADE, 400),
        (path, "x:99999", UPGRADE, 400),
        (path, "x:port", UPGRADE, 400),
        (path, "\u{fc}", UPGRADE, 400),
        ("http://other/connection/websocket", "x", UPGRADE, 400),
    ] {
        assert_eq!(ask(target, host, more).await, status, "{target}, {host}, {more}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_body_is_refused_for_the_reason_that_is_true_and_before_it_is_sent() {
    let stack = one_gateway().await;
    let gateway = &stack.gateways()[0];
    let paths = [
        (gateway.public, "/connection/http_stream", ""),
        (gateway.public, "/connection/sse", ""),
        (gateway.public, "/emulation", ""),
        (gateway.internal, "/api/info", "x-api-key: dev-api-key\r\n"),
    ];
    for (address, path, key) in paths {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{key}");
        let (status, text) =
            http(address, &format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n")).await;
        assert!(status == 400 && text.contains("chunks are malformed"), "{path}: {status} {text}");
        // Nothing of the body is sent, so that an answer can only come from its length.
        let (status, text) = http(address, &format!("{head}content-length: 99999999999\r\n\r\n")).await;
        assert!(status == 413 && text.contains("longer than"), "{path}: {status} {text}");
        let expects = format!("{head}expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n");
        assert_eq!(http(address, &expects).await.0, 413, "{path}");
    }
}

#[tokio::test]
async fn a_content_type_is_compared_as_a_media_type() {
    let stack = one_gateway().await;
    for kind in
        ["application/octet-stream", "APPLICATION/Octet-Stream", "application/octet-stream; charset=binary"]
    {
        let request = format!(
            "POST /connection/http_stream HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let answer = StreamClient::open(stack.gateways()[0].public, request.as_bytes()).await;
        assert!(answer.head.contains("content-type: application/octet-stream"), "{kind}: {}", answer.head);
    }
}

#[tokio::test]
async fn a_wrong_method_says_so_and_two_keys_are_none() {
    let stack = one_gateway().await;
    let gateway = &stack.gateways()[0];
    for (address, request) in [
        (gateway.public, "GET /connection/http_stream"),
        (gateway.public, "POST /connection/websocket"),
        (gateway.internal, "GET /api/info"),
    ] {
        let request =
            format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let answer = StreamClient::open(address, request.as_bytes()).await;
        assert!(answer.status == 405 && answer.head.contains("\r\nallow: "), "{}", answer.head);
        assert!(http(address, &request).await.1.contains("header Allow"), "{request}");
    }
    let keys = "x-api-key: dev-api-key\r\nx-api-key: other\r\n";
    let request =
        format!("POST /api/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{keys}content-length: 0\r\n\r\n");
    assert_eq!(http(gateway.internal, &request).await.0, 401);
}

#[tokio::test]
async fn a_socket_that_is_cut_is_logged_as_that_and_not_as_a_broken_protocol() {
    let log = "[log]\nlevel = 'info,tidegate_gateway::connection=debug'";
    let stack = start(quick(log).gateways(1)).await;
    let (bystander, _events) = connect(&stack, 0, "bystander").await;
    let mut socket = Socket::open(&stack).await;
    socket.tcp.shutdown().await.unwrap();
    drop(socket);
    eventually("the end of the socket is logged", || async {
        stack.log().lines().any(|line| line.contains("disconnected") && line.contains("the socket ended"))
    })
    .await;
    assert!(!stack.log().contains("protocol error"), "{}", stack.log());
    bystander.subscribe("chat:calm").await.unwrap();
}
