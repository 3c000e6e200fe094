//! Stores what clients send in JetStream. Never acknowledges a message before the broker has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Committer, Handed, LastReads, Passed, Refusal, Stored, ToCommit, ToStore},
    channel::Channel,
    config::{Config, Match, Order},
    enqueue::StoredRequest,
    envelope::{self, Request},
    header,
    id::random_token,
    protocol::{
        ClientInfo, Error,
        codes::{self, ErrorCode},
    },
    subject::Subjects,
    topology::{PARK, REPLY, channel_stream, request_stream},
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    cache::Cache,
    turn::{Turn, Turns},
    waiting::Waiting,
};
use crate::metrics::Metrics;

/// Pause before a publish is retried when the stream has no leader.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Stores requests and publications in JetStream.
pub(crate) struct Store {
    pub(super) broker: Broker,
    pub(super) subjects: Subjects,
    pub(super) waiting: Waiting,
    pub(super) cache: Arc<Cache>,
    pub(super) metrics: Metrics,
    /// The routes with a strict order.
    strict: HashSet<String>,
    /// Reads stored answers, and parked requests.
    pub(super) answers: LastReads,
    pub(super) parked: LastReads,
    /// One for the stream of each route, by its name.
    requests: HashMap<String, Committer>,
    /// One for the stream of each namespace with history, by its name.
    publications: HashMap<String, Committer>,
}

/// What a client publishes.
pub(crate) struct Publishing {
    pub(crate) channel: Channel,
    pub(crate) data: Bytes,
    pub(crate) info: Box<ClientInfo>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// How a message is stored.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Among those of its stream; `None` if it is sent by itself.
    committer: Option<&'a Committer>,
    /// Whether its stream keeps one message on its subject.
    once: bool,
    /// Whether its sender may send it again.
    keyed: bool,
    /// Whether its id was drawn here: nobody else can send it again.
    drawn: bool,
}

impl Store {
    pub(crate) fn new(
        broker: Broker,
        subjects: Subjects,
        waiting: Waiting,
        cache: Arc<Cache>,
        metrics: Metrics,
        config: &Config,
    ) -> Self {
        let strict = config.routes.iter().filter(|route| route.order == Order::Strict);
        let strict = strict.map(|route| route.name.clone()).collect();
        let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
        let committer = |name: &String, stream| (name.clone(), Committer::start(&broker, stream));
        let requests = stored.map(|route| committer(&route.name, request_stream(&route.name))).collect();
        let namespaces = config.all_namespaces();
        let kept = namespaces.iter().filter(|namespace| namespace.has_history());
        let publications = kept.map(|kept| committer(&kept.name, channel_stream(&kept.name))).collect();
        let [answers, parked] = [REPLY, PARK].map(|stream| LastReads::start(&broker, stream));
        Self { broker, subjects, waiting, cache, metrics, strict, answers, parked, requests, publications }
    }

    /// Stores a message that has no reply.
    pub(crate) async fn send(&self, request: Request, turn: Turn, deadline: Instant) -> Result<(), Error> {
        let (turn, _held) = self.in_order(&request, turn, deadline).await?;
        self.store_request(&request, None, request.id.as_str(), turn, deadline).await.map(|_| ())
    }

    /// Splits the turn of a request. On a route with a strict order nothing of the connection may overtake it: it waits until
    /// everything before it is settled, and the second turn, which the caller keeps until the request is settled, holds up
    /// everything behind it.
    pub(super) async fn in_order(
        &self,
        request: &Request,
        mut turn: Turn,
        deadline: Instant,
    ) -> Result<(Turn, Option<Turn>), Error> {
        if !self.strict.contains(&request.route) {
            return Ok((turn, None));
        }
        match timeout_at(deadline, turn.come()).await {
            Ok(()) => Ok((Turns::default().next(), Some(turn))),
            Err(_) => Err(refused(&Refusal::Busy, false, request.id.is_keyed())),
        }
    }

