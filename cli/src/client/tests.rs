//! Tests of the client against a scripted gateway.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tidegate_shared::protocol::{
    Command, ConnectResult, Error, Message as Push, Publication, Reply, RpcResult, json,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{Message, protocol::CloseFrame},
};

use super::*;

/// The gateway's side of one connection.
struct FakeGateway(WebSocketStream<TcpStream>);

impl FakeGateway {
    /// Takes the next connection and answers its connect command.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut gateway = Self(accept_async(stream).await.unwrap());
        let connect = gateway.commands().await.remove(0);
        assert!(connect.connect.is_some());
        let connected = ConnectResult {
            client: "gw.1".into(),
            version: "1".into(),
            ping: 25,
            pong: true,
            ..Default::default()
        };
        gateway.say([Reply { id: connect.id, connect: Some(connected), ..Reply::default() }]).await;
        gateway
    }

    async fn commands(&mut self) -> Vec<Command> {
        let message = self.0.next().await.unwrap().unwrap();
        json::decode(message.to_text().unwrap()).map(Result::unwrap).collect()
    }

    async fn say(&mut self, replies: impl IntoIterator<Item = Reply>) {
        let documents: Vec<_> = replies
            .into_iter()
            .map(|reply| String::from_utf8(json::encode(&reply).unwrap().to_vec()).unwrap())
            .collect();
        self.0.send(Message::text(documents.join("\n"))).await.unwrap();
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.0.send(Message::Close(Some(frame))).await.unwrap();
    }
}

fn answer(id: u32, data: &'static str) -> Reply {
    Reply { id, rpc: Some(RpcResult { data: Bytes::from_static(data.as_bytes()) }), ..Reply::default() }
}

async fn listen() -> (TcpListener, Options) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options::new(format!("ws://{}/connection/websocket", listener.local_addr().unwrap()));
    (listener, options)
}

/// Runs a gateway's script beside a client's.
async fn with_gateway<S, C, R>(
    server: impl FnOnce(FakeGateway) -> S,
    client: impl FnOnce(Client, Events) -> C,
) -> R
where
    S: Future<Output = ()>,
    C: Future<Output = R>,
{
    let (listener, options) = listen().await;
    // Boxed: scripts hold whole replies, one for every verb.
    let server = Box::pin(async { server(FakeGateway::accept(&listener).await).await });
    let client = async {
        let (handle, events) = Client::connect(options).await.unwrap();
        client(handle, events).await
    };
    let both = async { tokio::join!(server, client).1 };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap()
}

