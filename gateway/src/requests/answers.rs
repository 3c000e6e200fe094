//! Answers to plain requests: workers hand them over, the waiting calls take them, and the workers are told what became of them.

use async_nats::Message;
use tidegate_shared::{
    broker::Broker, confirmation::Confirmation, envelope::Answer, id::GatewayId, lifecycle::Lifecycle,
    listener::listen, sparse::Sparse, subject::Subjects,
};
use tokio::sync::mpsc;

use super::waiting::{Waiting, Word};
use crate::metrics::Metrics;

/// An answer that cannot be read.
static UNREADABLE: Sparse = Sparse::new();

/// Receives the answers to plain requests of this gateway.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) waiting: Waiting,
    pub(crate) metrics: Metrics,
    pub(crate) lifecycle: Lifecycle,
}

impl Answers {
    /// Subscribes and starts the tasks that receive answers and send the gateway's words. Returns once the broker has the
    /// subscription.
    pub(crate) async fn start(
        self,
        mut words: mpsc::Receiver<Word>,
        broker: &Broker,
        subjects: &Subjects,
        gateway: &GatewayId,
    ) -> anyhow::Result<()> {
        let answers = broker.client().subscribe(subjects.answers_of(gateway)).await?;
        broker.settled().await?;
        let lifecycle = self.lifecycle.clone();
        let (receiving, client) = (self.clone(), broker.client().clone());
        lifecycle.spawn_essential("answers", async move {
            listen(answers, &receiving.lifecycle, |message| receiving.on_answer(message)).await;
        });
        lifecycle.spawn_essential("confirmations", async move {
            loop {
                let (reply, word) = tokio::select! {
                    Some(word) = words.recv() => word,
                    () = self.lifecycle.finishing() => return,
                };
                if word == Confirmation::Late {
                    self.metrics.late_answer();
                }
                if let Err(error) = client.publish(reply, word.as_str().into()).await {
                    tracing::debug!(%error, "a confirmation was not sent: the worker will ask again");
                }
            }
        });
        Ok(())
    }

    fn on_answer(&self, message: Message) {
        // The server does not check reply subjects.
        let reply = message.reply.filter(|reply| Subjects::is_inbox(reply));
        match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => self.waiting.arrived(answer, reply),
            Err(error) => {
                self.metrics.unreadable("answer");
                if let Some(skipped) = UNREADABLE.due() {
                    tracing::warn!(
                        subject = %message.subject, %error, skipped, "dropped an answer of a worker that cannot be read"
                    );
                }
            }
        }
    }
}
