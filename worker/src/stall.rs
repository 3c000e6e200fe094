//! Answers that wait because the result cache TIDE_REPLY is full: how many, and when each is tried again.
//!
//! Such an answer has gone to its live caller already, and its request keeps no permit. That the stream is full shows as a fault
//! of the broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// How many waiting answers try again at a time: the stream that is full is not flooded with all of them.
const TRIES: usize = 4;
/// The pause between two tries of one answer.
const PAUSE: Duration = Duration::from_millis(250);

/// The answers of one worker that wait for room.
#[derive(Debug)]
pub(crate) struct Stall {
    metrics: Arc<Metrics>,
    tries: Semaphore,
    answers: AtomicUsize,
}

/// One answer that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stalled<'a>(&'a Stall);

impl Stall {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, tries: Semaphore::new(TRIES), answers: AtomicUsize::new(0) }
    }

    /// An answer begins to wait.
    pub(crate) fn begin(&self) -> Stalled<'_> {
        self.metrics.unstored(self.answers.fetch_add(1, Relaxed) + 1);
        Stalled(self)
    }
}

impl Stalled<'_> {
    /// Runs `attempt` when it is this answer's turn. Pauses before it says that there was no room again.
    pub(crate) async fn try_again<T>(&self, attempt: impl Future<Output = Option<T>>) -> Option<T> {
        let _turn = self.0.tries.acquire().await;
        let stored = attempt.await;
        if stored.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        stored
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.metrics.unstored(self.0.answers.fetch_sub(1, Relaxed) - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_that_wait_are_counted() {
        let stall = Stall::new(Arc::new(Metrics::new()));
        let first = stall.begin();
        let second = stall.begin();
        assert!(stall.metrics.render().unwrap().contains("tidegate_worker_unstored_answers 2"));
        assert_eq!(first.try_again(async { Some(1) }).await, Some(1));
        drop(first);
        drop(second);
        assert!(stall.metrics.render().unwrap().contains("tidegate_worker_unstored_answers 0"));
    }
}
