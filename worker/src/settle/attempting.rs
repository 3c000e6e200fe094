//! One attempt at a request: waits until it may begin, runs the handler, and does what follows from its end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tidegate_shared::{dead::Reason, envelope::Outcome, header, lifecycle::Lifecycle};

use super::{Settlement, made::Made};
use crate::{
    answer::Answer,
    attempt::{self, AttemptResult},
    engine::Engine,
    failure::Failure,
    fault::Point,
    job::Job,
    metrics::Ending,
    outlet::NotStored,
    running::RunningRequest,
};

impl Settlement {
    pub(super) async fn attempt(&self, running: &RunningRequest, lifecycle: &Lifecycle) -> Ending {
        let made = Arc::new(Made::by(&self.engine, &self.request, self.may_have_begun(), self.pause()));
        let job = Job::new(Arc::clone(&self.request), self.attempts, Arc::clone(&self.route.matches));
        let job = job.of(Arc::clone(&self.delivery)).cancelled_by(running.token());
        let job = job.storing_in(Arc::clone(&made) as _).reporting_to(self.progress.clone());
        let begun = job.begun();
        let limit = self.route.config.timeout;
        if let Some(ending) = self.wait_for_start(running, lifecycle).await {
            return ending;
        }
        let faults = &self.engine.faults;
        faults.reach(Point::BeforeRun, self.route.name(), &self.delivery).await;
        let at = (&self.engine.handlers, &self.engine.ends);
        let result = {
            let reports = self.progress.follow();
            let _handling = self.engine.metrics.handling(self.route.name());
            tokio::select! {
                result = attempt::run(at, self.route.handler.clone(), job, limit) => Some(result),
                () = running.given_up() => None,
                never = self.report(reports) => match never {},
            }
        };
        if running.is_caller_gone() {
            return self.end_unheard(result, &made).await;
        }
        faults.reach(Point::AfterRun, self.route.name(), &self.delivery).await;
        // The caller has its answer. Another attempt would be in vain, and what the handler says of this one does not count.
        if running.is_cancelled()
            && let Some(ending) = self.answered_already().await
        {
            return ending;
        }
        match result {
            Some(result) => self.end(result, begun.load(Relaxed), &made).await,
            None => self.hand_on().await,
        }
    }

    /// Waits until the limits of attempts in a second let this one begin. Returns how the request has ended if it is not to begin
    /// any more: it was cancelled meanwhile, or the worker drains.
    async fn wait_for_start(&self, running: &RunningRequest, lifecycle: &Lifecycle) -> Option<Ending> {
        let Engine { broker, subjects, clock, .. } = &*self.engine;
        let mut comes = true;
        for starts in &self.route.starts {
            comes = tokio::select! {
                biased;
                () = running.cancelled() => false,
                () = lifecycle.draining() => false,
                () = starts.come(broker, subjects, clock, self.route.name()) => true,
            };
            if !comes {
                break;
            }
        }
        if running.is_caller_gone() {
            return Some(self.acknowledge(Ending::Cancelled).await);
        }
        if running.is_cancelled()
            && let Some(ending) = self.answered_already().await
        {
            return Some(ending);
        }
        if comes { None } else { Some(self.hand_on().await) }
    }

    /// Does what follows from the end of an attempt. `begun` says whether the handler has got the request.
    async fn end(&self, result: AttemptResult, begun: bool, made: &Made) -> Ending {
        match result {
            AttemptResult::Answered(answer) => self.commit(answer, made).await,
            // Attempts are those of the handler. What a layer does not let through has used none.
            AttemptResult::TimedOut if !begun => {
                let time = humantime::format_duration(self.route.config.timeout);
                self.wait(None, &format!("no layer let it through to the handler within {time}")).await
            }
            AttemptResult::Failed(Failure::Retry { error, after }) if !begun => {
                self.wait(after, &format!("a layer did not let it through to the handler: {error:#}")).await
            }
            AttemptResult::TimedOut => {
                let limit = humantime::format_duration(self.route.config.timeout);
                let reason = format!("no answer within {limit}");
                self.retry(Reason::Timeout, &reason, None, Ending::Timeout).await
            }
            AttemptResult::NotBegun => {
                tracing::warn!(request.id = %self.request.id, trace.id = %self.trace, "the handlers' runtime did not begin a request: handing it on");
                self.hand_on().await
            }
            AttemptResult::Panicked(message) => {
                self.retry(Reason::Panic, &format!("panic: {message}"), None, Ending::Panic).await
            }
            AttemptResult::Failed(Failure::Retry { error, after }) => {
                self.retry(Reason::Attempts, &format!("{error:#}"), after, Ending::Retry).await
            }
            AttemptResult::Failed(Failure::Snooze { delay }) => self.snooze(delay, None).await,
            AttemptResult::Failed(Failure::Dead { reason }) => self.bury(Reason::Rejected, &reason).await,
            AttemptResult::Failed(Failure::Reject { code, message, data }) => {
                let message = header::text(&message);
                self.conclude(Outcome::Error { code, message, data }, Ending::Reject).await
            }
        }
    }

    /// Stores follow-ups and publications, then the answer. They come first because they are not stored with the answer: after a
    /// crash in between only another attempt can repeat them, and a stored answer would prevent that attempt.
    async fn commit(&self, answer: Answer, made: &Made) -> Ending {
        match made.store_all(answer.publications, &answer.follow_ups).await {
            Ok(()) => {
                self.engine.faults.reach(Point::AfterPublications, self.route.name(), &self.delivery).await;
                self.conclude(Outcome::Ok(answer.body), Ending::Ok).await
            }
            // A channel or a route that does not exist, or a message that the broker never takes: so it would be on every attempt.
            Err(NotStored::Never(reason)) => self.bury(Reason::Unstorable, &reason).await,
            // It does not wait here, where it holds its place: the full stream may be that of its own route.
            Err(NotStored::Full { reason, after }) => self.wait(Some(after), &reason).await,
        }
    }

    /// Ends an attempt whose caller is gone. Nobody is answered; but what a handler that has succeeded has made beside its answer
    /// is for others, and is stored.
    async fn end_unheard(&self, result: Option<AttemptResult>, made: &Made) -> Ending {
        let Some(AttemptResult::Answered(answer)) = result else {
            return self.acknowledge(Ending::Cancelled).await;
        };
        let stored = async {
            let mut rest = made.prepare_all(answer.publications, &answer.follow_ups)?;
            loop {
                match made.store_rest(&mut rest).await {
                    // Another delivery would find the caller gone before it runs the handler: it waits here, without its place.
                    Err(NotStored::Full { after, .. }) => {
                        self.permit.give_back(&self.engine.room, self.request.body.len() + rest.bytes());
                        tokio::time::sleep(after).await;
                    }
                    ended => return ended,
                }
            }
        };
        match stored.await {
            Ok(()) => self.acknowledge(Ending::Cancelled).await,
            Err(NotStored::Never(reason) | NotStored::Full { reason, .. }) => {
                self.bury_unheard(Reason::Unstorable, &reason).await
            }
        }
    }
}
