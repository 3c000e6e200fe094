//! One-way clients: pushes without an enclosing reply, and channels requested in the connect request.

use std::time::{Duration, SystemTime};

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_cli::{
    client::{Options, raw::RawClient},
    stack::Stack,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    stream_client::{StreamClient, query},
    support::{PATIENCE, connect, fresh, kept_toml, nothing_panicked, quick, service, start, token, url},
};

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// One of the three transports.
enum Listener {
    Stream(StreamClient),
    Socket(Box<Socket>),
}

impl Listener {
    async fn all(stack: &Stack, request: &Value) -> Vec<(&'static str, Self)> {
        let (gateway, request) = (stack.gateways()[0].public, request.to_string());
        let target = |path| format!("{path}?cf_connect={}", query(&request));
        vec![
            ("GET uni_sse", Self::Stream(StreamClient::get(gateway, &target("/connection/uni_sse")).await)),
            ("uni_sse", Self::Stream(StreamClient::post(gateway, "/connection/uni_sse", &request).await)),
            (
                "uni_http_stream",
                Self::Stream(StreamClient::post(gateway, "/connection/uni_http_stream", &request).await),
            ),
            ("uni_websocket", Self::socket(stack, "", Some(&request)).await),
            (
                "uni_websocket with a query",
                Self::socket(stack, &format!("?cf_connect={}", query(&request)), None).await,
            ),
        ]
    }

