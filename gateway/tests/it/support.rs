//! Shared by the tests: stacks and their configuration, tokens, clients, and waiting for a condition with a deadline.

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidegate_cli::{
    client::{CallError, Client, Event, Events, Options, raw::RawClient},
    stack::{Builder, Stack},
    token::connection_token,
};
use tidegate_shared::protocol::{
    Command, Encoding, HistoryRequest, HistoryResult, SubscribeRequest, SubscribeResult,
};

/// The deadline of every wait. A test fails after it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The routes and the namespace that most tests use.
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

/// A stack whose gateways wait one second for an answer.
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

/// Waits until `check` holds. Checks every 20 ms.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the next event for which `pick` returns a value.
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

/// Returns the data of the next publication in this channel, as text.
pub(crate) async fn publication(events: &mut Events, wanted: &str) -> String {
    event(events, |event| match event {
        Event::Publication { channel, data, .. } if channel == wanted => {
            Some(String::from_utf8_lossy(&data).into_owned())
        }
        _ => None,
    })
    .await
}

/// The namespace `kept` as TOML: users subscribe, publish and read; each channel keeps `history` publications. `more` has
/// further keys, one a line.
pub(crate) fn kept_toml(history: u32, more: &str) -> String {
    format!(
        "\n[[namespace]]\nname = 'kept'\nallow_subscribe = 'authenticated'\nallow_publish = 'authenticated'\n\
         allow_history = 'authenticated'\nhistory_size = {history}\n{more}\n"
    )
}

/// A stack with the namespace `kept`, whose channels keep 20 publications.
pub(crate) async fn kept(gateways: usize) -> Stack {
    kept_by("channel", gateways).await
}

/// As [`kept`], with the given `fanout` of the namespace.
pub(crate) async fn kept_by(fanout: &str, gateways: usize) -> Stack {
    start(quick(&kept_toml(20, &format!("fanout = '{fanout}'"))).gateways(gateways)).await
}

pub(crate) async fn subscribe(
    client: &Client,
    request: SubscribeRequest,
) -> Result<SubscribeResult, CallError> {
    let reply = client.call(Command { subscribe: Some(request), ..Command::default() }).await?;
    Ok(reply.subscribe.unwrap())
}

/// Subscribes without a position.
pub(crate) async fn fresh(client: &Client, channel: &str) -> SubscribeResult {
    subscribe(client, SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() })
        .await
        .unwrap()
}

/// Subscribes and asks to recover from a position.
pub(crate) async fn resume(client: &Client, channel: &str, offset: u64, epoch: &str) -> SubscribeResult {
    let (channel, epoch) = (channel.to_owned(), epoch.to_owned());
    subscribe(
        client,
        SubscribeRequest { channel, recover: true, offset, epoch, ..SubscribeRequest::default() },
    )
    .await
    .unwrap()
}

/// Returns the payloads of the recovered publications, as text.
pub(crate) fn texts(result: &SubscribeResult) -> Vec<String> {
    result.publications.iter().map(|p| String::from_utf8_lossy(&p.data).into_owned()).collect()
}

/// Returns the data and the offset of the next publication in any channel.
pub(crate) async fn next(events: &mut Events) -> (String, u64) {
    event(events, |event| match event {
        Event::Publication { data, offset, .. } => {
            Some((String::from_utf8_lossy(&data).into_owned(), offset))
        }
        _ => None,
    })
    .await
}

pub(crate) async fn history(client: &Client, request: HistoryRequest) -> Result<HistoryResult, CallError> {
    let reply = client.call(Command { history: Some(request), ..Command::default() }).await?;
    Ok(reply.history.unwrap())
}

/// Returns the time so many seconds from now, in seconds since 1970.
pub(crate) fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

/// A plain NATS client with the service user.
pub(crate) async fn service(stack: &Stack) -> async_nats::Client {
    nats(stack, &stack.config().nats.service).await
}

/// A plain NATS client in the account of the streams, which may do everything there.
pub(crate) async fn admin(stack: &Stack) -> async_nats::Client {
    stack.admin().await.unwrap().client().clone()
}

/// A plain NATS client with the worker user, which may store answers.
pub(crate) async fn worker_user(stack: &Stack) -> async_nats::Client {
    nats(stack, &stack.config().nats.worker).await
}

async fn nats(stack: &Stack, user: &tidegate_shared::config::NatsUser) -> async_nats::Client {
    async_nats::ConnectOptions::with_user_and_password(user.user.clone(), user.password.expose().to_owned())
        .custom_inbox_prefix(format!("_INBOX_{}", user.user))
        .connect(stack.nats_url())
        .await
        .unwrap()
}

/// Requests a path of the first gateway's internal listener. Returns status and body, and status 0 if the port is closed.
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

/// Sends a request and returns the status and the body of the response.
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

/// Asserts that no process of the stack has panicked.
pub(crate) fn nothing_panicked(stack: &Stack) {
    let log = stack.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Runs tests with both values of a namespace's `fanout`.
macro_rules! in_both_fanouts {
    ($($test:ident),* $(,)?) => {
        mod by_channel { $(#[tokio::test] async fn $test() { super::$test("channel").await; })* }
        mod as_a_whole { $(#[tokio::test] async fn $test() { super::$test("wildcard").await; })* }
    };
}
pub(crate) use in_both_fanouts;
