//! Pulling messages from one consumer: ask for a number of messages, take them as they arrive, ask again.
//!
//! The message streams of async-nats are not used: they ask for more messages than there are free permits, and one of their
//! batches stalls at a heartbeat. Closing drains the subscription, so that no message that was sent is lost in a buffer.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{Broker, Link};
use crate::fault::{Place, Problem};

/// How long a pull stays open when no message arrives.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker confirms that a pull is still open.
const HEARTBEAT: Duration = Duration::from_secs(5);
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
        let (expires, heartbeat) = (nanos(EXPIRES), nanos(HEARTBEAT));
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

    /// Ends the subscription and returns the messages that the broker had sent already.
    pub async fn close(mut self) -> Vec<jetstream::Message> {
        let mut rest = Vec::new();
        let Some(mut subscriber) = self.subscriber.take() else { return rest };
        if subscriber.drain().await.is_err() {
            return rest;
        }
        while let Ok(Some(message)) = timeout(CLOSING, subscriber.next()).await {
            if message.status.is_none_or(|status| status == StatusCode::OK) {
                rest.push(self.delivered(message));
            }
        }
        rest
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
