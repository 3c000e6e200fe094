//! Pulling messages from one consumer: ask for a number of messages, take them as they arrive, ask again.
//!
//! The message streams of async-nats are not used: they ask for more messages than there are free permits, and one of their
//! batches stalls at a heartbeat. The end drains the subscription, so that no message that was sent is lost in a buffer.
//!
//! A single server forgets a pull whose subscriber is gone. In a cluster the consumer's leader may be another server than the one of
//! the subscriber, and it cannot tell where a pull came through the border of an account: it would deliver to nobody until the pull
//! is over. So pulls are short there, and the subscriber outlives the last one.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{Broker, Link};
use crate::fault::{Place, Problem};

/// How long a pull stays open when no message arrives, and how often the broker confirms that it is still open.
const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The same in a cluster.
const CLUSTER_EXPIRES: Duration = Duration::from_secs(5);
const CLUSTER_HEARTBEAT: Duration = Duration::from_secs(2);
/// How much later than its end the broker may say that a pull is over.
const LATE: Duration = Duration::from_millis(500);
/// How long draining the subscription may take.
const CLOSING: Duration = Duration::from_secs(2);

/// What the broker says to an open pull when its consumer is deleted.
const CONSUMER_DELETED: &str = "Consumer Deleted";

/// Pulls the messages of one consumer.
#[derive(Debug)]
pub struct Puller {
    broker: Broker,
    link: watch::Receiver<Link>,
    place: Place,
    next_subject: String,
    inbox: String,
    subscriber: Option<Subscriber>,
    /// The number of the current pull. It is part of the pull's inbox, so that a late status of an earlier pull is ignored.
    pull: u64,
    /// Messages of the current pull that have not arrived.
    outstanding: usize,
    /// When the current pull is over, whatever the broker says.
    over_at: Instant,
    /// The subscription is being drained.
    ends: bool,
}

/// Why a pull ended early. The caller may pull again after any of these.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The broker has forgotten the pull.
    #[error("the connection to NATS was interrupted")]
    Disconnected,
    /// The broker does not say that the pull is open.
    #[error("no heartbeat for {} s", (HEARTBEAT * 2).as_secs())]
    NoHeartbeat,
    /// There is nothing to pull from.
    #[error("the consumer does not exist or has no leader")]
    NoConsumer,
    /// Any other reason.
    #[error("{0}")]
    Refused(String),
}

impl Puller {
    /// A puller of one consumer. It asks for nothing yet.
    pub fn new(broker: Broker, stream: &str, consumer: &str) -> Self {
        Self {
            link: broker.link(),
            place: Place::Pull { stream: stream.to_owned(), consumer: consumer.to_owned() },
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox: broker.client().new_inbox(),
            subscriber: None,
            pull: 0,
            outstanding: 0,
            over_at: Instant::now(),
            ends: false,
            broker,
        }
    }

    /// Begins a pull of up to `wanted` messages. Waits while NATS is disconnected.
    pub async fn ask(&mut self, wanted: usize) -> Result<(), PullError> {
        let up = self.link.wait_for(|link| link.up).await.is_ok();
        if !up {
            return Err(PullError::Disconnected);
        }
        let client = self.broker.client();
        if self.subscriber.is_none() {
            let subscriber = client.subscribe(format!("{}.*", self.inbox)).await;
            self.subscriber = Some(subscriber.map_err(|error| PullError::Refused(error.to_string()))?);
        }
        self.pull += 1;
        self.outstanding = wanted;
        let (expires, heartbeat) =
            if self.is_clustered() { (CLUSTER_EXPIRES, CLUSTER_HEARTBEAT) } else { (EXPIRES, HEARTBEAT) };
        self.over_at = Instant::now() + expires + LATE;
        let (expires, heartbeat) = (nanos(expires), nanos(heartbeat));
        let pull = json!({ "batch": wanted, "expires": expires, "idle_heartbeat": heartbeat }).to_string();
        let inbox = format!("{}.{}", self.inbox, self.pull);
        let sent = client.publish_with_reply(self.next_subject.clone(), inbox, pull.into()).await;
        sent.map_err(|error| PullError::Refused(error.to_string()))
    }

