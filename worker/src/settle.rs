//! How one delivery ends: answered, parked for its next attempt, or a dead letter.
//!
//! The order of the steps is the worker's promise. Whatever is stored is stored before the acknowledgement; whatever is
//! stored has an id made of the request's, so that a step repeated after a crash stores nothing twice.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tidegate_shared::{
    channel::Channel,
    envelope::{Answer, Outcome as Said, Request, one_line},
    header,
    protocol::codes,
};

use crate::{
    answer::Reply,
    attempt::{Ended, run},
    backoff,
    delivery::Delivery,
    failure::Failure,
    job::Job,
    metrics::Outcome,
    runner::Runner,
    store::{self, Kept, Rejected},
};

mod messages;

/// When even a dead letter is refused the request comes again after this long.
const HOPELESS_DELAY: Duration = Duration::from_secs(30);

/// One request under way, and how many attempts were begun before.
#[derive(Debug)]
struct Task<'a> {
    delivery: &'a Delivery,
    request: Arc<Request>,
    attempts: u32,
}

impl Runner {
    /// Does everything that a delivered request needs.
    pub(crate) async fn settle(&self, delivery: &Delivery) -> Outcome {
        let request = match delivery.read() {
            Ok(request) => Arc::new(request),
            Err(unreadable) => return self.bury_unreadable(delivery, &unreadable.to_string()).await,
        };
        let attempts = request.attempt.saturating_add(delivery.lost());
        let task = Task { delivery, request, attempts };
        // A first delivery of a plain request cannot have an answer yet. This comes before the attempts are counted: a
        // worker that ended between its answer and the acknowledgement has not failed.
        if task.request.id.is_keyed() || attempts > 0 {
            let stored = store::answer(&self.engine.broker, &self.engine.subjects, &task.request.id).await;
            if let Some(answer) = stored {
                self.tell_later(&task, &answer).await;
                delivery.ack().await;
                return Outcome::AlreadyAnswered;
            }
        }
        // Counted before the run, which also stops a request that ends its workers.
        if attempts >= self.route.max_attempts {
            return self.bury(&task, "the worker ended during every attempt").await;
        }
        if attempts == 0 {
            self.engine.metrics.waited(&self.route.name, since(task.request.accepted_at));
        }
        self.attempt(&task).await
    }

    /// Puts a request that was not begun where another worker takes it, without using an attempt.
    pub(crate) async fn hand_on(&self, delivery: &Delivery) -> Outcome {
        let Ok(request) = delivery.read() else {
            delivery.nak(Duration::ZERO).await;
            return Outcome::Returned;
        };
        let attempts = request.attempt.saturating_add(delivery.lost());
        let task = Task { delivery, request: Arc::new(request), attempts };
        self.snooze(&task, Duration::ZERO).await;
        Outcome::Returned
    }

    async fn attempt(&self, task: &Task<'_>) -> Outcome {
        let job = Job::new(Arc::clone(&task.request), task.attempts, Arc::clone(&self.matches));
        let handling = self.engine.metrics.handling(&self.route.name);
        let ended = run(self.handler.clone(), job, self.route.timeout).await;
        drop(handling);
        match ended {
            Ended::Replied(reply) => self.commit(task, reply).await,
            Ended::TimedOut => {
                let why = format!("no answer within {}", humantime::format_duration(self.route.timeout));
                self.retry(task, &why, None, Outcome::Timeout).await
            }
            Ended::Panicked(message) => {
                self.retry(task, &format!("panic: {message}"), None, Outcome::Panic).await
            }
            Ended::Failed(Failure::Retry { why, after }) => {
                self.retry(task, &format!("{why:#}"), after, Outcome::Retry).await
            }
            Ended::Failed(Failure::Snooze(delay)) => self.snooze(task, delay).await,
            Ended::Failed(Failure::Dead(why)) => self.bury(task, &why).await,
            Ended::Failed(Failure::Reject { code, message }) => {
                let message = one_line(&message);
                self.conclude(task, Said::Error { code, message }, Outcome::Reject).await
            }
        }
    }

    /// Publications before the answer, on purpose: they are not stored with the answer, so after a crash in between only
    /// another run can repeat them, and a stored answer would prevent that run.
    async fn commit(&self, task: &Task<'_>, reply: Reply) -> Outcome {
        for (index, publication) in reply.publications.into_iter().enumerate() {
            if let Err(why) = self.publish(task, index, publication).await {
                return self.retry(task, &why, None, Outcome::Retry).await;
            }
        }
        self.conclude(task, Said::Ok(reply.body), Outcome::Ok).await
    }

    /// Stores the answer, tells a later request's user, acknowledges.
    async fn conclude(&self, task: &Task<'_>, said: Said, outcome: Outcome) -> Outcome {
        match self.answer(task, said).await {
            Ok(()) => {
                task.delivery.ack().await;
                outcome
            }
            Err(Rejected(why)) => self.bury(task, &format!("the answer cannot be stored: {why}")).await,
        }
    }

