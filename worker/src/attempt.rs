//! One attempt at a request: runs its handler with a time limit and catches its panics. Log lines of the handler carry the
//! request's id, the route and the attempt.

use std::{any::Any, fmt::Write as _, time::Duration};

use tidegate_shared::header;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet, time::timeout};
use tower::ServiceExt;
use tracing::{Instrument, Span};

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
    let span = span(&job);
    let attempt = async move {
        let _ = begins.send(());
        handler.oneshot(job).await.map_err(in_words)
    };
    let mut task = JoinSet::new();
    task.spawn_on(attempt.instrument(span), handlers);
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

/// What a handler's own log lines carry. Of the highest level, so that it is there whatever `log.level` lets through.
fn span(job: &Job) -> Span {
    let request = job.request();
    tracing::error_span!("request", request.id = %request.id, route = request.route, attempt = job.attempt())
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
    use std::{
        io::{Read, Seek},
        sync::{Arc, LazyLock},
    };

    use tidegate_shared::{
        config::{LogConfig, LogFormat},
        telemetry,
    };
    use tracing::{Dispatch, subscriber::NoSubscriber};

    use super::*;
    use crate::{handler::on, job::tests::job};

    /// What a program with this configuration logs while a handler that warns runs.
    async fn logged(level: &str, format: LogFormat) -> (Job, String) {
        async fn handler() {
            tokio::task::yield_now().await;
            tracing::warn!("the database is slow");
        }
        // With a single subscriber, tracing asks the thread that first meets a span whether anybody wants it: another test's.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&SECOND);
        let mut captured = tempfile::tempfile().unwrap();
        let writer = Arc::new(captured.try_clone().unwrap());
        let config = LogConfig { level: level.to_owned(), format };
        let subscriber = telemetry::subscriber(&config, writer).unwrap();
        let _guard = tracing::subscriber::set_default(subscriber);
        let job = job(None, b"1");
        run(&Handle::current(), on(handler).with_state(()), job.clone(), Duration::from_secs(5)).await;
        tracing::warn!("afterwards");
        let mut text = String::new();
        captured.rewind().unwrap();
        captured.read_to_string(&mut text).unwrap();
        (job, text)
    }

    #[tokio::test]
    async fn a_handlers_own_log_lines_carry_request_route_and_attempt() {
        for level in ["info", "warn"] {
            let (job, text) = logged(level, LogFormat::Text).await;
            let mut lines = text.lines();
            let line = lines.next().unwrap();
            let (id, route) = (&job.request().id, &job.request().route);
            for part in [&format!("request.id={id}"), &format!("route={route:?}"), "attempt=2"] {
                assert!(line.contains(part), "{level}: {part} is not in {line}");
            }
            assert!(line.contains("the database is slow"), "{line}");
            assert!(!lines.next().unwrap().contains("request.id"), "the span ends with the handler");
        }
    }

    #[tokio::test]
    async fn so_do_log_lines_in_json() {
        let (job, text) = logged("warn", LogFormat::Json).await;
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["message"], "the database is slow");
        let expected = serde_json::json!({
            "name": "request", "request.id": job.request().id.to_string(), "route": job.request().route, "attempt": 2
        });
        assert_eq!(line["span"], expected);
    }

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
