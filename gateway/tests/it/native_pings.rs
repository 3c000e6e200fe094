//! Clients without the protocol's pings: the WebSocket's own pings, which every library answers by itself.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tidegate_cli::stack::Stack;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{PATIENCE, eventually, get, quick, start, token, url};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn quick_pings() -> Stack {
    let pings = quick("").gateways(1).workers(1).variable("gateway", "TIDEGATE_GATEWAY__PING_INTERVAL", "1s");
    start(pings.variable("gateway", "TIDEGATE_GATEWAY__PONG_TIMEOUT", "300ms")).await
}

/// A connected client and its connect reply.
async fn open(stack: &Stack) -> (Socket, Value) {
    let address = format!("{}?cf_ws_frame_ping_pong=true", url(stack, 0));
    let (mut socket, _) = connect_async(address).await.unwrap();
    say(&mut socket, &json!({"id": 1, "connect": {"token": token(stack, "42")}})).await;
    let Message::Text(text) = next(&mut socket).await else { panic!("the answer is text") };
    (socket, serde_json::from_str(&text).unwrap())
}

async fn say(socket: &mut Socket, command: &Value) {
    socket.send(Message::text(command.to_string())).await.unwrap();
}

async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn pings_are_frames_and_a_client_that_answers_them_stays() {
    let stack = quick_pings().await;
    let (mut socket, told) = open(&stack).await;
    let connect = &told["connect"];
    assert_eq!((&connect["ping"], &connect["pong"]), (&Value::Null, &Value::Null), "{told}");
    // An unsolicited pong is allowed.
    socket.send(Message::Pong("unasked".into())).await.unwrap();
    for _ in 0..4 {
        assert!(matches!(next(&mut socket).await, Message::Ping(_)), "no other message comes");
    }
    say(&mut socket, &json!({"id": 2, "rpc": {"method": "echo", "data": 7}})).await;
    loop {
        match next(&mut socket).await {
            Message::Ping(_) => {}
            Message::Text(text) => return assert_eq!(text.as_str(), r#"{"id":2,"rpc":{"data":7}}"#),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_them_is_closed_with_3012() {
    let stack = quick_pings().await;
    let (mut socket, _) = open(&stack).await;
    // A client that does not read does not answer either.
    let closed =
        || async { get(&stack, "/metrics").await.1.contains("disconnects_total{code=\"3012\"} 1\n") };
    eventually("the gateway gives the client up", closed).await;
    loop {
        match next(&mut socket).await {
            Message::Ping(_) => {}
            Message::Close(Some(close)) => {
                return assert_eq!((u16::from(close.code), close.reason.as_str()), (3012, "no pong"));
            }
            other => panic!("{other:?}"),
        }
    }
}
