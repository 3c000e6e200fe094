//! Whether clients are connected, for workers: a request of a route with `cancel_when_gone` is not worked on when its client's
//! connection has ended. Workers ask before they run such a request, and are told when a connection ends that has made one.

use std::{sync::Arc, time::Duration};

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    broker::Broker,
    id::{ClientId, GatewayId},
    lifecycle::Lifecycle,
    subject::Subjects,
};
use tokio::time::timeout;

use super::hub::Hub;

/// How long telling the workers may take.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// Knows which clients of this gateway are connected.
pub(crate) struct Callers {
    pub(super) broker: Broker,
    pub(super) subjects: Subjects,
    pub(super) hub: Arc<Hub>,
}

impl Callers {
    /// Begins to answer workers. Returns when the broker has the subscription.
    pub(super) async fn start(
        self: &Arc<Self>,
        gateway: &GatewayId,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<()> {
        let mut questions = self.broker.client().subscribe(self.subjects.all_connected(gateway)).await?;
        self.broker.settled().await?;
        let (this, ends) = (Arc::clone(self), lifecycle.clone());
        lifecycle.spawn_essential("questions about clients", async move {
            loop {
                tokio::select! {
                    question = questions.next() => match question {
                        Some(question) => this.answer(question).await,
                        None => return,
                    },
                    () = ends.finishing() => return,
                }
            }
        });
        Ok(())
    }

    async fn answer(&self, question: Message) {
        let client = Subjects::id_in(&question.subject).and_then(ClientId::parse);
        // The server does not check reply subjects.
        let reply = question.reply.filter(|reply| Subjects::is_inbox(reply));
        let (Some(client), Some(reply)) = (client, reply) else { return };
        // A gateway that drains has ended connections by itself: their clients have not gone.
        let there = self.hub.is_draining() || self.hub.client(&client).is_some();
        let word = if there { "connected" } else { "gone" };
        if let Err(error) = self.broker.client().publish(reply, word.into()).await {
            tracing::debug!(%error, "a worker was not told whether a client is connected");
        }
    }

    /// Tells the workers that a client's connection has ended.
    pub(crate) async fn gone(&self, client: &ClientId) {
        // While disconnected the library would keep the message. A worker asks before the next attempt.
        if !self.broker.is_connected() {
            return;
        }
        let told = self.broker.client().publish(self.subjects.gone(client), Bytes::new());
        if !matches!(timeout(TELL_LIMIT, told).await, Ok(Ok(()))) {
            tracing::debug!(client.id = %client, "workers were not told that a client is gone");
        }
    }
}
