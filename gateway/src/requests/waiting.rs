//! Plain requests that wait for their answers. Keyed requests wait on a NATS subscription of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tidegate_shared::{envelope::Answer, id::RequestId};
use tokio::sync::{mpsc, oneshot};

/// The most requests that are remembered as answered from the store. Their live copies are a moment away at most.
const MOST_ANSWERED: usize = 1024;

/// The most late answers that wait to be stored in personal channels.
const MOST_LATE: usize = 1024;

/// The waiting callers, by request id.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    callers: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Answer>>>>,
    late: mpsc::Sender<Answer>,
    /// Requests that were answered from the store: a live copy of their answers that comes afterwards is no late answer.
    answered: Arc<Mutex<VecDeque<RequestId>>>,
}

/// Answers that came when their caller had just stopped waiting. At most `MOST_LATE` wait to be stored.
pub(crate) type LateAnswers = mpsc::Receiver<Answer>;

/// The slot for one caller's answer. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AnswerSlot {
    waiting: Waiting,
    id: RequestId,
    answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    pub(crate) fn new() -> (Self, LateAnswers) {
        let (late, answers) = mpsc::channel(MOST_LATE);
        (Self { callers: Arc::default(), late, answered: Arc::default() }, answers)
    }

    /// Adds a slot. Called before the request is sent, so that no answer can come too early.
    pub(crate) fn wait_for(&self, id: RequestId) -> AnswerSlot {
        let (sender, answer) = oneshot::channel();
        self.callers.lock().insert(id.clone(), sender);
        AnswerSlot { waiting: self.clone(), id, answer }
    }

    /// Hands an answer to its waiting caller. Returns the answer if there is none.
    pub(crate) fn settle(&self, answer: Answer) -> Result<(), Box<Answer>> {
        match self.callers.lock().remove(&answer.re) {
            Some(caller) => caller.send(answer).map_err(Box::new),
            None if self.answered.lock().contains(&answer.re) => Ok(()),
            None => Err(Box::new(answer)),
        }
    }

    /// Notes that a request was answered from the store.
    pub(crate) fn answered_from_store(&self, id: &RequestId) {
        let mut answered = self.answered.lock();
        if answered.len() >= MOST_ANSWERED {
            answered.pop_front();
        }
        answered.push_back(id.clone());
    }
}

impl AnswerSlot {
    /// Waits for the answer. Never completes without one, so the caller needs a deadline.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for AnswerSlot {
    fn drop(&mut self) {
        self.waiting.callers.lock().remove(&self.id);
        // The answer may have come after the caller stopped waiting: it is late, and not lost.
        if let Ok(answer) = self.answer.try_recv()
            && self.waiting.late.try_send(answer).is_err()
        {
            tracing::warn!(request.id = %self.id, "too many late answers at once: this one was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::{envelope::Outcome, id::GatewayId};

    use super::*;

    fn answer(id: &RequestId) -> Answer {
        let outcome = Outcome::Ok("1".into());
        Answer { re: id.clone(), user: None, digest: None, attempt: 0, worker: String::new(), outcome }
    }

    #[tokio::test]
    async fn an_answer_finds_its_caller_once_and_a_late_one_comes_back() {
        let (waiting, _late) = Waiting::new();
        let id = RequestId::plain(&GatewayId::random());
        let mut slot = waiting.wait_for(id.clone());
        assert_eq!(waiting.settle(answer(&id)), Ok(()));
        assert_eq!(slot.answer().await, answer(&id));
        assert!(waiting.settle(answer(&id)).is_err());
    }

    #[test]
    fn an_answer_that_its_caller_did_not_take_comes_back_as_a_late_one() {
        let (waiting, mut late) = Waiting::new();
        let id = RequestId::plain(&GatewayId::random());
        let slot = waiting.wait_for(id.clone());
        assert_eq!(waiting.settle(answer(&id)), Ok(()));
        assert!(late.try_recv().is_err());
        drop(slot);
        assert_eq!(late.try_recv(), Ok(answer(&id)));
    }

    #[test]
    fn a_live_copy_behind_an_answer_from_the_store_is_not_late() {
        let (waiting, _late) = Waiting::new();
        let id = RequestId::plain(&GatewayId::random());
        waiting.answered_from_store(&id);
        assert_eq!(waiting.settle(answer(&id)), Ok(()));
        for _ in 0..MOST_ANSWERED {
            waiting.answered_from_store(&RequestId::plain(&GatewayId::random()));
        }
        assert!(waiting.settle(answer(&id)).is_err(), "only the newest are remembered");
    }

    #[tokio::test]
    async fn an_answer_that_its_caller_took_is_not_late() {
        let (waiting, mut late) = Waiting::new();
        let id = RequestId::plain(&GatewayId::random());
        let mut slot = waiting.wait_for(id.clone());
        assert_eq!(waiting.settle(answer(&id)), Ok(()));
        slot.answer().await;
        drop(slot);
        assert!(late.try_recv().is_err());
    }

    #[test]
    fn a_caller_that_times_out_frees_its_slot() {
        let (waiting, _late) = Waiting::new();
        let id = RequestId::plain(&GatewayId::random());
        drop(waiting.wait_for(id.clone()));
        assert!(waiting.callers.lock().is_empty());
        assert!(waiting.settle(answer(&id)).is_err());
    }
}
