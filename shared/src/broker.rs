//! The connection to NATS: publishing with acknowledgements, and reading streams.
//!
//! Maps the library's errors to the few cases that callers distinguish. Never retries a publish by itself.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, HeaderName, Message,
    connection::State,
    jetstream::{self, context::ContextBuilder, message::PublishMessage},
};
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{NatsConfig, NatsUser},
    envelope, failure, header,
    subject::Subjects,
    topology::{self, KeptMessages},
};

mod attend;
mod barrier;
mod batch;
mod committer;
mod health;
mod last_reads;
mod link;
mod pass;
mod progress;
mod pull;
mod reads;
mod refusal;
mod rights;
mod routes;
mod sent;
mod size;
mod time;

pub use self::{
    attend::{Attended, attend, retry_pause},
    batch::ToStore,
    committer::{Committer, Handed, ToCommit},
    health::Health,
    last_reads::LastReads,
    link::{Link, Losses},
    pass::Passed,
    progress::{Fill, Held, NotDone, Progress},
    pull::{PullError, Puller},
    reads::Range,
    refusal::{API_ERRORS, ApiError, Meaning, Refusal},
    rights::MissingRights,
    routes::{LONGEST_PAUSE, RouteState, stored_route},
    sent::{Sent, Stored},
    size::{HEADERS_LIMIT, headers_len},
};
use self::{
    barrier::Barrier, committer::Room, link::Signals, pass::Passing, refusal::refusal, sent::Acknowledgement,
};

/// The oldest supported server: the streams depend on its behaviour.
pub const MIN_SERVER: (i64, i64, i64) = (2, 14, 3);

/// A connection to NATS as one of its users.
#[derive(Debug, Clone)]
pub struct Broker {
    client: Client,
    jetstream: jetstream::Context,
    subjects: Subjects,
    link: Arc<watch::Sender<Link>>,
    health: Health,
    passing: Passing,
    /// The room of all committers.
    room: Room,
    /// How many publishes may be unacknowledged, and whether a further one waits.
    in_flight: usize,
    wait_when_full: bool,
    /// The task that follows the connection. It ends with the last clone.
    _following: Arc<JoinSet<()>>,
}

/// The identity and the bounds of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// The epoch of its sequences: [`topology::epoch`].
    pub epoch: String,
    /// The sequence of its oldest message, or of the next message if it is empty.
    pub first_seq: u64,
    /// The sequence of the newest message it has ever had.
    pub last_seq: u64,
    /// How many messages it keeps of each channel.
    pub kept: KeptMessages,
    /// The epoch of the stream whose messages it copies, if it copies any.
    pub origin_epoch: Option<String>,
}

/// Returns a header that the broker wrote into a message that it delivered or republished. The broker writes its headers
/// behind those of the publisher, who may have used the same names: the last value is the broker's.
pub fn broker_header<'a>(message: &'a Message, name: &'static str) -> Option<&'a str> {
    message.headers.as_ref()?.get_last(HeaderName::from_static(name)).map(async_nats::HeaderValue::as_str)
}

/// Parses a header that the broker wrote as a number.
pub fn header_number(message: &Message, name: &'static str) -> Option<u64> {
    broker_header(message, name)?.parse().ok()
}

/// Returns when the stream stored a message that it delivered or republished.
pub fn stored_at(message: &Message) -> Option<SystemTime> {
    humantime::parse_rfc3339(broker_header(message, "Nats-Time-Stamp")?).ok()
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The server is older than [`MIN_SERVER`].
    #[error("nats-server {found} is too old: Tidegate needs {}.{}.{} or newer", MIN_SERVER.0, MIN_SERVER.1, MIN_SERVER.2)]
    TooOld {
        /// The server's version.
        found: String,
    },
    /// The server does not accept the user or its password.
    #[error("NATS refused the user {user:?}: check `nats.*.user` and `nats.*.password` against nats.conf")]
    Refused {
        /// The user.
        user: String,
    },
    /// The connection options are unusable.
    #[error("cannot connect to NATS at {url}: {reason}")]
    Unusable {
        /// The configured address.
        url: String,
        /// The client library's error.
        reason: String,
    },
}

impl Broker {
    /// Connects as `user`, and waits until the server is reachable; the log says so meanwhile. The server's monitoring shows
    /// `name`. At most `in_flight` publishes may be unacknowledged; `wait_when_full` says whether a further one waits or is
    /// refused.
    pub async fn connect(
        config: &NatsConfig,
        user: &NatsUser,
        name: &str,
        in_flight: usize,
        wait_when_full: bool,
    ) -> Result<Self, ConnectFailure> {
        let (signals, health) = (Arc::new(Signals::default()), Health::default());
        let mut waited = 0_u32;
        let client = loop {
            match options(config, user, name, &signals, &health).connect(servers(&config.url)).await {
                Ok(client) => break client,
                Err(error) => match error.kind() {
                    async_nats::ConnectErrorKind::AuthorizationViolation => {
                        return Err(ConnectFailure::Refused { user: user.user.clone() });
                    }
                    async_nats::ConnectErrorKind::ServerParse => {
                        return Err(ConnectFailure::Unusable {
                            url: config.url.clone(),
                            reason: error.to_string(),
                        });
                    }
                    _ => {
                        if waited.is_multiple_of(10) {
                            let error = failure::without_number(&error.to_string());
                            tracing::warn!(nats.url = %config.url, error, "waiting for NATS: start it, or check nats.url");
                        }
                        waited += 1;
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                },
            }
        };
        let (major, minor, patch) = MIN_SERVER;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(ConnectFailure::TooOld { found: client.server_info().version });
        }
        tracing::info!("connected to NATS");
        // Read after the first connection, which is none that came back.
        let link = Arc::new(watch::Sender::new(link::read(&client, Link::default())));
        let mut following = JoinSet::new();
        following.spawn(link::follow(client.clone(), Arc::clone(&link), signals, health.clone()));
        let jetstream = ContextBuilder::new()
            .timeout(config.ack_timeout)
            .ack_timeout(config.ack_timeout)
            .max_ack_inflight(in_flight)
            .backpressure_on_inflight(wait_when_full)
            .build(client.clone());
        let subjects = Subjects::new(&config.prefix);
        let barrier = Barrier::new(client.clone(), subjects.barrier(), link.subscribe());
        let room = Room::new(in_flight, wait_when_full);
        let passing = Passing::new(barrier, room.clone());
        let following = Arc::new(following);
        Ok(Self {
            client,
            jetstream,
            subjects,
            link,
            health,
            passing,
            room,
            in_flight,
            wait_when_full,
            _following: following,
        })
    }

