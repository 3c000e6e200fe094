//! Answers that wait because the result cache TIDE_REPLY is full: how many, since when, and what people are told about it.
//!
//! Nothing else knows of the stall: such an answer has gone to its live caller already, and its request keeps no permit.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::Semaphore, time::Instant};

use crate::metrics::Metrics;

/// How many waiting answers try again at a time: the stream that is full is not flooded with all of them.
const TRIES: usize = 4;
/// The pause between two tries of one answer.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the log says that answers wait.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// The answers of one worker that wait for room.
#[derive(Debug)]
pub(crate) struct Stall {
    metrics: Arc<Metrics>,
    tries: Semaphore,
    waiting: Mutex<Option<Waits>>,
}

#[derive(Debug)]
struct Waits {
    answers: usize,
    since: SystemTime,
    warned: Instant,
}

/// One answer that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stalled<'a>(&'a Stall);

impl Stall {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, tries: Semaphore::new(TRIES), waiting: Mutex::new(None) }
    }

    /// An answer begins to wait.
    pub(crate) fn begin(&self, now: SystemTime) -> Stalled<'_> {
        self.update(|waiting| {
            let first = Waits { answers: 0, since: now, warned: Instant::now() };
            let is_first = waiting.is_none();
            let waits = waiting.get_or_insert(first);
            waits.answers += 1;
            if is_first {
                tracing::warn!("{}", sentence(waits));
            }
        });
        Stalled(self)
    }

    /// What people should know. `None` when no answer waits.
    pub(crate) fn notice(&self) -> Option<String> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(sentence)
    }

    fn update(&self, change: impl FnOnce(&mut Option<Waits>)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        self.metrics.unstored(waiting.as_ref().map_or(0, |waits| waits.answers));
    }

    fn warn_sparsely(&self) {
        self.update(|waiting| {
            if let Some(waits) = waiting
                && waits.warned.elapsed() >= WARN_EVERY
            {
                waits.warned = Instant::now();
                tracing::warn!("{}", sentence(waits));
            }
        });
    }
}

impl Stalled<'_> {
    /// Runs `attempt` when it is this answer's turn. Pauses before it says that there was no room again.
    pub(crate) async fn try_again<T>(&self, attempt: impl Future<Output = Option<T>>) -> Option<T> {
        let _turn = self.0.tries.acquire().await;
        let stored = attempt.await;
        if stored.is_none() {
            self.0.warn_sparsely();
            tokio::time::sleep(PAUSE).await;
        }
        stored
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.update(|waiting| {
            if let Some(waits) = waiting {
                waits.answers -= 1;
                if waits.answers == 0 {
                    *waiting = None;
                    tracing::info!("the result cache TIDE_REPLY has room again: every answer is stored");
                }
            }
        });
    }
}

fn sentence(waits: &Waits) -> String {
    format!(
        "the result cache TIDE_REPLY is full since {}: {} answers of this worker wait to be stored; \
         raise streams.reply_max_bytes or lower streams.result_ttl",
        humantime::format_rfc3339_seconds(waits.since),
        waits.answers
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stall_is_told_while_an_answer_waits() {
        let stall = Stall::new(Arc::new(Metrics::new()));
        assert_eq!(stall.notice(), None);
        let first = stall.begin(SystemTime::UNIX_EPOCH);
        let second = stall.begin(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        let notice = stall.notice().unwrap();
        assert!(notice.contains("since 1970-01-01T00:00:00Z: 2 answers"), "{notice}");
        assert!(stall.metrics.render().unwrap().contains("tidegate_worker_unstored_answers 2"));
        assert_eq!(first.try_again(async { Some(1) }).await, Some(1));
        drop(first);
        drop(second);
        assert_eq!(stall.notice(), None);
    }
}
