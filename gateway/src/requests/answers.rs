//! Answers to plain requests: workers hand them over, the waiting calls take them, and the workers are told what became of them.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, Subject};
use tidegate_shared::{
    broker::Broker,
    confirmation::Confirmation,
    envelope::{Answer, Together},
    id::GatewayId,
    lifecycle::Lifecycle,
    listener::listen,
    sparse::Sparse,
    subject::Subjects,
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    waiting::{Reply, Waiting, Word},
    words::Words,
};
use crate::metrics::Metrics;

/// How long the words on answers that came together wait for the last of them: a caller that takes its answer late must not hold up
/// what the worker knows of the others. It asks for the missing one again.
const PATIENCE: Duration = Duration::from_millis(100);

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
        let says = client.clone();
        lifecycle.spawn_essential("answers", async move {
            listen(answers, &receiving.lifecycle, |message| receiving.on_message(message, &says)).await;
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

    fn on_message(&self, message: Message, client: &Client) {
        // The server does not check reply subjects.
        let reply = message.reply.filter(|reply| Subjects::is_inbox(reply));
        if Subjects::is_together(&message.subject) {
            return self.on_together(&message.subject, &message.payload, reply, client);
        }
        match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => self.waiting.arrived(answer, reply.map(Reply::Alone)),
            Err(error) => self.unreadable(&message.subject, &error.to_string()),
        }
    }

    /// Hands several answers on, and sends the words on them.
    fn on_together(&self, subject: &Subject, body: &[u8], reply: Option<Subject>, client: &Client) {
        let Some(answers) = Together::read(body) else {
            return self.unreadable(subject, "several answers in one message are malformed");
        };
        let words = Arc::new(Words::new(answers.len()));
        for (which, answer) in answers.into_iter().enumerate() {
            match answer {
                Some(answer) => {
                    self.waiting.arrived(answer, Some(Reply::Together(Arc::clone(&words), which)));
                }
                None => self.unreadable(subject, "one of several answers cannot be read"),
            }
        }
        let Some(reply) = reply else { return };
        let (client, metrics) = (client.clone(), self.metrics.clone());
        self.lifecycle.spawn(async move {
            // Without the last word, those so far.
            let _ = timeout(PATIENCE, words.all()).await;
            let words = words.so_far();
            for _ in words.iter().filter(|word| **word == Some(Confirmation::Late)) {
                metrics.late_answer();
            }
            if let Err(error) = client.publish(reply, Confirmation::lines(&words).into()).await {
                tracing::debug!(%error, "confirmations were not sent: the worker will ask again");
            }
        });
    }

    fn unreadable(&self, subject: &Subject, error: &str) {
        self.metrics.unreadable("answer");
        if let Some(skipped) = UNREADABLE.due() {
            tracing::warn!(%subject, error, skipped, "dropped an answer of a worker that cannot be read");
        }
    }
}
