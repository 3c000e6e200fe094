//! A route that decides: questions of gateways in, decisions out. No stream has them, so nothing is parked or kept.
//!
//! A question that is not answered in time is allowed nothing; whoever needs a decision asks again. Every question goes to one
//! worker of the service.

use std::{sync::Arc, time::SystemTime};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    config::{Match, Route},
    envelope::{JSON, Request},
    hook::{self, Event},
    id::{GatewayId, RequestId},
    lifecycle::Lifecycle,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    attempt::{Ended, run},
    failure::Failure,
    handler::BoxedHandler,
    job::Job,
    metrics::Outcome,
    runner::Engine,
};

/// One such route of one worker.
#[derive(Debug)]
pub(crate) struct Decider {
    engine: Arc<Engine>,
    route: Route,
    event: Event,
    handler: BoxedHandler,
    permits: Arc<Semaphore>,
    /// What the ids of its jobs begin with.
    asker: GatewayId,
}

impl Decider {
    pub(crate) fn new(engine: Arc<Engine>, route: Route, event: Event, handler: BoxedHandler) -> Self {
        let permits = Arc::new(Semaphore::new(route.concurrency));
        Self { engine, route, event, handler, permits, asker: GatewayId::random() }
    }

    /// Answers questions until the worker drains.
    pub(crate) async fn consume(self: Arc<Self>, lifecycle: Lifecycle) {
        let subject = self.engine.subjects.hook(self.event);
        let group = self.engine.config.worker.service.clone();
        let mut questions = match self.engine.broker.client().queue_subscribe(subject, group).await {
            Ok(questions) => questions,
            Err(error) => {
                tracing::error!(route = self.route.name, %error, "questions cannot be received");
                return;
            }
        };
        loop {
            let (permit, question) = tokio::select! {
                biased;
                () = lifecycle.draining() => break,
                Some(next) = self.next(&mut questions) => next,
                else => return,
            };
            let this = Arc::clone(&self);
            self.engine.deliveries.spawn(async move {
                let outcome = tokio::select! {
                    biased;
                    () = this.engine.cut_off.cancelled() => Outcome::Returned,
                    outcome = this.decide(question) => outcome,
                };
                this.engine.metrics.ended(&this.route.name, outcome);
                drop(permit);
            });
        }
        // The broker gives the next question to another worker.
        let _ = questions.unsubscribe().await;
    }

    /// No question is taken out before it has a permit.
    async fn next(&self, questions: &mut Subscriber) -> Option<(OwnedSemaphorePermit, Message)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some((permit, questions.next().await?))
    }

    async fn decide(&self, question: Message) -> Outcome {
        let Some(reply) = question.reply else { return Outcome::Returned };
        let job = match self.job(question.payload) {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(route = self.route.name, %error, "a question that cannot be read");
                return Outcome::Reject;
            }
        };
        let handling = self.engine.metrics.handling(&self.route.name);
        let ended = run(self.handler.clone(), job, self.route.timeout).await;
        drop(handling);
        let (answer, outcome) = match ended {
            Ended::Replied(said) if said.publications.is_empty() => match hook::allowed(&said.body) {
                Ok(answer) => (answer, Outcome::Ok),
                Err(error) => {
                    return self.undecided(&format!("the result is no JSON: {error}"), Outcome::Retry);
                }
            },
            Ended::Replied(_) => return self.undecided("a decision publishes nothing", Outcome::Retry),
            Ended::Failed(Failure::Reject { code, message }) => {
                (hook::refused(code, &message), Outcome::Reject)
            }
            Ended::Failed(Failure::Retry { why, .. }) => {
                return self.undecided(&format!("{why:#}"), Outcome::Retry);
            }
            Ended::Failed(Failure::Snooze(_)) => return self.undecided("snoozed", Outcome::Snooze),
            Ended::Failed(Failure::Dead(why)) => return self.undecided(&why, Outcome::Retry),
            Ended::TimedOut => return self.undecided("no decision in time", Outcome::Timeout),
            Ended::Panicked(why) => return self.undecided(&format!("panic: {why}"), Outcome::Panic),
        };
        if let Err(error) = self.engine.broker.client().publish(reply, answer).await {
            tracing::warn!(route = self.route.name, %error, "a decision cannot be sent");
        }
        outcome
    }

    fn undecided(&self, why: &str, outcome: Outcome) -> Outcome {
        tracing::warn!(route = self.route.name, reason = why, "a question is not decided");
        outcome
    }

    fn job(&self, question: Bytes) -> Result<Job, serde_json::Error> {
        let about = hook::subject(&question)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let request = Request {
            id: RequestId::plain(&self.asker),
            user: about.user.filter(|user| !user.is_empty()),
            client: about.client,
            route: self.route.name.clone(),
            method: None,
            channel: None,
            info: None,
            channel_info: None,
            later: false,
            attempt: 0,
            accepted_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            content_type: JSON.to_owned(),
            body: question,
        };
        Ok(Job::new(Arc::new(request), 0, Arc::new(Match::Hook(self.event))))
    }
}
