//! One attempt at a request: runs its handler with a time limit and catches its panics. Log lines of the handler carry the
//! request's id, the route and the attempt.

use std::{
    any::Any,
    fmt::Write as _,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tidegate_shared::header;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tower::ServiceExt;
use tracing::{Instrument, Span, field::display};

use crate::{answer::Answer, failure::Failure, job::Job, service::HandlerService};

/// The most ends that wait for the engine.
const QUEUE: usize = 1024;

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

/// How the engine's runtime is told that attempts have ended. Each that came by itself would wake the engine's thread with a call of
/// the system, and would be settled alone; those that end while the engine works come together, and so do the messages that settle
/// them.
#[derive(Debug)]
pub(crate) struct Ends {
    ended: mpsc::Sender<Ended>,
    _telling: JoinSet<()>,
}

/// Tells one attempt's future that its handler has ended.
type Ended = oneshot::Sender<()>;

/// What an attempt ended with, from the moment when its handler has returned: whoever waits may be told much later, when it is busy,
/// and must not take that for a handler that took too long.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Option<AttemptResult>>>);

impl Kept {
    fn set(&self, result: AttemptResult) {
        *self.lock() = Some(result);
    }

    fn take(&self) -> Option<AttemptResult> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<AttemptResult>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    /// For attempts whose ends are awaited on the runtime that calls this.
    pub(crate) fn start() -> Self {
        let (ended, mut ends) = mpsc::channel::<Ended>(QUEUE);
        let mut telling = JoinSet::new();
        telling.spawn(async move {
            let mut together = Vec::new();
            while ends.recv_many(&mut together, QUEUE).await > 0 {
                for ended in together.drain(..) {
                    // It may have been cut off.
                    let _ = ended.send(());
                }
            }
        });
        Self { ended, _telling: telling }
    }
}

/// Reports an end. Never waits: without room in the queue it goes by itself.
fn tell(ends: &mpsc::Sender<Ended>, ended: Ended) {
    if let Err(full) = ends.try_send(ended) {
        let _ = full.into_inner().send(());
    }
}

/// Runs a handler on its runtime for at most `limit`. Its task is aborted after that, and when this future is dropped. The
/// runtime has as long to begin it: a worker whose handlers block every thread must not keep a request for ever.
pub(crate) async fn run(
    (handlers, ends): (&Handle, &Ends),
    handler: HandlerService,
    job: Job,
    limit: Duration,
) -> AttemptResult {
    let (begins, span) = (Arc::new(OnceLock::new()), span(&job));
    let (asked, begun) = (Instant::now(), Arc::clone(&begins));
    let attempt = async move {
        let _ = begins.set(Instant::now());
        match handler.oneshot(job.within(limit)).await {
            Ok(Ok(answer)) => AttemptResult::Answered(answer),
            Ok(Err(failure)) => AttemptResult::Failed(in_words(failure)),
            Err(never) => match never {},
        }
    };
    let attempt = AssertUnwindSafe(attempt.instrument(span)).catch_unwind();
    let (told, mut hears) = oneshot::channel();
    let (ended, kept) = (ends.ended.clone(), Kept::default());
    let keeps = kept.clone();
    // Nobody waits for the task itself, which would wake the engine for it alone. It is aborted with the set.
    let mut task = JoinSet::new();
    task.spawn_on(
        async move {
            let result = attempt.await.unwrap_or_else(|panic| {
                let message = panic_message(&*panic);
                forget_unknown(panic);
                AttemptResult::Panicked(message)
            });
            keeps.set(result);
            tell(&ended, told);
        },
        handlers,
    );
    // It is looked at only when the time may be over: one task of one runtime that wakes another costs more than most handlers.
    let mut end = timeout_at(asked + limit, &mut hears).await;
    if end.is_err() {
        let Some(begun) = begun.get() else { return AttemptResult::NotBegun };
        end = timeout_at(*begun + limit, &mut hears).await;
    }
    kept.take().unwrap_or_else(|| match end {
        Ok(_) => AttemptResult::Panicked("the handler's task is gone".to_owned()),
        Err(_) => AttemptResult::TimedOut,
    })
}

/// What a handler's own log lines carry. Of the highest level, so that it is there whatever `log.level` lets through.
fn span(job: &Job) -> Span {
    let request = job.request();
    let trace = request.trace.as_ref().map(|trace| display(trace.id()));
    tracing::error_span!("request", request.id = %request.id, trace.id = trace, route = request.route, attempt = job.attempt())
}

/// Puts a handler's error into words where the handler runs: printing and dropping it is the application's code too, which may
/// panic or block, and must not do so on the engine's thread.
fn in_words(failure: Failure) -> Failure {
    let Failure::Retry { error, after } = failure else { return failure };
    let mut text = String::new();
    if write!(text, "{error:#}").is_err() {
        text.push_str(" [printing the error failed here]");
    }
    drop(error);
    Failure::Retry { error: anyhow::Error::msg(header::text(&text)), after }
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
        run(
            (&Handle::current(), &Ends::start()),
            on(handler).with_state(()),
            job.clone(),
            Duration::from_secs(5),
        )
        .await;
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
            let trace = job.request().trace.as_ref().unwrap().id();
            for part in [
                &format!("request.id={id}"),
                &format!("trace.id={trace}"),
                &format!("route={route:?}"),
                "attempt=2",
            ] {
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
        let trace = job.request().trace.as_ref().unwrap().id().to_string();
        let expected = serde_json::json!({
            "name": "request", "request.id": job.request().id.to_string(), "trace.id": trace, "route": job.request().route, "attempt": 2
        });
        assert_eq!(line["span"], expected);
    }

    async fn ended<M: 'static>(
        handler: impl crate::Handler<M, (), Output: crate::IntoAnswer>,
    ) -> AttemptResult {
        run(
            (&Handle::current(), &Ends::start()),
            on(handler).with_state(()),
            job(None, b"1"),
            Duration::from_secs(5),
        )
        .await
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

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_has_ended_in_time_counts_although_the_engine_hears_of_it_late() {
        async fn handler() {}
        let (late, limit) = (mpsc::channel(QUEUE), Duration::from_secs(5));
        // Nobody reads what it is told.
        let ends = Ends { ended: late.0, _telling: JoinSet::new() };
        let result =
            run((&Handle::current(), &ends), on(handler).with_state(()), job(None, b"1"), limit).await;
        assert!(matches!(result, AttemptResult::Answered(_)), "{result:?}");
        drop(late.1);
    }
}
