//! One attempt at a request: runs its handler with a time limit and catches its panics.

use std::{any::Any, fmt::Write as _, time::Duration};

use tidegate_shared::header;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet, time::timeout};
use tower::ServiceExt;

use crate::{answer::Answer, failure::Failure, handler::BoxedHandler, job::Job};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum AttemptResult {
    Answered(Answer),
    Failed(Failure),
    TimedOut,
    /// The handlers' runtime did not begin the attempt in time.
    NotBegun,
    /// The handler panicked with this message.
    Panicked(String),
}

/// Runs a handler on its runtime for at most `limit`. Its task is aborted after that, and when this future is dropped. The
/// runtime has as long to begin it: a worker whose handlers block every thread must not keep a request for ever.
pub(crate) async fn run(
    handlers: &Handle,
    handler: BoxedHandler,
    job: Job,
    limit: Duration,
) -> AttemptResult {
    let (begins, begun) = oneshot::channel();
    let attempt = async move {
        let _ = begins.send(());
        handler.oneshot(job).await.map_err(in_words)
    };
    let mut task = JoinSet::new();
    task.spawn_on(attempt, handlers);
    if timeout(limit, begun).await.is_err() {
        return AttemptResult::NotBegun;
    }
    match timeout(limit, task.join_next()).await {
        Ok(Some(Ok(Ok(answer)))) => AttemptResult::Answered(answer),
        Ok(Some(Ok(Err(failure)))) => AttemptResult::Failed(failure),
        Ok(Some(Err(error))) => match error.try_into_panic() {
            Ok(panic) => {
                let message = panic_message(&*panic);
                forget_unknown(panic);
                AttemptResult::Panicked(message)
            }
            Err(error) => AttemptResult::Panicked(error.to_string()),
        },
        Ok(None) => AttemptResult::Panicked("the handler's task is gone".to_owned()),
        Err(_) => AttemptResult::TimedOut,
    }
}

/// Puts a handler's error into words where the handler runs: printing and dropping it is the application's code too, which may
/// panic or block, and must not do so on the engine's thread.
fn in_words(failure: Failure) -> Failure {
    let Failure::Retry { why, after } = failure else { return failure };
    let mut text = String::new();
    if write!(text, "{why:#}").is_err() {
        text.push_str(" [printing the error failed here]");
    }
    drop(why);
    Failure::Retry { why: anyhow::Error::msg(header::text(&text)), after }
}

/// Drops the payload of a panic, unless its type is the application's: dropping that could panic again.
fn forget_unknown(panic: Box<dyn Any + Send>) {
    if !panic.is::<&str>() && !panic.is::<String>() {
        Box::leak(panic);
    }
}

/// Returns the message of a panic on one line, cut to what fits in a header.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "without a message".to_owned(), header::text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handler::on, job::tests::job};

    async fn ended<M: 'static>(handler: impl crate::Handler<M, ()>) -> AttemptResult {
        run(&Handle::current(), on(handler).with_state(()), job(None, b"1"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_panic_is_caught_with_its_message() {
        async fn handler() {
            panic!("no {}", "luck");
        }
        assert!(matches!(ended(handler).await, AttemptResult::Panicked(text) if text == "no luck"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_takes_too_long_is_ended() {
        async fn handler() {
            std::future::pending::<()>().await;
        }
        assert!(matches!(ended(handler).await, AttemptResult::TimedOut));
    }
}
