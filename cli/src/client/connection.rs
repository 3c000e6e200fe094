//! [`Client`]: one connection, from the handshake to its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tidegate_shared::{
    VERSION,
    protocol::{
        Command, ConnectRequest, ConnectResult, PublishRequest, RefreshRequest, Reply, RpcRequest,
        SendRequest, SubscribeRequest, SubscribeResult, UnsubscribeRequest,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    error::{CallError, Closed, ConnectError},
    event::Events,
    handshake,
    options::Options,
    socket::{SocketCommand, SocketDriver, SocketStatus},
};

/// The capacity of the command queue. A sender waits while it is full.
const ORDERS: usize = 256;

/// A handle to one connection, cheap to clone. Dropping the last handle closes the socket without a close frame.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
}

#[derive(Debug)]
struct ClientInner {
    orders: mpsc::Sender<SocketCommand>,
    shared: Arc<SocketStatus>,
    timeout: Duration,
    connected: ConnectResult,
    /// Aborted with the last handle.
    _task: JoinSet<()>,
}

impl Client {
    /// Connects and authenticates.
    pub async fn connect(options: Options) -> Result<(Self, Events), ConnectError> {
        let socket = handshake::open(&options).await?;
        let (orders, queue) = mpsc::channel(ORDERS);
        let (events, receiver) = mpsc::channel(options.events.max(1));
        let shared = Arc::new(SocketStatus::default());
        let mut task = JoinSet::new();
        task.spawn(SocketDriver::new(socket, options.encoding, queue, events, Arc::clone(&shared)).run());
        let connect = ConnectRequest {
            token: options.token.unwrap_or_default(),
            subs: options.subs,
            name: "tidegate".to_owned(),
            version: VERSION.to_owned(),
            ..ConnectRequest::default()
        };
        let command = Command { connect: Some(connect), ..Command::default() };
        let reply = Box::pin(call(&orders, &shared, command, options.timeout)).await?;
        let connected = reply.connect.unwrap_or_default();
        let inner = ClientInner { orders, shared, timeout: options.timeout, connected, _task: task };
        Ok((Self { inner: Arc::new(inner) }, Events(receiver)))
    }

    /// Returns the gateway's reply to the connect command: the client id, the personal channel, the ping interval.
    pub fn connected(&self) -> &ConnectResult {
        &self.inner.connected
    }

    /// Returns the connection's id.
    pub fn id(&self) -> &str {
        &self.inner.connected.client
    }

    /// Returns why the connection ended, once it has.
    pub fn closed(&self) -> Option<&Closed> {
        self.inner.shared.end.get()
    }

    /// Returns the number of second replies to one command. The protocol allows none.
    pub fn stray_replies(&self) -> u64 {
        self.inner.shared.strays.load(Ordering::Relaxed)
    }

    /// Calls a method and waits for the answer.
    pub async fn rpc(&self, method: &str, data: impl Into<Bytes>) -> Result<Bytes, CallError> {
        self.rpc_timeout(method, data, self.inner.timeout).await
    }

    /// Calls a method and waits at most `timeout` for its answer.
    pub async fn rpc_timeout(
        &self,
        method: &str,
        data: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let rpc = RpcRequest { data: data.into(), method: method.to_owned() };
        let command = Command { rpc: Some(rpc), ..Command::default() };
        let reply = self.exchange(command, timeout).await?;
        Ok(reply.rpc.unwrap_or_default().data)
    }

    /// Publishes to a channel.
    pub async fn publish(&self, channel: &str, data: impl Into<Bytes>) -> Result<(), CallError> {
        let publish = PublishRequest { channel: channel.to_owned(), data: data.into(), kind: 0 };
        self.call(Command { publish: Some(publish), ..Command::default() }).await.map(drop)
    }

    /// Subscribes to a channel.
    pub async fn subscribe(&self, channel: &str) -> Result<SubscribeResult, CallError> {
        let subscribe = SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() };
        let reply = self.call(Command { subscribe: Some(subscribe), ..Command::default() }).await?;
        Ok(reply.subscribe.unwrap_or_default())
    }

    /// Unsubscribes from a channel.
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), CallError> {
        let unsubscribe = UnsubscribeRequest { channel: channel.to_owned() };
        self.call(Command { unsubscribe: Some(unsubscribe), ..Command::default() }).await.map(drop)
    }

    /// Refreshes the connection token.
    pub async fn refresh(&self, token: &str) -> Result<(), CallError> {
        let refresh = RefreshRequest { token: token.to_owned() };
        self.call(Command { refresh: Some(refresh), ..Command::default() }).await.map(drop)
    }

    /// Sends any command and waits for its reply. This client chooses the id.
    pub async fn call(&self, command: Command) -> Result<Reply, CallError> {
        self.exchange(command, self.inner.timeout).await
    }

    /// Boxed, so that the caller's futures do not hold space for the reply to every kind of command.
    async fn exchange(&self, command: Command, timeout: Duration) -> Result<Reply, CallError> {
        Box::pin(call(&self.inner.orders, &self.inner.shared, command, timeout)).await
    }

    /// Sends a message that gets no reply.
    pub async fn send(&self, data: impl Into<Bytes>) -> Result<(), CallError> {
        let command = Command { send: Some(SendRequest { data: data.into() }), ..Command::default() };
        let sent = self.inner.orders.send(SocketCommand::Send(Box::new(command), None)).await;
        sent.map_err(|_| ended(&self.inner.shared))
    }

    /// Closes the connection after the commands queued so far are sent.
    pub async fn close(&self) {
        if self.inner.orders.send(SocketCommand::Close).await.is_ok() {
            self.inner.orders.closed().await;
        }
    }
}

async fn call(
    orders: &mpsc::Sender<SocketCommand>,
    shared: &SocketStatus,
    command: Command,
    timeout: Duration,
) -> Result<Reply, CallError> {
    let (caller, reply) = oneshot::channel();
    let exchange = async {
        orders.send(SocketCommand::Send(Box::new(command), Some(caller))).await.map_err(|_| ended(shared))?;
        reply.await.map_err(|_| ended(shared))?
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallError::Timeout))
}

fn ended(shared: &SocketStatus) -> CallError {
    CallError::Closed(shared.end.get().cloned().unwrap_or_else(Closed::by_caller))
}