    /// Stores an answer, unless there is one: of all answers the first stands, and it is the one that is told.
    async fn answer(&self, task: &Task<'_>, said: Said) -> Result<(), Rejected> {
        let (broker, subjects) = (&self.engine.broker, &self.engine.subjects);
        let answer = self.answer_of(task, said);
        let kept = store::store(
            broker,
            subjects.reply(&answer.re),
            self.answer_headers(task, &answer),
            answer.body(),
        )
        .await?;
        let stored = match kept {
            Kept::Before if task.request.later => store::answer(broker, subjects, &answer.re).await,
            Kept::Before | Kept::Now => Some(answer),
        };
        if let Some(answer) = stored {
            self.tell_later(task, &answer).await;
        }
        Ok(())
    }

    /// Publishes the answer on the personal channel of a user who was promised that.
    async fn tell_later(&self, task: &Task<'_>, answer: &Answer) {
        let Some(user) = task.request.user.as_deref().filter(|_| task.request.later) else { return };
        let subject = self.engine.subjects.channel(&Channel::personal(user));
        let (headers, body) = (answer.later_headers(), answer.later_body());
        if let Err(error) = store::store(&self.engine.broker, subject, headers, body).await {
            tracing::error!(request.id = %answer.re, %error, "an answer cannot be published on a personal channel");
        }
    }

    async fn retry(&self, task: &Task<'_>, why: &str, after: Option<Duration>, outcome: Outcome) -> Outcome {
        let failed = task.attempts.saturating_add(1);
        tracing::warn!(
            request.id = %task.request.id, route = self.route.name, attempt = task.attempts, reason = why, "an attempt failed"
        );
        if failed >= self.route.max_attempts {
            return self.bury(task, why).await;
        }
        let delay =
            after.unwrap_or_else(|| backoff::delay(self.route.backoff, task.attempts, rand::random()));
        self.park(task, delay, failed, &format!("a{failed}"), outcome).await
    }

    /// Every copy of a request has another place, so a request may be snoozed any number of times.
    async fn snooze(&self, task: &Task<'_>, delay: Duration) -> Outcome {
        self.park(task, delay, task.attempts, &format!("s{}", task.delivery.place()), Outcome::Snooze).await
    }

    async fn park(
        &self,
        task: &Task<'_>,
        delay: Duration,
        attempt: u32,
        mark: &str,
        outcome: Outcome,
    ) -> Outcome {
        let Some(headers) = self.park_headers(task, delay, attempt, mark) else {
            return self.bury(task, "the request came on a subject that is no request's").await;
        };
        let subject = self.engine.subjects.park(&task.request.id);
        match store::store(&self.engine.broker, subject, headers, task.request.body.clone()).await {
            Ok(_) => {
                task.delivery.ack().await;
                outcome
            }
            Err(Rejected(why)) => {
                self.bury(task, &format!("the next attempt cannot be scheduled: {why}")).await
            }
        }
    }

    /// Keeps the request as a dead letter, then tells the client.
    async fn bury(&self, task: &Task<'_>, reason: &str) -> Outcome {
        let attempts = task.attempts.saturating_add(1).min(self.route.max_attempts);
        tracing::error!(request.id = %task.request.id, route = self.route.name, attempts, reason, "dead letter");
        let mut headers = task.delivery.headers();
        headers.insert(header::DEAD_REASON, one_line(reason));
        headers.insert(header::ATTEMPT, attempts.to_string());
        headers.insert(header::MSG_ID, format!("{}.dead", task.request.id));
        let subject = self.engine.subjects.dead(&self.engine.config.worker.service, &self.route.name);
        // The reason may carry what is not the client's to know.
        let error = codes::DEAD_LETTER.because(format_args!("{attempts} attempts"));
        let said = Said::Error { code: error.code, message: error.message };
        let kept = store::store(&self.engine.broker, subject, headers, task.request.body.clone()).await;
        let told = match kept {
            Ok(_) => self.answer(task, said).await,
            Err(rejected) => Err(rejected),
        };
        match told {
            Ok(()) => task.delivery.ack().await,
            Err(error) => {
                tracing::error!(request.id = %task.request.id, %error, "a dead letter cannot be stored");
                task.delivery.nak(HOPELESS_DELAY).await;
            }
        }
        Outcome::Dead
    }

    /// Nobody can be told: what would say whom is what cannot be read.
    async fn bury_unreadable(&self, delivery: &Delivery, reason: &str) -> Outcome {
        tracing::error!(route = self.route.name, nats.subject = delivery.subject(), reason, "dead letter");
        let mut headers = delivery.headers();
        headers.insert(header::DEAD_REASON, one_line(reason));
        headers.insert(header::MSG_ID, format!("{}.{}.dead", self.route.name, delivery.place()));
        let subject = self.engine.subjects.dead(&self.engine.config.worker.service, &self.route.name);
        match store::store(&self.engine.broker, subject, headers, delivery.body()).await {
            Ok(_) => delivery.term(reason).await,
            Err(error) => {
                tracing::error!(route = self.route.name, %error, "a dead letter cannot be stored");
                delivery.nak(HOPELESS_DELAY).await;
            }
        }
        Outcome::Dead
    }
}

fn since(accepted_at_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(accepted_at_ms))
}
