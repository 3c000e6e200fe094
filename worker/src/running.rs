//! The requests that this worker runs: gateways ask about one of them, and cancel it.
//!
//! Kept in memory alone. Nothing is stored when a request begins: a gateway that asks gets the answer of the worker that runs it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_shared::{
    id::{ClientId, RequestId},
    job::RunningJob,
};
use tokio_util::sync::CancellationToken;

use crate::progress::Newest;

/// How long the handler of a cancelled request may go on. After that its task is dropped.
const GRACE: Duration = Duration::from_secs(2);

/// The requests that a worker runs, by id.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<HashMap<RequestId, Entry>>);

#[derive(Debug)]
struct Entry {
    attempt: u32,
    since: u64,
    cancel: CancellationToken,
    /// The connection whose end cancels it.
    caller: Option<ClientId>,
    gone: Arc<AtomicBool>,
    progress: Newest,
}

/// A request's place among those that run. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    running: Arc<Running>,
    id: RequestId,
    cancel: CancellationToken,
    gone: Arc<AtomicBool>,
}

impl Running {
    /// Takes a request in. It should be in before its stored answer is looked for: whoever cancels it stores the answer first.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &RequestId,
        attempt: u32,
        since: Duration,
        caller: Option<ClientId>,
        progress: Newest,
    ) -> RunningRequest {
        let (cancel, gone) = (CancellationToken::new(), Arc::default());
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let entry =
            Entry { attempt, since, cancel: cancel.clone(), caller, gone: Arc::clone(&gone), progress };
        // A second copy of a request may run beside the first one for a moment. The newer one is told of.
        self.lock().insert(id.clone(), entry);
        RunningRequest { running: Arc::clone(self), id: id.clone(), cancel, gone }
    }

    /// What is told of a request. `now` is the broker's time of day.
    pub(crate) fn find(&self, id: &RequestId, worker: &str, now: Duration) -> Option<RunningJob> {
        let running = self.lock();
        let entry = running.get(id)?;
        let (attempt, since, progress) = (entry.attempt, entry.since, entry.progress.get(now));
        Some(RunningJob { attempt, since, worker: worker.to_owned(), progress })
    }

    pub(crate) fn cancel(&self, id: &RequestId) {
        if let Some(entry) = self.lock().get(id) {
            entry.cancel.cancel();
        }
    }

    /// The connection of a client has ended: cancels the requests that end with it.
    pub(crate) fn gone(&self, client: &ClientId) {
        for entry in self.lock().values().filter(|entry| entry.caller.as_ref() == Some(client)) {
            entry.gone.store(true, Relaxed);
            entry.cancel.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningRequest {
    /// For the request's handler.
    pub(crate) fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Whether the request is cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Completes when the request is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether it is cancelled because its caller is gone: nobody waits for an answer.
    pub(crate) fn is_caller_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// Completes when the request is cancelled and its handler has had its time.
    pub(crate) async fn given_up(&self) {
        self.cancel.cancelled().await;
        tokio::time::sleep(GRACE).await;
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if running.get(&self.id).is_some_and(|entry| entry.cancel == self.cancel) {
            running.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_has_a_grace_and_a_dropped_one_is_not_found() {
        let running = Arc::new(Running::default());
        let id = RequestId::parse("gw.1").unwrap();
        let begin = |attempt, since| running.begin(&id, attempt, since, None, Newest::default());
        let find = || running.find(&id, "w", Duration::ZERO);
        let request = begin(3, Duration::from_millis(7));
        let told = RunningJob { attempt: 3, since: 7, worker: "w".to_owned(), progress: None };
        assert_eq!(find(), Some(told));
        assert!(!request.is_cancelled());
        running.cancel(&id);
        assert!(request.is_cancelled() && request.token().is_cancelled());
        let begun = tokio::time::Instant::now();
        request.given_up().await;
        assert_eq!(begun.elapsed(), GRACE);
        let newer = begin(4, Duration::ZERO);
        drop(request);
        assert_eq!(find().map(|job| job.attempt), Some(4), "the older one leaves the newer one");
        drop(newer);
        assert_eq!(find(), None);
    }

    #[test]
    fn the_end_of_a_connection_cancels_the_requests_that_end_with_it() {
        let running = Arc::new(Running::default());
        let client = |name| ClientId::parse(name).unwrap();
        let begin = |id, caller| {
            let id = RequestId::parse(id).unwrap();
            running.begin(&id, 0, Duration::ZERO, caller, Newest::default())
        };
        let (own, other, nobodys) =
            (begin("gw.1", Some(client("gw.a"))), begin("gw.2", Some(client("gw.b"))), begin("gw.3", None));
        running.gone(&client("gw.a"));
        assert!(own.is_caller_gone() && own.is_cancelled());
        assert!(!other.is_cancelled() && !nobodys.is_cancelled());
    }
}
