//! One consumer, pulled by hand: ask for some messages, take them as they come, ask again.
//!
//! Not the library's streams: those ask ahead of what is free, and a batch of theirs stalls at a heartbeat. Here a message
//! that was sent is never lost in a buffer either: closing drains the subscription.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use futures_util::StreamExt;
use serde_json::json;
use tidegate_shared::broker::Broker;
use tokio::{sync::watch, time::timeout};

/// How long one pull stays open when nothing comes.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker says that a pull is still open.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long draining the subscription may take.
const CLOSING: Duration = Duration::from_secs(2);

/// The messages of one consumer.
#[derive(Debug)]
pub(crate) struct Puller {
    broker: Broker,
    connection: watch::Receiver<bool>,
    next_subject: String,
    inbox: String,
    subscriber: Option<Subscriber>,
    /// Pulls are numbered in their inbox, so that a late word about an old one is not taken for the current one's.
    pull: u64,
    outstanding: usize,
}

/// Why a pull ended early. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error("the connection to NATS was interrupted")]
    Disconnected,
    #[error("no heartbeat for {} s", (HEARTBEAT * 2).as_secs())]
    Silent,
    #[error("{0}")]
    Refused(String),
}

impl Puller {
    pub(crate) fn new(broker: Broker, stream: &str, consumer: &str) -> Self {
        Self {
            connection: broker.connection(),
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox: broker.client().new_inbox(),
            subscriber: None,
            pull: 0,
            outstanding: 0,
            broker,
        }
    }

    /// Asks for up to `wanted` messages, once the broker is there.
    pub(crate) async fn ask(&mut self, wanted: usize) -> Result<(), PullError> {
        let up = self.connection.wait_for(|up| *up).await.is_ok();
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

    /// The next message of the pull; none when the pull is over. May be dropped while it waits without losing a message.
    pub(crate) async fn next(&mut self) -> Result<Option<jetstream::Message>, PullError> {
        while self.outstanding > 0 {
            let Some(subscriber) = &mut self.subscriber else { return Err(PullError::Disconnected) };
            let message = tokio::select! {
                biased;
                message = timeout(HEARTBEAT * 2, subscriber.next()) => message.map_err(|_| PullError::Silent)?,
                // Down or up again: either way the broker no longer knows of this pull.
                _ = self.connection.changed() => return Err(PullError::Disconnected),
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
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(_) if !self.is_current(&message) => {}
                Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => break,
                Some(StatusCode::NO_RESPONDERS) => {
                    return Err(PullError::Refused("no such consumer, or no leader for it".to_owned()));
                }
                Some(status) => {
                    let description = message.description.unwrap_or_default();
                    return Err(PullError::Refused(format!("{status} {description}")));
                }
            }
        }
        Ok(None)
    }

    /// Ends the subscription and returns what the broker had sent already.
    pub(crate) async fn close(mut self) -> Vec<jetstream::Message> {
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
