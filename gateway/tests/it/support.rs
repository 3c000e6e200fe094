//! What the tests share: a stack, tokens, and waiting for a condition with a deadline.

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime},
};

use tidegate_cli::{
    client::{Client, Event, Events, Options, raw::RawClient},
    stack::{Builder, Stack},
    token::connection_token,
};
use tidegate_shared::protocol::Encoding;

/// How long anything may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Routes and namespaces most tests need.
pub(crate) const TOML: &str = r#"
[[namespace]]
name = "chat"
allow_subscribe = "authenticated"
allow_publish = "authenticated"

[[route]]
name = "echo"
match = "rpc.echo"
handler = "echo"

[[route]]
name = "later"
match = "rpc.later.echo"
handler = "echo"
answer = "later"

[[route]]
name = "nobody"
match = "rpc.nobody"

[[route]]
name = "send"
match = "send"
handler = "echo"
"#;

/// A stack whose gateways give up waiting for an answer after a second.
pub(crate) fn quick(toml: &str) -> Builder {
    let quick = "[gateway]\nanswer_timeout = '1s'\n[gateway.drain]\nsettle = '2s'\nwindow = '200ms'\n";
    Stack::builder().config(&format!("{quick}\n{toml}\n{TOML}"))
}

pub(crate) async fn start(builder: Builder) -> Stack {
    builder.start().await.unwrap()
}

pub(crate) fn token(stack: &Stack, user: &str) -> String {
    connection_token(&stack.config().auth, user, Duration::from_hours(1), SystemTime::now()).unwrap()
}

pub(crate) fn url(stack: &Stack, gateway: usize) -> String {
    stack.gateways()[gateway].websocket.clone()
}

pub(crate) async fn connect(stack: &Stack, gateway: usize, user: &str) -> (Client, Events) {
    connect_as(stack, gateway, user, Encoding::Json).await
}

pub(crate) async fn connect_as(
    stack: &Stack,
    gateway: usize,
    user: &str,
    encoding: Encoding,
) -> (Client, Events) {
    let options = Options::new(url(stack, gateway)).token(token(stack, user)).encoding(encoding);
    Client::connect(options).await.unwrap()
}

pub(crate) async fn raw(stack: &Stack) -> RawClient {
    RawClient::open(&Options::new(url(stack, 0))).await.unwrap()
}

/// A raw client that has connected as user 42.
pub(crate) async fn raw_connected(stack: &Stack) -> RawClient {
    let mut client = raw(stack).await;
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(stack, "42")}}).to_string();
    client.send_text(&connect).await.unwrap();
    assert!(client.reply().await.unwrap().connect.is_some());
    client
}

/// Waits until `check` holds, looking often.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the next event that `pick` wants.
pub(crate) async fn event<T>(events: &mut Events, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.next().await.expect("the connection goes on");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    })
    .await
    .expect("the event comes")
}

/// Returns the next publication's data, as text.
pub(crate) async fn publication(events: &mut Events, wanted: &str) -> String {
    event(events, |event| match event {
        Event::Publication { channel, data, .. } if channel == wanted => {
            Some(String::from_utf8_lossy(&data).into_owned())
        }
        _ => None,
    })
    .await
}

/// A NATS client as the service user, with nothing of ours in between.
pub(crate) async fn service(stack: &Stack) -> async_nats::Client {
    nats(stack, &stack.config().nats.service).await
}

/// A NATS client as the user that may look at everything.
pub(crate) async fn setup(stack: &Stack) -> async_nats::Client {
    nats(stack, &stack.config().nats.setup).await
}

async fn nats(stack: &Stack, user: &tidegate_shared::config::NatsUser) -> async_nats::Client {
    async_nats::ConnectOptions::with_user_and_password(user.user.clone(), user.password.expose().to_owned())
        .custom_inbox_prefix(format!("_INBOX_{}", user.user))
        .connect(stack.nats_url())
        .await
        .unwrap()
}

/// The answer a path of a gateway's internal listener gives: status and body; status 0 while nobody listens.
pub(crate) async fn get(stack: &Stack, path: &str) -> (u16, String) {
    if tokio::net::TcpStream::connect(stack.gateways()[0].internal).await.is_err() {
        return (0, String::new());
    }
    http(
        stack.gateways()[0].internal,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

/// Sends bytes and returns the status and everything behind the head of what comes back.
pub(crate) async fn http(address: std::net::SocketAddr, request: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// No process of the stack has panicked.
pub(crate) fn nothing_panicked(stack: &Stack) {
    let log = stack.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Tests of behaviour that is the same however publications reach a gateway.
macro_rules! in_both_fanouts {
    ($($test:ident),* $(,)?) => {
        mod by_channel { $(#[tokio::test] async fn $test() { super::$test("channel").await; })* }
        mod as_a_whole { $(#[tokio::test] async fn $test() { super::$test("wildcard").await; })* }
    };
}
pub(crate) use in_both_fanouts;