    async fn socket(stack: &Stack, query: &str, first: Option<&str>) -> Self {
        use futures_util::SinkExt;
        let address = url(stack, 0).replace("/websocket", "/uni_websocket");
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("{address}{query}")).await.unwrap();
        if let Some(first) = first {
            socket.send(Message::text(first)).await.unwrap();
            socket.send(Message::text("whatever else it says")).await.unwrap();
        }
        Self::Socket(Box::new(socket))
    }

    /// Returns the next push other than a ping, or `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.any().await {
                Some(ping) if ping == json!({}) => {}
                other => return other,
            }
        }
    }

    /// Returns the next push, pings included, or `None` at the end.
    async fn any(&mut self) -> Option<Value> {
        match self {
            Self::Stream(stream) => stream.line().await.map(|line| serde_json::from_str(&line).unwrap()),
            Self::Socket(socket) => {
                use futures_util::StreamExt;
                let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap()?.unwrap();
                match message {
                    Message::Text(text) => Some(serde_json::from_str(&text).unwrap()),
                    Message::Close(_) => None,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_one_way_client_gets_its_id_and_its_subscriptions() {
    let stack = start(quick("").gateways(1)).await;
    let (publisher, _events) = connect(&stack, 0, "43").await;
    let nats = service(&stack).await;
    let request = json!({
        "token": token(&stack, "42"),
        "subs": {"chat:a": {}, "chat:b": {}, "nowhere:a": {}, "#43": {}},
    });
    let mut listeners = Vec::new();
    for (transport, mut listener) in Listener::all(&stack, &request).await {
        let connect = listener.next().await.unwrap()["connect"].clone();
        let subs: Vec<&String> = connect["subs"].as_object().unwrap().keys().collect();
        assert_eq!(subs, ["#42", "chat:a", "chat:b"], "{transport}: what is refused is left out");
        assert_eq!(connect["pong"], Value::Null, "{transport}");
        assert!(connect["ping"].as_u64().unwrap() > 0, "{transport}");
        assert_eq!((&connect["session"], &connect["node"]), (&Value::Null, &Value::Null), "{transport}");
        listeners.push((transport, listener, connect["client"].as_str().unwrap().to_owned()));
    }
    publisher.publish("chat:a", "{\"n\":1}").await.unwrap();
    for (transport, mut listener, client) in listeners {
        let push = listener.next().await.unwrap();
        assert_eq!(
            (&push["channel"], &push["pub"]["data"]),
            (&json!("chat:a"), &json!({"n": 1})),
            "{transport}"
        );
        nats.publish(format!("tide.push.client.{client}"), "1".into()).await.unwrap();
        assert_eq!(listener.next().await.unwrap(), json!({"message": {"data": 1}}), "{transport}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_one_way_client_with_a_position_recovers_its_backlog() {
    let kept = "[[namespace]]\nname = 'kept'\nallow_subscribe = 'authenticated'\nallow_publish = 'authenticated'\n\
                history_size = 20\n";
    let stack = start(quick(kept).gateways(1)).await;
    let (publisher, _events) = connect(&stack, 0, "43").await;
    publisher.publish("kept:a", "0").await.unwrap();
    let request = |sub: Value| json!({"token": token(&stack, "42"), "subs": {"kept:a": sub}});
    for (transport, mut listener) in Listener::all(&stack, &request(json!({}))).await {
        let connect = listener.next().await.unwrap()["connect"].clone();
        let position = connect["subs"]["kept:a"].clone();
        assert_eq!(position["recoverable"], true, "{transport}: {connect}");
        drop(listener);
        publisher.publish("kept:a", "\"missed\"").await.unwrap();
        let left = json!({"recover": true, "offset": position["offset"], "epoch": position["epoch"]});
        for (again, mut listener) in Listener::all(&stack, &request(left)).await {
            let connect = listener.next().await.unwrap()["connect"].clone();
            let result = &connect["subs"]["kept:a"];
            assert_eq!(result["recovered"], true, "{again}: {connect}");
            assert_eq!(result["publications"][0]["data"], "missed", "{again}: {connect}");
        }
    }
}

#[tokio::test]
async fn a_one_way_client_is_pinged_without_an_answer() {
    let pings = quick("").gateways(1).variable("gateway", "TIDEGATE_GATEWAY__PING_INTERVAL", "1s").variable(
        "gateway",
        "TIDEGATE_GATEWAY__PONG_TIMEOUT",
        "300ms",
    );
    let stack = start(pings).await;
    for (transport, mut listener) in Listener::all(&stack, &json!({"token": token(&stack, "42")})).await {
        listener.next().await.unwrap();
        for _ in 0..2 {
            assert_eq!(listener.any().await.unwrap(), json!({}), "{transport}");
        }
    }
}

#[tokio::test]
async fn an_error_of_a_one_way_client_is_sent_as_a_disconnect() {
    let stack = start(quick("").gateways(1)).await;
    let long_ago = SystemTime::now() - Duration::from_hours(2);
    let auth = &stack.config().auth;
    let expired =
        tidegate_cli::token::connection_token(auth, "42", Duration::from_mins(1), long_ago).unwrap();
    for (request, code) in [
        (json!({"token": expired}), 3005),
        (json!({"token": "nonsense"}), 3500),
        (json!({}), 3501),
        (json!("nonsense"), 3501),
        (json!({"token": token(&stack, "42"), "subs": {"": {}}}), 3501),
    ] {
        for (transport, mut listener) in Listener::all(&stack, &request).await {
            let end = listener.next().await.unwrap();
            assert_eq!(end["disconnect"]["code"], code, "{transport}: {request}");
            assert_eq!(listener.next().await, None, "{transport}: {request}");
        }
    }
    let address = url(&stack, 0).replace("/websocket", "/uni_websocket");
    let mut socket = RawClient::open(&Options::new(address)).await.unwrap();
    socket.send_text("nonsense").await.unwrap();
    assert_eq!(socket.expect_close(3501).await.unwrap(), "bad request", "the close frame says it too");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_one_way_client_may_request_as_many_channels_as_commands() {
    let stack = start(quick("[gateway.limits]\ncommands_per_message = 4").gateways(1)).await;
    let subs: serde_json::Map<String, Value> = (0..5).map(|n| (format!("chat:{n}"), json!({}))).collect();
    let request = json!({"token": token(&stack, "42"), "subs": subs}).to_string();
    let gateway = stack.gateways()[0].public;
    let mut stream = StreamClient::post(gateway, "/connection/uni_http_stream", &request).await;
    assert_eq!(stream.end().await["disconnect"]["code"], 3501);
}

#[tokio::test]
async fn a_one_way_client_that_resumes_more_than_its_outbox_holds_receives_all_of_it() {
    const CHANNELS: usize = 6;
    let limits = "[gateway.limits]\noutbox = '64 KiB'\n";
    let stack = start(quick(&format!("{limits}{}", kept_toml(20, ""))).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let begin = fresh(&client, "kept:none").await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    for n in 0..CHANNELS * 3 {
        let subject = format!("tide.ch.kept.{}", n % CHANNELS);
        let data = json!({"n": n, "fill": "x".repeat(5_000)}).to_string();
        nats.publish(subject, data.into()).await.unwrap().await.unwrap();
    }
    let wish = json!({"recover": true, "offset": begin.offset, "epoch": begin.epoch});
    let subs: serde_json::Map<_, _> = (0..CHANNELS).map(|n| (format!("kept:{n}"), wish.clone())).collect();
    for (name, mut listener) in
        Listener::all(&stack, &json!({"token": token(&stack, "42"), "subs": subs})).await
    {
        let told = listener.any().await.unwrap();
        let subs = told["connect"]["subs"].as_object().unwrap_or_else(|| panic!("{name}: {told}"));
        let subs = subs.iter().filter(|(channel, _)| channel.starts_with("kept:"));
        let mut received: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (channel, sub) in subs {
            assert_eq!(sub["recovered"], true, "{name} {channel}");
            let missed = sub["publications"].as_array().cloned().unwrap_or_default();
            received
                .insert(channel.clone(), missed.iter().map(|p| p["data"]["n"].as_u64().unwrap()).collect());
        }
        assert_eq!(received.len(), CHANNELS, "{name}");
        while received.values().map(Vec::len).sum::<usize>() < CHANNELS * 3 {
            let push = listener.next().await.unwrap();
            let number = push["pub"]["data"]["n"].as_u64().unwrap_or_else(|| panic!("{name}: {push}"));
            received.get_mut(push["channel"].as_str().unwrap()).unwrap().push(number);
        }
        for (channel, numbers) in received {
            let first: u64 = channel.trim_start_matches("kept:").parse().unwrap();
            assert_eq!(numbers, [first, first + 6, first + 12], "{name} {channel}");
        }
    }
    nothing_panicked(&stack);
}
