//! Decisions of back ends: connections, subscriptions, publications and their expiry.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tidegate_cli::{
    client::{CallError, Client, ConnectError, Event, Options},
    stack::Stack,
};
use tidegate_shared::protocol::Encoding;

use tokio::task::JoinSet;

use crate::support::{
    PATIENCE, connect, connect_as, event, eventually, get, in_seconds, publication, quick, raw, service,
    start, url,
};

const ASKED: &str = r#"
[hooks]
connect = true
deadline = "400ms"

[[namespace]]
name = "asked"
allow_subscribe = "hook"
allow_publish = "hook"
allow_history = "subscriber"
history_size = 10
"#;

/// A back end that answers the questions about one event and records them. It ends when dropped.
struct BackEnd {
    asked: Arc<Mutex<Vec<Value>>>,
    _task: JoinSet<()>,
}

impl BackEnd {
    /// `decide` returns the answer, or `None` for no answer.
    async fn start(
        stack: &Stack,
        event: &str,
        decide: impl Fn(&Value) -> Option<String> + Send + 'static,
    ) -> Self {
        let client = service(stack).await;
        let mut questions = client.subscribe(format!("tide.hook.{event}")).await.unwrap();
        // This subject has no responder. The broker's answer arrives after it has processed the subscription.
        client.request("tide.push.client.nobody.here", "".into()).await.unwrap_err();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = Arc::clone(&asked);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(message) = questions.next().await {
                let question: Value = serde_json::from_slice(&message.payload).unwrap();
                let answer = decide(&question);
                heard.lock().unwrap().push(question);
                if let (Some(answer), Some(reply)) = (answer, message.reply) {
                    client.publish(reply, answer.into()).await.unwrap();
                }
            }
        });
        Self { asked, _task: task }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a back end answers, if it does")]
fn allow(result: &Value) -> Option<String> {
    Some(json!({ "result": result }).to_string())
}

