//! Answers of workers: handed to the waiting calls, or stored in the personal channel of a user whose call has timed
//! out.

use std::sync::Arc;

use async_nats::Message;
use tidegate_shared::{
    broker::Broker, envelope::Answer, id::GatewayId, lifecycle::Lifecycle, listener::listen, sparse::Sparse,
    subject::Subjects,
};

use super::{
    store::Store,
    waiting::{LateAnswers, Waiting},
};
use crate::metrics::Metrics;

/// An answer that cannot be read.
static UNREADABLE: Sparse = Sparse::new();

/// Receives the answers to plain requests of this gateway.
pub(crate) struct Answers {
    pub(crate) store: Arc<Store>,
    pub(crate) waiting: Waiting,
    pub(crate) late: LateAnswers,
    pub(crate) metrics: Metrics,
    pub(crate) lifecycle: Lifecycle,
}

impl Answers {
    /// Subscribes and starts the receiving task. Returns once the broker has the subscription.
    pub(crate) async fn start(
        mut self,
        broker: &Broker,
        subjects: &Subjects,
        gateway: &GatewayId,
    ) -> anyhow::Result<()> {
        let answers = broker.client().subscribe(subjects.answers_of(gateway)).await?;
        broker.barrier(subjects.barrier()).await?;
        let lifecycle = self.lifecycle.clone();
        let (_, none) = Waiting::new();
        let mut late = std::mem::replace(&mut self.late, none);
        let this = Arc::new(self);
        let receiving = Arc::clone(&this);
        lifecycle.spawn_essential("answers", async move {
            listen(answers, &receiving.lifecycle, |message| receiving.on_answer(message)).await;
        });
        lifecycle.spawn_essential("late answers", async move {
            loop {
                tokio::select! {
                    Some(answer) = late.recv() => this.on_late(answer),
                    () = this.lifecycle.finishing() => return,
                }
            }
        });
        Ok(())
    }

    fn on_answer(&self, message: Message) {
        let answer = match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => answer,
            Err(error) => {
                self.metrics.unreadable("answer");
                if let Some(skipped) = UNREADABLE.due() {
                    tracing::warn!(
                        subject = %message.subject, %error, skipped, "dropped an answer of a worker that cannot be read"
                    );
                }
                return;
            }
        };
        if let Err(late) = self.waiting.settle(answer) {
            self.on_late(*late);
        }
    }

    fn on_late(&self, answer: Answer) {
        self.metrics.late_answer();
        let store = Arc::clone(&self.store);
        self.lifecycle.spawn(async move { store.deliver_late(&answer).await });
    }
}
