//! The thread that the supervising tasks of a stack run on.
//!
//! A thread of its own, so that children are restarted and reaped even while the program's runtime is blocked, and so that
//! dropping a stack can wait until the last child has ended.

use std::thread::{self, JoinHandle};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::runtime::{self, Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    handle: Handle,
    tasks: TaskTracker,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Supervisor {
    /// Starts the thread.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let tasks = TaskTracker::new();
        let end = CancellationToken::new();
        let (inner_tasks, inner_end) = (tasks.clone(), end.clone());
        let run = move || {
            runtime.block_on(async {
                inner_end.cancelled().await;
                inner_tasks.close();
                inner_tasks.wait().await;
            });
        };
        let thread =
            thread::Builder::new().name("stack".to_owned()).spawn(run).context("starting a thread")?;
        Ok(Self { handle, tasks, end, thread: Mutex::new(Some(thread)) })
    }

    /// Runs a task that has to end when the token is cancelled.
    pub(crate) fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn_on(task(self.end.clone()), &self.handle);
    }

    /// Cancels every task, which kills the running processes, and waits for the thread.
    pub(crate) fn stop(&self) {
        self.end.cancel();
        let thread = self.thread.lock().take();
        // A panic of the thread has been printed, and its children were killed with its tasks.
        let _ = thread.map(JoinHandle::join);
    }
}
