//! The address of a client behind a proxy, and the connections of one address.

use tidegate_cli::stack::Stack;

use crate::{
    limits::metric,
    socket::{Socket, TEXT, frame},
    stream_client::{StreamClient, connect_command},
    support::{eventually, nothing_panicked, start},
};

/// A stack whose gateway takes this machine for its proxy, or for a client.
async fn behind_a_proxy(trusted: bool, per_address: usize) -> Stack {
    let trusted = if trusted { "trusted_proxies = ['127.0.0.0/8', '10.0.0.0/8']\n" } else { "" };
    let toml = format!(
        "[log]\nlevel = 'info,tidegate_gateway::connection=debug'\n[gateway]\nanswer_timeout = '1s'\n{trusted}[gateway.limits]\nconnections_per_address = {per_address}\n{}",
        crate::support::TOML
    );
    start(Stack::builder().config(&toml).gateways(1)).await
}

/// The status of a handshake with this header, and nothing else open.
async fn status(stack: &Stack, forwarded: &str) -> u16 {
    let request = format!(
        "GET /connection/websocket HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         x-forwarded-for: {forwarded}\r\n\r\n"
    );
    StreamClient::open(stack.gateways()[0].public, request.as_bytes()).await.status
}

async fn open(stack: &Stack, forwarded: &str) -> Socket {
    Socket::open_with(stack, &format!("x-forwarded-for: {forwarded}\r\n")).await
}

#[tokio::test]
async fn an_address_behind_a_proxy_has_as_many_connections_as_the_limit() {
    let stack = behind_a_proxy(true, 2).await;
    let (first, _second) = (open(&stack, "198.51.100.1").await, open(&stack, "198.51.100.1").await);
    assert_eq!(status(&stack, "198.51.100.1").await, 429);
    assert_eq!(status(&stack, "198.51.100.2, 198.51.100.1, 10.0.0.9").await, 429, "behind two proxies");
    assert_eq!(
        status(&stack, "198.51.100.1, 198.51.100.2").await,
        101,
        "the proxy's word counts, not the client's"
    );
    let _networks = (open(&stack, "2001:db8::1").await, open(&stack, "2001:db8::2").await);
    assert_eq!(status(&stack, "2001:db8:0:0:ffff::3").await, 429, "one customer's network");
    assert_eq!(status(&stack, "2001:db8:0:1::1").await, 101);
    drop(first);
    eventually("the seat of the ended connection is free", || async {
        status(&stack, "198.51.100.1").await == 101
    })
    .await;
    for _ in 0..5 {
        // Those of proxies themselves, such as their checks, are not limited.
        assert_eq!(status(&stack, "").await, 101);
    }
    assert!(metric(&stack, "tidegate_gateway_connections_refused_total{reason=\"address\"}").await >= 3);
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_stream_counts_for_its_address_until_it_ends() {
    let stack = behind_a_proxy(true, 1).await;
    let public = stack.gateways()[0].public;
    let connect = connect_command(&stack, "42");
    let request = format!(
        "POST /connection/http_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         x-forwarded-for: 198.51.100.1\r\ncontent-length: {}\r\n\r\n{connect}",
        connect.len()
    );
    let stream = StreamClient::open(public, request.as_bytes()).await;
    assert_eq!((stream.status, status(&stack, "198.51.100.1").await), (200, 429));
    drop(stream);
    eventually("the seat of the ended stream is free", || async {
        status(&stack, "198.51.100.1").await == 101
    })
    .await;
}

#[tokio::test]
async fn what_others_than_proxies_say_about_their_address_is_ignored() {
    let stack = behind_a_proxy(false, 2).await;
    let mut first = open(&stack, "198.51.100.1").await;
    let _second = open(&stack, "198.51.100.2").await;
    assert_eq!(status(&stack, "198.51.100.3").await, 429, "all of them are this machine");
    first.write(&frame(TEXT, connect_command(&stack, "42").as_bytes())).await;
    assert!(first.replies(1).await[0].get("connect").is_some(), "existing connections are served");
    eventually("the way out is logged", || async {
        stack.log_of("gateway-1").contains("add it to gateway.trusted_proxies")
    })
    .await;
    let log = stack.log_of("gateway-1");
    assert!(!log.contains("198.51.100.1"), "{log}");
}

#[tokio::test]
async fn the_log_has_the_address_of_the_client() {
    let stack = behind_a_proxy(true, 2).await;
    let mut socket = open(&stack, "198.51.100.77").await;
    socket.write(&frame(TEXT, connect_command(&stack, "42").as_bytes())).await;
    socket.replies(1).await;
    eventually("the address is logged", || async { stack.log_of("gateway-1").contains("198.51.100.77") })
        .await;
}
