//! A client that reconnects, as an application would around [`Client`].
//!
//! Connects to any of several gateways in turn, subscribes again after each reconnect, and retries a keyed
//! request until it is answered. It does not recover publications it missed while disconnected.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    connection::Client,
    error::{CallError, Closed, ConnectError},
    event::{Event, Events},
    keyed::{self, KeyedAnswer, KeyedError, RetryDecision},
    options::Options,
};

/// The settings of a reconnecting client.
#[derive(Debug, Clone)]
pub struct ReconnectOptions {
    /// How each connection is made; its `url` is ignored.
    pub connection: Options,
    /// The gateways, tried in turn.
    pub urls: Vec<String>,
    /// The channels to subscribe to.
    pub channels: Vec<String>,
}

/// A handle to a session, cheap to clone. The session ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct ReconnectingClient {
    state: watch::Receiver<SessionState>,
    /// Second replies on the connections that have ended.
    strays: Arc<AtomicU64>,
    _task: Arc<JoinSet<()>>,
}

#[derive(Debug, Clone)]
enum SessionState {
    Disconnected,
    Connected(Client),
    Ended(CallError),
}

impl ReconnectingClient {
    /// Starts to connect. The events of all connections share one queue, separated by `Connected` and `Disconnected`.
    pub fn start(options: ReconnectOptions) -> (Self, Events) {
        let (events, receiver) = mpsc::channel(options.connection.events.max(1));
        let (state, watched) = watch::channel(SessionState::Disconnected);
        let mut task = JoinSet::new();
        let strays = Arc::new(AtomicU64::new(0));
        task.spawn(run(options, state, events, Arc::clone(&strays)));
        (Self { state: watched, strays, _task: Arc::new(task) }, Events(receiver))
    }

    /// Returns the number of second replies to one command, over all connections so far.
    pub fn stray_replies(&self) -> u64 {
        let now = match &*self.state.borrow() {
            SessionState::Connected(client) => client.stray_replies(),
            SessionState::Disconnected | SessionState::Ended(_) => 0,
        };
        self.strays.load(Ordering::Relaxed) + now
    }

    /// Waits for a connection and returns it.
    pub async fn client(&self, deadline: Instant) -> Result<Client, CallError> {
        let mut state = self.state.clone();
        let waited =
            timeout_at(deadline, state.wait_for(|state| !matches!(state, SessionState::Disconnected))).await;
        match waited {
            Ok(Ok(state)) => match &*state {
                SessionState::Connected(client) => Ok(client.clone()),
                SessionState::Ended(error) => Err(error.clone()),
                SessionState::Disconnected => Err(CallError::Timeout),
            },
            Ok(Err(_)) => Err(Closed::by_caller().into()),
            Err(_) => Err(CallError::Timeout),
        }
    }

    /// Calls a method with an idempotency key and retries on any gateway until it is answered.
    ///
    /// Every try carries the same key, so repeated tries give one answer.
    pub async fn call_keyed(
        &self,
        method: &str,
        key: &str,
        data: impl Into<Bytes>,
        deadline: Instant,
    ) -> Result<KeyedAnswer, KeyedError> {
        let (method, data) = (format!("{method}#{key}"), data.into());
        let (mut tries, mut accepted) = (0, false);
        loop {
            let outcome = match self.client(deadline).await {
                Ok(client) => {
                    tries += 1;
                    attempt(&client, &method, data.clone(), deadline).await
                }
                Err(error) => return Err(KeyedError { last: error, accepted, tries }),
            };
            let last = match outcome {
                Ok(data) => return Ok(KeyedAnswer { data, tries }),
                Err(error) => error,
            };
            accepted |= keyed::says_accepted(&last);
            let pause = match keyed::next(&last) {
                RetryDecision::GiveUp => return Err(KeyedError { last, accepted, tries }),
                // A pause even here, so that no server error causes a tight loop.
                RetryDecision::Now => keyed::pause(1),
                RetryDecision::AfterPause => keyed::pause(tries),
            };
            if Instant::now() + pause >= deadline {
                return Err(KeyedError { last, accepted, tries });
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn attempt(client: &Client, method: &str, data: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
    timeout_at(deadline, client.rpc(method, data)).await.unwrap_or(Err(CallError::Timeout))
}

/// Connects, forwards events until the connection ends, and reconnects.
async fn run(
    options: ReconnectOptions,
    state: watch::Sender<SessionState>,
    events: mpsc::Sender<Event>,
    strays: Arc<AtomicU64>,
) {
    let mut failures = 0;
    for url in options.urls.iter().cycle() {
        match connect(&options, url, &events).await {
            Ok((client, incoming)) => {
                failures = 0;
                state.send_replace(SessionState::Connected(client.clone()));
                let closed = pass_on(incoming, &events).await;
                strays.fetch_add(client.stray_replies(), Ordering::Relaxed);
                state.send_replace(SessionState::Disconnected);
                if !closed.reconnects() {
                    state.send_replace(SessionState::Ended(closed.into()));
                    return;
                }
                tracing::debug!(%url, %closed, "connection ended");
            }
            Err(error) if error.is_temporary() => {
                tracing::debug!(%url, %error, "not connected");
                failures += 1;
                tokio::time::sleep(keyed::pause(failures)).await;
            }
            Err(error) => {
                state.send_replace(SessionState::Ended(match error {
                    ConnectError::Refused(error) => error,
                    other => Closed::lost(other).into(),
                }));
                return;
            }
        }
    }
}

async fn connect(
    options: &ReconnectOptions,
    url: &str,
    events: &mpsc::Sender<Event>,
) -> Result<(Client, Events), ConnectError> {
    let connection = Options { url: url.to_owned(), ..options.connection.clone() };
    let (client, incoming) = Client::connect(connection).await?;
    for channel in &options.channels {
        client.subscribe(channel).await?;
    }
    let connected = Event::Connected { url: url.to_owned(), client: client.id().to_owned() };
    // The receiver may have been dropped to discard events.
    let _ = events.send(connected).await;
    Ok((client, incoming))
}

/// Forwards events until the connection ends.
async fn pass_on(mut incoming: Events, events: &mpsc::Sender<Event>) -> Closed {
    while let Some(event) = incoming.next().await {
        let end = match &event {
            Event::Disconnected(closed) => Some(closed.clone()),
            _ => None,
        };
        let _ = events.send(event).await;
        if let Some(closed) = end {
            return closed;
        }
    }
    Closed::lost("the connection's task ended")
}
