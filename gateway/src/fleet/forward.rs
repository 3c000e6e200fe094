//! Forwards posted commands of streaming clients: they reach any gateway, and go to the one that holds the session.
//!
//! A NATS request on the owner's subject carries them. Never looks into the commands, and never confirms them before
//! the owner has them.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    broker::Broker,
    id::GatewayId,
    lifecycle::Lifecycle,
    protocol::{EmulationRequest, protobuf},
    sparse::Sparse,
    subject::Subjects,
};
use tokio::time::timeout;

use super::sessions::{Inbox, Sessions, Undelivered};

/// How long another gateway may take: longer than `OFFER_LIMIT` of its sessions.
const FORWARD_LIMIT: Duration = Duration::from_secs(2);
/// Requests of other gateways served at a time. Further ones wait until their sender times out.
const SERVED: usize = 256;

/// Delivers posted commands to sessions on all gateways.
pub(crate) struct Emulation {
    gateway: GatewayId,
    broker: Broker,
    subjects: Subjects,
    sessions: Arc<Sessions>,
}

impl Emulation {
    /// Starts to serve commands that other gateways forward. Returns once the broker has the subscription.
    pub(crate) async fn start(
        gateway: GatewayId,
        broker: Broker,
        subjects: Subjects,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Arc<Self>> {
        let requests = broker.client().subscribe(subjects.emulate(&gateway)).await?;
        broker.settled().await?;
        let sessions = Arc::new(Sessions::default());
        let serving = serve(requests, broker.client().clone(), Arc::clone(&sessions));
        let finishing = lifecycle.clone();
        lifecycle.spawn_essential("posted commands", async move {
            tokio::select! {
                () = serving => {}
                () = finishing.finishing() => {}
            }
        });
        Ok(Arc::new(Self { gateway, broker, subjects, sessions }))
    }

    /// Opens a session. Its commands arrive in the inbox until the inbox is dropped.
    pub(crate) fn open(&self) -> Inbox {
        Sessions::open(&self.sessions, self.gateway.clone())
    }

    /// Delivers commands to their session, on this gateway or another.
    pub(crate) async fn deliver(&self, request: EmulationRequest) -> Result<(), Undelivered> {
        let owner = GatewayId::parse(&request.node).ok_or(Undelivered::Unknown)?;
        if owner == self.gateway {
            return self.sessions.offer(&request.session, request.data).await;
        }
        if !self.broker.is_connected() {
            return Err(Undelivered::Unreachable);
        }
        let asked = self.broker.client().request(self.subjects.emulate(&owner), protobuf::encode(&request));
        match timeout(FORWARD_LIMIT, asked).await {
            Ok(Ok(answer)) => outcome_of(&answer.payload),
            // Gateway ids are never reused, so this gateway has ended.
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Err(Undelivered::Unknown),
            Ok(Err(_)) | Err(_) => Err(Undelivered::Unreachable),
        }
    }
}

async fn serve(requests: Subscriber, client: Client, sessions: Arc<Sessions>) {
    requests
        .for_each_concurrent(SERVED, |message| {
            let (client, sessions) = (client.clone(), Arc::clone(&sessions));
            async move { answer(&client, &sessions, message).await }
        })
        .await;
}

async fn answer(client: &Client, sessions: &Sessions, message: Message) {
    let Some(reply) = message.reply.filter(|reply| Subjects::is_inbox(reply)) else { return };
    let outcome = match protobuf::decode_one::<EmulationRequest>(message.payload) {
        Ok(request) => sessions.offer(&request.session, request.data).await,
        Err(error) => {
            static UNREADABLE: Sparse = Sparse::new();
            if let Some(skipped) = UNREADABLE.due() {
                tracing::warn!(%error, skipped, "dropped commands from another gateway that cannot be read");
            }
            return;
        }
    };
    // Best effort: without an answer the other gateway reports that this one is unreachable.
    let _ = client.publish(reply, Bytes::from_static(word_for(outcome).as_bytes())).await;
}

/// The outcome as a word in the answer to another gateway.
fn word_for(outcome: Result<(), Undelivered>) -> &'static str {
    match outcome {
        Ok(()) => "ok",
        Err(Undelivered::Unknown) => "unknown",
        Err(Undelivered::Busy) => "busy",
        Err(Undelivered::Unreachable) => "unreachable",
    }
}

fn outcome_of(word: &[u8]) -> Result<(), Undelivered> {
    match word {
        b"ok" => Ok(()),
        b"unknown" => Err(Undelivered::Unknown),
        b"busy" => Err(Undelivered::Busy),
        _ => Err(Undelivered::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_gateway_understands_every_outcome() {
        for outcome in
            [Ok(()), Err(Undelivered::Unknown), Err(Undelivered::Busy), Err(Undelivered::Unreachable)]
        {
            assert_eq!(outcome_of(word_for(outcome).as_bytes()), outcome);
        }
    }
}
