//! The engine has a runtime of its own, with one thread that no handler can block: it pulls requests, keeps them alive and
//! settles them. Handlers run on the runtime that the worker was connected on.
//!
//! Also notices when the handlers' runtime is blocked.

use std::{convert::Infallible, io, panic::resume_unwind, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use crate::metrics::Metrics;

/// How often the handlers' runtime is checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// A runtime that does not begin a task for this long is blocked.
const PATIENCE: Duration = Duration::from_secs(1);

/// The engine's runtime. Its tasks end when it is dropped.
///
/// A task that sends to the broker wakes the task that writes to the socket. On a runtime of one thread that one comes after all
/// others that are ready, and writes what they have sent with one call; on a thread pool it would come next.
#[derive(Debug)]
pub(crate) struct EngineRuntime {
    handle: Handle,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<Infallible>,
}

impl EngineRuntime {
    /// Starts the engine's thread. It logs where the calling thread logs.
    pub(crate) fn start() -> io::Result<Self> {
        let dispatch = dispatcher::get_default(Dispatch::clone);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        thread::Builder::new().name("tidegate-engine".to_owned()).spawn(move || {
            let _log = (!dispatch.is::<NoSubscriber>()).then(|| dispatcher::set_default(&dispatch));
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _running: running })
    }

    /// Runs a future on the engine's thread. The future ends when the call is dropped.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.begin(work).end().await
    }

    /// Begins a future on the engine's thread.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Begun<T> {
        let mut task = JoinSet::new();
        task.spawn_on(work, &self.handle);
        Begun(task)
    }
}

/// A future that runs on the engine's thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Begun<T>(JoinSet<T>);

impl<T: 'static> Begun<T> {
    /// Waits for its end, which comes once.
    pub(crate) async fn end(&mut self) -> T {
        match self.0.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Only a runtime that ends cancels a task, and whoever waits here holds it.
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// Checks for ever how soon the handlers' runtime begins a task.
pub(crate) async fn watch(handlers: &Handle, metrics: &Metrics) -> Infallible {
    loop {
        let delay = begin(handlers, metrics).await;
        metrics.handlers_began(delay);
        if delay >= PATIENCE {
            tracing::info!(?delay, "the handlers' runtime is no longer blocked");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns how long the handlers' runtime took to begin a task. Says so meanwhile when it takes long.
async fn begin(handlers: &Handle, metrics: &Metrics) -> Duration {
    let asked = Instant::now();
    let mut beat = JoinSet::new();
    beat.spawn_on(async {}, handlers);
    let mut warned = false;
    while timeout(PATIENCE, beat.join_next()).await.is_err() {
        metrics.handlers_began(asked.elapsed());
        if !warned {
            tracing::warn!(
                "the handlers' runtime has begun no task for {PATIENCE:?}: handlers block all of its threads. Requests are kept, \
                 but no further one begins. Move blocking work to `tokio::task::spawn_blocking`, or lower the routes' `concurrency`"
            );
            warned = true;
        }
    }
    asked.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_engines_thread_is_not_the_callers() {
        let engine = EngineRuntime::start().unwrap();
        let name = engine.run(async { thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.as_deref(), Some("tidegate-engine"));
    }

    #[tokio::test]
    async fn a_panic_on_the_engines_thread_reaches_the_caller() {
        let mut caller = JoinSet::new();
        caller.spawn(async { EngineRuntime::start().unwrap().run(async { panic!("on purpose") }).await });
        assert!(caller.join_next().await.unwrap().unwrap_err().is_panic());
    }
}
