//! Two-step shutdown: the first signal asks everything to finish, the second ends it now.
//!
//! Every long task is spawned through [`Lifecycle::spawn`], so that the end of the process can wait for it.

use std::{future::Future, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerWaitFuture},
};

/// The tokens of a process and the tasks that live under them.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    soft: CancellationToken,
    last: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    /// A process that nobody has asked to stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to listen for SIGTERM and SIGINT: the first drains, the second stops.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = self.clone();
        // Not tracked: it ends with the process, and waiting for it would be waiting for a signal.
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

    /// Asks everything to finish.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether the process has been asked to finish.
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Completes when the process is asked to finish.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// Completes when the work is done: the moment for tasks that serve others to end.
    pub async fn finishing(&self) {
        self.last.cancelled().await;
    }

    /// Completes when the process has to end now.
    pub async fn stopping(&self) {
        self.hard.cancelled().await;
    }

    /// Runs a task that the end of the process waits for, until it is done or everything has to end.
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

    /// Waits until every task is done; after `limit` ends those that are not. Returns whether all finished by themselves.
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