    /// The next message of the pull. `None` when the pull is over. Cancel safe: a dropped call loses no message.
    pub async fn next(&mut self) -> Result<Option<jetstream::Message>, PullError> {
        let next = self.next_in_pull().await;
        let problem = match &next {
            Ok(_) => None,
            Err(PullError::Disconnected) => return next,
            Err(PullError::NoConsumer) => Some(Problem::Missing),
            Err(PullError::NoHeartbeat) => Some(Problem::Silent),
            Err(PullError::Refused(text)) => Some(Problem::Failing(text.clone())),
        };
        self.note(problem);
        next
    }

    /// Notes whether the consumer delivers.
    fn note(&self, problem: Option<Problem>) {
        match problem {
            None => {
                self.broker.health().works(|| self.place.clone());
                self.broker.health().works(|| Place::Publish(self.next_subject.clone()));
            }
            Some(problem) => self.broker.health().met(&self.place, problem),
        }
    }

    async fn next_in_pull(&mut self) -> Result<Option<jetstream::Message>, PullError> {
        while self.outstanding > 0 {
            let Some(subscriber) = &mut self.subscriber else { return Err(PullError::Disconnected) };
            let message = tokio::select! {
                biased;
                message = timeout(HEARTBEAT * 2, subscriber.next()) => message.map_err(|_| PullError::NoHeartbeat)?,
                // The connection went down or up: the broker has forgotten this pull either way.
                _ = self.link.changed() => return Err(PullError::Disconnected),
            };
            let Some(message) = message else {
                self.subscriber = None;
                return Err(PullError::Disconnected);
            };
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.outstanding -= 1;
                    return Ok(Some(self.delivered(message)));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => self.note(None),
                Some(_) if !self.is_current(&message) => {}
                Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => break,
                Some(StatusCode::NO_RESPONDERS) => return Err(PullError::NoConsumer),
                Some(status) => {
                    let description = message.description.unwrap_or_default();
                    if description.eq_ignore_ascii_case(CONSUMER_DELETED) {
                        return Err(PullError::NoConsumer);
                    }
                    return Err(PullError::Refused(format!("{status} {description}")));
                }
            }
        }
        Ok(None)
    }

    /// The next message that the broker has sent already, or sends to the pull that it still has. For who asks for no more. `None` at
    /// the end. Cancel safe, but what was sent and is not taken stays with the broker until its `ack_wait` is over.
    pub async fn rest(&mut self) -> Option<jetstream::Message> {
        let stays_open = self.is_clustered();
        loop {
            let subscriber = self.subscriber.as_mut()?;
            let open = stays_open && !self.ends && self.outstanding > 0;
            if !open && !self.ends {
                self.ends = true;
                subscriber.drain().await.ok()?;
            }
            let until = if open { self.over_at } else { Instant::now() + CLOSING };
            match timeout_at(until, subscriber.next()).await {
                Ok(Some(message)) if message.status.is_none_or(|status| status == StatusCode::OK) => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    return Some(self.delivered(message));
                }
                Ok(Some(status)) if status.status == Some(StatusCode::IDLE_HEARTBEAT) => {}
                Ok(Some(status)) if self.is_current(&status) => self.outstanding = 0,
                Ok(Some(_)) => {}
                Err(_) if open => self.outstanding = 0,
                Ok(None) | Err(_) => self.subscriber = None,
            }
        }
    }

    fn is_clustered(&self) -> bool {
        self.broker.client().server_info().cluster.is_some_and(|name| !name.is_empty())
    }

    fn is_current(&self, status: &Message) -> bool {
        status.subject.rsplit('.').next().and_then(|pull| pull.parse().ok()) == Some(self.pull)
    }

    fn delivered(&self, message: Message) -> jetstream::Message {
        jetstream::Message { message, context: self.broker.jetstream().clone() }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
