//! Plain requests that wait for their answers. Keyed requests wait on a NATS subscription of their own.
//!
//! A worker hands an answer over as a NATS request and waits for the gateway's word. The word is said when it is certain: when
//! the caller has taken the answer, or has gone without it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_nats::Subject;
use parking_lot::Mutex;
use tidegate_shared::{confirmation::Confirmation, envelope::Answer, id::RequestId};
use tokio::sync::{mpsc, oneshot};

use super::words::Words;

/// The fewest requests that are remembered as answered; at most twice as many. Copies of their answers come within a second or
/// two.
const REMEMBERED: usize = 16 * 1024;
/// The most words that wait to be sent. A worker that misses one asks again.
const MOST_WORDS: usize = 4096;

/// The waiting callers, by request id.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    state: Arc<Mutex<State>>,
    words: mpsc::Sender<Word>,
}

#[derive(Debug, Default)]
struct State {
    callers: HashMap<RequestId, Caller>,
    answered: Answered,
}

/// One caller. Its answer was handed to it if there is no sender any more.
#[derive(Debug)]
struct Caller {
    sender: Option<oneshot::Sender<Answer>>,
    /// Where the worker that brought the answer last waits for the gateway's word.
    reply: Option<Reply>,
}

/// The requests that were answered last: the older half is forgotten when the newer one is full.
#[derive(Debug, Default)]
struct Answered {
    newer: HashSet<RequestId>,
    older: HashSet<RequestId>,
}

/// Where a worker waits for the gateway's word on an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Alone(Subject),
    /// Among those on the answers that came with it; which of them it is.
    Together(Arc<Words>, usize),
}

/// The gateway's word to a worker, and the subject it is sent on.
pub(crate) type Word = (Subject, Confirmation);

/// The slot for one caller's answer. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AnswerSlot {
    waiting: Waiting,
    id: RequestId,
    answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Word>) {
        let (words, to_send) = mpsc::channel(MOST_WORDS);
        (Self { state: Arc::default(), words }, to_send)
    }

    /// Adds a slot. Called before the request is sent, so that no answer can come too early.
    pub(crate) fn wait_for(&self, id: RequestId) -> AnswerSlot {
        let (sender, answer) = oneshot::channel();
        let caller = Caller { sender: Some(sender), reply: None };
        self.state.lock().callers.insert(id.clone(), caller);
        AnswerSlot { waiting: self.clone(), id, answer }
    }

    /// A worker brings an answer, and waits for the gateway's word on `reply`, if it says where.
    pub(crate) fn arrived(&self, answer: Answer, reply: Option<Reply>) {
        let mut state = self.state.lock();
        let State { callers, answered } = &mut *state;
        let word = match callers.get_mut(&answer.re) {
            Some(caller) => {
                caller.reply = reply.or(caller.reply.take());
                // A second copy finds no sender: the caller may still be about to take the first one.
                if let Some(sender) = caller.sender.take() {
                    let _ = sender.send(answer);
                }
                return;
            }
            None if answered.contains(&answer.re) => Confirmation::Known,
            None => Confirmation::Late,
        };
        drop(state);
        self.say(reply, word);
    }

    /// Notes that a request was answered from the store.
    pub(crate) fn answered_from_store(&self, id: &RequestId) {
        self.state.lock().answered.insert(id.clone());
    }

    fn say(&self, reply: Option<Reply>, word: Confirmation) {
        let said = match reply {
            None => Ok(()),
            Some(Reply::Together(words, which)) => {
                words.say(which, word);
                Ok(())
            }
            Some(Reply::Alone(reply)) => self.words.try_send((reply, word)),
        };
        if said.is_err() {
            tracing::debug!(?word, "too many confirmations wait to be sent: the worker will ask again");
        }
    }

    /// The caller is done: it has taken the answer, or does not wait any more.
    fn done(&self, id: &RequestId, taken: bool) {
        let mut state = self.state.lock();
        let caller = state.callers.remove(id);
        let word = if taken {
            state.answered.insert(id.clone());
            Confirmation::Taken
        } else if state.answered.contains(id) {
            Confirmation::Known
        } else {
            Confirmation::Late
        };
        drop(state);
        self.say(caller.and_then(|caller| caller.reply), word);
    }
}

impl Answered {
    fn contains(&self, id: &RequestId) -> bool {
        self.newer.contains(id) || self.older.contains(id)
    }

    fn insert(&mut self, id: RequestId) {
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id);
    }
}

