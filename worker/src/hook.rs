//! Routes that answer hook questions: a gateway asks whether a client may connect, stay, subscribe or
//! publish, and a handler decides.
//!
//! Questions are core NATS requests, in no stream: nothing is parked, retried or stored. Each question goes to one worker of
//! the service. A question without a decision in time allows nothing; the gateway's client has to ask again.

use std::{sync::Arc, time::UNIX_EPOCH};

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{
    envelope::{JSON, Request},
    header,
    hook::{self, Event},
    id::{GatewayId, RequestId},
    lifecycle::Lifecycle,
    route::Priority,
    subject::Subjects,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    attempt::{self, AttemptResult},
    engine::{BoundRoute, Engine},
    failure::Failure,
    job::Job,
    metrics::Ending,
};

/// Runs one route whose requests are hook questions.
#[derive(Debug)]
pub(crate) struct HookRunner {
    engine: Arc<Engine>,
    route: BoundRoute,
    event: Event,
    permits: Arc<Semaphore>,
    /// Questions have no id of their own; their jobs get ids with this prefix.
    id_prefix: GatewayId,
}

/// What a question gets: the payload for the gateway, or the reason why there is no decision.
type Reply = Result<(Bytes, Ending), (String, Ending)>;

impl HookRunner {
    pub(crate) fn new(engine: Arc<Engine>, route: BoundRoute, event: Event) -> Self {
        let permits = Arc::new(Semaphore::new(route.config.concurrency));
        Self { engine, route, event, permits, id_prefix: GatewayId::random() }
    }

    pub(crate) fn route(&self) -> &BoundRoute {
        &self.route
    }

    pub(crate) fn event(&self) -> Event {
        self.event
    }

    /// Answers questions until the worker drains.
    pub(crate) async fn consume(self: Arc<Self>, lifecycle: Lifecycle) {
        let subject = self.engine.subjects.hook(self.event);
        let group = self.engine.config.worker.service.clone();
        let mut questions = match self.engine.broker.client().queue_subscribe(subject, group).await {
            Ok(questions) => questions,
            Err(error) => {
                tracing::error!(route = self.route.name(), %error, "cannot subscribe to hook questions");
                return;
            }
        };
        loop {
            let (permit, question) = tokio::select! {
                biased;
                () = lifecycle.draining() => break,
                next = self.next(&mut questions) => match next {
                    Some(next) => next,
                    None => return,
                },
            };
            self.take(permit, question);
        }
        // From here on the broker gives questions to other workers. Those that it has sent already are answered.
        if questions.drain().await.is_err() {
            return;
        }
        let rest = async {
            while let Some((permit, question)) = self.next(&mut questions).await {
                self.take(permit, question);
            }
        };
        tokio::select! {
            () = rest => {}
            () = self.engine.cut_off.cancelled() => {}
            () = tokio::time::sleep(self.engine.config.worker.drain) => {}
        }
    }

    /// Answers a question in a task of its own.
    fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit, question: Message) {
        let this = Arc::clone(self);
        self.engine.deliveries.spawn(async move {
            let _permit = permit;
            let ending = tokio::select! {
                biased;
                () = this.engine.cut_off.cancelled() => Ending::Returned,
                ending = this.answer(question) => ending,
            };
            this.engine.metrics.ended(this.route.name(), ending);
        });
    }

    /// The next question. It stays in the subscription until it has a permit. `None` when the subscription has ended.
    async fn next(&self, questions: &mut Subscriber) -> Option<(OwnedSemaphorePermit, Message)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some((permit, questions.next().await?))
    }

    async fn answer(&self, question: Message) -> Ending {
        let Some(reply) = question.reply.filter(|reply| Subjects::is_inbox(reply)) else {
            return Ending::Returned;
        };
        let job = match self.job(question.payload) {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(route = self.route.name(), %error, "a hook question cannot be read");
                return Ending::Reject;
            }
        };
        match self.decide(job).await {
            Ok((decision, ending)) => {
                self.send(reply, decision).await;
                ending
            }
            Err((reason, ending)) => {
                tracing::warn!(route = self.route.name(), reason, "a hook question gets no decision");
                ending
            }
        }
    }

    async fn decide(&self, job: Job) -> Reply {
        let result = {
            let _handling = self.engine.metrics.handling(self.route.name());
            attempt::run(
                (&self.engine.handlers, &self.engine.ends),
                self.route.handler.clone(),
                job,
                self.route.config.timeout,
            )
            .await
        };
        match result {
            AttemptResult::Answered(answer) => Ok((answer.body, Ending::Ok)),
            AttemptResult::Failed(Failure::Reject { code, message, .. }) => {
                Ok((hook::refused(code, &header::text(&message)), Ending::Reject))
            }
            AttemptResult::Failed(Failure::Retry { error, .. }) => {
                Err((header::text(&format!("{error:#}")), Ending::Retry))
            }
            AttemptResult::Failed(Failure::Snooze { .. }) => {
                Err(("the handler snoozed the question".to_owned(), Ending::Snooze))
            }
            AttemptResult::Failed(Failure::Dead { reason }) => Err((header::text(&reason), Ending::Retry)),
            AttemptResult::TimedOut => {
                Err(("the handler took longer than the route's `timeout`".to_owned(), Ending::Timeout))
            }
            AttemptResult::NotBegun => {
                Err(("the handlers' runtime did not begin the question".to_owned(), Ending::Timeout))
            }
            AttemptResult::Panicked(message) => Err((format!("panic: {message}"), Ending::Panic)),
        }
    }

    async fn send(&self, reply: Subject, decision: Bytes) {
        if let Err(error) = self.engine.broker.client().publish(reply, decision).await {
            tracing::warn!(route = self.route.name(), %error, "cannot send the decision on a hook question");
        }
    }

    fn job(&self, question: Bytes) -> Result<Job, serde_json::Error> {
        let about = hook::subject(&question)?;
        let now = self.engine.clock.about_now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = Request {
            id: RequestId::plain(&self.id_prefix),
            user: about.user.filter(|user| !user.is_empty()),
            client: Some(about.client),
            route: self.route.name().to_owned(),
            method: None,
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: false,
            attempt: 0,
            accepted_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            trace: None,
            content_type: JSON.to_owned(),
            body: question,
        };
        Ok(Job::new(Arc::new(request), 0, Arc::clone(&self.route.matches)))
    }
}