async fn without_token(stack: &Stack) -> Result<Client, CallError> {
    match Client::connect(Options::new(url(stack, 0))).await {
        Ok((client, _)) => Ok(client),
        Err(ConnectError::Refused(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn refused(error: CallError) -> (u32, bool) {
    match error {
        CallError::Server { code, temporary, .. } => (code, temporary),
        other => panic!("expected an error, got {other}"),
    }
}

#[tokio::test]
async fn a_back_end_decides_about_connections_and_their_subscriptions() {
    let stack = start(quick(ASKED).gateways(1)).await;
    let back_end = BackEnd::start(&stack, "connect", |_| {
        allow(&json!({"user": "42", "info": {"name": "Ada"}, "data": {"plan": "free"},
            "channels": ["chat:x"], "subs": {"asked:y": {"data": [1]}}, "meta": {"ignored": true}}))
    })
    .await;
    let (client, mut events) = Client::connect(Options::new(url(&stack, 0))).await.unwrap();
    let connected = client.connected();
    assert_eq!(&connected.data[..], br#"{"plan":"free"}"#);
    assert!(!connected.expires);
    let subs: Vec<_> = connected.subs.iter().map(|sub| sub.channel.as_str()).collect();
    assert_eq!(subs, ["#42", "asked:y", "chat:x"]);
    client.publish("chat:x", "1").await.unwrap();
    let info = event(&mut events, |event| match event {
        Event::Publication { info, .. } => info,
        _ => None,
    })
    .await;
    assert_eq!((info.user.as_str(), &info.conn_info[..]), ("42", &br#"{"name":"Ada"}"#[..]));
    let asked = back_end.asked();
    let expected = json!({"client": client.id(), "transport": "websocket", "protocol": "json", "encoding": "json",
        "name": "tidegate", "version": tidegate_shared::VERSION});
    assert_eq!(asked, [expected]);
    let (_other, _events) = connect(&stack, 0, "43").await;
    assert_eq!(back_end.asked().len(), 1, "a token needs no decision");
}

#[tokio::test]
async fn without_a_decision_that_allows_it_no_client_connects() {
    let stack = start(quick(ASKED).gateways(1)).await;
    assert_eq!(refused(without_token(&stack).await.unwrap_err()), (100, true), "nobody decides");
    for (answer, code, temporary) in [
        (Some(r#"{"error":{"code":1403,"message":"no"}}"#), 1403, false),
        (Some(r#"{"error":{"code":503,"message":"later","temporary":true}}"#), 503, true),
        (Some(r#"{"error":{"code":5,"message":"not one of ours"}}"#), 100, true),
        (Some("{}"), 100, true),
        (Some("yes"), 100, true),
        (Some(r#"{"result":{"user":"a\nb"}}"#), 100, true),
        (None, 100, true),
    ] {
        let back_end = BackEnd::start(&stack, "connect", move |_| answer.map(str::to_owned)).await;
        assert_eq!(refused(without_token(&stack).await.unwrap_err()), (code, temporary), "{answer:?}");
        assert_eq!(back_end.asked().len(), 1);
        drop(back_end);
        gone(&stack).await;
    }
    let _back_end = BackEnd::start(&stack, "connect", |_| {
        Some(r#"{"disconnect":{"code":4501,"reason":"go away"}}"#.to_owned())
    })
    .await;
    let mut client = raw(&stack).await;
    client.send_text(r#"{"id":1,"connect":{}}"#).await.unwrap();
    assert_eq!(client.expect_close(4501).await.unwrap(), "go away");
    let (_, page) = get(&stack, "/metrics").await;
    for outcome in ["nobody", "late", "refused", "unreadable", "disconnect", "allowed"] {
        let line = format!("tidegate_gateway_hooks_total{{event=\"connect\",outcome=\"{outcome}\"}}");
        assert!(page.contains(&line), "{line} is not in {page}");
    }
}

/// Waits until the back end's subscription is gone.
async fn gone(stack: &Stack) {
    eventually("the back end is gone", || async {
        matches!(without_token(stack).await, Err(CallError::Server { message, .. }) if message.contains("no back end answers"))
    })
    .await;
}

#[tokio::test]
async fn commands_behind_connect_wait_for_the_decision_and_are_answered_in_order() {
    let stack = start(quick(ASKED).gateways(1)).await;
    let _connect = BackEnd::start(&stack, "connect", |_| allow(&json!({"user": "42"}))).await;
    let _subscribe = BackEnd::start(&stack, "subscribe", |_| allow(&json!({"data": 7}))).await;
    let _publish = BackEnd::start(&stack, "publish", |_| allow(&json!({}))).await;
    let mut client = raw(&stack).await;
    let frame = concat!(
        r#"{"id":1,"connect":{}}"#,
        "\n",
        r#"{"id":2,"subscribe":{"channel":"asked:x"}}"#,
        "\n",
        r#"{"id":3,"publish":{"channel":"asked:y","data":1}}"#
    );
    client.send_text(frame).await.unwrap();
    let first = client.reply().await.unwrap();
    assert!(first.id == 1 && first.connect.is_some());
    let mut ids = [client.reply().await.unwrap(), client.reply().await.unwrap()];
    ids.sort_by_key(|reply| reply.id);
    assert!(ids.iter().all(|reply| reply.error.is_none()), "{ids:?}");
    assert_eq!(ids[0].subscribe.as_ref().unwrap().data, "7");
}

#[tokio::test]
async fn a_back_end_decides_about_subscriptions_and_publications() {
    let stack = start(quick(ASKED).gateways(1)).await;
    let subscribe = BackEnd::start(&stack, "subscribe", |question| {
        let refusal = r#"{"error":{"code":1403,"message":"not you"}}"#.to_owned();
        if question["user"] == "42" {
            allow(&json!({"info": {"role": "owner"}, "data": {}}))
        } else {
            Some(refusal)
        }
    })
    .await;
    let publish = BackEnd::start(&stack, "publish", |question| match question["data"].as_i64() {
        Some(1) => allow(&json!({})),
        Some(2) => allow(&json!({"data": {"instead": 2}, "tags": {"seen": "yes"}})),
        Some(3) => Some(r#"{"error":{"code":1400,"message":"no"}}"#.to_owned()),
        _ => None,
    })
    .await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let (client, mut events) = connect_as(&stack, 0, "42", encoding).await;
        assert_eq!(&client.subscribe("asked:x").await.unwrap().data[..], b"{}");
        client.publish("asked:x", "1").await.unwrap();
        client.publish("asked:x", "2").await.unwrap();
        assert_eq!(refused(client.publish("asked:x", "3").await.unwrap_err()), (1400, false));
        assert_eq!(
            refused(client.publish("asked:x", "4").await.unwrap_err()),
            (100, true),
            "in time or not at all"
        );
        assert_eq!(publication(&mut events, "asked:x").await, "1");
        let info = event(&mut events, |event| match event {
            Event::Publication { data, info, .. } => {
                assert_eq!(&data[..], br#"{"instead":2}"#);
                info
            }
            _ => None,
        })
        .await;
        assert_eq!(&info.chan_info[..], br#"{"role":"owner"}"#);
        let question = publish.asked().pop().unwrap();
        assert_eq!((&question["user"], &question["channel"]), (&json!("42"), &json!("asked:x")));
    }
    let (other, _events) = connect(&stack, 0, "43").await;
    assert_eq!(refused(other.subscribe("asked:x").await.unwrap_err()), (1403, false));
    assert_eq!(refused(other.subscribe("asked:x").await.unwrap_err()), (1403, false));
    assert_eq!(subscribe.asked().len(), 4, "nothing is kept unless the configuration says so");
}

#[tokio::test]
async fn publications_of_one_client_keep_their_order_across_hook_decisions() {
    let stack = start(quick(ASKED).gateways(1)).await;
    let _subscribe = BackEnd::start(&stack, "subscribe", |_| allow(&json!({}))).await;
    let publish = BackEnd::start(&stack, "publish", |_| allow(&json!({}))).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let (listener, mut heard) = connect(&stack, 0, "43").await;
    listener.subscribe("asked:x").await.unwrap();
    let publishes = (0..60_u32).map(|number| client.publish("asked:x", number.to_string()));
    let published = futures_util::future::join_all(publishes).await;
    assert!(published.iter().all(Result::is_ok));
    for number in 0..60_u32 {
        assert_eq!(publication(&mut heard, "asked:x").await, number.to_string());
    }
    assert_eq!(publish.asked().len(), 60);
}

#[tokio::test]
async fn a_cached_decision_applies_to_its_own_subscription_only() {
    let stack = start(quick(&ASKED.replace("deadline", "cache = '1h'\ndeadline")).gateways(1)).await;
    let back_end = BackEnd::start(&stack, "subscribe", |question| {
        let refusal = r#"{"error":{"code":1403,"message":"not you"}}"#.to_owned();
        if question["user"] == "42" { allow(&json!({"data": 1})) } else { Some(refusal) }
    })
    .await;
    for _ in 0..3 {
        let (client, _events) = connect(&stack, 0, "42").await;
        assert_eq!(client.subscribe("asked:x").await.unwrap().data, "1");
        let (other, _events) = connect(&stack, 0, "43").await;
        assert_eq!(refused(other.subscribe("asked:x").await.unwrap_err()), (1403, false));
    }
    assert_eq!(back_end.asked().len(), 2);
    let (client, _events) = connect(&stack, 0, "42").await;
    client.subscribe("asked:y").await.unwrap();
    assert_eq!(back_end.asked().len(), 3, "another channel is another question");
}

#[tokio::test]
async fn a_missing_decision_is_not_cached() {
    let stack = start(quick(&ASKED.replace("deadline", "cache = '1h'\ndeadline")).gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    assert_eq!(refused(client.subscribe("asked:x").await.unwrap_err()), (100, true));
    let _back_end = BackEnd::start(&stack, "subscribe", |_| allow(&json!({}))).await;
    client.subscribe("asked:x").await.unwrap();
}

#[tokio::test]
async fn a_back_end_prolongs_connections_and_subscriptions_and_ends_them() {
    let toml = format!(
        "{}\n[auth]\nrefresh_grace = '5s'\n",
        ASKED.replace("connect = true", "refresh = true\nconnect = true")
    );
    let stack = start(quick(&toml).gateways(1)).await;
    let connects =
        BackEnd::start(&stack, "connect", |_| allow(&json!({"user": "42", "expire_at": in_seconds(1)})))
            .await;
    let (client, mut events) = Client::connect(Options::new(url(&stack, 0))).await.unwrap();
    assert!(!client.connected().expires);
    // The first question has no answer. The gateway asks again within the grace.
    let refreshes = BackEnd::start(&stack, "refresh", |_| allow(&json!({"expire_at": in_seconds(60)}))).await;
    let subscribes =
        BackEnd::start(&stack, "subscribe", |_| allow(&json!({"expire_at": in_seconds(1)}))).await;
    let ends = BackEnd::start(&stack, "sub_refresh", |_| allow(&json!({"expired": true}))).await;
    client.subscribe("asked:x").await.unwrap();
    let code = event(&mut events, |event| match event {
        Event::Unsubscribed { channel, code, .. } if channel == "asked:x" => Some(code),
        _ => None,
    })
    .await;
    assert_eq!(code, 2501);
    eventually("the connection is prolonged", || async { refreshes.asked().len() == 1 }).await;
    assert_eq!(refreshes.asked()[0]["user"], "42");
    assert_eq!(ends.asked()[0]["channel"], "asked:x");
    assert_eq!((connects.asked().len(), subscribes.asked().len()), (1, 1));
    assert!(client.closed().is_none());
}

#[tokio::test]
async fn a_connection_that_is_not_prolonged_ends_after_its_grace() {
    let toml = format!(
        "{}\n[auth]\nrefresh_grace = '1s'\n",
        ASKED.replace("connect = true", "refresh = true\nconnect = true")
    );
    let stack = start(quick(&toml).gateways(1)).await;
    let _connects =
        BackEnd::start(&stack, "connect", |_| allow(&json!({"user": "42", "expire_at": in_seconds(1)})))
            .await;
    let (client, mut events) = Client::connect(Options::new(url(&stack, 0))).await.unwrap();
    let ended = async { while events.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(client.closed().unwrap().code, 3005);
}

#[tokio::test]
async fn a_back_end_decides_about_one_way_clients_too() {
    let stack = start(quick(ASKED).gateways(1)).await;
    let back_end = BackEnd::start(&stack, "connect", |_| allow(&json!({"user": "42"}))).await;
    let address =
        url(&stack, 0).replace("ws://", "http://").replace("/connection/websocket", "/connection/uni_sse");
    let mut stream = tokio::time::timeout(Duration::from_secs(5), first_line(&address)).await.unwrap();
    stream.retain(|c| c != '\r');
    assert!(stream.contains(r##""#42""##), "{stream}");
    assert_eq!(back_end.asked()[0]["transport"], "uni_sse");
}

async fn first_line(address: &str) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let (host, path) = address.trim_start_matches("http://").split_once('/').unwrap();
    let mut socket = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path}?cf_connect=%7B%7D HTTP/1.1\r\nhost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(socket).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the stream goes on");
        if line.starts_with("data:") {
            return line;
        }
    }
}
