//! The trace of a request: its client's, its service's, or one that the gateway begins.

use std::net::SocketAddr;

use tidegate_cli::stack::Stack;
use tidegate_shared::trace::Trace;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::support::{Hand, connect, quick, raw, start, token};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn requests_of_a_connection_belong_to_the_trace_that_its_client_sent() {
    let stack = start(quick("").gateways(1)).await;
    let hand = Hand::of(&stack, "nobody").await;
    for (headers, trace) in [
        (serde_json::json!({"Traceparent": PARENT, "tracestate": "a=1"}), Trace::parse(PARENT, Some("a=1"))),
        (
            serde_json::json!({"traceparent": PARENT, "tracestate": "\r\nTide-User: 7"}),
            Trace::parse(PARENT, None),
        ),
    ] {
        let mut client = raw(&stack).await;
        let connect =
            serde_json::json!({"id": 1, "connect": {"token": token(&stack, "42"), "headers": headers}});
        client.send_text(&connect.to_string()).await.unwrap();
        assert!(client.reply().await.unwrap().connect.is_some());
        client.send_text(r#"{"id":2,"rpc":{"method":"nobody"}}"#).await.unwrap();
        let (request, message) = hand.take().await;
        assert_eq!(request.trace, trace);
        hand.ack(&message).await;
    }
}

#[tokio::test]
async fn a_request_without_a_trace_begins_one() {
    let stack = start(quick("").gateways(1)).await;
    let hand = Hand::of(&stack, "nobody").await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let mut traces = Vec::new();
    for _ in 0..2 {
        let (mut calling, client) = (JoinSet::new(), client.clone());
        calling.spawn(async move { client.rpc("nobody", "1").await });
        let (request, message) = hand.take().await;
        traces.push(request.trace.expect("a trace").id());
        hand.ack(&message).await;
    }
    assert_ne!(traces[0], traces[1]);
}

#[tokio::test]
async fn a_call_of_the_server_api_continues_its_callers_trace() {
    let toml = "[api]\nkey = \"a-test-key-for-the-api\"\n";
    let stack = start(quick(toml).gateways(1)).await;
    let hand = Hand::of(&stack, "nobody").await;
    let _calling = call(&stack, &format!("traceparent: {PARENT}\r\n")).await;
    let (request, message) = hand.take().await;
    assert_eq!(request.trace, Trace::parse(PARENT, None));
    hand.ack(&message).await;
    // Which of two is meant cannot be said.
    let _calling = call(&stack, &format!("traceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n")).await;
    let (request, message) = hand.take().await;
    assert_ne!(request.trace.expect("a trace").parent(), PARENT);
    hand.ack(&message).await;
}

/// Calls a route over the server API, with these further headers. The answer is not read.
async fn call(stack: &Stack, headers: &str) -> TcpStream {
    let address: SocketAddr = stack.gateways()[0].internal;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = r#"{"method":"nobody"}"#;
    let request = format!(
        "POST /api/rpc HTTP/1.1\r\nhost: x\r\nx-api-key: a-test-key-for-the-api\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}
