//! Waiting until the server has handled what this process sent before: one question to the server for all who wait at the same
//! time.
//!
//! A question is a request on a subject that nobody serves. The server reads what a connection sends in order, so its answer
//! "nobody is there" comes behind everything sent before. While one question is under way, all who come gather for the next.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
};

use async_nats::{Client, RequestErrorKind, Statistics, Subject, connection::State};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use super::{Link, Refusal};

/// Gathers those who wait.
#[derive(Debug)]
pub(super) struct Barrier {
    client: Client,
    subject: Subject,
    link: watch::Receiver<Link>,
    /// Where questions are asked. Callers may be on a runtime that ends sooner.
    runtime: Handle,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The next question, if somebody waits for it.
    next: Option<Arc<Question>>,
    /// Whether a task asks for those who wait.
    asking: bool,
}

/// One question to the server. Everything that was sent before whoever waits for it began to wait is sent before it.
#[derive(Debug, Default)]
pub(super) struct Question {
    answered: OnceLock<bool>,
    news: Notify,
}

/// The question that is being asked. Those who wait for it are told no if this is dropped before.
struct Asked(Arc<Question>);

impl Question {
    /// Waits for the answer. Whether the server gave it, over the connection on which it was asked.
    pub(super) async fn answered(&self) -> bool {
        let mut news = pin!(self.news.notified());
        news.as_mut().enable();
        if self.answered.get().is_none() {
            news.await;
        }
        self.answered.get().copied().unwrap_or_default()
    }

    fn answer(&self, answered: bool) {
        // The first answer counts.
        let _ = self.answered.set(answered);
        self.news.notify_waiters();
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.answer(false);
    }
}

/// Which connection to the server this is, counted from 1.
pub(super) fn connection_number(link: &Statistics) -> u64 {
    link.connects.load(std::sync::atomic::Ordering::Acquire)
}

impl Barrier {
    pub(super) fn new(client: Client, subject: String, link: watch::Receiver<Link>) -> Arc<Self> {
        let runtime = Handle::current();
        Arc::new(Self { client, subject: subject.into(), link, runtime, queue: Mutex::default() })
    }

    /// The question that comes behind everything sent before this call.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<Question> {
        let mut queue = self.queue.lock();
        let question = Arc::clone(queue.next.get_or_insert_default());
        if !std::mem::replace(&mut queue.asking, true) {
            self.runtime.spawn(Arc::clone(self).ask_for_all());
        }
        question
    }

    async fn ask_for_all(self: Arc<Self>) {
        loop {
            // Tasks that are ready to send do so first, and share the question.
            tokio::task::yield_now().await;
            let next = {
                let mut queue = self.queue.lock();
                queue.asking = queue.next.is_some();
                queue.next.take()
            };
            let Some(asked) = next.map(Asked) else { return };
            asked.0.answer(self.ask().await);
        }
    }

    /// Whether the server answered over the connection on which it was asked.
    async fn ask(&self) -> bool {
        let connection = connection_number(&self.client.statistics());
        if self.client.connection_state() != State::Connected {
            return false;
        }
        let mut link = self.link.clone();
        // Without this a question that is lost with its connection would be waited for until its time is over.
        // What is known of the link may be a moment older than the connection.
        let lost =
            link.wait_for(|link| link.connects > connection || link.connects == connection && !link.up);
        let answer = tokio::select! {
            answer = self.client.request(self.subject.clone(), Bytes::new()) => answer,
            _ = lost => return false,
        };
        let answered = answer.map_or_else(|error| error.kind() == RequestErrorKind::NoResponders, |_| true);
        answered && connection_number(&self.client.statistics()) == connection
    }
}

/// The server did not answer.
pub(super) fn unanswered() -> Refusal {
    Refusal::Unavailable("the server has not confirmed what was sent".to_owned())
}
