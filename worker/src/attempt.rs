//! One run of a handler: bounded in time, and nothing it does ends more than itself.

use std::{any::Any, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tower::ServiceExt;

use crate::{answer::Answer, failure::Failure, handler::BoxedHandler, job::Job};

/// How a run ended.
#[derive(Debug)]
pub(crate) enum AttemptResult {
    Answered(Answer),
    Failed(Failure),
    TimedOut,
    /// With this message.
    Panicked(String),
}

/// Runs a handler. Its task is ended when the time is over, and when this future is dropped.
pub(crate) async fn run(handler: BoxedHandler, job: Job, limit: Duration) -> AttemptResult {
    // A task of its own: a handler that blocks must not keep its request's signs of life from being sent.
    let mut task = JoinSet::new();
    task.spawn(handler.oneshot(job));
    match timeout(limit, task.join_next()).await {
        Ok(Some(Ok(Ok(answer)))) => AttemptResult::Answered(answer),
        Ok(Some(Ok(Err(failure)))) => AttemptResult::Failed(failure),
        Ok(Some(Err(error))) => match error.try_into_panic() {
            Ok(panic) => AttemptResult::Panicked(panic_message(&*panic)),
            Err(error) => AttemptResult::Panicked(error.to_string()),
        },
        Ok(None) => AttemptResult::Panicked("the task is gone".to_owned()),
        Err(_) => AttemptResult::TimedOut,
    }
}

/// Returns the message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handler::on, job::tests::job};

    async fn ended<M: 'static>(handler: impl crate::Handler<M, ()>) -> AttemptResult {
        run(on(handler).with_state(()), job(None, b"1"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_panic_is_caught_with_its_message() {
        async fn handler() {
            panic!("no {}", "luck");
        }
        assert!(matches!(ended(handler).await, AttemptResult::Panicked(text) if text == "no luck"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_takes_too_long_is_ended() {
        async fn handler() {
            std::future::pending::<()>().await;
        }
        assert!(matches!(ended(handler).await, AttemptResult::TimedOut));
    }
}