    /// Stores a publication.
    pub(crate) async fn publish(
        &self,
        publishing: &Publishing,
        turn: Turn,
        deadline: Instant,
    ) -> Result<(), Error> {
        let committer = self.publications.get(publishing.channel.namespace());
        // Where nothing is kept, nothing is deduplicated.
        let id = committer.map(|_| random_token::<16>());
        let message = || {
            let subject = self.subjects.channel(&publishing.channel);
            (subject, publication_headers(id.as_deref(), publishing), publishing.data.clone())
        };
        let how = How { committer, once: false, keyed: false, drawn: true };
        self.store_as(how, message, turn, deadline).await.map(|_| self.metrics.published(1))
    }

    /// Sends a publication of a namespace without history at once. The caller makes sure that nothing waits for its turn before it.
    /// `None` if [`Store::publish`] has to do it.
    pub(crate) fn pass(&self, publishing: &Publishing) -> Option<Passed> {
        if self.publications.contains_key(publishing.channel.namespace()) {
            return None;
        }
        let (subject, headers) =
            (self.subjects.channel(&publishing.channel), publication_headers(None, publishing));
        self.broker.pass_now(&subject, headers, publishing.data.clone())
    }

    /// What a client is told about publications that were sent by [`Store::pass`].
    pub(crate) fn passed(&self, passed: &Passed, count: usize, answered: bool) -> Result<(), Error> {
        passed.outcome(answered).map_err(|refusal| refused(&refusal, true, false))?;
        self.metrics.published(count);
        Ok(())
    }

    /// Stores a publication of a service. Retries with the same id are stored once; without an id nobody can repeat it.
    pub(crate) async fn store_publication(
        &self,
        channel: &Channel,
        id: Option<&str>,
        extra: &[(String, String)],
        data: Bytes,
        deadline: Instant,
    ) -> Result<Stored, Error> {
        let mut headers = HeaderMap::new();
        let own = if id.is_none() { random_token::<16>() } else { String::new() };
        headers.insert(header::MSG_ID, id.unwrap_or(&own));
        for (name, value) in extra {
            headers.insert(name.as_str(), value.as_str());
        }
        let message = || (self.subjects.channel(channel), headers.clone(), data.clone());
        let how = How {
            committer: self.publications.get(channel.namespace()),
            once: false,
            keyed: true,
            drawn: id.is_none(),
        };
        // A service has no earlier message that it would have to wait for.
        self.store_as(how, message, Turns::default().next(), deadline).await
    }

    /// Stores a request. `due` is when it may be worked on, `message_id` what the broker deduplicates by.
    pub(super) async fn store_request(
        &self,
        request: &Request,
        due: Option<SystemTime>,
        message_id: &str,
        turn: Turn,
        deadline: Instant,
    ) -> Result<Stored, Error> {
        let message = || {
            let StoredRequest { subject, headers, body } = request.stored(&self.subjects, due, message_id);
            (subject, headers, body)
        };
        let (waits, keyed) = (due.is_none(), request.id.is_keyed());
        let committer = waits.then(|| self.requests.get(&request.route)).flatten();
        let how = How { committer, once: true, keyed, drawn: request.id.is_drawn() };
        self.store_as(how, message, turn, deadline).await
    }

    /// Publishes a message that is in no order with others until the broker stores or refuses it, or the deadline is near. Retries
    /// carry the same message id.
    pub(super) async fn store(
        &self,
        message: impl Fn() -> ToStore,
        turn: Turn,
        deadline: Instant,
        keyed: bool,
    ) -> Result<Stored, Error> {
        self.store_as(How { committer: None, once: false, keyed, drawn: false }, message, turn, deadline)
            .await
    }

