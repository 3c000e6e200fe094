//! Shared by the tests: a stack, its setup user, clients, and waiting for a condition with a deadline.

use std::time::{Duration, Instant, SystemTime};

use tidegate_cli::{
    client::{Client, Events, Options},
    stack::{Stack, setup},
    token::connection_token,
};
use tidegate_shared::{
    broker::{Broker, Progress},
    topology::request_stream,
};

/// The deadline of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stack and a connection of its setup user.
pub(crate) struct Tide {
    pub(crate) stack: Stack,
    setup: Broker,
}

impl Tide {
    /// Starts a gateway, a purger and this many stock workers.
    pub(crate) async fn start(workers: usize, toml: &str) -> Self {
        let quick = "[gateway]\nanswer_timeout = '1s'\n[gateway.drain]\nsettle = '1s'\nwindow = '100ms'\n\
                     [worker]\nack_wait = '1s'\n";
        Self::start_with(workers, &format!("{quick}{toml}")).await
    }

    /// As [`Self::start`], with this configuration alone.
    pub(crate) async fn start_with(workers: usize, toml: &str) -> Self {
        let stack = Stack::builder().config(toml).gateways(1).workers(workers).start();
        let stack = stack.await.unwrap();
        let setup = setup::connect(stack.config()).await.unwrap();
        Self { stack, setup }
    }

    pub(crate) async fn client(&self, user: &str) -> (Client, Events) {
        let auth = &self.stack.config().auth;
        let token = connection_token(auth, user, Duration::from_hours(1), SystemTime::now()).unwrap();
        Client::connect(Options::new(self.stack.gateways()[0].websocket.clone()).token(token)).await.unwrap()
    }

    /// The number of messages in a stream. `None` while the broker is away.
    pub(crate) async fn messages(&self, stream: &str) -> Option<u64> {
        Some(self.setup.jetstream().get_stream(stream).await.ok()?.cached_info().state.messages)
    }

    /// How far the consumer of a route has come.
    pub(crate) async fn progress(&self, route: &str) -> Option<Progress> {
        self.setup.progress(&request_stream(route), route).await.ok()
    }

    /// Deletes a route's consumer.
    pub(crate) async fn delete_consumer(&self, route: &str) {
        let stream = self.setup.jetstream().get_stream(request_stream(route)).await.unwrap();
        stream.delete_consumer(route).await.unwrap();
    }

    /// Creates what is missing.
    pub(crate) async fn apply(&self) {
        setup::apply(&self.setup, self.stack.config()).await.unwrap();
    }

    /// What the purger answers at a path: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self.stack.purger_address().unwrap();
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: purger\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// A number of the purger's metrics about a route; 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str, route: &str) -> f64 {
        let page = self.get("/metrics").await.1;
        let start = format!("tidegate_purger_{name}{{route=\"{route}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Waits until `check` holds.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