#[tokio::test]
async fn replies_match_their_calls_in_any_order_and_concurrent_calls_share_a_message() {
    let script = |mut gateway: FakeGateway| async move {
        let commands = gateway.commands().await;
        assert_eq!(commands.len(), 3);
        let replies = commands.iter().rev().map(|c| Reply {
            id: c.id,
            rpc: Some(RpcResult { data: c.rpc.clone().unwrap().data }),
            ..Reply::default()
        });
        gateway.say(replies).await;
    };
    with_gateway(script, |client, _events| async move {
        let calls = tokio::join!(client.rpc("a", "1"), client.rpc("a", "2"), client.rpc("a", "3"));
        assert_eq!(calls, (Ok("1".into()), Ok("2".into()), Ok("3".into())));
        assert_eq!(client.stray_replies(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_second_reply_is_counted_and_a_late_one_is_not() {
    let script = |mut gateway: FakeGateway| async move {
        let first = gateway.commands().await.remove(0);
        let second = gateway.commands().await.remove(0);
        gateway.say([answer(first.id, "1"), answer(second.id, "2"), answer(second.id, "2")]).await;
        gateway.close(3001, "shutdown").await;
    };
    with_gateway(script, |client, mut events| async move {
        let late = client.rpc_timeout("a", "1", Duration::from_millis(20)).await;
        assert_eq!(late, Err(CallError::Timeout));
        assert_eq!(client.rpc("a", "2").await, Ok("2".into()));
        assert!(matches!(events.next().await, Some(Event::Disconnected(_))));
        assert_eq!(client.stray_replies(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_ping_is_answered_with_a_pong() {
    let script = |mut gateway: FakeGateway| async move {
        gateway.say([Reply::ping()]).await;
        assert_eq!(gateway.commands().await, [Command::default()]);
        gateway.close(3001, "shutdown").await;
    };
    with_gateway(script, |client, mut events| async move {
        assert!(matches!(events.next().await, Some(Event::Disconnected(_))));
        assert!(client.closed().is_some());
    })
    .await;
}

#[tokio::test]
async fn pending_and_later_calls_fail_with_the_close_reason() {
    let script = |mut gateway: FakeGateway| async move {
        gateway.commands().await;
        gateway.close(3008, "slow").await;
    };
    with_gateway(script, |client, _events| async move {
        let closed = Closed { code: 3008, reason: "slow".into() };
        assert_eq!(client.rpc("a", "1").await, Err(closed.clone().into()));
        assert_eq!(client.rpc("a", "1").await, Err(closed.into()));
    })
    .await;
}

#[tokio::test]
async fn more_events_than_fit_are_all_delivered_in_order() {
    let publication =
        |offset| Reply::publication("c", Publication { data: "1".into(), offset, ..Publication::default() });
    let script = |mut gateway: FakeGateway| async move {
        gateway.say((1..=600).map(publication)).await;
        let push = tidegate_shared::protocol::Push {
            message: Some(Push { data: "2".into() }),
            ..Default::default()
        };
        gateway.say([Reply { push: Some(push), ..Reply::default() }]).await;
        gateway.commands().await;
    };
    with_gateway(script, |client, mut events| async move {
        for expected in 1..=600 {
            let event = events.next().await;
            assert!(
                matches!(event, Some(Event::Publication { offset, .. }) if offset == expected),
                "{event:?}"
            );
        }
        assert_eq!(events.next().await, Some(Event::Message { data: "2".into() }));
        client.send("3").await.unwrap();
        client.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_keyed_call_is_answered_by_the_second_gateway_when_the_first_dies() {
    let ((first, options), (second, other)) = (listen().await, listen().await);
    let urls = vec![options.url.clone(), other.url];
    let (session, mut events) =
        ReconnectingClient::start(ReconnectOptions { connection: options, urls, channels: Vec::new() });
    let gateways = async {
        let mut gateway = FakeGateway::accept(&first).await;
        let command = gateway.commands().await.remove(0);
        let busy = Error { code: 1001, message: "accepted, still working".into(), temporary: true };
        gateway.say([Reply::error(command.id, busy)]).await;
        let again = gateway.commands().await.remove(0);
        assert_eq!(again.rpc, command.rpc);
        drop(gateway);
        let mut gateway = FakeGateway::accept(&second).await;
        let last = gateway.commands().await.remove(0);
        assert_eq!(last.rpc.unwrap().method, "orders.place#7f3c");
        gateway.say([answer(last.id, "true")]).await;
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let (answered, ()) = tokio::join!(session.call_keyed("orders.place", "7f3c", "{}", deadline), gateways);
    assert_eq!(answered, Ok(KeyedAnswer { data: "true".into(), tries: 3 }));
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    assert!(matches!(events.next().await, Some(Event::Disconnected(_))));
}

#[tokio::test]
async fn a_session_does_not_reconnect_after_a_final_close() {
    let (listener, options) = listen().await;
    let urls = vec![options.url.clone()];
    let (session, _events) =
        ReconnectingClient::start(ReconnectOptions { connection: options, urls, channels: Vec::new() });
    let gateway = async {
        FakeGateway::accept(&listener).await.close(3500, "invalid token").await;
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let call = async {
        loop {
            match session.client(deadline).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    };
    let (error, ()) = tokio::join!(call, gateway);
    assert_eq!(error, Closed { code: 3500, reason: "invalid token".into() }.into());
}
