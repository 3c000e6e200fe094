//! Publications of namespaces without history: no stream takes them, so the server is asked whether it has them.
//!
//! Decides by the subject alone. Keeps nothing for later: while the server is away, a publication is refused at once.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Broker, Refusal,
    barrier::{Barrier, Question, connection_number},
    committer::{Place, Room},
};
use crate::{
    config::Config,
    fault::{self, Fault, Problem},
    subject::Subjects,
};
use async_nats::{HeaderMap, Statistics};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join_all};

/// What no channel is called in subjects: no token begins with `=r`.
const NOBODY: &str = "=right";

/// How publications pass the streams by.
#[derive(Debug, Clone)]
pub(super) struct Passing {
    /// The namespaces without history.
    namespaces: Arc<[String]>,
    /// Whether this program publishes where gateways listen, as they themselves do.
    directly: bool,
    pub(super) barrier: Arc<Barrier>,
    /// Shared with the messages of all streams.
    room: Room,
}

/// A publication of a namespace without history that was sent, and that the server has not confirmed; or several of them.
#[derive(Debug)]
pub struct Passed {
    /// The connection over which it was sent.
    connection: u64,
    /// How many errors the server had reported before.
    errors: u64,
    link: Arc<Statistics>,
    question: Arc<Question>,
    room: Place,
}

impl Passing {
    /// The publications that are unconfirmed have their places in this room.
    pub(super) fn new(barrier: Arc<Barrier>, room: Room) -> Self {
        Self { namespaces: Arc::default(), directly: false, barrier, room }
    }

    /// The subject on which a message is published past the streams. `None` for one that a stream takes.
    pub(super) fn subject(&self, subjects: &Subjects, subject: &str) -> Option<String> {
        let mut words = subjects.words(subject).filter(|_| !self.namespaces.is_empty())?;
        let (kind, namespace, channel) = (words.next()?, words.next()?, words.next()?);
        if kind != "ch" || !self.namespaces.iter().any(|known| known == namespace) {
            return None;
        }
        Some(if self.directly { subjects.live_of(namespace, channel) } else { subject.to_owned() })
    }
}

impl Broker {
    /// The same connection, over which publications of namespaces without history pass the streams by. `directly` is for gateways:
    /// they publish where gateways listen, every other program where its account brings it there.
    #[must_use]
    pub fn past_streams(mut self, config: &Config, directly: bool) -> Self {
        let namespaces = config.all_namespaces().into_iter().filter(|namespace| !namespace.has_history());
        self.passing.namespaces = namespaces.map(|namespace| namespace.name).collect();
        self.passing.directly = directly;
        self
    }

    /// Waits until the server has processed everything sent before, subscriptions included. Those who wait at the same time share
    /// the question.
    pub async fn settled(&self) -> Result<(), Refusal> {
        if self.passing.barrier.begin().answered().await { Ok(()) } else { Err(super::barrier::unanswered()) }
    }

    /// The rights to publish past the streams that this program lacks.
    pub(super) async fn lacking_past_streams(&self) -> Vec<String> {
        if let Some(lacking) = self.may_not_ask().await {
            return vec![lacking];
        }
        let namespaces = self.passing.namespaces.iter().filter(|_| self.passing.directly);
        let heard = namespaces.map(|namespace| async move {
            let subject = self.subjects.live_of(namespace, NOBODY);
            let mut own = self.client.subscribe(subject.clone()).await.ok()?;
            self.client.publish(subject.clone(), Bytes::new()).await.ok()?;
            // A server that does not answer says nothing about rights.
            self.settled().await.ok()?;
            own.next().now_or_never().is_none().then_some(subject)
        });
        let lacking = join_all(heard).await.into_iter().flatten();
        lacking.map(|subject| format!("{subject}: it may not publish there, or not listen")).collect()
    }

    /// The right to ask the server whether it has a publication, if this program needs it and lacks it.
    async fn may_not_ask(&self) -> Option<String> {
        if self.passing.namespaces.is_empty() || self.settled().await.is_ok() {
            return None;
        }
        // A server that is slow or away says nothing about rights.
        let barrier = fault::Place::Publish(self.subjects.barrier());
        let forbidden = |fault: &Fault| fault.problem == Problem::Forbidden && fault.place == barrier;
        let open = self.health.open();
        open.iter().any(forbidden).then(|| {
            format!("{}: it may not ask there whether the server has a publication", self.subjects.barrier())
        })
    }

    /// Sends a publication of a namespace without history at once, behind everything sent before. `None` if it cannot be sent at
    /// once, or not at all: [`Broker::publish`] waits, and says why.
    pub fn pass_now(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Option<Passed> {
        let subject = self.passing.subject(&self.subjects, subject)?;
        if !self.is_connected() || self.check_size(&headers, body.len()).is_err() {
            return None;
        }
        self.pass(subject, headers, body).now_or_never()?.ok()
    }

    /// Sends a publication that no stream takes. Calls keep their order.
    pub(super) async fn pass(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Passed, Refusal> {
        let Passing { barrier, room, .. } = &self.passing;
        let room = room.place().await?;
        let link = self.client.statistics();
        let (connection, errors) = (connection_number(&link), server_errors(&link));
        let sent = if headers.is_empty() {
            self.client.publish(subject, body).await
        } else {
            self.client.publish_with_headers(subject, headers, body).await
        };
        sent.map_err(|error| Refusal::Unavailable(error.to_string()))?;
        Ok(Passed { connection, errors, link, question: barrier.begin(), room })
    }
}

impl Passed {
    /// Makes one of two that wait for the same question. Gives the other one back if they do not.
    pub fn join(&mut self, other: Self) -> Option<Self> {
        let alike = Arc::ptr_eq(&self.question, &other.question)
            && (self.connection, self.errors) == (other.connection, other.errors);
        if !alike {
            return Some(other);
        }
        self.room.join(other.room);
        None
    }

    /// Waits until the server has answered, or cannot any more. [`Passed::outcome`] says what that means.
    pub fn answered(&self) -> impl Future<Output = bool> + Send + use<> {
        let question = Arc::clone(&self.question);
        async move { question.answered().await }
    }

    /// Whether the server has the publication, now that it has answered or not.
    pub fn outcome(&self, answered: bool) -> Result<(), Refusal> {
        // The server says that it refuses a publication, but not which one.
        let refused = server_errors(&self.link) != self.errors;
        if answered && !refused && connection_number(&self.link) == self.connection {
            Ok(())
        } else {
            Err(Refusal::Unconfirmed)
        }
    }

    /// Waits until the server has the publication.
    pub(super) async fn taken(self) -> Result<(), Refusal> {
        let answered = self.question.answered().await;
        self.outcome(answered)
    }
}

fn server_errors(link: &Statistics) -> u64 {
    link.server_errors.load(Ordering::Acquire)
}
