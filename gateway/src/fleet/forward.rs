//! Commands of clients whose connection only goes one way: they are posted to any gateway, and brought to the one that
//! holds the session.
//!
//! Gateways ask each other by a NATS request on the owner's subject. Never looks into the commands, and never says that
//! they have arrived before the owner has them.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    broker::Broker,
    id::GatewayId,
    lifecycle::Lifecycle,
    protocol::{EmulationRequest, protobuf},
    subject::Subjects,
};
use tokio::time::timeout;

use super::sessions::{Inbox, Sessions, Undelivered};

/// How long another gateway may take. Longer than it lets a full session take.
const FORWARD_LIMIT: Duration = Duration::from_secs(2);
/// Requests of other gateways served at a time; further ones wait, and those who sent them give up by themselves.
const SERVED: usize = 256;

/// The way to the sessions of all gateways.
pub(crate) struct Emulation {
    gateway: GatewayId,
    broker: Broker,
    subjects: Subjects,
    sessions: Arc<Sessions>,
}

impl Emulation {
    /// Begins to serve what other gateways were given for the sessions of this one, and returns when the broker knows.
    pub(crate) async fn start(
        gateway: GatewayId,
        broker: Broker,
        subjects: Subjects,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Arc<Self>> {
        let requests = broker.client().subscribe(subjects.emulate(&gateway)).await?;
        broker.barrier(subjects.barrier()).await?;
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

    /// Opens a session: its commands arrive in the inbox as long as that lives.
    pub(crate) fn open(&self) -> Inbox {
        Sessions::open(&self.sessions, self.gateway.clone())
    }

    /// Brings commands to their session, wherever it is.
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
            // Ids of gateways are never used again: this one has ended.
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
    let Some(reply) = message.reply else { return };
    let outcome = match protobuf::decode_one::<EmulationRequest>(message.payload) {
        Ok(request) => sessions.offer(&request.session, request.data).await,
        Err(error) => {
            tracing::warn!(%error, "commands from another gateway that cannot be read");
            return;
        }
    };
    // Without an answer the other gateway tells its client that it does not know.
    let _ = client.publish(reply, Bytes::from_static(word_for(outcome).as_bytes())).await;
}

/// How the outcome is said to another gateway.
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