impl AnswerSlot {
    /// Waits for the answer. Never completes without one, so the caller needs a deadline.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => {
                self.waiting.done(&self.id, true);
                answer
            }
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for AnswerSlot {
    /// An answer that was handed to the caller and that it did not take is late, and not lost: its worker is told.
    fn drop(&mut self) {
        self.waiting.done(&self.id, false);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::{envelope::Outcome, id::GatewayId};

    use super::*;

    fn answer(id: &RequestId) -> Answer {
        let outcome = Outcome::Ok("1".into());
        Answer {
            re: id.clone(),
            user: None,
            digest: None,
            attempt: 0,
            worker: String::new(),
            letter: None,
            redriven: None,
            trace: None,
            outcome,
        }
    }

    fn plain() -> RequestId {
        RequestId::plain(&GatewayId::random())
    }

    fn word(words: &mut mpsc::Receiver<Word>) -> Option<(String, Confirmation)> {
        words.try_recv().ok().map(|(reply, word)| (reply.to_string(), word))
    }

    fn alone(reply: &'static str) -> Reply {
        Reply::Alone(reply.into())
    }

    fn said(reply: &str, word: Confirmation) -> (String, Confirmation) {
        (reply.to_owned(), word)
    }

    #[tokio::test]
    async fn an_answer_is_confirmed_when_its_caller_has_it_and_a_copy_is_known() {
        let (waiting, mut words) = Waiting::new();
        let id = plain();
        let mut slot = waiting.wait_for(id.clone());
        waiting.arrived(answer(&id), Some(alone("first")));
        assert_eq!(word(&mut words), None, "the caller has not taken it yet");
        assert_eq!(slot.answer().await, answer(&id));
        assert_eq!(word(&mut words), Some(said("first", Confirmation::Taken)));
        drop(slot);
        waiting.arrived(answer(&id), Some(alone("copy")));
        assert_eq!(word(&mut words), Some(said("copy", Confirmation::Known)));
        assert_eq!(word(&mut words), None);
    }

    #[tokio::test]
    async fn the_worker_that_asked_last_hears_the_word_on_an_answer_that_was_not_taken_at_once() {
        let (waiting, mut words) = Waiting::new();
        let id = plain();
        let mut slot = waiting.wait_for(id.clone());
        waiting.arrived(answer(&id), Some(alone("first")));
        waiting.arrived(answer(&id), Some(alone("second")));
        assert_eq!(word(&mut words), None);
        slot.answer().await;
        assert_eq!(word(&mut words), Some(said("second", Confirmation::Taken)));
    }

    #[test]
    fn an_answer_for_a_caller_that_went_away_is_late() {
        let (waiting, mut words) = Waiting::new();
        let id = plain();
        let slot = waiting.wait_for(id.clone());
        waiting.arrived(answer(&id), Some(alone("before")));
        drop(slot);
        assert_eq!(word(&mut words), Some(said("before", Confirmation::Late)));
        waiting.arrived(answer(&id), Some(alone("after")));
        assert_eq!(word(&mut words), Some(said("after", Confirmation::Late)));
        assert!(waiting.state.lock().callers.is_empty());
    }

    #[test]
    fn an_answer_that_was_found_in_the_store_is_known() {
        let (waiting, mut words) = Waiting::new();
        let id = plain();
        let slot = waiting.wait_for(id.clone());
        waiting.arrived(answer(&id), Some(alone("handed")));
        waiting.answered_from_store(&id);
        drop(slot);
        assert_eq!(word(&mut words), Some(said("handed", Confirmation::Known)));
        waiting.arrived(answer(&id), Some(alone("after")));
        assert_eq!(word(&mut words), Some(said("after", Confirmation::Known)));
    }

    #[test]
    fn only_the_newest_answered_requests_are_remembered() {
        let mut answered = Answered::default();
        let id = plain();
        answered.insert(id.clone());
        for _ in 1..REMEMBERED {
            answered.insert(plain());
        }
        answered.insert(plain());
        assert!(answered.contains(&id), "at least so many");
        for _ in 1..=REMEMBERED {
            answered.insert(plain());
        }
        assert!(!answered.contains(&id) && answered.newer.len() + answered.older.len() <= 2 * REMEMBERED);
    }

    #[tokio::test]
    async fn the_words_on_answers_that_came_together_go_together() {
        let (waiting, mut alone) = Waiting::new();
        let (slow, gone) = (plain(), plain());
        let mut slot = waiting.wait_for(slow.clone());
        let words = Arc::new(Words::new(3));
        waiting.arrived(answer(&slow), Some(Reply::Together(Arc::clone(&words), 0)));
        waiting.arrived(answer(&gone), Some(Reply::Together(Arc::clone(&words), 2)));
        assert_eq!(words.so_far(), [None, None, Some(Confirmation::Late)]);
        slot.answer().await;
        assert_eq!(words.so_far(), [Some(Confirmation::Taken), None, Some(Confirmation::Late)]);
        words.say(1, Confirmation::Known);
        words.all().await;
        assert_eq!(word(&mut alone), None);
    }
}
