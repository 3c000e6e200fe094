//! Acknowledgements that are sent at the same time: the broker confirms the last one of a consumer, which confirms those before it.
//!
//! It works them off in the order in which they come over one connection. If that is not certain, nothing is confirmed, and each is
//! sent again alone.

use std::collections::HashMap;

use async_nats::{Subject, jetstream};
use futures_util::future::join_all;
use tidegate_shared::broker::Broker;
use tokio::sync::oneshot;

use crate::gather::Gather;

/// The most acknowledgements of one confirmation.
const MOST: usize = 256;

/// Sends acknowledgements.
#[derive(Debug)]
pub(crate) struct Acks(Gather<Ack>);

#[derive(Debug)]
struct Ack {
    /// The stream and the consumer.
    consumer: (String, String),
    reply: Subject,
    confirmed: oneshot::Sender<bool>,
}

impl Acks {
    /// Starts on this runtime.
    pub(crate) fn start(broker: &Broker) -> Self {
        let broker = broker.clone();
        Self(Gather::start(MOST, move |acks| send(broker.clone(), acks)))
    }

    /// Acknowledges a message. Returns whether the broker has confirmed it.
    pub(crate) async fn send(&self, message: &jetstream::Message) -> bool {
        let (Some(reply), Ok(info)) = (message.reply.clone(), message.info()) else { return false };
        let consumer = (info.stream.to_owned(), info.consumer.to_owned());
        let (confirmed, hears) = oneshot::channel();
        self.0.add(Ack { consumer, reply, confirmed }).await;
        hears.await.unwrap_or(false)
    }
}

async fn send(broker: Broker, acks: Vec<Ack>) {
    let mut consumers: HashMap<_, Vec<_>> = HashMap::new();
    for Ack { consumer, reply, confirmed } in acks {
        consumers.entry(consumer).or_default().push((reply, confirmed));
    }
    let broker = &broker;
    let all = consumers.into_values().map(|acks| async move {
        let (replies, waiting): (Vec<_>, Vec<_>) = acks.into_iter().unzip();
        let is_confirmed = confirm(broker, replies).await;
        for one in waiting {
            // It may have been cut off.
            let _ = one.send(is_confirmed);
        }
    });
    join_all(all).await;
}

/// Whether the broker has all of these acknowledgements, which are for one consumer.
async fn confirm(broker: &Broker, mut replies: Vec<Subject>) -> bool {
    let Some(last) = replies.pop() else { return true };
    let connection = broker.connection_number();
    for reply in replies {
        if broker.client().publish(reply, "+ACK".into()).await.is_err() {
            return false;
        }
    }
    let confirmed = broker.client().request(last, "+ACK".into()).await;
    // What was sent over another connection may be lost, although the last one came through.
    confirmed.is_ok() && broker.connection_number() == connection
}