    /// Returns the library's client, for subscriptions and requests.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the library's JetStream context, for streams and consumers.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Whether the server is reachable now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The number of the connection to the broker: how often this process was connected so far. Messages that it receives come over
    /// this connection or an earlier one.
    pub fn connection_number(&self) -> u64 {
        barrier::connection_number(&self.client.statistics())
    }

    /// Returns a receiver that follows the connection.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Reports each possible loss of messages from now on.
    pub fn losses(&self) -> Losses {
        Losses::new(self.link())
    }

    /// The faults of the broker that this connection has met.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Publishes a message to the stream of `subject`. Returns once it is sent; calls keep their order.
    ///
    /// Refused while disconnected: the library would buffer the message and send it after the caller received the refusal.
    pub async fn publish(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<Sent, Refusal> {
        if !self.is_connected() {
            return Err(Refusal::Unavailable("not connected to NATS".to_owned()));
        }
        self.check_size(&headers, body.len())?;
        if let Some(subject) = self.passing.subject(&self.subjects, &subject) {
            let acknowledgement = Acknowledgement::Server(self.pass(subject, headers, body).await?);
            return Ok(Sent { acknowledgement, stream: None, health: self.health.clone() });
        }
        let route = envelope::get(&headers, header::ROUTE);
        let stream = topology::stream_of(&self.subjects, &subject, route);
        let message = PublishMessage::build().payload(body).headers(headers);
        match self.jetstream.send_publish(subject, message).await {
            Ok(acknowledgement) => {
                let acknowledgement = Acknowledgement::Stream(acknowledgement);
                Ok(Sent { acknowledgement, stream, health: self.health.clone() })
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Checks that the broker takes a message of this size.
    pub fn check_size(&self, headers: &HeaderMap, body: usize) -> Result<(), Refusal> {
        size::check(headers_len(headers), body, self.client.max_payload())
    }

    /// Publishes a message and waits for its acknowledgement.
    pub async fn store(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<Stored, Refusal> {
        self.publish(subject, headers, body).await?.stored().await
    }

    /// Reads the facts of a stream.
    pub async fn stream_facts(&self, stream: &str) -> Result<StreamFacts, Refusal> {
        let found = self.jetstream.get_stream(stream).await;
        if self.is_connected() {
            self.health.read(stream, &found.as_ref().map_err(health::unknown_stream));
        }
        let stream = found.map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let info = stream.cached_info();
        Ok(StreamFacts {
            epoch: topology::epoch(info),
            first_seq: info.state.first_sequence,
            last_seq: info.state.last_sequence,
            kept: KeptMessages::of(&info.config),
            origin_epoch: topology::origin_epoch(&info.config).map(str::to_owned),
        })
    }

    /// Reads how many bytes a stream has and may have. Without a limit the second number is 0.
    pub async fn stream_room(&self, stream: &str) -> Result<(u64, u64), Refusal> {
        let stream =
            self.jetstream.get_stream(stream).await.map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let info = stream.cached_info();
        Ok((info.state.bytes, u64::try_from(info.config.max_bytes).unwrap_or(0)))
    }
}

fn servers(url: &str) -> Vec<String> {
    url.split(',').map(|server| server.trim().to_owned()).collect()
}

fn options(
    config: &NatsConfig,
    user: &NatsUser,
    name: &str,
    signals: &Arc<Signals>,
    health: &Health,
) -> ConnectOptions {
    let (signals, health) = (Arc::clone(signals), health.clone());
    ConnectOptions::with_user_and_password(user.user.clone(), user.password.expose().to_owned())
        .name(name)
        .custom_inbox_prefix(format!("_INBOX_{}", user.user))
        .ping_interval(config.ping_interval)
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(config.ack_timeout))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let (signals, health) = (Arc::clone(&signals), health.clone());
            async move { report(&event, &signals, &health) }
        })
}

/// At most half a second: the library's own delay grows to 4 s, which clients would notice after a short restart.
fn reconnect_delay(attempt: usize) -> Duration {
    let base = (50 * attempt as u64).min(500);
    Duration::from_millis(base / 2 + rand::random_range(0..=base / 2))
}

/// The state of the connection is read where [`link::follow`] does it: events may be lost.
fn report(event: &Event, signals: &Signals, health: &Health) {
    match event {
        Event::Connected | Event::Disconnected | Event::Closed => signals.changed(),
        Event::ServerError(error) => {
            if !health.refused(error) {
                tracing::error!(%error, "NATS refused an operation");
            }
        }
        Event::ClientError(error) => tracing::warn!(%error, "NATS client error"),
        Event::SlowConsumer(id) => {
            if signals.dropped() {
                tracing::warn!(
                    subscription.id = id,
                    "messages dropped: a subscription is not read fast enough"
                );
            }
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "NATS"),
    }
}
