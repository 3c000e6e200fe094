//! Plain requests that wait for their answers. Keyed requests wait on a NATS subscription of their own.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tidegate_shared::{envelope::Answer, id::RequestId};
use tokio::sync::oneshot;

/// The waiting callers, by request id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    callers: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Answer>>>>,
}

/// The slot for one caller's answer. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AnswerSlot {
    waiting: Waiting,
    id: RequestId,
    answer: oneshot::Receiver<Answer>,
}

impl Waiting {
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
            None => Err(Box::new(answer)),
        }
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
        let waiting = Waiting::default();
        let id = RequestId::plain(&GatewayId::random());
        let mut slot = waiting.wait_for(id.clone());
        assert_eq!(waiting.settle(answer(&id)), Ok(()));
        assert_eq!(slot.answer().await, answer(&id));
        assert!(waiting.settle(answer(&id)).is_err());
    }

    #[test]
    fn a_caller_that_times_out_frees_its_slot() {
        let waiting = Waiting::default();
        let id = RequestId::plain(&GatewayId::random());
        drop(waiting.wait_for(id.clone()));
        assert!(waiting.callers.lock().is_empty());
        assert!(waiting.settle(answer(&id)).is_err());
    }
}
