//! Shared by the tests: stacks and their configuration, tokens, clients, and waiting for a condition with a deadline.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt;
use tidegate_cli::{
    client::{CallError, Client, Event, Events, Options, raw::RawClient},
    stack::{Builder, Stack},
    token::connection_token,
};
use tidegate_shared::{
    confirmation::Confirmation,
    envelope::{Answer, Outcome, Request},
    protocol::{Command, Encoding, HistoryRequest, HistoryResult, SubscribeRequest, SubscribeResult},
    subject::Subjects,
    topology::request_stream,
};
use tokio::net::{TcpListener, TcpStream};

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

/// The code with which the next subscription ends.
pub(crate) async fn unsubscribed(events: &mut Events) -> u32 {
    event(events, |event| match event {
        Event::Unsubscribed { code, .. } => Some(code),
        _ => None,
    })
    .await
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
    if TcpStream::connect(stack.gateways()[0].internal).await.is_err() {
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
    let mut stream = TcpStream::connect(address).await.unwrap();
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

/// A way to the broker that can be cut. What goes through it is lost when it is cut.
pub(crate) struct Line {
    pub(crate) url: String,
    broker: Arc<OnceLock<String>>,
    up: Arc<tokio::sync::watch::Sender<bool>>,
    _task: tokio::task::JoinSet<()>,
}

impl Line {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (broker, up) =
            (Arc::new(OnceLock::<String>::new()), Arc::new(tokio::sync::watch::Sender::new(true)));
        let mut task = tokio::task::JoinSet::new();
        let (to, line) = (Arc::clone(&broker), Arc::clone(&up));
        task.spawn(async move {
            let mut carried = tokio::task::JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let mut up = line.subscribe();
                let Some(to) = to.get().filter(|_| *up.borrow()) else { continue };
                let Ok(mut to) = TcpStream::connect(to).await else { continue };
                carried.spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = up.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        Self { url, broker, up, _task: task }
    }

    /// Leads to the broker of this stack.
    pub(crate) fn lead_to(&self, stack: &Stack) {
        self.broker.set(stack.nats_url().trim_start_matches("nats://").to_owned()).unwrap();
    }

    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.up.send_replace(true);
    }
}

/// A worker by hand, as one in another language would be: it takes requests of one route, and does with them what a test says.
pub(crate) struct Hand {
    pub(crate) nats: async_nats::Client,
    pub(crate) jetstream: async_nats::jetstream::Context,
    subjects: Subjects,
    route: &'static str,
}

impl Hand {
    pub(crate) async fn of(stack: &Stack, route: &'static str) -> Self {
        let nats = worker_user(stack).await;
        let jetstream = async_nats::jetstream::new(nats.clone());
        Self { nats, jetstream, subjects: stack.config().subjects(), route }
    }

    /// The next request of the route.
    pub(crate) async fn take(&self) -> (Request, async_nats::Message) {
        self.take_from(&request_stream(self.route)).await
    }

    /// The next request of the route from one of its two streams.
    pub(crate) async fn take_from(&self, stream: &str) -> (Request, async_nats::Message) {
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", self.route);
        let inbox = self.nats.new_inbox();
        let mut pulled = self.nats.subscribe(inbox.clone()).await.unwrap();
        self.nats.publish_with_reply(next, inbox, "1".into()).await.unwrap();
        let message = tokio::time::timeout(PATIENCE, pulled.next()).await.expect("a request comes").unwrap();
        let headers = message.headers.clone().unwrap();
        (Request::read(&headers, message.payload.clone()).unwrap(), message)
    }

    /// Acknowledges a request.
    pub(crate) async fn ack(&self, message: &async_nats::Message) {
        self.nats.request(message.reply.clone().unwrap(), "+ACK".into()).await.unwrap();
    }

    /// Hands an answer over, and returns the gateway's word. `None` without a gateway.
    pub(crate) async fn hand_over(&self, answer: &Answer) -> Option<Confirmation> {
        let subject = self.subjects.answer(&answer.re);
        let reply = self.nats.request_with_headers(subject, answer.headers(), answer.body()).await;
        Some(Confirmation::read(&reply.ok()?.payload).unwrap())
    }

    /// Stores an answer and tells nobody.
    pub(crate) async fn keep(&self, answer: &Answer) {
        let subject = self.subjects.reply(&answer.re);
        let stored = self.jetstream.publish_with_headers(subject, answer.headers(), answer.body()).await;
        stored.unwrap().await.unwrap();
    }

    /// Parks a request until `due`, a time as in RFC 3339.
    pub(crate) async fn park(&self, request: &Request, due: &str) {
        let mut headers = request.headers();
        headers.insert("Nats-Msg-Id", format!("{}.a1", request.id));
        headers.insert("Nats-Schedule", format!("@at {due}"));
        let target = self.subjects.due(&self.subjects.request(&request.address())).unwrap();
        headers.insert("Nats-Schedule-Target", target);
        let subject = self.subjects.park(&request.id);
        let stored = self.jetstream.publish_with_headers(subject, headers, request.body.clone()).await;
        stored.unwrap().await.unwrap();
    }
}

/// An answer by hand.
pub(crate) fn answer_to(request: &Request, body: &'static str) -> Answer {
    Answer::to(request, 0, "by-hand", Outcome::Ok(body.into()))
}

/// How many messages a stream has.
pub(crate) async fn count(stack: &Stack, stream: &str) -> u64 {
    let jetstream = async_nats::jetstream::new(admin(stack).await);
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Waits until a route has no request that is not settled.
pub(crate) async fn settled(stack: &Stack, route: &str) {
    let jetstream = async_nats::jetstream::new(admin(stack).await);
    eventually("every request is settled", || async {
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            jetstream.get_consumer_from_stream(route, request_stream(route)).await.unwrap();
        consumer.cached_info().num_ack_pending == 0 && consumer.cached_info().num_pending == 0
    })
    .await;
}