    /// As [`Store::store`]. Behind the messages of its committer, if it has one; a retry is sent by itself.
    async fn store_as(
        &self,
        how: How<'_>,
        message: impl Fn() -> ToStore,
        turn: Turn,
        deadline: Instant,
    ) -> Result<Stored, Error> {
        let How { mut committer, keyed, .. } = how;
        let mut turn = Some(turn);
        if let Some(turn) = &mut turn
            && timeout_at(deadline, turn.come()).await.is_err()
        {
            return Err(refused(&Refusal::Busy, false, keyed));
        }
        let mut maybe_stored = false;
        loop {
            let sending = self.send_as(how, committer.take(), message(), deadline);
            let sent = timeout_at(deadline, sending).await.unwrap_or(Err(Refusal::Busy));
            // It has its place, or is refused: passes the turn to the connection's next message.
            turn.take();
            let stored = match sent {
                Ok(sent) => {
                    let late = sent.unacknowledged();
                    tokio::select! {
                        biased;
                        stored = sent.stored() => stored,
                        () = sleep_until(deadline) => Err(late),
                    }
                }
                Err(refusal) => Err(refusal),
            };
            let refusal = match stored {
                Ok(stored) => return Ok(stored),
                // Only this request uses this subject, so an earlier copy of it is stored.
                Err(Refusal::Taken) => return Ok(Stored { seq: 0, duplicate: true }),
                Err(refusal) => refusal,
            };
            maybe_stored |= matches!(refusal, Refusal::Unknown | Refusal::Unconfirmed);
            let again = match refusal {
                Refusal::Unknown => true,
                Refusal::Unavailable(_) => maybe_stored || self.broker.is_connected(),
                // Waiting for room would reorder this connection's messages.
                Refusal::Busy => maybe_stored,
                // What is unconfirmed is remembered nowhere: it would be stored or published twice.
                Refusal::Full
                | Refusal::Taken
                | Refusal::Unconfirmed
                | Refusal::TooLarge { .. }
                | Refusal::Rejected(_) => false,
            };
            if !again || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(refused(&refusal, maybe_stored, keyed));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn send_as(
        &self,
        How { once, drawn, .. }: How<'_>,
        committer: Option<&Committer>,
        message: ToStore,
        deadline: Instant,
    ) -> Result<Handed, Refusal> {
        if let Some(committer) = committer {
            return committer.hand_over(ToCommit { message, once, drawn, deadline: Some(deadline) }).await;
        }
        let (subject, headers, body) = message;
        self.broker.publish(subject, headers, body).await.map(Handed::from)
    }
}

fn publication_headers(id: Option<&str>, publishing: &Publishing) -> HeaderMap {
    let Publishing { info, tags, .. } = publishing;
    let mut headers = HeaderMap::new();
    // A name that is known at compile time is not copied.
    let known = HeaderName::from_static;
    if let Some(id) = id {
        headers.insert(known(header::MSG_ID), id);
    }
    headers.insert(known(header::CLIENT), info.client.as_str());
    if !info.user.is_empty() {
        headers.insert(known(header::USER), info.user.as_str());
    }
    for (name, json) in [(header::INFO, &info.conn_info), (header::CHANNEL_INFO, &info.chan_info)] {
        if !json.is_empty() {
            headers.insert(known(name), envelope::one_line(&String::from_utf8_lossy(json)));
        }
    }
    for (name, value) in tags {
        headers.insert(format!("{}{name}", header::TAG_PREFIX), envelope::one_line(value));
    }
    headers
}

fn refused(refusal: &Refusal, maybe_stored: bool, keyed: bool) -> Error {
    let code: ErrorCode = if maybe_stored { codes::OUTCOME_UNKNOWN } else { codes::NOT_ACCEPTED };
    let error = match refusal {
        Refusal::TooLarge { .. } if !maybe_stored => return codes::LIMIT_EXCEEDED.because(refusal),
        // Trying again does not help.
        Refusal::Rejected(_) if !maybe_stored => {
            return Error { code: code.code, message: format!("not accepted: {refusal}"), temporary: false };
        }
        _ => code.because(refusal),
    };
    let temporary = match refusal {
        Refusal::Rejected(_) | Refusal::TooLarge { .. } | Refusal::Unconfirmed => false,
        _ if maybe_stored => keyed,
        _ => true,
    };
    Error { temporary, ..error }
}
