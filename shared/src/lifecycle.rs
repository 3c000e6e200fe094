//! Two-step shutdown: the first signal drains the process, the second ends it now.
//!
//! Every long task is spawned through [`Lifecycle::spawn`], so that the end of the process can wait for it. Tasks that the
//! process cannot work without go through [`Lifecycle::spawn_essential`]: when one of them ends too early, the process drains.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerWaitFuture},
};

/// The tokens of a process and the tasks that run under them.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    soft: CancellationToken,
    last: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    failure: Arc<OnceLock<TaskEnded>>,
}

/// A task that the process cannot work without has ended too early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task `{task}` ended unexpectedly: {reason}")]
pub struct TaskEnded {
    /// The task's name.
    pub task: &'static str,
    /// The panic's message, or that the task returned.
    pub reason: String,
}

impl Lifecycle {
    /// A running process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts to listen for SIGTERM and SIGINT: the first signal drains the process, the second stops it.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = self.clone();
        // Not tracked: this task waits for signals until the process exits, so nothing may wait for it.
        let listener = TaskTracker::new();
        listener.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if this.soft.is_cancelled() {
                    tracing::warn!("second signal: stopping now");
                    this.hard.cancel();
                } else {
                    tracing::info!("signal received: draining");
                    this.drain();
                }
            }
        });
        Ok(())
    }

    /// Begins to drain: no new work, and the work under way finishes.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Completes when the process begins to drain.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// Whether tasks are asked to end: all work is done, or the process has to end now.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.last.is_cancelled() || self.hard.is_cancelled()
    }

    /// Completes when all work is done. Tasks that serve other tasks end at this moment.
    pub async fn finishing(&self) {
        self.last.cancelled().await;
    }

    /// Completes when the process must end now.
    pub async fn stopping(&self) {
        self.hard.cancelled().await;
    }

    /// Runs a task until it is done or the process stops. The end of the process waits for it.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let hard = self.hard.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = hard.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs a task that the process cannot work without. If it panics, or returns before the process drains, that is logged,
    /// the process drains, and [`Lifecycle::failure`] says why: the program then exits with code 1.
    pub fn spawn_essential<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let this = self.clone();
        self.spawn(async move {
            // Nothing of the task is used after a panic, so no broken state can be seen.
            let reason = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if this.is_draining() => return,
                Ok(()) => "it returned".to_owned(),
                Err(panic) => format!("it panicked: {}", panic_message(panic.as_ref())),
            };
            this.fail(TaskEnded { task: name, reason });
        });
    }

    /// Drains the process because a task that it cannot work without has ended. The first failure is kept.
    pub fn fail(&self, ended: TaskEnded) {
        tracing::error!(task = ended.task, reason = ended.reason, "a task ended unexpectedly: draining");
        let _ = self.failure.set(ended);
        self.drain();
    }

    /// The task whose unexpected end drained the process. `None` after a regular end.
    pub fn failure(&self) -> Option<&TaskEnded> {
        self.failure.get()
    }

    /// Waits until every task is done, and cuts off the rest after `limit`. Returns whether all finished by themselves.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.last.cancel();
        self.tasks.close();
        let finished = tokio::select! {
            () = self.all_done() => true,
            () = tokio::time::sleep(limit) => false,
            () = self.hard.cancelled() => false,
        };
        self.hard.cancel();
        self.all_done().await;
        finished
    }

    fn all_done(&self) -> TaskTrackerWaitFuture<'_> {
        self.tasks.wait()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long, because the waits end as soon as the awaited event happens.
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_panic_in_an_essential_task_drains_the_process_and_is_kept() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_essential("planted", async { panic!("on purpose") });
        tokio::time::timeout(DEADLINE, lifecycle.draining()).await.unwrap();
        let failure = lifecycle.failure().unwrap();
        assert_eq!((failure.task, failure.reason.as_str()), ("planted", "it panicked: on purpose"));
    }

    #[tokio::test]
    async fn an_essential_task_that_returns_too_early_drains_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_essential("planted", async {});
        tokio::time::timeout(DEADLINE, lifecycle.draining()).await.unwrap();
        assert_eq!(lifecycle.failure().unwrap().reason, "it returned");
    }

    #[tokio::test]
    async fn an_essential_task_may_end_once_the_process_drains() {
        let lifecycle = Lifecycle::new();
        let draining = lifecycle.clone();
        lifecycle.spawn_essential("regular", async move { draining.draining().await });
        lifecycle.drain();
        assert!(lifecycle.finish(DEADLINE).await);
        assert_eq!(lifecycle.failure(), None);
    }

    #[tokio::test]
    async fn a_panic_in_an_ordinary_task_drains_nothing() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(async { panic!("on purpose") });
        assert!(lifecycle.finish(DEADLINE).await);
        assert_eq!(lifecycle.failure(), None);
    }
}
